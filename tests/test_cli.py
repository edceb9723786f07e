"""The command line, in process: what it prints, writes and returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from rich.progress import Progress as Bars

import netopsy
from netopsy._checks import NetopsyError
from netopsy.cli import _pace, main
from netopsy.network.groups import fcn_groups
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.store.keyed import Progress
from netopsy.studies import demo, layers, layers_pictures
from netopsy.studies.layers_settings import PRESETS
from tests.test_studies import tiny


def test_demo_from_training_to_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("test: error after each edit; the trained network: ")
    for row in ("hidden.0", "hidden.1", "hidden.2", "classifier", "layers 2, 3, 4", "full model"):
        assert f"\n{row} " in printed
    assert printed.count("• ") == 3
    assert "FCN 3×256 on digits: test error " in printed
    files = [Path(line.split("  ")[-1].strip()) for line in printed.splitlines() if str(out) in line]
    assert len(files) == 6
    assert all(file.exists() for file in files)
    assert {path.name for path in (out / "pictures").iterdir()} == {
        "heatmap.png",
        "curves.png",
        "distances.png",
        "depth.png",
    }
    result = RobustnessResult.load(out / "result")
    assert str(result) in printed
    assert set(result.frame.checkpoint.dropna()) == {0, 1}
    assert result.frame.draw.max() == 4

    assert main(["demo", "--out", str(out), "--epochs", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: output folder {out}: it exists and is not empty; choose another path")
    assert "--overwrite" in error


def test_a_later_demo_replaces_one_of_other_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Probed(Exception):
        pass

    def probe(*args: Any, **options: Any) -> None:
        raise Probed

    monkeypatch.setattr(demo, "robustness", probe)
    for epochs, kept in [(2, ["0", "1", "2"]), (1, ["0", "1"])]:
        with pytest.raises(Probed):
            demo.run(tmp_path, epochs=epochs, overwrite=True)
        assert sorted(path.stem for path in (tmp_path / "run" / "checkpoints").iterdir()) == kept


def test_study_prints_verdicts_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def touch(picture: Axes, path: Path) -> Path:  # drawing is tested here, writing with the plots
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    monkeypatch.setattr(layers_pictures, "save", touch)
    monkeypatch.setitem(PRESETS, "laptop", {"fcn3": tiny()})
    assert main(["study", "layers", "--claims", "F1a", "--out", str(tmp_path / "layers")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("layers/F1a (Fig. 1a): ")
    pictures = [Path(line) for line in shown.out.splitlines() if line.endswith(".png")]
    assert len(pictures) == 4 + len(fcn_groups("abcd"))
    assert all(path.is_file() for path in pictures)
    assert (tmp_path / "layers" / "verdicts" / "F1a.parquet").is_file()


def test_options_of_a_study_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def run(folder: Path, **options: Any) -> layers.Study:
        options.pop("report")("layers-f2", Progress(done=1, failed=1, total=2, rate=0.5, left=2.0))
        given.update(options, folder=folder)
        return layers.Study(verdicts={}, results={}, tables={})

    monkeypatch.setattr(layers, "run", run)
    options = ["--claims", "F2", "T1", "--seeds", "3", "4", "--jobs", "2", "--retry", "--out", str(tmp_path)]
    assert main(["study", "layers", *options]) == 0
    assert given == {
        "folder": tmp_path, "preset": "laptop", "claims": ("F2", "T1"), "seeds": (3, 4), "jobs": 2, "retry": True,
    }  # fmt: skip


def test_the_pace_of_a_sweep_is_shown() -> None:
    progress = Bars(disable=True)
    tell = _pace(progress)
    tell("layers-f2", Progress(done=1, failed=0, total=9, rate=0.5, left=2.0))
    tell("layers-f2", Progress(done=4, failed=1, total=9, rate=0.5, left=2.0))
    tell("layers-t1", Progress(done=0, failed=0, total=3, rate=12.0, left=None))
    first, second = progress.tasks
    assert (first.description, first.completed, first.total) == ("layers-f2, 30/min, 1 failed", 4, 9)
    assert (second.description, second.completed, second.total) == ("layers-t1, 12/s", 0, 3)


def test_bad_values_exit_with_2_and_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--epochs", "0"]) == 2
    assert capsys.readouterr().err == "error: epochs: expected an integer >= 1; got 0\n"
    assert not (tmp_path / "demo").exists()
    assert main(["study", "layers", "--claims", "F99", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: claim: expected one of 'F1a', 'F4', 'F6', 'F2', 'T1'; got 'F99'\n"


def test_an_error_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    message = "site qkv.weight[/red]: " + "a long line [bold]" * 10

    def fail(*args: Any, **options: Any) -> None:
        raise NetopsyError(message)

    monkeypatch.setattr(demo, "run", fail)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_an_interruption_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "interrupted; what was written stays\n"  # a demo begins anew
    monkeypatch.setattr(layers, "run", interrupt)
    assert main(["study", "layers"]) == 130
    assert "and the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--speed", "9"],
        ["demo", "--data", "mnist"],
        ["study", "atoms"],
        ["train"],
        ["train", "run", "--epochs", "0"],
        ["train", "run", "--lr", "fast"],
        ["train", "run", "--patience", "2", "--target-loss", "0.1"],
        ["inspect", "run", "--stop", "soon"],
        ["inspect", "run", "other"],
        ["fly"],
        [],
    ],
    ids=str,
)
def test_unknown_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out + shown.err != ""


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{netopsy.__version__}\n"
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown
        for word in ("demo", "train", "inspect", "plan", "sweep", "study", "version", "A biopsy of a neural network")
    )
