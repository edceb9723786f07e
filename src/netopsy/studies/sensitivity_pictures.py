"""The sensitivity paper's figures from our runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    LogFormatterSciNotation,
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from netopsy._storage import read_table
from netopsy.plots.profiles import profile
from netopsy.plots.style import BLUE, FAINT, INK, LABEL, ORANGE, TICK, VERMILLION, save, shades
from netopsy.probes.boundary_density import BoundaryDensity
from netopsy.store.results import OK
from netopsy.studies.running import Study
from netopsy.studies.sensitivity_claims import WORDS
from netopsy.studies.sensitivity_population_claims import PAIRS
from netopsy.studies.sensitivity_statistics import fitted, paired, spearman
from netopsy.studies.sensitivity_sweeps import AFTER, BEFORE, DIFFERENT, PIXELS, RANDOM, SAME

AXES = {
    "gap": "generalization gap",
    "jacobian": "Jacobian norm",
    "logit_jacobian": "logits' Jacobian norm",
    "transitions": "transitions",
    "train_loss": "train loss",
    "net.width": "width",
}
SCATTERS: Mapping[str, Sequence[str]] = {
    "F1": ("net.width", "train_loss"),
    "F5": ("jacobian",),
    "A8": ("transitions",),
    "logit": ("jacobian", "logit_jacobian"),
}
"""Claim -> what the gap is drawn against."""


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the pictures of whatever was run."""
    written = []
    for claim, rows in study.tables.items():
        done = rows[rows.status == OK]
        figure: Figure | None = None
        if claim == "F2" and not fitted(rows).empty:
            figure = along_ellipses(fitted(rows))
        elif claim == "F3":
            figure = slices(done, study.folder)
        elif claim == "A11":
            figure = bounds(done)
        elif claim == "F6":
            figure = by_point(done)
        elif claim in PAIRS and not (pairs := paired(rows, PAIRS[claim])).empty:
            figure = in_pairs(pairs, PAIRS[claim])
        elif claim in SCATTERS and not fitted(rows).empty:
            figure = against_gap(fitted(rows), SCATTERS[claim])
        if figure is not None:
            written.append(save(figure, folder / f"{claim}.png"))
    return written


def along_ellipses(rows: pd.DataFrame) -> Figure:
    """Jacobian norm and transition density along three kinds of ellipses (Figure 2)."""
    figure = Figure(figsize=(8.6, 3.2), layout="constrained", facecolor="white")
    for ax, (quantity, label) in zip(figure.subplots(1, 2), WORDS.items(), strict=True):
        mine = rows[rows.quantity == quantity].rename(columns={"seed": "net"})
        kinds = mine.assign(value=mine.value.astype("float64"), kind=mine.kind.astype("string"))
        ordered = pd.concat([kinds[kinds.kind == kind] for kind in (RANDOM, DIFFERENT, SAME)])
        unit = "transitions per radian" if quantity == "transitions" else label
        profile(ordered, "value", label=unit, ax=ax)
    return figure


def slices(rows: pd.DataFrame, folder: Path) -> Figure:
    """Boundaries of the last hidden layer before and after training, of the first seed (Figure 3)."""
    first = rows[rows.seed == rows.seed.min()]
    figure = Figure(figsize=(8.0, 4.1), layout="constrained", facecolor="white")
    for ax, when in zip(figure.subplots(1, 2), (BEFORE, AFTER), strict=True):
        where = folder / str(first[first.when == when].result.iloc[0])
        pixels, anchors = read_table(where / "map.parquet"), BoundaryDensity.load(where).provenance["anchors"]
        picture = np.zeros((PIXELS - 1, PIXELS - 1))
        picture[pixels.row, pixels.column] = 1
        ax.imshow(picture, cmap="Greys", origin="lower", extent=(-1, 1, -1, 1), interpolation="antialiased")
        ax.plot(*np.asarray(anchors).T, "o", color=VERMILLION, markersize=6, markeredgecolor="white")
        ax.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        ax.tick_params(labelsize=TICK, length=2, width=0.6)
        ax.set_xlabel("u", size=LABEL)
        ax.set_ylabel("v", size=LABEL, rotation=0)
        ax.set_title(f"{when} training", size=LABEL)
    return figure


def bounds(rows: pd.DataFrame) -> Figure:
    """The norms at test points over the cross-entropy, with what A.3 says of them (Figure App.11); the first seed."""
    mine = rows[rows.seed == rows.seed.min()].sort_values("point_loss")
    loss = _positive(mine.point_loss)
    figure = Figure(figsize=(8.6, 3.4), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    lines: dict[Axes, tuple[str, dict[str, tuple[str | None, str, str]]]] = {
        left: ("norm_y", {"lower": ("bounds (Eq. 5)", BLUE, "-"), "upper": (None, BLUE, "-")}),
        right: ("norm", {"lower": ("bound (Eq. 6)", BLUE, "-"), "approximate": ("Eq. 7", ORANGE, "--")}),
    }
    for ax, (value, curves) in lines.items():
        ax.scatter(loss, _positive(mine[value]), s=7, color=INK, alpha=0.45, label="test points", linewidths=0)
        for column, (label, color, style) in curves.items():
            ax.plot(loss, _positive(mine[column]), color=color, linestyle=style, linewidth=1.3, label=label)
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel("cross-entropy at the point (nats)", size=LABEL)
        ax.set_ylabel("$||J_y||$" if value == "norm_y" else "$||J||_F$", size=LABEL)
        _plain(ax)
        ax.legend(frameon=False, fontsize=TICK, loc="lower center")
    return figure


def by_point(rows: pd.DataFrame) -> Figure:
    """The Jacobian norm at test points over their loss, a color a network (Figure 6)."""
    losses = {"cross-entropy": "cross-entropy (nats)", "l2": "l2 loss"}
    seeds = sorted(rows.seed.unique())
    colors = dict(zip(seeds, shades()(np.linspace(0.3, 1.0, len(seeds))), strict=True))
    figure = Figure(figsize=(8.6, 3.4), layout="constrained", facecolor="white")
    for ax, (line, label) in zip(figure.subplots(1, 2), losses.items(), strict=True):
        for seed in seeds:
            mine = rows[(rows.line == line) & (rows.seed == seed)]
            right = mine.correct.astype("bool")
            for part, marker, size in ((mine[right], "o", 3), (mine[~right], "x", 7)):
                x, y = _positive(part.point_loss), _positive(part["norm"])
                ax.scatter(x, y, s=size, marker=marker, color=to_hex(colors[seed]), alpha=0.5,
                           linewidths=0.5 if marker == "x" else 0, rasterized=True)  # fmt: skip
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel(f"{label} at the point", size=LABEL)
        ax.set_ylabel("Jacobian norm" if line == "cross-entropy" else "Jacobian norm of the logits", size=LABEL)
        ax.set_title(f"{len(seeds)} networks, a color each; × is misclassified", size=TICK, loc="left")
        _plain(ax)
    return figure


def in_pairs(pairs: pd.DataFrame, line: str) -> Figure:
    """Pairs of networks that differ in one setting: each quantity with it over that without (Figure 4)."""
    columns = ("gap", "jacobian", "transitions")
    figure = Figure(figsize=(9.6, 3.2), layout="constrained", facecolor="white")
    for ax, column in zip(figure.subplots(1, 3), columns, strict=True):
        x, y = pairs[f"{column}_true"], pairs[column]
        known = np.concatenate([x, y])
        known = known[np.isfinite(known)]
        ends = [known.min(), known.max()] if len(known) else [0.0, 1.0]
        ax.plot(ends, ends, color=FAINT, linewidth=0.9, zorder=1)
        drawn = ax.scatter(x, y, s=16, c=pairs.width, cmap=shades(), norm=_scale(pairs.width), linewidths=0)
        if column != "gap":
            ax.set(xscale="log", yscale="log")
        ax.set_title(AXES[column], size=LABEL, loc="left")
        ax.set_xlabel("as usual", size=LABEL)
        ax.set_ylabel(line, size=LABEL)
        _plain(ax)
    _bar(figure, drawn, ax, "width")
    return figure


def against_gap(rows: pd.DataFrame, columns: Sequence[str]) -> Figure:
    """The generalization gap of random networks over other quantities (Figures 1, 5 and App.8)."""
    figure = Figure(figsize=(4.1 * len(columns) + 0.8, 3.3), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    neurons = rows.neurons.astype("float64")
    for ax, column in zip(panels, columns, strict=True):
        x = rows[column].astype("float64")
        drawn = ax.scatter(x, rows.gap.astype("float64"), s=14, c=neurons, cmap=shades(),
                           norm=_scale(neurons), linewidths=0)  # fmt: skip
        ax.set_xscale("log")
        _log_ticks(ax, x)
        ax.set_xlabel(AXES[column], size=LABEL)
        ax.set_title(
            f"ρ = {round(spearman(rows, column, 'gap', 2), 2) + 0.0:.2f}, n = {len(rows)}", size=LABEL, loc="left"
        )
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        _plain(ax)
    panels[0].set_ylabel(AXES["gap"], size=LABEL)
    _bar(figure, drawn, panels[-1], "hidden units")
    return figure


def _log_ticks(ax: Axes, x: pd.Series) -> None:
    """Each value of a few; else two labels a decade, or one where there are many."""
    few, wide = x.nunique() <= 8, x.max() > 1e4 * x.min()
    ax.xaxis.set_major_locator(FixedLocator(sorted(x.unique())) if few else LogLocator(subs=(1,) if wide else (1, 3)))
    ax.xaxis.set_major_formatter(LogFormatterSciNotation() if wide else StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if few:
        ax.xaxis.set_minor_locator(NullLocator())


def _positive(values: pd.Series) -> pd.Series:
    """On a logarithmic axis; zeros, of probabilities that round to 1, are left out."""
    numbers = values.astype("float64")
    return numbers.where(numbers > 0, math.nan)


def _scale(values: pd.Series) -> LogNorm:
    low, high = float(values.min()), float(values.max())
    return LogNorm(low / 1.5, high if high > low else 1.5 * high)


def _bar(figure: Figure, drawn: ScalarMappable, ax: Axes, label: str) -> None:
    bar = figure.colorbar(drawn, ax=ax, pad=0.02)
    bar.set_label(label, size=LABEL)
    bar.ax.tick_params(labelsize=TICK, length=2, width=0.6)


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.tick_params(labelsize=TICK, length=2, width=0.6)
