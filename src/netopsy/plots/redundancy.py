"""Redundancy of units by layer (Casper et al. 2019, Figures 3 and B2)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from netopsy._checks import NetopsyError
from netopsy.plots.frames import floats, need, ordered_sites
from netopsy.plots.style import (
    BLUE,
    FAINT,
    GRAY,
    LABEL,
    TICK,
    VERMILLION,
    elide,
    finish_lines,
    line_axes,
    name_sites,
    new_axes,
    shades,
)

SOURCE = "netopsy.redundancy(...)"


def redundancy_bars(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw compressibility and similarity of each layer, both as shares, as pairs of bars.

    `frame` is `netopsy.redundancy(...).to_frame()`. Whiskers are the standard deviation over samplings where there
    are several; a layer without a number (its status says why) has a dash. Raises `NetopsyError` for a frame that is
    empty or lacks columns.
    """
    need(frame, ("site", "compressibility", "similar_share"), "redundancy")
    sites = ordered_sites(frame["site"])
    ax = ax or line_axes(sites)
    places = np.arange(len(sites), dtype=np.float64)
    kinds = (
        ("compressibility", "components not needed", BLUE, -0.2),
        ("similar_share", "similar units, of all others", VERMILLION, 0.2),
    )
    for name, label, color, off in kinds:
        values = floats(frame[name])
        spread = floats(frame[f"{name}_sd"]) if f"{name}_sd" in frame else np.full(len(values), np.nan)
        ax.bar(places + off, np.nan_to_num(values), width=0.38, color=color, label=label)
        known = np.isfinite(spread)
        if known.any():
            ax.errorbar(places[known] + off, values[known], spread[known], fmt="none", ecolor=GRAY, lw=0.8)
        for place in places[~np.isfinite(values)]:
            ax.text(place + off, 0.0, "–", ha="center", va="bottom", size=TICK, color=GRAY)
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.6, len(sites) - 0.4)
    finish_lines(ax, PercentFormatter(xmax=1, symbol=""), "share (%)", "")
    name_sites(ax, "x", sites, places.tolist())
    return ax


def pair_histograms(
    frame: pd.DataFrame, *, similar: float | None = None, title: str = "layer", ax: Axes | None = None
) -> Axes:
    """Draw the distribution of `abs(r)` over the pairs of units of each layer, one line a layer, first to last.

    `frame` is `netopsy.redundancy(...).pairs`; samplings of a layer are added up. The line at `similar` is the
    threshold from which two units are similar; `title` is the legend's. Raises `NetopsyError` for a frame that is
    empty or lacks columns.
    """
    if frame.empty:
        raise NetopsyError(f"frame: expected pairs of units from {SOURCE}.pairs; in no layer do two units vary")
    need(frame, ("site", "low", "high", "pairs"), "redundancy")
    sites = ordered_sites(frame["site"])
    ax = ax or new_axes(6.6, 3.2)
    colors = shades()(np.linspace(0.25, 1.0, len(sites)))
    for site, label, color in zip(sites, elide(sites), colors, strict=True):
        part = frame[frame["site"] == site].groupby(["low", "high"], as_index=False)["pairs"].sum()
        counts, low, high = (floats(part[name]) for name in ("pairs", "low", "high"))
        density = counts / max(counts.sum(), 1.0) / (high - low)
        ax.stairs(density, [*low, high[-1]], baseline=None, color=color, label=label, lw=1.1)
    if similar is not None:
        ax.axvline(similar, color=FAINT, lw=0.8, ls="--", zorder=0)
        side = "right" if similar > 0.6 else "left"  # where there is room for the word
        off = (-4 if side == "right" else 4, -2)
        ax.annotate("similar", (similar, 1), off, ("data", "axes fraction"), "offset points",
                    size=TICK, color=GRAY, va="top", ha=side)  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("|r| of two units", size=LABEL)
    ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    finish_lines(ax, ax.yaxis.get_major_formatter(), "density of pairs", title)
    return ax
