"""Boundaries of linear regions on a plane through input space (Novak et al. 2018, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from netopsy._checks import NetopsyError
from netopsy._typing import FloatArray, IntArray
from netopsy.plots.style import INK, LABEL, TICK, VERMILLION, elide, new_axes, plain, shades

MANY = 4000
"""Lines or polygons beyond which an SVG or PDF holds them as pixels."""

ENDS = (-1.0, 0.0, 1.0)


def slice_map(
    segments: pd.DataFrame,
    polygons: Sequence[FloatArray] | None = None,
    fills: IntArray | None = None,
    anchors: FloatArray | None = None,
    *,
    named: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw boundaries as thin lines over the square [-1, 1]², with filled polygons below and points marked above.

    Lines of one layer are black; those of several have a color each, the deeper the darker, and a legend.

    Args:
        segments: columns `layer, u0, v0, u1, v1`; `netopsy.region_slice(...).to_frame()`.
        polygons: corners (n, 2) of each polygon to fill.
        fills: a number for each polygon; equal ones have one color.
        anchors: (m, 2), points to mark.
        named: whether the numbers are classes, which a legend names; else they only tell neighbors apart.
        title: above the picture.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: a frame that lacks columns, polygons without their numbers.
    """
    missing = {"layer", "u0", "v0", "u1", "v1"}.difference(segments.columns)
    if missing:
        raise NetopsyError(
            f"segments: expected columns layer, u0, v0, u1, v1; {', '.join(sorted(missing))} missing; pass "
            "netopsy.region_slice(...).to_frame()"
        )
    if (polygons is None) != (fills is None) or len(polygons or ()) != (0 if fills is None else len(fills)):
        raise NetopsyError("fills: expected a number for each polygon; got another count; pass both, or neither")
    ax = new_axes(4.6, 4.2) if ax is None else ax
    handles: list[Patch | Line2D] = []
    if polygons is not None and fills is not None:
        handles += fill(ax, polygons, fills, named=named)
    handles += lines(ax, segments, on_fill=polygons is not None)
    if anchors is not None and len(anchors):
        ax.plot(*anchors.T, "o", color=VERMILLION, markersize=6, markeredgecolor="white", zorder=4)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=ENDS, yticks=ENDS)
    ax.tick_params(labelsize=TICK, length=2, width=0.6)
    ax.spines[:].set_linewidth(0.6)
    ax.set_xlabel("u", size=LABEL)
    ax.set_ylabel("v", size=LABEL, rotation=0)
    if title:
        ax.set_title(plain(title), size=LABEL)
    if handles:
        legend = ax.legend(
            handles=handles,
            title=None if named else "layer",
            loc="upper left",
            bbox_to_anchor=(1.01, 1.02),
            frameon=False,
            fontsize=TICK,
            title_fontsize=TICK,
            alignment="left",
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return ax


def fill(ax: Axes, polygons: Sequence[FloatArray], fills: IntArray, *, named: bool) -> list[Patch | Line2D]:
    """Pale polygons; what a legend says of them."""
    numbers = np.unique(fills)
    if named:
        many = int(numbers.max(initial=0)) >= 10
        palette = pale(mpl.colormaps["tab20" if many else "tab10"](numbers % 20))  # in all pictures the same
    else:  # successive numbers have hues far apart (by the golden ratio), and near hues another depth
        turn = np.outer(np.arange(len(numbers)), (0.618034, 0.414214)) % 1
        depth = np.array([0.18, 0.99]) + turn[:, 1:] * np.array([0.27, -0.17])
        palette = mpl.colors.hsv_to_rgb(np.column_stack([turn[:, 0], depth]))
    color = palette[np.searchsorted(numbers, fills)]
    drawn = PolyCollection(list(polygons), facecolors=color, edgecolors=color, linewidths=0.2, zorder=1)
    drawn.set_rasterized(len(polygons) > MANY)
    ax.add_collection(drawn)
    return [Patch(color=c, label=f"class {n}") for n, c in zip(numbers, palette, strict=True)] if named else []


def pale(colors: FloatArray) -> FloatArray:
    """Colors mixed with white, on which black lines are seen."""
    return 0.45 * colors + 0.55


def lines(ax: Axes, segments: pd.DataFrame, *, on_fill: bool) -> list[Patch | Line2D]:
    """The boundaries, thinner the more there are; what a legend says of them."""
    layers = list(dict.fromkeys(segments["layer"]))
    width = float(np.interp(np.log10(max(len(segments), 1)), (2, 5), (0.9, 0.25)))
    if len(layers) <= 1:
        shade = [INK]
    elif on_fill:
        shade = [INK] * len(layers)
    else:
        shade = [mpl.colors.to_hex(c) for c in shades()(np.linspace(0.25, 1, len(layers)))]
    for layer, color in zip(layers, shade, strict=False):
        ends = segments.loc[segments["layer"] == layer, ["u0", "v0", "u1", "v1"]].to_numpy().reshape(-1, 2, 2)
        drawn = LineCollection(list(ends), colors=color, linewidths=width, capstyle="round", zorder=2)
        drawn.set_rasterized(len(segments) > MANY)
        ax.add_collection(drawn)
    if len(layers) <= 1 or on_fill:
        return []
    return [Line2D([], [], color=c, label=name) for name, c in zip(elide(layers), shade, strict=True)]
