"""Recording now and then: what the callbacks of training frameworks share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from torch import nn

from netopsy._checks import NetopsyError, at_least
from netopsy.training.recorder import Recorder, holds_recording


class PeriodicRecorder:
    """What the callbacks share: records every n-th epoch or step, and the last, of a training that others run.

    Keys are epochs, or steps where `every_n_steps` is given; an epoch that training stops inside of counts.
    """

    def __init__(
        self, folder: Path | str, *, every_n_epochs: int | None, every_n_steps: int | None, overwrite: bool
    ) -> None:
        if every_n_epochs is not None and every_n_steps is not None:
            raise NetopsyError(
                f"recorder: expected every_n_epochs or every_n_steps; got both ({every_n_epochs} and {every_n_steps})"
                "; leave one out: it says what the keys count"
            )
        self.by_steps = every_n_steps is not None
        given = every_n_steps if self.by_steps else every_n_epochs
        self._every = 1 if given is None else given
        at_least("every_n_steps" if self.by_steps else "every_n_epochs", self._every, 1)
        self._folder, self._overwrite = Path(folder), overwrite
        self._recorder: Recorder | None = None
        self._seen = self._recorded = 0

    def start(self, model: nn.Module, key: int, *, resumed: bool) -> None:
        """Record checkpoint 0; of a training that goes on, go on too, or record what it goes on from."""
        self.stop()
        held = resumed and holds_recording(self._folder)
        if resumed and not held and key == 0:
            raise NetopsyError(
                f"recorder {self._folder}: expected a training from its start, or one recorded here; got one resumed "
                "inside its first epoch, whose checkpoint 0 is gone; pass every_n_steps"
            )
        self._recorder = Recorder(model, self._folder, key=key, resume=held, overwrite=self._overwrite and not held)
        self._seen = self._recorded = key

    def reach(self, key: int, *, last: bool = False) -> None:
        """Record now if a multiple of n is reached or passed, or training ends."""
        due = last or key // self._every > self._seen // self._every
        self._seen = max(key, self._seen)
        if self._recorder is not None and due and key > self._recorded:
            self._recorder.record(key)
            self._recorded = key

    def finish(self) -> None:
        """Wait until everything is on disk."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

    def stop(self) -> None:
        """Close what training did not finish; its errors must not hide what stopped training."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            with suppress(NetopsyError):
                recorder.close(finished=False)
