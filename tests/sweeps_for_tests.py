"""Configurations and measurements that tests and their subprocesses import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from netopsy._checks import Diverged, NetopsyError
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.store.axes import grid
from netopsy.store.keyed import Measure
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.training.config import FitConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 0.1
    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class Point:
    number: int = 0
    kind: str = "plain"
    seed: int = 0
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.number < 0:
            raise NetopsyError(f"number: expected 0 or more; got {self.number}")


def note_call(runs: Path, name: object) -> None:
    """Leave a file a call, so that calls in any process can be counted."""
    (runs / "calls").mkdir(parents=True, exist_ok=True)
    (runs / "calls" / f"{name}-{os.getpid()}-{time.monotonic_ns()}").touch()


def calls(folder: Path) -> int:
    return len(list((folder / "runs" / "calls").glob("*")))


def measure(config: Point, runs: Path) -> dict[str, object]:
    """Rows whose bits depend on the number of threads, the order of sums and nothing else."""
    note_call(runs, config.number)
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(config.number))
    return {"mean": float(values.mean()), "threads": torch.get_num_threads()}


def slow(config: Point, runs: Path) -> dict[str, object]:
    note_call(runs, config.number)
    time.sleep(0.2)
    return {"square": config.number**2}


def sleep_at_two(config: Point, runs: Path) -> dict[str, object]:
    """Quick work, then a task that would take an hour."""
    note_call(runs, config.number)
    if config.number >= 2:
        time.sleep(3600)
    return {"square": config.number**2}


def shapes(config: Point, runs: Path) -> object:
    """All that a measurement may return."""
    frame = pd.DataFrame({"unit": [0, 1, 2], "error": [0.5, 0.25, np.nan]})
    found = {
        "none": None,
        "mapping": {"error": np.float32(0.5), "steps": torch.tensor(3)},
        "list": [{"unit": 0, "error": 0.5}, {"unit": 1, "error": None}],
        "frame": frame,
        "empty": frame.iloc[:0],
        "number": 3.0,
        "clash": {"inner.lr": 1.0},
        "mixed": [{"error": 1.0}, {"error": "large"}],
    }
    return found[config.kind]


def failing(config: Point, runs: Path) -> dict[str, object]:
    """Fails in the way that `kind` says, unless the file `mended` is there."""
    note_call(runs, config.kind)
    if config.kind == "plain" or (runs / "mended").exists():
        return {"error": 0.5}
    if config.kind == "diverged":
        raise Diverged("the loss is not finite")
    if config.kind == "memory":
        raise MemoryError
    if config.kind == "allocate":
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 4096 bytes"
        )
    raise KeyError("no such layer")


def suicidal(config: Point, runs: Path) -> dict[str, object]:
    """Dies as a process does that runs out of memory, where `kind` says so."""
    note_call(runs, config.number)
    if config.kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": config.number**2}


def big(config: Point, runs: Path) -> pd.DataFrame:
    """Rows of about 80 kB that do not compress."""
    source = np.random.default_rng(config.number)
    return pd.DataFrame({"value": source.random(10_000)})


def train(config: Point, runs: Path) -> dict[str, object]:
    """Train a small net on digits; its weights' bits are in the row."""
    images, labels = digits().train
    recipe = FitConfig(epochs=16, batch_size=64, lr=0.05, seed=config.seed, keep=(0, 5, 10))
    factory = partial(fcn, inputs=(1, 8, 8), classes=10, depth=2, width=16 + config.number)
    run = trained(factory, (images, labels), recipe, catalogue=runs)
    return {
        "train_loss": float(run.history.train_loss.iloc[-1]),
        "train_error": float(run.history.train_error.iloc[-1]),
        "epochs": len(run.history),
    }


def sweep_of(function: Measure, count: int) -> Sweep:
    return Sweep(name="numbers", base=Point(), measure=function, axes=(grid({"number": tuple(range(count))}),))
