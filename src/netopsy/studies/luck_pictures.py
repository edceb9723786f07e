"""The luck paper's figures from our runs of students."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from netopsy.engine.alignment import best
from netopsy.plots.matching import match_heatmap, match_lines, seed_bands
from netopsy.plots.style import BLUE, INK, LABEL, TICK, VERMILLION, save, shades
from netopsy.probes.teacher_student_result import TeacherStudentResult
from netopsy.store.results import OK
from netopsy.studies import luck_theory_pictures
from netopsy.studies.luck_settings import FACTORS, NEAR_FACTORS, STARTS, near_line
from netopsy.studies.running import Study

Looks = Mapping[str, tuple[str, str, str]]
"""Line of students -> words, color, style."""

WORDS = {"rho_bar": "ρ̄", "rank": "mean rank r̄", "error": "test error"}

BATCH_NORM: Mapping[str, Looks] = {
    "F9": {"fashion": ("without batch norm", BLUE, "-"), "fashion, bn": ("with batch norm", VERMILLION, "-"),
           "teacher": ("teacher", INK, ":")},
    "F10a": {"fc x10": ("small", BLUE, "-"), "fc, bn": ("small, batch norm", BLUE, "--"),
             "fc large": ("large", VERMILLION, "-"), "fc large, bn": ("large, batch norm", VERMILLION, "--")},
    "F10b": {"conv": ("infinite data", BLUE, "-"), "conv, finite": ("finite data", VERMILLION, "-")},
}  # fmt: skip

COLUMNS: Mapping[str, Sequence[str]] = {
    "F9": ("error", "rho_bar", "rank"),
    "F10a": ("rho_bar",),
    "F10b": ("rho_bar",),
}


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the pictures of whatever was run."""
    drawn: dict[str, Callable[[pd.DataFrame], Figure]] = {
        "F7": near_starts,
        "F8": courses,
        "F8-large": courses,
        "F8-conv": courses,
        "F11": courses,
        "F12": over_factors,
        **{name: partial(compared, looks=looks, columns=COLUMNS[name]) for name, looks in BATCH_NORM.items()},
        **luck_theory_pictures.PICTURES,
    }
    written = []
    for claim, rows in study.tables.items():
        done = rows[rows.status == OK]
        if claim in drawn:
            written.append(save(drawn[claim](done), folder / f"{claim}.png"))
        if claim == "F6":
            written.append(save(luck_theory_pictures.biases(done), folder / "F6-histograms.png"))
        if claim == "F11":
            written.append(save(h_star(done, study.folder), folder / "F11-matrices.png"))
    return written


def courses(rows: pd.DataFrame, columns: Sequence[str] = ("rho_bar", "rank")) -> Figure:
    """Columns over the epochs, a row of panels a line of students, with the band of the seeds (Figure 8)."""
    names = list(dict.fromkeys(rows.line))
    figure = Figure(figsize=(3.4 * len(columns) + 1.4, 2.3 * len(names)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(names), len(columns), squeeze=False, sharex=True, sharey="col")
    for row, name in enumerate(names):
        of = rows[rows.line == name][["epoch", "layer", "seed", "rho_bar", "rank", "loss"]]
        for ax, column in zip(panels[row], columns, strict=True):
            match_lines(of, column=column, ax=ax)  # type: ignore[arg-type]
            ax.set_title(name, size=LABEL, loc="left")
            ax.set_ylabel(WORDS[column], size=LABEL)
            if row < len(names) - 1:
                ax.set_xlabel("")
            if ax is not panels[0, -1]:
                ax.get_legend().remove()
    for ax, column in zip(panels[-1], columns, strict=True):  # last: limits of a first panel would cut the others
        ax.autoscale(axis="y")
        ax.set_ylim(0, 1 if column == "rho_bar" else None)
    return figure


def compared(rows: pd.DataFrame, looks: Looks, columns: Sequence[str]) -> Figure:
    """Columns, means over the layers, over the epochs: lines of students against each other (Figures 9 and 10)."""
    frame = _means(rows, columns)
    if "error" in columns:
        one = rows[(rows.layer == 0) & (rows.line == next(iter(looks)))]
        frame = pd.concat([frame, one[["seed", "epoch"]].assign(line="teacher", error=one.teacher_error)])
    figure = Figure(figsize=(3.2 * len(columns) + 1.6, 2.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for ax, column in zip(panels, columns, strict=True):
        _over_epochs(ax, frame, column, looks)
    panels[0].set_title("mean over the layers" if len(columns) == 1 else "", size=LABEL, loc="left")
    _legend(figure, panels[0], rows, "students")
    return figure


def over_factors(rows: pd.DataFrame) -> Figure:
    """ρ̄ over the epochs, students of several sizes against each other: mean of the layers, and each (Figure 12)."""
    colors = shades()(np.linspace(0.25, 1.0, len(FACTORS)))
    looks = {
        f"fc x{factor}": (f"×{factor}", to_hex(color), "-") for factor, color in zip(FACTORS, colors, strict=True)
    }
    layers = sorted(rows.layer.dropna().unique())
    figure = Figure(figsize=(1.75 * (1 + len(layers)) + 1.6, 2.5), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 1 + len(layers), sharey=True)
    parts = {"all layers": rows, **{f"layer {int(layer)}": rows[rows.layer == layer] for layer in layers}}
    for ax, (name, of) in zip(panels, parts.items(), strict=True):
        _over_epochs(ax, _means(of, ["rho_bar"]), "rho_bar", looks)
        ax.set_title(name, size=LABEL, loc="left")
        ax.label_outer()
    _legend(figure, panels[0], rows, "student's size")
    return figure


def near_starts(rows: pd.DataFrame) -> Figure:
    """The way of W_u to W*, and the row norms of V_u and V_r, a column a start (Figure 7)."""
    mine = rows[rows.layer == 0]
    starts = [start for start in STARTS if any(near_line(size, *start) in set(mine.line) for size in NEAR_FACTORS)]
    sizes = [size for size in NEAR_FACTORS if any(near_line(size, *start) in set(mine.line) for start in starts)]
    figure = Figure(
        figsize=(1.5 * len(starts) + 2.0, 1.6 * (1 + len(sizes))), layout="constrained", facecolor="white"
    )
    panels = figure.subplots(1 + len(sizes), len(starts), squeeze=False, sharex=True, sharey="row")
    styles = dict(zip(NEAR_FACTORS, (":", "--", "-"), strict=True))
    for column, start in enumerate(starts):
        looks = {near_line(size, *start): (f"×{size}", INK, styles[size]) for size in sizes}
        top = seed_bands(mine, "epoch", "distance", by="line", looks=looks, band="sd", ax=panels[0, column])
        top.set_title(f"$p_w$ {start[0]:g}, $p_v$ {start[1]:g}", size=LABEL, loc="left")
        for ax, size in zip(panels[1:, column], sizes, strict=True):
            of = mine[mine.line == near_line(size, *start)]
            both = [of.assign(norm=of[f"fan_{which}"], which=which) for which in "ur"]
            fans = {"u": ("$V_u$, near the teacher", BLUE, "-"), "r": ("$V_r$, the rest", VERMILLION, "-")}
            seed_bands(pd.concat(both), "epoch", "norm", by="which", looks=fans, band="sd", ax=ax)
    panels[0, 0].set_ylabel("$||W_u - W^*||$", size=LABEL)
    for ax, size in zip(panels[1:, 0], sizes, strict=True):
        ax.set_ylabel(f"row norms, ×{size}", size=LABEL)
    for ax in panels.flat:
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    for ax in panels[-1]:
        ax.set_xlabel("epoch", size=LABEL)
    count = mine.seed.nunique()
    for ax, title in (
        (panels[0, -1], f"students' size\n(mean ± sd of\nn = {count} seeds)"),
        (panels[1, -1], "row norms"),
    ):
        ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.1), frameon=False, fontsize=TICK, title=title,
                  title_fontsize=TICK, alignment="left")  # fmt: skip
    return figure


def h_star(rows: pd.DataFrame, folder: Path) -> Figure:
    """H* at the end, of the first seed, a panel a layer: the best units' columns, then others (Figure 11)."""
    result = TeacherStudentResult.load(folder / str(rows.iloc[0].result))
    high = -(-result.layers // 2)
    figure = Figure(figsize=(8.0, 2.3 * high), layout="constrained", facecolor="white")
    for layer in range(result.layers):
        values = result.records[f"h_star.{layer}"][-1, 0].double().numpy()
        matched = [unit for unit in dict.fromkeys(best(result.rho(layer)[-1, 0]).tolist()) if unit >= 0]
        others = [unit for unit in range(values.shape[1]) if unit not in matched]
        ax = figure.add_subplot(high, 2, layer + 1)
        labels = ("teacher's units", "student's units: the best, then others")
        match_heatmap(values[:, [*matched, *others[: len(matched)]]], label="H*", labels=labels, ax=ax)
        ax.axvline(len(matched), color=INK, linewidth=0.8)
        ax.set_title(f"layer {layer}", size=LABEL, loc="left")
    return figure


def _means(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means over the layers; NaN where one of them has none."""
    keys = ["line", "seed", "epoch"]
    values = rows[[*keys, "layer"]].assign(**{column: rows[column].astype("float64") for column in columns})
    table = values.pivot(index=keys, columns="layer", values=list(columns))
    means = {column: pd.DataFrame(table[column]).mean(axis=1, skipna=False) for column in columns}
    return pd.DataFrame(means).reset_index()


def _over_epochs(ax: Axes, frame: pd.DataFrame, column: str, looks: Looks) -> None:
    seed_bands(frame, "epoch", column, by="line", looks=looks, ax=ax)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("epoch", size=LABEL)
    ax.set_ylabel(WORDS[column], size=LABEL)
    ax.set_ylim(0, 1 if column == "rho_bar" else None)


def _legend(figure: Figure, ax: Axes, rows: pd.DataFrame, title: str) -> None:
    """One legend for all panels, beside them."""
    handles, labels = ax.get_legend_handles_labels()
    words = f"{title}\n(mean, least to largest\nof n = {rows.seed.nunique()} seeds)"
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=TICK, title=words,
                  title_fontsize=TICK, alignment="left")  # fmt: skip
