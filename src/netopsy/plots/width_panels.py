"""Quantities of many nets against their width, a panel each (Casper et al. 2019, Figures 3, 5, C5 to C12)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from netopsy.plots._seeds import need_single_runs, seeds_note
from netopsy.plots.frames import need
from netopsy.plots.style import BLUE, GRAY, INK, LABEL, ORANGE, TICK, VERMILLION
from netopsy.plots.width_curves import DODGE, draw_runs

COLORS = (BLUE, VERMILLION, ORANGE, "#009E73", "#CC79A7", "#56B4E9", GRAY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
KEYS = ["panel", "line", "checkpoint", "width"]
PANEL = (2.7, 2.1)
"""Inches."""
FIRST: dict[str, object] = {"linestyle": "-"}
LATER: dict[str, object] = {"linestyle": (0, (2, 1.5)), "alpha": 0.55}
"""Looks of the first checkpoint named, and of any other."""


def width_panels(frame: pd.DataFrame, *, columns: int = 2, scales: dict[str, str] | None = None) -> Figure:
    """Draw the mean over seeds against width (logarithmic, base 2): a panel a quantity, a color a line of nets.

    Bars are one standard deviation of the seeds' values to each side (n − 1 in its denominator), dots the seeds;
    crosses at the lower edge are runs without a value (NaN).

    Args:
        frame: one row a run, with columns `panel, line, checkpoint, width, seed, value`; the first checkpoint is
            drawn solid, others dashed and paler.
        columns: panels side by side.
        scales: panel -> `"linear"` or `"log"`.

    Raises:
        NetopsyError: the frame is empty, lacks a column, or has two rows of one run.
    """
    need(frame, (*KEYS, "seed", "value"), "one row a run: panel, line, checkpoint, width, seed, value")
    need_single_runs(frame, [*KEYS, "seed"])
    panels, lines, checkpoints = (list(dict.fromkeys(frame[name])) for name in ("panel", "line", "checkpoint"))
    widths = sorted(frame["width"].unique())
    rows = -(-len(panels) // columns)
    size = (PANEL[0] * columns + 1.9, PANEL[1] * rows + 0.2)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    for place, panel in enumerate(panels):
        ax = figure.add_subplot(rows, columns, place + 1)
        of = frame[frame["panel"] == panel]
        for number, line in enumerate(lines):
            shift = 2 ** (DODGE * (number - (len(lines) - 1) / 2))
            for checkpoint in checkpoints:
                runs = of[(of["line"] == line) & (of["checkpoint"] == checkpoint)]
                look = FIRST if checkpoint == checkpoints[0] else LATER
                if len(runs):
                    draw_runs(ax, runs, "", shift, {"color": _color(number), "marker": _marker(number), **look})
        ax.set_yscale((scales or {}).get(panel, "linear"))
        ax.set_xscale("log", base=2)
        ax.set_xticks(widths, labels=[_factor(width) for width in widths], size=TICK)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(widths[0] / 1.35, widths[-1] * 1.35)
        ax.tick_params(length=2, width=0.6, labelsize=TICK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_linewidth(0.6)
        ax.set_title(str(panel), size=LABEL, loc="left")
        if place >= len(panels) - columns:
            ax.set_xlabel("width factor", size=LABEL)
    handles = [Line2D([], [], color=_color(i), marker=_marker(i), markersize=5) for i in range(len(lines))]
    styles = [
        Line2D([], [], color=GRAY, linestyle=look["linestyle"])  # type: ignore[arg-type]
        for look in (FIRST, LATER)[: len(checkpoints)]
    ]
    blank = Line2D([], [], linestyle="none")
    note = seeds_note(frame, KEYS, "x")
    legend = figure.legend(
        [*handles, blank, *styles, *([blank] * len(note))],
        [*map(str, lines), "", *map(str, checkpoints[:2]), *note],
        loc="outside right upper",
        frameon=False,
        fontsize=TICK,
        handlelength=2.2,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr,call-arg]
    return figure


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _factor(width: float) -> str:
    """As the papers print it: ¼, ½, 1, 2, 4."""
    return {0.25: "¼", 0.5: "½"}.get(float(width), f"{width:g}")
