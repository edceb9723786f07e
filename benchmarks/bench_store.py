"""What keyed work costs: a task's overhead, loading results, and what a second process brings.

The naive ways: a Parquet file a task, flushed to disk as ours are; reading such files back one by one.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from _common import interleaved, ratio, write

from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.store.keyed import keyed_map
from netopsy.store.results import add_pending, load_results, merge
from netopsy.store.tables import to_table
from netopsy.training.fit import fit
from netopsy.training.recipes import demo

TASKS, ROWS, FILES = 10_000, 100_000, 1_000


def empty(config: int, runs: Path) -> None:
    """A task that does nothing."""


def training(config: int, runs: Path) -> dict[str, float]:
    """A task of about two seconds on one core."""
    data = standardize(digits())
    run = fit(partial(fcn, inputs=(1, 8, 8), classes=10), data.train, demo(seed=config))
    return {"train_error": float(run.history.train_error.iloc[-1])}


def fresh(run: Callable[[Path], Any]) -> Callable[[], None]:
    """With a folder of its own, removed afterwards."""

    def timed() -> None:
        folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
        try:
            run(folder)
        finally:
            shutil.rmtree(folder)

    return timed


def file_a_task(folder: Path) -> None:
    """The naive way of keeping results."""
    for config in range(TASKS):
        empty(config, folder)
        path = folder / f"{config}.parquet"
        pd.DataFrame({"config": [config], "status": ["ok"], "seconds": [0.0]}).to_parquet(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def overhead(jobs: int) -> Callable[[], None]:
    """10,000 empty tasks through keyed_map."""
    return fresh(lambda folder: keyed_map(empty, range(TASKS), folder=folder, jobs=jobs))


def results(folder: Path) -> pd.DataFrame:
    """100,000 rows of twenty columns, in one data set and as a file a task."""
    source = np.random.default_rng(0)
    keys = [f"{row // (ROWS // FILES):032x}" for row in range(ROWS)]
    frame = pd.DataFrame({"key": keys, "status": "ok", "site": source.choice(["hidden.0", "hidden.1"], ROWS)})
    numbers = pd.DataFrame(source.normal(size=(ROWS, 17)), columns=[f"value_{i}" for i in range(17)])
    frame = pd.concat([frame, numbers], axis=1)
    add_pending(folder, [to_table(frame)])
    merge(folder)
    for number, part in frame.groupby("key"):
        part.to_parquet(folder / f"{number}.parquet")
    return frame


def main(repeats: int = 3) -> None:
    torch.set_num_threads(1)
    cost = interleaved(repeats, naive=fresh(file_a_task), one=overhead(1), two=overhead(2))
    per_task = [1000 * statistics.median(cost[name]) / TASKS for name in ("naive", "one", "two")]
    lines = [
        f"Milliseconds a task, {TASKS:,} empty tasks, median of {repeats} runs in turns. keyed_map names, hashes and "
        "counts them, and keeps a row each; two processes include starting them.",
        "",
        "| a file a task | keyed_map, in process | keyed_map, two processes | ratio of the first two |",
        "|---|---|---|---|",
        f"| {' | '.join(f'{value:.2f}' for value in per_task)} | {ratio(cost, 'naive', 'one'):.1f} |",
        "",
    ]
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    try:
        frame = results(folder)
        files = sorted(folder.glob("*.parquet"))
        load = interleaved(
            repeats,
            naive=lambda: pd.concat([pd.read_parquet(path) for path in files]),
            ours=lambda: load_results(folder),
            some=lambda: load_results(folder, columns=["site", "value_0"], where={"site": "hidden.0"}),
        )
        assert len(load_results(folder)) == len(frame)
    finally:
        shutil.rmtree(folder)
    middle = [statistics.median(seconds) for seconds in load.values()]
    lines += [
        f"Seconds to load {ROWS:,} rows of 20 columns, median of {repeats}.",
        "",
        f"| {FILES:,} files | load_results | two columns, half the rows | ratio of the first two |",
        "|---|---|---|---|",
        f"| {' | '.join(f'{value:.3f}' for value in middle)} | {ratio(load, 'naive', 'ours'):.0f} |",
        "",
    ]
    tasks = 24

    def work(jobs: int) -> Callable[[], None]:
        return fresh(lambda folder: keyed_map(training, range(tasks), folder=folder, jobs=jobs))

    speed = interleaved(max(1, repeats // 2), one=work(1), two=work(2))
    shown = {name: statistics.median(seconds) for name, seconds in speed.items()}
    lines += [
        f"Seconds for {tasks} trainings of FCN 3×256 on digits, one torch thread each; starting two processes is "
        f"counted (median of {max(1, repeats // 2)}, in turns).",
        "",
        "| one process | two | ratio |",
        "|---|---|---|",
        f"| {shown['one']:.1f} | {shown['two']:.1f} | {ratio(speed, 'one', 'two'):.2f} |",
    ]
    write("store", "python benchmarks/bench_store.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
