"""The luck study: statistics on rows made by hand, measurements at a toy's size, a run with its pictures."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from netopsy._checks import NetopsyError
from netopsy.probes.teacher_student_config import NearStart, TeacherStudentConfig
from netopsy.studies import luck, luck_pictures, luck_sweeps
from netopsy.studies.claims import judge, lines_of, measured
from netopsy.studies.luck_animation import MOVING, animate
from netopsy.studies.luck_settings import lines
from netopsy.studies.luck_statistics import at, average, gain, half_time, lead, second_half, spread, widening
from netopsy.studies.luck_sweeps import Check, Point

TINY = TeacherStudentConfig(
    inputs=4, hidden=(3, 3), outputs=4, node_multi=2, samples=32, batch_size=16, epochs=2, evaluation=64, lr=0.02,
    seeds=(0, 1, 2), h_star=(0, 2),
)  # fmt: skip
NEAR = replace(TINY, hidden=(3,), bias=False, data_std=1.0, start=NearStart(p_w=1.0, p_v=0.0), h_star=())


def made(line: str, values: dict[int, list[list[float]]], column: str = "rho_bar") -> pd.DataFrame:
    """Rows of a line: seed -> layers -> epochs."""
    rows = [
        {"line": line, "seed": seed, "layer": layer, "epoch": epoch, column: value, "status": "ok"}
        for seed, layers in values.items()
        for layer, epochs in enumerate(layers)
        for epoch, value in enumerate(epochs)
    ]
    return pd.DataFrame(rows)


ROWS = pd.concat(
    [
        made("a", {0: [[0.1, 0.5, 0.9], [0.3, 0.3, 0.5]], 1: [[0.0, 0.1, 0.2], [0.0, 0.1, math.nan]]}),
        made("b", {0: [[0.0, 0.1, 0.8]], 1: [[0.2, 0.2, 0.2]]}),
        pd.DataFrame([{"line": "lost", "status": "exception"}]),
    ]
)


def test_a_gain_is_the_mean_over_layers_or_of_some() -> None:
    assert gain(ROWS, "a").tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert gain(ROWS, "a", layers=[0]).tolist() == pytest.approx([0.8, 0.2])
    assert gain(ROWS, "a", layers=[-1]).tolist() == pytest.approx([0.2, math.nan], nan_ok=True)
    assert at(ROWS, "a", "rho_bar", 1).tolist() == pytest.approx([0.4, 0.1])
    assert average(ROWS, "b", "rho_bar").tolist() == pytest.approx([0.3, 0.2])
    assert second_half(ROWS, "b").tolist() == pytest.approx([0.7, 0.0])


def test_half_of_the_gain_lies_between_epochs() -> None:
    """From 0 to 0.8: half of it is reached 3/7 of the way from epoch 1 (0.1) to epoch 2 (0.8)."""
    assert half_time(ROWS, "b").tolist() == pytest.approx([1 + 3 / 7, math.nan], nan_ok=True)


def test_a_lead_and_a_spread() -> None:
    found = lead(ROWS, "b", "a", lambda rows, line: at(rows, line, "rho_bar", 1))
    assert found.tolist() == pytest.approx([0.1 - 0.4, 0.2 - 0.1])
    three = made("c", {0: [[0.0, 0.1]], 1: [[0.0, 0.4]], 2: [[0.0, 1.0]]})
    assert spread(three, "c", "rho_bar").tolist() == pytest.approx([0.3, 0.0, 0.6])


def test_a_line_that_failed_leaves_nothing_to_judge() -> None:
    for values in (gain(ROWS, "lost"), half_time(ROWS, "lost"), at(ROWS, "lost", "rho_bar", 1)):
        assert values.isna().tolist() == [True, True]


def test_a_widening_is_the_growth_of_the_ratio() -> None:
    rows = made("n", {0: [[2.0, 6.0]]}, "fan_u").assign(fan_r=[1.0, 0.5])
    assert widening(rows, "n").tolist() == pytest.approx([math.log(6)])


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_every_claim_has_a_sweep_over_known_lines(preset: str) -> None:
    assert luck.SWEEPS.keys() == luck.CLAIMS.keys()
    assert set(luck.USUAL) <= luck.CLAIMS.keys()
    known = lines(preset)  # type: ignore[arg-type]
    for name, claim in luck.CLAIMS.items():
        assert claim.id == f"luck/{name}"
        if name.startswith("F"):
            assert set(lines_of(claim)) <= known.keys()
        sweep = luck.SWEEPS[name](preset=preset, seeds=(1, 3))
        populations = [config for config in sweep.configs if isinstance(config, Point)]
        assert all(config.config.seeds == (1, 3) for config in populations)
        assert len({part.name for part in claim.parts}) == len(claim.parts)


def test_the_papers_own_sizes() -> None:
    known = lines("paper")
    assert (known["fc x50"].hidden, known["fc x50"].node_multi, known["fc x50"].samples) == (
        (10, 15, 20, 25),
        50,
        100_000,
    )
    near = known["near x10, 0.3, 1"]
    assert (near.inputs, near.hidden, near.outputs, near.start) == (10, (20,), 30, NearStart(p_w=0.3, p_v=1.0))
    assert near.samples * near.epochs // near.batch_size == 20_000
    assert known["conv, bn"].hidden == (64,) * 4
    assert len(known) == 6 + 9 + 18


def test_a_population_is_measured(tmp_path: Path) -> None:
    rows = luck_sweeps.measure_students(Point(line="x", config=TINY), tmp_path)
    assert len(rows) == 3 * 2 * 3
    assert rows.h_ratio.notna().sum() == 2 * 2 * 3
    assert (tmp_path / rows.result.iloc[0] / "manifest.json").is_file()
    near = luck_sweeps.measure_students(Point(line="x", config=NEAR), tmp_path)
    assert {"distance", "fan_u", "fan_r"} <= set(near)
    assert (near.distance[near.epoch == 0] < 1e-6).all()


def test_redrawing_what_is_not_used_changes_nothing(tmp_path: Path) -> None:
    rows = luck_sweeps.measure_flat(Point(line="x", config=replace(NEAR, node_multi=1)), tmp_path)
    assert (rows.redrawn == rows.end).all()
    assert (rows.redrawn_u != rows.end).all()


def test_theorems_of_random_nets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(luck_sweeps, "NETS", 4)
    assert luck_sweeps.measure_rule(Check(seed=1), tmp_path).digits[0] > 10
    rows = luck_sweeps.measure_conservation(Check(seed=1), tmp_path)
    assert rows.norm.tolist() == ["before", "after", "none"]


def test_tickets_are_rows(tmp_path: Path) -> None:
    rows = luck_sweeps.measure_tickets(
        Point(line="x", config=replace(TINY, epochs=1, seeds=(0,), h_star=())), tmp_path
    )
    rows = rows.assign(line="fc x10", status="ok")
    values = measured(luck.CLAIMS["LT"], rows)
    assert {name: len(value) for name, value in values.items()} == dict.fromkeys(values, 1)


def test_a_run_with_its_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toy = {"fc, H*": replace(TINY, hidden=(3, 3, 3, 3))} | {name: NEAR for name in lines("laptop") if "near" in name}
    monkeypatch.setattr(luck_sweeps, "lines", lambda preset: toy)
    study = luck.run(tmp_path, claims=["F11"], seeds=range(5))
    assert set(study.verdicts) == {"F11"}
    assert len(study.tables["F11"]) == 3 * 4 * 5
    drawn = luck_pictures.draw(study, tmp_path / "pictures")
    assert [path.name for path in drawn] == ["F11.png", "F11-matrices.png"]
    near = pd.concat(
        [
            luck_sweeps.measure_students(Point(line=line, config=NEAR), study.folder).assign(line=line, status="ok")
            for line in lines_of(luck.CLAIMS["F7"])[:2]
        ]
    )
    figure = luck_pictures.near_starts(near)
    assert next(ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()) == "$||W_u - W^*||$"
    whole = pd.concat(
        [near[near.line == near.line.iloc[0]].assign(line=line) for line in lines_of(luck.CLAIMS["F7"])]
    )
    claim = replace(luck.CLAIMS["F7"], seeds=3)
    verdict = judge(claim, measured(claim, whole))
    assert verdict.table["mean"][:4].tolist() == pytest.approx([0.0] * 4)


def test_an_animation_has_a_frame_an_epoch(tmp_path: Path) -> None:
    small = replace(MOVING, samples=64, epochs=2)
    with Image.open(animate(tmp_path / "moving.gif", small)) as found:
        assert found.format == "GIF"
        assert found.n_frames == 3  # type: ignore[attr-defined]
    with pytest.raises(
        NetopsyError, match="animation: expected two inputs, no convolutions and one seed; got inputs=3"
    ):
        animate(tmp_path / "moving.gif", replace(MOVING, inputs=3))
