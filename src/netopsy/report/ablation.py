"""The report's section on how many units can go."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from netopsy.probes.ablation_result import ALL, LEVEL, AblationResult
from netopsy.report.blocks import Block, Column, Entry, Facts, Fold, Picture, Section, Table, Text
from netopsy.report.origins import origins
from netopsy.report.vector import drawn
from netopsy.report.words import count, names, percent

MOST_LINES = 40
"""Layers up to which curves can be told apart."""

WORDS = {"unchanged": "predictions stay as they were", "accuracy": "predictions are right"}
SHORT = {"unchanged": "predictions unchanged", "accuracy": "accuracy"}

OPTIONS = (
    "fractions",
    "orders",
    "order",
    "metric",
    "stop",
    "precision",
    "tolerance",
    "confidence",
    "seed",
    "estimand",
)


def ablation_section(result: AblationResult) -> Section:
    """What ablating more and more units does, from the verdict to how to repeat it."""
    blocks: list[Block] = []
    metric = result.provenance["metric"]
    if len(result.units) <= MOST_LINES:
        blocks.append(
            Picture(
                svg=drawn(result.plot()),
                description=f"{SHORT[metric].capitalize()} against the share of units at zero, a line for each layer",
                caption=(
                    f"{SHORT[metric].capitalize()} with a share of one layer's units at zero; {ALL}: with that share "
                    "of every layer's. Points are measured, lines join them."
                ),
            )
        )
    notes = tuple(f"{note[0].upper()}{note[1:]}" for note in result.notes() if not note.startswith("run by"))
    blocks += [layer_table(result), *([Text(paragraphs=notes)] if notes else []), _how_to_read(result)]
    p = result.provenance
    given = p["order"] == "given"
    options = [name for name in OPTIONS if name != "order" or not given]
    return Section(
        title="Robustness to the ablation of units",
        question="If more and more units of a layer, or of all, are set to zero, how long do the answers stay?",
        verdict=ablation_sentences(result),
        blocks=(*blocks, origins(p, "ablation_curve", options, ["order={...}"] if given else ())),
    )


def ablation_sentences(result: AblationResult) -> tuple[str, ...]:
    """Up to three sentences: what all layers together bear, which layer bears most and least, where all is off."""
    metric = result.provenance["metric"]
    middle = _middle(result)
    said = []
    if middle is not None:
        values = _values(result, ALL, metric, middle)
        mean, spread = float(values.mean()), _range(values)
        random = result.provenance["order"] == "random"
        orders = f" (mean of {len(values)} random orders{spread})" if len(values) > 1 else ""
        once = f" in one order, {_order(result)}" if len(values) == 1 else ""
        seen = result.frame.n
        few, many = int(seen.min()), int(seen.max())
        of = count(many, "example") if few == many else f"{few:,} to {many:,} examples"
        which = "a random " if random and len(values) > 1 else ""
        share = f"{which}{percent(middle)} of the units of every layer"
        said.append(f"With {share} at zero{once}, {percent(mean)} of {WORDS[metric]}{orders}; {of}.")
    alone = _alone(result)
    said += [alone] if alone else []
    areas = result.areas().set_index("site")
    end = float(_values(result, ALL, metric, 1.0).mean())
    crossing = float(areas.crossing[ALL])
    if math.isnan(crossing):
        falls = f"With all layers together, the curve never falls below {percent(LEVEL)}"
    else:
        falls = (
            f"With all layers together, the curve falls below {percent(LEVEL)} at {percent(crossing)} of the units"
        )
    return (*said, f"{falls}; with all units at zero, {percent(end)} of {WORDS[metric]}.")


def layer_table(result: AblationResult) -> Table:
    """A row a layer: its units, the area under its curve, and where that falls."""
    metric, middle = result.provenance["metric"], _middle(result)
    rows = []
    areas = result.areas()
    for place, row in enumerate(areas.to_dict("records")):
        site, area, sd = str(row["site"]), float(row["area"]), float(row["area_sd"])
        known = not math.isnan(sd)
        bar = (area - sd, area, area + sd) if known else (0.0, area, area)
        note = (f"{area:.3f} ± {sd:.3f}, standard deviation over {row['orders']} orders",) if known else ()
        rows.append(
            (
                Entry(text=site, sort=place),
                Entry(text=f"{row['units']:,}", sort=float(row["units"])),
                Entry(text=f"{area:.3f}", sort=area, bar=bar, note=note),
                _half(result, site, metric, middle),
                _crossing(float(row["crossing"])),
            )
        )
    columns = [
        Column(name="layer", help="in the network's order; all: the same share of every layer"),
        Column(name="units", numeric=True),
        Column(
            name="area",
            help=f"under the curve of {SHORT[metric]}; 1: nothing ever changes. Bar: ± one standard deviation",
            numeric=True,
            span=(0.0, 1.0),
        ),
        Column(name="" if middle is None else f"with {percent(middle)} at zero", help=SHORT[metric], numeric=True),
        Column(name=f"below {percent(LEVEL)} at", help="share of the units at zero, on the mean curve", numeric=True),
    ]
    used = [c for c in range(len(columns)) if c != 3 or middle is not None]
    return Table(
        columns=tuple(columns[c] for c in used),
        rows=tuple(tuple(row[c] for c in used) for row in rows),
        caption=f"Share of {SHORT[metric]}, mean over the orders. Sort by any column.",
    )


def _half(result: AblationResult, site: str, metric: str, middle: float | None) -> Entry:
    if middle is None:
        return Entry(text="")
    values = _values(result, site, metric, middle)
    note = (f"{percent(float(values.min()))} to {percent(float(values.max()))} in {len(values)} orders",)
    mean = float(values.mean())
    return Entry(text=percent(mean), sort=mean, note=note if len(values) > 1 else ())


def _crossing(at: float) -> Entry:
    return Entry(text="never", sort=2.0) if math.isnan(at) else Entry(text=percent(at), sort=at)


def _alone(result: AblationResult) -> str:
    """Which layer alone bears most and least; that none does, where the orders of one differ as much as layers."""
    areas = result.areas().set_index("site").drop(index=ALL)
    tried = areas[~areas.index.isin(_idle(result))]
    if len(tried) < 2:
        return ""
    least, most = str(tried.area.idxmin()), str(tried.area.idxmax())
    low, high = float(tried.area[least]), float(tried.area[most])
    sd = tried.area_sd.fillna(0.0)
    apart = high - low > float(sd[least] + sd[most])
    if low == high:
        return f"The layers do not differ: each alone has an area of {low:.2f} under its curve."
    if not apart:
        return (
            f"Layers alone have areas of {low:.2f} ({least}) to {high:.2f} ({most}) under their curves, and "
            "differ by no more than the orders of one layer do."
        )

    def area(site: str) -> str:
        spread = float(tried.area_sd[site])
        return f"{tried.area[site]:.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}")

    return f"Alone, {most} can spare most of its units (area {area(most)} of 1), {least} the fewest ({area(least)})."


def _idle(result: AblationResult) -> list[str]:
    """Layers that the output does not depend on."""
    off = result.frame[result.frame.ablated > 0]
    idle = (off.status == "no-op").groupby(off.site.astype(str)).all()
    return [str(site) for site in idle.index[idle]]


def _middle(result: AblationResult) -> float | None:
    """The fraction nearest to a half; None where only none and all were ablated."""
    between = [share for share in result.frame.fraction.unique().tolist() if 0 < share < 1]
    return min(between, key=lambda share: (abs(share - 0.5), share), default=None)


def _values(result: AblationResult, site: str, metric: str, fraction: float) -> Any:
    """Of each order."""
    frame = result.frame
    rows = frame[(frame.site == site) & (frame.fraction == fraction)]
    return rows[metric].to_numpy(dtype=np.float64)


def _range(values: Any) -> str:
    ends = dict.fromkeys((percent(float(values.min())), percent(float(values.max()))))
    return f", {' to '.join(ends)}" if len(ends) > 1 else ""


def _order(result: AblationResult) -> str:
    return str(result.provenance["order"]).replace("-", " ")


def _how_to_read(result: AblationResult) -> Block:
    p = result.provenance
    orders: pd.Series[Any] = result.frame.order
    rows = (
        ("unit", "an entry along one axis of a layer's value: a feature, or a channel at all its positions"),
        ("at zero", "for all examples and positions; nothing is rescaled or trained"),
        (
            "order",
            f"{count(int(orders.nunique()), 'order')}, {_order(result)}; the same for a layer alone and for all",
        ),
        ("area", "under the curve from none to all units, by the trapezoid rule: 1 where nothing ever changes"),
        ("layers", names([f"{site} ({units:,})" for site, units in result.units.items()], 12)),
    )
    sure = f"{100 * p['confidence']:g} %"
    text = (
        "With all units of a layer at zero the network often gives one answer to all, which may keep some "
        "predictions: compare areas of networks with as many classes. The table of the result has intervals that "
        f"cover the examples, at {sure} for all rows at once; the spread over orders is apart from them.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=rows), Text(paragraphs=text)))
