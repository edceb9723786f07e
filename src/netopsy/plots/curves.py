"""Robustness of every layer as lines, one a checkpoint (Zhang, Bengio and Singer 2022, Figure 20)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from netopsy.plots.frames import RERANDOM, Table, tabulate
from netopsy.plots.style import (
    FAINT,
    GRAY,
    INK,
    VERMILLION,
    check_members,
    elide,
    finish_lines,
    line_axes,
    name_sites,
)

MARKERS = "os^DvP<p>h"
SIGNS: dict[str, tuple[str, dict[str, Any]]] = {
    "no-op": ("edit changes nothing", {"marker": "o", "markersize": 5.5, "markerfacecolor": "white", "color": GRAY}),
    "non-finite": ("output not finite", {"marker": "x", "markersize": 7, "color": INK}),
}


def curves(
    frame: pd.DataFrame,
    *,
    metric: str = "error",
    split: str | None = None,
    final: int | str | None = None,
    members: Collection[str] = (),
    bands: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a line over the layers for each checkpoint and for re-randomization; the trained model is dashed.

    The arguments are those of `netopsy.plots.heatmap.heatmap`. A line's band spans the smallest and the largest of
    several draws, or for a single value the interval that came with it (`delta_error_low` to `delta_error_high`,
    shifted to the metric; none for other metrics than `error` and `delta_error`). The full model stands apart at the
    right, joined to no layer. Without a value a line has a gap. Raises `NetopsyError` as `heatmap` does.
    """
    table = tabulate(frame, metric=metric, split=split, final=final)
    check_members(members, table.sites)
    places = np.arange(len(table.sites), dtype=np.float64)
    places[table.layers :] += 0.5
    labels = legend_labels(table.columns)
    ax = line_axes(table.sites) if ax is None else ax
    ax.set_xlim(-0.5, float(places[-1]) + 0.5)
    ax.axhline(table.baseline, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label=labels[-1], zorder=1)
    for column, look in enumerate(looks(table.columns[:-1])):
        draw_line(ax, table, column, labels[column], places, look, bands=bands)
    status = np.array(table.status)[:, :-1]
    for state, (label, look) in SIGNS.items():
        rows, columns = np.nonzero((status == state) & np.isfinite(table.value[:, :-1]))
        if len(rows):
            ax.plot(places[rows], table.value[rows, columns], linestyle="none", label=label, zorder=4, **look)
    if 0 < table.layers < len(table.sites):
        ax.axvline(table.layers - 0.25, color=FAINT, linewidth=0.6)
    intervals = bands and bool((np.isfinite(table.low) & (table.draws == 1)).any())
    title = "checkpoint\nband: confidence interval" if intervals else "checkpoint"
    finish_lines(ax, table.quantity.formatter(), table.quantity.named(table.split), title)
    name_sites(ax, "x", table.sites, places.tolist(), members)
    return ax


def legend_labels(columns: Sequence[str]) -> list[str]:
    """Names that a legend shows: matplotlib would leave out those that begin with an underscore."""
    return [f"\N{THIN SPACE}{name}" if name.startswith("_") else name for name in elide(columns)]


def looks(columns: Sequence[str]) -> list[dict[str, Any]]:
    """Early checkpoints dark, late ones light, each with a marker of its own; re-randomization dashed."""
    checkpoints = [label for label in columns if label != RERANDOM]
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(checkpoints)))
    styles: list[dict[str, Any]] = [
        {"color": tuple(map(float, shade)), "marker": MARKERS[index % len(MARKERS)]}
        for index, shade in enumerate(shades)
    ]
    again = {"color": VERMILLION, "marker": "X", "linestyle": (0, (2, 1.2))}
    return [again] * (len(columns) - len(checkpoints)) + styles


def draw_line(
    ax: Axes,
    table: Table,
    column: int,
    label: str,
    places: Float[np.ndarray, " s"],
    look: dict[str, Any],
    *,
    bands: bool,
) -> None:
    """One column of the table: its layers joined, the full model as a point, both with their spread."""
    value, low, high = table.value[:, column], table.low[:, column], table.high[:, column]
    draws = int(table.draws[:, column].max())
    if draws > 1:
        label += f" (mean of {draws}" + (",\nband: min to max)" if bands else ")")
    one = {**look, "markersize": 4.5, "linewidth": 1.2, "markeredgecolor": "white", "markeredgewidth": 0.4}
    layers, whole = slice(0, table.layers), slice(table.layers, None)
    ax.plot(places[layers], value[layers], label=label, zorder=3, **one)
    ax.plot(places[whole], value[whole], zorder=3, **one)
    if bands:
        color = look["color"]
        ax.fill_between(places[layers], low[layers], high[layers], color=color, alpha=0.15, linewidth=0, zorder=2)
        ax.vlines(places[whole], low[whole], high[whole], color=color, alpha=0.5, linewidth=1.2, zorder=2)
