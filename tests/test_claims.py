"""Verdicts over hand-made values, and the layers paper's statistics over hand-made results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
import pytest

from netopsy._checks import NetopsyError
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.studies.claims import Claim, Part, judge, not_run, t_interval
from netopsy.studies.layers_claims import ALL_BUT_FIRST, CLAIMS, measure

UP = Part(name="up", statistic="a number", direction="above", margin=0.5)
DOWN = Part(name="down", statistic="another", direction="below", margin=0.1)
CLAIM = Claim(id="paper/F1", source="Fig. 1", sentence="It grows.", parts=(UP, DOWN))


def test_the_t_interval_has_its_closed_form() -> None:
    assert t_interval([1.0, 3.0]) == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062), rel=1e-5)  # t(0.975, 1)
    assert t_interval([1.0, 2.0, 3.0, 4.0], 0.9) == pytest.approx((2.5, 2.5 - 1.519089, 2.5 + 1.519089), rel=1e-5)
    assert t_interval([0.25] * 3) == (0.25, 0.25, 0.25)
    assert t_interval([7.0]) == (7.0, -math.inf, math.inf)
    mean, low, high = t_interval([1.0, math.nan, 2.0])
    assert math.isnan(mean)
    assert (low, high) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("up", "down", "outcome", "parts"),
    [
        ([0.7, 0.71, 0.72], [0.0, 0.01, 0.02], "reproduced", ["reproduced", "reproduced"]),
        ([0.5, 0.5, 0.5], [0.1, 0.1, 0.1], "reproduced", ["reproduced", "reproduced"]),  # at the margin
        ([0.7, 0.71, 0.72], [0.3, 0.31, 0.32], "not reproduced", ["reproduced", "not reproduced"]),
        ([0.2, 0.21, 0.22], [0.0, 0.5, 0.0], "not reproduced", ["not reproduced", "inconclusive"]),
        ([0.4, 0.5, 0.6], [0.0, 0.01, 0.02], "inconclusive", ["inconclusive", "reproduced"]),
        ([0.7, 0.71, 0.72], [0.0, math.nan, 0.02], "inconclusive", ["reproduced", "inconclusive"]),
    ],
)
def test_a_claim_holds_when_all_its_parts_do(
    up: list[float], down: list[float], outcome: str, parts: list[str]
) -> None:
    verdict = judge(CLAIM, {"up": up, "down": down})
    assert verdict.outcome == outcome
    assert verdict.table.outcome.tolist() == parts
    assert verdict.table["values"].tolist()[0] == up
    assert verdict.table.n.tolist() == [3, 3]
    lines = str(verdict).splitlines()
    assert lines[:2] == [f"paper/F1 (Fig. 1): {outcome.upper()}", "  It grows."]
    assert lines[2].startswith(f"  - up: {sum(up) / 3:.3f} [")
    assert lines[2].endswith(f"over 3 seeds, claimed above 0.5: {parts[0]}")


def test_too_few_seeds_are_refused() -> None:
    with pytest.raises(NetopsyError, match="paper/F1, down: expected values of at least 3 seeds; got 2"):
        judge(CLAIM, {"up": [1.0] * 3, "down": [0.0] * 2})
    with pytest.raises(NetopsyError, match="paper/F1, up: expected values of at least 3 seeds; got 0"):
        judge(CLAIM, {})


def test_a_claim_that_was_not_run_says_why() -> None:
    verdict = not_run(CLAIM, "CIFAR-10 cannot be had")
    assert (verdict.outcome, len(verdict.table)) == ("not run", 0)
    assert str(verdict).splitlines()[-1] == "  CIFAR-10 cannot be had"


def result(
    reset: Mapping[str, float],
    redrawn: Mapping[str, Sequence[float]],
    groups: Mapping[str, tuple[str, ...]] = {},
    baseline: float = 0.1,
) -> RobustnessResult:
    """Increases of error at checkpoint 0 and of each draw; chance is 0.9; checkpoint 5 is there to be left out."""
    Row = tuple[str | None, Literal["baseline", "re-initialize", "re-randomize"], int | None, int | None, float]
    rows: list[Row] = [(None, "baseline", None, None, 0.0)]
    rows += [(site, "re-initialize", 0, None, value) for site, value in reset.items()]
    rows += [(site, "re-initialize", 5, None, 0.77) for site in reset]
    rows += [(s, "re-randomize", None, draw, v) for s, values in redrawn.items() for draw, v in enumerate(values)]
    frame = pd.DataFrame(rows, columns=["site", "operation", "checkpoint", "draw", "delta_error"])
    frame = frame.astype({"site": "string", "operation": "string", "checkpoint": "Int64", "draw": "Int64"})
    frame["error"] = baseline + frame.delta_error
    return RobustnessResult(frame, pd.DataFrame(), groups, {"chance": 0.9})


def test_f1a_by_hand() -> None:
    alone = {"hidden.0": 0.6, "hidden.1": 0.01, "hidden.2": 0.03, "classifier": 0.02}
    drawn = {"hidden.0": (0.8, 0.7), "hidden.1": (0.7, 0.6), "hidden.2": (0.5, 0.9), "classifier": (0.8, 0.8)}
    joint = {"layers 2, 3, 4": ("hidden.1", "hidden.2", "classifier")}
    one = result({**alone, "layers 2, 3, 4": 0.5, "full model": 0.8}, {**drawn, "layers 2, 3, 4": (0.0, 0.0)}, joint)
    values = measure("F1a", {"fcn3": [one, one, one]})
    assert list(values) == [part.name for part in CLAIMS["F1a"].parts]
    assert values["layer 1, checkpoint 0"] == pytest.approx([0.75] * 3)  # 0.6 of the way of 0.8
    assert values["other layers, checkpoint 0"] == pytest.approx([0.03] * 3)
    assert values["re-randomized"] == pytest.approx([0.65 / 0.8] * 3)
    assert judge(CLAIMS["F1a"], values).outcome == "reproduced"


def test_a_net_at_chance_leaves_its_claim_open() -> None:
    one = result({"a": 0.0, "b": 0.0}, {"a": (0.0,), "b": (0.0,)}, baseline=0.9)
    values = measure("F1a", {"fcn3": [one] * 3})
    assert math.isnan(values["layer 1, checkpoint 0"][0])
    assert judge(CLAIMS["F1a"], values).outcome == "inconclusive"


def blocks(first: float, other: float, redrawn: float, classifier: float) -> RobustnessResult:
    reset = {"stem.conv": 0.3}
    for stage in (1, 2):
        reset |= {f"stage{stage}.block1": first * stage, f"stage{stage}.block2": other, f"stage{stage}.block3": 0.0}
    again = dict.fromkeys(reset, (redrawn, redrawn + 0.02)) | {"classifier": (classifier, classifier)}
    members = ("stage1.block2", "stage1.block3", "stage2.block2", "stage2.block3")
    joint = {**reset, "classifier": 0.0, ALL_BUT_FIRST: 0.6, "full model": 0.8}
    return result(joint, {**again, ALL_BUT_FIRST: (0.8, 0.8)}, {ALL_BUT_FIRST: members})


def test_f4_by_hand() -> None:
    values = measure("F4", {"resnet": [blocks(0.2, 0.04, 0.01, 0.6)]})
    assert values["first block of a stage"] == pytest.approx([0.28])  # (0.2 + 0.4) / 2 - 0.04 / 2
    assert values["robust blocks re-randomized"] == pytest.approx([0.02])
    assert values["classifier re-randomized"] == pytest.approx([0.75])
    none = measure("F4", {"resnet": [result({"s.block1": 0.3, "c": 0.1}, {"s.block1": (0.5,), "c": (0.5,)})]})
    assert math.isnan(none["robust blocks re-randomized"][0])


def test_f6_by_hand() -> None:
    plain = result({"layers 2, 3, 4, 5, 6": 0.7, "layers 2, 4, 6": 0.15}, {})
    values = measure("F6", {"resnet": [blocks(0.2, 0.04, 0.0, 0.6)], "fcn5": [plain]})
    assert values["joint reset of ResNet blocks"] == pytest.approx([0.56])
    assert values["every second layer"] == pytest.approx([0.55])
    with pytest.raises(NetopsyError, match=f"F6: expected the group '{ALL_BUT_FIRST}'"):
        measure("F6", {"resnet": [plain], "fcn5": [plain]})
