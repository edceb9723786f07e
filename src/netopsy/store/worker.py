"""What a worker does: run tasks one after another, turn failures into rows, and write what is finished."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from netopsy._checks import Diverged, NetopsyError
from netopsy._identity import code_version
from netopsy.store.results import OK, add_pending
from netopsy.store.tables import to_table

FLUSH_SECONDS = 0.5
"""Work as long as this is written at once; shorter work waits for more. A killed process loses no more."""

KILLED = "killed"
HEAD = {name: pa.string() for name in ("key", "point", "status", "reason", "code", "netopsy", "torch")} | {
    "seconds": pa.float64()
}
"""Columns that all rows have."""

Finished = list[tuple[str, str]]
"""Keys and statuses of tasks that are done."""


@dataclass(frozen=True)
class Task:
    """One piece of keyed work.

    Attributes:
        key: of its results.
        point: the same, whatever the version of the code.
        config: what the function is called with.
        columns: what its rows say of the configuration.
    """

    key: str
    point: str
    config: Any
    columns: Mapping[str, object]


class DiskFull(NetopsyError):
    """There is no room to write; what was written is whole."""


@dataclass(frozen=True)
class Work:
    """What is done to every task.

    Attributes:
        function: configuration and `runs` -> rows.
        folder: of the results.
        runs: folder for whatever larger a task keeps, such as trained networks.
        threads: torch threads, the same in whatever process a task runs: its bits depend on it.
        stamp: columns that all rows have: versions.
        hashed: whether `code` of the stamp is the hash of the function's code.
    """

    function: Callable[[Any, Path], object]
    folder: Path
    runs: Path
    threads: int
    stamp: Mapping[str, object]
    hashed: bool

    def run(self, tasks: Sequence[Task]) -> Finished:
        """Run tasks and write their rows.

        Raises:
            DiskFull: no room; tasks that were written stay.
            NetopsyError: the code is no longer that of the keys: this process was started after an edit.
        """
        if self.hashed and code_version(self.function) != self.stamp["code"]:
            raise NetopsyError(
                "the code has changed since this work was started; what is finished is saved; start it again"
            )
        waiting: list[pa.Table] = []
        finished: Finished = []
        flushed = time.perf_counter()
        try:
            with _threads(self.threads):
                for task in tasks:
                    table = self._attempt(task)
                    waiting.append(table)
                    finished.append((task.key, table["status"][0].as_py()))
                    if time.perf_counter() - flushed >= FLUSH_SECONDS:
                        _flush(self.folder, waiting)
                        flushed = time.perf_counter()
        finally:
            _flush(self.folder, waiting)
        return finished

    def _attempt(self, task: Task) -> pa.Table:
        started = time.perf_counter()
        try:
            found = self.function(task.config, self.runs)
            measured = None if found is None else to_table(found)
            return _rows(task, OK, None, time.perf_counter() - started, self.stamp, measured)
        except Exception as error:
            if is_disk_full(error):
                raise DiskFull(_no_room(error)) from error
            return _rows(task, _status(error), _reason(error), time.perf_counter() - started, self.stamp, None)

    def give_up(self, task: Task, reason: str) -> Finished:
        """Write that a task cannot be run."""
        add_pending(self.folder, [_rows(task, KILLED, reason, None, self.stamp, None)])
        return [(task.key, KILLED)]


def prepare_process(parent: int) -> None:
    """Make a worker process leave interruptions to its parent, and end when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)  # nobody would read what it finds, and the parent's successor needs the processor

    threading.Thread(target=watch, name="netopsy-parent-watch", daemon=True).start()


def _rows(
    task: Task,
    status: str,
    reason: str | None,
    seconds: float | None,
    stamp: Mapping[str, object],
    measured: pa.Table | None,
) -> pa.Table:
    """The task's columns, repeated, beside what it measured; one row where that is nothing."""
    count = 1 if measured is None else max(1, measured.num_rows)
    own = {"key": task.key, "point": task.point, "status": status, "reason": reason, "seconds": seconds}
    head = {**own, **stamp, **task.columns}
    columns = {name: pa.array([value] * count, HEAD.get(name)) for name, value in head.items()}
    if measured is None or not measured.num_rows:
        return pa.table(columns)
    taken = [name for name in measured.column_names if name in head]
    if taken:
        raise NetopsyError(f"measure: the name {taken[0]!r} is taken by a column that every row has; rename it")
    return pa.table({**columns, **{name: measured[name] for name in measured.column_names}})


def _flush(folder: Path, waiting: list[pa.Table]) -> None:
    if not waiting:
        return
    try:
        add_pending(folder, waiting)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(_no_room(error)) from error
    waiting.clear()


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there is no room to write."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, DiskFull) or "No space left on device" in str(error):  # as safetensors and Arrow say it
            return True
        error = error.__cause__ or error.__context__
    return False


def _no_room(error: BaseException) -> str:
    return (
        f"no room left where results are written ({error}); what is finished is saved; free some space and run again"
    )


def _status(error: Exception) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "out of memory"
    return "exception"


def _reason(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:2000]}{where}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's number of threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
