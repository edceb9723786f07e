"""Pictures of the luck study, on rows made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from netopsy.store.results import OK
from netopsy.studies import luck_pictures, luck_theory_pictures
from netopsy.studies.luck_settings import near_line
from netopsy.studies.running import Study


def courses(lines: Sequence[str]) -> pd.DataFrame:
    """Rows of two seeds, epochs and layers; ρ̄ is the layer's half plus a tenth of the epoch's."""
    rows = [
        {"line": line, "seed": seed, "epoch": epoch, "layer": layer, "rho_bar": layer / 2 + epoch / 10,
         "rank": 0.3 * at, "loss": 1.0, "error": 0.2, "teacher_error": 0.1, "distance": 1.0,
         "fan_u": 2.0, "fan_r": 1.0, "status": OK}
        for at, line in enumerate(lines)
        for seed in (0, 1)
        for epoch in (0, 1)
        for layer in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_sizes_are_lines_and_the_first_panel_is_their_mean() -> None:
    figure = luck_pictures.over_factors(courses(["fc x1", "fc x50"]))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["all layers", "layer 0", "layer 1"]
    for place, expected in ((0, [0.25, 0.35]), (2, [0.5, 0.6])):
        for line in figure.axes[place].lines:
            assert list(line.get_ydata()) == pytest.approx(expected)  # type: ignore[arg-type]


def test_no_line_is_cut_off_by_the_limits_of_another_panel() -> None:
    figure = luck_pictures.courses(courses(["a", "b", "c"]))
    for ax in figure.axes:
        low, high = ax.get_ylim()
        assert all(low <= value <= high for line in ax.lines for value in line.get_ydata())  # type: ignore[union-attr]


def test_a_start_has_its_way_and_its_norms() -> None:
    figure = luck_pictures.near_starts(courses([near_line(2, 1.0, 0.0), near_line(5, 1.0, 0.0)]))
    way, small, large = figure.axes
    assert [len(ax.lines) for ax in (way, small, large)] == [2, 2, 2]
    assert [line.get_ydata().tolist() for line in small.lines] == [[2.0, 2.0], [1.0, 1.0]]  # type: ignore[union-attr]


def test_students_and_their_teacher_are_compared() -> None:
    looks = luck_pictures.BATCH_NORM["F9"]
    figure = luck_pictures.compared(courses(["fashion", "fashion, bn"]), looks, ("error", "rho_bar"))
    error, rho = figure.axes
    assert [line.get_label() for line in error.lines] == [words for words, _, _ in looks.values()]
    assert len(rho.lines) == 2


def test_theorems_have_pictures(tmp_path: Path) -> None:
    gaps = pd.DataFrame(
        [{"epoch": e, "layer": at, "seed": s, "gap_separated": 0.5, "gap_joint": 0.2}
         for e in (0, 1) for at in range(5) for s in (0, 1)]
    )  # fmt: skip
    drifts = pd.DataFrame([{"norm": n, "seed": 0, "drift": 0.1, "slope": 1.0} for n in ("before", "after", "none")])
    way = {"line": "h = 3", "threshold": 3.0, "seed": 0, "theta_0": 0.1, "stated": 0.5, "stated_now": 0.5}
    cones = pd.DataFrame(
        [{**way, "way": kind, "time": time, "angle": 0.1 / (1 + time), "rate": 0.6, "gamma": gamma, "line": line}
         for kind in ("ode", "sgd") for time in (0.0, 1.0) for gamma, line in ((0.5, "h = 3"), (-0.5, "h = 0"))]
    )  # fmt: skip
    biases = pd.DataFrame([{"line": "published", "seed": 1, "layer": at, "channel": c, "bias": c - 0.5}
                           for at in (0, 1) for c in (0, 1)])  # fmt: skip
    flat = pd.DataFrame([{"seed": s, "start": 1.0, "end": 0.01, "redrawn": 0.02, "redrawn_u": 0.5} for s in (0, 1)])
    tickets = courses(["fc x10"]).assign(ticket="all")
    tables = {"T2": gaps, "T3": drifts, "T4": cones, "F6": biases, "S33": flat, "LT": tickets}
    tables = {name: rows.assign(status=OK) for name, rows in tables.items()}
    written = luck_pictures.draw(Study(verdicts={}, tables=tables, folder=tmp_path), tmp_path)
    assert [path.name for path in written] == [
        "T2.png", "T3.png", "T4.png", "F6.png", "F6-histograms.png", "S33.png", "LT.png",
    ]  # fmt: skip
    steps = luck_theory_pictures.conservation(drifts).axes[0].lines[0].get_ydata()
    assert list(steps) == pytest.approx([0.4, 0.1])  # type: ignore[arg-type]
    labels = [text.get_text() for text in luck_theory_pictures.negative_biases(biases).axes[0].get_legend().texts]  # type: ignore[union-attr]
    assert labels == ["vgg13_bn"]
