"""Statistics of students and teachers: one value a seed, of the rows that `luck_sweeps.measure_students` leaves.

A student that diverged leaves NaN in its seed's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from netopsy.studies.claims import BySeed

FIRST, LAST = 1, -1
"""Epochs: the first one trained; the last."""


def course(rows: pd.DataFrame, line: str, column: str, layers: Sequence[int] | None = None) -> pd.DataFrame:
    """A column's mean over layers (all, or some; -1 is the last): a row a seed, a column an epoch."""
    of = rows[rows.line == line]
    seeds = sorted(rows.seed.dropna().unique())
    of = of[of.epoch.notna()]
    if of.empty:
        return pd.DataFrame(math.nan, index=seeds, columns=[0, 1])
    if layers is not None:
        count = int(of.layer.max()) + 1
        of = of[of.layer.isin([layer % count for layer in layers])]
    value = of.assign(value=pd.to_numeric(of[column], errors="coerce").astype("float64"))
    table = value.set_index(["seed", "epoch", "layer"]).value.unstack("layer")
    # NaN where one layer has none: the mean of the others would be another quantity.
    return table.mean(axis=1, skipna=False).unstack("epoch").sort_index(axis=1).reindex(seeds)


def at(rows: pd.DataFrame, line: str, column: str, epoch: int, layers: Sequence[int] | None = None) -> BySeed:
    """A column at an epoch (-1 is the last)."""
    table = course(rows, line, column, layers)
    return table.iloc[:, epoch]


def gain(rows: pd.DataFrame, line: str, column: str = "rho_bar", layers: Sequence[int] | None = None) -> BySeed:
    """The last epoch's minus that before the first step."""
    table = course(rows, line, column, layers)
    return table.iloc[:, -1] - table.iloc[:, 0]


def lead(rows: pd.DataFrame, line: str, other: str, statistic: Callable[[pd.DataFrame, str], BySeed]) -> BySeed:
    """A statistic of one line minus that of another."""
    return statistic(rows, line) - statistic(rows, other)


def average(rows: pd.DataFrame, line: str, column: str) -> BySeed:
    """The mean over all epochs, from 0: lower for what falls faster, higher for what rises faster."""
    return course(rows, line, column).mean(axis=1, skipna=False)


def spread(rows: pd.DataFrame, line: str, column: str, epoch: int = LAST) -> BySeed:
    """Distance of each seed's value from the median of the seeds (Levene 1960, as Brown and Forsythe 1974)."""
    values = at(rows, line, column, epoch)
    return (values - values.median()).abs()


def half_time(rows: pd.DataFrame, line: str) -> BySeed:
    """Epochs until ρ̄ has made half of its own gain, on straight lines between epochs; NaN without a gain."""

    def one(values: pd.Series[float]) -> float:
        y = values.to_numpy("float64")
        goal = (y[0] + y[-1]) / 2
        reached = np.flatnonzero(y >= goal)
        if not y[-1] > y[0] or not len(reached):
            return math.nan
        e = int(reached[0])
        return float(e - 1 + (goal - y[e - 1]) / (y[e] - y[e - 1]))

    return course(rows, line, "rho_bar").apply(one, axis=1)


def widening(rows: pd.DataFrame, line: str) -> BySeed:
    """How far log(mean row norm of V_u / that of V_r) grows from before the first step to the end."""
    first, last = (_fan_ratio(rows, line, epoch).map(math.log) for epoch in (0, LAST))
    return last - first


def _fan_ratio(rows: pd.DataFrame, line: str, epoch: int) -> BySeed:
    return at(rows, line, "fan_u", epoch) / at(rows, line, "fan_r", epoch)


def second_half(rows: pd.DataFrame, line: str) -> BySeed:
    """What ρ̄ gains in the second half of the epochs."""
    table = course(rows, line, "rho_bar")
    return table.iloc[:, -1] - table.iloc[:, table.shape[1] // 2]
