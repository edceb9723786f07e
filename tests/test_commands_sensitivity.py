"""Norms and paths on the command line: when they apply, on which examples, and that they are measured once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from netopsy.commands import probes, sensitivity_probes, sensitivity_sample
from netopsy.commands.inspect import chosen, planned
from netopsy.commands.probing import OneModel, Subject
from netopsy.commands.sensitivity_probes import SENSITIVITY_PROBES, WORK, _Followed
from netopsy.commands.sensitivity_sample import sample_of
from netopsy.models.fcn import fcn
from netopsy.probes.jacobian_norm import jacobian_norm
from netopsy.probes.path_transitions import read_pool
from netopsy.probes.paths import polygon
from netopsy.probes.transitions import transitions
from netopsy.report.found import find
from netopsy.report.run import chapter
from netopsy.report.sensitivity import jacobian_sentences
from netopsy.report.sensitivity_transitions import transitions_sentences

ASKED: dict[str, Any] = {"seed": 0}
NAMES = ("jacobian", "transitions")
SMALL = partial(fcn, inputs=6, classes=3, depth=2, width=5)
JACOBIAN, PATHS = (SENSITIVITY_PROBES[name] for name in NAMES)


def tensors(count: int = 40) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 6), torch.arange(count) % 3


def subject(folder: Path, factory: Any = SMALL, data: Any = None) -> Subject:
    torch.manual_seed(0)
    states = {key: factory().state_dict() for key in (0, 1)}
    data = {"train": None, "test": tensors()} if data is None else data
    return Subject(trajectory=OneModel.from_states(factory, states), data=data, folder=folder, home=folder)


def quiet(done: int, total: int | None) -> None:
    """No bar."""


@pytest.fixture(autouse=True)
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity_probes, "save", lambda picture, path: path.touch())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity_probes, "PATHS", (2, 3))


def test_each_is_planned_measured_once_and_reported(tmp_path: Path, few: None) -> None:
    opened = subject(tmp_path)
    found, skipped = chosen(opened, NAMES)
    assert skipped == {}
    costs = planned(opened, found, ASKED)
    assert list(tmp_path.iterdir()) == []
    for probe in found:
        heard: list[tuple[int, int | None]] = []
        finding = probe.run(opened, ASKED, lambda done, total, heard=heard: heard.append((done, total)))
        cost = costs[probe]
        assert heard[-1] == ((40, 40) if probe is JACOBIAN else (6, 6))
        assert cost.rows == len(finding.result.to_frame())
        assert 0 < cost.low <= cost.seconds <= cost.high
        assert cost.to_dict()["plan"]["work"] in str(cost.plan)
        assert all(path.exists() for path in finding.files.values())
        again = probe.plan(opened, ASKED)
        assert (again.found, again.rows, again.seconds) == (finding.files["result"], cost.rows, 0.0)
        before = finding.files["result"].joinpath("manifest.json").stat().st_mtime_ns
        assert probe.run(opened, ASKED, quiet).sentences == finding.sentences
        assert finding.files["result"].joinpath("manifest.json").stat().st_mtime_ns == before
        assert probe.plan(opened, {"seed": 1}).found is None
        moved = replace(opened, data={"test": (tensors()[0] + 1, tensors()[1])})
        assert probe.plan(moved, ASKED).found is None
    assert costs[JACOBIAN].plan.work == "40 examples, 2 backward passes each"
    assert costs[PATHS].plan.work == "3 triangles through 3 examples and the same turned, 10 units"
    assert PATHS.counts == "paths"
    titles = [section.title for section in chapter("run", find(tmp_path)).sections]
    assert titles == ["Sensitivity to the input", "Linear regions along paths"]


def test_norms_are_those_of_the_test_split(tmp_path: Path) -> None:
    opened = subject(tmp_path)
    finding = JACOBIAN.run(opened, ASKED, quiet)
    expected = jacobian_norm(opened.trajectory.model(), tensors())
    pd.testing.assert_frame_equal(finding.result.frame, expected.frame, rtol=1e-6)
    assert finding.sentences == jacobian_sentences(finding.result)
    assert "over 40 test points" in finding.sentences[0]
    assert set(finding.files) == {"result", "histogram"}


def test_of_many_examples_a_seeded_sample_keeps_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: None
) -> None:
    monkeypatch.setattr(sensitivity_sample, "EXAMPLES", 15)
    opened = subject(tmp_path)
    model, (x, y) = opened.trajectory.model(), tensors()
    result = JACOBIAN.run(opened, ASKED, quiet).result
    rows = result.frame["index"].to_numpy(np.int64)
    assert len(rows) == 15
    assert list(rows) == sorted(set(rows)) != list(range(15))
    whole = jacobian_norm(model, (x, y)).frame
    pd.testing.assert_frame_equal(result.frame, whole.iloc[rows].reset_index(drop=True), rtol=1e-5)
    p = result.provenance
    assert (p["split"], p["drawn"], p["of"], p["examples"]) == ("test", True, 40, 15)
    assert not np.array_equal(rows, JACOBIAN.run(opened, {"seed": 1}, quiet).result.frame["index"])
    paths = PATHS.run(opened, ASKED, quiet).result
    corners = [int(place) for place in paths.paths.examples[0].split()]
    assert set(corners) <= set(rows)
    assert (y[corners] == paths.paths.label[0]).all()
    assert paths.counts().data[0] == transitions(model, polygon(x[corners])).total


def test_data_of_every_form_give_the_same_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity_sample, "EXAMPLES", 15)
    x, y = tensors()
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    halves = (x[:20], y[:20]), (x[20:], y[20:])
    for data in ({"test": (x, y)}, loader, list(halves), Stream(*halves)):
        sample = sample_of(subject(tmp_path, data=data), 0)
        inputs = torch.cat([batch[0] for batch in sample.data])
        assert torch.equal(inputs, x[sample.rows])
        assert sample.known["examples"] == len(inputs) == 15
    assert (sample.split, sample.known["drawn"], sample.known["of"]) == ("data", False, None)
    assert list(sample.rows) == list(range(15))
    monkeypatch.setattr(sensitivity_sample, "EXAMPLES", 1000)
    short = sample_of(subject(tmp_path, data=Stream((x[:9], y[:9]))), 0)
    assert (short.known["of"], short.known["examples"]) == (9, 9)


class Stream:
    """Batches of which nobody knows how many there are."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def test_of_many_classes_norms_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity_probes, "CLASSES", 2)
    monkeypatch.setattr(sensitivity_probes, "PROJECTIONS", 2)
    opened = subject(tmp_path)
    assert JACOBIAN.plan(opened, ASKED).plan.work == "40 examples, 2 backward passes each"
    assert JACOBIAN.run(opened, ASKED, quiet).result.provenance["projections"] == 2


class Tokens(nn.Module):
    """Of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.embedding(x)).mean(1))


class Pairs(nn.Module):
    """Of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.lower(a) + self.lower(b)))


class Cut(nn.Module):
    """Its outputs have no derivative by its input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.long().to(x.dtype))


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def affine() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3))


X, Y = tensors()


@pytest.mark.parametrize(
    ("factory", "data", "norms", "paths"),
    [
        (Tokens, (torch.randint(9, (40, 4)), Y), "no derivative by its input: ", "inputs, which paths lead through"),
        (
            Pairs,
            (X, X, Y),
            "no derivative by its input: ",
            "through; got torch.float32, torch.float32",
        ),
        (Cut, (X, Y), "no derivative by its input: ", "no paths to follow exactly: "),
        (smooth, (X, Y), None, "no paths to follow exactly: .*tanh"),
        (
            affine,
            (X, Y),
            None,
            "no paths to follow exactly: .*a kink, such as ReLU; it has none",
        ),
        (partial(SMALL, classes=40), (X, torch.arange(40)), None, "a class with 3 examples or more"),
    ],
)
def test_what_does_not_apply_says_why(
    factory: Any, data: Any, norms: str | None, paths: str | None, tmp_path: Path
) -> None:
    opened = subject(tmp_path, factory, {"test": data})
    for probe, reason in ((JACOBIAN, norms), (PATHS, paths)):
        told = probe.applies(opened)
        if reason is None:
            assert told is None
        else:
            assert told is not None
            assert "\n" not in told
            with pytest.raises(RuntimeError, match=reason):
                raise RuntimeError(told)


def test_torchs_own_errors_are_a_reason_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("one of the variables was changed\nby an operation in place")

    monkeypatch.setattr(sensitivity_probes, "jacobian_norm", fail)
    assert JACOBIAN.applies(subject(tmp_path)) == "no derivative by its input: one of the variables was changed"


def test_paths_are_as_many_as_the_work_allows_and_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paths(work: int) -> int:
        return _Followed(pool=read_pool(tensors()), units=work, operations=1).paths

    assert [paths(work) for work in (0, WORK // 40, WORK // 20, WORK)] == [20, 20, 10, 6]
    opened = subject(tmp_path)
    operations = 2 * (6 * 5 + 5 * 5 + 5 * 3)
    monkeypatch.setattr(sensitivity_probes, "WORK", 10 * operations)
    assert PATHS.applies(opened) is None
    monkeypatch.setattr(sensitivity_probes, "WORK", 10 * operations - 1)
    assert PATHS.applies(opened) == (
        f"10 units and {operations} operations a pass are too many to follow around whole triangles; "
        "netopsy.transitions takes shorter paths, such as netopsy.paths.segment(a, b)"
    )


def test_the_finding_says_what_the_result_says(tmp_path: Path, few: None) -> None:
    finding = PATHS.run(subject(tmp_path), ASKED, quiet)
    assert finding.sentences == transitions_sentences(finding.result)
    assert set(finding.files) == {"result", "layers"}
    assert len(finding.to_dict()["rows"]) == 2 * 3 * 2


def test_outputs_that_never_change_have_no_histogram(tmp_path: Path) -> None:
    states = {key: {name: torch.zeros_like(v) for name, v in SMALL().state_dict().items()} for key in (0, 1)}
    still = replace(subject(tmp_path), trajectory=OneModel.from_states(SMALL, states))
    finding = JACOBIAN.run(still, ASKED, quiet)
    assert set(finding.files) == {"result"}
    assert finding.result.mean == 0


def test_inspect_knows_them() -> None:
    names = [probe.name for probe in probes.PROBES]
    assert names.index("jacobian") == names.index("redundancy") + 1
    assert set(NAMES) <= set(names)
