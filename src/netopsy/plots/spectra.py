"""Singular values over training (Chatterji, Neyshabur and Sedghi 2020, Figures 3 and 8)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import Formatter, LogLocator, NullLocator, ScalarFormatter, StrMethodFormatter

from netopsy._checks import NetopsyError, one_of
from netopsy.plots.frames import floats, key, need, ordered_keys, ordered_sites
from netopsy.plots.style import LABEL, TICK, finish_lines, line_axes, name_sites, new_axes, plain, shades

LABELS = {
    "norm": "‖θ‖₂, as an operator",
    "moved": "‖θ − θ⁰‖₂, as an operator",
    "stable_rank": "stable rank",
}


def spectrum_lines(frame: pd.DataFrame, *, site: str, log: bool = True, ax: Axes | None = None) -> Axes:
    """Draw the singular values of one module, largest first, one line a checkpoint, the last one darkest.

    `frame` is `netopsy.spectra(...).values`. Raises `NetopsyError` for a frame that is empty or lacks columns, and
    for a site that is not in it.
    """
    need(frame, ("site", "checkpoint", "index", "value"), "netopsy.spectra(...).values")
    one_of("site", site, ordered_sites(frame["site"]))
    part = frame[frame["site"].astype(str) == site]
    keys = ordered_keys(part["checkpoint"])
    ax = ax or new_axes(4.6, 3.0)
    own = [key(item) for item in part["checkpoint"]]
    for checkpoint, color in zip(keys, shades()(np.linspace(0.25, 1.0, len(keys))), strict=True):
        line = part[[item == checkpoint for item in own]]
        ax.plot(floats(line["index"]) + 1, floats(line["value"]), color=color, lw=1.1, label=str(checkpoint))
    value = floats(part["value"])
    formatter: Formatter = ScalarFormatter()
    if log and bool((value > 0).any()):
        ax.set_yscale("log")
        narrow = float(value.max()) < 30 * float(value[value > 0].min())
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        ax.yaxis.set_minor_locator(NullLocator())
        formatter = StrMethodFormatter("{x:g}")
    ax.set_title(plain(site), size=LABEL)
    ax.set_xlabel("singular value, largest first", size=LABEL)
    ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    finish_lines(ax, formatter, "σ", "checkpoint")
    return ax


def norm_lines(
    frame: pd.DataFrame, *, column: Literal["norm", "moved", "stable_rank"] = "moved", ax: Axes | None = None
) -> Axes:
    """Draw one number of every module, one line a checkpoint, the last one darkest; without a number it has a gap.

    `frame` is `netopsy.spectra(...).to_frame()`. Raises `NetopsyError` for a frame that is empty, lacks columns, or
    has a module and checkpoint twice, and for a column without any number.
    """
    one_of("column", column, tuple(LABELS))
    need(frame, ("site", "checkpoint", column), "netopsy.spectra(...).to_frame()")
    if not np.isfinite(floats(frame[column])).any():
        raise NetopsyError(f"column={column!r}: expected at least one number; got none; choose another column")
    sites, keys = ordered_sites(frame["site"]), ordered_keys(frame["checkpoint"])
    value = np.full((len(keys), len(sites)), np.nan)
    seen = set()
    for site, checkpoint, number in zip(frame["site"], frame["checkpoint"], floats(frame[column]), strict=True):
        at = keys.index(key(checkpoint)), sites.index(str(site))
        if at in seen:
            raise NetopsyError(
                f"frame: expected one row for a site and checkpoint; got several for {site!r} at {key(checkpoint)!r}"
                "; draw one run at a time"
            )
        seen.add(at)
        value[at] = number
    ax = ax or line_axes(sites)
    places = np.arange(len(sites), dtype=np.float64)
    for checkpoint, row, color in zip(keys, value, shades()(np.linspace(0.25, 1.0, len(keys))), strict=True):
        ax.plot(places, row, color=color, lw=1.1, marker="o", markersize=3, label=str(checkpoint))
    ax.set_xlim(-0.5, len(sites) - 0.5)
    ax.set_ylim(bottom=0)
    finish_lines(ax, ScalarFormatter(), LABELS[column], "checkpoint")
    name_sites(ax, "x", sites, places.tolist())
    return ax
