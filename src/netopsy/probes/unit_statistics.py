"""What one pass over the data tells of every unit: activity, mean, variance, R², and the units it is similar to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from netopsy.engine.moments import Moments, Reading, unit_moments
from netopsy.network.units import UnitLayer
from netopsy.probes.redundancy import explained, still
from netopsy.probes.units_off import Question


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Of the units of one layer.

    Attributes:
        frame: one row a unit: `activity`, `mean`, `variance`, `r2`, `similar`.
        peers: of each unit the others with abs(r) at or above the threshold.
        varies: units whose values are finite and differ by more than rounding.
        finite: units whose values are.
        status: `ok`; `few samples`: not more than units that vary, so no R²; `one unit` varies, or none: no R²;
            `several numbers` make a unit: nothing is known.
        ridge: with which R² was computed.
    """

    frame: pd.DataFrame
    peers: tuple[frozenset[int], ...]
    varies: Bool[Tensor, " units"]
    finite: Bool[Tensor, " units"]
    status: str
    ridge: float


def unit_statistics(question: Question, *, similar: float = 0.5, ridge: float = 1e-6) -> list[LayerStatistics]:
    """Of each layer, in order; the definitions are those of `netopsy.redundancy`.

    A unit whose values are not all finite has none of the numbers, and is not among the others of its layer.
    """
    plain = [layer for layer in question.layers if layer.size == 1]
    progress = question.options["progress"]
    read = unit_moments(
        question.model, question.source, [*map(Reading, plain)], task=question.task, progress=progress
    )
    read.reverse()  # each is freed when it has been looked at
    return [
        _statistics(read.pop(), similar, ridge) if layer.size == 1 else _unread(layer) for layer in question.layers
    ]


def _statistics(moments: Moments, similar: float, ridge: float) -> LayerStatistics:
    count = len(moments.mean)
    finite = torch.isfinite(moments.mean) & torch.isfinite(moments.cross.diagonal())
    silent, constant = still(moments)
    varies = finite & ~silent & ~constant
    moving = int(varies.sum())
    status = "one unit" if moving < 2 else "ok" if moments.count > moving + 1 else "few samples"
    r2, similars = np.full(count, np.nan), pd.array([pd.NA] * count, dtype="Int64")
    peers = [frozenset[int]()] * count
    used = np.nan
    if moving > 1:
        r = moments.correlation(varies)
        where = varies.nonzero()[:, 0].tolist()
        near = r.abs() >= similar
        near.fill_diagonal_(False)
        for unit, row in zip(where, near, strict=True):
            peers[unit] = frozenset(where[i] for i in row.nonzero()[:, 0].tolist())
        similars[varies.numpy()] = near.sum(1).numpy()
        if status == "ok":
            r2[varies.numpy()], used = explained(r, ridge, moments.count)
    frame = pd.DataFrame(
        {
            "activity": (moments.active.double() / moments.count).numpy(),
            "mean": torch.where(finite, moments.mean, torch.nan).numpy(),
            "variance": torch.where(finite, moments.variance, torch.nan).numpy(),
            "r2": r2,
            "similar": similars,
        }
    )
    return LayerStatistics(frame, tuple(peers), varies, finite, status, used)


def _unread(layer: UnitLayer) -> LayerStatistics:
    """Of units of several numbers, such as attention heads, between which there is no one correlation."""
    numbers = pd.DataFrame(np.nan, index=range(layer.units), columns=["activity", "mean", "variance", "r2"])
    frame = numbers.assign(similar=pd.array([pd.NA] * layer.units, dtype="Int64"))
    known = torch.ones(layer.units, dtype=torch.bool)
    return LayerStatistics(frame, (frozenset(),) * layer.units, ~known, known, "several numbers", float("nan"))
