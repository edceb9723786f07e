"""evaluate: the single verb. A model and its variants on some data, exactly or until what is asked is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from netopsy._checks import NetopsyError, one_of
from netopsy._random import derive, forked
from netopsy._typing import Batch, BoolArray, FloatArray, IntArray
from netopsy.engine.batches import Source, check_batch, open_data
from netopsy.engine.edits import Variant
from netopsy.engine.evaluation import Evaluation, Stop, Stopping
from netopsy.engine.execution import PROBE, Engine, Execution, check_deterministic
from netopsy.engine.functional import examples as examples_of
from netopsy.engine.reducers import Digest, Metric, Tally, check_metrics, digest, metric_name, unchanged
from netopsy.engine.sequential import ConfidenceSequence
from netopsy.engine.sequential import tally as count_values
from netopsy.engine.stream import BASELINE
from netopsy.engine.values import Values
from netopsy.network.addresses import canonical_names, evaluation_mode, named_state, unwrap
from netopsy.network.states import check_precision
from netopsy.network.task import Task


def evaluate(
    model: nn.Module,
    data: Any,
    variants: Sequence[Variant] = (),
    *,
    task: Task | None = None,
    metrics: Sequence[Metric] = ("error", "loss"),
    stop: Stop | Stopping = "exact",
    examples: Sequence[str] = (),
    seed: int = 0,
    engine: Engine = "auto",
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> Evaluation:
    """Measure a network and variants of it on one data set.

    Args:
        model: any module; it is bit-identical afterwards, also after an exception.
        data: a pair of tensors, a dict of tensors, a list of batches, an unshuffled DataLoader or a Dataset.
        variants: what to compare with the unedited network.
        task: how batches are read; by default `(x, y)` and Hugging Face style dicts.
        metrics: of `"error"`, `"loss"`, `"unchanged"` and functions `(logits, targets) -> values`.
        stop: when a variant has been seen enough; a `Stopping` sets precision, tolerance, confidence, estimand.
        examples: metrics of which each example's value is kept.
        seed: of the order of the examples.
        engine: `"auto"` takes the exported engine where it agrees with eager execution, and says so if not.
        batch_size: examples a batch; by default as the data have it, else 256.
        progress: called with the examples done and their total (None where unknown).

    Raises:
        NetopsyError: for data, models, variants or options that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    rule = stop if isinstance(stop, Stopping) else Stopping(rule=stop)
    task = task or Task()
    one_of("engine", engine, ("auto", "exported", "eager"))
    check_metrics(metrics)
    for name in examples:
        one_of("examples", name, [metric_name(metric) for metric in metrics])
    model = unwrap(model)
    check_precision(model)
    with _untouched(model, seed):
        source = open_data(data, batch_size=batch_size, seed=seed)
        if rule.rule != "exact" and not source.drawn:
            raise NetopsyError(
                f"stop={rule.rule!r}: needs examples in random order, which these data do not allow; pass tensors, "
                "batches of one shape or a map-style DataLoader, or use stop='exact'"
            )
        first = source.first()
        state = {name: value.detach() for name, value in named_state(model).items()}
        labels, inputs = task.labels(first), task.inputs(first)
        logits = check_deterministic(model, state, task, inputs)
        classes = task.scores(logits, labels[:PROBE] if examples_of(inputs) else labels).shape[-1]
        check_batch(task, source.whole or first, classes, "the data" if source.whole else "the first batch")
        values = Values(state, canonical_names(model), tuple(variants))
        silent = {row for row in range(len(variants)) if values.is_no_op(row)}
        rows = [row for row in range(len(variants)) if row not in silent]
        execution = Execution(model, state, task, values, rows, engine)
        idle = execution.unreached(inputs)
        run = _Run(
            source, execution, tuple(metrics), rule, classes, frozenset(silent), idle, tuple(examples), progress
        )
        return run.result(started, seed)


@dataclass(frozen=True, eq=False)
class _Run:
    """One pass over the data, until every row is decided.

    Attributes:
        silent: rows that change no value; they are not run.
        idle: rows that did not arrive at the logits of the first batch; they are silent if they never do.
    """

    source: Source
    execution: Execution
    metrics: tuple[Metric, ...]
    rule: Stopping
    classes: int
    silent: frozenset[int]
    idle: frozenset[int]
    examples: tuple[str, ...]
    progress: Callable[[int, int | None], object] | None

    def result(self, started: float, seed: int) -> Evaluation:
        task, count = self.execution.task, len(self.execution.values.variants)
        per_example, support, total = self._positions()
        asked = np.array([row for row in range(count) if row not in self.silent], dtype=np.int64)
        sequence = ConfidenceSequence(
            max(1, len(asked)), confidence=self.rule.confidence, total=total, support=support
        )
        unseen = np.zeros((len(asked), len(support)))  # counts the sequence has not taken in
        paired, wrong = np.zeros(count), 0.0
        tally = Tally.empty(self.metrics, count + 1)
        kept: list[tuple[IntArray, dict[str, FloatArray]]] = []
        active = np.ones(len(asked), dtype=bool)
        arrived: set[int] = set()
        done = 0
        for index, (order, batch) in enumerate(self.source.batches()):
            if index and self.source.whole is None:
                check_batch(task, batch, self.classes, f"batch {index}")
            labels = task.labels(batch)
            valid = task.valid(labels)
            live = asked[active]
            digests = self._digests(batch, labels, set(live.tolist()))
            arrived |= digests.keys()
            digests = dict.fromkeys(live.tolist(), digests[BASELINE]) | digests
            tally = tally + Tally.of(self.metrics, count + 1, digests, valid)
            wrong += digests[BASELINE].errors.sum()
            if len(live):
                change = np.stack([digests[row].errors for row in live]) - digests[BASELINE].errors
                paired[live] += change.sum(1)
                counted = valid.any(1).cpu().numpy()
                unseen[active] += count_values(change[:, counted] / per_example, support)
                if self.rule.rule != "exact":
                    sequence.update(np.flatnonzero(active), unseen[active])
                    unseen[:] = 0
            if self.examples:
                kept.append((order, self._kept(digests, valid)))
            done += len(order)
            if self.progress is not None:
                self.progress(done, self.source.total)
            active &= ~self._decided(sequence)[: len(asked)]
            if self.rule.rule != "exact" and not active.any():
                break
        if not tally.positions[BASELINE]:
            raise NetopsyError(f"targets: expected some to count; all are the ignore_index {task.ignore_index}")
        sequence.update(np.arange(len(asked)), unseen)
        silent = sorted(self.silent | (self.idle - arrived))
        return self._evaluation(tally, wrong, paired, sequence, asked, silent, kept, done, started, seed)

    def _positions(self) -> tuple[float, tuple[float, ...], int | None]:
        """Mean positions of an example, the values its paired change of error can take, and how many examples count.

        Examples without a position that counts are left out. With one position the change is -1, 0 or 1. Else it is
        at most the largest number of positions over their mean, which one pass over the targets tells; 33 points
        stand for the values between. The number of examples is None where the estimand is not this data set.
        """
        task, whole, finite = self.execution.task, self.source.whole, self.rule.estimand == "dataset"
        if whole is None and not finite and task.labels(self.source.first()).shape[1] == 1:
            return 1.0, (-1.0, 0.0, 1.0), None
        batches = [whole] if whole is not None else (batch for _, batch in self.source.batches())
        sizes = np.concatenate([task.valid(task.labels(batch)).sum(1).cpu().numpy() for batch in batches])
        sizes = sizes[sizes > 0]
        if not sizes.size:
            raise NetopsyError(f"targets: expected some to count; all are the ignore_index {task.ignore_index}")
        mean, largest = float(sizes.mean()), sizes.max() / sizes.mean()
        support = (-1.0, 0.0, 1.0) if sizes.max() == 1 else tuple(np.linspace(-largest, largest, 33).tolist())
        return mean, support, len(sizes) if finite else None

    def _digests(self, batch: Batch, labels: Int[Tensor, "n p"], rows: set[int]) -> dict[int, Digest]:
        task = self.execution.task
        digests = {}
        for row, logits in self.execution.run(task.inputs(batch), rows):
            digests[row] = digest(task.scores(logits, labels), labels, task, self.metrics)
        if not digests[BASELINE].finite.all():
            raise NetopsyError(
                "model: its own outputs are not finite on some examples; check its weights and the data"
            )
        return digests

    def _kept(self, digests: Mapping[int, Digest], valid: Tensor) -> dict[str, FloatArray]:
        count = len(self.execution.values.variants)
        positions = valid.sum(1).cpu().numpy()
        values = {name: np.full((count + 1, len(positions)), np.nan) for name in self.examples}
        for row, mine in digests.items():
            for name in self.examples:
                sums = unchanged(mine, digests[BASELINE], valid) if name == "unchanged" else mine.sums[name]
                values[name][row] = sums / np.maximum(positions, 1)
        return values

    def _decided(self, sequence: ConfidenceSequence) -> BoolArray:
        if self.rule.rule == "precision":
            return sequence.decided_precision(self.rule.precision)
        if self.rule.rule == "verdict":
            return sequence.decided_verdict(self.rule.tolerance)
        return np.zeros(len(sequence.low), dtype=bool)

    def _evaluation(
        self,
        tally: Tally,
        wrong: float,
        paired: FloatArray,
        sequence: ConfidenceSequence,
        asked: IntArray,
        silent: list[int],
        kept: Sequence[tuple[IntArray, Mapping[str, FloatArray]]],
        done: int,
        started: float,
        seed: int,
    ) -> Evaluation:
        variants = self.execution.values.variants
        means = tally.means()
        low, high, delta = np.zeros(len(variants)), np.zeros(len(variants)), np.zeros(len(variants))
        low[asked], high[asked] = sequence.low[: len(asked)], sequence.high[: len(asked)]
        delta[asked] = paired[asked] / np.maximum(tally.positions[asked], 1)
        low, high = np.minimum(low, delta), np.maximum(high, delta)
        low[silent] = high[silent] = 0
        metrics = {name: value[:-1].copy() for name, value in means.items()}
        for name, value in metrics.items():
            value[silent] = means[name][BASELINE]
        n = tally.examples[:-1].copy()
        n[silent] = tally.examples[BASELINE]
        status = ["non-finite" if bad else "ok" for bad in tally.bad[:-1]]
        for row in silent:
            status[row] = "no-op"
        whole = self.rule.rule == "exact" or self.source.total == done
        values = {}
        for name in self.examples:
            size = done if self.source.total is None else self.source.total
            values[name] = np.full((len(variants) + 1, size), np.nan)
            for order, part in kept:
                values[name][:, order] = part[name]
            values[name][silent] = values[name][BASELINE]
        provenance = {
            "engine": self.execution.used,
            "engine_reasons": list(self.execution.reasons),
            "stop": self.rule.rule,
            "estimand": self.rule.estimand,
            "confidence": self.rule.confidence,
            "precision": self.rule.precision,
            "tolerance": self.rule.tolerance,
            "seed": seed,
            "data": self.source.fingerprint,
            "examples": self.source.total if self.source.total is not None else done,
            "whole": whole,
            "torch": torch.__version__,
            "seconds": time.perf_counter() - started,
        }
        return Evaluation(
            labels=tuple(variant.label for variant in variants),
            baseline={name: float(value[BASELINE]) for name, value in means.items()},
            metrics=metrics,
            baseline_error=wrong / int(tally.positions[BASELINE]),
            delta_error=delta,
            delta_error_low=low,
            delta_error_high=high,
            n=n,
            baseline_n=int(tally.examples[BASELINE]),
            status=tuple(status),
            bad=tally.bad[:-1],
            examples=values,
            classes=self.classes,
            chance=1 - 1 / self.classes,
            provenance=provenance,
        )


@contextmanager
def _untouched(model: nn.Module, seed: int) -> Iterator[None]:
    """Eval mode, no gradients, and random generators of our own inside the block."""
    with evaluation_mode(model), torch.no_grad(), forked(derive(seed, "evaluate")):
        yield
