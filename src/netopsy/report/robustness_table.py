"""The table of a robustness section: a row a site, everything that is known of it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from netopsy.plots.frames import key, ordered_keys
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.blocks import Column, Entry, Mark, Table
from netopsy.report.robustness_words import (
    MEANING,
    REINITIALIZE,
    drawn_rows,
    is_fresh,
    marked,
    nouns,
    reference,
    whole_network,
)
from netopsy.report.words import count, points, signed

RANK: tuple[Mark, ...] = ("critical", "non-finite", "between", "differ", "undecided", "robust", "no-op")
"""Order of verdicts when the table is sorted by them: worst first."""


def site_table(result: RobustnessResult, split: str, sites: Sequence[str]) -> Table:
    """A row a site: size, verdict, what its reset costs, since when it is robust, how far it moved.

    Columns that have nothing to say of any site are left out.
    """
    frame = result.frame[(result.frame.split == split) & result.frame.site.isin(sites)]
    main = reference(result, split)
    main = main[main.index.isin(sites)]
    fresh, again = drawn_rows(result, split), is_fresh(main)
    fresh = fresh[~fresh.index.isin(whole_network(result))]
    sizes: dict[str, int] = result.provenance.get("parameters", {})
    moved = _moved(result)
    since = {} if again else settled(frame, result.provenance.get("final"))
    tolerance = float(result.provenance["tolerance"])
    one, _ = nouns(result)
    where = "fresh draw" if again else f"reset to {key(main.checkpoint.iloc[0])}"
    several = " (mean of the draws)" if again and frame.draw.nunique() > 1 else ""
    ends = [0.0, tolerance, *main.delta_error_low.dropna(), *main.delta_error_high.dropna()]
    columns = [
        Column(name=one, help="in the network's order"),
        Column(name="verdict", help=f"after a {where}"),
        Column(
            name=f"error, {where}",
            help=f"change of the error in points{several}, with its interval; the line is the tolerance",
            numeric=True,
            span=(min(ends), max(ends)),
            line=tolerance,
        ),
        Column(name="drawn anew", help="change of the error after a fresh draw, mean of the draws", numeric=True),
        Column(
            name="robust from",
            help="the first column of the heatmap from which on every reset is robust or changes nothing",
            numeric=True,
        ),
        Column(name="moved", help="‖trained − initial‖₂ / √dim, in units of the weights", numeric=True),
        Column(name="parameters", numeric=True),
    ]
    rows = []
    for place, (site, row) in enumerate(main.iterrows()):
        mark = marked(row)
        change = float(row.delta_error)
        bar = (float(row.delta_error_low), change, float(row.delta_error_high))
        note = (f"{points(bar[0])} to {points(bar[2])}", count(int(row["n"]), "example"))
        rows.append(
            (
                Entry(text=str(site), sort=place),
                Entry(text=MEANING[mark], sort=RANK.index(mark), mark=mark),
                Entry(text=signed(change), sort=change, bar=bar, note=note),
                _redrawn(fresh, str(site)) if not again else Entry(text=""),
                _since(since.get(str(site))),
                _number(moved.get(str(site)), ".3g"),
                _number(sizes.get(str(site)), ",d"),
            )
        )
    used = [c for c in range(len(columns)) if c < 3 or any(row[c].text for row in rows)]
    return Table(
        columns=tuple(columns[c] for c in used),
        rows=tuple(tuple(row[c] for c in used) for row in rows),
        caption=f"Change of error in points after a {where}, one {one} at a time. Sort by any column.",
    )


def settled(frame: pd.DataFrame, final: object) -> dict[str, tuple[int, object]]:
    """Site -> place and key of the first checkpoint from which on every reset is robust or changes nothing.

    Checkpoints are in the heatmap's order. The trained one itself says nothing; sites that are robust at none from
    there on, as their weights do not change any more, are left out.
    """
    reset = frame[(frame.operation == REINITIALIZE) & (frame.checkpoint.astype(str) != str(final))]
    keys = ordered_keys(reset.checkpoint)
    if len(keys) < 2:
        return {}
    place = {name: at for at, name in enumerate(keys)}
    at = reset.checkpoint.map(lambda item: place[key(item)])
    verdict, site = reset.verdict.astype(object), reset.site.astype(str)
    robust, idle = verdict.isin(["robust"]), reset.status.astype(object).isin(["no-op"])
    last, latest = (at[rows].groupby(site[rows]).max().to_dict() for rows in (~(robust | idle), robust))
    first = {name: int(last.get(name, -1)) + 1 for name in site.unique()}
    return {name: (begin, keys[begin]) for name, begin in first.items() if latest.get(name, -1) >= begin}


def _since(found: tuple[int, object] | None) -> Entry:
    return Entry(text="") if found is None else Entry(text=str(found[1]), sort=found[0])


def _redrawn(fresh: pd.DataFrame, site: str) -> Entry:
    if site not in fresh.index:
        return Entry(text="")
    change = float(fresh.delta_error[site])
    return Entry(text=signed(change), sort=change)


def _number(value: float | None, form: str) -> Entry:
    return Entry(text="") if value is None else Entry(text=format(value, form), sort=float(value))


def _moved(result: RobustnessResult) -> dict[str, float]:
    """How far each site is from its initial weights at the end."""
    at_end = result.distances[result.distances.checkpoint.astype(str) == str(result.provenance.get("final"))]
    return dict(zip(at_end.site.astype(str), at_end.l2.astype(float), strict=True))
