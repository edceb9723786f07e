"""Robustness to the ablation of units: curves over the share of units set to zero, and the effect of every one alone.

Casper et al.: Robustness and/or Redundancy Emerge in Overparametrized Deep Neural Networks (2019), section 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, near, one_of, shorten
from netopsy._random import derive
from netopsy.engine.evaluation import Estimand, Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer, UnitSpec
from netopsy.probes.ablation_result import ALL, METRICS, AblationMetric, AblationResult
from netopsy.probes.kinds import CRITERIA, constant, silent
from netopsy.probes.unit_statistics import unit_statistics
from netopsy.probes.units_off import Chosen, Question, ask, effects

FRACTIONS = tuple(i / 6 for i in range(7))
"""Of the code published with the paper: `linspace(0, 1, 7)`."""

ORDERS = ("random", "least-effect", "most-effect", "most-redundant", "least-active")

Order: TypeAlias = (
    Literal["random", "least-effect", "most-effect", "most-redundant", "least-active"] | Mapping[str, Sequence[int]]
)
"""Which units go first, at random, by what ablating each alone changes, by their activations, or as given by site."""


def ablation_curve(
    model: nn.Module,
    data: Any,
    *,
    sites: UnitSpec = None,
    fractions: Sequence[float] = FRACTIONS,
    orders: int = 3,
    order: Order = "random",
    metric: AblationMetric = "unchanged",
    stop: Stop = "exact",
    precision: float = 0.02,
    tolerance: float = 0.05,
    confidence: float = 0.99,
    seed: int = 0,
    engine: Engine = "auto",
    estimand: Estimand = "population",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> AblationResult:
    """Set more and more of a layer's units to zero and see how many predictions stay as they were.

    Every layer alone, then all at once (site `all`: the same share of each). The units at one fraction are the first
    of one order, and contain those at any smaller fraction: of n units, round(fraction * n). Nothing is rescaled.

    Args:
        model: a trained network; it is bit-identical afterwards.
        data: examples in any form that `netopsy.evaluate` takes.
        sites: layers of units: None for the outputs of all activation modules; names or globs of modules; or what
            `netopsy.network.units` gives. See `find_units`.
        fractions: ascending, from 0 to 1.
        orders: random orders of each layer's units; the same for the layer alone and for all at once.
        order: `"random"`; `"least-effect"` or `"most-effect"`: units whose ablation alone changes the fewest (most)
            predictions of these examples go first (`unit_effects` is run for that); `"most-redundant"`: silent and
            constant units (by `UnitCriteria()`) first, as they carry nothing, then those with the largest R² from the
            others; `"least-active"`: those above zero in the fewest samples first (both take one more pass over the
            data); or a permutation of each layer's units, by the layer's name. Units that are equal in this stay as
            they lie. All but `"random"` have one order.
        metric: what `areas`, `print` and `plot` speak of: predictions `"unchanged"` or `"accuracy"`; both are kept.
        stop: `"exact"`: every example; `"precision"`: until each paired change of accuracy is known to ± `precision`;
            `"verdict"`: until it is known whether more than `tolerance` is lost.
        precision: half-width asked for by `stop="precision"`.
        tolerance: of `stop="verdict"`.
        confidence: that the intervals of one column hold for all rows at once.
        seed: of the orders, and of the order of the examples.
        engine: `"auto"`, `"exported"` or `"eager"`.
        estimand: what the intervals speak of: the `"population"` the examples come from, or this `"dataset"`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the examples done and their total.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    at_least("orders", orders, 1)
    one_of("metric", metric, METRICS)
    shares = _read_fractions(fractions)
    if isinstance(order, str):
        one_of("order", order, ORDERS)
    stopping = Stopping(rule=stop, precision=precision, tolerance=tolerance, confidence=confidence, estimand=estimand)
    options = {"seed": seed, "engine": engine, "batch_size": batch_size, "progress": progress}
    question = ask(model, data, sites, task, stopping, options)
    if ALL in [layer.name for layer in question.layers]:
        raise NetopsyError(f"sites: {ALL!r} is the name of the row of all layers at once; rename that layer")
    ranked = _ranked(question, order, orders, seed)

    rows, wanted = [], []
    for site, layers in [*((layer.name, [layer]) for layer in question.layers), (ALL, list(question.layers))]:
        for number in range(len(ranked)):
            for share in shares:
                units = _prefixes(layers, ranked[number], share)
                rows.append((site, share, number, sum(len(part) for _, part in units)))
                wanted.append(units)
    chosen = [units for units in dict.fromkeys(wanted) if units]
    place = {units: i for i, units in enumerate(chosen)} | {frozenset(): len(chosen)}
    evaluation, measured = question.run(chosen)
    frame = pd.DataFrame(rows, columns=["site", "fraction", "order", "ablated"]).astype({"site": "string"})
    values = measured.iloc[[place[units] for units in wanted]].reset_index(drop=True)
    return AblationResult(
        frame=pd.concat([frame, values], axis=1),
        units={layer.name: layer.units for layer in question.layers},
        provenance={
            "probe": "ablation",
            "netopsy": __version__,
            **evaluation.provenance,
            "order": order if isinstance(order, str) else "given",
            "orders": len(ranked),
            "metric": metric,
            "fractions": list(shares),
            "variants": len(chosen),
            "seconds": time.perf_counter() - started,
        },
    )


def unit_effects(
    model: nn.Module,
    data: Any,
    *,
    sites: UnitSpec = None,
    stop: Stop = "exact",
    precision: float = 0.02,
    tolerance: float = 0.05,
    confidence: float = 0.99,
    seed: int = 0,
    engine: Engine = "auto",
    estimand: Estimand = "population",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> pd.DataFrame:
    """Set every unit of every layer to zero, one at a time; the arguments are those of `ablation_curve`.

    Returns:
        A row a unit: `site`, `unit`, `unchanged` (share of predictions that stay), `unchanged_low`, `unchanged_high`,
        `accuracy`, `accuracy_change` (negative: worse), `accuracy_change_low`, `accuracy_change_high`, `n`, `status`.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    stopping = Stopping(rule=stop, precision=precision, tolerance=tolerance, confidence=confidence, estimand=estimand)
    options = {"seed": seed, "engine": engine, "batch_size": batch_size, "progress": progress}
    return effects(ask(model, data, sites, task, stopping, options))


def _read_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in fractions)
    ascending = all(a < b for a, b in pairwise(shares))
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or not ascending:
        raise NetopsyError(f"fractions: expected ascending numbers from 0 to 1, both included; got {shorten(shares)}")
    return shares


def _ranked(question: Question, order: Order, orders: int, seed: int) -> list[dict[str, tuple[int, ...]]]:
    """For each order: layer -> its units, the first to go first."""
    layers = question.layers
    if isinstance(order, Mapping):
        return [_given(layers, order)]
    if order == "random":
        return [{layer.name: _permutation(layer, seed, number) for layer in layers} for number in range(orders)]
    if order in ("most-redundant", "least-active"):
        return [_by_activations(question, redundant=order == "most-redundant")]
    sign = -1 if order == "least-effect" else 1
    ranked = {}
    for name, part in effects(question).groupby("site", sort=False):
        values = sign * part.unchanged.to_numpy(), sign * part.accuracy_change.to_numpy()
        places = np.lexsort((values[1], values[0]))  # by predictions, then by accuracy, then as they lie
        ranked[str(name)] = tuple(int(unit) for unit in part.unit.to_numpy()[places])
    return [ranked]


def _by_activations(question: Question, *, redundant: bool) -> dict[str, tuple[int, ...]]:
    """Layer -> its units, by R² or by activity."""
    for layer in question.layers:
        if layer.size != 1:
            raise NetopsyError(
                f"order: the units of {layer.name!r} hold {layer.size} numbers each, which have no one activity and "
                "no R²; choose 'random', 'least-effect' or 'most-effect'"
            )
    question.check()
    ranked = {}
    for layer, found in zip(question.layers, unit_statistics(question), strict=True):
        key = found.frame.activity.to_numpy()
        if redundant:
            if found.status == "few samples":
                raise NetopsyError(
                    f"order='most-redundant': {layer.name!r} has {int(found.varies.sum())} units that vary, and not "
                    "more samples: no R²; pass more examples, or choose another order"
                )
            idle = silent(found.frame, CRITERIA) | constant(found.frame, CRITERIA)
            key = np.where(idle, -2.0, -np.nan_to_num(found.frame.r2.to_numpy()))
        ranked[layer.name] = tuple(np.argsort(key, kind="stable").tolist())
    return ranked


def _permutation(layer: UnitLayer, seed: int, number: int) -> tuple[int, ...]:
    source = np.random.default_rng(derive(seed, "ablation", layer.name, number))
    return tuple(source.permutation(layer.units).tolist())


def _given(layers: Sequence[UnitLayer], order: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    names = [layer.name for layer in layers]
    for name in order:
        if name not in names:
            raise NetopsyError(f"order: expected names of the layers; got {name!r}{near(str(name), names)}")
    ranked = {}
    for layer in layers:
        if layer.name not in order:
            raise NetopsyError(f"order: expected an order of the units of {layer.name!r}; choose sites= or add it")
        units = tuple(int(unit) for unit in order[layer.name])
        if sorted(units) != list(range(layer.units)):
            raise NetopsyError(
                f"order[{layer.name!r}]: expected each unit from 0 to {layer.units - 1} once; got {len(units)} "
                f"numbers: {shorten(units)}"
            )
        ranked[layer.name] = units
    return ranked


def _prefixes(layers: Iterable[UnitLayer], ranked: Mapping[str, Sequence[int]], share: float) -> Chosen:
    """The first units of each layer's order; no entry for a layer of which none goes."""
    counts = {layer.name: int(np.floor(share * layer.units + 0.5)) for layer in layers}
    return frozenset((name, frozenset(ranked[name][:count])) for name, count in counts.items() if count)
