"""Jacobian norms at points (Novak et al. 2018, Figure 6)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from netopsy._checks import NetopsyError
from netopsy.plots.frames import floats, need
from netopsy.plots.style import BLUE, GRAY, LABEL, TICK, VERMILLION, new_axes

BINS = 40
ROUND = [1, 2, 5, 10]


def norm_histogram(frame: pd.DataFrame, *, quantity: str = "Jacobian norm", ax: Axes | None = None) -> Axes:
    """Draw how many points have which norm, on a logarithmic axis; right and wrong ones apart if the frame says.

    `frame` is `netopsy.jacobian_norm(...).to_frame()`. Raises `NetopsyError` for a frame that is empty, lacks columns
    or has no positive finite norm.
    """
    need(frame, ("index", "norm"), "netopsy.jacobian_norm(...).to_frame()")
    norm = floats(frame["norm"])
    shown = np.isfinite(norm) & (norm > 0)
    if not shown.any():
        raise NetopsyError("norm: expected at least one positive finite norm; got none")
    ax = ax or new_axes(4.6, 3.0)
    low, high = np.log10(norm[shown].min()), np.log10(norm[shown].max())
    edges = np.logspace(low - 1e-3, high + 1e-3, BINS + 1)
    groups = {"": (shown, GRAY)}
    if "correct" in frame:
        right = frame["correct"].fillna(False).to_numpy(bool)
        wrong = (~frame["correct"]).fillna(False).to_numpy(bool)
        groups = {"correct": (shown & right, BLUE), "wrong": (shown & wrong, VERMILLION)}
    for name, (rows, color) in groups.items():
        if rows.any():
            label = f"{name} ({int(rows.sum())})" if name else None
            ax.hist(norm[rows], bins=edges.tolist(), histtype="stepfilled", alpha=0.3, color=color, label=label)
            ax.hist(norm[rows], bins=edges.tolist(), histtype="step", color=color, lw=1.1)
    ax.set_xscale("log")
    _tick(ax, high - low)
    ax.set_xlabel(quantity, size=LABEL, parse_math=False)
    ax.set_ylabel("points", size=LABEL)
    ax.tick_params(which="both", labelsize=TICK, length=2, width=0.6)
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1:
        ax.legend(frameon=False, fontsize=TICK)
    return ax


def _tick(ax: Axes, decades: float) -> None:
    """Plain numbers where powers of ten are too far apart; counts are whole."""
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    if decades < 2:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if decades > 0.7 else MaxNLocator(5, steps=ROUND))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
        ax.xaxis.set_minor_locator(NullLocator())
