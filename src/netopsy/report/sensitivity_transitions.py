"""The report's section on linear regions between examples and off them."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from netopsy.plots.style import BLUE, GRAY, LABEL, TICK, elide, label_ticks, new_axes
from netopsy.probes.path_transitions import ALL, CONFIDENCE, CORNERS, PathTransitions, Ratio
from netopsy.report.blocks import Block, Code, Column, Entry, Facts, Fold, Picture, Section, Table, Text
from netopsy.report.vector import drawn
from netopsy.report.words import count, percent

MOST_ROWS, MOST_DRAWN = 300, 24
"""Layers in the table, and in the picture: the first of more."""


def transitions_section(result: PathTransitions) -> Section:
    """Counts along the paths, from the verdict to how to repeat it."""
    layers = result.layers
    more = f" The first {MOST_DRAWN} of {len(layers)} layers." if len(layers) > MOST_DRAWN else ""
    picture = Picture(
        svg=drawn(layer_dots(result)),
        description="Transitions of each layer along every path, through examples and turned",
        caption=f"A dot a path: how often a unit of the layer switches along it, on average. Lines: means.{more}",
    )
    return Section(
        title="Linear regions along paths",
        question=(
            "Does the network bend less often on the way from one example to others of its class than on ways of the "
            "same length in random directions?"
        ),
        verdict=transitions_sentences(result),
        blocks=(layer_table(result), picture, _how_to_read(result), _origins(result)),
    )


def transitions_sentences(result: PathTransitions) -> tuple[str, ...]:
    """The ratio of both kinds of paths, and what the interval says of it; how many there are."""
    ratio, means = result.ratio(), result.counts().mean()
    paths, length = len(result.paths), float(result.paths.length.mean())
    densities = [value / length for value in (means.data, means.turned)] if length > 0 else []
    along = " and ".join(f"{value:.3g}" for value in densities)
    units = int(result.frame.drop_duplicates("layer").units.sum())
    return (
        f"Along {count(paths, 'triangle')} through {CORNERS} examples of one class, units pass a kink "
        f"{_number(ratio.median)} times as often as along the same {'triangle' if paths == 1 else 'triangles'} "
        f"turned in random directions (median; {_ends(ratio)}): {_verdict(ratio)}.",
        f"On average its {count(units, 'unit')} make {means.data:,.1f} transitions a triangle, and "
        f"{means.turned:,.1f} on a turned one" + (f": {along} per unit of length." if along else "."),
    )


def _verdict(ratio: Ratio) -> str:
    if ratio.high < 1:
        return "the network bends less often between examples of a class"
    if ratio.low > 1:
        return "the network bends more often between examples of a class"
    return "these paths do not tell in which directions the network bends more often"


def _ends(ratio: Ratio) -> str:
    if math.isinf(ratio.high) and ratio.low == 0:
        return "too few paths for an interval"
    return f"{CONFIDENCE:.0%} interval {_number(ratio.low)} to {_number(ratio.high)}".replace("%", " %")


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}" if value < 10 else f"{value:.3g}"


def layer_table(result: PathTransitions) -> Table:
    """A row a layer, and one of all."""
    names = [*result.layers[:MOST_ROWS], ALL]
    ratios = {name: result.ratio(name) for name in names}
    finite = [one.high for one in ratios.values() if math.isfinite(one.high)]
    top = max([1.2, *finite])
    columns = (
        Column(name="layer", help="in the network's order"),
        Column(name="units", help="whose activation has a kink", numeric=True),
        Column(name="data", help="transitions a triangle through examples, mean", numeric=True),
        Column(name="turned", help="transitions on the same triangle turned, mean", numeric=True),
        Column(
            name="ratio",
            help=f"data / turned, median of the paths; bar: its {CONFIDENCE:.0%} interval, of each layer alone",
            numeric=True,
            span=(0.0, top),
            line=1.0,
        ),
    )
    units = result.frame.drop_duplicates("layer").set_index("layer").units
    rows = []
    for place, name in enumerate(names):
        means, ratio = result.counts(name).mean(), ratios[name]
        many = int(units.sum() if name == ALL else units[name])
        bar = tuple(min(value, top) for value in (ratio.low, ratio.median, ratio.high))
        rows.append(
            (
                Entry(text=name, sort=place),
                Entry(text=f"{many:,}", sort=many),
                *(Entry(text=f"{value:,.1f}", sort=float(value)) for value in (means.data, means.turned)),
                Entry(
                    text=_number(ratio.median),
                    sort=ratio.median,
                    bar=(bar[0], bar[1], bar[2]),
                    note=(_ends(ratio),),
                ),
            )
        )
    more = f" The first {MOST_ROWS} of {len(result.layers)} layers." if len(result.layers) > MOST_ROWS else ""
    return Table(columns=columns, rows=tuple(rows), caption=f"Transitions by layer. Sort by any column.{more}")


def layer_dots(result: PathTransitions) -> Axes:
    """The picture: transitions per unit of each layer, a dot a path, paths on the data beside turned ones."""
    layers = result.layers[:MOST_DRAWN]
    ax = new_axes(max(4.6, 1.6 + 0.45 * len(layers)), 3.0)
    units = result.frame.drop_duplicates("layer").set_index("layer").units
    for kind, color, side, name in (("data", BLUE, -0.18, "through examples"), ("turned", GRAY, 0.18, "turned")):
        for place, layer in enumerate(layers):
            values = result.counts(layer)[kind].to_numpy(np.float64) / float(units[layer])
            spread = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(1)
            ax.plot(
                place + side + spread,
                values,
                ".",
                ms=4,
                mew=0,
                alpha=0.65,
                color=color,
                label=None if place else name,
            )
            ax.plot([place + side - 0.14, place + side + 0.14], [values.mean()] * 2, color=color, lw=1.6)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("transitions per unit", size=LABEL)
    ax.tick_params(axis="y", labelsize=TICK, length=2, width=0.6)
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=TICK, markerscale=2, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    label_ticks(ax, "x", elide(layers), list(range(len(layers))))
    return ax


def _how_to_read(result: PathTransitions) -> Block:
    rows = (
        ("transition", "a unit passes a kink of its activation: the function has another slope from there on"),
        ("triangle", f"the closed way through {CORNERS} random examples of a random class, in straight lines"),
        ("turned", "the same triangle around the same center, its two directions random: equally long, off the data"),
        (
            "interval",
            f"of the median, {percent(CONFIDENCE)}, for paths drawn as these; no distribution is assumed",
        ),
    )
    text = (
        "Counts are exact: crossings are solved for, not sampled. Compare paths of one network, or networks of one "
        "size, as the number of units drives the count. Between examples of different classes the function has to "
        "bend; that is not measured here.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=rows), Text(paragraphs=text)))


def _origins(result: PathTransitions) -> Fold:
    p = result.provenance
    first = result.paths.iloc[0]
    facts = (
        ("data", f"{p['examples']:,} examples, fingerprint {p['data']}, torch {p['torch']}"),
        ("seed", str(p["seed"])),
        ("time", f"{p['seconds']:,.1f} s"),
        ("netopsy", p["netopsy"]),
    )
    whole = (
        "from netopsy.probes.path_transitions import path_transitions\n\n"
        f"path_transitions(model, data, paths={p['paths']}, seed={p['seed']})\n"
    )
    corners = ", ".join(str(first.examples).split())
    single = f"netopsy.transitions(model, netopsy.paths.polygon(images[[{corners}]]))\n"
    return Fold(
        title="Where these numbers come from, and how to repeat them",
        blocks=(
            Facts(rows=facts),
            Code(title="Python, of all paths", text=whole),
            Code(title=f"The first path, of class {first.label}", text=single),
        ),
    )
