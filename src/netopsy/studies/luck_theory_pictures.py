"""Pictures of the luck paper's theorems and arguments, from our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from netopsy.plots.matching import bias_histograms, seed_bands
from netopsy.plots.style import BLUE, FAINT, GRAY, INK, LABEL, ORANGE, TICK, VERMILLION, new_axes, root, shades
from netopsy.studies.luck_gate_claims import CLOSE
from netopsy.studies.luck_gate_sweeps import PUBLISHED
from netopsy.studies.luck_settings import SMALL
from netopsy.studies.luck_sweeps import RATES

GAPS = {"gap_separated": "separated, H = E[β] E[f'f']", "gap_joint": "joint, H = E[β f'f']"}

NORMS = {
    "before": ("Linear → BN → ReLU, ||w||²", BLUE, "-"),
    "after": ("Linear → ReLU → BN, ||w||² + b²", ORANGE, "--"),
    "none": ("no batch norm, ||w||²", VERMILLION, ":"),
}

TICKETS = {
    "all": ("all units", INK, "-"),
    "winners": ("winners, as they began", BLUE, "-"),
    "winners redrawn": ("winners, drawn anew", ORANGE, "--"),
    "others": ("as many others", VERMILLION, ":"),
}

LOSSES = {
    "start": "before\ntraining",
    "end": "trained",
    "redrawn": "$W_r$\ndrawn anew",
    "redrawn_u": "$W_u$\ndrawn anew",
}


def gaps(rows: pd.DataFrame) -> Figure:
    """How far both forms of Theorem 2's update are from the exact one, over training, by layer."""
    layers = range(len(SMALL))
    colors = shades()(np.linspace(0.3, 1.0, len(layers)))
    looks = {str(layer): (str(layer), to_hex(color), "-") for layer, color in zip(layers, colors, strict=True)}
    figure = Figure(figsize=(7.4, 2.8), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharey=True)
    frame = rows.assign(layer=rows.layer.astype(int).astype(str))
    for ax, (column, title) in zip(panels, GAPS.items(), strict=True):
        seed_bands(frame, "epoch", column, by="layer", looks=looks, ax=ax)
        ax.axhline(CLOSE, color=GRAY, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        ax.set_title(title, size=LABEL, loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_xlabel("epoch", size=LABEL)
    panels[0].set_ylabel("difference to the exact\nupdate, over its length", size=LABEL)
    title = f"layer (mean,\nleast to largest\nof n = {rows.seed.nunique()} seeds)"
    _legend_beside(panels[-1], title)
    return figure


def conservation(rows: pd.DataFrame) -> Figure:
    """Drift of filters' norms over the step size, log-log (Theorem 3): lines are seeds."""
    ax = new_axes(6.2, 2.8)
    ends = np.array([RATES[0], RATES[-1]])
    for norm, (label, color, style) in NORMS.items():
        for place, row in enumerate(rows[rows.norm == norm].itertuples()):
            drifts = float(row.drift) * (ends / ends[-1]) ** float(row.slope)  # type: ignore[arg-type]
            ax.plot(ends, drifts, color=color, linestyle=style, lw=1.3, marker="o", markersize=3,
                    label=label if place == 0 else None)  # fmt: skip
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(list(RATES), [f"{rate:g}" for rate in RATES])
    ax.minorticks_off()
    ax.set_xlabel("step size", size=LABEL)
    ax.set_ylabel("largest relative drift", size=LABEL)
    _plain_axes(ax)
    _legend_beside(ax, f"a line a seed (n = {rows.seed.nunique()})")
    return root(ax)


def cones(rows: pd.DataFrame) -> Figure:
    """Theorem 4: the rate over the angle with the stated one, and the angle over time; a column a threshold."""
    names = sorted(rows.line.unique(), key=lambda line: float(rows[rows.line == line].threshold.iloc[0]))
    figure = Figure(figsize=(2.3 * len(names) + 1.9, 4.4), layout="constrained", facecolor="white")
    panels = figure.subplots(2, len(names), squeeze=False)
    for (above, below), name in zip(panels.T, names, strict=True):
        of = rows[rows.line == name]
        inside = bool((of.gamma > 0).all())
        for place, (_, each) in enumerate(of.groupby("seed")):
            ode, sgd = (each[each.way == way].sort_values("time") for way in ("ode", "sgd"))
            words = iter(["exact", "SGD", "stated"] if place == 0 else [None] * 3)
            exact, steps, stated = ({"lw": 1.0, "label": word} for word in words)
            first = float(ode.theta_0.iloc[0])
            above.plot(ode.angle / first, ode.rate, color=BLUE, **exact)
            below.plot(ode.time, ode.angle / first, color=BLUE, **exact)
            if inside:
                above.plot(ode.angle / first, ode.stated_now, color=VERMILLION, linestyle=":", **stated)
                sine = np.sin(first) * np.exp(-ode.stated * ode.time)
                below.plot(sgd.time, sgd.angle / first, color=ORANGE, linestyle="--", **steps)
                below.plot(ode.time, np.arcsin(sine) / first, color=VERMILLION, linestyle=":", **stated)
        above.set_title(f"{name}\n{'inside' if inside else 'outside'} the condition", size=LABEL, loc="left")
        above.set_ylim(bottom=0)
        above.set_xlabel("largest angle, over the first", size=LABEL)
        below.set_xlabel("time", size=LABEL)
        for ax in (above, below):
            _plain_axes(ax)
        below.xaxis.set_major_locator(MaxNLocator(3))
        above.set(xscale="log", xlim=(1.1, 0.01))
        below.set(yscale="log", ylim=(0.01, 1.3))
        for axis in (above.xaxis, below.yaxis):
            axis.set_ticks([1, 0.1, 0.01], ["1", "0.1", "0.01"])
            axis.set_ticks([], minor=True)
    panels[0, 0].set_ylabel("−d log sin θ / dt", size=LABEL)
    panels[1, 0].set_ylabel("largest angle, over the first", size=LABEL)
    _legend_beside(panels[1, -1], f"a line a seed\n(n = {rows.seed.nunique()})")
    return figure


def negative_biases(rows: pd.DataFrame) -> Figure:
    """Share of negative biases by depth, a line a net (Figure 6)."""
    ax = new_axes(4.6, 2.8)
    ours = bool((rows.line == "ours").any())
    seeds = sorted(rows.seed.unique())
    colors = shades()(np.linspace(0.3, 1.0, len(seeds)))
    for seed, color, marker in zip(seeds, colors, "osD^" * len(seeds), strict=False):
        mine = rows[rows.seed == seed]
        share = (mine.bias < 0).groupby(mine.layer.astype(int)).mean()
        name = f"seed {seed}" if ours else PUBLISHED[int(seed)]
        depth = (share.index.to_numpy() + 0.5) / len(share)
        ax.plot(depth, share, color=to_hex(color), lw=1.3, marker=marker, markersize=3.5, label=name)
    ax.axhline(0.5, color=FAINT, linewidth=0.8, zorder=0)
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    ax.set_xlabel("depth: share of the layers below", size=LABEL)
    ax.set_ylabel("negative biases (%)", size=LABEL)
    _plain_axes(ax)
    _legend_beside(ax, "our VGG-11 on\nFashion-MNIST" if ours else "")
    return root(ax)


def biases(rows: pd.DataFrame) -> Figure:
    """Histograms of the first net's biases, a panel a layer (Figure 6)."""
    mine = rows[rows.seed == rows.seed.min()].sort_values(["layer", "channel"])
    names = "norm " + (mine.layer.astype(int) + 1).astype(str)
    return bias_histograms(pd.DataFrame({"layer": names.to_numpy(), "bias": mine.bias.astype("float64").to_numpy()}))


def flatness(rows: pd.DataFrame) -> Figure:
    """Loss before and after training, and after weights were drawn anew (§3.3): a line a seed, bars are means."""
    ax = new_axes(4.2, 2.8)
    values = rows[list(LOSSES)].astype("float64")
    places = np.arange(len(LOSSES))
    for _, row in values.iterrows():
        ax.plot(places, row, color=FAINT, lw=0.7, marker="o", markersize=3, markerfacecolor=BLUE, markeredgewidth=0)
    middle = np.exp(np.log(values).mean())
    ax.plot(places, middle, color=INK, linestyle="", marker="_", markersize=22, markeredgewidth=1.6)
    ax.set(yscale="log", xlim=(-0.4, len(LOSSES) - 0.6))
    ax.set_xticks(places, list(LOSSES.values()))
    ax.set_ylabel("loss", size=LABEL)
    ax.set_title(f"lines: n = {len(values)} seeds; bars: geometric means", size=TICK, loc="left")
    _plain_axes(ax)
    return root(ax)


def tickets(rows: pd.DataFrame) -> Figure:
    """Loss over the epochs, of all units and of each ticket."""
    ax = new_axes(5.6, 2.8)
    seed_bands(rows[rows.layer == 0], "epoch", "loss", by="ticket", looks=TICKETS, ax=ax)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("epoch", size=LABEL)
    ax.set_ylabel("loss", size=LABEL)
    _legend_beside(ax, f"units that train (mean, least\nto largest of n = {rows.seed.nunique()} seeds)")
    return root(ax)


PICTURES: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "T2": gaps,
    "T3": conservation,
    "T4": cones,
    "F6": negative_biases,
    "S33": flatness,
    "LT": tickets,
}
"""Claim -> what draws its rows."""


def _plain_axes(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.tick_params(labelsize=TICK, length=2, width=0.6)


def _legend_beside(ax: Axes, title: str) -> None:
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.04), frameon=False, fontsize=TICK, title=title,
              title_fontsize=TICK, alignment="left")  # fmt: skip
