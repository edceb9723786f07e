"""Several treatments of several cases side by side, with their spread over seeds (Zhang et al. 2022, Table 1)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from netopsy._checks import NetopsyError, shorten
from netopsy.plots._seeds import deviation, need_single_runs, seeds_note
from netopsy.plots.frames import floats, need
from netopsy.plots.style import (
    BLUE,
    GRAY,
    INK,
    ORANGE,
    SMALLEST,
    VERMILLION,
    finish_lines,
    label_ticks,
    new_axes,
    text_width,
)

FILLS = ((GRAY, ""), (BLUE, ""), (ORANGE, ""), (ORANGE, "////"), (VERMILLION, ""))
"""Color and hatching of a case's bars, in their order."""
BAR = 0.17
"""Width of a bar; a case has width 1."""
LINE = 25
"""Characters of a case's name on one line."""


def grouped_bars(
    frame: pd.DataFrame,
    *,
    label: str = "test error (%)",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean over seeds as a bar for each treatment, cases beside each other, its number above it.

    Lines are one standard deviation of the seeds' values to each side (n − 1 in its denominator), dots the seeds. A
    run without a value (NaN: it failed) is left out of its mean and counted in the legend; a treatment without any
    value has an x in the place of its bar.

    Args:
        frame: one row a run and treatment, with columns `case, treatment, seed, value` (a share, printed in percent);
            cases and treatments (at most five) are drawn in the order in which they come; long names of cases are
            wrapped.
        label: of the y axis.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks a column, has more treatments, or two rows of one run.
    """
    need(frame, ("case", "treatment", "seed", "value"), "one row a run and treatment: case, treatment, seed, value")
    need_single_runs(frame, ["case", "treatment", "seed"])
    cases, treatments = (list(dict.fromkeys(map(str, frame[name]))) for name in ("case", "treatment"))
    if len(treatments) > len(FILLS):
        raise NetopsyError(
            f"frame: expected at most {len(FILLS)} treatments, as there are colors; got {shorten(treatments, 9)}; "
            "draw a selection"
        )
    names = ["\n".join(part for line in case.split("\n") for part in textwrap.wrap(line, LINE)) for case in cases]
    ax = new_axes(2.6 + len(cases) * max(1.4, 0.25 + text_width(names)), 3.6) if ax is None else ax
    ax.set_xlim(-0.5, len(cases) - 0.5)
    for index, treatment in enumerate(treatments):
        rows = frame[frame["treatment"] == treatment]
        values = [floats(rows["value"][rows["case"] == case]) for case in cases]
        offset = BAR * (index - (len(treatments) - 1) / 2)
        draw_bars(ax, values, [case + offset for case in range(len(cases))], treatment, FILLS[index])
    ax.set_ylim(bottom=0)
    finish_lines(
        ax,
        PercentFormatter(xmax=1, symbol=""),
        label,
        "\n".join(seeds_note(frame, ["case", "treatment"], "x")),
    )
    label_ticks(ax, "x", names, list(range(len(cases))))
    return ax


def draw_bars(
    ax: Axes, values: Sequence[Float[np.ndarray, " n"]], places: Sequence[float], name: str, fill: tuple[str, str]
) -> None:
    """One treatment's bars, their lines, dots and numbers; `values` holds the seeds' values of each case."""
    known = [cell[np.isfinite(cell)] for cell in values]
    heights = np.array([cell.mean() if len(cell) else np.nan for cell in known])
    spread = np.array([deviation(cell) for cell in known])
    color, hatch = fill
    ax.bar(places, heights, 0.9 * BAR, label=name, color=color, hatch=hatch, edgecolor="white", linewidth=0, zorder=2)
    ax.vlines(places, heights - spread, heights + spread, color=INK, linewidth=0.9, zorder=3)
    for place, cell, height, half in zip(places, known, heights, spread, strict=True):
        ax.plot([place] * len(cell), cell, linestyle="none", marker=".", markersize=3, color=INK, zorder=4)
        top = max(cell.max(), height + np.nan_to_num(half)) if len(cell) else 0.0
        ax.annotate(
            f"{100 * height:.1f}" if len(cell) else "x",
            (place, top),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            size=SMALLEST,
            color=INK,
        )
