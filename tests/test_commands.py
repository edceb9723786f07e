"""train, inspect, plan and sweep: what they do, find again, refuse, and never run because a file says so."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

from netopsy._checks import NetopsyError
from netopsy._identity import canonical
from netopsy._storage import read_json, read_table, write_json
from netopsy.cli import main
from netopsy.commands import compare as comparing
from netopsy.commands import inputs, probes, sweeps, unit_probes
from netopsy.commands import inspect as inspecting
from netopsy.commands import report as reporting
from netopsy.commands import train as training
from netopsy.data.digits import digits
from netopsy.engine import graph
from netopsy.models.alexnet import alexnet_small
from netopsy.models.fcn import fcn
from netopsy.models.inits import Normal
from netopsy.models.resnet import ResNet
from netopsy.models.vgg import VGG
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.store import probed as probed_module
from netopsy.training import resume
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit

MINE = """
from dataclasses import dataclass
import torch
from torch import nn
from netopsy.data.dataset import standardize, subset
from netopsy.data.digits import digits
from netopsy.store.axes import grid
from netopsy.store.sweep import Sweep

number = 3

def factory(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def sized(width):
    return factory(width)

def small():
    return subset(standardize(digits()), train=120, test=40)

def pair():
    return small().train

def two():
    return small().train, small().test

def mapping():
    return {"train": small().train, "test": small().test}

def batches():
    (x, y), _ = small().test, None
    return [(x[:20], y[:20]), (x[20:], y[20:])]

def strange():
    return 3.5

@dataclass(frozen=True, kw_only=True)
class Point:
    number: int = 0

def measure(config, runs):
    if config.number == 2:
        raise KeyError("no such layer")
    return {"square": config.number**2}

SWEEP = Sweep(name="squares", base=Point(), measure=measure, axes=(grid({"number": tuple(range(7))}),))

def sweep():
    return SWEEP
"""

ROBUST = ["--probes", "robustness"]
SMALL = ["--width", "4", "--depth", "2", "--epochs", "2", "--batch-size", "256"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with somebody's module `mine` in it."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture(autouse=True)
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that a report was asked of; the page is tested with the report."""
    asked: list[Path] = []

    def report(runs: Sequence[Path], *, out: Path | None = None) -> reporting.Reported:
        asked.extend(runs)
        return reporting.Reported(path=out or runs[0] / "report.html", sentences=("All is well.", "Or so."))

    monkeypatch.setattr(reporting, "report", report)
    return asked


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn; writing them is tested with the plots."""

    def touch(picture: object, path: Path) -> Path:
        path.touch()
        return path

    monkeypatch.setattr(probes, "save", touch)
    monkeypatch.setattr(unit_probes, "save", touch)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A run of one of netopsy's own models, on digits."""
    shutil.copytree(trained_run, tmp_path / "run")
    return tmp_path / "run"


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def opened_run(run: Path, out: Path) -> probes.Subject:
    return inspecting.subject(run, model=None, init=None, final=None, data=None, out=out)


ASKED: dict[str, Any] = {
    "sites": "modules", "checkpoints": (0,), "draws": 1, "stop": "exact", "precision": 0.02, "tolerance": 0.05,
    "seed": 0, "epsilon": None,
}  # fmt: skip


def robust(capsys: pytest.CaptureFixture[str]) -> Any:
    """What `inspect --json` says of robustness."""
    return output(capsys)["probes"]["robustness"]


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that is refused says."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    return shown.err.removeprefix("error: ").strip()


# train


def test_train_writes_a_run_finds_it_and_refuses_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", str(tmp_path / "new" / "run"), *SMALL, "--json"]
    assert main(command) == 0
    first = output(capsys)
    history = read_table(tmp_path / "new" / "run" / "history.parquet")
    assert first["checkpoints"] == [0, 1, 2]
    assert (first["stopped"], first["epoch"], first["epochs"]) == ("epochs", 2, 2)
    assert first["validation_error"] == history.validation_error.iloc[-1]
    assert first["seconds"] == history.seconds.sum()
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "new").rglob("*.*"))
    heard: list[int] = []
    monkeypatch.setattr("netopsy.cli.task", lambda progress, what: lambda done, total: heard.append(done))
    assert main(command) == 0
    assert (output(capsys), heard) == (first, [])  # nothing was trained
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "new").rglob("*.*")) == before
    refused = error(capsys, *command, "--lr", "0.5", "--seed", "3")
    assert "lr was 0.02, is 0.5; seed was 0, is 3" in refused
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "new").rglob("*.*")) == before


def test_train_prints_numbers_for_the_eye(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "run"), "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["model                FCN", "parameters           150,794"]
    assert main(["train", str(tmp_path / "run"), *SMALL]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["folder", str(tmp_path / "run")]
    assert "lr                0.02" in shown


def test_an_interrupted_training_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    command = [*SMALL[:4], "--epochs", "4", "--batch-size", "256"]
    heard: list[int] = []

    def interrupt(progress: object, what: str) -> Callable[[int, int | None], None]:
        def advance(done: int, total: int | None) -> None:
            heard.append(done)
            if heard == [1, 2]:
                raise KeyboardInterrupt

        return advance

    monkeypatch.setattr("netopsy.cli.task", interrupt)
    assert main(["train", str(tmp_path / "a"), *command]) == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "interrupted; what was written stays, and the same command goes on from there\n"
    assert not read_json(tmp_path / "a" / "manifest.json")["finished"]
    assert main(["train", str(tmp_path / "a"), *command]) == 0
    assert heard == [1, 2, 3, 4]
    assert main(["train", str(tmp_path / "b"), *command]) == 0
    for epoch in range(5):
        one, other = (load_file(tmp_path / name / "checkpoints" / f"{epoch}.safetensors") for name in "ab")
        assert all(torch.equal(one[name], other[name]) for name in other)
        assert one.keys() == other.keys()
    resumed, whole = (read_table(tmp_path / name / "history.parquet").drop(columns="seconds") for name in "ab")
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_training_that_begins_anew_does_not_promise_to_go_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    assert main(["train", str(run), "--overwrite"]) == 130
    assert capsys.readouterr().err == "interrupted; what was written stays\n"


def test_overwrite_replaces_a_longer_run_but_not_for_bad_options(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = [*SMALL[:4], "--epochs", "1", "--batch-size", "256", "--overwrite"]
    assert "site 'nosuch'" in error(capsys, "train", str(run), *one, "--frozen", "nosuch")
    assert "removed: 'nosuch'" in error(capsys, "train", str(run), *one, "--removed", "nosuch")
    assert len(list((run / "checkpoints").iterdir())) == 3
    assert main(["train", str(run), *one, "--json"]) == 0
    assert output(capsys)["checkpoints"] == [0, 1]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"0.safetensors", "1.safetensors"}


def test_two_processes_do_not_train_in_one_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with training._sole_trainer(run):
        assert error(capsys, "train", str(run), *SMALL).endswith(
            "another process is training there; wait for it, or choose another folder"
        )
    assert main(["train", str(run), *SMALL]) == 0


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_dry_run_of_train_writes_nothing(own: Path, extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in own.iterdir()} | {"__pycache__"}
    options = ["--model", "mine:factory", "--data", "mine:mapping", "--batch-size", "50", "--epochs", "3"]
    assert main(["train", "runs/x", *options, "--frozen", "1", "--keep", "1", "--dry-run", *extra]) == 0
    assert {path.name for path in own.iterdir()} | {"__pycache__"} == before
    if extra:
        planned = output(capsys)
        assert planned == {
            "model": "Sequential",
            "parameters": 64 * 4 + 4 + 4 * 10 + 10,
            "trained_parameters": 4 * 10 + 10,
            "train_examples": 120,
            "validation_examples": 40,
            "epochs": 3,
            "steps": 3 * 3,
            "checkpoints": 3,
            "checkpoint_bytes": 3 * 4 * 310,
        }


def test_a_dry_run_counts_what_training_uses(tmp_path: Path) -> None:
    config = FitConfig(epochs=2, batch_size=64, lr=0.05, validation_share=0.13)
    planned = training.planned(config, model="fcn", depth=1, width=4.0, data="digits")
    run = fit(partial(fcn, inputs=64, classes=10, depth=1, width=4), digits().train, config, folder=tmp_path / "run")
    assert planned["train_examples"] + planned["validation_examples"] == 1437
    sizes = {name: path.stat().st_size for name, path in run.states.items()}  # type: ignore[union-attr]
    assert planned["checkpoints"] == len(sizes)
    assert planned["checkpoint_bytes"] == pytest.approx(sum(sizes.values()), rel=0.4)
    assert planned["checkpoint_bytes"] < sum(sizes.values())  # which have headers


def test_options_of_training_reach_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--frozen",
        "hidden.0",
        "--removed",
        "activation.1",
        "--patience",
        "1",
        "--monitor",
        "validation_error",
    ]
    more = ["--label-noise", "0.1", "--lr-drops", "1", "--optimizer", "adam", "--validation-share", "0.2"]
    assert main(["train", str(tmp_path / "a"), *SMALL, *options, *more, "--json"]) == 0
    shown = output(capsys)
    manifest = read_json(tmp_path / "a" / "manifest.json")
    expected = {
        "frozen": ["hidden.0"], "removed": ["activation.1"], "patience": 1, "monitor": "validation_error",
        "label_noise": 0.1, "lr_drops": [1], "optimizer": "adam", "validation_share": 0.2, "target_loss": None,
    }  # fmt: skip
    assert {name: manifest["config"][name] for name in expected} == expected
    assert manifest["about"] == {"data": "digits", "model": "fcn"}
    assert shown["epoch"] == max(manifest["keys"])  # the best one, whatever came after it
    states = [load_file(tmp_path / "a" / "checkpoints" / f"{key}.safetensors") for key in (0, shown["epoch"])]
    assert torch.equal(*(state["hidden.0.weight"] for state in states))
    assert main(["train", str(tmp_path / "b"), *SMALL, "--target-loss", "50", "--json"]) == 0
    stopped = output(capsys)
    assert (stopped["stopped"], stopped["epochs"], stopped["checkpoints"]) == ("target", 1, [0, 1])


def test_own_model_and_data_are_trained_and_inspected(
    own: Path, unsaved: None, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--model", "mine:factory", "--data", "mine:two"]
    assert main(["train", "runs/x", *named, "--epochs", "1", "--keep", "0", "--json"]) == 0
    assert output(capsys)["checkpoints"] == [0, 1]
    assert error(capsys, "inspect", "runs/x") == (
        "runs/x: only netopsy's own models and data are loaded because a folder says so; pass --model "
        "pkg.mod:factory (it was mine:factory) and --data NAME or pkg.mod:loader (it was mine:two)"
    )
    assert error(capsys, "inspect", "runs/x", *named[:2]).endswith(
        "pass --data NAME or pkg.mod:loader (it was mine:two)"
    )
    assert main(["inspect", "runs/x", *ROBUST, *named, "--json"]) == 0
    rows = robust(capsys)["rows"]
    assert {row["split"] for row in rows} == {"test"}
    assert {row["n"] for row in rows} == {40}
    assert [row["site"] for row in rows] == [None, "1", "1", "3", "3"]


# what inputs.py refuses


REFUSED: list[tuple[list[str], str]] = [
    (
        ["--model", "fnc"],
        "model: expected one of fcn, vgg, resnet, or pkg.mod:factory; got 'fnc'; did you mean fcn?",
    ),
    (["--data", "digit"], "data: expected one of digits, fashion-mnist, mnist, cifar10, cifar100, or "),
    (["--data", "digit"], "got 'digit'; did you mean digits?"),
    (["--model", "mine:"], "model: expected pkg.mod:name, a name in a module that can be imported; got 'mine:'"),
    (["--model", ":factory"], "expected pkg.mod:name, a name in a module that can be imported; got ':factory'"),
    (["--model", "mine:factroy"], "model: module 'mine' has no 'factroy'; did you mean factory?"),
    (["--model", "nowhere.at:all"], "model: cannot import 'nowhere.at': ModuleNotFoundError: No module named"),
    (["--data", "broken:data"], "data: cannot import 'broken': ModuleNotFoundError: No module named 'nothing_of"),
    (["--model", "mine:number"], "expected mine:number to be a function without arguments; it is int; name a "),
    (["--data", "mine:number"], "data: expected mine:number to be a function without arguments; it is int"),
    (["--model", "mine:sized"], "it has others (missing a required argument: 'width'); name a function that bin"),
    (["--data", "mine:strange"], "data: expected a netopsy Dataset, a pair of tensors (inputs, labels), "),
    (["--data", "mine:strange"], "got float"),
    (["--data", "mine:batches"], "got list"),
    (["--model", "mine:factory", "--depth", "2"], "model mine:factory: --depth and --width are of built-in mod"),
    (["--model", "mine:factory", "--width", "2"], "model mine:factory: --depth and --width are of built-in mod"),
    (["--depth", "0"], "depth: expected an integer >= 1; got 0"),
    (["--width", "0"], "width: expected an integer >= 1; got 0"),
    (["--width", "2.5"], "model fcn: expected a whole number of units as width; got 2.5"),
    (["--width", "nan"], "model fcn: expected a whole number of units as width; got nan"),
    (["--width", "inf"], "model fcn: expected a whole number of units as width; got inf"),
    (["--model", "resnet", "--width", "nan"], "width: expected a number in "),
    (["--model", "resnet", "--depth", "19"], "model resnet: expected a depth of 18, 34, 50, 101, 152; got 19"),
    (["--model", "resnet", "--depth", "0"], "model resnet: expected a depth of 18, 34, 50, 101, 152; got 0"),
    (["--model", "vgg", "--depth", "12"], "model vgg: expected a depth of 11, 13, 16, 19; got 12"),
    (["--model", "os:getcwd"], "factory: expected a function that returns a torch.nn.Module; it returned str"),
    (["--frozen", "nosuch"], "site 'nosuch': matches no module"),
    (["--removed", "nosuch"], "removed: 'nosuch' matches no module"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [*REFUSED, *(([*arguments, "--dry-run"], message) for arguments, message in [*REFUSED[::4], *REFUSED[-2:]])],
    ids=str,
)  # a dry run reads and builds by the same functions
@pytest.mark.usefixtures("unchecked")
def test_bad_names_and_sizes_are_refused_before_anything_is_written(
    own: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error(capsys, "train", str(own / "run"), *arguments, "--epochs", "1")
    assert not (own / "run").exists()


def test_models_take_the_data_s_size() -> None:
    images, labels = torch.zeros(2, 3, 32, 32), torch.tensor([0, 6])
    vgg = inputs.model_factory("vgg", depth=None, width=1 / 16, data=(images, labels))()
    assert isinstance(vgg, VGG)
    assert vgg.eval()(images).shape == (2, 7)
    resnet = inputs.model_factory("resnet", depth=18, width=1 / 16, data=(images, labels))()
    assert isinstance(resnet, ResNet)
    assert resnet.eval()(images).shape == (2, 7)
    with pytest.raises(
        NetopsyError, match=r"model vgg: expected images \(n, channels, height, width\); got \(2, 64\)"
    ):
        inputs.model_factory("vgg", depth=None, width=None, data=(torch.zeros(2, 64), labels))


def test_the_same_data_in_every_form(own: Path) -> None:
    (train, test), part = inputs.train_and_test(inputs.read_data("mine:small")), "mine:pair"
    assert test is not None
    for name in ("mine:two", "mine:mapping"):
        data = inputs.read_data(name)
        again, held = inputs.train_and_test(data)
        assert held is not None
        splits = inputs.probed_splits(data)
        assert list(splits) == ["test"]
        for got, want in zip((*again, *held, *splits["test"]), (*train, *test, *test), strict=True):
            assert torch.equal(got, want)
    assert inputs.train_and_test(inputs.read_data(part))[1] is None
    assert torch.equal(inputs.probed_splits(inputs.read_data(part))[0], train[0])
    batches = inputs.read_data("mine:batches")
    assert inputs.probed_splits(batches) is batches  # two batches are no two splits
    assert inputs.probed_splits({"train": train}) == {"train": train}
    assert inputs.probed_splits({"train": 0, "test": 1, "shifted": 2}) == {"test": 1, "shifted": 2}


# a manifest is data

FCN = {"call": "netopsy.models.fcn:fcn", "args": [], "kwargs": {"inputs": [1, 8, 8], "classes": 10, "width": 4}}


def test_own_models_are_restored() -> None:
    factory = inputs.recorded_factory({"factory": FCN})
    assert factory is not None
    assert factory().get_parameter("hidden.0.weight").shape == (4, 64)
    nested = {"call": "netopsy.training.removal:without", "args": [FCN, ["activation.0"]], "kwargs": {}}
    restored = inputs.recorded_factory({"factory": nested})
    assert restored is not None
    assert isinstance(restored().get_submodule("activation.0"), torch.nn.Identity)


def test_models_with_initializations_and_widths_are_restored() -> None:
    first = partial(alexnet_small, classes=3, channels=1, size=12, width=0.1, init=Normal(sigma=0.5, truncated=True))
    for factory in (
        first,
        partial(first, widths={"conv1": 0.25}),
        partial(fcn, inputs=6, classes=3, init=Normal(sigma=0.1)),
    ):
        restored = inputs.recorded_factory({"factory": json.loads(json.dumps(canonical(factory)))})
        assert isinstance(restored, partial)
        assert (restored.func, restored.args, restored.keywords) == (factory.func, factory.args, factory.keywords)
        torch.manual_seed(0)
        expected = factory().state_dict()
        torch.manual_seed(0)
        for name, value in restored().state_dict().items():
            assert torch.equal(value, expected[name])


@pytest.mark.parametrize(
    "init",
    [
        {"type": "netopsy.models.inits:Other", "fields": {"sigma": 1.0, "truncated": False}},
        {"type": "os:system", "fields": {"command": "touch hacked"}},
        {"type": "netopsy.models.inits:Normal", "fields": {"sigma": 1.0}},
        {"type": "netopsy.models.inits:Normal", "fields": {"sigma": -1.0, "truncated": False}},
        {"type": "netopsy.models.inits:Normal", "fields": {"sigma": "1", "truncated": False}},
        {"type": "netopsy.models.inits:Normal", "fields": {"sigma": 1.0, "truncated": 0}},
        {"type": "netopsy.models.inits:Normal", "fields": {"sigma": 1.0, "truncated": False, "x": 1}},
        {"type": "netopsy.models.inits:Normal"},
        {"type": ["netopsy.models.inits:Normal"], "fields": {"sigma": 1.0, "truncated": False}},
        {"conv1": "os:system"},
        {"conv1": {"call": "os:getcwd"}},
        {"conv1": True},
    ],
    ids=str,
)
def test_other_arguments_of_a_manifest_are_not_restored(init: Any) -> None:
    assert inputs.recorded_factory({"factory": {**FCN, "kwargs": {**FCN["kwargs"], "init": init}}}) is None  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "described",
    [
        {"call": "os:system", "args": ["touch hacked"]},
        {"call": "posix:system", "args": ["touch hacked"]},
        {"call": "builtins:eval", "args": ["1"]},
        {"call": "netopsy.models.fcn:os.system", "args": ["touch hacked"]},
        {"call": "netopsy.models.fcn:fcn.__globals__"},
        {"call": "netopsy.models.fcn:__builtins__"},
        {"call": "netopsy.models.fcn:__loader__"},
        {"call": "netopsy.models.fcn:_private"},
        {"call": "netopsy.models.fcn:math", "args": []},
        {"call": "netopsy.models.fcn:nn"},
        {"call": "netopsy.models.fcn:initialize"},
        {"call": "netopsy.models.resnet.os:system", "args": ["touch hacked"]},
        {"call": "netopsy.models.:system"},
        {"call": "netopsy.models./tmp/evil:run"},
        {"call": "netopsy.models.nothing:fcn"},
        {"call": "netopsy.models_evil:run"},
        {"call": "xnetopsy.models.fcn:fcn"},
        {"call": "netopsy.models.fcn:fcn\n"},
        {"call": "netopsy.training.removal:freeze", "args": [FCN, ["hidden"]]},
        {"call": "netopsy.training.removal:torch.load", "args": ["evil.pt"]},
        {"call": "netopsy.training.removal:without", "args": [{"call": "os:getcwd"}, ["x"]]},
        {"call": "netopsy.training.removal:without", "args": [{"call": "os:getcwd", "args": []}, ["x"]]},
        {**FCN, "kwargs": {**FCN["kwargs"], "init": {"call": "os:getcwd"}}},  # type: ignore[dict-item]
        {**FCN, "kwargs": {"widths": 3}},
        {**FCN, "kwargs": [["inputs", 64]]},
        {**FCN, "args": "abc"},
        {**FCN, "args": {"0": 64}},
        {"call": ["netopsy.models.fcn:fcn"]},
        {"type": "netopsy.models.fcn:FCN"},
        "netopsy.models.fcn:fcn",
        ["netopsy.models.fcn:fcn"],
        3,
        None,
    ],
    ids=str,
)
def test_a_hostile_manifest_makes_us_call_nothing(
    run: Path,
    own: Path,
    described: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def called(*args: Any) -> None:
        raise AssertionError(f"called with {args}")

    monkeypatch.setattr(os, "system", called)
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", {**manifest, "factory": described})
    assert inputs.recorded_factory({"factory": described}) is None
    assert ": only netopsy's own models and data are loaded because a folder says so" in error(
        capsys, "inspect", str(run)
    )
    assert not (own / "hacked").exists()


@pytest.mark.parametrize(
    "about", [{"data": "mine:strange"}, {"data": "os:getcwd"}, {"data": 3}, {"data": None}, {}, [], "digits", None]
)
def test_a_hostile_manifest_makes_us_load_nothing(
    run: Path, own: Path, about: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(run / "manifest.json", {**read_json(run / "manifest.json"), "about": about})
    assert "pass --data NAME or pkg.mod:loader" in error(capsys, "inspect", str(run))
    assert "mine" not in sys.modules


def test_a_foreign_or_damaged_manifest_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "manifest.json").write_text("{")
    assert "expected JSON written by netopsy" in error(capsys, "inspect", str(run))
    (run / "manifest.json").write_text('{"schema": 99}')
    assert "upgrade netopsy to read it" in error(capsys, "inspect", str(run))


# inspect and plan


@pytest.mark.usefixtures("unsaved")
def test_inspect_finds_what_it_measured_and_measures_what_it_has_not(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(run), *ROBUST, "--json"]) == 0
    first = robust(capsys)
    result = RobustnessResult.load(Path(first["files"]["result"]))
    assert set(first["files"]) == {"result", "heatmap", "curves"}
    assert all(Path(path).exists() for path in first["files"].values())
    assert [row["site"] for row in first["rows"]] == [
        None, "hidden.0", "hidden.0", "hidden.1", "hidden.1", "classifier", "classifier",
    ]  # fmt: skip
    assert [row["error"] for row in first["rows"]] == pytest.approx(list(result.frame.error), abs=1e-9)
    assert first["rows"][0]["verdict"] is None

    real, asked = robustness, list[Any]()

    def watched(trajectory: Any, data: Any, **options: Any) -> Any:
        asked.append(options)
        return real(trajectory, data, **options)

    watched.__module__, watched.__wrapped__ = real.__module__, real  # type: ignore[attr-defined]
    monkeypatch.setattr(probed_module, "robustness", watched)
    monkeypatch.setattr(probed_module, "code_version", lambda *functions: "as before")
    folders = set()
    for extra in ([], ["--sites", "hidden.*"], ["--sites", "hidden.*", "--checkpoints", "all", "--draws", "0"]):
        for _ in range(2):
            assert main(["inspect", str(run), *ROBUST, "--json", *extra]) == 0
            found = robust(capsys)
            folders.add(found["files"]["result"])
    assert len(asked) == len(folders) == 3  # each once
    keys = [row["checkpoint"] for row in found["rows"] if row["site"] == "hidden.1"]
    assert keys == [0, 1, 2]
    assert {row["operation"] for row in found["rows"]} == {"baseline", "re-initialize"}


def test_inspect_prints_a_table_and_its_files(
    run: Path, unsaved: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        *ROBUST,
        "--checkpoints",
        "0",
        "1",
        "--stop",
        "precision",
        "--precision",
        "0.5",
        "--out",
        str(tmp_path / "here"),
    ]
    assert main(["inspect", str(run), *options]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("test: error after each edit; the trained network: ")
    assert len(list((tmp_path / "here").glob("robustness-*"))) == 1
    assert f"\nresult   {tmp_path / 'here' / 'robustness-'}" in shown
    assert not (run / "results").exists()


def test_inspect_of_a_run_without_some_modules(
    tmp_path: Path, unsaved: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ReLU that was removed has no parameters: the checkpoints would fit the full network too."""
    assert main(["train", str(tmp_path / "run"), *SMALL, "--removed", "activation.*", "--json"]) == 0
    trained = output(capsys)
    assert main(["inspect", str(tmp_path / "run"), *ROBUST, "--draws", "0", "--json"]) == 0
    assert robust(capsys)["rows"][0]["error"] == pytest.approx(trained["validation_error"], abs=1e-9)
    factory = partial(fcn, inputs=64, classes=10, depth=2, width=4)
    manifest = {"factory": {}, "config": {"removed": ["activation.*"]}}
    assert isinstance(inputs.trained_factory(factory, manifest)().get_submodule("activation.1"), torch.nn.Identity)
    assert inputs.trained_factory(factory, {"config": {"removed": ["activation.*"]}}) is factory  # a Recorder's own


def test_an_interrupted_inspection_goes_on(run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sites": "modules", "checkpoints": "all", "draws": 1, "batch_size": 60}

    def inspect(out: Path, progress: Callable[[int, int | None], object]) -> RobustnessResult:
        opened = opened_run(run, out)
        return probed_module.probed(
            opened.trajectory, opened.data, folder=opened.folder, progress=progress, **options
        )[0]

    def interrupt(done: int, total: int | None) -> None:
        if done >= 240:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect(tmp_path / "a", interrupt)
    [unfinished] = (tmp_path / "a").glob("robustness-*")
    assert [path.name for path in unfinished.rglob("*.npz")] == ["robustness-0.npz"]
    heard: list[int] = []
    resumed = inspect(tmp_path / "a", lambda done, total: heard.append(done))
    assert heard == [240, 300, 360]
    whole = inspect(tmp_path / "b", lambda done, total: None)
    pd.testing.assert_frame_equal(resumed.frame, whole.frame, check_exact=True)
    assert not list((tmp_path / "a").rglob("*.npz"))


def models(folder: Path) -> Path:
    """Steps of a Hugging Face Trainer, and beside them what it does not keep: the initial weights."""
    for step in (0, 5, 10):
        torch.manual_seed(step)
        state = inputs.imported("model", "mine:factory")().state_dict()
        place = folder / f"checkpoint-{step}" if step else folder.parent / "initial"
        place.mkdir(parents=True)
        save_file(state, place / "model.safetensors")
        (place / "config.json").write_text("{}")
    return folder


@pytest.mark.usefixtures("unsaved")
def test_inspect_of_others_checkpoints(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = models(own / "hf" / "run")
    named = ["--model", "mine:factory", "--data", "mine:batches"]
    assert "pass --model pkg.mod:factory and --data NAME or pkg.mod:loader" in error(capsys, "inspect", str(folder))
    assert "no checkpoint 0 (the weights before training)" in error(capsys, "inspect", str(folder), *named)
    start = ["--init", str(own / "hf" / "initial")]
    assert main(["inspect", str(folder), *ROBUST, *named, *start, "--checkpoints", "0", "5", "--json"]) == 0
    found = robust(capsys)
    assert {row["checkpoint"] for row in found["rows"]} == {None, 0, 5}
    final = [*start, "--final", str(folder / "checkpoint-10" / "model.safetensors")]
    assert main(["inspect", *ROBUST, *named, *final, "--json"]) == 0
    both = robust(capsys)
    assert re.match(r"runs/inspected/model-[0-9a-f]{8}/robustness-", both["files"]["result"])
    at_start = [row for row in found["rows"] if row["checkpoint"] in (None, 0)]
    assert [row["error"] for row in both["rows"]] == [row["error"] for row in at_start]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "inspect: expected RUN, or --model, --init, --final and --data; missing --model, --init, --final, --data",
        ),
        (["--model", "mine:factory", "--init", "a"], "missing --final, --data"),
        (["nowhere"], "inspect: expected the folder of a run; there is no folder nowhere"),
        (["run", "--final", "x"], "expected RUN, or --model, --init, --final and --data; got RUN and --final"),
        (["run", "--sites", "hiden"], "site 'hiden': matches no module with parameters and no parameter of FCN"),
        (["run", "--checkpoints", "9"], "trajectory: no checkpoint 9; recorded are 0, 1, 2"),
        (["run", "--draws", "-1"], "draws: expected an integer >= 0; got -1"),
        (["run", "--draws", "0", "--checkpoints"], "nothing to measure"),
        (["run", "--init", "run/checkpoints/1.safetensors"], "initial: expected no checkpoint 0"),
        (["run", "--model", "mine:sized"], "model: expected mine:sized to be a function without arguments"),
        (["run", "--data", "digit"], "data: expected one of digits"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_inspect_and_plan_refuse(
    run: Path, own: Path, command: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error(capsys, command, *arguments)
    assert not [path for path in run.rglob("robustness-*") if not path.name.endswith(".lock")]


def test_plan_is_inspect_dry_run_and_writes_nothing(
    run: Path, reported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    shown = []
    for command in (["plan"], ["inspect", "--dry-run"]):
        assert main([*command, str(run), *ROBUST, "--sites", "hidden.*", "--draws", "2", "--json"]) == 0
        told = output(capsys)
        assert told["skipped"] == {}
        shown.append(told["probes"]["robustness"])
    first, second = (cost["plan"] for cost in shown)
    assert first["rows"] == second["rows"] == {"re-initialize": 2, "re-randomize": 4, "no-op": 0}
    assert first.keys() == second.keys() >= {"seconds", "peak_bytes", "forwards"}
    assert [(cost["rows"], cost["found"]) for cost in shown] == [(7, None)] * 2  # the baseline's is one
    assert main(["plan", str(run), *ROBUST]) == 0
    assert capsys.readouterr().out.startswith("robustness: which parts can go back to where they started")
    assert sorted(run.rglob("*")) == before
    assert reported == []


def test_a_plan_finds_what_was_measured(run: Path, unsaved: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run), *ROBUST, "--json"]) == 0
    measured = robust(capsys)
    assert main(["plan", str(run), *ROBUST, "--json"]) == 0
    assert robust(capsys) == {
        "rows": len(measured["rows"]), "seconds": 0.0, "found": measured["files"]["result"], "plan": None,
    }  # fmt: skip
    assert main(["plan", str(run), *ROBUST]) == 0
    assert capsys.readouterr().out.endswith(f"\nfound, nothing to do: {measured['files']['result']}\n")
    assert main(["plan", str(run), *ROBUST, "--tolerance", "0.06", "--json"]) == 0
    assert robust(capsys)["found"] is None


def test_the_plan_and_the_probe_export_once_and_change_no_bit(
    run: Path, tmp_path: Path, unsaved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[object] = []
    trace = graph._trace
    monkeypatch.setattr(graph, "_trace", lambda *args: (traced.append(args[0]), trace(*args))[1])
    frames, options = [], {**ASKED, "sites": "hidden.*"}
    for name, planned in (("alone", False), ("after a plan", True)):
        opened = opened_run(run, tmp_path / name)
        [probe], _ = inspecting.chosen(opened, ("robustness",))
        if planned:
            assert inspecting.planned(opened, (probe,), options)[probe].rows == 5
        frames.append(probe.run(opened, options, lambda done, total: None).result.frame)
    assert len(traced) == 2
    assert traced[0] is not traced[1]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_the_trained_network_is_one_and_the_others_are_new(run: Path) -> None:
    trajectory = opened_run(run, run).trajectory
    assert trajectory.model() is trajectory.model() is trajectory.model(2)
    assert trajectory.model(0) is not trajectory.model(0)
    weights = [trajectory.model(key).get_parameter("hidden.0.weight") for key in (0, 2)]
    for key, weight in zip((0, 2), weights, strict=True):
        assert torch.equal(weight, trajectory.tensor(key, "hidden.0.weight"))


def test_inspect_ends_with_a_report(
    run: Path, unsaved: None, tmp_path: Path, reported: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(run), *ROBUST]) == 0
    assert capsys.readouterr().out.endswith(f"\nreport   {run / 'report.html'}\n")
    assert main(["inspect", str(run), *ROBUST, "--out", str(tmp_path / "here"), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["report"] == str(tmp_path / "here" / "report.html")
    assert shown.err == ""
    assert reported == [run, tmp_path / "here"]


def test_what_was_measured_is_printed_though_the_report_fails(
    run: Path, unsaved: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(runs: Sequence[Path]) -> None:
        raise NetopsyError("report: no room")

    monkeypatch.setattr(reporting, "report", fail)
    assert main(["inspect", str(run), *ROBUST]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("test: error after each edit")
    assert shown.err == "error: report: no room\n"


def other(name: str, seconds: float, reason: str | None = None) -> probes.Probe:
    """A probe that does nothing."""
    found = pd.DataFrame({"site": ["a"], "value": [1.5]})

    class Result:
        def __str__(self) -> str:
            return f"table of {name}"

        def to_frame(self) -> pd.DataFrame:
            return found

    return probes.Probe(
        name=name,
        question=f"what is {name}",
        applies=lambda subject: reason,
        plan=lambda subject, options: probes.Cost(rows=1, seconds=seconds, low=seconds, high=seconds),
        run=lambda subject, options, progress: probes.Finding(
            result=Result(), sentences=(f"{name} is.",), files={"result": Path(name)}
        ),
    )


def test_probes_are_chosen_and_ordered_by_cost(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = (other("slow", 9.0), other("odd", 0.0, "it has no units"), other("quick", 2.0))
    monkeypatch.setattr(inspecting, "PROBES", known)
    assert main(["plan", str(run), "--json"]) == 0
    told = output(capsys)
    assert list(told["probes"]) == ["quick", "slow"]
    assert told["skipped"] == {"odd": "it has no units"}
    assert main(["plan", str(run)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("quick: what is quick") < shown.index("slow: what is slow") < shown.index("odd: does not ap")
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("table of slow\n\n• slow is.\n\ntable of quick\n")
    assert "\nslow result   slow\nquick result  quick\nreport" in shown
    assert main(["inspect", str(run), "--probes", "quick", "--json"]) == 0
    assert output(capsys)["probes"] == {
        "quick": {"rows": [{"site": "a", "value": 1.5}], "sentences": ["quick is."], "files": {"result": "quick"}}
    }
    assert error(capsys, "inspect", str(run), "--probes", "odd", "quick") == (
        "probes: expected probes that apply to this network; odd: it has no units"
    )
    assert error(capsys, "inspect", str(run), "--probes", "quik") == (
        "probes: expected some of slow, odd, quick; got 'quik'; did you mean quick?"
    )
    last = replace(other("joining", 1.0), after=("slow",))
    monkeypatch.setattr(inspecting, "PROBES", (last, *known))
    assert main(["plan", str(run), "--json"]) == 0
    assert list(output(capsys)["probes"]) == ["quick", "slow", "joining"]  # it adds what slow finds to its own
    assert main(["plan", str(run), "--probes", "joining", "quick", "--json"]) == 0
    assert list(output(capsys)["probes"]) == ["joining", "quick"]
    monkeypatch.setattr(inspecting, "PROBES", known[1:2])
    assert "expected probes that apply to this network; odd: it has no units" in error(capsys, "inspect", str(run))


def test_robustness_applies_to_what_has_parameters(run: Path) -> None:
    opened = opened_run(run, run)
    robustness_probe = next(probe for probe in probes.PROBES if probe.name == "robustness")
    assert robustness_probe.applies(opened) is None
    empty = Trajectory.from_states(torch.nn.Sequential(torch.nn.Flatten()), {0: {}, 1: {}})
    assert robustness_probe.applies(replace(opened, trajectory=empty)) == "the network has no parameters to reset"


# report and compare


def test_report_prints_what_it_says_and_where_it_is(reported: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "a", "b", "--out", "c.html"]) == 0
    assert capsys.readouterr().out == "• All is well.\n• Or so.\n\nc.html\n"
    assert main(["report", "a", "--json"]) == 0
    assert output(capsys) == {"sentences": ["All is well.", "Or so."], "report": "a/report.html"}
    assert reported == [Path("a"), Path("b"), Path("a")]
    assert error(capsys, "report") == "report: expected RUN…, the folders of one or more runs; got none"


def test_compare_prints_the_comparison_and_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Comparison:
        def __str__(self) -> str:
            return "a differs"

        def to_frame(self) -> pd.DataFrame:
            return pd.DataFrame({"site": ["x", None], "change": [0.5, float("nan")]})

    table = pd.DataFrame({"network": ["a"], "gap": [float("nan")]})
    asked: list[Any] = []

    class Told(SimpleNamespace):
        def __str__(self) -> str:
            return "a is complex"

    def compare(runs: Sequence[Path], *, split: str | None, sharpness: bool, out: Path | None) -> Any:
        asked.append((runs, split, sharpness, out))
        told = Told(table=table, ranking=table if sharpness else None, cautions=("Beware.",))
        return SimpleNamespace(comparison=Comparison(), measures=told, path=out or Path("runs/comparison.html"))

    monkeypatch.setattr(comparing, "compare", compare)
    assert main(["compare", "a", "b"]) == 0
    assert capsys.readouterr().out == "a differs\n\na is complex\n\nruns/comparison.html\n"
    assert main(["compare", "a", "b", "c", "--split", "test", "--sharpness", "--out", "d.html", "--json"]) == 0
    rows = [{"site": "x", "change": 0.5}, {"site": None, "change": None}]
    measures = [{"network": "a", "gap": None}]
    told = {"rows": measures, "ranking": measures, "cautions": ["Beware."]}
    assert output(capsys) == {"rows": rows, "measures": told, "comparison": "d.html"}
    a, b, c = map(Path, "abc")
    assert asked == [((a, b), None, False, None), ((a, b, c), "test", True, Path("d.html"))]
    for runs, got in (((), "none"), (("a",), "a")):
        assert error(capsys, "compare", *runs) == (
            f"compare: expected RUN RUN…, the folders of two or more runs; got {got}"
        )
    assert len(asked) == 2


# sweep


def test_a_sweep_runs_is_counted_and_tries_again_only_when_asked(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["sweep", "mine:sweep", "--jobs", "2", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        "squares: 7 tasks: 7 to do", "", *(f"number={i}" for i in range(5)), "and 2 more",
    ]  # fmt: skip
    assert not (own / "runs").exists()
    assert main(["sweep", "mine:SWEEP", "--dry-run", "--json"]) == 0
    assert output(capsys)["left"] == 7
    assert main(["sweep", "mine:sweep"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("squares: 7 tasks: 6 ok, 1 exception, 0 to do\n")
    assert "1 failed: KeyError: 'no such layer' (mine.py:" in shown
    assert shown.endswith("runs/squares/results\n")
    for command in (["status"], ["status", "runs/squares"], ["status", "runs"], ["status", "mine:sweep"]):
        assert main(["sweep", *command]) == 0
        assert capsys.readouterr().out.startswith("squares: 7 tasks: 6 ok, 1 exception, 0 to do\n")
        assert main(["sweep", *command, "--json"]) == 0
        [state] = output(capsys)
        assert (state["counts"], state["left"], state["stale"]) == ({"ok": 6, "exception": 1}, 0, 0)
    given: dict[str, Any] = {}
    monkeypatch.setattr(sweeps, "run_sweep", lambda sweep, folder, **options: given.update(options, folder=folder))
    assert main(["sweep", "mine:sweep", "--jobs", "2", "--threads", "3", "--retry", "--out", "runs/squares"]) == 0
    given.pop("progress")
    assert given == {"folder": Path("runs/squares"), "jobs": 2, "threads": 3, "retry": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "sweep: expected pkg.mod:sweep, or status [FOLDER or pkg.mod:sweep]; got nothing"),
        (
            ["mine:sweep", "runs"],
            "sweep: expected pkg.mod:sweep, or status [FOLDER or pkg.mod:sweep]; got mine:sweep",
        ),
        (["status", "a", "b"], "got status a b"),
        (["mine"], "sweep: expected pkg.mod:name, a name in a module that can be imported; got 'mine'"),
        (["mine:factory"], "sweep: expected mine:factory to be a netopsy.Sweep, or a function that returns one; it "),
        (
            ["mine:number"],
            "sweep: expected mine:number to be a netopsy.Sweep, or a function that returns one; it is int",
        ),
        (["mine:sized"], "sweep: expected mine:sized to be a function without arguments"),
        (["status"], "runs: expected a folder in which a sweep was started; no sweep was; pass its folder"),
        (["mine:sweep", "--jobs", "0"], "jobs: expected an integer >= 1; got 0"),
    ],
)
def test_bad_sweeps_are_refused(
    own: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error(capsys, "sweep", *arguments)


def test_a_figure_is_what_is_saved(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(probes, "save", lambda axes, path: drawn.append(axes.get_figure()))
    assert main(["inspect", str(run), *ROBUST, "--draws", "0", "--sites", "classifier"]) == 0
    assert [type(figure) for figure in drawn] == [Figure, Figure]
