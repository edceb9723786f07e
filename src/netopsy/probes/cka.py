"""Centered kernel alignment of all pairs of layers of two networks, in one pass over the data.

Kornblith, Norouzi, Lee, Hinton: Similarity of Neural Network Representations Revisited (2019); Nguyen, Raghu,
Kornblith: Do Wide and Deep Networks Learn the Same Things? (2021), Eq. 2 to 4.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, one_of
from netopsy._typing import FloatArray
from netopsy.engine.batches import Source, open_data
from netopsy.engine.gram import LEAST, Features, Grams, block_squares
from netopsy.engine.reading import reading
from netopsy.network.addresses import unwrap
from netopsy.network.states import check_parameters
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.network.units import UnitLayer, UnitSpec, find_units
from netopsy.probes.cka_result import CKAResult

Estimator: TypeAlias = Literal["minibatch", "exact"]
"""Unbiased estimates of HSIC from batches, added up; or linear CKA of all examples, from cross-covariances."""

Progress: TypeAlias = Callable[[int, int | None], object] | None
"""Called with the examples done and their total; or nobody is."""

MEMORY = 2 * 2**30
"""Bytes of cross-covariances at most."""

WORSE = ("few examples", "non-finite", "constant", "degenerate")
"""States of a pair without a number, the worst first."""


def cka(
    model: nn.Module | Trajectory,
    other: nn.Module | Trajectory | None,
    data: Any,
    *,
    sites: UnitSpec = None,
    other_sites: UnitSpec = None,
    estimator: Estimator = "minibatch",
    seed: int = 0,
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Progress = None,
) -> CKAResult:
    """Measure how alike the layers of two networks are: linear CKA of every pair, in one pass over the data.

    A layer's features are all numbers that it gives for one example (channels at positions of a convolution). With
    the default, CKA(a, b) = Σ HSIC₁(a, b) / √(Σ HSIC₁(a, a) Σ HSIC₁(b, b)), the sums over batches, weighted by their
    examples, and HSIC₁ the unbiased estimator of Song et al. (2012). It does not depend on the batch size in
    expectation of its three sums, and lies between -1 and 1; a little below 0 means nothing in common.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> cka(model, None, (torch.randn(50, 4), torch.zeros(50))).to_frame().cka.round(6).tolist()
    [1.0]

    Args:
        model: a network; of a trajectory the trained one.
        other: another one, such as `netopsy.rewound(trajectory, site)`; None for the same: its layers among each
            other.
        data: examples in any form that `netopsy.evaluate` takes.
        sites: the layers; by default the outputs of all activation modules (see `netopsy.network.units.find_units`).
        other_sites: of the other network; by default named as those of the first.
        estimator: `"minibatch"`; or `"exact"`, ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) with X and Y the centered features of all
            examples: biased upwards where there are not many more examples than features, and of narrow networks
            only: memory is 8 bytes times the features of all layers of one network times those of the other.
        seed: of the order of the examples, hence of the batches.
        task: how batches of both are read.
        batch_size: examples a batch; those with fewer than four are left out of `"minibatch"`.
        progress: called with the examples done and their total.

    Returns:
        A result with a row for every pair of layers.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    one_of("estimator", estimator, ("minibatch", "exact"))
    if other is None and other_sites is not None:
        raise NetopsyError("other_sites: expected another network with them; got other=None; pass one, or only sites")
    task = task or Task()
    first = _network("model", model)
    second = None if other is None else _network("other", other)
    second = None if second is first and other_sites is None else second
    source = open_data(data, batch_size=batch_size, seed=seed)
    inputs = task.inputs(source.first())
    mine = find_units(first, inputs, sites, task=task)
    theirs = mine if second is None else find_units(second, inputs, _spec(sites, other_sites), task=task)
    measure = _minibatch if estimator == "minibatch" else _exact
    found = measure(_Pair(first, second, mine, theirs), source, task, progress)
    return CKAResult(
        frame=_frame(mine, theirs, found),
        provenance={
            "probe": "cka",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": source.fingerprint,
            "examples": found.seen.examples,
            "left_out": found.seen.left_out,
            "layers_a": {layer.name: {"address": str(layer.address), "shape": list(layer.shape)} for layer in mine},
            "layers_b": {layer.name: {"address": str(layer.address), "shape": list(layer.shape)} for layer in theirs},
            "same": second is None,
            "estimator": estimator,
            "batch_size": batch_size,
            "seed": seed,
            "seconds": time.perf_counter() - started,
        },
    )


def _network(name: str, given: Any) -> nn.Module:
    model = given.model() if isinstance(given, Trajectory) else given
    if not isinstance(model, nn.Module):
        raise NetopsyError(f"{name}: expected a torch module or a netopsy.Trajectory; got {type(given).__name__}")
    model = unwrap(model)
    check_parameters(model)
    return model


def _spec(sites: UnitSpec, other_sites: UnitSpec) -> UnitSpec:
    return sites if other_sites is None else other_sites


@dataclass(frozen=True)
class _Pair:
    """Two networks and their layers; the second is None where it is the first."""

    first: nn.Module
    second: nn.Module | None
    mine: Sequence[UnitLayer]
    theirs: Sequence[UnitLayer]


@dataclass(frozen=True)
class _Pass:
    """What a pass over the data saw: examples in so many batches, and those of batches that were too small."""

    examples: int
    left_out: int
    batches: int


@dataclass(frozen=True)
class _Found:
    """Inner products of the layers with each other and with themselves, and what they come from."""

    cross: FloatArray
    own: tuple[FloatArray, FloatArray]
    status: tuple[list[str], list[str]]
    seen: _Pass


def _run(
    pair: _Pair,
    sums: tuple[Grams, Grams] | tuple[Features, Features],
    use: Callable[[int], object],
    least: int,
    source: Source,
    task: Task,
    progress: Progress,
) -> _Pass:
    """Run both networks on each batch of at least so many examples, then `use` with the number of its examples."""
    examples, left_out, batches = 0, 0, 0
    with ExitStack() as stack:
        runs = [(sums[0], stack.enter_context(reading(pair.first, pair.mine, sums[0].take)))]
        if pair.second is not None:
            runs.append((sums[1], stack.enter_context(reading(pair.second, pair.theirs, sums[1].take))))
        for order, batch in source.batches():
            size = len(order)
            if size >= least:
                for part, run in runs:
                    part.start(size)
                    run(task.inputs(batch))
                use(size)
                examples, batches = examples + size, batches + 1
            else:
                left_out += size
            if progress is not None:
                progress(examples + left_out, source.total)
    return _Pass(examples, left_out, batches)


def _minibatch(pair: _Pair, source: Source, task: Task, progress: Progress) -> _Found:
    a = Grams(pair.mine)
    b = a if pair.second is None else Grams(pair.theirs)
    cross = torch.zeros(len(pair.mine), len(pair.theirs), dtype=torch.float64)

    def use(size: int) -> None:
        rows = a.stacked()
        cross.addmm_(rows, (rows if b is a else b.stacked()).T)

    seen = _run(pair, (a, b), use, LEAST, source, task, progress)
    own = tuple(np.array([spread.kept for spread in part.spread]) for part in (a, b))
    return _found(cross.numpy(), own, (a.spread, b.spread), seen)


def _exact(pair: _Pair, source: Source, task: Task, progress: Progress) -> _Found:
    a = Features(pair.mine)
    b = a if pair.second is None else Features(pair.theirs)
    products: dict[str, Tensor] = {}

    def use(size: int) -> None:
        x = a.joined()
        y = x if b is a else b.joined()
        if not products:
            _check_memory(a.widths, b.widths, same=b is a)
        _add(products, "cross", x.T @ y)
        _add(products, "sums a", x.sum(0))
        _add(products, "sums b", y.sum(0))
        for side, part, rows in (("a", a, x), ("b", b, y)) if b is not a else ():
            for place, columns in enumerate(torch.split(rows, part.widths, 1)):
                _add(products, f"{side} {place}", columns.T @ columns)

    seen = _run(pair, (a, b), use, 1, source, task, progress)
    sums = [products[f"sums {side}"] for side in "ab"]
    products["cross"].addr_(*sums, alpha=-1 / seen.examples)
    cross = block_squares(products["cross"], a.widths, b.widths)
    if b is a:
        own = cross.diagonal(), cross.diagonal()
    else:
        own = _own(products, "a", a.widths, seen.examples), _own(products, "b", b.widths, seen.examples)
    return _found(cross, own, (a.spread, b.spread), seen)


def _add(products: dict[str, Tensor], name: str, value: Tensor) -> None:
    products[name] = products[name].add_(value) if name in products else value


def _own(products: dict[str, Tensor], side: str, widths: Sequence[int], examples: int) -> FloatArray:
    """Squared norms of the layers' own covariances."""
    sums = torch.split(products[f"sums {side}"], list(widths))
    blocks = [products[f"{side} {place}"].addr(part, part, alpha=-1 / examples) for place, part in enumerate(sums)]
    return np.array([float(block.square().sum()) for block in blocks])


def _check_memory(a: Sequence[int], b: Sequence[int], *, same: bool) -> None:
    entries = sum(a) * sum(b) + (0 if same else sum(w * w for w in (*a, *b)))
    if 8 * entries > MEMORY:
        raise NetopsyError(
            f"estimator='exact': the layers have {sum(a)} and {sum(b)} features, whose cross-covariances take "
            f"{8 * entries / 2**30:.1f} GB (at most {MEMORY / 2**30:g} are taken); pass fewer sites, or "
            "estimator='minibatch'"
        )


def _found(cross: FloatArray, own: Any, spread: Any, seen: _Pass) -> _Found:
    a, b = (["few examples" if not seen.batches else one.status() for one in part] for part in spread)
    return _Found(cross=cross, own=own, status=(a, b), seen=seen)


def _frame(mine: Sequence[UnitLayer], theirs: Sequence[UnitLayer], found: _Found) -> pd.DataFrame:
    """A row a pair; the worse of two layers' states is the pair's."""
    rows = []
    for i, one in enumerate(mine):
        for j, other in enumerate(theirs):
            pair = found.status[0][i], found.status[1][j]
            status = next((name for name in WORSE if name in pair), "ok")
            value = np.nan
            if status == "ok":
                value = float(found.cross[i, j] / math.sqrt(found.own[0][i]) / math.sqrt(found.own[1][j]))
                value = min(max(value, -1.0), 1.0)  # by Cauchy and Schwarz, but for rounding
            rows.append((one.name, other.name, value, found.seen.examples, found.seen.batches, status))
    frame = pd.DataFrame(rows, columns=["layer_a", "layer_b", "cka", "n", "batches", "status"])
    text = dict.fromkeys(("layer_a", "layer_b", "status"), "string")
    return frame.astype({**text, "n": "Int64", "batches": "Int64", "cka": "float64"})
