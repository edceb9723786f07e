"""Train a classifier from a seeded start and keep its checkpoints."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from netopsy._checks import Diverged, NetopsyError
from netopsy._random import derive, forked
from netopsy._storage import read_table
from netopsy._typing import Key, State
from netopsy.data.dataset import corrupt_labels
from netopsy.network.trajectory import Trajectory
from netopsy.training import inputs, removal
from netopsy.training import resume as resuming
from netopsy.training.config import FitConfig
from netopsy.training.epoch import Row, device_of, make_optimizer, mean_loss_and_error, train_epoch
from netopsy.training.history import history_of
from netopsy.training.run_folder import RunFolder, check_start, find_run, prepare
from netopsy.training.stopping import Stopped, best_epoch, why_stop
from netopsy.training.writer import Writer

Progress = Callable[[int, int, Row], object]
"""Called after every epoch with its number (from 1), the number of epochs and its row of the history."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """A training run.

    Attributes:
        states: checkpoints by epoch, ascending; 0 is the initial state. A state dict on the CPU, or, for a run with
            a folder, the safetensors file that holds it. With patience the last one is the best epoch's.
        history: a row an epoch, from 1, those after the best one included: `epoch`, `lr`, `loss` (the config's: what
            all losses are; cross-entropies are in nats), `train_loss` and `train_error` (means over the epoch's
            examples, each under the weights that it met in training mode), with a target `fitted_loss` and
            `fitted_error` (of the train split after the epoch, in eval mode, without augmentation), with validation
            data `validation_loss` and `validation_error` (after the epoch, in eval mode), and `seconds` (of training
            alone). Errors are shares of wrong examples. With labels by position all of these are means over the
            positions that count, each with the same weight.
        config: of the run.
        factory: makes the network that was trained: the one given, without the removed modules.
        stopped: why training ended: "epochs" (all are done), "patience" or "target".
    """

    states: Mapping[int, State | Path] = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    config: FitConfig
    factory: Callable[[], nn.Module]
    stopped: Stopped

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def trajectory(self) -> Trajectory:
        """The checkpoints, for probes; read from the folder, where there is one, as they are needed."""
        states: dict[Key, State | Path | str] = dict(self.states.items())
        return Trajectory.from_states(self.factory, states)


def fit(
    factory: Callable[[], nn.Module],
    data: tuple[Tensor, Tensor],
    config: FitConfig,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    validation: tuple[Tensor, Tensor] | None = None,
    about: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a classifier; the same arguments give the same bits on the same machine.

    The same bits also need the same number of threads (`torch.get_num_threads`) and version of torch: how a sum is
    split decides how it is rounded. The model is trained on the device that the factory puts it on; parameters that
    do not require a gradient stay as they are. The process's own random generators are left as they were.

    With a folder, kept checkpoints are written as their epochs end, while training goes on:
    `checkpoints/<epoch>.safetensors`, beside them `history.parquet` and `manifest.json` (config, model, factory,
    versions, the data's fingerprint, the keys written so far, whether the run finished and why it stopped). What is
    written stays after an error or an interruption; `resume.safetensors` is what the run can then go on from, a few
    seconds (`resume.SECONDS`) or an epoch older than the interruption. A resumed run gives the bits of one that was
    never interrupted, except `seconds`, if its model keeps everything that changes in training in parameters and
    buffers.

    Args:
        factory: makes the model with its initial weights; called once, with all global generators seeded.
        data: train inputs, of shape (n, …), and labels, int64 of shape (n,), counted from 0; or labels by position,
            (n, p), with -100 where none counts, for a model that returns logits (n, p, classes).
        config: how to train.
        folder: where to write; None keeps the states in memory.
        overwrite: allow a folder that has files in it; an older run's are replaced.
        resume: go on with the run in the folder: one that has not begun is begun, an unfinished one goes on, a
            finished one is returned without training. `progress` hears of the epochs that are trained now.
        validation: inputs and labels that the history reports on after every epoch. They affect training only
            through `config.patience`.
        about: goes into the manifest; JSON. A resumed run that is given None keeps what it was begun with.
        progress: see `Progress`.

    Raises:
        NetopsyError: data, model or folder are not as above; or, to resume, the folder holds another run.
        Diverged: a loss or weight is no longer finite.
    """
    if resume and (folder is None or overwrite):
        raise NetopsyError(
            "resume=True: expected a folder, and overwrite=False, which would begin anew; got "
            f"folder={folder!r}, overwrite={overwrite}; pass one of the two"
        )
    inputs.check_inputs(data, validation, config)
    inputs.check_about(about)
    (images, labels), held = data, validation
    if config.validation_share:
        (images, labels), held = inputs.hold_out(data, config.validation_share, config.seed)
    model, trained = build(factory, data, held, config)
    if config.label_noise:
        labels = corrupt_labels(labels, config.label_noise, int(data[1].max()) + 1, derive(config.seed, "labels"))
    run, manifest = None, None
    if folder is not None:
        origin = inputs.describe(factory, model, data, validation, config, about)
        run, manifest = _open(Path(folder), origin, model, config, overwrite=overwrite, resume=resume)
    if run is not None and manifest is not None and manifest["finished"]:
        run.tidy(manifest["keys"], finished=True)
        return FitResult(
            states=run.states(manifest["keys"]),
            history=read_table(run.path / "history.parquet"),
            config=config,
            factory=trained,
            stopped=manifest.get("stopped") or "epochs",
        )
    optimizer = make_optimizer(model, config)
    states: dict[int, State | Path] = {}
    rows: list[Row] = []
    best: State | None = None
    stopped: Stopped | None = None

    def history() -> pd.DataFrame:
        return history_of(rows, config.loss)

    if run is not None and manifest is not None:
        snapshot = resuming.read(run.resume_file)
        resuming.put(model, optimizer, snapshot)
        rows, best = list(snapshot.rows), snapshot.best
        states = dict(run.states(key for key in config.keys if key <= len(rows)))
        run.write({}, history(), states)
        run.tidy(states, finished=False)
    with Writer() as writer:

        def keep(epoch: int, state: State, why: Stopped | None = None) -> None:
            if run is None:
                states[epoch] = state
            else:
                keys = (*states, epoch)
                writer.submit(functools.partial(run.write, {epoch: state}, history(), keys, why))
                states[epoch] = run.checkpoint(epoch)

        try:
            if not states:
                keep(0, _copied(model))
            written = time.monotonic()
            while stopped is None:
                epoch = len(rows) + 1
                row = train_epoch(model, optimizer, images, labels, config, epoch)
                if config.has_target:
                    row["fitted_loss"], row["fitted_error"] = mean_loss_and_error(model, images, labels, config.loss)
                if held is not None:
                    row["validation_loss"], row["validation_error"] = mean_loss_and_error(model, *held, config.loss)
                rows.append(row)
                _check_finite(model, row)
                if config.patience is not None and best_epoch(rows, config.monitor) == epoch:
                    best = _copied(model)
                why = why_stop(rows, config)
                if why is not None:
                    last = epoch if best is None else best_epoch(rows, config.monitor)
                    states = {key: state for key, state in states.items() if key < last}
                    keep(last, _copied(model) if best is None else best, why)
                    if run is not None:
                        writer.submit(functools.partial(run.tidy, tuple(states), finished=True))
                    stopped = why  # not before: an interrupted run must not be called finished without its last state
                elif epoch in config.keys:
                    keep(epoch, _copied(model))
                if run is not None and stopped is None and time.monotonic() - written >= resuming.SECONDS:
                    snapshot = resuming.take(model, optimizer, rows, best)
                    writer.submit(functools.partial(resuming.write, run.resume_file, snapshot))
                    written = time.monotonic()
                if progress is not None:
                    progress(epoch, config.epochs, row)
        except BaseException:
            if run is not None:
                with suppress(Exception):  # an error of this write must not hide the one that is on its way
                    writer.submit(functools.partial(run.write, {}, history(), tuple(states), stopped))
            raise
    return FitResult(states=states, history=history(), config=config, factory=trained, stopped=stopped)


def build(
    factory: Callable[[], nn.Module], data: inputs.Split, held: inputs.Split | None, config: FitConfig
) -> tuple[nn.Module, Callable[[], nn.Module]]:
    """The model to train, checked on the data; the factory of such models.

    Raises:
        NetopsyError: a model that cannot be trained on these data, or parts of it that cannot be frozen or removed.
    """
    images = data[0]
    top = max(int(split[1].max()) for split in (data, held) if split)
    with forked(derive(config.seed, "init")):
        model = factory()
        inputs.check_trainable(model)
        if config.removed:
            names = removal.remove(model, config.removed, images[:2].to(device_of(model)))
            factory = functools.partial(removal.without, factory, names)
        inputs.check_logits(model, *data, top)
    removal.freeze(model, config.frozen)
    return model, factory


def _open(
    path: Path, origin: Mapping[str, Any], model: nn.Module, config: FitConfig, *, overwrite: bool, resume: bool
) -> tuple[RunFolder, Mapping[str, Any] | None]:
    """The run's folder; the manifest of a run to go on with, or that has finished."""
    manifest = find_run(path, origin) if resume else None
    run = RunFolder(path=path, origin=origin)
    if manifest is not None:
        if origin["about"] is None:
            run = RunFolder(path=path, origin={**origin, "about": manifest.get("about")})
        if run.checkpoint(0).is_file():
            check_start(run.checkpoint(0), model.state_dict())
        if manifest["finished"] or run.resume_file.is_file():
            return run, manifest
    early = config.patience is not None or config.has_target  # its trajectory may end at any epoch
    prepare(path, range(config.epochs + 1) if early else config.keys, overwrite=overwrite or resume)
    return run, None


def _copied(model: nn.Module) -> State:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _check_finite(model: nn.Module, row: Row) -> None:
    finite = math.isfinite(row["train_loss"]) and all(bool(value.isfinite().all()) for value in model.parameters())
    if not finite:
        raise Diverged(
            f"epoch {row['epoch']}: expected a finite loss and finite weights; got a mean train loss of "
            f"{row['train_loss']:g}: training diverged; lower the lr (it was {row['lr']:g})"
        )
