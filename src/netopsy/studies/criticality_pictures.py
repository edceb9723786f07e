"""The criticality paper's figures from our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from netopsy.plots.criticality import criticality_curves
from netopsy.plots.paths import ALPHA
from netopsy.plots.style import (
    BLUE,
    GRAY,
    INK,
    LABEL,
    ORANGE,
    TICK,
    VERMILLION,
    finish_lines,
    name_sites,
    save,
)
from netopsy.store.results import OK
from netopsy.studies.claims import t_interval
from netopsy.studies.criticality_claims import QUANTITIES
from netopsy.studies.criticality_module_pictures import draw_cka, draw_spectra, draw_valleys
from netopsy.studies.criticality_statistics import CRITICAL, FLOOR, ROBUST, Which, path
from netopsy.studies.running import Study

LOOKS: Mapping[Which, tuple[str, str, str]] = {
    "full network": ("full network", INK, "--"),
    "critical": ("its most critical module", VERMILLION, "-"),
    "spare": ("its least critical module", BLUE, "-"),
}
"""Curve -> words, color, line."""

COSTS = (("test", "delta_error"), ("train", "delta_error"), ("train", "delta_loss"))
WORDS = {"delta_error": "error", "delta_loss": "loss"}


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the pictures of whatever was run."""
    drawn: Mapping[str, Callable[[pd.DataFrame], Figure | Axes]] = {
        "F2": rewinding,
        "F4": paths,
        "F5a": over_epsilon,
        "T32": bounds,
    }
    several = {"F1": draw_valleys, "F3": draw_spectra, "F9": draw_cka}
    written: list[Path] = []
    for claim, rows in study.tables.items():
        done = rows[rows.status == OK]
        if claim in drawn:
            written.append(save(drawn[claim](done), folder / f"{claim}.png"))
        if claim in several:
            written += several[claim](done, study.folder, folder)
    return written


def rewinding(rows: pd.DataFrame) -> Figure:
    """What re-initializing each module costs, a column a network (Figures 2 and 6); dots are seeds."""
    names = list(dict.fromkeys(rows.line))
    counts = [rows[rows.line == line].site.nunique() for line in names]
    figure = _figure(2.2 + sum(0.22 * count + 1.4 for count in counts), 6.4)
    axes = figure.subplots(len(COSTS), len(names), squeeze=False, sharex="col", width_ratios=[n + 4 for n in counts])
    for column, line in enumerate(names):
        mine = rows[rows.line == line]
        sites = list(dict.fromkeys(mine.site))
        for row, (split, quantity) in enumerate(COSTS):
            ax, here = axes[row, column], mine[mine.split == split]
            table = here.pivot(index="seed", columns="site", values=quantity).astype("float64")[sites]
            worst = table.mean() >= CRITICAL if quantity == "delta_error" else pd.Series(False, index=sites)
            colors = [VERMILLION if worst[site] else BLUE for site in sites]
            ax.bar(range(len(sites)), table.mean(), 0.7, color=colors, linewidth=0)
            for _, values in table.iterrows():
                ax.plot(range(len(sites)), values, ls="", marker="o", ms=2.2, color=INK, mew=0, alpha=0.7)
            if quantity == "delta_error":
                ax.axhline(ROBUST, color=GRAY, lw=0.7, ls=":")
                ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            _bare(ax)
            if column == 0:
                ax.set_ylabel(f"{split} {WORDS[quantity]},\nincrease", size=LABEL)
            if row == 0:
                ax.set_title(f"{line} (n = {len(table)} seeds)", size=LABEL, loc="left")
        name_sites(axes[-1, column], "x", sites, [float(place) for place in range(len(sites))])
    figure.supxlabel(
        f"bars: mean, dots: seeds; red: {CRITICAL:.0%} and more; dotted: {ROBUST:.0%}, the most of a robust module",
        size=TICK,
    )
    return figure


def paths(rows: pd.DataFrame) -> Figure:
    """Error and loss from the initial to the trained weights, a row a network (Figure 4); mean and range of seeds."""
    names = list(dict.fromkeys(rows.line))
    figure = _figure(8.2, 2.3 * len(names) + 0.8)
    axes = figure.subplots(len(names), len(QUANTITIES), squeeze=False, sharex=True)
    for i, line in enumerate(names):
        mine = rows[rows.line == line]
        seeds = sorted(mine.seed.unique())
        for ax, (split, quantity) in zip(axes[i], QUANTITIES, strict=True):
            for which, (words, color, style) in LOOKS.items():
                curves = pd.concat([path(mine[mine.seed == s], which, split, quantity) for s in seeds], axis=1)
                ax.fill_between(curves.index, curves.min(axis=1), curves.max(axis=1), color=color, alpha=0.15, lw=0)
                ax.plot(curves.index, curves.mean(axis=1), color=color, ls=style, lw=1.4, label=words)
            if quantity == "error":
                ax.set_ylim(0, 1)
                ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            else:
                ax.set_ylim(0, None)
            ax.set_ylabel(f"{split} {quantity}", size=LABEL)
            _bare(ax)
        axes[i, 0].set_title(f"{line} (n = {len(seeds)} seeds)", size=LABEL, loc="left")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=TICK)
    axes[-1, 1].set_xlabel(f"{ALPHA}\nline: mean, band: from the lowest to the highest seed", size=TICK)
    return figure


def over_epsilon(rows: pd.DataFrame) -> Axes:
    """Network criticality over epsilon (Figure 5): geometric mean over seeds and its 95 % interval; 0 as `FLOOR`."""
    found = []
    for key, part in rows.groupby(["line", "epsilon"], sort=False):
        totals = part.groupby("seed").mu.apply(lambda mu: mu.astype("float64").sum(skipna=False))
        mean, low, high = t_interval(np.log(totals.clip(lower=FLOOR)).tolist())
        ends = (np.exp(mean), np.exp(low), np.exp(high))
        found.append((*key, *ends, len(totals)))
    frame = pd.DataFrame(found, columns=["net", "epsilon", "mean", "low", "high", "n"])
    return criticality_curves(frame, spread="mean of log μ, line: its 95 % interval")


def bounds(rows: pd.DataFrame) -> Figure:
    """The bound and what it bounds, against the number of examples, a panel a network (Theorem 3.2)."""
    names = list(dict.fromkeys(rows.line))
    figure = _figure(2.6 * len(names) + 1.6, 2.9)
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    shown = {
        "bound": ("bound", INK, "s"),
        "bound_kl": ("bound by the inverse of kl", ORANGE, "^"),
        "held_out_error": ("error on held-out data, same noise", VERMILLION, "o"),
        "train_error": ("training error, same noise", BLUE, "v"),
    }
    for ax, line in zip(axes, names, strict=True):
        mine = rows[rows.line == line]
        for column, (words, color, marker) in shown.items():
            table = mine.pivot(index="seed", columns="m", values=column).astype("float64")
            half = (table.max() - table.min()) / 2
            middle = (table.max() + table.min()) / 2
            ax.errorbar(table.columns, middle, half, color=color, marker=marker, ms=4.5, lw=1.2, label=words)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sorted(mine.m.unique()), labels=[f"{m:,}" for m in sorted(mine.m.unique())])
        ax.set_title(f"{line}\nn = {mine.seed.nunique()} seeds", size=TICK, loc="left")
        ax.set_ylim(0, 1)
        _bare(ax)
    finish_lines(axes[-1], PercentFormatter(1, decimals=0), "", "")
    axes[0].set_ylabel("0-1 error", size=LABEL)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.supxlabel("training examples m in the bound; bars: from the lowest to the highest seed", size=TICK)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _bare(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.tick_params(labelsize=TICK, length=2, width=0.6)
