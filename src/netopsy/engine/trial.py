"""What a pass will cost, from its first two batches run for real: seconds, arithmetic, memory."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet, finalize

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from netopsy._typing import Batch, BoolArray, IntArray
from netopsy.engine.batches import grid
from netopsy.engine.edits import Variant
from netopsy.engine.evaluate import opened
from netopsy.engine.evaluation import Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.engine.reducers import Metric
from netopsy.engine.run import Run
from netopsy.network.task import Task

SECONDS = 1.0
"""About what a timed batch may take: of a slower one some examples and every k-th variant are run."""

LEAST = 8
"""Examples that are run at least."""

COUNTED = 200
"""Variants whose arithmetic is counted at most."""

clock = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Costs of one pass, measured on its first two batches.

    Attributes:
        engine: that will run it.
        reasons: why it is eager where that was not asked for.
        examples, batches: of the data.
        fewest: batches after which the stopping rule can be content at the earliest.
        silent: rows that change nothing; they are not run.
        setup: seconds before the first batch (exporting and checking the model, reading each edit once).
        batch: seconds of a whole batch, as each of the two timed tells.
        share: arithmetic of a batch over that of a whole forward for every variant and the baseline.
        peak: bytes of weights, kept edits, one batch and what is alive at once in running it.
        again: row -> names whose edited values are made again at each batch.
    """

    engine: str
    reasons: tuple[str, ...]
    examples: int
    batches: int
    fewest: int
    silent: frozenset[int]
    setup: float
    batch: tuple[float, ...]
    share: float
    peak: int
    again: dict[int, tuple[str, ...]]


def try_out(
    model: nn.Module,
    data: Any,
    variants: Sequence[Variant],
    *,
    task: Task | None = None,
    metrics: Sequence[Metric] = ("error", "loss"),
    stop: Stop | Stopping = "exact",
    seed: int = 0,
    engine: Engine = "auto",
    batch_size: int | None = None,
) -> Trial:
    """Run a little of what `evaluate` with these arguments will run; the model is bit-identical afterwards.

    Where a whole batch would take longer than `SECONDS`, it is cut: to so many examples that a forward takes a small
    part of that (a few examples would cost more each), and to every k-th variant. Time is then linear in both.

    Raises:
        NetopsyError: what `evaluate` would raise before its first batch.
    """
    started = clock()
    options: dict[str, Any] = {"task": task, "metrics": metrics, "stop": stop, "seed": seed, "engine": engine}
    with opened(model, data, variants, examples=(), batch_size=batch_size, **options) as run:
        setup = clock() - started
        parts = list(itertools.islice(run.source.batches(), 2))
        size = len(parts[0][0])
        total, batches = _extent(run, size)
        none, rows = np.zeros(len(run.asked), dtype=bool), len(run.asked)

        few = min(LEAST, size)
        most = few
        one = _seconds(run, none, *_cut(parts[0], few))  # slower than later ones: it warms the caches
        while most < size and (one := _seconds(run, none, *_cut(parts[0], most))) < SECONDS / 5:
            most = min(2 * most, size)
        some, many = _thinned(rows, math.ceil((rows + 1) * one / SECONDS)), _thinned(rows, math.ceil(rows / COUNTED))
        base_work, some_work, many_work = (_work(run, active, *_cut(parts[0], few)) for active in (none, some, many))
        row_work = (many_work - base_work) * rows / max(many.sum(), 1)
        # a thinned choice may hold more or less of the deep rows than all do: arithmetic tells
        scale = row_work / (some_work - base_work) if some_work > base_work else rows / max(some.sum(), 1)
        times = []
        for part in parts:
            count = min(most, len(part[0]))
            base = _seconds(run, none, *_cut(part, count))
            more = _seconds(run, some, *_cut(part, count)) - base
            times.append(float(base + max(more, 0.0) * scale) * size / count)

        if base_work:
            share = (base_work + row_work) / (base_work * (run.count + 1))
        else:  # no matrix product or convolution to count
            share = times[-1] / (base / count * size * (run.count + 1))
        values = run.execution.values
        kept = sum(value.nbytes for value in {id(v): v for v in values.kept.values()}.values())
        names = {
            row: tuple(n for n in values.edits(row) if (row, n) not in values.kept) for row in run.asked.tolist()
        }
        return Trial(
            engine=run.execution.used,
            reasons=tuple(run.execution.reasons),
            examples=total,
            batches=batches,
            fewest=min(batches, _fewest(run, size, batches)),
            silent=run.silent | run.idle,
            setup=setup,
            batch=tuple(times),
            share=float(share),
            peak=sum(v.nbytes for v in values.state.values()) + kept + _alive(run, some, parts[0], most, size),
            again={row: missing for row, missing in names.items() if missing},
        )


def _thinned(rows: int, every: int) -> BoolArray:
    """Every k-th row, from the middle of the first k."""
    chosen = np.zeros(rows, dtype=bool)
    chosen[min(max(every - 1, 0) // 2, max(rows - 1, 0)) :: max(every, 1)] = True
    return chosen


def _extent(run: Run, size: int) -> tuple[int, int]:
    """Examples and batches; counted in a pass where only that tells."""
    if run.source.total is not None:
        return run.source.total, len(grid(run.source.total, size))
    sizes = [len(order) for order, _ in run.source.batches()]
    return sum(sizes), len(sizes)


def _cut(part: tuple[IntArray, Batch], count: int) -> tuple[IntArray, Batch]:
    """The first examples of a batch."""
    order, batch = part
    size = len(order)

    def cut(leaf: Any) -> Any:
        return leaf[:count] if isinstance(leaf, Tensor) and leaf.shape[:1] == (size,) else leaf

    return order[:count], pytree.tree_map(cut, dict(batch) if isinstance(batch, dict) else batch)


def _seconds(run: Run, active: BoolArray, order: IntArray, batch: Batch) -> float:
    """Of one batch with some of the rows asked about."""
    start, before = replace(run.start(), active=active), clock()
    run.advance(start, order, batch)
    return clock() - before


def _work(run: Run, active: BoolArray, order: IntArray, batch: Batch) -> int:
    """Floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        run.advance(replace(run.start(), active=active), order, batch)
    return int(counter.get_total_flops())


def _alive(run: Run, active: BoolArray, part: tuple[IntArray, Batch], most: int, size: int) -> int:
    """Bytes of tensors alive at once in running a batch, itself included, beyond the weights and kept edits.

    Two sizes tell what grows with the examples.
    """

    def top(count: int) -> tuple[int, int]:
        order, batch = _cut(part, count)
        own = sum(leaf.nbytes for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
        start = replace(run.start(), active=active)
        return count, own + _peak(lambda: run.advance(start, order, batch))

    count, large = top(most)
    if count == size:
        return large
    half, small = top(max(most // 2, 1))
    return int(large + max(large - small, 0) / max(count - half, 1) * (size - count))


def _peak(work: Callable[[], object]) -> int:
    """Bytes of the tensors that the work makes, where most are alive at once."""
    alive = _Alive()
    with alive:
        work()
    return alive.top


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, until they are freed (torch's profiler would print)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.level: int = 0
        self.top: int = 0
        self.known: WeakSet[torch.UntypedStorage] = WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.known.update(_storages((args, kwargs)))  # not made here
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage not in self.known:
                self.known.add(storage)
                self._add(storage.nbytes())
                finalize(storage, self._add, -storage.nbytes()).atexit = False
        return result

    def _add(self, count: int) -> None:
        self.level += count
        self.top = max(self.top, self.level)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _fewest(run: Run, size: int, batches: int) -> int:
    """Batches after which a row can be decided at the earliest: it never changes an answer, or always does."""
    if run.rule.rule == "exact" or not len(run.asked):
        return batches if run.rule.rule == "exact" else 1
    least = batches
    support = run.start().sequence.support
    for column in (int(np.argmin(np.abs(support))), len(support) - 1):
        sequence = run.start().sequence
        counts = np.zeros((1, len(support)))
        counts[0, column] = size
        for batch in range(1, least):
            sequence.update(np.array([0]), counts)
            if run.decided(sequence)[0]:
                least = batch
                break
    return least
