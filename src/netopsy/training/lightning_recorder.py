"""Record a trajectory from a Lightning training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError('LightningRecorder needs Lightning: pip install "netopsy[lightning]"') from error

from netopsy.training.periodic import PeriodicRecorder


class LightningRecorder(Callback):
    """Records checkpoint 0, then the state after every n-th epoch (or step) and the last: `Recorder` as a callback.

    In a script of your own::

        trainer = Trainer(callbacks=[netopsy.LightningRecorder("runs/mine", module="net")])
        trainer.fit(lightning_module, batches)
        trajectory = netopsy.Trajectory.from_folder(factory_of_net, "runs/mine")

    Training resumed with `ckpt_path` goes on in the folder it recorded before; where nothing was recorded, the first
    checkpoint is the state that it goes on from, under its own key. A `fast_dev_run` is not recorded.

    Args:
        folder: where to write.
        every_n_epochs: record after every n-th epoch; the keys are epochs. By default every one.
        every_n_steps: record after every n-th optimizer step instead; the keys are steps.
        module: name of the submodule to record, such as `"net"`: the names in the files are its own, without
            `net.` before them. By default the whole LightningModule.
        overwrite: replace what a recorder wrote in this folder, when training starts from its beginning.

    Raises:
        NetopsyError: n is not a positive integer, or both are given; when training starts, as `Recorder`.
        AttributeError: when training starts, there is no submodule of this name.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        module: str = "",
        overwrite: bool = False,
    ) -> None:
        self._records = PeriodicRecorder(
            folder, every_n_epochs=every_n_epochs, every_n_steps=every_n_steps, overwrite=overwrite
        )
        self._module = module

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record checkpoint 0; sanity checking is over, and a resumed training has its state again."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set from outside the class
            model = pl_module.get_submodule(self._module)
            self._records.start(model, self._key(trainer), resumed=trainer.global_step > 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a step."""
        if self._records.by_steps:
            self._records.reach(trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record an epoch, which Lightning counts only after this hook."""
        if not self._records.by_steps:
            self._records.reach(trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the last state and wait for the files."""
        self._records.reach(self._key(trainer), last=True)
        self._records.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what was recorded."""
        self._records.stop()

    def _key(self, trainer: Trainer) -> int:
        return trainer.global_step if self._records.by_steps else trainer.current_epoch
