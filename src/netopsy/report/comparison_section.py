"""The report's section that puts several networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netopsy.report.blocks import Block, Cell, Column, Entry, Facts, Fold, Heatmap, Section, Table, Text
from netopsy.report.comparison import Comparison, mark
from netopsy.report.robustness_words import MEANING, REINITIALIZE, legend, marked
from netopsy.report.words import points, signed

MOST_ROWS = 300
"""Sites that are shown; of more, those that differ most."""


def comparison_section(found: Comparison, manifests: Sequence[Mapping[str, Any]] = ()) -> Section:
    """Which parts differ, a heatmap of sites x runs, a table of differences, and what was set differently.

    Args:
        found: the comparison.
        manifests: of the training runs, in the same order; empty ones for results without a run.
    """
    frame, first = found.frame, found.runs[0]
    sites = list(dict.fromkeys(frame.site.astype(str)))
    blocks: list[Block] = []
    if len(sites) > MOST_ROWS:
        widest = frame.groupby("site").delta_error.agg(lambda change: change.max() - change.min())
        kept = set(widest.sort_values(ascending=False).index[:MOST_ROWS])
        blocks.append(Text(paragraphs=(f"Of {len(sites):,} parts, the {MOST_ROWS} that differ most are shown.",)))
        sites = [site for site in sites if site in kept]
    rows = {(row["site"], row["run"]): row for row in frame.to_dict("records")}
    blocks.insert(0, _heatmap(found, sites, rows))
    tables = []
    for run in found.runs[1:]:
        both = [site for site in sites if (site, run) in rows and (site, first) in rows]
        tables += [_table(found, run, both, rows)] if both else []
    if len(found.runs) > 2:
        blocks.append(_spread(found, sites))
        blocks += [Fold(title=f"Each run against {first}", blocks=tuple(tables))] if tables else []
    else:
        blocks += tables
    settings = _settings(found.runs, manifests)
    if settings:
        blocks.append(Fold(title="What was set differently", blocks=(Facts(rows=settings),)))
    done = "set back to its earliest measured checkpoint" if found.operation == REINITIALIZE else "drawn anew"
    return Section(
        title="Side by side",
        question=(
            f"When one part is {done} alone, does it cost these networks the same? Differences are to {first}; their "
            "intervals hold when those of both runs do."
        ),
        verdict=found.sentences(),
        blocks=tuple(blocks),
    )


def _heatmap(found: Comparison, sites: Sequence[str], rows: Mapping[tuple[Any, Any], Mapping[Any, Any]]) -> Heatmap:
    shown = set(sites)
    top = max(float(found.frame.delta_error.max()), 0.1)

    def cell(site: str, run: str) -> Cell:
        row = rows.get((site, run))
        if row is None:
            return Cell(text="", empty=True)
        low, high = (points(float(row[f"delta_error_{end}"])) for end in ("low", "high"))
        note = (f"change {points(float(row['delta_error']))}, interval {low} to {high}", MEANING[marked(row)])
        change = float(row["delta_error"])
        return Cell(text=signed(change), note=note, level=change / top, mark=mark(row))

    return Heatmap(
        corner="part",
        rows=tuple(sites),
        columns=found.runs,
        cells=tuple(tuple(cell(site, run) for run in found.runs) for site in sites),
        scale=("±0", points(top)),
        quantity=f"change of {found.split} error (points)",
        caption=legend({marked(row) for (site, _), row in rows.items() if site in shown}),
    )


def _spread(found: Comparison, sites: Sequence[str]) -> Table:
    """Mean and standard deviation of each part over the runs."""
    spread = found.spread().loc[list(sites)]
    low, high = spread["mean"] - spread["sd"].fillna(0), spread["mean"] + spread["sd"].fillna(0)
    columns = (
        Column(name="part", help="in the network's order"),
        Column(
            name="mean ± sd over runs",
            help="change of error in points; the bar is one standard deviation of the runs to each side",
            numeric=True,
            span=(min(0.0, float(low.min())), max(0.0, float(high.max()))),
        ),
        Column(name="sd", numeric=True),
        Column(name="runs", numeric=True),
    )
    rows = []
    for place, (site, row) in enumerate(spread.iterrows()):
        mean, sd = float(row["mean"]), float(row["sd"])
        known = sd == sd
        bar = (mean - sd, mean, mean + sd) if known else None
        entries = (
            Entry(text=str(site), sort=place),
            Entry(text=signed(mean), sort=mean, bar=bar),
            Entry(text=f"{100 * sd:.1f}" if known else "", sort=sd if known else None),
            Entry(text=str(int(row["n"])), sort=float(row["n"])),
        )
        rows.append(entries)
    return Table(
        columns=columns, rows=tuple(rows), caption=f"Over {len(found.runs)} runs; change of error in points."
    )


def _table(
    found: Comparison, run: str, both: Sequence[str], rows: Mapping[tuple[Any, Any], Mapping[Any, Any]]
) -> Table:
    """The differences of one run to the first."""
    first = found.runs[0]
    ends = [0.0, *(float(rows[site, run][f"difference_{end}"]) for site in both for end in ("low", "high"))]
    columns = (
        Column(name="part", help="in the network's order"),
        Column(name="beyond chance", help="the interval of the difference does not contain zero"),
        Column(name="difference", help="in points, with its interval", numeric=True, span=(min(ends), max(ends))),
        Column(name=first, numeric=True),
        Column(name=run, numeric=True),
    )
    entries = []
    for place, site in enumerate(both):
        row, other = rows[site, run], rows[site, first]
        bar = tuple(float(row[f"difference{end}"]) for end in ("_low", "", "_high"))
        sure = bar[0] > 0 or bar[2] < 0
        entries.append(
            (
                Entry(text=site, sort=place),
                Entry(text="differs" if sure else "–", sort=-int(sure), mark="between" if sure else ""),
                Entry(
                    text=signed(bar[1]),
                    sort=bar[1],
                    bar=(bar[0], bar[1], bar[2]),
                    note=(f"{points(bar[0])} to {points(bar[2])}",),
                ),
                _change(other),
                _change(row),
            )
        )
    return Table(columns=columns, rows=tuple(entries), caption=f"{run} against {first}; change of error in points.")


def _change(row: Mapping[Any, Any]) -> Entry:
    change = float(row["delta_error"])
    return Entry(text=signed(change), sort=change, note=(MEANING[marked(row)],))


def _settings(runs: Sequence[str], manifests: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Options of the training runs that are not the same."""
    configs = [{**dict(m["config"]), "data": m.get("data"), "model": m.get("model")} for m in manifests if m]
    if len(configs) != len(runs):
        return ()
    names = dict.fromkeys(name for config in configs for name in config)
    return tuple(
        (
            name.replace("_", " "),
            ", ".join(f"{run}: {config.get(name)}" for run, config in zip(runs, configs, strict=True)),
        )
        for name in names
        if len({str(config.get(name)) for config in configs}) > 1
    )
