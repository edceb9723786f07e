"""The result of the robustness probe: saved and read, printed, drawn."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy._typing import Key
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from tests import zoo


@cache
def made(*keys: Key) -> RobustnessResult:
    with forked(3):
        states: dict[Key, Any] = {key: zoo.mlp().state_dict() for key in keys}
        x, y = torch.randn(30, 6), torch.randint(0, 3, (30,))
    return robustness(
        Trajectory.from_states(zoo.mlp, states, initial=keys[0]),
        {"train": (x, y), "test": (x[:9], y[:9])},
        checkpoints="all",
        draws=2,
        groups={"both ends": ["0", "4"]},
        full_model=True,
        engine="eager",
    )


@pytest.mark.parametrize("keys", [(0, 2, 5), ("start", "end"), (0, "final")], ids=str)
def test_saved_and_read_it_is_the_same(keys: tuple[Key, ...], tmp_path: Path) -> None:
    result = made(*keys)
    assert result.save(tmp_path / "result") == tmp_path / "result"
    again = RobustnessResult.load(tmp_path / "result")
    pd.testing.assert_frame_equal(again.frame, result.frame, check_exact=True)
    pd.testing.assert_frame_equal(again.distances, result.distances, check_exact=True)
    assert again.groups == result.groups == {"both ends": ("0", "4")}
    assert again.provenance == result.provenance
    assert str(again) == str(result)
    assert [type(key) for key in again.frame.checkpoint] == [type(key) for key in result.frame.checkpoint]


def test_a_module_s_result_is_saved_too(tmp_path: Path) -> None:
    x, y = torch.randn(9, 6), torch.randint(0, 3, (9,))
    result = robustness(zoo.mlp(), (x, y), checkpoints=(), engine="eager")
    again = RobustnessResult.load(str(result.save(str(tmp_path / "result"))))
    pd.testing.assert_frame_equal(again.frame, result.frame, check_exact=True)
    pd.testing.assert_frame_equal(again.distances, result.distances, check_exact=True)


def test_an_output_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(NetopsyError, match="exists and is not empty; choose another path or pass overwrite=True"):
        made(0, 5).save(tmp_path)
    made(0, 5).save(tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "x"
    assert RobustnessResult.load(tmp_path).groups == {"both ends": ("0", "4")}


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"it has no results.parquet, distances.parquet, manifest.json"):
        RobustnessResult.load(tmp_path)
    folder = made(0, 5).save(tmp_path / "a")
    (folder / "distances.parquet").unlink()
    with pytest.raises(NetopsyError, match=r"it has no distances.parquet$"):
        RobustnessResult.load(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("manifest.json", "{", "expected JSON written by netopsy"),
        ("manifest.json", "{}", "it has no schema version"),
        ("manifest.json", json.dumps({"schema": 99}), "written with schema 99, .* upgrade netopsy"),
        ("manifest.json", json.dumps({"schema": 1, "finished": True}), "its manifest is of something else"),
        ("results.parquet", "PAR1", "expected a Parquet file written by netopsy"),
        ("distances.parquet", "", "expected a Parquet file written by netopsy"),
    ],
)
def test_a_damaged_result_is_refused(file: str, content: str, message: str, tmp_path: Path) -> None:
    folder = made(0, 5).save(tmp_path / "result")
    (folder / file).write_text(content)
    with pytest.raises(NetopsyError, match=message):
        RobustnessResult.load(folder)


def test_a_newer_table_is_refused(tmp_path: Path) -> None:
    folder = made(0, 5).save(tmp_path / "result")
    frame = pd.read_parquet(folder / "results.parquet")
    frame.attrs["schema"] = 99
    frame.to_parquet(folder / "results.parquet")
    with pytest.raises(NetopsyError, match="written with schema 99"):
        RobustnessResult.load(folder)


def test_it_prints_as_a_table_with_sites_as_rows() -> None:
    text = str(made(0, 2, 5))
    lines = text.splitlines()
    assert lines[0].startswith("train: error after each edit; the trained network: ")
    assert lines[0].endswith("n = 30")
    assert lines[1].split() == ["0", "2", "5", "re-rand"]
    assert [line.split()[0] for line in lines[2:6]] == ["0", "2", "4", "both"]
    assert lines[6].startswith("full model")
    assert lines[2].split()[3].endswith("%=")
    assert "at most 0.05, intervals at 99% for all rows at once (population)." in text
    assert f"{(made(0, 2, 5).frame.verdict == 'undecided').sum()} rows undecided" in text


def synthetic(verdicts: list[str], **provenance: Any) -> RobustnessResult:
    """One site re-randomized, a draw a verdict."""
    n = len(verdicts) + 1
    frame = pd.DataFrame(
        {
            "site": pd.array([None, *["a"] * (n - 1)], dtype="string"),
            "operation": pd.array(["baseline", *["re-randomize"] * (n - 1)], dtype="string"),
            "checkpoint": pd.array([None] * n, dtype="Int64"),
            "draw": pd.array([None, *range(n - 1)], dtype="Int64"),
            "split": pd.array(["data"] * n, dtype="string"),
            "error": [0.1, *[0.5] * (n - 1)],
            "delta_error": [0.0, *[0.4] * (n - 1)],
            "n": [100] * n,
            "status": pd.array(["ok"] * n, dtype="string"),
            "verdict": pd.array([None, *verdicts], dtype="string"),
        }
    )
    known = {
        "tolerance": 0.05,
        "confidence": 0.999,
        "estimand": "population",
        "splits": {"data": {"engine_reasons": ["no export"]}},
    }
    return RobustnessResult(frame, pd.DataFrame(), {}, {**known, **provenance})


@pytest.mark.parametrize(
    ("verdicts", "mark"),
    [
        (["robust"], " "),
        (["critical"] * 2, "!"),
        (["between"], "~"),
        (["undecided"], "?"),
        (["robust", "critical"], "≠"),
    ],
)
def test_marks_tell_the_verdict(verdicts: list[str], mark: str) -> None:
    text = str(synthetic(verdicts))
    assert text.splitlines()[2] == f"a  50.00%{mark}"
    assert "intervals at 99.9% for all" in text
    assert text.endswith("data: run by the eager engine: no export")


@pytest.mark.parametrize("kind", ["heatmap", "curves", "depth", "distances"])
@pytest.mark.parametrize("keys", [(0, 2, 5), ("start", "end"), (0, "final")], ids=str)
def test_pictures_leave_groups_out_where_depth_is_an_axis(kind: Any, keys: tuple[Key, ...]) -> None:
    result = made(*keys)
    ax = result.plot(kind=kind)
    assert isinstance(ax, Axes)
    names = {label.get_text() for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()}
    assert {"0", "2", "4"} <= names
    assert ("both ends" in names) == (kind == "heatmap")
    if kind == "distances":
        assert "full model" not in names


def test_a_picture_goes_where_it_is_told_and_takes_options() -> None:
    mine = made(0, 2, 5).plot().figure.subplots()  # type: ignore[union-attr]
    assert made(0, 2, 5).plot(mine, metric="loss", split="test") is mine
    assert "checkpoint 2" in legend(made(0, 2, 5).plot(kind="depth", checkpoint=2))
    assert "re-randomized" in legend(synthetic_depth().plot(kind="depth"))


def legend(ax: Axes) -> str:
    found = ax.get_legend()
    assert found is not None
    return found.get_title().get_text()


def synthetic_depth() -> RobustnessResult:
    x, y = torch.randn(9, 6), torch.randint(0, 3, (9,))
    return robustness(zoo.mlp(), (x, y), checkpoints=(), engine="eager")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_picture_is_refused() -> None:
    with pytest.raises(NetopsyError, match="kind: expected one of 'heatmap', 'curves', 'distances', 'depth'"):
        made(0, 5).plot(kind="pie")  # type: ignore[arg-type]


def test_a_frame_handed_out_is_a_copy() -> None:
    frame = made(0, 5).to_frame()
    frame["n"] = -1
    assert (made(0, 5).frame.n > 0).all()


def test_nn_module_alone_has_no_distances_to_draw() -> None:
    with pytest.raises(NetopsyError, match="expected at least one row of layer distances"):
        robustness(
            nn.Sequential(nn.Linear(6, 3)), (torch.randn(9, 6), torch.zeros(9).long()), checkpoints=(), engine="eager"
        ).plot(kind="distances")
