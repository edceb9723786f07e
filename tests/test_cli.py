"""The command line, in process: what it prints, writes and returns."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from matplotlib.axes import Axes
from rich.progress import Progress as Bars

import netopsy
from netopsy._checks import NetopsyError
from netopsy._cli_heatmap import heatmap
from netopsy._cli_options import FIT, Training
from netopsy._cli_output import bars, errors, is_watched, pace, print_json, say, task
from netopsy._cli_parse import COMMANDS
from netopsy.cli import main
from netopsy.data.dataset import standardize, subset
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.network.groups import fcn_groups
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.store.keyed import Progress
from netopsy.studies import demo, layers, layers_pictures
from netopsy.studies.layers_settings import PRESETS
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit
from tests.test_studies import tiny


def test_demo_from_training_to_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("test: error after each edit; the trained network: ")
    for row in ("hidden.0", "hidden.1", "hidden.2", "classifier", "layers 2, 3, 4", "full model"):
        assert f"\n{row} " in printed
    assert printed.count("• ") == 3
    assert "• The trained network errs on " in printed
    *_, blank, report = printed.splitlines()
    assert (blank, report) == ("", f"The report: {out / 'report.html'}")  # the sentences stand right above it
    assert "FCN 3×256 on digits" in (out / "report.html").read_text(encoding="utf-8")
    files = [Path(line.split("  ")[-1].strip()) for line in printed.splitlines()[:-1] if str(out) in line]
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
    assert error.endswith("or pass --overwrite\n")


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
    tell = pace(progress)
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
    assert capsys.readouterr().err == (
        "error: claim: expected one of 'F1a', 'F4', 'F6', 'F2', 'T1', 'T2', 'F7', 'F8', 'F9'; got 'F99'\n"
    )


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
    ("arguments", "message"),
    [
        (["demo", "--speed", "9"], "demo: unknown '--speed'; did you mean --seed?"),
        (["inspect", "run", "--chekpoints=all"], "inspect: unknown '--chekpoints'; did you mean --checkpoints"),
        (["train", "run", "--validation-shares", "1"], "train: unknown '--validation-shares'; did you mean --valida"),
        (["demo", "--zzz"], "demo: unknown '--zzz'; see netopsy demo --help"),
        (["inspect", "run", "other"], "inspect: unknown 'other'; see netopsy inspect --help"),
        (["train", "run", "--epochs", "0"], "epochs: expected an integer >= 1; got 0"),
        (["train", "run", "--keep", "40"], "keep: expected epochs from 0 to 30; got also 40"),
        (["train", "run", "--patience", "2", "--target-loss", "0.1"], "patience: expected None with target_loss or "),
        (
            ["insepct"],
            "command: expected one of demo, train, inspect, plan, report, compare, match, sweep, study, version; got "
            "'insepct'; did you mean inspect",
        ),
        (["fly"], "command: expected one of demo, train, inspect"),
    ],
    ids=str,
)
def test_unknown_words_and_bad_training_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {message}")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--data", "mnist"],
        ["study", "atoms"],
        ["train"],
        ["train", "run", "--lr", "fast"],
        ["train", "run", "--patience", "None"],
        ["inspect", "run", "--stop", "soon"],
        ["--json"],
    ],
    ids=str,
)
def test_values_that_cannot_be_read_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out + shown.err != ""
    assert "dummy" not in shown.err


def test_no_words_at_all_get_a_short_welcome(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("A biopsy of a neural network")
    assert "netopsy demo " in shown.err
    assert len(shown.err.splitlines()) < 15


def test_messages_name_the_option_and_not_python_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise NetopsyError("pass overwrite=True (--overwrite), dry_run=True, or resume=True; overwrite=False")

    monkeypatch.setattr("netopsy.commands.train.train", fail)
    assert main(["train", "run"]) == 2
    assert capsys.readouterr().err == "error: pass --overwrite, --dry-run, or resume=True; overwrite=False\n"


def test_the_command_line_has_every_option_of_training_and_its_default() -> None:
    assert [field.name for field in fields(Training)] == [field.name for field in fields(FitConfig)]
    assert FitConfig(**asdict(Training())) == FIT
    hints = get_type_hints(FitConfig)
    assert get_type_hints(Training) == hints


def test_json_has_no_numbers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [float("-inf"), 1.5, {3: Path("x")}], "c": (True, None)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5, {"3": "x"}], "c": [True, None]}


def test_a_bar_takes_the_place_of_what_was_said_until_it_is_full() -> None:
    progress = Bars(disable=True)
    say(progress, "reading")
    say(progress, "planning")
    assert [shown.description for shown in progress.tasks] == ["planning"]
    tell = task(progress, "probing")
    tell(1, 3)
    assert [(shown.description, shown.completed, shown.total) for shown in progress.tasks] == [("probing", 1, 3)]
    tell(3, 3)
    assert [shown.description for shown in progress.tasks] == ["probing", "going on"]
    tell(1, 3)
    assert [(shown.description, shown.completed) for shown in progress.tasks] == [("probing", 1)]


def test_nothing_is_drawn_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes a pipe for a terminal
    console = errors()
    assert console.is_terminal
    assert not is_watched(console)
    assert bars(console).disable


def test_the_colored_table_is_the_plain_one(trained: RobustnessResult) -> None:
    for width in (200, 44, 10):
        lines = list(heatmap(trained, width))
        plain = str(trained).splitlines()
        assert str(lines[0]) == plain[0]
        assert [str(line) for line in lines[-len(trained.notes()) :]] == trained.notes()
        notes = len(trained.notes())
        words = [word for line in lines[1 : -notes - 1] for word in str(line).split() if "%" in word]
        expected = [word for line in plain[1:-notes] for word in line.split() if "%" in word]
        assert sorted(words) == sorted(expected)
        if width == 200:
            table = [str(line).split() for line in lines[1 : 2 + trained.frame.site.nunique()]]
            assert table == [line.split() for line in plain[1 : 1 + len(table)]]
        assert width < 40 or max(len(str(line)) for line in lines[1 : -len(trained.notes())]) <= width


def test_worse_cells_are_darker(trained: RobustnessResult) -> None:
    shades = {}
    for line in heatmap(trained, 200):
        for span in line.spans:
            word = str(line)[span.start : span.end].strip()
            background = getattr(span.style, "bgcolor", None)
            if background is not None and "%" in word:
                shades[float(word.rstrip("!~?≠=%"))] = sum(background.triplet)
    assert len(shades) > 4
    ordered = [shades[value] for value in sorted(shades)]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[0] > 450 > 250 > ordered[-1]


@pytest.fixture(scope="module")
def trained() -> RobustnessResult:
    data = subset(standardize(digits()), train=400, test=60)
    config = FitConfig(epochs=3, batch_size=32, lr=0.05)
    factory = partial(fcn, inputs=64, classes=10, depth=2, width=32)
    run = fit(factory, data.train, config)
    trajectory = netopsy.Trajectory.from_states(factory, run.states)
    return robustness(trajectory, {"test": data.test}, checkpoints="all", draws=3)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{netopsy.__version__}\n"
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in (*COMMANDS, "A biopsy of a neural network"))
