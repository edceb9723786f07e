"""The command line as a process of its own, and on a terminal: signals, pipes, bars and colors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from netopsy._cli_heatmap import print_result
from netopsy._storage import read_json
from netopsy.cli import main
from netopsy.commands import probes
from netopsy.commands import report as reporting
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit

START = (
    "import signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it to be ignored\n"
    "from netopsy.cli import main\n"
    "sys.exit(main())"
)
BACKGROUND = "48;2;"
"""Of a cell, in 24 bits."""

DATA = (torch.eye(2).repeat(4, 1), torch.arange(2).repeat(4))
FEW = ("--probes", "redundancy", "robustness")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, *arguments],
        env=ENVIRONMENT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_an_interrupted_command_ends_well_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    epochs, run = 60, tmp_path / "run"
    command = ["train", str(run), "--width", "64", "--epochs", str(epochs), "--keep", "0", "1", "--seed", "4"]
    process = start(*command)
    try:
        while not (run / "checkpoints" / "1.safetensors").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        process.kill()
    assert (process.returncode, out) == (130, ""), err
    assert err == "interrupted; what was written stays, and the same command goes on from there\n"
    assert read_json(run / "manifest.json")["finished"] is False
    assert load_file(run / "checkpoints" / "1.safetensors")

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(command) == 0
        data = standardize(digits())
        config = FitConfig(epochs=epochs, batch_size=32, lr=0.02, seed=4, keep=(0, 1))
        whole = fit(partial(fcn, inputs=(1, 8, 8), classes=10, depth=3, width=64), data.train, config)
    finally:
        torch.set_num_threads(before)
    assert sorted(path.stem for path in (run / "checkpoints").iterdir()) == sorted(map(str, whole.states))
    for key, state in whole.states.items():
        assert not isinstance(state, Path)
        found = load_file(run / "checkpoints" / f"{key}.safetensors")
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["train", "--help"]], ids=str)
def test_a_reader_that_has_enough_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*arguments, stdout=writing)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[list[str]]:
    """A pseudo-terminal of 100 columns behind these streams; what it was sent, once the block is left."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    sent, shown = bytearray(), list[str]()

    def listen() -> None:
        with suppress(OSError):  # nobody is left to say anything
            while part := os.read(ours, 65536):
                sent.extend(part)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        with monkeypatch.context() as patch, open(theirs, "w", encoding="utf-8") as stream:
            patch.setenv("TERM", "xterm-256color")
            patch.setenv("COLORTERM", "truecolor")
            patch.setenv("COLUMNS", "100")
            for name in names:
                patch.setattr(sys, name, stream)
            yield shown
    finally:
        listener.join()
        os.close(ours)
    shown.append(sent.decode().replace("\r\n", "\n"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(folder), "--width", "4", "--depth", "2", "--epochs", "1", "--batch-size", "256"]) == 0
    return folder


def test_bars_are_drawn_on_a_terminal_and_results_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    command = ["train", str(tmp_path / "run"), "--width", "4", "--epochs", "2", "--batch-size", "256"]
    with terminal(monkeypatch, "stderr") as shown:
        assert main(command) == 0
    out = capsys.readouterr().out
    assert "reading data, building the network" in shown[0]
    assert "training, epochs" in shown[0]
    assert "2/2" in shown[0]
    assert shown[0].endswith("\x1b[2K")  # the last line is cleared
    assert out.startswith("folder ")
    assert "\x1b" not in out
    assert main(command) == 0
    assert capsys.readouterr() == (out, "")  # the same, and nothing else, through pipes


def test_inspect_on_a_terminal_shows_its_plan_and_colors_its_table(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(reporting, "report", lambda runs: SimpleNamespace(path=runs[0] / "report.html"))
    monkeypatch.setattr(probes, "save", lambda picture, path: path)
    with terminal(monkeypatch, "stdout", "stderr") as first:
        assert main(["inspect", str(trained), *FEW]) == 0
    for word in ("reading the run and its data", "planning", "robustness: preparing", "robustness, examples"):
        assert word in first[0]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", first[0])
    assert re.search(r"robustness +which parts can go back.* 7 +[\d.]+ s \([\d.]+ s to [\d.]+ s\)", plain)
    assert BACKGROUND in first[0]
    assert capsys.readouterr() == ("", "")

    monkeypatch.setenv("NO_COLOR", "1")
    with terminal(monkeypatch, "stdout", "stderr") as second:
        assert main(["inspect", str(trained), *FEW]) == 0
    [result] = (trained / "results").glob("robustness-*")
    table = str(RobustnessResult.load(result))
    assert "found, nothing to do" in second[0]
    assert table in second[0]
    assert BACKGROUND not in second[0]

    monkeypatch.delenv("NO_COLOR")
    assert main(["inspect", str(trained), *FEW]) == 0
    shown = capsys.readouterr()
    assert f"\n{table}\n\n• " in shown.out  # after the cheaper probes'
    assert "\x1b" not in shown.out
    assert shown.err == ""


def test_a_terminal_of_few_colors_gets_the_plain_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = robustness(torch.nn.Sequential(torch.nn.Linear(2, 2)), DATA, checkpoints=())
    for kind, colored in (("xterm", False), ("xterm-256color", True), ("dumb", False)):
        with terminal(monkeypatch, "stdout") as shown, monkeypatch.context() as patch:
            patch.setenv("TERM", kind)
            patch.delenv("COLORTERM")
            patch.delenv("NO_COLOR", raising=False)
            print_result(result)
        assert ("\x1b[" in shown[0]) is colored
        assert colored or shown[0] == f"{result}\n"


def test_an_interruption_while_importing_leaves_at_once(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from netopsy._cli_output import loading\n"
        "with loading():\n"
        "    print('loading', flush=True)\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except BaseException:\n"
        "        raise RecursionError  # as numpy did\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(slow)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "interrupted; nothing was begun\n")
