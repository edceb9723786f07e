"""Writing on a thread of its own, so that training does not wait for the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

AHEAD = 2
"""Writes in hand, one of them being written: each holds a copy of a state."""


class Writer:
    """Runs functions one after another on one thread; the caller waits only while `AHEAD` of them are in hand.

    After an error of a write nothing more is written, and every later call raises it: what a run skipped in silence
    would look like a run that was kept.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netopsy-writer")
        self._waiting: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def ready(self) -> None:
        """Wait until fewer than `AHEAD` writes are in hand, so that `submit` will not wait; raises their error."""
        self._wait(AHEAD - 1)
        self._raise()

    def submit(self, write: Callable[[], object]) -> None:
        """Have `write` run; what it writes must not change any more. Raises the error of an earlier write."""
        self.ready()
        self._waiting.append(self._thread.submit(self._run, write))

    def close(self) -> None:
        """Wait until everything is written; raises the error of a write."""
        try:
            self._wait(0)
        finally:
            self._waiting.clear()
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._raise()

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting[0].result()
            self._waiting.popleft()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self, write: Callable[[], object]) -> None:
        if self._error is None:
            try:
                write()
            except BaseException as error:
                self._error = error

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the writes; their error does not hide one of the block, but is noted on it."""
        try:
            self.close()
        except BaseException as failure:
            if error is None:
                raise
            if failure is not error:
                error.add_note(f"besides, a write failed: {failure}")
