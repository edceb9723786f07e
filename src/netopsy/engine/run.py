"""One pass over the data, batch by batch, until every variant is decided; it may be broken off and gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._typing import Batch, BoolArray, FloatArray, IntArray
from netopsy.engine import saved as files
from netopsy.engine.batches import Source, check_batch
from netopsy.engine.evaluation import Stopping
from netopsy.engine.execution import Execution
from netopsy.engine.functional import examples as examples_of
from netopsy.engine.functional import signature
from netopsy.engine.progress import Progress, differing, prints, same
from netopsy.engine.reducers import Digest, Metric, Tally, digest, metric_name, unchanged
from netopsy.engine.sequential import ConfidenceSequence
from netopsy.engine.sequential import tally as count_values
from netopsy.engine.stream import BASELINE
from netopsy.network.task import model_loss


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """What one pass over the data is about.

    Attributes:
        classes: of the logits.
        silent: rows that change no value; they are not run.
        idle: rows that did not arrive at the logits of the first batch; they are silent if they never do.
        examples: metrics of which each example's value is kept.
        seed: of the order of the examples.
        progress: told the examples done and their total.
    """

    source: Source
    execution: Execution
    metrics: tuple[Metric, ...]
    rule: Stopping
    classes: int
    silent: frozenset[int]
    idle: frozenset[int]
    examples: tuple[str, ...]
    seed: int
    progress: Callable[[int, int | None], object] | None = None

    def __post_init__(self) -> None:
        if self.execution.task.loss is model_loss and "loss" in self.examples:
            raise NetopsyError(
                "examples: expected no 'loss' with loss=model_loss, one number a batch, which no example has; leave "
                "it out, or pass task=netopsy.Task(loss=...) with a loss of each position"
            )

    @property
    def count(self) -> int:
        """Variants, the silent ones among them."""
        return len(self.execution.values.variants)

    @cached_property
    def asked(self) -> IntArray:
        """Rows that are run."""
        return np.array([row for row in range(self.count) if row not in self.silent], dtype=np.int64)

    def start(self) -> Progress:
        """The progress of no batch."""
        asked = len(self.asked)
        _, support, total = self._positions
        return Progress(
            tally=Tally.empty(self.metrics, self.count + 1),
            wrong=0.0,
            paired=np.zeros(self.count),
            unseen=np.zeros((asked, len(support))),
            active=np.ones(asked, dtype=bool),
            sequence=ConfidenceSequence(max(1, asked), confidence=self.rule.confidence, total=total, support=support),
        )

    def go(self, path: Path | None = None, *, keep: bool = False) -> Progress:
        """Run every batch that is left, going on from the file `path` where there is one.

        With `keep` the file holds the finished pass at the end: another run then reads it, and runs only the first
        batch again. The file is the caller's to delete.
        """
        progress, work, written = self.start(), self._work(), time.monotonic()
        if path is not None and path.exists():
            progress = self._read(path, progress, work)
        before = progress
        try:
            for index, order, batch in self._left(progress, path):
                if index and self.source.whole is None:
                    check_batch(self.execution.task, batch, self.classes, f"batch {index}")
                progress = self.advance(progress, order, batch)
                if self.progress is not None:
                    self.progress(progress.done, self.source.total)
                if progress.finished:
                    break
                if path is not None and time.monotonic() - written >= files.SECONDS:
                    self._write(path, progress, work)
                    before, written = progress, time.monotonic()
            progress = replace(progress, finished=True)
            if path is not None and keep and not before.finished:
                self._write(path, progress, work)
        except BaseException:
            if path is not None and progress is not before:
                with suppress(OSError):  # the interruption is what is to be told
                    self._write(path, progress, work)
            raise
        return progress

    def advance(self, progress: Progress, order: IntArray, batch: Batch) -> Progress:
        """Take in one batch."""
        task, asked, per_example = self.execution.task, self.asked, self._positions[0]
        labels = task.labels(batch)
        valid = task.valid(labels)
        active = progress.active.copy()
        live = asked[active]
        found = self.digests(batch, labels, set(live.tolist()))
        digests = dict.fromkeys(live.tolist(), found[BASELINE]) | found
        paired, unseen, sequence = progress.paired.copy(), progress.unseen.copy(), progress.sequence
        if len(live):
            change = np.stack([digests[row].errors for row in live]) - digests[BASELINE].errors
            paired[live] += change.sum(1)
            counted = valid.any(1).cpu().numpy()
            unseen[active] += count_values(change[:, counted] / per_example, sequence.support)
            if self.rule.rule != "exact":
                sequence = sequence.restored(sequence.arrays())
                sequence.update(np.flatnonzero(active), unseen[active])
                unseen[:] = 0
        active &= ~self.decided(sequence)[: len(asked)]
        return Progress(
            tally=progress.tally + Tally.of(self.metrics, self.count + 1, digests, valid),
            wrong=progress.wrong + float(digests[BASELINE].errors.sum()),
            paired=paired,
            unseen=unseen,
            active=active,
            sequence=sequence,
            arrived=progress.arrived.union(found),
            kept=(*progress.kept, (order, self._kept(digests, valid))) if self.examples else (),
            sizes=(*progress.sizes, len(order)),
            first=prints(digests, self.count + 1) if progress.first is None else progress.first,
            finished=self.rule.rule != "exact" and not active.any(),
            used=self.execution.used,
            reasons=tuple(self.execution.reasons),
        )

    def _left(self, progress: Progress, path: Path | None) -> Iterator[tuple[int, IntArray, Batch]]:
        """Number, examples and data of the batches that are not done."""
        if progress.finished:
            return
        seen, index = set(), -1
        for index, (order, batch) in enumerate(self.source.batches()):
            if index >= len(progress.sizes):
                yield index, order, batch
                continue
            if path is not None and len(order) != progress.sizes[index]:
                raise files.other_work(path, [f"the number of examples in batch {index}"])
            inputs = self.execution.task.inputs(batch)
            kind = (signature(inputs), examples_of(inputs) > 1)
            if kind not in seen:  # which engine runs later inputs depends on these: choose it as the first pass did
                seen.add(kind)
                self.execution.unreached(inputs)
        if path is not None and index + 1 < len(progress.sizes):
            raise files.other_work(path, ["the number of batches"])

    def _write(self, path: Path, progress: Progress, work: Mapping[str, Any]) -> None:
        engine = {"used": progress.used, "reasons": progress.reasons}
        files.write_saved(path, progress.arrays(), {"work": work, "engine": engine})

    def _read(self, path: Path, start: Progress, work: Mapping[str, Any]) -> Progress:
        """The progress in a file, which must be of this work.

        Its first batch is run again and must agree in every number: that tells other weights, rules and code.
        """
        arrays, header = files.read_saved(path)
        try:
            differences = differing(header["work"], work)
            if differences:
                raise files.other_work(path, differences)
            engine = header["engine"]
            progress = replace(start.restored(arrays), used=engine["used"], reasons=tuple(engine["reasons"]))
        except NetopsyError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise files.unreadable(path, error) from error
        order, batch = next(self.source.batches())
        if progress.sizes[:1] != (len(order),):
            raise files.other_work(path, ["batch sizes"])
        if not same(self.advance(start, order, batch).first or {}, progress.first or {}):
            raise files.other_work(path, ["results on the first batch (weights, code or number of threads)"])
        if self.progress is not None:
            self.progress(progress.done, self.source.total)
        return progress

    def _work(self) -> dict[str, Any]:
        """What this pass is about, but for the weights, as JSON has it; asked for before the first batch."""
        return {
            "labels": [variant.label for variant in self.execution.values.variants],
            "data": self.source.fingerprint,
            "total": self.source.total,
            "stopping rule": asdict(self.rule),
            "metrics": [metric_name(metric) for metric in self.metrics],
            "examples": list(self.examples),
            "seed": self.seed,
            "silent rows": sorted(self.silent),
            "engine": self.execution.used,
        }

    @cached_property
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

    def digests(self, batch: Batch, labels: Int[Tensor, "n p"], rows: set[int]) -> dict[int, Digest]:
        task = self.execution.task
        digests = {}
        for row, read in self.execution.outputs(task.inputs(batch), rows):
            logits, loss = task.split(read)
            mine = task if loss is None else replace(task, loss=_everywhere(loss.to(labels.device)))
            digests[row] = digest(task.scores(logits, labels), labels, mine, self.metrics)
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

    def decided(self, sequence: ConfidenceSequence) -> BoolArray:
        if self.rule.rule == "precision":
            return sequence.decided_precision(self.rule.precision)
        if self.rule.rule == "verdict":
            return sequence.decided_verdict(self.rule.tolerance)
        return np.zeros(len(sequence.low), dtype=bool)


def _everywhere(loss: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A batch's one number as the loss of each of its positions."""
    return lambda logits, targets: loss.float().expand(len(targets))
