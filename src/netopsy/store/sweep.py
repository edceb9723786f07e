"""A sweep: a base configuration, axes over its fields, seeds, and what to measure. It is Python, and run as a map."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from netopsy._checks import NetopsyError
from netopsy._identity import digest
from netopsy._storage import read_table, write_table
from netopsy.store.axes import Axis, changed
from netopsy.store.keyed import Measure, Progress, run_tasks, tasks_of
from netopsy.store.results import OK, load_results, statuses
from netopsy.store.worker import Task

NAME = re.compile(r"\w[\w.-]*")
"""Of a sweep: it names a file."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to measure, of which configurations.

    Attributes:
        name: of its list in the folder: letters, digits, and any of - _ . after the first.
        base: a frozen dataclass, of numbers, strings, other such dataclasses and functions of modules.
        measure: a function of a module: a configuration, and a folder for larger things (trained networks) -> rows.
        axes: lists of changes to the base (`grid`, `sample`, or your own); every combination of them is a point.
        paired: a field and the values that every point is measured at; rows that differ in nothing else have the same
            `pair`, for comparisons in which all else is equal.
        seeds: values of the field `seed`; None leaves the base's.
        code: version of the code that decides the results; by default a hash of it.

    Raises:
        NetopsyError: for fields that the base does not have, and whatever the base itself refuses.
    """

    name: str
    base: Any
    measure: Measure
    axes: Sequence[Axis] = ()
    paired: tuple[str, Sequence[object]] | None = None
    seeds: Sequence[int] | None = None
    code: str | None = None
    configs: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise NetopsyError(
                f"sweep name: expected letters, digits and any of - _ . after the first; got {self.name!r}"
            )
        axes = [*self.axes]
        if self.paired is not None:
            axes.append([{self.paired[0]: value} for value in self.paired[1]])
        if self.seeds is not None:
            axes.append([{"seed": seed} for seed in self.seeds])
        empty = [axis for axis in axes if not len(axis)]
        if empty:
            raise NetopsyError(f"sweep {self.name}: expected axes of at least one value; got an empty one")
        names = [name for axis in axes for name in dict.fromkeys(name for change in axis for name in change)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise NetopsyError(f"sweep {self.name}: expected each field on one axis; {twice[0]!r} is on two")
        points = [dict(item for change in point for item in change.items()) for point in itertools.product(*axes)]
        configs = tuple(changed(self.base, point) if point else self.base for point in points)
        object.__setattr__(self, "configs", configs)

    def tasks(self) -> list[Task]:
        """The keyed work, each configuration once."""
        return tasks_of(self.measure, self.configs, code=self.code, labels=self.labels)

    def labels(self, config: Any) -> dict[str, object]:
        """Columns beside the configuration's own."""
        if self.paired is None:
            return {}
        name, values = self.paired
        return {"pair": digest(changed(config, {name: values[0]}))[:12]}


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a sweep is.

    Attributes:
        name: of the sweep.
        total: tasks.
        counts: status -> tasks that have it; the rest is to be done.
        running: whether a process is at work on it now.
        seconds: mean time of a finished task; None before there is one.
        reasons: reason of a failure -> how many tasks gave it, most first.
        stale: tasks in the folder that belong to no current task: another version of the code, or other axes.
    """

    name: str
    total: int
    counts: dict[str, int]
    running: bool
    seconds: float | None
    reasons: dict[str, int]
    stale: int

    @property
    def left(self) -> int:
        """Tasks to be done."""
        return self.total - sum(self.counts.values())

    def __str__(self) -> str:
        parts = [f"{count} {status}" for status, count in self.counts.items()]
        lines = [f"{self.name}: {self.total} tasks: {', '.join([*parts, f'{self.left} to do'])}"]
        lines += ["a process is at work on it"] if self.running else []
        if self.seconds is not None:
            lines.append(f"mean time of a task {self.seconds:.3g} s; {self.seconds * self.left:.3g} s of work left")
        lines += [f"{count} failed: {reason}" for reason, count in self.reasons.items()]
        lines += [f"{self.stale} older results in the folder are of other code or other axes"] if self.stale else []
        return "\n".join(lines)


def run_sweep(
    sweep: Sweep,
    folder: Path | str,
    *,
    runs: Path | str | None = None,
    jobs: int = 1,
    threads: int = 1,
    retry: bool = False,
    attempts: int = 3,
    progress: Callable[[Progress], object] | None = None,
) -> pd.DataFrame:
    """Run what is not done yet of a sweep; returns the rows of all of it, in its order.

    See `netopsy.store.keyed.keyed_map` for the options, failures, and what a kill or an interruption leaves. The
    folder can be read at any time: by `load_results`, `sweep_status`, or any reader of `results/*.parquet`.
    """
    folder = Path(folder)
    tasks = sweep.tasks()
    table = pd.DataFrame([{"key": task.key, **task.columns} for task in tasks])
    write_table(_list_path(folder, sweep.name), table.convert_dtypes(), name=sweep.name)
    return run_tasks(
        sweep.measure,
        tasks,
        folder=folder,
        runs=runs,
        jobs=jobs,
        threads=threads,
        code=sweep.code,
        retry=retry,
        attempts=attempts,
        progress=progress,
    )


def status_of(sweep: Sweep, folder: Path | str) -> Status:
    """How far a sweep is in a folder, whether it ever ran there or not."""
    return _status(sweep.name, [task.key for task in sweep.tasks()], Path(folder))


def sweep_status(folder: Path | str) -> list[Status]:
    """How far the sweeps of a folder are, as they were when they were last started.

    Raises:
        NetopsyError: when no sweep was started there.
    """
    folder = Path(folder)
    lists = sorted((folder / "sweeps").glob("[!.]*.parquet"))
    if not lists:
        raise NetopsyError(f"{folder}: expected a folder in which a sweep was started; no sweep was; pass its folder")
    return [_status(path.stem, read_table(path).key.tolist(), folder) for path in lists]


def _status(name: str, keys: Sequence[str], folder: Path) -> Status:
    known = statuses(folder)
    mine = [key for key in keys if key in known]
    counts: dict[str, int] = {}
    for key in mine:
        counts[known[key]] = counts.get(known[key], 0) + 1
    seconds, reasons = None, {}
    if mine:
        rows = load_results(folder, columns=["key", "status", "reason", "seconds"], where={"key": mine})
        rows = rows.drop_duplicates("key")
        seconds = float(rows.seconds.mean())
        reasons = rows[rows.status != OK].reason.value_counts().head(5).to_dict()
    return Status(
        name=name,
        total=len(keys),
        counts=dict(sorted(counts.items(), key=lambda item: item[0] != OK)),
        running=_locked(folder),
        seconds=seconds,
        reasons={str(reason): int(count) for reason, count in reasons.items()},
        stale=len(known) - len(mine),
    )


def _locked(folder: Path) -> bool:
    path = folder / ".lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _list_path(folder: Path, name: str) -> Path:
    return folder / "sweeps" / f"{name}.parquet"
