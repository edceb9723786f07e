"""The unit probes on the command line: which apply, what they will cost, and that they are measured once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy.commands import probes, unit_probes
from netopsy.commands.inspect import chosen, planned
from netopsy.commands.probing import OneModel, Subject
from netopsy.models.fcn import fcn
from netopsy.probes.ablation_result import AblationResult
from netopsy.report.found import find
from netopsy.report.run import chapter

ASKED: dict[str, Any] = {
    "sites": "modules", "checkpoints": (0,), "draws": 1, "stop": "exact", "precision": 0.02, "tolerance": 0.05,
    "seed": 0,
}  # fmt: skip
UNITS = ("redundancy", "ablation", "units")


class Functions(nn.Module):
    """Its activation is a function: nothing says where units are."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(torch.relu(self.lower(x)))


SMALL = partial(fcn, inputs=6, classes=3, depth=2, width=5)


def subject(folder: Path, factory: Any = SMALL) -> Subject:
    torch.manual_seed(0)
    states = {key: factory().state_dict() for key in (0, 1)}
    data = {"train": None, "test": (torch.randn(40, 6), torch.arange(40) % 3)}
    return Subject(trajectory=OneModel.from_states(factory, states), data=data, folder=folder, home=folder)


@pytest.fixture(autouse=True)
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_probes, "save", lambda picture, path: path.touch())


def test_each_is_planned_measured_once_and_reported(tmp_path: Path) -> None:
    opened = subject(tmp_path)
    found, skipped = chosen(opened, UNITS)
    assert skipped == {}
    assert sorted(probe.name for probe in found) == sorted(UNITS)
    costs = planned(opened, found, ASKED)
    assert list(costs.values()) == sorted(costs.values(), key=lambda cost: cost.seconds)
    assert list(tmp_path.iterdir()) == []
    for probe in found:
        finding = probe.run(opened, ASKED, lambda done, total: None)
        cost = costs[probe]
        assert cost.rows == len(finding.result.to_frame())
        assert 0 < cost.low <= cost.seconds <= cost.high
        assert f"{cost.plan.units} in 2 layers" in str(cost.plan)
        assert cost.to_dict()["plan"]["units"] == 10
        if probe.name != "redundancy":
            least = cost.plan.variants if probe.name == "units" else 1  # of five units, orders often share a set
            assert least <= finding.result.provenance["variants"] <= cost.plan.variants_high
        assert finding.sentences
        assert all(path.exists() for path in finding.files.values())
        again = probe.plan(opened, ASKED)
        assert (again.found, again.rows, again.seconds) == (finding.files["result"], cost.rows, 0.0)
        before = finding.files["result"].joinpath("manifest.json").stat().st_mtime_ns
        assert probe.run(opened, ASKED, lambda done, total: None).files == finding.files
        assert finding.files["result"].joinpath("manifest.json").stat().st_mtime_ns == before
        assert probe.plan(opened, {**ASKED, "seed": 1}).found is None
    titles = [section.title for section in chapter("run", find(tmp_path)).sections]
    assert titles == ["Robustness to the ablation of units", "Kinds of units", "Redundancy of units"]


def test_the_test_split_of_the_trained_network_is_measured(tmp_path: Path) -> None:
    opened = subject(tmp_path)
    finding = unit_probes.UNIT_PROBES["ablation"].run(opened, ASKED, lambda done, total: None)
    images, labels = opened.data["test"]
    with torch.no_grad():
        right = (opened.trajectory.model()(images).argmax(1) == labels).float().mean()
    result = AblationResult.load(finding.files["result"])
    assert result.frame.accuracy[0] == pytest.approx(float(right))
    other = replace(opened, data={"test": (images + 1, labels)})
    assert unit_probes.UNIT_PROBES["ablation"].plan(other, ASKED).found is None


def test_without_activation_modules_they_are_passed_over_with_a_reason(tmp_path: Path) -> None:
    _, skipped = chosen(subject(tmp_path, Functions), ())
    assert sorted(skipped) == sorted((*UNITS, "criticality", "fine-tuning"))
    for reason in map(skipped.__getitem__, UNITS):
        assert "no units to look at: " in reason
        assert "its activations may be functions" in reason


def test_large_networks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, known = subject(tmp_path), unit_probes.UNIT_PROBES
    monkeypatch.setattr(unit_probes, "MANY", 9)
    cost = known["units"].plan(opened, ASKED)
    assert cost.plan.stop == "precision"
    assert "stopping  precision: no more examples than that takes" in str(cost.plan)
    assert known["units"].run(opened, ASKED, lambda done, total: None).result.provenance["stop"] == "precision"
    assert known["ablation"].plan(opened, ASKED).plan.stop == "exact"
    monkeypatch.setattr(unit_probes, "MOST", 9)
    reason = known["units"].applies(opened)
    assert reason == "it has 10 units, more than 9; choose layers with netopsy.unit_table(sites=...)"
    assert known["ablation"].applies(opened) is None
    monkeypatch.setattr(unit_probes, "MEMORY", 100)
    assert str(known["redundancy"].applies(opened)).startswith("comparing its units takes 0.0 GB, more than 1e-07;")
    assert known["ablation"].applies(opened) is None


def test_inspect_knows_them_all() -> None:
    assert [probe.name for probe in probes.PROBES] == [
        "redundancy", "jacobian", "transitions", "path", "robustness", "ablation", "units", "criticality",
        "fine-tuning",
    ]  # fmt: skip
