"""Criticality of the modules of a network, and of several networks over epsilon (Chatterji et al. 2020, Fig. 5)."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator, ScalarFormatter

from netopsy._checks import NetopsyError
from netopsy.plots.frames import floats, need, ordered_sites
from netopsy.plots.style import (
    BLUE,
    GRAY,
    INK,
    LABEL,
    ORANGE,
    TICK,
    VERMILLION,
    check_members,
    elide,
    finish_lines,
    line_axes,
    name_sites,
    new_axes,
    plain,
    shades,
)

BAR = 0.7
SOURCE = "netopsy.criticality(...).to_frame()"
MARKERS = "os^DvpPX<>h"
NETS = (BLUE, VERMILLION, "#009E73", ORANGE, "#CC79A7", INK, "#56B4E9", GRAY)
STRIP = 0.09
"""Share of the axis, at either end, for what has no place on a logarithmic one."""
SIGNS: dict[str, tuple[str, dict[str, Any]]] = {
    "alpha-zero": ("μ = 0 (alpha-zero)", {"marker": "v", "markerfacecolor": "white"}),
    "no-op": ("μ = 0 (no-op)", {"marker": "_"}),
    "infeasible": ("no μ (infeasible)", {"marker": "x"}),
    "non-finite": ("no μ (non-finite)", {"marker": "$?$"}),
}
"""Status without a place on a logarithmic axis -> words and look; the first two at the foot, the others on top."""


def criticality_bars(
    frame: pd.DataFrame,
    *,
    members: Collection[str] = (),
    confidence: float | None = None,
    draws: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw mu of each module on a logarithmic axis: bars for one epsilon, dots side by side for several.

    Lines are the interval over the draws of the noise (`mu_low` to `mu_high`); an end at zero reaches the foot.
    Modules with mu = 0 and those without any are marked at the foot and at the top by what they are. Where a bar
    begins says nothing, as always on a logarithmic axis: read its end.

    Args:
        frame: `netopsy.criticality(...).to_frame()`.
        members: names of sites in blue, marked with `*`.
        confidence: of the interval, to be named.
        draws: of the noise, to be named.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks columns, has a site and epsilon twice, or a status that is not known;
            or a member is none of its sites.
    """
    need(frame, ("site", "epsilon", "mu", "mu_low", "mu_high", "status"), SOURCE)
    if frame.duplicated(["site", "epsilon"]).any():
        raise NetopsyError("frame: expected one row for a site and epsilon; got several; draw one result at a time")
    unknown = set(map(str, frame["status"])) - {"feasible", *SIGNS}
    if unknown:
        raise NetopsyError(
            f"frame: status: expected feasible, {', '.join(SIGNS)}; got {', '.join(sorted(unknown))}; pass {SOURCE}"
        )
    sites, levels = ordered_sites(frame["site"]), sorted(set(floats(frame["epsilon"]).tolist()))
    check_members(members, sites)
    ax = line_axes(sites) if ax is None else ax
    mu, low, high = (floats(frame[name]) for name in ("mu", "mu_low", "mu_high"))
    foot, top = log_limits(ax, np.concatenate([mu, low, high]))
    place = np.array([sites.index(str(site)) for site in frame["site"]], dtype=np.float64)
    epsilon, status = floats(frame["epsilon"]), np.array(frame["status"].astype(str))
    single = len(levels) == 1
    colors = [BLUE] if single else shades()(np.linspace(0.25, 0.95, len(levels)))
    shift = np.linspace(-0.3, 0.3, len(levels)) if not single else np.zeros(1)
    for number, (level, color) in enumerate(zip(levels, colors, strict=True)):
        here = epsilon == level
        shown = here & (mu > 0)
        at = place + shift[number]
        if single:
            ax.bar(at[shown], mu[shown] - foot, BAR, bottom=foot, color=color, linewidth=0, zorder=2, label="_mu")
        else:
            marker = MARKERS[number % len(MARKERS)]
            ax.plot(at[shown], mu[shown], ls="", marker=marker, ms=4.5, color=color, label=f"ε = {level:g}", zorder=3)
        known = shown & np.isfinite(low) & np.isfinite(high)
        ends = np.maximum(low[known], foot), np.minimum(high[known], top)
        ax.vlines(at[known], *ends, color=INK if single else color, linewidth=1.1, zorder=3)
        for kind in SIGNS:
            mark_status(ax, at[here & (status == kind)], kind, INK if single else color)
    for place_of in np.arange(len(sites) - 1) + 0.5 if not single else ():
        ax.axvline(place_of, color="#eeeeee", linewidth=0.6, zorder=0)
    for kind, (words, look) in SIGNS.items():
        if (status == kind).any():
            ax.plot([], [], ls="", color=INK, ms=5, label=words, **look)
    ax.set_xlim(-0.6, len(sites) - 0.4)
    with_interval = bool((np.isfinite(low) & (mu > 0)).any())
    title = [f"ε = {levels[0]:g}"] * single + interval_note(confidence, draws) * with_interval
    finish_lines(ax, LogFormatterSciNotation(), "criticality μ", "\n".join(title))
    name_sites(ax, "x", sites, list(map(float, range(len(sites)))), members)
    return ax


def criticality_curves(
    frame: pd.DataFrame, *, spread: str = "line: low to high", log: bool = True, ax: Axes | None = None
) -> Axes:
    """Draw network criticality over epsilon, a line a network (Figure 5).

    Args:
        frame: columns `net, epsilon, mean, low, high, n`, one row for each network and epsilon: the mean of n runs
            (null where a run has none), and the ends of its error bar (null: none).
        spread: what `low` and `high` are, for the legend.
        log: a logarithmic axis; a mean of 0 is then marked at its foot, and one that is null at the top on either.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks columns, or has a network and epsilon twice.
    """
    need(frame, ("net", "epsilon", "mean", "low", "high", "n"), "one row for each network and epsilon")
    if frame.duplicated(["net", "epsilon"]).any():
        raise NetopsyError("frame: expected one row for a net and epsilon; got several; take their mean first")
    nets: list[Hashable] = list(dict.fromkeys(frame["net"]))
    ax = new_axes(5.8, 3.2) if ax is None else ax
    values = np.concatenate([floats(frame[name]) for name in ("mean", "low", "high")])
    foot, top = log_limits(ax, values) if log else (0.0, float(np.nanmax(values, initial=1e-9)) * 1.05)
    ax.set_ylim(None if log else 0, None if log else top)
    epsilons = np.unique(floats(frame["epsilon"]))
    gap = float(np.diff(epsilons).min()) if len(epsilons) > 1 else 0.01
    for number, (net, name) in enumerate(zip(nets, elide([str(net) for net in nets]), strict=True)):
        part = frame[frame["net"] == net].sort_values("epsilon")
        x = floats(part["epsilon"]) + 0.12 * gap * (number - (len(nets) - 1) / 2) / max(len(nets) - 1, 1)
        mean, low, high, runs = (floats(part[column]) for column in ("mean", "low", "high", "n"))
        color, marker = NETS[number % len(NETS)], MARKERS[number % len(MARKERS)]
        shown = np.where((mean > 0) | (not log), mean, np.nan)
        label = f"{name} (n = {several(runs)})"
        ax.plot(x, shown, color=color, marker=marker, ms=4.5, lw=1.2, mec="white", mew=0.4, label=label, zorder=3)
        known = np.isfinite(shown) & np.isfinite(low) & np.isfinite(high)
        ax.vlines(x[known], np.maximum(low[known], foot), high[known], color=color, linewidth=1.1, zorder=2)
        mark_status(ax, x[(mean == 0) & log], "alpha-zero", color)
        mark_status(ax, x[~np.isfinite(mean)], "infeasible", color)
    means = floats(frame["mean"])
    for kind, words, there in (
        ("alpha-zero", "0", log and bool((means == 0).any())),
        ("infeasible", "no value: a module has none", bool((~np.isfinite(means)).any())),
    ):
        if there:
            ax.plot([], [], ls="", color=INK, ms=5, label=words, **SIGNS[kind][1])
    ax.set_xticks(epsilons, labels=[f"{value:g}" for value in epsilons])
    ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    ax.set_xlabel("ε, training error allowed", size=LABEL)
    bars = bool(np.isfinite(floats(frame["low"])).any())
    formatter = LogFormatterSciNotation() if log else ScalarFormatter()
    finish_lines(ax, formatter, "network criticality Σμ", plain(spread) if bars else "")
    return ax


def log_limits(ax: Axes, values: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """Make the axis logarithmic, with strips below and above the values for marks; give its ends."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.1, 10.0)
    low, high = low / 1.3, max(high * 1.3, low * 3)
    room = (high / low) ** (STRIP / (1 - 2 * STRIP))
    ax.set_yscale("log")
    ax.set_ylim(low / room, high * room)
    ax.yaxis.set_major_locator(LogLocator(numticks=8) if len(positive) else NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    return low / room, high * room


def mark_status(ax: Axes, places: Float[np.ndarray, " p"], kind: str, color: Any) -> None:
    """Signs in the strip at the foot (no mu is needed) or at the top (there is none)."""
    height = STRIP / 2 if kind in ("alpha-zero", "no-op") else 1 - STRIP / 2
    if len(places):
        ax.plot(
            places,
            np.full(len(places), height),
            ls="",
            ms=5,
            color=color,
            transform=ax.get_xaxis_transform(),
            zorder=4,
            gid=kind,
            **SIGNS[kind][1],
        )


def interval_note(confidence: float | None, draws: int | None) -> list[str]:
    """What the lines are."""
    sure = "interval" if confidence is None else f"{100 * confidence:g} % interval"
    return [f"line: {sure} over", "the draws of noise" if draws is None else f"n = {draws} draws of noise"]


def several(runs: Float[np.ndarray, " e"]) -> str:
    """How many, or from how few to how many.

    >>> several(np.array([3.0, 5.0])), several(np.array([3.0, 3.0]))
    ('3 to 5', '3')
    """
    least, most = int(np.nanmin(runs)), int(np.nanmax(runs))
    return f"{most}" if least == most else f"{least} to {most}"
