"""Probes that are known by all that decides them, and run once."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.models.fcn import fcn
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.store import probed as home
from netopsy.store.probed import find, probed

NET = partial(fcn, inputs=4, classes=3, depth=1, width=2)


def trajectory(seed: int = 1, factory: Any = NET) -> Trajectory:
    states = {}
    for key in (0, seed):
        torch.manual_seed(key)
        states[key] = {name: value.clone() for name, value in NET().state_dict().items()}
    return Trajectory.from_states(factory, {0: states[0], "final": states[seed]})


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(12, 4, generator=source), torch.randint(3, (12,), generator=source)


RESULT = robustness(trajectory(), data(), draws=0)
CALLS: list[dict[str, Any]] = []


def counted(trajectory: Any, data: Any, **options: Any) -> RobustnessResult:
    """In place of the probe: counts its calls."""
    CALLS.append(options)
    if options.get("seed") == 13:
        raise NetopsyError("unlucky")
    time.sleep(0.3 if options.get("seed") == 99 else 0)
    return RESULT


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    CALLS.clear()
    monkeypatch.setattr(home, "robustness", counted)
    return CALLS


def test_what_is_found_is_what_was_measured(tmp_path: Path) -> None:
    heard: list[int] = []
    first, folder = probed(
        trajectory(), {"a": data(), "b": data(1)}, folder=tmp_path, progress=lambda done, total: heard.append(done)
    )
    assert heard
    assert folder.parent == tmp_path
    before = sorted(folder.rglob("*"))
    heard.clear()
    again, same = probed(trajectory(), {"a": data(), "b": data(1)}, folder=str(tmp_path), progress=heard.append)
    assert (same, heard, sorted(folder.rglob("*"))) == (folder, [], before)
    direct = robustness(trajectory(), {"a": data(), "b": data(1)})
    for result in (first, again):
        pd.testing.assert_frame_equal(result.frame, direct.frame, check_exact=True)
        pd.testing.assert_frame_equal(result.distances, direct.distances, check_exact=True)


def test_the_key_is_of_all_that_decides_and_nothing_else(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    images, labels = data()
    moved = images.clone()
    moved[-1, -1] += 1e-6
    other = trajectory()
    bent = {key: {name: value.clone() for name, value in other.state(key).items()} for key in other.keys}
    bent["final"]["classifier.bias"][0] += 1e-6
    cases: list[tuple[Trajectory, Any, dict[str, Any]]] = [
        (trajectory(), data(), {}),
        (trajectory(), (moved, labels), {}),
        (trajectory(), (images, labels.roll(1)), {}),
        (trajectory(), (images.flip(0), labels.flip(0)), {}),
        (trajectory(), {"test": data()}, {}),
        (trajectory(), {"train": data()}, {}),
        (trajectory(2), data(), {}),
        (Trajectory.from_states(NET, {**bent}), data(), {}),
        (trajectory(factory=partial(NET, bias=True)), data(), {}),
        (trajectory(factory=NET()), data(), {"draws": 0}),
        (trajectory(), data(), {"draws": 2}),
        (trajectory(), data(), {"sites": "parameters"}),
        (trajectory(), data(), {"sites": ("hidden.*",)}),
        (trajectory(), data(), {"checkpoints": ("final",)}),
        (trajectory(), data(), {"tolerance": 0.051}),
        (trajectory(), data(), {"groups": {"all": "*"}}),
    ]
    paths = [probed(run, part, folder=tmp_path, **options)[1] for run, part, options in cases]
    assert len(set(paths)) == len(cases) == len(calls)
    again = [probed(run, part, folder=tmp_path, **options)[1] for run, part, options in cases]
    assert again == paths
    assert len(calls) == len(cases)
    assert probed(trajectory(), data(), folder=tmp_path / "b")[1].name == paths[0].name
    assert len(calls) == len(cases) + 1  # another folder is another memory


def test_the_code_of_the_model_counts(
    tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    version = iter("aab")

    def code_version(*functions: Any) -> str:
        asked.append(functions)
        return next(version)

    monkeypatch.setattr(home, "code_version", code_version)
    paths = [probed(trajectory(), data(), folder=tmp_path)[1] for _ in range(3)]
    assert paths[0] == paths[1] != paths[2]
    assert asked == [(counted, NET)] * 3


def test_what_cannot_be_told_apart_is_refused_before_any_work(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    with pytest.raises(
        NetopsyError, match="expected a function or class that a module holds under its name; got <fun"
    ):
        probed(trajectory(factory=lambda: NET()), data(), folder=tmp_path / "new")
    with pytest.raises(
        NetopsyError, match="expected a function or class that a module holds under its name; got <fun"
    ):
        probed(trajectory(), data(), folder=tmp_path / "new", groups=lambda names: {})
    with pytest.raises(NetopsyError, match="which cannot be told from another one; leave it out"):
        probed(trajectory(), data(), folder=tmp_path / "new", calibration=nn.Linear(2, 2).weight)
    assert not calls
    assert not (tmp_path / "new").exists()


def test_two_at_once_measure_once(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    found: list[Path] = []
    run, part = trajectory(), data()  # drawn here: threads share torch's generator

    def ask() -> None:
        found.append(probed(run, part, folder=tmp_path, seed=99)[1])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(calls) == 1
    assert len(found) == 3


def test_a_failure_leaves_no_result(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    for count in (1, 2):
        with pytest.raises(NetopsyError, match="unlucky"):
            probed(trajectory(), data(), folder=tmp_path, seed=13)
        assert len(calls) == count
    assert not list(tmp_path.glob("robustness-*"))


def test_a_half_written_result_is_measured_again(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    _, path = probed(trajectory(), data(), folder=tmp_path)
    (path / "manifest.json").unlink()
    result, again = probed(trajectory(), data(), folder=tmp_path)
    assert (again, len(calls)) == (path, 2)
    assert calls[1]["resume"] == path / "unfinished"
    pd.testing.assert_frame_equal(RobustnessResult.load(path).frame, result.frame)


def test_find_tells_what_would_be_found_and_writes_nothing(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    folder = tmp_path / "results"
    assert find(trajectory(), data(), folder=folder, draws=0) is None
    assert not folder.exists()
    _, path = probed(trajectory(), data(), folder=folder, draws=0)
    assert find(trajectory(), data(), folder=str(folder), draws=0) == path
    for run, part, options in [
        (trajectory(2), data(), {"draws": 0}),
        (trajectory(), data(1), {"draws": 0}),
        (trajectory(), data(), {"draws": 1}),
    ]:
        assert find(run, part, folder=folder, **options) is None
    assert find(trajectory(), data(), folder=tmp_path, draws=0) is None
    (path / "manifest.json").unlink()
    assert find(trajectory(), data(), folder=folder, draws=0) is None
    with pytest.raises(NetopsyError, match="expected a function or class that a module holds under its name"):
        find(trajectory(factory=lambda: NET()), data(), folder=folder)
    assert len(calls) == 1
