"""Error or loss over alpha and sigma: the valley from the trained to the initial values of a module.

Chatterji, Neyshabur and Sedghi 2020, Figures 1 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.axes3d import Axes3D  # type: ignore[import-untyped]

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy.plots._grids import Grid, SigmaScale, largest, read_grids, sigma_scale, star_points
from netopsy.plots._landscape import draw_surface
from netopsy.plots.style import (
    BLUE,
    LABEL,
    MISSING,
    TICK,
    contrast_ink,
    elide,
    inches,
    lay_out,
    new_axes,
    plain,
    root,
    shades,
)

ALPHA = "α (0: initial, 1: trained)"
BANDS = 50
"""Colors of a map."""
BAR = 0.14
"""Width of a color bar in inches."""
DEFAULT_LEVELS = {"error": (0.1, 0.25, 0.5)}
PANELS = {"map": (2.1, 1.9), "surface": (3.4, 2.9)}
"""Inches of a panel."""
MOST = 5
"""Panels side by side."""


def valley_map(
    frame: pd.DataFrame,
    *,
    metric: str = "error",
    split: str | None = None,
    levels: Sequence[float] | None = None,
    vmax: float | None = None,
    optima: pd.DataFrame | None = None,
    draws: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one module's error over alpha (x) and sigma (y, logarithmic, 0 set one step below) as a filled map.

    Lines join points of equal error; lines and colors are interpolated linearly between the measured points, which
    small ticks on the frame show. Gray is where nothing was measured, or no finite value.

    Args:
        frame: `netopsy.valley(...).to_frame()` of one module, or the `surface` of `netopsy.criticality`.
        metric: the column drawn, `"error"` or `"loss"`.
        split: which one; None: the first.
        levels: values of the lines, in the frame's unit. None: 0.1, 0.25 and 0.5 for the error, none for the loss.
        vmax: value of the darkest color. None: the largest error; for the loss, which has no bound, its 80th
            percentile.
        optima: points to mark by a star, with columns `site, alpha, sigma` (`netopsy.criticality(...).to_frame()`).
        draws: of the noise that the values are means of, to be named.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks columns or the split, measures a point twice, has several modules, or
            fewer than two alphas and two sigmas.
    """
    grids = read_grids(frame, metric, split)
    (grid,) = one_site(grids)
    ax = new_axes(4.6, 3.2) if ax is None else ax
    top = largest(grids, metric) if vmax is None else vmax
    marks = star_points(optima, [grid])
    scale = sigma_scale(grids, [sigma for _, sigma in marks.get(grid.site, ())])
    lines = DEFAULT_LEVELS.get(metric, ()) if levels is None else levels
    filled = draw_map(ax, grid, scale, lines, top, marks.get(grid.site, ()), numbers=True)
    add_bar(root(ax), filled, [ax], grids, top)
    ax.set_title(plain(elide([grid.site], 48)[0]), size=LABEL)
    ax.set_xlabel("\n".join([ALPHA, counted(grids, draws), *signs(grids, scale, marks)]), size=LABEL)
    ax.set_ylabel("σ of the noise", size=LABEL)
    return ax


def valley_surface(
    frame: pd.DataFrame,
    *,
    metric: str = "error",
    split: str | None = None,
    vmax: float | None = None,
    draws: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one module's error as a landscape: alpha along the valley, sigma to its left and right (Figure 1).

    The noise has no direction: both sides show the same numbers. The path at the smallest sigma is drawn as a line,
    from the trained values θᶠ to the initial ones θ⁰. The surface is interpolated linearly between measured points,
    which lie where the darker lines cross, and cut off at `vmax`.

    The arguments and errors are those of `valley_map`; `ax` has to be three-dimensional (`projection="3d"`).
    """
    grids = read_grids(frame, metric, split)
    (grid,) = one_site(grids)
    if ax is None:
        figure = Figure(figsize=(4.8, 4.0), layout="constrained", facecolor="white")
        ax = figure.add_subplot(projection="3d")
    if not isinstance(ax, Axes3D):
        raise NetopsyError(
            f"ax: expected three-dimensional axes; got {type(ax).__name__}; make them with "
            'figure.add_subplot(projection="3d"), or leave ax out'
        )
    top = largest(grids, metric) if vmax is None else vmax
    draw_surface(ax, grid, sigma_scale(grids), top, label=grids[0].label)
    ax.set_title(plain(elide([grid.site], 48)[0]), size=LABEL, y=0.95)
    ax.text2D(0.5, 0.0, counted(grids, draws), transform=ax.transAxes, ha="center", size=TICK)
    drawn: Axes = ax
    return drawn


def valley_panels(
    frame: pd.DataFrame,
    *,
    kind: Literal["map", "surface"] = "map",
    metric: str = "error",
    split: str | None = None,
    levels: Sequence[float] | None = None,
    vmax: float | None = None,
    optima: pd.DataFrame | None = None,
    draws: int | None = None,
) -> Figure:
    """Draw the valleys of several modules side by side on common scales, a panel each (Figures 1 and 10).

    Join the frames of several valleys by `pandas.concat`; measured at the same `sigmas=` they fill the same range.
    The other arguments and errors are those of `valley_map`; a surface has no lines and no marks.
    """
    one_of("kind", kind, tuple(PANELS))
    grids = read_grids(frame, metric, split)
    top = largest(grids, metric) if vmax is None else vmax
    marks = star_points(optima, grids) if kind == "map" else {}
    scale = sigma_scale(grids, [sigma for points in marks.values() for _, sigma in points])
    lines = DEFAULT_LEVELS.get(metric, ()) if levels is None else levels
    columns = panel_columns(len(grids))
    rows = -(-len(grids) // columns)
    width, height = PANELS[kind]
    figure = Figure(
        figsize=(columns * width + (1.2 if kind == "map" else 0.2), rows * height + 0.6),
        layout="constrained",
        facecolor="white",
    )
    titles = elide([grid.site for grid in grids], 22 if kind == "map" else 32)
    for place, (grid, title) in enumerate(zip(grids, titles, strict=True)):
        if kind == "surface":
            solid = figure.add_subplot(rows, columns, place + 1, projection="3d")
            draw_surface(solid, grid, scale, top, label=grids[0].label)
            solid.set_title(plain(title), size=LABEL, y=0.97)
            continue
        ax = figure.add_subplot(rows, columns, place + 1)
        filled = draw_map(ax, grid, scale, lines, top, marks.get(grid.site, ()), numbers=False)
        ax.set_title(plain(title), size=TICK)
        ax.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(grids))
    if kind == "map":
        add_bar(figure, filled, figure.axes, grids, top)
        figure.supylabel("σ of the noise", size=LABEL)
        notes = [counted(grids, draws), *signs(grids, scale, marks, lines)]
        figure.supxlabel(f"{ALPHA}\n{'   '.join(notes)}", size=LABEL)
    else:
        figure.supxlabel(counted(grids, draws), size=TICK)
    return figure


def panel_columns(count: int) -> int:
    """Panels side by side, so that few stand in one row and many make a block."""
    return count if count <= 4 else min(MOST, -(-count // -(-count // MOST)))


def one_site(grids: Sequence[Grid]) -> Sequence[Grid]:
    """Refuse several modules in one picture."""
    if len(grids) > 1:
        names = shorten([grid.site for grid in grids])
        raise NetopsyError(
            f"frame: expected one module; got {len(grids)} ({names}); draw several with "
            "netopsy.plots.valley.valley_panels"
        )
    return grids


def counted(grids: Sequence[Grid], draws: int | None) -> str:
    """What the values are means of."""
    least, most = (end(grid.examples for grid in grids) for end in (min, max))
    several = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return ", ".join([f"n = {several} examples", *([f"mean of {draws} draws of noise"] if draws else [])])


def signs(
    grids: Sequence[Grid],
    scale: SigmaScale,
    marks: Mapping[str, object],
    levels: Sequence[float] = (),
) -> list[str]:
    """What lines without numbers, stars and gray mean, where there are any; in one line, or none."""
    quantity = grids[0].quantity
    high, low = (np.array([end(grid.value[np.isfinite(grid.value)]) for grid in grids]) for end in (np.max, np.min))
    drawn = [quantity.text(level, 0) for level in sorted(levels) if ((low < level) & (level < high)).any()]
    gray = any(
        np.isnan(grid.value).any() or scale.at(grid.sigmas)[-1] < scale.top or scale.at(grid.sigmas)[0] > scale.bottom
        for grid in grids
    )
    notes = [
        *([f"lines: {', '.join(drawn)}{' %' * quantity.percent}"] if drawn else []),
        *(["★ found optimum"] if marks else []),
        *(["gray: not measured"] if gray else []),
    ]
    return ["   ".join(notes)] if notes else []


def draw_map(
    ax: Axes,
    grid: Grid,
    scale: SigmaScale,
    levels: Sequence[float],
    top: float,
    stars: Sequence[tuple[float, float]],
    *,
    numbers: bool,
) -> QuadContourSet:
    """Colors, lines of equal value (with their numbers where there is room), and marks."""
    heights = scale.at(grid.sigmas)
    value = np.ma.masked_invalid(grid.value)
    norm = Normalize(0, top)
    extend: Literal["max", "neither"] = "max" if value.max() > top else "neither"
    filled = ax.contourf(
        grid.alphas, heights, value, levels=np.linspace(0, top, BANDS + 1), cmap=shades(), norm=norm, extend=extend
    )
    within = [level for level in sorted(levels) if value.min() < level < value.max()]
    if within:
        inks = [contrast_ink(shades()(norm(level))) for level in within]
        drawn = ax.contour(grid.alphas, heights, value, levels=within, colors=inks, linewidths=0.9)
        for text in ax.clabel(drawn, fmt=lambda level: grid.quantity.text(level, 0), fontsize=7) if numbers else ():
            text.set_in_layout(False)
    if stars:
        ax.plot(
            [alpha for alpha, _ in stars],
            scale.at(np.array([sigma for _, sigma in stars])),
            linestyle="none",
            marker="*",
            markersize=9,
            color=BLUE,
            markeredgecolor="white",
            markeredgewidth=0.6,
            clip_on=False,
            zorder=5,
            label="found optimum",
        )
    ax.set_facecolor(MISSING)
    ax.set(xlim=(0, 1), ylim=(scale.bottom, scale.top))
    ax.set_xticks([0, 0.5, 1], labels=["0", "½", "1"])
    ax.set_yticks(*scale.ticks())
    ax.set_xticks(grid.alphas, minor=True)
    ax.set_yticks(heights, minor=True)
    ax.tick_params(labelsize=TICK, length=3, width=0.6)
    ax.tick_params(which="minor", length=1.5, width=0.4)
    ax.spines[:].set_linewidth(0.6)
    ax.grid(False)
    return filled


def add_bar(figure: Figure, filled: QuadContourSet, axes: Sequence[Axes], grids: Sequence[Grid], top: float) -> None:
    """A thin color bar with the quantity's name beside all panels."""
    lay_out(figure)
    high = sum({round(ax.get_position().y0, 3): inches(ax)[1] for ax in axes}.values())
    bar = figure.colorbar(
        filled,
        ax=list(axes),
        pad=0.02,
        aspect=max(high, 1.0) / BAR,
        fraction=0.15,
        format=grids[0].quantity.formatter(),
        extendfrac=0.03,
    )
    bar.set_ticks([tick for tick in MaxNLocator(6).tick_values(0, top) if tick <= top])
    bar.set_label(grids[0].label, size=LABEL)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=TICK, length=2, width=0.6)
    bar.ax.minorticks_off()
