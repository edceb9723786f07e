"""Ablation curves of layers of units, and the areas under them (Casper et al. 2019, Figures 2 and C7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from netopsy.plots.frames import floats, need
from netopsy.plots.style import (
    BLUE,
    GRAY,
    INK,
    LABEL,
    TICK,
    elide,
    finish_lines,
    line_axes,
    name_sites,
    new_axes,
    shades,
)

ALL = "all"
BAR = 0.7
MOST_BANDS = 4
"""Sites up to which bands can be told apart; of more, only `all` has its own."""


def ablation_curves(
    frame: pd.DataFrame,
    *,
    metric: str = "unchanged",
    label: str = "predictions unchanged (%)",
    of: str = "orders",
    ax: Axes | None = None,
) -> Axes:
    """Draw a curve for each site: the mean over the orders, its band from their smallest to their largest value.

    With more than four sites only `all` has a band.

    Args:
        frame: `AblationResult.to_frame()`, or any with its columns `site, fraction, order` and the metric.
        metric: the column drawn.
        label: of the y axis.
        of: what the values of one site and fraction are of, in the legend.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty or lacks columns.
    """
    need(frame, ("site", "fraction", "order", metric), "AblationResult.to_frame()")
    ax = new_axes(6.6, 3.2) if ax is None else ax
    sites = [str(site) for site in frame["site"].unique()]
    layers = [site for site in sites if site != ALL]
    colors = shades()(np.linspace(0.25, 0.9, max(len(layers), 1)))  # first to last
    looks: dict[str, dict[str, Any]] = {site: {"color": colors[i], "linewidth": 1.2} for i, site in enumerate(layers)}
    looks[ALL] = {"color": INK, "linewidth": 1.8, "linestyle": (0, (4, 2))}
    for site, name in zip(sites, elide(sites), strict=True):
        rows = frame[frame["site"] == site]
        points = rows.assign(value=floats(rows[metric])).groupby("fraction")["value"].agg(["mean", "min", "max"])
        look = looks[site]
        dots: dict[str, Any] = {
            "marker": "o",
            "markersize": 2.8,
            "clip_on": False,
        }  # what was measured; lines join them
        ax.plot(points.index, points["mean"], label=name, zorder=3, **dots, **look)
        if len(sites) <= MOST_BANDS or site == ALL:
            ax.fill_between(points.index, points["min"], points["max"], color=look["color"], alpha=0.15, linewidth=0)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    ax.set_xlabel("units ablated (%)", size=LABEL)
    orders = int(frame["order"].nunique())
    banded = "band" if len(sites) <= MOST_BANDS else f"band of {ALL}" if ALL in sites else ""
    note = f"\n({banded}: min to max)" if banded else ""
    title = f"mean of {orders} {of}{note}" if orders > 1 else ""
    finish_lines(ax, PercentFormatter(xmax=1, symbol=""), label, title)
    return ax


def ablation_areas(
    areas: pd.DataFrame, *, label: str = "area, predictions unchanged", ax: Axes | None = None
) -> Axes:
    """Draw the area of each site as a bar, lines one standard deviation over the orders to each side.

    Args:
        areas: `AblationResult.areas()`.
        label: of the y axis.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty or lacks columns.
    """
    need(areas, ("site", "area", "area_sd"), "AblationResult.areas()")
    sites = [str(site) for site in areas["site"]]
    ax = line_axes(sites) if ax is None else ax
    places = np.arange(len(sites), dtype=np.float64)
    heights, spread = floats(areas["area"]), floats(areas["area_sd"])
    ax.bar(places, heights, BAR, color=[GRAY if site == ALL else BLUE for site in sites], linewidth=0, zorder=2)
    known = np.isfinite(spread)
    ax.vlines(places[known], (heights - spread)[known], (heights + spread)[known], color=INK, linewidth=0.9, zorder=3)
    ax.set_xlim(-0.6, len(sites) - 0.4)
    ax.set_ylim(0, 1.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.set_ylabel(label, size=LABEL)
    ax.tick_params(axis="y", labelsize=TICK, length=2, width=0.6)
    name_sites(ax, "x", sites, [float(place) for place in places])
    return ax
