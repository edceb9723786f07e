"""The command line as a process of its own: signals and pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from netopsy._storage import read_json
from netopsy.cli import main
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit

START = (
    "import signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it to be ignored\n"
    "from netopsy.cli import main\n"
    "sys.exit(main())"
)
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


def test_a_reader_that_has_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("version", stdout=writing)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
