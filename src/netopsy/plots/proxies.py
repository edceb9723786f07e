"""A cheap number of each site against what it costs to put the site back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from netopsy._checks import NetopsyError
from netopsy.plots.depth import KINDS, kind_of
from netopsy.plots.frames import INTERVAL, METRICS, floats, need
from netopsy.plots.style import FAINT, INK, LABEL, SMALLEST, TICK, elide, finish_lines, new_axes, plain

NAMED = 12
"""Sites up to which each is named beside its point."""


def proxy_points(
    frame: pd.DataFrame,
    proxy: str,
    *,
    called: str | None = None,
    rho: tuple[float, float, float] | None = None,
    drawn: Collection[str] = (),
    tolerance: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the increase of error of each site against a proxy, with its interval and verdict.

    `frame` is `netopsy.fine_tuning(...).to_frame()`, of one split; `called` what the proxy is called, by default
    as its column; `rho` a rank correlation with its interval, and `drawn` the sites that it leaves out because they
    were drawn anew. Values that span more than a factor of 100 and are all positive stand on a logarithmic axis; a
    site whose value is not finite is left out. The legend counts both.

    Raises `NetopsyError` for a frame that is empty or lacks columns, or has no finite value of the proxy.
    """
    need(frame, ("site", proxy, *INTERVAL, "status", "verdict"), "netopsy.fine_tuning(...).to_frame()")
    x = floats(frame[proxy])
    delta, low, high = (floats(frame[name]) for name in INTERVAL)
    known = np.isfinite(x) & np.isfinite(delta)
    if not known.any():
        raise NetopsyError(f"proxy: expected a column with finite values; {proxy!r} has none; draw another one")
    ax = new_axes(3.7, 3.6) if ax is None else ax
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=1)
    if tolerance is not None:
        label = f"tolerance {100 * tolerance:g}"
        ax.axhline(tolerance, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1, label=label)
    kinds = [kind_of(frame.iloc[[place]]) for place in range(len(frame))]
    for kind, look in KINDS.items():
        chosen = known & np.array([other == kind for other in kinds])
        if chosen.any():
            ax.vlines(x[chosen], low[chosen], high[chosen], color=look["color"], linewidth=0.8, zorder=2)
            ax.plot(x[chosen], delta[chosen], linestyle="none", label=kind, markersize=4.5, zorder=3, **look)
    if (x[known] > 0).all() and x[known].max() > 100 * x[known].min():
        ax.set_xscale("log")
    if known.sum() <= NAMED:
        first, last = ax.get_xlim()
        middle = np.sqrt(first * last) if ax.get_xscale() == "log" else (first + last) / 2
        names = elide([str(name) for name in frame["site"]], most=20)
        for place in np.flatnonzero(known):  # into the axes: beside them, long names would take their room
            side: dict[str, Any] = {"xytext": (4, 3)} if x[place] < middle else {"xytext": (-4, 3), "ha": "right"}
            at, name = (x[place], delta[place]), names[place]
            ax.annotate(name, at, textcoords="offset points", size=SMALLEST, parse_math=False, **side)
    anew = known & frame["site"].isin(list(drawn)).to_numpy()
    lines = []
    if rho is not None and np.isfinite(rho[0]):
        n = int((known & ~anew).sum())
        lines += [f"Spearman's ρ = {rho[0]:.2f} [{rho[1]:.2f}, {rho[2]:.2f}], {n} sites"]
        lines += [f"without {int(anew.sum())} drawn anew"] if anew.any() else []
    lines += [f"{int((~known).sum())} without a finite value"] if not known.all() else []
    finish_lines(ax, PercentFormatter(xmax=1, symbol=""), METRICS["delta_error"].named("data"), "")
    _legend_above(ax, "\n".join(lines))
    ax.set_xlabel(plain(called or proxy), size=LABEL)
    ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    return ax


def _legend_above(ax: Axes, title: str) -> None:
    """Beside the axes, a phone would cut it off."""
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "ncols": 2, "columnspacing": 1.0}
    legend = ax.legend(frameon=False, fontsize=TICK, title=title, title_fontsize=TICK, **where)
    legend.set_alignment("left")
