"""A run that is killed, or fails, anywhere and resumed gives the bits of one that was left alone."""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.training import resume as resuming
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, fit

CLASSES = 3


class Net(nn.Module):
    """Everything a resumed run could lose: batch norm, dropout, a buffer that is not saved, another memory layout."""

    seen: Tensor

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, features, 3, padding=1)
        self.norm = nn.BatchNorm2d(features)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(features, CLASSES)
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        happens()
        if self.training:
            self.seen.add_(0.001)
        out: Tensor = self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))) + self.seen)
        return out


def data(n: int = 36, seed: int = 0) -> tuple[Tensor, Tensor]:
    images = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return images, torch.arange(n) % CLASSES


SGD = FitConfig(
    epochs=4, batch_size=12, lr=0.1, lr_drops=(2,), weight_decay=0.01, augment="pad-crop-flip", pad=1, label_noise=0.2
)
ADAM = replace(SGD, optimizer="adam", lr=0.01, keep=(2,), frozen=("norm",))
PATIENCE = FitConfig(epochs=9, batch_size=12, lr=0.2, keep=(1, 4), validation_share=0.3, patience=2, seed=2)
# The errors of the eighth and ninth epoch are 0.56 and 0.42: other processors round otherwise, but not so far.
TARGET = FitConfig(epochs=12, batch_size=12, optimizer="adam", lr=0.05, keep=(), target_error=0.5)
RMSPROP = replace(SGD, optimizer="rmsprop", lr=0.045, label_noise=0.0)
CONFIGS = {"sgd": SGD, "adam": ADAM, "rmsprop": RMSPROP, "patience": PATIENCE, "target": TARGET}

COUNTDOWN: list[Any] = [0, None]
"""Events until something happens, and what does; 0 is never."""


def happens() -> None:
    """Called at every event: a forward pass, a flush, a rename, a removal, a new folder, an epoch's end."""
    COUNTDOWN[0] -= 1
    if COUNTDOWN[0] == 0:
        COUNTDOWN[1]()


@contextmanager
def disturbed(after: int, what: Callable[[], object]) -> Iterator[None]:
    """Have `what` happen at an event; every epoch is written at once."""
    old = {(place, name): getattr(place, name) for place, name in PLACES}
    seconds = resuming.SECONDS
    for (place, name), function in old.items():
        setattr(place, name, eventful(function))
    resuming.SECONDS = 0.0
    COUNTDOWN[:] = [after, what]
    try:
        yield
    finally:
        COUNTDOWN[:] = [0, None]
        resuming.SECONDS = seconds
        for (place, name), function in old.items():
            setattr(place, name, function)


PLACES = [(os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")]


def eventful(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        happens()
        return function(*args, **kwargs)

    return call


def train(folder: Path, config: FitConfig, **options: Any) -> FitResult:
    return fit(Net, data(), config, folder=folder, progress=lambda *_: happens(), **options)


def bits(value: Tensor) -> bytes:
    return value.numpy().tobytes()


def contents(folder: Path) -> dict[str, Any]:
    """All that a finished run's folder says, but for times."""
    states = {file.name: load_file(file) for file in (folder / "checkpoints").glob("*.safetensors")}
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        "files": sorted(str(file.relative_to(folder)) for file in folder.rglob("*")),
        "states": {name: {key: bits(value) for key, value in state.items()} for name, state in states.items()},
        "history": pd.read_parquet(folder / "history.parquet").drop(columns="seconds").to_dict("list"),
        "manifest": manifest,
    }  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Everywhere, as in the processes that are killed: the bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every config gives undisturbed."""
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in CONFIGS}
    for name, folder in folders.items():
        train(folder, CONFIGS[name])
    return {name: contents(folder) for name, folder in folders.items()}


def test_the_undisturbed_runs_are_what_they_are_meant_to_be(whole: dict[str, dict[str, Any]]) -> None:
    manifests = {name: content["manifest"] for name, content in whole.items()}
    assert {name: manifest["stopped"] for name, manifest in manifests.items()} == {
        "sgd": "epochs", "adam": "epochs", "rmsprop": "epochs", "patience": "patience", "target": "target",
    }  # fmt: skip
    assert manifests["patience"]["keys"][-1] not in (0, 1, 4, 9)
    assert 1 < manifests["target"]["keys"][-1] < TARGET.epochs
    assert all(content["files"][-1] == "manifest.json" for content in whole.values())


class Stop(BaseException):
    """Like KeyboardInterrupt, which would end the test run if it came through."""


def fail() -> None:
    raise Stop


@pytest.mark.parametrize("name", CONFIGS)
def test_a_failure_at_any_event_loses_nothing(tmp_path: Path, whole: dict[str, Any], name: str) -> None:
    source, event, failures = random.Random(name), 1, 0
    while True:
        folder = tmp_path / str(event)
        with disturbed(event, fail):
            try:
                train(folder, CONFIGS[name], resume=True)
            except Stop:
                failures += 1
            else:
                break  # the run has fewer events
        with disturbed(0, fail):
            train(folder, CONFIGS[name], resume=True)
        assert contents(folder) == whole[name], f"failed at event {event}"
        event += source.randint(4, 10)
    assert failures >= 5


def kill_until_finished(folder: str) -> None:
    """Train every config in processes that are killed at random events; run in a process that has no threads yet."""
    torch.set_num_threads(1)
    importlib.import_module("pyarrow.parquet")
    for config in (SGD, ADAM):
        fit(Net, data(), config)  # what torch imports late is imported once
    for name, config in CONFIGS.items():
        source, code, kills = random.Random(name), -1, -1
        while code != 0:
            after = source.randint(10, 60)
            if (pid := os.fork()) == 0:
                with disturbed(after, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                    train(Path(folder) / name, config, resume=True)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code in (0, -signal.SIGKILL)
            kills += 1
        print(name, kills, flush=True)


def test_kills_at_random_events_lose_nothing(tmp_path: Path, whole: dict[str, Any]) -> None:
    script = f"from tests.test_fit_resume import kill_until_finished; kill_until_finished({str(tmp_path)!r})"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kills = dict(line.split() for line in done.stdout.splitlines())
    assert kills.keys() == CONFIGS.keys()
    for name in CONFIGS:
        assert int(kills[name]) >= 2
        assert contents(tmp_path / name) == whole[name]


# What resuming takes and refuses ---------------------------------------------------------------------------------


class Linear(nn.Module):
    """A quick model."""

    def __init__(self, width: int = CLASSES) -> None:
        super().__init__()
        self.linear = nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


SHORT = FitConfig(epochs=3, batch_size=12, lr=0.1)


def stop_after(last: int) -> Callable[..., None]:
    def progress(epoch: int, epochs: int, row: Any) -> None:
        if epoch == last:
            raise Stop

    return progress


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that stopped after two of three epochs."""
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    with pytest.raises(Stop):
        fit(Linear, data(), SHORT, folder=tmp_path / "run", about={"by": "hand"}, progress=stop_after(2))
    assert (tmp_path / "run" / "resume.safetensors").is_file()
    return tmp_path / "run"


def test_full_batches_go_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of L-BFGS nothing has to be kept: each epoch begins with an empty memory."""
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    config = FitConfig(epochs=3, batch_size=99, optimizer="lbfgs", lr=1.0, augment="wrap-flip-turn", pad=1)

    def stop(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    whole = fit(Net, data(), config)
    with pytest.raises(KeyboardInterrupt):
        fit(Net, data(), config, folder=tmp_path / "run", progress=stop)
    assert (tmp_path / "run" / "resume.safetensors").is_file()
    result = fit(Net, data(), config, folder=tmp_path / "run", resume=True)
    for key, state in whole.states.items():
        found = load_file(result.states[key])  # type: ignore[arg-type]
        assert all(torch.equal(found[name], value) for name, value in state.items())


def test_only_the_epochs_that_are_left_are_trained(begun: Path) -> None:
    heard: list[int] = []
    calls: list[int] = []

    def factory() -> nn.Module:
        calls.append(1)
        return Linear()

    result = fit(factory, data(), SHORT, folder=begun, resume=True, progress=lambda epoch, *_: heard.append(epoch))
    assert (heard, calls, result.stopped) == ([3], [1], "epochs")
    assert not (begun / "resume.safetensors").exists()
    before = {file: file.stat().st_mtime_ns for file in begun.rglob("*")}
    again = fit(factory, data(), SHORT, folder=begun, resume=True, progress=lambda epoch, *_: heard.append(epoch))
    assert (heard, calls, again.stopped) == ([3], [1, 1], "epochs")
    assert again.states == result.states
    pd.testing.assert_frame_equal(again.history, result.history, check_exact=True)
    assert {file: file.stat().st_mtime_ns for file in begun.rglob("*")} == before


def test_what_the_run_is_about_is_kept_unless_it_is_said_anew(begun: Path) -> None:
    with pytest.raises(Stop):
        fit(Linear, data(), replace(SHORT), folder=begun, resume=True, progress=stop_after(3))
    assert json.loads((begun / "manifest.json").read_text())["about"] == {"by": "hand"}


def test_a_resumed_run_can_be_told_anew_what_it_is_about(begun: Path) -> None:
    fit(Linear, data(), SHORT, folder=begun, resume=True, about={"by": "machine"})
    manifest = json.loads((begun / "manifest.json").read_text())
    assert (manifest["about"], manifest["finished"], manifest["stopped"]) == ({"by": "machine"}, True, "epochs")


def test_the_manifest_says_what_made_the_model(tmp_path: Path) -> None:
    made = functools.partial(Linear, width=5)
    for name, factory in {"partial": made, "lambda": lambda: Linear(5)}.items():
        fit(factory, data(), replace(SHORT, epochs=1), folder=tmp_path / name)
    expected = {"call": f"{__name__}:Linear", "args": [], "kwargs": {"width": 5}}
    assert json.loads((tmp_path / "partial" / "manifest.json").read_text())["factory"] == expected
    assert json.loads((tmp_path / "lambda" / "manifest.json").read_text())["factory"] is None


def test_an_empty_folder_is_begun_and_leftovers_are_swept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    leftovers = [
        ".manifest.json.0123456789abcdef",
        "checkpoints/.2.safetensors.0123456789abcdef",
        "checkpoints/.tmpXy12zZ",
    ]
    for name in leftovers:
        (tmp_path / name).write_text("part")
    fit(Linear, data(), SHORT, folder=tmp_path, resume=True)
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "0.safetensors", "1.safetensors", "2.safetensors", "3.safetensors", "history.parquet", "manifest.json",
    ]  # fmt: skip


def test_a_finished_run_whose_end_was_cut_short_is_tidied(tmp_path: Path) -> None:
    fit(Linear, data(), SHORT, folder=tmp_path)
    for name in ("resume.safetensors", "checkpoints/7.safetensors", "checkpoints/.tmpXy12zZ"):
        (tmp_path / name).write_text("part")
    result = fit(Linear, data(), SHORT, folder=tmp_path, resume=True)
    assert list(result.states) == [0, 1, 2, 3]
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == [
        f"{key}.safetensors" for key in range(4)
    ]
    assert not (tmp_path / "resume.safetensors").exists()


def test_a_manifest_of_an_older_netopsy_has_the_defaults(tmp_path: Path) -> None:
    result = fit(Linear, data(), SHORT, folder=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    since = ("frozen", "removed", "patience", "monitor", "validation_share", "target_loss", "target_error", "loss")
    for name in since:
        del manifest["config"][name]
    for name in ("factory", "validation", "about", "stopped"):
        del manifest[name]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    again = fit(Linear, data(), SHORT, folder=tmp_path, resume=True)
    assert (again.states, again.stopped) == (result.states, "epochs")
    with pytest.raises(NetopsyError, match="loss was 'cross-entropy', is 'l2'; pass"):
        fit(Linear, data(), replace(SHORT, loss="l2"), folder=tmp_path, resume=True)
    with pytest.raises(NetopsyError, match=r"frozen was \[\], is \['linear.bias'\]; pass"):
        fit(Linear, data(), replace(SHORT, frozen=("linear.bias",)), folder=tmp_path, resume=True)


class Other(Linear):
    pass


@pytest.mark.parametrize(
    ("factory", "given", "options", "message"),
    [
        (Linear, data(), {"lr": 0.2, "seed": 1}, r"it holds another one: lr was 0.1, is 0.2; seed was 0, is 1; pass"),
        (Linear, data(), {"keep": (1,)}, r"another one: keep was 'all', is \[1\]; pass"),
        (Linear, data(seed=1), {}, r"another one: data was \w{32}, is \w{32}; pass"),
        (Other, data(), {}, r"model was .*Linear, is .*Other; factory was .*Linear.*, is .*Other"),
        (functools.partial(Linear, CLASSES), data(), {}, r"factory was {'call': .*Linear'}, is .*'args': \[3\]"),
        (lambda: Linear(4), data(), {}, r"0.safetensors: expected the initial .*; linear.weight, linear.bias"),
        (lambda: biased(Linear()), data(), {}, r"expected the initial weights .*; linear.bias differ; the factory"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("finished", [False, True])
def test_another_run_is_refused_and_left_alone(
    begun: Path, factory: Any, given: Any, options: dict[str, Any], message: str, finished: bool
) -> None:
    if finished:
        fit(Linear, data(), SHORT, folder=begun, resume=True)
    before = {file: file.read_bytes() for file in begun.rglob("*") if file.is_file()}
    with pytest.raises(NetopsyError, match=message):
        fit(factory, given, replace(SHORT, **options), folder=begun, resume=True)
    assert {file: file.read_bytes() for file in begun.rglob("*") if file.is_file()} == before


def biased(model: Linear) -> Linear:
    nn.init.ones_(model.linear.bias)
    return model


def test_another_validation_split_is_another_run(begun: Path) -> None:
    with pytest.raises(NetopsyError, match=r"another one: validation was None, is \w{32}"):
        fit(Linear, data(), SHORT, folder=begun, resume=True, validation=data(seed=1))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        NetopsyError, match=r"expected a run to go on with, .* no manifest.json, and thesis.tex; choose"
    ):
        fit(Linear, data(), SHORT, folder=tmp_path, resume=True)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "provenance": {}}')
    with pytest.raises(NetopsyError, match="expected the manifest of a training run; it is of something else"):
        fit(Linear, data(), SHORT, folder=tmp_path, resume=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_damaged_run_is_refused(begun: Path) -> None:
    (begun / "checkpoints" / "1.safetensors").rename(begun / "1.safetensors")
    with pytest.raises(NetopsyError, match=r"expected every checkpoint that the run has kept; 1.safetensors missing"):
        fit(Linear, data(), SHORT, folder=begun, resume=True)
    (begun / "1.safetensors").rename(begun / "checkpoints" / "1.safetensors")
    file = begun / "resume.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(NetopsyError, match=r"resume.safetensors: corrupt or truncated .*overwrite=True"):
        fit(Linear, data(), SHORT, folder=begun, resume=True)
    save_file({"a": torch.zeros(1)}, file, metadata={"schema": "1"})
    with pytest.raises(NetopsyError, match="expected the state of an interrupted run; it holds something else"):
        fit(Linear, data(), SHORT, folder=begun, resume=True)


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"resume=True: expected a folder, .* got folder=None, overwrite=False"):
        fit(Linear, data(), SHORT, resume=True)
    with pytest.raises(NetopsyError, match="expected a folder, and overwrite=False, which would begin anew"):
        fit(Linear, data(), SHORT, folder=tmp_path, resume=True, overwrite=True)
    with pytest.raises(NetopsyError, match=r"about: expected a mapping that JSON can hold; .*Tensor"):
        fit(Linear, data(), SHORT, folder=tmp_path, about={"data": torch.zeros(1)})
    assert not any(tmp_path.iterdir())


def test_a_failed_write_ends_the_run_and_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "write", full)
        with pytest.raises(OSError, match="no space left"):
            fit(Linear, data(), replace(SHORT, epochs=20), folder=tmp_path)
    result = fit(Linear, data(), replace(SHORT, epochs=20), folder=tmp_path, resume=True)
    expected = fit(Linear, data(), replace(SHORT, epochs=20))
    assert torch.equal(load_file(result.states[20])["linear.weight"], expected.states[20]["linear.weight"])
