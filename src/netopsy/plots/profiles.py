"""Sensitivity along closed paths through input space (Novak et al. 2018, Figure 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from netopsy._checks import NetopsyError, inside, one_of
from netopsy._typing import FloatArray
from netopsy.plots.frames import need
from netopsy.plots.style import BLUE, FAINT, LABEL, ORANGE, TICK, VERMILLION, new_axes, plain

ANCHORS = (math.pi / 3, math.pi, 5 * math.pi / 3)
"""Angles of the three training points on the ellipse through them."""

LOOKS = ((VERMILLION, "-"), (BLUE, (0, (5, 1.5))), (ORANGE, (0, (1.5, 1.2))), ("#009E73", (0, (6, 1.5, 1.5, 1.5))))
TICKS = {0.0: "0", math.pi / 3: "π/3", math.pi: "π", 5 * math.pi / 3: "5π/3", 2 * math.pi: "2π"}


def profile(
    frame: pd.DataFrame,
    value: str,
    *,
    label: str | None = None,
    anchors: Sequence[float] = ANCHORS,
    scale: str = "log",
    window: float = 0.0,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a quantity over the angle on ellipses: for each kind of path the mean over nets, with a band.

    Values of one net at one angle are averaged first, then those of angles that are close. The band is the standard
    error of the mean over nets (there is none for a single net); on a logarithmic scale it is cut off at the smallest
    mean.

    Args:
        frame: columns `kind` (of path, such as `"random"`, `"same class"`, `"different classes"`), `net`, `angle` (in
            radians, 0 to 2π) and the value's.
        value: the column to draw, such as `"jacobian_norm"` or `"transition_density"`.
        label: of the y axis; None: the column's name.
        anchors: angles to mark, those of the training points.
        scale: `"log"` or `"linear"`.
        window: how far apart angles are that are averaged, to each side, in radians; for counts, of which single
            angles have few.
        title: above the picture.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks columns, or has more kinds than can be told apart.
    """
    one_of("scale", scale, ("log", "linear"))
    inside("window", window, 0.0, math.pi)
    need(frame, ("kind", "net", "angle", value), "a frame with a row for each kind, net and angle")
    kinds = list(dict.fromkeys(frame["kind"]))
    if len(kinds) > len(LOOKS):
        raise NetopsyError(
            f"frame: expected at most {len(LOOKS)} kinds of paths; got {len(kinds)}; draw some of them"
        )
    ax = new_axes(4.8, 3.0) if ax is None else ax
    for angle in anchors:
        ax.axvline(angle, color=FAINT, linewidth=0.8, zorder=1)
    counts = []
    for kind, (color, dashes) in zip(kinds, LOOKS, strict=False):
        nets = frame[frame["kind"] == kind].pivot_table(index="angle", columns="net", values=value).sort_index()
        table, angles = nets.to_numpy(dtype=np.float64), nets.index.to_numpy(dtype=np.float64)
        table, angles = around(table, angles, window)
        mean, count = table.mean(1), table.shape[1]
        counts.append(count)
        ax.plot(angles, mean, color=color, linestyle=dashes, linewidth=1.3, label=str(kind), zorder=3)
        if count > 1:
            error = table.std(1, ddof=1) / math.sqrt(count)
            least = mean[mean > 0].min(initial=math.inf) if scale == "log" else -math.inf
            low = np.maximum(mean - error, least)
            ax.fill_between(angles, low, mean + error, color=color, alpha=0.2, linewidth=0, zorder=2)
    ax.set_yscale(scale)
    low, high = ax.get_ylim()
    if scale == "log" and high < 30 * low:  # else matplotlib names some of the ticks between, in another way
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlim(0, 2 * math.pi)
    ax.set_xticks(list(TICKS), labels=list(TICKS.values()))
    ax.tick_params(labelsize=TICK, length=2, width=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.set_ylabel(plain(value.replace("_", " ") if label is None else label), size=LABEL)
    near = f"each ±{math.degrees(window):.3g}°, " if window else ""
    ax.set_xlabel(f"angle on the ellipse ({near}{described(counts)})", size=LABEL)
    if title:
        ax.set_title(plain(title), size=LABEL, pad=20)
    legend = ax.legend(frameon=False, fontsize=TICK, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(kinds))
    for text in legend.get_texts():
        text.set_parse_math(False)
    return ax


def around(table: FloatArray, angles: FloatArray, window: float) -> tuple[FloatArray, FloatArray]:
    """Means of the rows within a window of each angle; the first row again at the end, a full turn later."""
    apart = np.abs((angles[:, None] - angles + math.pi) % (2 * math.pi) - math.pi)
    near = (apart <= window + 1e-9).astype(np.float64)
    means = near @ table / near.sum(1, keepdims=True)
    return np.concatenate([means, means[:1]]), np.append(angles, angles[0] + 2 * math.pi)


def described(counts: Sequence[int]) -> str:
    """What lines and bands are.

    >>> described([1, 1]), described([8, 8])
    ('one net', 'mean of 8 nets, band: standard error')
    """
    least, most = min(counts), max(counts)
    if most == 1:
        return "one net"
    several = f"{most}" if least == most else f"{least} to {most}"
    return f"mean of {several} nets, band: standard error"
