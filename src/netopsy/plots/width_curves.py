"""A quantity of many nets against their width, with its spread over seeds (Zhang et al. 2022, Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, PercentFormatter

from netopsy.plots._seeds import deviation, need_single_runs, seeds_note
from netopsy.plots.frames import floats, need
from netopsy.plots.style import BLUE, FAINT, GRAY, LABEL, ORANGE, TICK, VERMILLION, finish_lines, new_axes

COLORS = (BLUE, VERMILLION, ORANGE, GRAY)
MARKERS: tuple[Mapping[str, Any], ...] = (
    {"marker": "o", "linestyle": "-"},
    {"marker": "s", "linestyle": (0, (4, 2))},
    {"marker": "^", "linestyle": (0, (1, 1.2))},
    {"marker": "D", "linestyle": (0, (6, 1.5, 1, 1.5))},
)
KEYS = ["data", "net", "width"]
DODGE = 0.06
"""Distance of two lines' points of one width, in octaves: their bars must not hide each other."""


def width_curves(
    frame: pd.DataFrame,
    *,
    label: str = "mean increase of test error\n(percentage points)",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean over seeds against width (logarithmic, base 2), a line for each data set and net.

    Bars are one standard deviation of the seeds' values to each side (n − 1 in its denominator), dots the seeds. A
    run without a value (NaN: it failed) is left out of its mean, counted in the legend, and marked with a cross
    at the lower edge above its width.

    Args:
        frame: one row a run, with columns `data, net, width, seed, value` (a share, printed in percent); a color for
            each data set, a marker for each net, in the order in which they come.
        label: of the y axis.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks a column, or has two rows of one run.
    """
    source = "one row a run: data, net, width, seed, value"
    need(frame, (*KEYS, "seed", "value"), source)
    need_single_runs(frame, [*KEYS, "seed"])
    lines = list(dict.fromkeys(zip(frame["data"], frame["net"], strict=True)))
    data, nets = (list(dict.fromkeys(frame[name])) for name in ("data", "net"))
    widths = sorted(frame["width"].unique())

    ax = new_axes(6.6, 3.4) if ax is None else ax
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=1)
    for place, line in enumerate(lines):
        shift = 2 ** (DODGE * (place - (len(lines) - 1) / 2))
        look = {"color": COLORS[data.index(line[0]) % len(COLORS)], **MARKERS[nets.index(line[1]) % len(MARKERS)]}
        runs = frame[(frame["data"] == line[0]) & (frame["net"] == line[1])]
        draw_runs(ax, runs, f"{line[0]}, {line[1]}", shift, look)
    # After the bars, which would bring matplotlib's own ticks back.
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, labels=[f"{width:g}" for width in widths], size=TICK)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="x", length=2, width=0.6)
    ax.set_xlim(widths[0] / 1.35, widths[-1] * 1.35)
    ax.set_xlabel("hidden dimension H", size=LABEL)
    finish_lines(ax, PercentFormatter(xmax=1, symbol=""), label, "\n".join(seeds_note(frame, KEYS, "x")))
    return ax


def draw_runs(ax: Axes, runs: pd.DataFrame, name: str, shift: float, look: Mapping[str, Any]) -> None:
    """One line: means, bars of one standard deviation, dots of single runs, crosses of failed ones."""
    widths = sorted(runs["width"].unique())
    values = [floats(runs["value"][runs["width"] == width]) for width in widths]
    known = [cell[np.isfinite(cell)] for cell in values]
    places = np.array(widths, dtype=np.float64) * shift
    centers = np.array([cell.mean() if len(cell) else np.nan for cell in known])
    spread = np.array([deviation(cell) for cell in known])
    color = look["color"]
    ax.plot(
        np.concatenate([np.full(len(cell), place) for place, cell in zip(places, known, strict=True)]),
        np.concatenate(known),
        linestyle="none",
        marker=".",
        markersize=3.5,
        color=color,
        alpha=0.4,
        zorder=2,
    )
    ax.vlines(places, centers - spread, centers + spread, color=color, linewidth=1.2, zorder=2)
    ax.plot(
        places,
        centers,
        label=name,
        markersize=5,
        linewidth=1.2,
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=3,
        **look,
    )
    lost = [place for place, cell, all_of_it in zip(places, known, values, strict=True) if len(cell) < len(all_of_it)]
    if lost:
        edge = ax.get_xaxis_transform()
        marks = {"marker": "x", "markersize": 5, "markeredgewidth": 1.4, "color": color}
        ax.plot(lost, [0.03] * len(lost), linestyle="none", transform=edge, zorder=4, **marks)
