"""What kind of unit each is: activity, redundancy, selectivity and effect of every unit of every layer.

Casper et al.: Robustness and/or Redundancy Emerge in Overparametrized Deep Neural Networks (2019), section 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from netopsy import __version__
from netopsy._checks import inside
from netopsy._typing import FloatArray
from netopsy.engine.evaluation import Estimand, Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.engine.reducers import MOVED
from netopsy.network.task import Task
from netopsy.network.units import UnitSpec
from netopsy.probes.kinds import CRITERIA, UnitCriteria, classify
from netopsy.probes.unit_classes import unit_classes
from netopsy.probes.unit_statistics import unit_statistics
from netopsy.probes.units_off import Question, alone, ask, places
from netopsy.probes.units_result import COLUMNS, UnitTableResult

KEPT = 2**30
"""Bytes that the logits of all variants of a batch may take; beyond it batches are cut smaller."""


def unit_table(
    model: nn.Module,
    data: Any,
    *,
    sites: UnitSpec = None,
    criteria: UnitCriteria = CRITERIA,
    similar: float = 0.5,
    ridge: float = 1e-6,
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
) -> UnitTableResult:
    """Measure every unit, and say which of the six features that constrain a network's capacity it shows.

    Two passes read the activations; then each unit is set to zero, alone and with all that are similar to it.

    Args:
        model: a trained network; it is bit-identical afterwards.
        data: examples in any form that `netopsy.evaluate` takes.
        sites: layers of units: None for the outputs of all activation modules; names or globs of modules; or what
            `netopsy.network.units` gives. Units of several numbers (attention heads) have an effect, and no activity,
            mean, variance, R², similar units or selectivity.
        criteria: where the kinds begin, by default `UnitCriteria()`; others can be tried on the result
            (`UnitTableResult.reclassified`).
        similar: two units are similar from this abs(r) on (Pearson).
        ridge: of R²; see `netopsy.redundancy`.
        stop: `"exact"`: every example; `"precision"`: until each paired change of accuracy is known to ± `precision`;
            `"verdict"`: until it is known whether more than `tolerance` is lost. The activations are read from all
            examples in any case. Kinds are by the estimates, not by the ends of the intervals.
        precision: half-width asked for by `stop="precision"`.
        tolerance: of `stop="verdict"`.
        confidence: that the intervals of one column hold for all rows at once.
        seed: of the order of the examples.
        engine: `"auto"`, `"exported"` or `"eager"`.
        estimand: what the intervals speak of: the `"population"` the examples come from, or this `"dataset"`.
        task: how batches are read.
        batch_size: examples a batch; by default as the data have it, else 256, and fewer where the logits of all
            variants of a batch would take more than 1 GiB.
        progress: called with the examples done and their total, in each of the three passes.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    inside("similar", similar, 0, 1, open_low=True)
    inside("ridge", ridge, 0, 1, open_low=True)
    stopping = Stopping(rule=stop, precision=precision, tolerance=tolerance, confidence=confidence, estimand=estimand)
    options = {"seed": seed, "engine": engine, "batch_size": batch_size, "progress": progress}
    question = ask(model, data, sites, task, stopping, options)
    classes = question.check()

    statistics = unit_statistics(question, similar=similar, ridge=ridge)
    by_class = unit_classes(question, statistics, classes)

    frame = places(question)
    peers = [part for found in statistics for part in found.peers]
    units = list(zip(frame.site, frame.unit, peers, strict=True))
    single = [alone(site, unit) for site, unit, _ in units]
    joint = [frozenset({(site, others | {unit})}) for site, unit, others in units]
    chosen = list(dict.fromkeys([*single, *joint]))
    place = {each: row for row, each in enumerate(chosen)}
    evaluation, measured = _smaller(question, len(chosen), classes).run(chosen, moved=True)
    one = measured.iloc[[place[each] for each in single]].reset_index(drop=True)
    with_peers = measured.iloc[[place[each] for each in joint]].reset_index(drop=True)

    read = pd.concat([found.frame for found in statistics], ignore_index=True)
    finite = np.concatenate([found.finite.numpy() for found in statistics])
    table = pd.concat([frame.astype({"unit": "Int64"}), read], axis=1).assign(
        selectivity=np.concatenate(by_class.selectivity),
        effect=_rest(one.unchanged),
        effect_low=_rest(one.unchanged_high),
        effect_high=_rest(one.unchanged_low),
        accuracy_change=one.accuracy_change,
        accuracy_change_low=one.accuracy_change_low,
        accuracy_change_high=one.accuracy_change_high,
        logit_change=_relative(one[MOVED].to_numpy(), by_class.spread),
        effect_similar=_rest(with_peers.unchanged),
        accuracy_change_similar=with_peers.accuracy_change,
        n=one.n.astype("Int64"),
        status=one.status.where(pd.Series(finite), "non-finite"),
    )
    of_layers = list(zip(question.layers, statistics, strict=True))
    return UnitTableResult(
        frame=table.assign(kind=classify(table, criteria))[list(COLUMNS)],
        criteria=criteria,
        provenance={
            "probe": "units",
            "netopsy": __version__,
            **evaluation.provenance,
            "layers": {layer.name: {"address": str(layer.address), "units": layer.units} for layer, _ in of_layers},
            "statistics": {layer.name: found.status for layer, found in of_layers},
            "ridge": {layer.name: None if np.isnan(found.ridge) else found.ridge for layer, found in of_layers},
            "similar": similar,
            "logit_spread": by_class.spread**0.5,
            "variants": len(chosen),
            "seconds": time.perf_counter() - started,
        },
    )


def _smaller(question: Question, variants: int, classes: int) -> Question:
    """The question with batches of which the logits of all variants can be kept."""
    labels = question.task.labels(question.source.first())
    most = KEPT // (8 * variants * classes * labels.shape[1])
    if len(labels) <= most:
        return question
    return replace(question, options={**question.options, "batch_size": max(2, most)})  # of one there is no export


def _rest(share: pd.Series[float]) -> pd.Series[float]:
    """1 - share, without the rounding that would make 1 of 200 more than 0.005."""
    return (1 - share).round(12)


def _relative(squares: FloatArray, spread: float) -> FloatArray:
    """The root of the change over the spread; 0 where nothing moves, whatever the spread; NaN where not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result: FloatArray = np.where(squares == 0, 0.0, np.sqrt(squares / spread))
    result[~np.isfinite(squares)] = np.nan
    return result
