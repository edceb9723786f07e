"""A claim of a paper, stated so that a run can confirm or refute it; and its verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd
from scipy import stats

from netopsy._checks import NetopsyError

Outcome = Literal["reproduced", "not reproduced", "inconclusive", "not run"]

Direction = Literal["above", "below"]
"""On which side of a margin."""

BySeed: TypeAlias = "pd.Series[float]"
"""One value a seed."""

CONFIDENCE = 0.95

COLUMNS = ["part", "group", "direction", "margin", "mean", "low", "high", "n", "outcome", "values"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One number whose mean over seeds must lie on one side of a margin, fixed before the run.

    Attributes:
        name: short.
        statistic: what is computed of one seed, in words.
        direction: on which side of the margin the claim puts it.
        margin: the border.
        group: of the parts of one group, one that holds is enough; empty: the part must hold itself.
    """

    name: str
    statistic: str
    direction: Direction
    margin: float
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured(Part):
    """A part that says how it is measured.

    Attributes:
        lines: lines of nets that it needs.
        measure: rows of those lines -> one value a seed, in the order of the seeds.
    """

    lines: tuple[str, ...]
    measure: Callable[[pd.DataFrame], BySeed]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of a paper.

    Attributes:
        id: `paper/figure`.
        source: where in the paper.
        sentence: what it says.
        parts: all of them must hold, and one of each group.
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
            and that of one part of each group; `not reproduced` when a part's interval lies on the other side, or
            those of a whole group; else `inconclusive`; `not run` with the reason. The intervals of a group's parts
            are Holm's (1979): wider, so that the best of them is not called a find for being the best of many.
        table: one row a part: `part, group, margin, direction, mean, low, high, n, outcome`, and `values` by seed.
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
    for part in claim.parts:
        if len(values.get(part.name, ())) < claim.seeds:
            raise NetopsyError(
                f"{claim.id}, {part.name}: expected values of at least {claim.seeds} seeds; "
                f"got {len(values.get(part.name, ()))}"
            )
    confidence = _confidence(claim.parts, values)
    rows = []
    for part in claim.parts:
        seen = list(values[part.name])
        mean, low, high = t_interval(seen, confidence[part.name])
        side = {"above": (low >= part.margin, high < part.margin), "below": (high <= part.margin, low > part.margin)}
        holds, fails = side[part.direction]
        outcome = "reproduced" if holds else "not reproduced" if fails else "inconclusive"
        rows.append((part.name, part.group, part.direction, part.margin, mean, low, high, len(seen), outcome, seen))
    table = pd.DataFrame(rows, columns=COLUMNS)
    outcomes = set(table.outcome[table.group == ""])
    outcomes |= {_best(part.outcome) for _, part in table[table.group != ""].groupby("group")}
    return Verdict(claim=claim, outcome=_worst(outcomes), table=table)


def not_run(claim: Claim, reason: str) -> Verdict:
    """The verdict of a claim that was not measured."""
    return Verdict(claim=claim, outcome="not run", table=pd.DataFrame(columns=COLUMNS), reason=reason)


def lines_of(claim: Claim) -> list[str]:
    """The lines of nets that a claim's parts need, each once, in the order in which the claim speaks of them."""
    return list(dict.fromkeys(line for part in claim.parts if isinstance(part, Measured) for line in part.lines))


def measured(claim: Claim, rows: pd.DataFrame) -> dict[str, list[float]]:
    """The values of a claim's parts, one a seed."""
    parts = [part for part in claim.parts if isinstance(part, Measured)]
    return {part.name: [float(value) for value in part.measure(rows)] for part in parts}


def _worst(outcomes: set[str]) -> Outcome:
    """Of parts that must all hold."""
    if "not reproduced" in outcomes:
        return "not reproduced"
    return "inconclusive" if "inconclusive" in outcomes else "reproduced"


def _best(outcomes: pd.Series[str]) -> Outcome:
    """Of parts of which one must hold."""
    if (outcomes == "reproduced").any():
        return "reproduced"
    return "not reproduced" if (outcomes == "not reproduced").all() else "inconclusive"


def _confidence(parts: Sequence[Part], values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each part's interval: Holm's steps within a group, from its surest part on, until one does not hold."""
    found = {part.name: CONFIDENCE for part in parts if not part.group}
    for group in dict.fromkeys(part.group for part in parts if part.group):
        members = sorted((part for part in parts if part.group == group), key=lambda part: _doubt(part, values))
        level = CONFIDENCE
        for place, part in enumerate(members):
            if place == 0 or _doubt(members[place - 1], values) <= 1 - level:
                level = 1 - (1 - CONFIDENCE) / (len(members) - place)
            found[part.name] = level
    return found


def _doubt(part: Part, values: Mapping[str, Sequence[float]]) -> float:
    """Two-sided p-value of the mean being at the margin; 1 and more on the wrong side of it, or undefined."""
    seen = [float(value) for value in values[part.name]]
    mean, low, high = t_interval(seen)
    ahead = mean - part.margin if part.direction == "above" else part.margin - mean
    if math.isnan(mean) or ahead < 0 or len(seen) < 2:
        return 2.0
    if low == high:
        return 0.0
    t = ahead / (statistics.stdev(seen) / math.sqrt(len(seen)))
    return float(2 * stats.t.sf(t, len(seen) - 1))


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
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


def rank_correlation(values: Sequence[float]) -> float:
    """Spearman's correlation with the place in the sequence; NaN with a missing value, or where all are equal."""
    if any(map(math.isnan, values)) or len(set(values)) == 1:
        return math.nan
    return float(stats.spearmanr(range(len(values)), values).statistic)
