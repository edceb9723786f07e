"""The luck paper's figures from our runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from netopsy.engine.alignment import best
from netopsy.plots.matching import match_heatmap, match_lines, norm_bands
from netopsy.plots.style import LABEL, save
from netopsy.probes.teacher_student_result import TeacherStudentResult
from netopsy.store.results import OK
from netopsy.studies.running import Study


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the pictures of whatever was run."""
    written = []
    for claim, rows in study.tables.items():
        done = rows[rows.status == OK]
        if claim == "F7":
            written.append(save(near_starts(done, study.folder), folder / "F7.png"))
        elif claim.startswith("F"):
            written.append(save(courses(done, ("rho_bar", "rank")), folder / f"{claim}.png"))
        if claim == "F11":
            written.append(save(h_star(done, study.folder), folder / "F11-matrices.png"))
    return written


def courses(rows: pd.DataFrame, columns: Sequence[str]) -> Figure:
    """Columns over the epochs, a row of panels a line of students, with the band of the seeds (Figures 8 to 12)."""
    names = list(dict.fromkeys(rows.line))
    figure = Figure(figsize=(3.6 * len(columns), 2.4 * len(names)), layout="constrained", facecolor="white")
    for row, name in enumerate(names):
        of = rows[rows.line == name][["epoch", "layer", "seed", "rho_bar", "rank", "loss"]]
        for place, column in enumerate(columns):
            ax = figure.add_subplot(len(names), len(columns), row * len(columns) + place + 1)
            match_lines(of, column=column, ax=ax)  # type: ignore[arg-type]
            ax.set_title(name, size=LABEL, loc="left")
    return figure


def near_starts(rows: pd.DataFrame, folder: Path) -> Figure:
    """Row norms of V_u and V_r over the epochs, a panel a start and size (Figure 7)."""
    names = list(dict.fromkeys(rows.line))
    columns = min(3, len(names))
    height = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * height), layout="constrained", facecolor="white")
    for place, name in enumerate(names):
        first = rows[rows.line == name].iloc[0]
        result = TeacherStudentResult.load(folder / str(first.result))
        units = result.units()
        known = int(result.rho(0).shape[2])
        frame = pd.DataFrame(
            {
                "time": units.epoch,
                "set": (units.unit < known).map({True: "u", False: "r"}),
                "fan_out_norm": units.fan_out,
            }
        )
        ax = figure.add_subplot(height, columns, place + 1)
        norm_bands(frame, ax=ax)
        ax.set_title(name, size=LABEL, loc="left")
    return figure


def h_star(rows: pd.DataFrame, folder: Path) -> Figure:
    """H* at the end, of the first seed, a panel a layer (Figure 11)."""
    result = TeacherStudentResult.load(folder / str(rows.iloc[0].result))
    figure = Figure(figsize=(6.0, 2.2 * result.layers), layout="constrained", facecolor="white")
    for layer in range(result.layers):
        match = best(result.rho(layer)[-1, 0]).numpy()
        ax = figure.add_subplot(result.layers, 1, layer + 1)
        match_heatmap(result.records[f"h_star.{layer}"][-1, 0].double().numpy(), match, label="H*", ax=ax)
        ax.set_title(f"layer {layer}", size=LABEL, loc="left")
    return figure
