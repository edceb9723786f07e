"""Complexity measures of several networks beside their errors: which measure ranks them as their gaps do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from netopsy.probes.complexity import MEASURES
from netopsy.probes.ranking import rank_measures
from netopsy.report.blocks import Block, Column, Entry, Facts, Fold, Section, Table, Text
from netopsy.report.words import names, percent, points

ERRORS = {"train_error": "train error", "test_error": "test error", "gap": "gap"}

WORDS = {
    "pfn": "product of the layers' Frobenius norms, log₁₀",
    "psn": "product of the layers' spectral norms, log₁₀",
    "dti": "distance to initialization, summed over the layers",
    "dti_squares": "its square, summed over the layers",
    "nop": "number of parameters",
    "sosp": "parameters × summed spectral distances to initialization",
    "pac_bayes": "Σ ‖Δ‖²/σ², σ the noise that each layer bears where it is",
    "pac_bayes_optimum": "the same with σ where criticality is least",
    "criticality": "network criticality, Σ μ",
    "spectral_margin": "spectral norms over the margin, log₁₀",
    "path_norm": "path norm, log₁₀",
    "sharpness": "top eigenvalue of the train loss's Hessian",
}
"""What each measure is."""

ENOUGH = 3
"""Networks from which on an order of them can agree or disagree."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Measures:
    """Measures of several networks.

    Attributes:
        table: a row a network: `network, train_error, test_error, gap` and each measure, NaN where it has no value.
        ranking: of three networks or more, a row a measure, see `netopsy.rank_measures`; else None.
        epsilon: train error that criticality allowed; None where it is of none.
        cautions: what is left blank, and why.
    """

    table: pd.DataFrame = field(repr=False)
    ranking: pd.DataFrame | None = field(repr=False)
    epsilon: float | None
    cautions: tuple[str, ...] = ()

    @property
    def measured(self) -> list[str]:
        """Measures that some network has."""
        return [name for name in MEASURES if name in self.table and self.table[name].notna().any()]

    def sentences(self) -> tuple[str, ...]:
        """What the gaps are and which measures go with them; then what is left blank."""
        return (*_gaps(self), *self.cautions)

    def __str__(self) -> str:
        if self.table.empty:
            return "\n".join(self.cautions)
        wide = self.table.set_index("network")
        rows = {
            ERRORS.get(name, name): [_shown(name, value) for value in wide[name]]
            for name in [*ERRORS, *self.measured]
        }
        shown = pd.DataFrame.from_dict(rows, orient="index", columns=list(wide.index))
        if self.ranking is not None:
            told = self.ranking.set_index("measure")
            shown["τ with the gap"] = [_tau(told.loc[name]) if name in told.index else "" for name in shown.index]
        return "\n".join([shown.to_string(), *self.sentences()])


def rank(rows: Sequence[Mapping[str, Any]], *, epsilon: float | None, cautions: Sequence[str]) -> Measures:
    """Rank networks by each measure, where there are enough of them.

    Args:
        rows: of the table.
        epsilon: train error that criticality allowed.
        cautions: what is left blank, and why.
    """
    table = pd.DataFrame(rows, columns=["network", *ERRORS, *MEASURES]).astype({"network": "string"})
    known = table[table.gap.notna()]
    ranking = None
    if len(known) >= ENOUGH:
        ranking = rank_measures(known, [name for name in MEASURES if known[name].notna().sum() >= ENOUGH])
    return Measures(table=table, ranking=ranking, epsilon=epsilon, cautions=tuple(cautions))


def measures_section(found: Measures) -> Section:
    """The table of measures with their τ, and what they are."""
    blocks: list[Block] = [] if found.table.empty else [_table(found), _how_to_read(found)]
    if found.ranking is not None:
        few = (
            "Few networks make wide intervals: the τ of measures that know nothing has a standard deviation of 0.27 "
            "with nine networks, and more with fewer. The interval is a bootstrap over networks.",
        )
        blocks.insert(1, Text(paragraphs=few))
    return Section(
        title="Complexity measures",
        question=(
            "Which number, measured on the train data alone, says which of these networks generalizes better? The "
            "gap is test error less train error."
        ),
        verdict=found.sentences(),
        blocks=tuple(blocks),
    )


def text(value: float) -> str:
    """Four digits.

    >>> text(1234567.0), text(float("nan")), text(0.000123), text(2.5e12)
    ('1,235,000', '–', '0.000123', '2.5e+12')
    """
    if math.isnan(value):
        return "–"
    return f"{float(f'{value:.4g}'):,.10g}" if abs(value) < 1e10 else f"{value:.4g}"


def _shown(name: str, value: float) -> str:
    """An error in percent, a gap in points, a measure in its scale."""
    if value != value or name not in ERRORS:
        return text(value)
    return points(value) if name == "gap" else percent(value)


def _tau(row: Any) -> str:
    return f"{row['tau_a']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], n = {row['n']}".replace("-", "−")


def _gaps(found: Measures) -> list[str]:
    """The gaps, and the measures that go with them."""
    known = sorted(
        (row for row in found.table.to_dict("records") if row["gap"] == row["gap"]), key=lambda r: r["gap"]
    )
    if len(known) < 2:
        return []
    least, most = known[0], known[-1]
    gaps = f"The gap between test and train error goes from {points(least['gap'])} ({least['network']}) to "
    said = [f"{gaps}{points(most['gap'])} ({most['network']})."]
    if found.ranking is None:
        agree = [name for name in found.measured if most[name] > least[name]]
        against = [name for name in found.measured if most[name] < least[name]]
        said += [f"Larger for {most['network']}, as its gap is: {names(agree, 12)}."] if agree else []
        said += [f"Smaller for it: {names(against, 12)}."] if against else []
        said.append("Two networks cannot tell whether a measure ranks networks: compare three or more.")
        return said
    sure = found.ranking[found.ranking.low > 0].sort_values("tau_a", ascending=False, kind="stable")
    told = [f"{row['measure']} ({row['tau_a']:+.2f})" for row in sure.to_dict("records")]
    if told:
        said.append(
            f"Measures that rank the {len(known)} networks as their gaps do, beyond chance: {names(told, 12)}."
        )
    else:
        said.append(f"No measure ranks these {len(known)} networks as their gaps do by more than chance would.")
    return said


def _table(found: Measures) -> Table:
    wide = found.table.set_index("network")
    columns = [Column(name="measure", help="larger is expected to go with a larger gap")]
    columns += [Column(name=str(network), numeric=True) for network in wide.index]
    told = None if found.ranking is None else found.ranking.set_index("measure")
    if told is not None:
        columns += [
            Column(
                name="τ with the gap",
                help="Kendall's τ-a: 1 where every pair of networks is ranked as the gap does, −1 where none is",
                numeric=True,
                span=(-1.0, 1.0),
                line=0.0,
            ),
            Column(name="n", help="networks that have the measure", numeric=True),
        ]
    rows = []
    for at, name in enumerate([*ERRORS, *found.measured]):
        entries = [Entry(text=ERRORS.get(name, name), sort=at, note=(WORDS[name],) if name in WORDS else ())]
        entries += [
            Entry(text=_shown(name, value), sort=None if value != value else value)
            for value in map(float, wide[name])
        ]
        if told is not None:
            entries += _ranked(told.loc[name]) if name in told.index else [Entry(text=""), Entry(text="")]
        rows.append(tuple(entries))
    return Table(
        columns=tuple(columns), rows=tuple(rows), caption="Errors and measures of each network. Sort by any column."
    )


def _ranked(row: Any) -> list[Entry]:
    tau, low, high = (float(row[name]) for name in ("tau_a", "low", "high"))
    known = low == low
    note = (f"{low:+.2f} to {high:+.2f}, {row['concordant']} of {row['pairs']} pairs in order",) if known else ()
    return [
        Entry(text=f"{tau:+.2f}".replace("-", "−"), sort=tau, bar=(low, tau, high) if known else None, note=note),
        Entry(text=str(row["n"]), sort=float(row["n"])),
    ]


def _how_to_read(found: Measures) -> Block:
    rows = [(name, WORDS[name]) for name in found.measured]
    if found.epsilon is not None:
        rows.append(("allowed", f"by criticality: a train error of {percent(found.epsilon)}, the same for all"))
    note = (
        "Most of these measures can be changed by rescaling layers, which leaves the function alone: they compare "
        "networks that were made and trained alike, on the same data.",
    )
    return Fold(title="What the measures are", blocks=(Facts(rows=tuple(rows)), Text(paragraphs=note)))
