"""Students and teachers (Tian et al. 2019, Figures 6 to 12): who goes with whom, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter, StrMethodFormatter

from netopsy._checks import NetopsyError, at_least, one_of
from netopsy.plots.frames import floats, key, need, ordered_keys, ordered_sites
from netopsy.plots.style import (
    BLUE,
    FAINT,
    LABEL,
    MISSING,
    TICK,
    VERMILLION,
    finish_lines,
    inches,
    lay_out,
    name_sites,
    new_axes,
    plain,
    root,
    shades,
)

BAR = 0.14
"""Width of the color bar in inches."""

LINES = {"rho_bar": "ρ̄", "rank": "mean rank r̄ of the final winners", "loss": "loss"}
"""What is drawn over epochs -> the label of its axis."""


def match_heatmap(
    matrix: Float[np.ndarray, "a b"],
    match: Int[np.ndarray, " a"] | None = None,
    *,
    label: str = "ρ",
    labels: tuple[str, str] = ("first network's units", "other network's units"),
    symmetric: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw ρ or H* of two layers' units: a diagonal shows that each has a match of its own (Figure 11).

    Args:
        matrix: a row a unit of the first network, the first at the top; NaN is gray.
        match: each row's column (-1: none), by which columns are ordered: the first row's, the second's, and so on
            (one that several rows have only once), then all others as they come; None leaves them as they are.
        label: of the color bar.
        labels: of the rows and of the columns.
        symmetric: colors go from minus this to this; by default the largest absolute value.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: for an empty matrix, one without a finite number, or matches that do not fit it.
    """
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).any():
        raise NetopsyError(f"matrix: expected rows and columns with finite numbers; got shape {matrix.shape} without")
    rows, columns = matrix.shape
    if match is not None:
        if len(match) != rows or match.max(initial=-1) >= columns:
            raise NetopsyError(f"match: expected a column below {columns} for each of {rows} rows; got {match!r}")
        first = [int(column) for column in dict.fromkeys(match.tolist()) if column >= 0]
        taken = set(first)
        matrix = matrix[:, [*first, *(column for column in range(columns) if column not in taken)]]
    end = float(np.nanmax(np.abs(np.where(np.isfinite(matrix), matrix, np.nan)))) if symmetric is None else symmetric
    end = end if end > 0 else 1.0
    if ax is None:
        cell = max(0.02, min(0.3, 6 / max(rows, columns)))
        ax = new_axes(max(1.4, cell * columns) + 1.4, max(1.2, cell * rows) + 0.6)
    ax.set_facecolor(MISSING)
    mesh = ax.pcolormesh(np.ma.masked_invalid(matrix), cmap=signed(), norm=Normalize(-end, end), rasterized=True)
    ax.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(labelsize=TICK, length=2, width=0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_ylabel(plain(labels[0]), size=LABEL)
    ax.set_xlabel(plain(labels[1]) + (", ordered by match" if match is not None else ""), size=LABEL)
    bar = root(ax).colorbar(mesh, ax=ax, pad=0.02, aspect=max(inches(ax)[1], 1.0) / BAR, fraction=0.15)
    bar.set_label(plain(label), size=LABEL)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=TICK, length=2, width=0.6)
    lay_out(root(ax))
    return ax


def match_lines(
    frame: pd.DataFrame, *, column: Literal["rho_bar", "rank", "loss"] = "rho_bar", ax: Axes | None = None
) -> Axes:
    """Draw ρ̄ or r̄ over epochs, a line a layer: the mean of the seeds, and a band from the least to the largest.

    `frame` is `netopsy.winner_ranks(...).to_frame()` with `checkpoint` called `epoch`, or several runs' with a column
    `seed`. Raises `NetopsyError` for a frame that is empty, lacks columns, or has a layer, epoch and seed twice.
    """
    one_of("column", column, tuple(LINES))
    need(frame, ("epoch", "layer", column), "epoch, layer, seed, rho_bar, rank, loss")
    keys = ["epoch", "layer", *(["seed"] if "seed" in frame else [])]
    if frame.duplicated(keys).any():
        raise NetopsyError(
            f"frame: expected one row for {', '.join(keys)}; got several; add a column seed, or draw one run"
        )
    epochs, layers = ordered_keys(frame["epoch"]), ordered_sites(frame["layer"])
    numeric = all(isinstance(item, int) for item in epochs)
    place = {item: float(item if isinstance(item, int) and numeric else at) for at, item in enumerate(epochs)}
    ax = ax or new_axes(5.4, 3.0)
    x = np.array([place[key(item)] for item in frame["epoch"]])
    value, own = floats(frame[column]), frame["layer"].astype(str).to_numpy()
    for name, color in zip(layers, shades()(np.linspace(0.3, 1.0, len(layers))), strict=True):
        middle, low, high = _spread(x[own == name], value[own == name])
        at = np.unique(x[own == name])
        ax.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
        ax.plot(at, middle, color=color, lw=1.3, label=name, marker="o" if len(at) <= 12 else "", markersize=3)
    seeds = frame["seed"].nunique() if "seed" in frame else 1
    if numeric:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    ax.set_xlabel("epoch" if numeric else "checkpoint", size=LABEL)
    if column == "rho_bar":
        ax.set_ylim(top=1)
    else:
        ax.set_ylim(bottom=0)
    finish_lines(
        ax,
        ScalarFormatter(),
        LINES[column],
        "layer" + (f"\n(mean, least to largest\nof n = {seeds} seeds)" if seeds > 1 else ""),
    )
    if not numeric:
        name_sites(ax, "x", [str(item) for item in epochs], list(place.values()))
    return ax


def norm_bands(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the row norms of V_u and V_r over time: their mean, and a band of one standard deviation (Figure 7).

    `frame` is `student_dynamics(...).nodes` of one way, or of several seeds one below the other: the band is over all
    units of a set. Raises `NetopsyError` for a frame that is empty or lacks columns.
    """
    need(frame, ("time", "set", "fan_out_norm"), "student_dynamics(...).nodes")
    ax = ax or new_axes(5.0, 3.0)
    time, value, sets = floats(frame["time"]), floats(frame["fan_out_norm"]), frame["set"].astype(str).to_numpy()
    for name, label, color in (("u", "$V_u$, near the teacher", BLUE), ("r", "$V_r$, the rest", VERMILLION)):
        mine = sets == name
        if not mine.any():
            continue
        at = np.unique(time[mine])
        parts = [value[mine & (time == moment)] for moment in at]
        mean, sd = (np.array([measure(part) for part in parts]) for measure in (np.mean, np.std))
        ax.fill_between(at, np.maximum(mean - sd, 0), mean + sd, color=color, alpha=0.2, linewidth=0)
        ax.plot(at, mean, color=color, lw=1.3, label=label)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("time (steps × learning rate)", size=LABEL)
    ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    finish_lines(ax, ScalarFormatter(), "norms of rows of V", "mean ± sd of units")
    for text in ax.get_legend().get_texts():  # type: ignore[union-attr]
        text.set_parse_math(True)
    return ax


def seed_bands(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str,
    looks: Mapping[str, tuple[str, str, str]],
    band: Literal["range", "sd"] = "range",
    ax: Axes | None = None,
) -> Axes:
    """Draw several runs' courses, a line a kind: the mean of the seeds, and a band. There is no legend yet.

    Args:
        frame: a row a kind, seed and x.
        x: column along the axis, of numbers.
        y: column that is drawn; NaN is left out.
        by: column of the kinds, as words.
        looks: kind -> its words, its color and the style of its line; in this order. Others are not drawn.
        band: from the least to the largest of the seeds, or one standard deviation to each side.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: for a frame that is empty or lacks columns, or has a kind, seed and x twice.
    """
    one_of("band", band, ("range", "sd"))
    need(frame, (x, y, by, "seed"), "a row a kind, seed and x")
    if frame.duplicated([by, "seed", x]).any():
        raise NetopsyError(f"frame: expected one row for {by}, seed and {x}; got several; take their mean first")
    ax = ax or new_axes(4.4, 3.0)
    kinds, values, across = frame[by].astype(str).to_numpy(), floats(frame[y]), floats(frame[x])
    for kind, (label, color, style) in looks.items():
        mine = (kinds == kind) & np.isfinite(values)
        if not mine.any():
            continue
        middle, low, high = _spread(across[mine], values[mine])
        at = np.unique(across[mine])
        if band == "sd":
            off = np.array([values[mine & (across == place)].std() for place in at])
            low, high = middle - off, middle + off
        ax.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
        marker = "o" if len(at) <= 12 else ""
        ax.plot(at, middle, color=color, linestyle=style, lw=1.3, label=label, marker=marker, markersize=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.tick_params(labelsize=TICK, length=2, width=0.6)
    return ax


def bias_histograms(frame: pd.DataFrame, *, columns: int = 4, bins: int = 30) -> Figure:
    """Draw the biases of every batch normalization, a panel a layer, with the share that is positive (Figure 6).

    `frame` is `norm_biases(...).biases`. All panels have one axis. Raises `NetopsyError` for a frame that is empty,
    lacks columns, or has biases that are not finite.
    """
    need(frame, ("layer", "bias"), "netopsy.norm_biases(...).biases")
    at_least("columns", columns, 1)
    at_least("bins", bins, 1)
    value, own = floats(frame["bias"]), frame["layer"].astype(str).to_numpy()
    if not np.isfinite(value).all():
        raise NetopsyError("frame: expected finite biases; got NaN or infinite ones; look at the training")
    layers = ordered_sites(frame["layer"])
    wide = min(columns, len(layers))
    high = -(-len(layers) // wide)
    figure = Figure(figsize=(1.9 * wide + 0.4, 1.45 * high + 0.4), layout="constrained", facecolor="white")
    panels = figure.subplots(high, wide, sharex=True, squeeze=False)
    end = float(np.abs(value).max()) or 1.0
    edges = np.linspace(-end, end, bins + 1 + bins % 2)  # zero is an edge: no bar has two signs
    for panel, name in zip(panels.flat, layers, strict=False):
        mine = value[own == name]
        below = np.minimum(mine[mine <= 0], np.nextafter(0, -1))  # or zeros would lie in the first bar above zero
        for part, color in ((below, BLUE), (mine[mine > 0], VERMILLION)):
            panel.hist(part, edges, color=color)
        panel.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        panel.set_title(f"{plain(name)}\n{(mine > 0).mean():.0%} positive", size=TICK)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.set_yticks([])
        panel.tick_params(labelsize=TICK, length=2, width=0.6)
        panel.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for empty in range(len(layers) - wide * high, 0):
        panels[-1, empty].set_visible(False)
        panels[-2, empty].tick_params(labelbottom=True)
    figure.supxlabel("bias of batch normalization", size=LABEL)
    return figure


def signed() -> Colormap:
    """From blue (negative) through white to vermillion."""
    return LinearSegmentedColormap.from_list("netopsy-signed", [BLUE, "#ffffff", VERMILLION])


def _spread(
    x: Float[np.ndarray, " n"], value: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Mean, least and largest of the finite values at each x; NaN where there is none."""
    found = np.full((3, len(np.unique(x))), np.nan)
    for at, epoch in enumerate(np.unique(x)):
        part = value[(x == epoch) & np.isfinite(value)]
        if len(part):
            found[:, at] = part.mean(), part.min(), part.max()
    return found[0], found[1], found[2]
