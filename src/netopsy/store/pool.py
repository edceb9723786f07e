"""Tasks in this process, or in local processes through joblib; a worker that dies takes nothing with it."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from netopsy.store.results import statuses
from netopsy.store.worker import Finished, Task, Work, prepare_process

CHUNK_SECONDS = 0.25
"""Short tasks go to a worker many at a time, about this much work at once."""


def in_process(work: Work, tasks: Sequence[Task]) -> Iterator[Finished]:
    """Run tasks here, yielding those that are done."""
    chunks = _Chunks(tasks, 1)
    for chunk in chunks:
        finished = work.run(chunk)
        chunks.finished += len(finished)
        yield finished


def in_processes(work: Work, tasks: Sequence[Task], jobs: int, attempts: int) -> Iterator[Finished]:
    """Run tasks in `jobs` processes, yielding those that are done, until all are.

    A pool dies with any of its processes, and nobody can say which task was at fault: all that were in flight are
    run again in a new one. A task that was in flight `attempts` times runs with no other beside it, when all others
    are done, and is given up when its process dies as often again.
    """
    left = {task.key: task for task in tasks}
    deaths: Counter[str] = Counter()
    while left:
        together = [task for task in left.values() if deaths[task.key] < attempts]
        alone = None if together else next(iter(left.values()))
        chunks = _Chunks(together or [alone], jobs)  # type: ignore[list-item]
        flying: dict[str, Task] = {}
        try:
            for finished in _pool(work, chunks, flying, jobs):
                chunks.finished += len(finished)
                for key, _ in finished:
                    flying.pop(key)
                    left.pop(key)
                yield finished
        except BrokenProcessPool:
            finished = [(key, status) for key, status in statuses(work.folder).items() if key in flying]
            for key, _ in finished:
                flying.pop(key)
                left.pop(key)
            yield finished
            deaths.update(flying.keys())
            if alone and alone.key in left and deaths[alone.key] >= 2 * attempts:
                reason = (
                    f"its process died {deaths[alone.key]} times, {attempts} of them with no other task beside it"
                )
                yield work.give_up(left.pop(alone.key), reason)


class _Chunks:
    """Hands out tasks in chunks of about `CHUNK_SECONDS`, as measured so far."""

    def __init__(self, tasks: Sequence[Task], jobs: int) -> None:
        self.tasks, self.jobs = tasks, jobs
        self.finished = 0

    def __iter__(self) -> Iterator[list[Task]]:
        begun, at = time.perf_counter(), 0
        while at < len(self.tasks):
            rate = self.finished / max(time.perf_counter() - begun, 1e-9) / self.jobs
            fair = -(-(len(self.tasks) - at) // (2 * self.jobs))  # so that no process is idle at the end
            size = max(1, min(int(rate * CHUNK_SECONDS), fair))
            yield list(self.tasks[at : at + size])
            at += size


def _pool(work: Work, chunks: _Chunks, flying: dict[str, Task], jobs: int) -> Iterator[Finished]:
    """One pool until its work is done or one of its processes dies; `flying` is what was handed to it."""

    def calls() -> Iterator[Any]:
        for chunk in chunks:
            flying.update((task.key, task) for task in chunk)
            yield delayed(work.run)(chunk)

    parallel = Parallel(
        n_jobs=jobs,
        backend="loky",
        batch_size=1,
        pre_dispatch=2 * jobs,
        return_as="generator_unordered",
        initializer=prepare_process,
        initargs=(os.getpid(),),
    )
    with warnings.catch_warnings():
        # of processes that stopped, and of work that was interrupted: both are what this room is about
        warnings.filterwarnings("ignore", module="joblib")
        yield from parallel(calls())
    get_reusable_executor().shutdown(kill_workers=True)  # kept, they would go on with the code that they loaded
