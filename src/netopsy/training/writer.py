"""Writing on a thread of its own, so that training does not wait for the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

AHEAD = 2
"""Writes that may wait: each holds a copy of a state."""


class Writer:
    """Runs functions one after another on one thread; the caller waits only when `AHEAD` of them are waiting.

    An error of a write is raised by the next call of `submit` or by `close`; what was submitted after it is not run.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netopsy-writer")
        self._waiting: deque[Future[object]] = deque()
        self._failed = False

    def submit(self, write: Callable[[], object]) -> None:
        """Have `write` run; what it writes must not change any more."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= AHEAD):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._run, write))

    def close(self) -> None:
        """Wait until everything is written."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._waiting.clear()
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, write: Callable[[], object]) -> None:
        if self._failed:  # the error is on its way to the caller
            return
        try:
            write()
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the writes; their error does not hide one of the block."""
        try:
            self.close()
        except BaseException:
            if error is None:
                raise
