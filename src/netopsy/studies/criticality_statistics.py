"""Statistics of the criticality study: one value a seed, of the rows that `criticality_sweeps` leaves.

A network that failed leaves NaN in its seed's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats

from netopsy.studies.claims import BySeed

Which: TypeAlias = Literal["full network", "critical", "spare"]
"""Of a convex path: all parameters together; the module whose rewinding costs most; the one that costs least."""

CRITICAL, ROBUST = 0.2, 0.05
"""Increases of the test error by re-initialization: from the one on a module is critical, up to the other robust."""

FLOOR = 1e-2
"""Least criticality that is told from 0."""


def by_seed(rows: pd.DataFrame, line: str, value: Callable[[pd.DataFrame], float]) -> BySeed:
    """A value of each seed's rows of a line; NaN where they are missing or failed."""
    mine = rows[rows.line == line]
    seeds = sorted(rows.seed.unique())
    found = {}
    for seed in seeds:
        part = mine[mine.seed == seed]
        done = part[part.status == "ok"]
        found[seed] = value(done) if len(done) and len(done) == len(part) else math.nan
    return pd.Series(found, dtype="float64")


def increases(rows: pd.DataFrame, split: str, column: str) -> BySeed:
    """What re-initializing each module costs, by site."""
    return rows[rows.split == split].set_index("site")[column].astype("float64")


def robust_share(rows: pd.DataFrame, line: str) -> BySeed:
    """Share of the modules whose re-initialization raises the test error by at most `ROBUST`."""
    return by_seed(rows, line, lambda part: float((increases(part, "test", "delta_error") <= ROBUST).mean()))


def critical_count(rows: pd.DataFrame, line: str) -> BySeed:
    """Modules whose re-initialization raises the test error by at least `CRITICAL`."""
    return by_seed(rows, line, lambda part: float((increases(part, "test", "delta_error") >= CRITICAL).sum()))


def same_pattern(rows: pd.DataFrame, line: str, column: str) -> BySeed:
    """How a quantity on the train split goes with the error on the test split, over the modules.

    Pearson's correlation for the errors, which have one scale; Spearman's for the loss, which has none.
    """

    def value(part: pd.DataFrame) -> float:
        test = increases(part, "test", "delta_error")
        train = increases(part, "train", column).reindex(test.index)
        if test.nunique() < 2 or train.nunique() < 2:
            return math.nan
        kind = stats.pearsonr if column == "delta_error" else stats.spearmanr
        return float(kind(train, test).statistic)

    return by_seed(rows, line, value)


def path(rows: pd.DataFrame, which: Which, split: str, quantity: str) -> BySeed:
    """One seed's curve, from alpha = 1 (trained) to 0."""
    site: str = which
    if which != "full network":
        end = rows[(rows.alpha == 0) & (rows.split == "test") & (rows.site != "full network")].set_index("site").error
        site = str(end.astype("float64").idxmax() if which == "critical" else end.astype("float64").idxmin())
    mine = rows[(rows.site == site) & (rows.split == split)].set_index("alpha")[quantity]
    return mine.astype("float64").sort_index(ascending=False)


def fall(rows: pd.DataFrame, line: str, which: Which, split: str, quantity: str) -> BySeed:
    """The deepest fall of a curve on its way to the initial weights, of a loss as a share of its range."""

    def value(part: pd.DataFrame) -> float:
        curve = path(part, which, split, quantity)
        deepest = float((curve.cummax() - curve).max())
        spread = float(curve.max() - curve.min())
        if quantity == "error":
            return deepest
        return deepest / spread if spread else 0.0

    return by_seed(rows, line, value)


def ahead(rows: pd.DataFrame, line: str, more: Which, less: Which, split: str, quantity: str) -> BySeed:
    """How far one curve lies above another, mean over alpha below 1."""

    def value(part: pd.DataFrame) -> float:
        gap = path(part, more, split, quantity) - path(part, less, split, quantity)
        return float(gap[gap.index < 1].mean())

    return by_seed(rows, line, value)


def log_total(rows: pd.DataFrame, line: str, epsilon: float) -> BySeed:
    """Logarithm of the network's criticality, which counts as `FLOOR` below it; NaN with a module that has none."""

    def value(part: pd.DataFrame) -> float:
        mu = part.mu[np.isclose(part.epsilon.astype("float64"), epsilon)].astype("float64")
        return math.log(max(FLOOR, float(mu.sum(skipna=False)))) if len(mu) and mu.notna().all() else math.nan

    return by_seed(rows, line, value)


def log_ratio(rows: pd.DataFrame, line: str, other: str, epsilon: float) -> BySeed:
    """Logarithm of one line's criticality over another's."""
    return log_total(rows, line, epsilon) - log_total(rows, other, epsilon)


def covered(rows: pd.DataFrame, line: str) -> BySeed:
    """Share of the bounds of a network that its error on held-out data, under the same noise, does not exceed."""
    return by_seed(rows, line, lambda part: float((part.held_out_error <= part.bound).mean()))


def largest_bound(rows: pd.DataFrame, line: str) -> BySeed:
    """The bound at all examples: 1 or more says nothing."""
    return by_seed(rows, line, lambda part: float(part.sort_values("m").bound.iloc[-1]))


def least_shrinking(rows: pd.DataFrame, line: str) -> BySeed:
    """By how much the bound falls from one number of examples to the next, the least of them."""
    return by_seed(rows, line, lambda part: float(-part.sort_values("m").bound.astype("float64").diff().max()))
