"""Units as small cells by kind: a map of a whole network, of a bounded size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from netopsy._typing import IntArray
from netopsy.plots.units import KIND_COLORS, count_kinds, ordered_units
from netopsy.report.blocks import Mosaic, Tile, Tiles
from netopsy.report.words import count, percent

MOST_TILES = 3000
"""Units on a map: of more, some of each layer are shown, evenly along its order, so that the shares stay."""

MOST_LAYERS = 150
"""Layers on a map, the first ones."""

KINDS = (*KIND_COLORS,)


def unit_map(frame: pd.DataFrame) -> tuple[Mosaic, str]:
    """The map, and what to say of the units that are not on it.

    Args:
        frame: of `netopsy.unit_table`.

    Raises:
        NetopsyError: the frame is empty, lacks columns, or has a kind that is not known.
    """
    ordered, counts = ordered_units(frame), count_kinds(frame)
    shown = [str(site) for site in counts.index[:MOST_LAYERS]]
    sizes = counts.sum(axis=1).tolist()[:MOST_LAYERS]
    most = limit(sizes, MOST_TILES)
    rows = []
    for site, size in zip(shown, sizes, strict=True):
        layer = ordered[ordered["site"].astype(str) == site]
        kept = layer.iloc[thinned(layer["kind"].astype(str).tolist(), most)]
        thin = f", {len(kept):,} shown" if len(kept) < size else ""
        rows.append(Tiles(name=site, detail=f"{count(size, 'unit')}{thin}", cells=tiles(kept)))
    total = counts.sum()
    mosaic = Mosaic(
        quantity="Kinds of units",
        key=tuple((place, name, f"{total[name]:,}") for place, name in enumerate(KINDS) if total[name]),
        rows=tuple(rows),
        caption=(
            "A cell a unit, sorted by kind, and within a kind by the share of predictions that change when it alone "
            "is set to zero, largest first."
        ),
    )
    return mosaic, _left_out(counts, mosaic, most)


def tiles(units: pd.DataFrame) -> tuple[Tile, ...]:
    """A cell for each unit, in this order; a gap after the last of each kind."""
    rows = units.to_dict("records")
    kinds = [str(row["kind"]) for row in rows]
    ends = [kind != following for kind, following in zip(kinds, [*kinds[1:], None], strict=True)]
    return tuple(
        Tile(label=f"unit {row['unit']}, {kind}", note=notes(row), tone=KINDS.index(kind), gap=end)
        for row, kind, end in zip(rows, kinds, ends, strict=True)
    )


def notes(row: dict[Any, Any]) -> tuple[str, ...]:
    """What is known of a unit, one line each; what was not measured is left out."""
    known = {name: value for name, value in row.items() if not pd.isna(value)}
    lines = []
    if "effect" in known:
        text = f"set to zero: {share(known['effect'])} of predictions change"
        if {"effect_low", "effect_high"} <= known.keys():
            text += f" ({share(known['effect_low'])} to {share(known['effect_high'])})"
        lines.append(text)
    similar = int(known.get("similar", 0))
    if similar and "effect_similar" in known:
        lines.append(f"with its {count(similar, 'similar unit')}: {share(known['effect_similar'])}")
    elif "similar" in known:
        lines.append(count(similar, "similar unit") if similar else "no similar unit")
    facts = [f"active on {share(known['activity'])} of samples"] if "activity" in known else []
    facts += [f"R² {known['r2']:.2f} from the others"] if "r2" in known else []
    lines += ["; ".join(facts)] if facts else []
    if known.get("status", "ok") != "ok":
        lines.append({"no-op": "the output does not depend on it"}.get(known["status"], str(known["status"])))
    return tuple(lines)


def share(value: float) -> str:
    """
    >>> share(0.0), share(0.0123), share(1.0)
    ('0 %', '1.2 %', '100 %')
    """
    return percent(max(float(value), 0.0))


def limit(sizes: Sequence[int], most: int) -> int:
    """How many of each layer are shown at most, so that all are together not more than `most`.

    >>> limit([10, 20], 100), limit([10, 20, 4000, 4000], 100), limit([5, 5], 1)
    (20, 35, 1)
    """
    left, rest = most, sorted(sizes)
    while rest and rest[0] * len(rest) <= left:
        left -= rest.pop(0)
    return max(1, left // len(rest)) if rest else max(sizes, default=1)


def thinned(kinds: Sequence[str], most: int) -> IntArray:
    """Places of about so many units, evenly along their order; the first of each kind among them.

    >>> thinned(list("aaaaaaaab"), 4).tolist(), thinned(list("ab"), 4).tolist()
    ([0, 3, 6, 8], [0, 1])
    """
    if len(kinds) <= most:
        return np.arange(len(kinds))
    even = np.arange(0, len(kinds), math.ceil(len(kinds) / most))
    first = [place for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]
    places: IntArray = np.union1d(even, first)
    return places


def _left_out(counts: pd.DataFrame, mosaic: Mosaic, most: int) -> str:
    """What the map does not show."""
    units, seen = int(counts.to_numpy().sum()), sum(len(row.cells) for row in mosaic.rows)
    if seen == units:
        return ""
    said = f"Of {units:,} units, {seen:,} are on the map"
    if (counts.sum(axis=1) > most).any():
        said += (
            f": of a layer of more than {most:,}, some at equal steps in this order, and one of each kind at least"
        )
    if len(counts) > len(mosaic.rows):
        said += f"; of {len(counts):,} layers, the first {len(mosaic.rows):,}"
    return f"{said}. Numbers beside the kinds are of all units, and the result's to_frame() has each."
