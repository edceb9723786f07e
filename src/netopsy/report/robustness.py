"""The report's section on re-initialization and re-randomization robustness."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from netopsy._checks import shorten
from netopsy.plots.frames import RERANDOM, quantity, tabulate
from netopsy.plots.heatmap import cuts, darkest, meaningful
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.blocks import Block, Cell, Code, Facts, Fold, Heatmap, Mark, Picture, Section, Text
from netopsy.report.call import call
from netopsy.report.robustness_table import site_table
from netopsy.report.robustness_words import (
    MEANING,
    RERANDOMIZE,
    SIGNS,
    agreed,
    is_fresh,
    legend,
    main_split,
    marked,
    nouns,
    reference,
    sentences,
    sign,
    single_sites,
    whole_network,
)
from netopsy.report.vector import drawn
from netopsy.report.words import bound, count, percent, points, signed

MOST_ROWS = 300
"""Sites of a table or a heatmap: of more, those whose reset costs most are shown."""

MOST_LINES = 40
"""Sites up to which curves over the sites, and lines of distances, can be told apart."""


def robustness_section(result: RobustnessResult) -> Section:
    """What the robustness probe found, from the verdict to how to repeat it."""
    split, frame = main_split(result), result.frame
    kept, left_out = most_affected(result, split)
    blocks: list[Block] = []
    if len(kept):
        blocks += [heatmap(result, name, kept) for name in frame.split.unique()]
        blocks += [Text(paragraphs=(left_out,))] if left_out else []
        blocks += [site_table(result, split, kept)]
        blocks += pictures(result, split)
    return Section(
        title="Robustness to re-initialization and re-randomization",
        question=(
            "If one part of the trained network goes back to an earlier checkpoint, or to a fresh random draw, and "
            "all others stay as trained, how much worse does the network get?"
        ),
        verdict=sentences(result),
        counts=counts(result, split),
        blocks=(*blocks, how_to_read(result), provenance(result)),
    )


def counts(result: RobustnessResult, split: str) -> tuple[tuple[Mark, str], ...]:
    """How many single sites have which verdict."""
    rows = reference(result, split)
    single = rows[rows.index.isin(single_sites(result))]
    found = Counter(marked(row) for row in single.to_dict("records"))
    return tuple((mark, f"{found[mark]} {meaning}") for mark, meaning in MEANING.items() if found[mark])


def most_affected(result: RobustnessResult, split: str) -> tuple[list[str], str]:
    """Sites to show, in the network's order, and what to say of those left out."""
    sites = [str(site) for site in result.frame.site.dropna().unique()]
    if len(sites) <= MOST_ROWS:
        return sites, ""
    rows, whole = reference(result, split), whole_network(result)
    cost = rows.delta_error.drop(index=list(whole), errors="ignore").sort_values(ascending=False, kind="stable")
    shown, others = {*cost.index[:MOST_ROWS], *whole}, cost.iloc[MOST_ROWS:]
    if others.empty:
        return sites, ""
    edit = "fresh draw" if is_fresh(rows) else "reset"
    left = (
        f"Of {len(cost):,} sites, the {MOST_ROWS} whose {edit} costs most are shown here; the result's to_frame() "
        f"has all. After that {edit}, none of the others costs more than {points(float(others.iloc[0]))}."
    )
    return [site for site in sites if site in shown], left


def heatmap(result: RobustnessResult, split: str, sites: Sequence[str]) -> Heatmap:
    """Sites x (fresh draws, checkpoints), the layout of the paper's Figure 1."""
    frame = result.frame[(result.frame.split == split) & (result.frame.site.isna() | result.frame.site.isin(sites))]
    metric = "error" if "error" in frame else "delta_error"
    table = tabulate(frame, metric=metric, final=result.provenance.get("final"))
    top, status = darkest(table, metric), meaningful(table)
    reach = max(top - table.baseline, 1e-12)  # the palest color is the trained network's: nothing lost
    rows: defaultdict[tuple[str, str], list[dict[Any, Any]]] = defaultdict(list)
    for row in frame[frame.operation != "baseline"].to_dict("records"):
        column = RERANDOM if row["operation"] == RERANDOMIZE else str(row["checkpoint"])
        rows[row["site"], column].append(row)
    unit, said = quantity(frame, metric), percent if metric == "error" else points
    marks = {place: agreed(found) for place, found in rows.items()}

    def cell(site: int, column: int) -> Cell:
        value, state = float(table.value[site, column]), status[site][column]
        if state == "undefined":
            return Cell(text="", empty=True)
        place = (table.sites[site], table.columns[column])
        mark = sign(marks.get(place, ""))
        if not math.isfinite(value):
            return Cell(text=SIGNS.get(state, ""), note=notes(rows.get(place, ()), metric), mark=mark)
        known = notes(rows.get(place, ()), metric) or (f"the trained network: {said(value)}",)
        return Cell(text=unit.text(value, 1), note=known, level=(value - table.baseline) / reach, mark=mark)

    joint = [group for group in result.groups if group in table.sites]
    one, _ = nouns(result)
    row_gaps, column_gaps = cuts(table)
    named = "" if split == "data" else f"{split} "
    what = f"{named}error" if metric == "error" else f"change of {named}error"
    return Heatmap(
        corner=one,
        rows=table.sites,
        columns=tuple("drawn anew" if name == RERANDOM else name for name in table.columns),
        cells=tuple(
            tuple(cell(site, column) for column in range(len(table.columns))) for site in range(len(table.sites))
        ),
        scale=(f"trained network: {said(table.baseline)}", said(top)),
        quantity=f"{what} (%)" if metric == "error" else f"{what} (points)",
        row_gaps=tuple(sorted({*row_gaps, table.layers - len(joint)} - {0, len(table.sites)})),
        column_gaps=column_gaps,
        caption=(
            f"{what[0].upper()}{what[1:]} after one row is set back to a checkpoint (column) or drawn anew at "
            f"random; the last column is the trained network. {legend({*marks.values()})}"
        ).rstrip(),
    )


def notes(rows: Sequence[Any], metric: str) -> tuple[str, ...]:
    """What the pointer shows of a cell, one row of the result a draw."""
    if not rows:
        return ()
    many = len(rows)
    mean = {name: sum(row[name] for row in rows) / many for name in (metric, "delta_error")}
    low, high = (sum(row[f"delta_error_{end}"] for row in rows) / many for end in ("low", "high"))
    fresh = rows[0]["operation"] == RERANDOMIZE
    lines = ["drawn anew at random" if fresh else f"set back to checkpoint {rows[0]['checkpoint']}"]
    lines += [f"error {percent(mean[metric])}"] if metric == "error" else []
    lines.append(f"change {points(mean['delta_error'])}, interval {signed(low)} to {points(high)}")
    if many > 1:
        ends = [row["delta_error"] for row in rows]
        lines.append(f"mean of {many} draws, from {points(min(ends))} to {points(max(ends))}")
    kinds = shorten(dict.fromkeys(MEANING[marked(row)] for row in rows))
    seen = sorted({int(row["n"]) for row in rows})
    examples = count(seen[0], "example") if len(seen) == 1 else f"{seen[0]:,} to {seen[-1]:,} examples"
    lines.append(f"{examples}; {kinds}")
    return tuple(lines)


def pictures(result: RobustnessResult, split: str) -> list[Block]:
    """Curves over the sites, and how far they moved, where they can be told apart."""
    if not 1 < len(single_sites(result)) <= MOST_LINES:
        return []
    one, many = nouns(result)
    drawings: list[Block] = []
    if "error" in result.frame and result.frame.checkpoint.nunique() > 1:
        drawings.append(
            Picture(
                svg=drawn(result.plot(kind="curves", split=split)),
                description=f"Error after resetting each {one}, a line for each checkpoint",
                caption=f"The same numbers, a line a checkpoint, with their intervals; {many} from first to last.",
            )
        )
    if len(result.distances):
        drawings.append(
            Picture(
                svg=drawn(result.plot(kind="distances")),
                description=f"Distance of each {one} from its initial weights",
                caption=f"How far each {one} has moved from its initial weights; one that moved far may be robust.",
            )
        )
    return (
        [Fold(title="The same as curves, and how far the weights moved", blocks=tuple(drawings))] if drawings else []
    )


def how_to_read(result: RobustnessResult) -> Block:
    """Definitions of the verdicts, with this result's own numbers."""
    p = result.provenance
    one, _ = nouns(result)
    sure = f"{100 * p['confidence']:g} %"
    of = "the population that the examples come from" if p["estimand"] == "population" else "this data set"
    tolerance, draws = bound(p["tolerance"]), int(result.frame.draw.nunique())
    rows: tuple[tuple[str, str], ...] = (
        ("robust", f"the error rises by at most {tolerance}: the whole interval says so"),
        (
            "critical",
            f"it rises by more, and has gone at least {100 * p['critical']:g} % of the way to chance "
            f"({percent(p['chance'])} error)",
        ),
        ("between", "it rises by more, but is not near chance"),
        ("undecided", f"the interval reaches to both sides of {tolerance}: more examples may tell"),
        ("unchanged", "the edit changes no value that the output depends on; never counted as robust"),
    )
    if draws > 1:
        rows += (("draws differ", "the draws of one part do not have the same verdict; numbers are their mean"),)
    if (result.frame.status == "non-finite").any():
        rows += (("not finite", "some outputs are infinite or not a number; they count as errors"),)
    return Fold(
        title="How to read this",
        blocks=(
            Facts(rows=rows),
            Text(
                paragraphs=(
                    "Changes are paired: the same examples with and without the edit. All intervals hold at once, at "
                    f"{sure}, and speak of {of}. They cover the examples alone: draws are shown apart, and other "
                    "training seeds are other runs.",
                    f"A robust {one} can be reset alone. Several that are each robust are often not so together.",
                )
            ),
        ),
    )


def provenance(result: RobustnessResult) -> Block:
    """Where the numbers come from, and how to get them again."""
    p = result.provenance
    splits = [
        (f"data, {split}", f"{part['examples']:,} examples, fingerprint {part['data']}, torch {part['torch']}")
        for split, part in p["splits"].items()
    ]
    reasons = [reason for part in p["splits"].values() for reason in part["engine_reasons"]]
    rows = (
        *splits,
        ("engine", p["engine"] + (f" ({'; '.join(dict.fromkeys(reasons))})" if reasons else "")),
        ("stopping", p["stop"]),
        ("batch norm", p["batch_norm"]),
        ("seed", str(p["seed"])),
        ("time", f"{p['seconds']:,.1f} s"),
        ("netopsy", p["netopsy"]),
    )
    return Fold(
        title="Where these numbers come from, and how to repeat them",
        blocks=(Facts(rows=rows), Code(title="Python", text=call(result))),
    )
