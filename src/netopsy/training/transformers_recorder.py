"""Record a trajectory from a training by the Hugging Face Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError('TransformersRecorder needs Transformers: pip install "netopsy[transformers]"') from error

from netopsy.training.periodic import PeriodicRecorder


class TransformersRecorder(TrainerCallback):
    """Records checkpoint 0, then the state after every n-th epoch (or step) and the last: `Recorder` as a callback.

    In a script of your own::

        trainer = Trainer(model, args, train_dataset=data, callbacks=[netopsy.TransformersRecorder("runs/mine")])
        trainer.train()
        trajectory = netopsy.Trajectory.from_folder(factory, "runs/mine")

    Training resumed with `resume_from_checkpoint` goes on in the folder it recorded before; where nothing was
    recorded, the first checkpoint is the state that it goes on from, under its own key. With
    `load_best_model_at_end` the last state is still the one that training ended with.

    Args:
        folder: where to write.
        every_n_epochs: record after every n-th epoch; the keys are epochs. By default every one.
        every_n_steps: record after every n-th optimizer step instead; the keys are steps.
        overwrite: replace what a recorder wrote in this folder, when training starts from its beginning.

    Raises:
        NetopsyError: n is not a positive integer, or both are given; when training starts, as `Recorder`.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        overwrite: bool = False,
    ) -> None:
        self._records = PeriodicRecorder(
            folder, every_n_epochs=every_n_epochs, every_n_steps=every_n_steps, overwrite=overwrite
        )

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Record checkpoint 0; a resumed training has its state again."""
        self._records.start(kwargs["model"], self._key(state), resumed=state.global_step > 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record a step."""
        if self._records.by_steps:
            self._records.reach(self._key(state))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record an epoch."""
        if not self._records.by_steps:
            self._records.reach(self._key(state))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the last state: the Trainer logs once more before it loads the best model in its place."""
        if control.should_training_stop:
            self._records.reach(self._key(state), last=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for the files; without a best model in its place, the last state is there if data ran out early."""
        if not args.load_best_model_at_end:
            self._records.reach(self._key(state), last=True)
        self._records.finish()

    def _key(self, state: TrainerState) -> int:
        """Steps so far, or epochs: a float in the Trainer, of which a part counts as an epoch."""
        return state.global_step if self._records.by_steps else math.ceil(round(state.epoch or 0.0, 6))
