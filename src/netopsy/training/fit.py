"""Train a classifier from a seeded start and keep its checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked, generator
from netopsy._typing import State
from netopsy.data.dataset import corrupt_labels, fingerprint
from netopsy.training.augment import pad_crop_flip
from netopsy.training.config import FitConfig
from netopsy.training.run_folder import RunFolder, prepare

Row = dict[str, int | float]
"""One epoch's line of the history."""

Progress = Callable[[int, int, Row], object]
"""Called after every epoch with its number (from 1), the number of epochs and its row of the history."""

EVALUATION_BATCH = 1000  # fixed, so that a validation error does not depend on the training batch size


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """A training run.

    Attributes:
        states: checkpoints by epoch, ascending; 0 is the initial state. A state dict on the CPU, or, for a run with
            a folder, the safetensors file that holds it.
        history: a row an epoch, from 1: `epoch`, `lr`, `train_loss` and `train_error` (means over the epoch's
            examples, each under the weights that it met in training mode), with validation data `validation_loss`
            and `validation_error` (after the epoch, in eval mode), and `seconds` (of training alone). Losses are
            cross-entropies in nats, errors shares of wrong examples.
        config: of the run.
        factory: that made the model.
    """

    states: Mapping[int, State | Path] = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    config: FitConfig
    factory: Callable[[], nn.Module]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed


def fit(
    factory: Callable[[], nn.Module],
    data: tuple[Tensor, Tensor],
    config: FitConfig,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    validation: tuple[Tensor, Tensor] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a classifier with cross-entropy; the same arguments give the same bits on the same machine.

    The model is trained on the device that the factory puts it on; parameters that do not require a gradient stay
    as they are. The process's own random generators are left as they were.

    With a folder, every kept checkpoint is on disk as soon as its epoch ends: `checkpoints/<epoch>.safetensors`,
    beside them `history.parquet` and `manifest.json` (config, model, versions, the data's fingerprint, the keys
    written so far, and whether the run finished). What is written stays after an error or an interruption.

    Args:
        factory: makes the model with its initial weights; called once, with all global generators seeded.
        data: train inputs, of shape (n, …), and labels, int64 of shape (n,), counted from 0.
        config: how to train.
        folder: where to write; None keeps the states in memory.
        overwrite: allow a folder that has files in it; an older run's are replaced.
        validation: inputs and labels that the history reports on after every epoch; they never affect training.
        progress: see `Progress`.

    Raises:
        NetopsyError: data, model or folder are not as above; or a loss or weight is no longer finite.
    """
    images, labels = data
    _check_data("data", images, labels)
    if validation is not None:
        _check_data("validation", *validation)
    if config.augment != "none" and images.ndim != 4:
        raise NetopsyError(
            f"augment={config.augment!r}: expected images of shape (n, c, h, w); got {tuple(images.shape)}; "
            "reshape them or pass augment='none'"
        )
    with forked(derive(config.seed, "init")):
        model = factory()
        _check_model(model, images, max(int(split[1].max()) for split in (data, validation) if split))
    if config.label_noise:
        labels = corrupt_labels(labels, config.label_noise, int(labels.max()) + 1, derive(config.seed, "labels"))
    run = None
    if folder is not None:
        origin = {
            "config": asdict(config),
            "model": f"{type(model).__module__}.{type(model).__qualname__}",
            "data": fingerprint(*data),  # as given, before any label noise
        }
        run = RunFolder(path=prepare(Path(folder), config.keys, overwrite=overwrite), origin=origin)
    optimizer = _optimizer(model, config)
    states: dict[int, State | Path] = {}
    rows: list[Row] = []

    def keep(epoch: int) -> None:
        state = model.state_dict()
        states[epoch] = _copied(state) if run is None else run.keep(epoch, state)

    def log() -> None:
        if run is not None:
            run.log(_history(rows), states, finished=config.epochs in states)

    try:
        keep(0)
        log()
        for epoch in range(1, config.epochs + 1):
            row = _train_epoch(model, optimizer, images, labels, config, epoch)
            if validation is not None:
                row["validation_loss"], row["validation_error"] = _evaluate(model, *validation)
            rows.append(row)
            _check_finite(model, row)
            if epoch in config.keys:
                keep(epoch)
                log()
            if progress is not None:
                progress(epoch, config.epochs, row)
    except BaseException:
        log()
        raise
    return FitResult(states=states, history=_history(rows), config=config, factory=factory)


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, config: FitConfig, epoch: int
) -> Row:
    """One pass in random order. Every epoch has its own seeds, so that none depends on those before."""
    started = time.perf_counter()
    device, lr = _device(model), config.lr_at(epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    order = torch.randperm(len(images), generator=generator(derive(config.seed, "order", epoch)))
    source = generator(derive(config.seed, "augment", epoch))
    losses, errors, sizes = [], [], []
    model.train()
    with forked(derive(config.seed, "epoch", epoch)):
        for batch in torch.split(order.to(images.device), config.batch_size):
            inputs, targets = images[batch].to(device), labels[batch].to(device)
            if config.augment == "pad-crop-flip":
                inputs = pad_crop_flip(inputs, config.pad, source)
            logits = model(inputs)
            loss = cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
            errors.append((logits.detach().argmax(1) != targets).sum())
            sizes.append(len(batch))
    # Collected on the device and read once: reading every loss would wait for every step.
    total = torch.stack(losses).cpu().double() @ torch.tensor(sizes, dtype=torch.float64)
    return {
        "epoch": epoch,
        "lr": lr,
        "train_loss": total.item() / len(images),
        "train_error": int(torch.stack(errors).sum()) / len(images),
        "seconds": time.perf_counter() - started,
    }


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and share of errors in eval mode."""
    device, loss, errors = _device(model), 0.0, 0
    model.eval()
    for inputs, targets in zip(*(torch.split(part, EVALUATION_BATCH) for part in (images, labels)), strict=True):
        logits, wanted = model(inputs.to(device)), targets.to(device)
        loss += cross_entropy(logits, wanted, reduction="sum").item()
        errors += int((logits.argmax(1) != wanted).sum())
    return loss / len(images), errors / len(images)


def _optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    parameters, decay = model.parameters(), config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, config.lr, betas=(config.momentum, 0.999), weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=decay, fused=True)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _copied(state: State) -> State:
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


def _history(rows: list[Row]) -> pd.DataFrame:
    columns = ["epoch", "lr", "train_loss", "train_error", "validation_loss", "validation_error", "seconds"]
    return pd.DataFrame(rows, columns=[name for name in columns if not rows or name in rows[0]])


def _check_data(name: str, images: Tensor, labels: Tensor) -> None:
    if labels.dtype != torch.int64 or labels.ndim != 1 or len(labels) != len(images) or not len(labels):
        raise NetopsyError(
            f"{name}: expected inputs (n, …) and as many int64 labels (n,), at least one; "
            f"got {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0:
        raise NetopsyError(
            f"{name}: expected labels counted from 0; got {int(labels.min())}; number the classes anew"
        )
    if images.is_floating_point() and not bool(images.isfinite().all()):
        raise NetopsyError(f"{name}: expected finite inputs; got NaN or infinity; clean them first")


def _check_model(model: nn.Module, images: Tensor, top: int) -> None:
    """Refuse a model that cannot be trained on these data; one forward pass in eval mode, which changes nothing."""
    if not isinstance(model, nn.Module):
        raise NetopsyError(
            f"factory: expected a function that returns a torch.nn.Module; it returned {type(model).__name__}"
        )
    if not any(value.requires_grad for value in model.parameters()):
        raise NetopsyError(
            "factory: expected a model with a parameter that requires a gradient; it has none to train"
        )
    with torch.no_grad():
        logits = model.eval()(images[:2].to(_device(model)))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] <= top:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise NetopsyError(
            f"factory: expected a model that returns logits (n, classes) with classes > {top}, the largest label; "
            f"got {came} for {len(images[:2])} inputs; give it as many outputs as there are classes"
        )


def _check_finite(model: nn.Module, row: Row) -> None:
    finite = math.isfinite(row["train_loss"]) and all(bool(value.isfinite().all()) for value in model.parameters())
    if not finite:
        raise NetopsyError(
            f"epoch {row['epoch']}: expected a finite loss and finite weights; got a mean train loss of "
            f"{row['train_loss']:g}: training diverged; lower the lr (it was {row['lr']:g})"
        )
