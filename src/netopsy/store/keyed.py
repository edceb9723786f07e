"""A map whose work is never done twice: configurations in, rows out."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

import netopsy
from netopsy._checks import NetopsyError, at_least
from netopsy._identity import canonical, code_version, digest, functions_in
from netopsy.store.pool import in_process, in_processes
from netopsy.store.results import OK, clean, load_results, merge, statuses
from netopsy.store.worker import HEAD, DiskFull, Finished, Task, Work, is_disk_full

MERGE_SECONDS = 5.0
"""The data set is brought up to date no more often than this."""

Measure = Callable[[Any, Path], object]
"""A configuration, and a folder for larger things -> rows."""

Labels = Callable[[Any], Mapping[str, object]]
"""A configuration -> more columns of its rows."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a map has come.

    Attributes:
        done: tasks with a result or a failure, earlier runs' included.
        failed: those of them that failed.
        total: tasks in all.
        rate: tasks a second since this run began.
        left: seconds until the end at this rate; None before the first task is done.
    """

    done: int
    failed: int
    total: int
    rate: float
    left: float | None


def tasks_of(
    function: Measure, configs: Iterable[object], *, code: str | None = None, labels: Labels | None = None
) -> list[Task]:
    """The tasks of a map, each once, keyed by function, full configuration and version of the code.

    Args:
        function: of a module.
        configs: frozen dataclasses, mappings or plain values, see `netopsy._identity.canonical`.
        code: version of the code that decides the results; by default a hash of the function's, and of that of the
            functions in a configuration.
        labels: configuration -> more columns of its rows.

    Raises:
        NetopsyError: for a function or configuration that cannot be told from another, or a column's name that is
            taken.
    """
    own = {"function": canonical(function), "code": code_version(function) if code is None else code}
    version = functools.cache(code_version)
    tasks: dict[str, Task] = {}
    for config in configs:
        called = [version(inner) for inner in functions_in(config)] if code is None else []
        key = digest({**own, "config": config, "called": called})
        if key not in tasks:
            columns, more = flat(config), labels(config) if labels else {}
            for name in [*columns, *more]:
                if name in HEAD or (name in columns and name in more):
                    raise NetopsyError(
                        f"column {name!r} of {config!r}: the name is taken by another column that every row has; "
                        "rename the field or label"
                    )
            point = digest({"function": own["function"], "config": config})
            tasks[key] = Task(key, point, config, {**columns, **more})
    return list(tasks.values())


def keyed_map(
    function: Measure,
    configs: Iterable[object],
    *,
    folder: Path | str,
    runs: Path | str | None = None,
    labels: Labels | None = None,
    jobs: int = 1,
    threads: int = 1,
    code: str | None = None,
    retry: bool = False,
    attempts: int = 3,
    progress: Callable[[Progress], object] | None = None,
) -> pd.DataFrame:
    """Call a function with every configuration that has no result yet, and return the rows of all.

    A task that raises gives a row with `status` `diverged`, `out of memory` or `exception` and a `reason`; one whose
    process dies again and again, also alone, gives `killed`. They stop nothing, and are not tried again unless
    `retry`. Rows are on disk soon after a task ends; an interrupted or killed map called again does what is left.

    Args:
        function: configuration and `runs` -> a mapping, a list of mappings or a DataFrame (its rows), or None.
        configs: see `tasks_of`.
        folder: of the results; other maps' results may be there too.
        runs: what the function gets as its second argument, a folder for larger things; by default `folder/runs`.
        labels: see `tasks_of`.
        jobs: worker processes on this machine; 1 works in this process.
        threads: torch threads of a task, whatever `jobs` is: the bits of a result depend on it.
        code: see `tasks_of`.
        retry: try failed tasks again.
        attempts: deaths of a task's process before it runs alone, and then before it counts as killed.
        progress: called as tasks end.

    Returns:
        The rows in the order of the configurations; see `load_results` for the columns.

    Raises:
        NetopsyError: for bad arguments, a folder that another process is working in, or a full disk.
    """
    return run_tasks(
        function,
        tasks_of(function, configs, code=code, labels=labels),
        folder=Path(folder),
        runs=runs,
        jobs=jobs,
        threads=threads,
        code=code,
        retry=retry,
        attempts=attempts,
        progress=progress,
    )


def run_tasks(
    function: Measure,
    tasks: Sequence[Task],
    *,
    folder: Path,
    runs: Path | str | None,
    jobs: int,
    threads: int,
    code: str | None,
    retry: bool,
    attempts: int,
    progress: Callable[[Progress], object] | None,
) -> pd.DataFrame:
    """Do what `keyed_map` does, of tasks that are keyed already."""
    for name, value in (("jobs", jobs), ("threads", threads), ("attempts", attempts)):
        at_least(name, value, 1)
    if not tasks:
        raise NetopsyError("configs: expected at least one configuration; got none")
    version = code_version(function) if code is None else code
    stamp = {"code": version, "netopsy": netopsy.__version__, "torch": _torch_version()}
    with _sole_writer(folder):
        clean(folder)
        merge(folder)
        known = statuses(folder)
        left = [task for task in tasks if task.key not in known or (retry and known[task.key] != OK)]
        mine = {task.key for task in tasks} - {task.key for task in left}
        failed = sum(known[key] != OK for key in mine)
        pace = _Pace(done=len(mine), failed=failed, total=len(tasks), progress=progress)
        work = Work(function, folder, folder / "runs" if runs is None else Path(runs), threads, stamp, code is None)
        try:
            for finished in in_process(work, left) if jobs == 1 else in_processes(work, left, jobs, attempts):
                pace.add(finished)
                pace.merge(folder)
        except BaseException:
            _merge_if_room(folder)
            raise
        merge(folder)
    return rows_of(tasks, folder)


def rows_of(tasks: Sequence[Task], folder: Path) -> pd.DataFrame:
    """The rows of these tasks, in their order."""
    order = {task.key: index for index, task in enumerate(tasks)}
    frame = load_results(folder, where={"key": list(order)})
    place = frame.key.map(order).sort_values(kind="stable")
    return frame.loc[place.index].reset_index(drop=True).dropna(axis="columns", how="all")


def flat(config: object) -> dict[str, object]:
    """A configuration as columns: dotted names of its numbers, strings and truth values; the rest as text.

    >>> flat({"fit": {"lr": 0.1, "keep": (0, 1)}, "width": 16})
    {'fit.lr': 0.1, 'fit.keep': '[0, 1]', 'width': 16}
    """

    def walk(value: Any, name: str) -> Iterator[tuple[str, object]]:
        if is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, Mapping):
            for inner, item in value.items():
                yield from walk(item, f"{name}.{inner}" if name else inner)
        else:
            plain = canonical(value)
            scalar = plain is None or isinstance(plain, bool | int | float | str)
            text = plain["call"] if isinstance(plain, dict) and len(plain) == 1 else json.dumps(plain)
            yield name or "config", plain if scalar else text

    return dict(walk(config, ""))


class _Pace:
    """Counts, tells, and merges now and then."""

    def __init__(self, *, done: int, failed: int, total: int, progress: Callable[[Progress], object] | None) -> None:
        self.done, self.failed, self.total, self.progress = done, failed, total, progress
        self.before, self.started = done, time.perf_counter()
        self.merged, self.cost = time.perf_counter(), 0.0
        self.tell()

    def add(self, finished: Finished) -> None:
        self.done += len(finished)
        self.failed += sum(status != OK for _, status in finished)
        self.tell()

    def tell(self) -> None:
        if self.progress is not None:
            rate = (self.done - self.before) / max(time.perf_counter() - self.started, 1e-9)
            left = (self.total - self.done) / rate if rate else None
            self.progress(Progress(done=self.done, failed=self.failed, total=self.total, rate=rate, left=left))

    def merge(self, folder: Path) -> None:
        now = time.perf_counter()
        if now - self.merged > max(MERGE_SECONDS, 20 * self.cost):  # 5 % of the time at most
            merge(folder)
            self.merged = time.perf_counter()
            self.cost = self.merged - now


def _merge_if_room(folder: Path) -> None:
    """After an error, which is what the user must read."""
    try:
        merge(folder)
    except Exception as error:
        if not is_disk_full(error):
            raise


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which goes with the process whatever becomes of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise NetopsyError(
            f"{folder}: another process is writing results there; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        if isinstance(error, DiskFull) or not is_disk_full(error):
            raise
        raise DiskFull(f"{folder}: no room left ({error}); free some space and run again") from error


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
