"""Theorems 2 and 4 and Figure 6 of the luck study: statistics on rows made by hand, measurements at a toy's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from netopsy._checks import NetopsyError
from netopsy.data.digits import digits
from netopsy.probes.arc_cosine import angles
from netopsy.probes.teacher_student_config import TeacherStudentConfig
from netopsy.studies import luck, luck_gate_claims, luck_gate_sweeps
from netopsy.studies.claims import judge, measured
from netopsy.studies.luck_gate_claims import (
    GAP_LINE,
    along,
    growth,
    labelled,
    least_ratio,
    negative,
    order,
    whole_way,
)
from netopsy.studies.luck_gate_sweeps import CONES, NORMED, Cone, measure_biases, measure_cone, measure_gaps
from netopsy.studies.luck_sweeps import Point
from netopsy.training.config import FitConfig

TINY = TeacherStudentConfig(
    inputs=4, hidden=(3, 3), outputs=4, node_multi=2, samples=32, batch_size=16, epochs=2, evaluation=64, lr=0.02,
    seeds=(0, 1),
)  # fmt: skip


def outcomes(name: str, rows: pd.DataFrame) -> dict[str, str]:
    """Part -> outcome, of a claim judged by rows made by hand."""
    claim = luck.CLAIMS[name]
    table = judge(claim, measured(claim, rows)).table
    return dict(zip(table.part, table.outcome, strict=True))


def gaps(separated: float) -> pd.DataFrame:
    """Rows of Theorem 2 with the same gap everywhere, up to a thousandth."""
    return pd.DataFrame(
        [
            {"line": GAP_LINE, "epoch": epoch, "layer": layer, "seed": seed, "gap_separated": separated + seed / 1000}
            for epoch in (0, 1, 20)
            for layer in range(5)
            for seed in range(3)
        ]
    )


def test_a_gap_is_close_or_not() -> None:
    assert set(outcomes("T2", gaps(0.05)).values()) == {"reproduced"}
    found = outcomes("T2", gaps(0.05).assign(gap_separated=lambda rows: rows.gap_separated + (rows.layer == 2) / 2))
    assert [name for name, outcome in found.items() if outcome == "not reproduced"] == [
        "layer 2, at the start",
        "layer 2, after epoch 1",
        "layer 2, at the end",
    ]
    assert len(found) == 12


def way(rates: Sequence[float], stated: float, decline: float) -> pd.DataFrame:
    """Students of five seeds in both cones, with these rates, and SGD whose log sin θ falls by `decline`."""
    rows = []
    for line in luck_gate_claims.INSIDE:
        for seed in range(5):
            for time, rate in enumerate(rates):
                sine = math.exp(-decline * time / (len(rates) - 1)) / 10
                both = {"line": line, "seed": seed, "time": time, "angle": math.asin(sine), "stated": stated}
                rows.append({**both, "way": "ode", "rate": rate + seed / 1e6, "stated_now": stated, "gamma": 0.5})
                rows.append({**both, "way": "sgd"})
    return pd.DataFrame(rows)


def test_a_rate_is_held_against_the_stated_one() -> None:
    rows = way([0.2, 0.3, 0.4], stated=0.1, decline=0.6)
    assert set(outcomes("T4", rows).values()) == {"reproduced"}
    ode, sgd = (along(rows, "h = 3", "ode", of).tolist()[0] for of in (least_ratio, growth))
    assert (ode, sgd) == pytest.approx((2.0, 2.0))
    assert along(rows, "h = 3", "sgd", whole_way).tolist() == pytest.approx([0.6 / 2 / 0.1] * 5)
    slower = outcomes("T4", way([0.09, 0.07, 0.08], stated=0.1, decline=0.1))
    assert {name.split(",")[0]: outcome for name, outcome in slower.items()} == {
        "inside the condition": "reproduced",
        "at least the stated rate": "not reproduced",
        "faster in the end": "not reproduced",
        "faster and faster": "not reproduced",
        "SGD too": "not reproduced",
    }


def test_a_way_that_failed_leaves_nothing_to_judge() -> None:
    rows = way([0.2, 0.3], stated=0.1, decline=0.6)
    for of in (least_ratio, growth, order, whole_way):
        assert along(rows, "h = 9", "ode", of).isna().tolist() == [True] * 5


def biases(shares: Sequence[float]) -> pd.DataFrame:
    """Four nets with these shares of negative biases in their layers, ten channels each."""
    rows = [
        {"line": "ours", "seed": seed, "layer": layer, "bias": -1.0 if channel < 10 * share else 1.0}
        for seed in range(4)
        for layer, share in enumerate(shares)
        for channel in range(10)
    ]
    return pd.DataFrame(rows)


def test_shares_of_negative_biases() -> None:
    rows = biases([0.2, 0.6, 1.0, 1.0])
    assert negative(rows).tolist() == pytest.approx([0.7] * 4)
    assert negative(rows, 0.5, 1.0).tolist() == pytest.approx([1.0] * 4)
    assert set(outcomes("F6", rows).values()) == {"reproduced"}
    assert set(outcomes("F6", biases([0.6, 0.4, 0.2])).values()) == {"not reproduced"}
    lost = pd.concat([rows[rows.seed < 3], pd.DataFrame([{"line": "ours", "seed": 3}])])
    assert set(outcomes("F6", lost).values()) == {"inconclusive"}


def test_a_verdict_on_our_own_nets_says_so() -> None:
    rows = biases([0.2, 1.0])
    claim = luck.CLAIMS["F6"]
    assert "our own small VGG-11" in str(labelled(claim, rows))
    assert labelled(claim, rows.assign(line="published")).reason == ""


def test_gaps_of_students_are_measured_over_training(tmp_path: Path) -> None:
    rows = measure_gaps(Point(line="x", config=TINY), tmp_path)
    assert sorted(rows.epoch.unique()) == [0, 1, 2]
    assert len(rows) == 3 * 2 * 3
    top = rows[rows.layer == 2]
    assert (top.gap_separated.abs() < 1e-10).all()  # nothing is taken apart at the outputs
    assert (rows[rows.layer == 0].gap_separated > 1e-3).all()
    assert rows.groupby("epoch").update.mean().nunique() == 3


def test_students_in_a_cone() -> None:
    """The first moment is the cone's angle; the rate is the slope of the way, and above the stated one."""
    cone = Cone(line="x", threshold=2.0, units=2, inputs=6, batch=32, seed=1)
    rows = measure_cone(cone, Path())
    ode = rows[rows.way == "ode"].sort_values("time")
    assert ode.angle.iloc[0] == pytest.approx(ode.theta_0.iloc[0])
    assert (ode.gamma > 0).all()
    assert (ode.rate >= ode.stated_now).all()
    log_sine = np.log(np.sin(ode.angle.to_numpy()))
    slopes = -np.gradient(log_sine, ode.time.to_numpy())
    assert slopes[5:-5] == pytest.approx(ode.rate.to_numpy()[5:-5], rel=0.02)
    assert rows[rows.way == "sgd"].rate.isna().all()


def test_outside_the_condition_the_cone_is_given() -> None:
    rows = measure_cone(replace(CONES[0], batch=8, seed=0), Path())
    assert rows.theta_0.unique().tolist() == [0.05]
    assert (rows.gamma < 0).all()


def test_rows_are_turned_by_an_angle() -> None:
    source = np.random.default_rng(0)
    rows = np.eye(4)
    turned = luck_gate_sweeps._turned(rows, 0.3, source)
    assert angles(turned, rows).diagonal() == pytest.approx([0.3] * 4)


def test_our_own_nets_have_biases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(luck_gate_sweeps, "fashion_mnist", digits)
    config = replace(NORMED["laptop"], fit=FitConfig(epochs=1, lr=0.05, keep=()), train=40, width=1 / 64)
    rows = measure_biases(config, tmp_path)
    assert rows.groupby("layer").size().tolist() == [1, 2, 4, 4, 8, 8, 8, 8]
    assert rows.bias.notna().all()
    assert (rows.bias != 0).any()


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_published_nets_are_read_beside_the_runs(tmp_path: Path, kind: str) -> None:
    """Norms are in the order of the network, not of the letters: 4 before 11."""
    state = {
        f"features.{place}.{name}": torch.full((2,), value)
        for place, bias in ((4, -0.5), (11, 0.25))
        for name, value in (("weight", 1.0), ("bias", bias), ("running_mean", 0.0), ("running_var", 1.0))
    } | {"features.0.weight": torch.ones(2, 3, 3, 3), "features.0.bias": torch.full((2,), 9.0)}
    (tmp_path / "vgg").mkdir()
    path = tmp_path / "vgg" / f"vgg13_bn-0123abcd.{kind}"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    rows = measure_biases(replace(NORMED["paper"], seed=1), tmp_path / "trained")
    assert rows[["layer", "channel", "bias"]].to_numpy().tolist() == [
        [0, 0, -0.5],
        [0, 1, -0.5],
        [1, 0, 0.25],
        [1, 1, 0.25],
    ]


def test_published_nets_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        NetopsyError, match=r"one file of torchvision's trained vgg11_bn in .*vgg, .* got 0; save torch"
    ):
        measure_biases(NORMED["paper"], tmp_path / "trained")
    (tmp_path / "vgg").mkdir()
    torch.save({"features.0.bias": torch.zeros(2)}, tmp_path / "vgg" / "vgg11_bn.pth")
    with pytest.raises(NetopsyError, match=r"state of torchvision's vgg11_bn .* got one without batch normalization"):
        measure_biases(NORMED["paper"], tmp_path / "trained")
    with pytest.raises(NetopsyError, match=r"seeds: expected those of 0 to 3 for F6's published nets.* got \[4\]"):
        luck.SWEEPS["F6"](preset="paper", seeds=[4])
