"""Error and loss along the straight line from the initial to the trained values (Chatterji et al. 2020, Figure 4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from netopsy._checks import NetopsyError, one_of
from netopsy.plots.frames import METRICS, floats, need
from netopsy.plots.style import BLUE, INK, LABEL, TICK, check_members, elide, shades, text_width

ALPHA = "α (0: initial, 1: trained)"
FULL_NETWORK = "full network"
HEIGHT, WIDTH = 2.1, 2.9
"""Inches of a panel."""
ROWS = 24
"""Of a legend's column."""
MARKERS = "os^Dvp<P>hX"
MOST_BANDS = 4
"""Lines up to which bands can be told apart."""
Z = 1.959964
"""Of a 95 % interval."""


def path_panels(
    frame: pd.DataFrame,
    *,
    metrics: Sequence[str] = ("error", "loss"),
    members: Collection[str] = (),
    vmax: Mapping[str, float] | None = None,
) -> Figure:
    """Draw each module's path from the initial (left) to the trained values, a panel for each split and metric.

    One line a module, early modules light and late ones dark; the full network is dashed. Names in `members` (such as
    critical modules) are blue and marked with `*`. With up to four lines the error has a band, Wilson's 95 % interval
    of a share of n examples; lines of one panel share their examples, so that the bands are wide for differences.

    Args:
        frame: `netopsy.convex_path(...).to_frame()`.
        metrics: a row of panels each, of `"error"` and `"loss"`.
        members: names of sites to emphasize.
        vmax: metric -> upper end of its axis, where one line would flatten all others (`{"error": 0.2}`). What is
            not named shows all values.

    Raises:
        NetopsyError: the frame is empty, lacks columns, measures a point twice or has several sigmas; or a metric or
            member is unknown.
    """
    for metric in (*metrics, *(vmax or {})):
        one_of("metrics", metric, ("error", "loss"))
    if not metrics:
        raise NetopsyError("metrics: expected 'error', 'loss' or both; got none")
    need(frame, ("site", "split", "alpha", "sigma", *metrics, "examples"), "netopsy.convex_path(...).to_frame()")
    if frame["sigma"].nunique() > 1:
        raise NetopsyError(
            f"frame: expected values along one sigma; got {frame['sigma'].nunique()}; draw them with "
            "netopsy.plots.valley.valley_map"
        )
    if frame.duplicated(["site", "split", "alpha"]).any():
        raise NetopsyError("frame: expected one row for a site, split and alpha; got several; draw one run at a time")
    sites = sorted(dict.fromkeys(map(str, frame["site"])), key=lambda name: name == FULL_NETWORK)
    check_members(members, sites)
    splits = list(dict.fromkeys(map(str, frame["split"])))
    looks = line_looks(sites, members)
    columns = -(-len(sites) // ROWS)
    rows, beside = min(len(sites), ROWS), text_width(elide(sites)) + 0.6
    figure = Figure(
        figsize=(WIDTH * len(splits) + beside * columns, max(HEIGHT * len(metrics) + 0.5, 0.17 * rows + 0.8)),
        layout="constrained",
        facecolor="white",
    )
    axes = figure.subplots(len(metrics), len(splits), squeeze=False, sharex=True, sharey="row")
    for row, metric in zip(axes, metrics, strict=True):
        for ax, split in zip(row, splits, strict=True):
            part = frame[frame["split"].astype(str) == split]
            for site in sites:
                draw_path(
                    ax, part[part["site"].astype(str) == site], metric, looks[site], band=len(sites) <= MOST_BANDS
                )
            finish_panel(ax, metric, split)
        row[0].set_ylim(0, (vmax or {}).get(metric))
    for ax, split in zip(axes[-1], splits, strict=True):
        examples = int(frame[frame["split"].astype(str) == split]["examples"].max())
        ax.set_xlabel(f"{ALPHA}\nn = {examples:,} examples", size=LABEL)
    name_lines(figure, sites, looks, members, columns, banded=len(sites) <= MOST_BANDS and "error" in metrics)
    return figure


def line_looks(sites: Sequence[str], members: Collection[str]) -> dict[str, dict[str, Any]]:
    """Colors by depth, a marker each where there are enough; members stand out, and the full network is dashed."""
    layers = [site for site in sites if site != FULL_NETWORK]
    colors = shades()(np.linspace(0.2, 0.95, max(len(layers), 1)))
    looks: dict[str, dict[str, Any]] = {}
    for place, site in enumerate(layers):
        marker = MARKERS[place] if len(layers) <= len(MARKERS) else ""
        looks[site] = {"color": colors[place], "linewidth": 1.0, "marker": marker}
        if site in members:
            looks[site] |= {"color": BLUE, "linewidth": 1.8, "zorder": 4}
    looks[FULL_NETWORK] = {"color": INK, "linewidth": 1.6, "linestyle": (0, (4, 2)), "zorder": 5}
    return looks


def draw_path(ax: Axes, part: pd.DataFrame, metric: str, look: dict[str, Any], *, band: bool) -> None:
    """One line over alpha, and the interval of an error; without a finite value it has a gap."""
    part = part.sort_values("alpha")
    alphas, value, examples = floats(part["alpha"]), floats(part[metric]), floats(part["examples"])
    value = np.where(np.isfinite(value), value, np.nan)
    dots = {"markersize": 3.2, "markeredgecolor": "white", "markeredgewidth": 0.3}
    ax.plot(alphas, value, **{"zorder": 3, **dots, **look})
    if band and metric == "error":
        low, high = wilson(value, examples)
        ax.fill_between(alphas, low, high, color=look["color"], alpha=0.13, linewidth=0, zorder=2)


def wilson(share: Float[np.ndarray, " a"], count: Float[np.ndarray, " a"]) -> tuple[Any, Any]:
    """Wilson's 95 % interval of a share of `count` examples.

    >>> low, high = wilson(np.array([0.0]), np.array([100.0]))
    >>> float(low[0]), round(float(high[0]), 4)
    (0.0, 0.037)
    """
    spread = Z**2 / count
    center = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return np.maximum(center - half, 0.0), np.minimum(center + half, 1.0)


def finish_panel(ax: Axes, metric: str, split: str) -> None:
    """Thin spines, three marks along alpha, and the quantity's name, also where an axis is shared."""
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], labels=["0", "½", "1"])
    ax.yaxis.set_major_formatter(METRICS[metric].formatter())
    ax.set_ylabel(METRICS[metric].named(split), size=LABEL)
    ax.tick_params(labelsize=TICK, length=2, width=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.grid(False)


def name_lines(
    figure: Figure,
    sites: Sequence[str],
    looks: dict[str, dict[str, Any]],
    members: Collection[str],
    columns: int,
    *,
    banded: bool,
) -> None:
    """One legend for all panels, to their right."""
    labels = [f"*{text}" if site in members else text for site, text in zip(sites, elide(sites), strict=True)]
    handles = [Line2D([], [], markersize=4, **looks[site]) for site in sites]
    legend = figure.legend(
        handles,
        labels,
        loc="outside right upper",
        frameon=False,
        fontsize=TICK,
        ncols=columns,
        title="band: 95 % interval" if banded else None,
        title_fontsize=TICK,
        labelcolor=[BLUE if site in members else INK for site in sites],
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
