"""A claim of a paper, stated so that a run can confirm or refute it; and its verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from scipy import stats

from netopsy._checks import NetopsyError

Outcome = Literal["reproduced", "not reproduced", "inconclusive", "not run"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One number whose mean over seeds must lie on one side of a margin, fixed before the run.

    Attributes:
        name: short.
        statistic: what is computed of one seed, in words.
        direction: on which side of the margin the claim puts it.
        margin: the border.
    """

    name: str
    statistic: str
    direction: Literal["above", "below"]
    margin: float


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of a paper.

    Attributes:
        id: `paper/figure`.
        source: where in the paper.
        sentence: what it says.
        parts: all of them must hold.
        seeds: the fewest training seeds for a verdict.
    """

    id: str
    source: str
    sentence: str
    parts: tuple[Part, ...]
    seeds: int = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run says of a claim.

    Attributes:
        claim: the claim.
        outcome: `reproduced` when every part's 95 % t-interval over seeds lies on the claimed side of its margin,
            `not reproduced` when one lies on the other side, else `inconclusive`; `not run` with the reason.
        table: one row a part: `part, margin, direction, mean, low, high, n, outcome`, and `values` by seed.
        reason: why it was not run.
    """

    claim: Claim
    outcome: Outcome
    table: pd.DataFrame
    reason: str = ""

    def __str__(self) -> str:
        lines = [f"{self.claim.id} ({self.claim.source}): {self.outcome.upper()}", f"  {self.claim.sentence}"]
        for row in self.table.itertuples():
            lines.append(
                f"  - {row.part}: {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}] over {row.n} seeds, claimed "
                f"{row.direction} {row.margin:g}: {row.outcome}"
            )
        return "\n".join([*lines, *([f"  {self.reason}"] if self.reason else [])])


def judge(claim: Claim, values: Mapping[str, Sequence[float]]) -> Verdict:
    """Hold the parts' values, one a seed, against their margins.

    A part that is undefined for a seed (NaN: there was nothing to compare) leaves the claim inconclusive.

    Raises:
        NetopsyError: when a part has no values, or fewer seeds than the claim asks for.
    """
    rows = []
    for part in claim.parts:
        seen = list(values.get(part.name, ()))
        if len(seen) < claim.seeds:
            raise NetopsyError(
                f"{claim.id}, {part.name}: expected values of at least {claim.seeds} seeds; got {len(seen)}"
            )
        mean, low, high = t_interval(seen)
        side = {"above": (low >= part.margin, high < part.margin), "below": (high <= part.margin, low > part.margin)}
        holds, fails = side[part.direction]
        outcome = "reproduced" if holds else "not reproduced" if fails else "inconclusive"
        rows.append((part.name, part.direction, part.margin, mean, low, high, len(seen), outcome, seen))
    columns = ["part", "direction", "margin", "mean", "low", "high", "n", "outcome", "values"]
    table = pd.DataFrame(rows, columns=columns)
    outcomes = set(table.outcome)
    overall: Outcome = (
        "not reproduced"
        if "not reproduced" in outcomes
        else "inconclusive"
        if "inconclusive" in outcomes
        else "reproduced"
    )
    return Verdict(claim=claim, outcome=overall, table=table)


def not_run(claim: Claim, reason: str) -> Verdict:
    """The verdict of a claim that was not measured."""
    columns = ["part", "direction", "margin", "mean", "low", "high", "n", "outcome", "values"]
    return Verdict(claim=claim, outcome="not run", table=pd.DataFrame(columns=columns), reason=reason)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and t-interval of one value a seed; without width where all are equal, infinite for a single one.

    >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    mean = statistics.mean(map(float, values))  # exact, so that equal values have no spread
    if len(values) < 2 or math.isnan(mean):
        return mean, -math.inf, math.inf
    spread = statistics.stdev(map(float, values)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * spread
    return mean, mean - half, mean + half
