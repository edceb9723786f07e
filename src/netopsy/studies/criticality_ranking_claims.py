"""What the criticality paper claims of measures that rank networks: Fig. 5b, Tables 2 to 5, §1.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why.

A ranking has two sources of spread. `judge` sees the seeds': a value is one τ-a, over all networks of a seed. Of the
architectures the bootstrap of `netopsy.rank_measures` tells, in `pooled`, and `confirmed` asks for both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd

from netopsy.probes.ranking import kendall, rank_measures
from netopsy.store.results import OK
from netopsy.store.sweep import Sweep
from netopsy.studies.claims import BySeed, Claim, Measured, Outcome, Verdict
from netopsy.studies.criticality_ranking import EPSILON, NORMS, Ranked, ranked, ranking_sweep, widths
from netopsy.studies.criticality_settings import Preset

MEASURES = ("criticality", *NORMS, "critical_modules")
"""All that networks are ranked by."""

PAPER = ("pfn", "psn", "dti", "nop", "sosp", "pac_bayes")
"""Rivals in the paper's tables."""

ENOUGH = 0.8
"""Share of a seed's networks that must have been trained to the target and have all measures, for a τ of the seed."""

CURVES = ("fcn-i", "vgg16", "resnet18", "resnet34")
"""Of Figure 5b: the fully connected one first."""


@dataclass(frozen=True, kw_only=True)
class Rival(Measured):
    """A part whose value is a τ, or a difference of two.

    Attributes:
        rival: the measure whose τ is subtracted from criticality's; empty: none.
    """

    rival: str = ""


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a network and seed, at `EPSILON`: trained to its target, with every measure."""
    kept = rows[(rows.status == OK) & np.isclose(rows.epsilon.astype("float64"), EPSILON)]
    kept = kept[kept.reached.astype("bool")]
    numbers = kept.reindex(columns=[*MEASURES, "gap"]).astype("float64")  # a column without a number is not stored
    return kept.assign(**{name: numbers[name] for name in (*MEASURES, "gap")})[numbers.notna().all(axis=1)]


def tau(rows: pd.DataFrame, measure: str) -> BySeed:
    """Kendall's τ-a of a measure and the generalization gap, of each seed; NaN with too few networks (`ENOUGH`)."""
    table, asked = comparable(rows), rows.line.nunique()
    found = {}
    for seed in sorted(rows.seed.unique()):
        part = table[table.seed == seed]
        enough = len(part) >= max(2, ENOUGH * asked)
        found[seed] = kendall(part[measure], part.gap).tau_a if enough else math.nan
    return pd.Series(found, dtype="float64")


def tau_ahead(rows: pd.DataFrame, rival: str) -> BySeed:
    """Criticality's τ less another measure's, on the same networks."""
    return tau(rows, "criticality") - tau(rows, rival)


def pooled(rows: pd.DataFrame, *, resamples: int = 2000) -> pd.DataFrame:
    """All networks and seeds in one ranking, architectures drawn anew: see `netopsy.rank_measures`.

    Raises:
        NetopsyError: when fewer than two networks are comparable.
    """
    return rank_measures(
        comparable(rows),
        MEASURES,
        hyperparameters=("architecture", "batch", "rate", "seed"),
        unit="architecture",
        against="criticality",
        resamples=resamples,
    )


def confirmed(verdict: Verdict, ranking: pd.DataFrame) -> Verdict:
    """A verdict that other architectures would not turn: inconclusive where a `pooled` interval holds the margin.

    The interval that counts for a part is the bootstrap's of its τ, or of its difference in τ.
    """
    table = ranking.set_index("measure")
    doubtful = []
    for part, outcome in zip(verdict.claim.parts, verdict.table.outcome, strict=True):
        if not isinstance(part, Rival) or outcome == "inconclusive":
            continue
        row = table.loc[part.rival or "criticality"]
        low, high = (row.difference_low, row.difference_high) if part.rival else (row.low, row.high)
        above = (part.direction == "above") == (outcome == "reproduced")
        if not (low >= part.margin if above else high <= part.margin):
            doubtful.append(part.name)
    if not doubtful:
        return verdict
    outcomes = verdict.table.outcome.where(~verdict.table.part.isin(doubtful), "inconclusive")
    left: Outcome = "not reproduced" if (outcomes == "not reproduced").any() else "inconclusive"
    reason = f"other architectures could turn it (bootstrap over architectures): {', '.join(doubtful)}"
    return replace(verdict, outcome=left, table=verdict.table.assign(outcome=outcomes), reason=reason)


def kept_order(rows: pd.DataFrame) -> BySeed:
    """Share of pairs of networks and epsilons at which the pair has the order that it has at `EPSILON`."""

    def value(curves: pd.DataFrame) -> float:
        known = curves.drop(columns=EPSILON).dropna(axis=1)
        if known.empty or curves[EPSILON].isna().any():
            return math.nan
        others, here = known.to_numpy(), curves[[EPSILON]].to_numpy()
        same = [
            np.sign(others[one] - others[other]) == np.sign(here[one] - here[other])
            for one, other in itertools.combinations(range(len(others)), 2)
        ]
        return float(np.mean(same))

    return _of_curves(rows, value)


def far_above(rows: pd.DataFrame) -> BySeed:
    """Criticality of the fully connected network over the largest of the others', the least over epsilon."""

    def value(curves: pd.DataFrame) -> float:
        known = curves.dropna(axis=1)
        return float((known.iloc[0] / known.iloc[1:].max()).min()) if known.shape[1] else math.nan

    return _of_curves(rows, value)


def _of_curves(rows: pd.DataFrame, value: Callable[[pd.DataFrame], float]) -> BySeed:
    """A value of each seed's table, networks by epsilon; NaN where a network is missing or missed its target."""
    found = {}
    for seed in sorted(rows.seed.unique()):
        part = rows[(rows.seed == seed) & (rows.status == OK)]
        part = part[part.reached.astype("bool")]
        whole = set(CURVES) <= set(part.line)
        table = part.reindex(columns=["line", "epsilon", "criticality"])
        table = table.astype({"epsilon": "float64", "criticality": "float64"})
        curves = table.pivot_table(index="line", columns="epsilon", values="criticality", dropna=False)
        found[seed] = value(curves.loc[list(CURVES)]) if whole else math.nan
    return pd.Series(found, dtype="float64")


def _criticality(margin: float, lines: tuple[str, ...]) -> Rival:
    return Rival(
        name="criticality ranks networks",
        statistic="Kendall's tau-a of network criticality and the generalization gap",
        direction="above",
        margin=margin,
        lines=lines,
        measure=partial(tau, measure="criticality"),
    )


def _better(rival: str, lines: tuple[str, ...]) -> Rival:
    return Rival(
        name=f"better than {rival}",
        statistic=f"criticality's tau-a less that of {rival}, on the same networks",
        direction="above",
        margin=0.0,
        lines=lines,
        rival=rival,
        measure=partial(tau_ahead, rival=rival),
    )


LINEUP = tuple(ranked("laptop", 2))
"""Names of the laptop's networks, which the paper preset replaces by its nine."""

# T2, T3. The claim is the order: criticality's τ is the highest. Its own must be more than a weak relation: thirty
# unrelated networks have a standard deviation of τ of 0.13. The other measures' own τ are in the table of `pooled`.
T2 = Claim(
    id="criticality/T2",
    source="Table 2",
    sentence="Of all measures network criticality ranks networks most as their generalization gap does (tau 0.55).",
    parts=(_criticality(0.2, LINEUP), *(_better(rival, LINEUP) for rival in PAPER)),
)

T3 = replace(
    T2,
    id="criticality/T3",
    source="Table 3",
    sentence="The same on harder data (CIFAR-100; on a laptop, few digits).",
)

# T4. Of four networks τ is one of seven numbers; -0.33 is the weakest that Table 5 prints, and 0 no order at all.
T4 = Claim(
    id="criticality/T4",
    source="Tables 4, 5",
    sentence="Among widths of one network every measure, criticality too, ranks against the gap.",
    parts=tuple(
        Measured(
            name=f"{measure} ranks widths against it",
            statistic=f"Kendall's tau-a of {measure} and the generalization gap, over four widths",
            direction="below",
            margin=-0.3,
            lines=tuple(widths("laptop")),
            measure=partial(tau, measure=measure),
        )
        for measure in ("criticality", *PAPER)
    ),
)

# N. A tie counts 0, as everywhere: networks with as many critical modules are not told apart by their number.
N = Claim(
    id="criticality/N",
    source="§1, §3",
    sentence="Network criticality, not the number of critical modules, tracks the generalization gap.",
    parts=(_criticality(0.2, LINEUP), _better("critical_modules", LINEUP)),
)

# F5b. One pair in ten may change places near another; far above is three times.
F5B = Claim(
    id="criticality/F5b",
    source="Fig. 5b (read from the figure)",
    sentence="The networks' curves of criticality over epsilon keep their order; the fully connected one lies far "
    "above.",
    parts=(
        Measured(
            name="they keep their order",
            statistic=f"share of pairs, at other epsilons, that have their order at {EPSILON}",
            direction="above",
            margin=0.9,
            lines=CURVES,
            measure=kept_order,
        ),
        Measured(
            name="the fully connected one lies far above",
            statistic="its criticality over the largest of the others', the least over epsilon",
            direction="above",
            margin=3.0,
            lines=CURVES,
            measure=far_above,
        ),
    ),
)


Nets: TypeAlias = Callable[[Preset], Mapping[str, Ranked]]


def _table(name: str, nets: Nets, *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return ranking_sweep(name, nets(preset), preset=preset, seeds=seeds)


def _second(preset: Preset) -> Mapping[str, Ranked]:
    return ranked(preset, 2)


def _third(preset: Preset) -> Mapping[str, Ranked]:
    return ranked(preset, 3)


def _curves(preset: Preset) -> Mapping[str, Ranked]:
    return {name: ranked(preset, 2)[name] for name in CURVES}


CLAIMS: Mapping[str, Claim] = {claim.id.removeprefix("criticality/"): claim for claim in (F5B, T2, T3, T4, N)}

SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    "F5b": partial(_table, "curves", _curves),
    "T2": partial(_table, "table-2", _second),
    "T3": partial(_table, "table-3", _third),
    "T4": partial(_table, "table-4", widths),
    "N": partial(_table, "table-2", _second),
}
"""Claim -> its sweep, of a preset and seeds."""
