"""Which kind each unit of a network is (Casper et al. 2019, six kinds of units that constrain the capacity)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from netopsy._checks import NetopsyError, near
from netopsy.plots.frames import floats, need
from netopsy.plots.style import TICK, elide, finish_lines, line_axes, name_sites, new_axes, text_width

KIND_COLORS = {
    "redundant functional": "#1a5cd5",
    "redundant blocked": "#89bee3",
    "non-redundant blocked": "#b46c17",
    "silent": "#e0e0e0",
    "constant": "#535265",
    "semantically redundant": "#2ba0a0",
    "unique": "#a6041d",
    "unknown": "#201d26",
}
"""Kinds in the paper's order, and their colors: any two differ by 0.12 in OKLab with each color blindness, too."""

SOURCE = "netopsy.unit_table(...).to_frame()"
BAR = 0.7
GAP, CELL, NAME = 0.7, 0.16, 0.17
"""Lines of cells between two layers; inches of the largest cell; inches that a layer's name needs."""


def ordered_units(frame: pd.DataFrame) -> pd.DataFrame:
    """The units of each layer sorted by kind, within a kind the largest effect first; layers as they come.

    Raises:
        NetopsyError: the frame is empty, lacks columns, or has a kind that is not known.
    """
    need(frame, ("site", "unit", "kind", "effect"), SOURCE)
    names = frame["kind"].astype(object)
    for name in names.unique():
        if name not in KIND_COLORS:
            known = ", ".join(KIND_COLORS)
            raise NetopsyError(f"frame: expected kinds of units: {known}; got {name!r}{near(str(name), KIND_COLORS)}")
    site, kind = frame["site"].astype(str), names.map([*KIND_COLORS].index).to_numpy(dtype=np.int64)
    place = site.map({name: at for at, name in enumerate(site.unique())}).to_numpy(dtype=np.int64)
    effect = -floats(frame["effect"])  # what was not measured is NaN, and comes last
    return frame.iloc[np.lexsort((frame["unit"].to_numpy(dtype=np.int64), effect, kind, place))].reset_index(
        drop=True
    )


def count_kinds(frame: pd.DataFrame) -> pd.DataFrame:
    """Units by layer (index, in the network's order) and kind (columns: all, in the paper's order)."""
    sites = frame["site"].astype(str)
    table = pd.crosstab(sites, frame["kind"].astype(str))
    return table.reindex(index=list(sites.unique()), columns=list(KIND_COLORS), fill_value=0)


def unit_map(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each unit as a cell in the color of its kind: layer by layer, sorted by kind and then by effect.

    A layer that does not fit on one line goes on below. The legend has the kinds that occur, and how many units.

    Args:
        frame: `netopsy.unit_table(...).to_frame()`, or any with its columns `site, unit, kind, effect`.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks columns, or has a kind that is not known.
    """
    ordered = ordered_units(frame)
    counts = count_kinds(ordered)
    sites, most = [str(site) for site in counts.index], int(counts.sum(axis=1).max())
    wide = min(most, max(32, math.ceil(math.sqrt(4 * len(ordered)))))
    lines = [math.ceil(units / wide) for units in counts.sum(axis=1)]
    cell = min(CELL, 6.0 / wide)
    gap = max(GAP, NAME / cell - 1)
    tops = np.concatenate([[0.0], np.cumsum(np.add(lines, gap))])
    if ax is None:
        ax = new_axes(cell * wide + text_width(elide(sites)) + 2.4, max(cell * tops[-1] + 0.3, 1.7))
        ax.set_aspect("equal", anchor="NW")
    kinds, colors = [*KIND_COLORS], ListedColormap([*KIND_COLORS.values()])
    for site, top, high in zip(sites, tops, lines, strict=False):
        codes = (
            ordered.loc[ordered["site"] == site, "kind"].astype(object).map(kinds.index).to_numpy(dtype=np.float64)
        )
        cells = np.full(high * wide, np.nan)
        cells[: len(codes)] = codes
        # the white between cells goes where they are small: it would be all that is left of them
        line = 0.6 if wide <= 64 else 0.25 if wide <= 128 else 0.0
        ax.pcolormesh(
            np.arange(wide + 1),
            top + np.arange(high + 1),
            np.ma.masked_invalid(cells.reshape(high, wide)),
            cmap=colors,
            vmin=-0.5,
            vmax=len(kinds) - 0.5,
            edgecolor="white" if line else "none",
            linewidth=line,
        )
    ax.set_xlim(0, wide)
    ax.set_ylim(tops[-1] - gap, 0)
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    middles = [top + high / 2 for top, high in zip(tops, lines, strict=False)]
    ax.set_yticks(middles, labels=elide(sites), parse_math=False, size=TICK)
    ax.tick_params(axis="y", length=0)
    total = counts.sum()
    used = [kind for kind in kinds if total[kind]]
    legend = ax.legend(
        handles=[Patch(facecolor=KIND_COLORS[kind], label=f"{kind}: {total[kind]:,}") for kind in used],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
        fontsize=TICK,
        title="kind of unit",
        title_fontsize=TICK,
    )
    legend.set_alignment("left")
    return ax


def kind_counts(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of each kind among the units of each layer as stacked bars, in the paper's order from below.

    Args:
        frame: `netopsy.unit_table(...).to_frame()`, or any with its columns `site, unit, kind, effect`.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks columns, or has a kind that is not known.
    """
    counts = count_kinds(ordered_units(frame))
    sites, units = [str(site) for site in counts.index], counts.sum(axis=1).to_numpy()
    ax = line_axes(sites) if ax is None else ax
    places = np.arange(len(sites), dtype=np.float64)
    bottom: Float[np.ndarray, " sites"] = np.zeros(len(sites))
    for kind, color in KIND_COLORS.items():
        if counts[kind].any():
            heights = counts[kind].to_numpy() / units
            ax.bar(places, heights, BAR, bottom, color=color, edgecolor="white", linewidth=0.4, label=kind)
            bottom = bottom + heights
    ax.set_xlim(-0.6, len(sites) - 0.4)
    ax.set_ylim(0, 1)
    finish_lines(ax, PercentFormatter(xmax=1, symbol=""), "share of units (%)", "kind of unit")
    name_sites(ax, "x", [*sites], places.tolist())
    return ax
