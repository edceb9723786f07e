"""Layers of each kind, block by block, a panel a network (Zhang et al. 2022, Figures 7 to 9 as curves)."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from netopsy._checks import NetopsyError, shorten
from netopsy.plots._seeds import need_single_runs
from netopsy.plots.frames import need
from netopsy.plots.style import BLUE, GRAY, INK, LABEL, ORANGE, TICK, VERMILLION, plain

LOOKS = ((VERMILLION, "o"), (BLUE, "s"), (ORANGE, "^"), ("#009E73", "D"), (GRAY, "v"), (INK, "P"))
COLUMNS = ["panel", "kind", "block", "seed", "value"]
PANEL = (2.1, 2.0)
"""Inches."""


def block_profiles(frame: pd.DataFrame, *, columns: int = 3, label: str = "share of the way to chance") -> Figure:
    """Draw the mean over seeds against the block for each kind of layer; bands reach from the least to the largest.

    Args:
        frame: one row a network's block and kind, with columns `panel, kind, block, seed, value` (a share); panels
            and kinds (at most six) are drawn in the order in which they come.
        columns: panels side by side.
        label: of the y axis.

    Raises:
        NetopsyError: the frame is empty, lacks a column, has more kinds, or two rows of one block, kind and seed.
    """
    need(frame, tuple(COLUMNS), "one row a network's block and kind: panel, kind, block, seed, value")
    need_single_runs(frame, COLUMNS[:-1])
    panels, kinds = (list(dict.fromkeys(frame[name])) for name in ("panel", "kind"))
    if len(kinds) > len(LOOKS):
        raise NetopsyError(
            f"frame: expected at most {len(LOOKS)} kinds, as there are colors; got {shorten(kinds, 9)}; draw a "
            "selection"
        )
    across = min(columns, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(PANEL[0] * across + 1.7, PANEL[1] * down + 0.3), layout="constrained", facecolor="white")
    first: Axes | None = None
    for place, panel in enumerate(panels):
        ax = figure.add_subplot(down, across, place + 1, sharey=first)
        first = first or ax
        of = frame[frame["panel"] == panel]
        for kind, (color, marker) in zip(kinds, LOOKS, strict=False):
            runs = of[of["kind"] == kind].groupby("block")["value"]
            spread = runs.agg(["mean", "min", "max"])
            ax.fill_between(spread.index, spread["min"], spread["max"], color=color, alpha=0.18, linewidth=0)
            ax.plot(spread.index, spread["mean"], color=color, marker=marker, markersize=4, linewidth=1.2)
        blocks = sorted(of["block"].unique())
        ax.set_xticks(blocks[:: max(1, len(blocks) // 4)])
        ax.axhline(0, color=GRAY, linewidth=0.6, zorder=0)
        ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        ax.tick_params(length=2, width=0.6, labelsize=TICK, labelleft=place % across == 0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_linewidth(0.6)
        ax.set_title(plain(str(panel)), size=LABEL, loc="left")
        if place >= len(panels) - across:
            ax.set_xlabel("block", size=LABEL)
    figure.supylabel(label, size=LABEL)
    handles = [Line2D([], [], color=color, marker=marker, markersize=4.5) for color, marker in LOOKS[: len(kinds)]]
    blank = Line2D([], [], linestyle="none")
    seeds = frame["seed"].nunique()
    note = ["mean, least and", f"largest of {seeds} seeds"]
    figure.legend(
        [*handles, blank, *[blank] * len(note)], [*(plain(str(kind)) for kind in kinds), "", *note],
        loc="outside right upper", frameon=False, fontsize=TICK, handlelength=1.8, labelcolor=INK,
    )  # fmt: skip
    return figure
