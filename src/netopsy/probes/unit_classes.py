"""How far the units of each layer differ between the classes, and how far the logits vary: one eager pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from netopsy._random import forked
from netopsy._typing import FloatArray
from netopsy.engine.batches import check_batch
from netopsy.engine.eager import Eager
from netopsy.engine.edits import Edit, Rule, Variant
from netopsy.engine.values import Values
from netopsy.network.addresses import Address, canonical_names, evaluation_mode, named_state
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer
from netopsy.probes.unit_statistics import LayerStatistics
from netopsy.probes.units_off import Question


@dataclass(frozen=True, eq=False)
class ByClass:
    """What the pass found.

    Attributes:
        selectivity: of each layer's units, `(units,)`; see `unit_classes`.
        spread: mean over the positions that count of the squared distance of the logits from their mean.
    """

    selectivity: tuple[FloatArray, ...]
    spread: float


def unit_classes(question: Question, statistics: Sequence[LayerStatistics], classes: int) -> ByClass:
    """Selectivity of every unit: the share of its variance that lies between the classes (eta squared), in [0, 1].

    A sample is one number of a unit; its class is its example's target, or its position's, where each has one.
    Samples without a target that counts are left out. NaN where a unit does not vary or holds several numbers, where
    fewer than two classes are seen, and where the layer has other positions than the targets. Memory is 8 bytes
    times units x classes.
    """
    task, source = question.task, question.source
    sums = [_Sums(layer, part, classes) for layer, part in zip(question.layers, statistics, strict=True)]
    state = {name: value.detach() for name, value in named_state(question.model).items()}
    names = canonical_names(question.model)
    done, count, total, squares = 0, 0, torch.zeros(()), 0.0
    shift: Tensor | None = None
    with evaluation_mode(question.model), torch.no_grad(), forked(0):
        for index, (order, batch) in enumerate(source.batches()):
            if index and source.whole is None:
                check_batch(task, batch, classes, f"batch {index}")
            labels = task.labels(batch)
            # an edit that changes nothing sees each value where an ablation would
            edits = [Edit(part.layer.address, part.reader(labels, task)) for part in sums if part.layer.size == 1]
            values = Values(state, names, [Variant("reading", tuple(edits))])
            logits = Eager(question.model, values, task.logits).forward(state, task.inputs(batch), 0)
            scores = task.scores(logits, labels)[task.valid(labels)].double()
            if shift is None and len(scores):
                shift, total = scores.mean(0), torch.zeros_like(scores[0])
            if shift is not None:
                total += (scores - shift).sum(0)
                squares += float((scores - shift).square().sum())
            count, done = count + len(scores), done + len(order)
            if question.options["progress"] is not None:
                question.options["progress"](done, source.total)
    spread = (squares - float(total.square().sum()) / max(count, 1)) / max(count, 1)
    return ByClass(tuple(part.selectivity() for part in sums), max(spread, 0.0))


class _Sums:
    """Of one layer, by unit and class, about the units' means."""

    def __init__(self, layer: UnitLayer, statistics: LayerStatistics, classes: int) -> None:
        self.layer, self.varies = layer, statistics.varies
        self.means = torch.from_numpy(statistics.frame["mean"].to_numpy(copy=True))
        self.sums = torch.zeros(layer.units, classes, dtype=torch.float64)
        self.squares = torch.zeros(layer.units, dtype=torch.float64)
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.aligned = True

    def reader(self, labels: Int[Tensor, "n p"], task: Task) -> Rule:
        """A rule that leaves the value as it is."""

        def read(value: Tensor, address: Address) -> Tensor:
            self._add(value, labels, task)
            return value

        return read

    def _add(self, value: Tensor, labels: Int[Tensor, "n p"], task: Task) -> None:
        columns = value.movedim(self.layer.axis, 0).reshape(self.layer.units, len(value), -1)
        positions, targets = columns.shape[2], labels.shape[1]
        if task.positions == "next" and targets > 1 and positions == targets + 1:
            columns = columns[:, :, :-1]  # what is read at position i predicts target i + 1
        elif targets not in (1, positions):
            self.aligned = False
            return
        apart = columns - self.means.to(value)[:, None, None]
        if targets == 1:
            parts, each = (apart.sum(2), apart.square().sum(2)), positions
        else:
            parts, each = (apart.flatten(1), apart.flatten(1).square()), 1
        kept = task.valid(labels).flatten()
        classes = labels.flatten()[kept].cpu()
        here, squares = (part[:, kept.to(value.device)].cpu().double() for part in parts)
        self.sums.index_add_(1, classes, here)
        self.squares += squares.sum(1)
        self.counts += torch.bincount(classes, minlength=len(self.counts)) * each

    def selectivity(self) -> FloatArray:
        """Sum of squares between the classes over that of all samples."""
        seen = self.counts > 0
        if not self.aligned or int(seen.sum()) < 2:
            return np.full(self.layer.units, np.nan)
        common = self.sums.sum(1).square() / self.counts.sum()
        between = (self.sums[:, seen].square() / self.counts[seen]).sum(1) - common
        share = (between / (self.squares - common)).clamp(0, 1)
        result: FloatArray = torch.where(self.varies, share, torch.nan).numpy()
        return result
