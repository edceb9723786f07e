"""Metrics, and the mergeable sums that turn them into means: of a batch, a shard or a data set alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._typing import FloatArray
from netopsy.network.task import Task, cross_entropy

Metric: TypeAlias = str | Callable[[Tensor, Tensor], Tensor]
"""`"error"` (0-1), `"loss"` (the task's), `"unchanged"` (share of predictions equal to the baseline's), or a function
of logits `(m, classes)` and targets `(m,)` that gives a value a position `(m,)`; its name names the column."""

BUILT_IN = ("error", "loss", "unchanged")

MOVED = "moved"
"""A further metric, for probes: the squared distance of the logits from the baseline's.

The baseline comes last, so the logits of all variants of a batch are kept until then: rows x batch x classes numbers.
It is a sum of pairs, and has no value of each example (`evaluate(examples=)`).
"""


def metric_name(metric: Metric) -> str:
    """The column of a metric."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Refuse unknown or repeated metrics, and functions that take a built-in name."""
    names = [metric_name(metric) for metric in metrics]
    for metric in metrics:
        if not callable(metric) and metric not in (*BUILT_IN, MOVED):
            raise NetopsyError(
                f"metrics: expected {', '.join(BUILT_IN)} or a function (logits, targets) -> values; got {metric!r}"
            )
        if callable(metric) and metric_name(metric) in (*BUILT_IN, MOVED):
            raise NetopsyError(f"metrics: {metric_name(metric)!r} is built in; rename your function of that name")
    if len(set(names)) < len(names):
        raise NetopsyError(f"metrics: expected each once; got {', '.join(names)}")


@dataclass(frozen=True)
class Digest:
    """What is kept of one variant's logits on one batch: sums over each example's positions.

    Attributes:
        errors: wrong positions of each example; a non-finite output is wrong.
        sums: metric -> each example's sum.
        predicted: the predicted label of each position; -1 where the output is not finite.
        finite: whether all of an example's logits are finite.
        scores: the logits themselves, kept for the metric `MOVED` alone.
    """

    errors: Float[np.ndarray, " n"]
    sums: Mapping[str, Float[np.ndarray, " n"]]
    predicted: Int[Tensor, "n p"]
    finite: Bool[np.ndarray, " n"]
    scores: Float[Tensor, "n p c"] | None = None


def digest(
    scores: Float[Tensor, "n p c"],
    labels: Int[Tensor, "n p"],
    task: Task,
    metrics: Sequence[Metric],
) -> Digest:
    """Reduce one variant's logits on one batch."""
    valid = task.valid(labels)
    predicted = scores.argmax(-1)
    finite = torch.isfinite(scores.sum((1, 2)))
    if not finite.all():  # the sum of finite logits may overflow: look again
        finite = torch.isfinite(scores).flatten(1).all(1)
        predicted = torch.where(finite[:, None], predicted, -1)
    wrong = ((predicted != labels) & valid).sum(1).cpu().numpy().astype(np.float64)
    sums: dict[str, FloatArray] = {}
    for metric in metrics:
        if metric == "error":
            sums["error"] = wrong
        elif metric not in ("unchanged", MOVED):
            values = _positions(metric, scores, labels, valid, task)
            sums[metric_name(metric)] = values.sum(1, dtype=torch.float64).cpu().numpy()
    return Digest(wrong, sums, predicted, finite.cpu().numpy(), scores if MOVED in metrics else None)


def _positions(metric: Metric, scores: Tensor, labels: Tensor, valid: Tensor, task: Task) -> Float[Tensor, "n p"]:
    """A metric's value at every position; zero where it is not to count."""
    function = task.loss if isinstance(metric, str) else metric
    flat, targets, mask = scores.reshape(-1, scores.shape[-1]), labels.reshape(-1), valid.reshape(-1)
    every = bool(mask.all())
    if not every:
        flat, targets = flat[mask], targets[mask]
    elif function is not cross_entropy:  # the user's may write into what it is given; a mask copies, too
        flat, targets = flat.clone(), targets.clone()
    values = function(flat, targets)
    count = len(targets)
    if not isinstance(values, Tensor) or values.shape != (count,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise NetopsyError(
            f"metric {metric_name(metric)!r}: expected one value a position, shape ({count},); got {got}; "
            "return values, not their mean (reduction='none')"
        )
    if every:
        return values.reshape(labels.shape).float()
    filled = torch.zeros(len(mask), dtype=torch.float32, device=values.device)
    filled[mask] = values.float()
    return filled.reshape(labels.shape)


def unchanged(mine: Digest, baseline: Digest, valid: Bool[Tensor, "n p"]) -> FloatArray:
    """Positions of each example at which a variant predicts what the baseline predicts."""
    same = (mine.predicted == baseline.predicted) & (mine.predicted >= 0) & valid
    result: FloatArray = same.sum(1, dtype=torch.float64).cpu().numpy()
    return result


def moved(mine: Digest, baseline: Digest, valid: Bool[Tensor, "n p"]) -> FloatArray:
    """Each example's sum over positions of the squared distance between a variant's logits and the baseline's."""
    if mine.scores is None or baseline.scores is None:
        raise ValueError(f"digests without logits: ask for the metric {MOVED!r}")
    squares = (mine.scores - baseline.scores).double().square().sum(-1)
    result: FloatArray = torch.where(valid, squares, 0.0).sum(1).cpu().numpy()
    return result


@dataclass(frozen=True)
class Tally:
    """Sums by row; two tallies of different examples merge into the tally of both.

    Attributes:
        sums: metric -> sum over positions, by row.
        positions: positions counted, by row.
        examples: examples seen, by row.
        bad: examples with a non-finite output, by row.
    """

    sums: Mapping[str, Float[np.ndarray, " rows"]]
    positions: Int[np.ndarray, " rows"]
    examples: Int[np.ndarray, " rows"]
    bad: Int[np.ndarray, " rows"]

    @classmethod
    def empty(cls, metrics: Sequence[Metric], rows: int) -> Tally:
        """The tally of no examples."""
        zeros = np.zeros(rows, dtype=np.int64)
        return cls({metric_name(m): np.zeros(rows) for m in metrics}, zeros, zeros, zeros)

    @classmethod
    def of(
        cls, metrics: Sequence[Metric], rows: int, digests: Mapping[int, Digest], valid: Bool[Tensor, "n p"]
    ) -> Tally:
        """The tally of one batch; the baseline's digest is under row -1, its sums in the last row."""
        sums = {metric_name(m): np.zeros(rows) for m in metrics}
        positions, examples, bad = (np.zeros(rows, dtype=np.int64) for _ in range(3))
        counted = int(valid.sum())
        for row, mine in digests.items():
            for name, value in mine.sums.items():
                sums[name][row] = value.sum()
            if "unchanged" in sums:
                sums["unchanged"][row] = unchanged(mine, digests[-1], valid).sum()
            if MOVED in sums:
                sums[MOVED][row] = moved(mine, digests[-1], valid).sum()
            positions[row], examples[row], bad[row] = counted, len(mine.finite), (~mine.finite).sum()
        return cls(sums, positions, examples, bad)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            {name: value + other.sums[name] for name, value in self.sums.items()},
            self.positions + other.positions,
            self.examples + other.examples,
            self.bad + other.bad,
        )

    def means(self) -> dict[str, FloatArray]:
        """Metric -> mean over positions, by row; NaN where nothing was seen."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: value / self.positions for name, value in self.sums.items()}
