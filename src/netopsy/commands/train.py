"""Train a network into a run folder that every other command reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from netopsy.commands.inputs import model_factory, read_data, train_and_test
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, fit


def train(
    folder: Path,
    config: FitConfig,
    *,
    model: str,
    depth: int | None,
    width: float | None,
    data: str,
    overwrite: bool,
    progress: Callable[[int, int | None], object],
) -> FitResult:
    """Train, or go on with an interrupted run of the same configuration; a finished one is read.

    Raises:
        NetopsyError: for names, sizes or options that cannot be worked with; or a folder that holds something else.
    """
    train, test = train_and_test(read_data(data))
    factory = model_factory(model, depth=depth, width=width, data=train)
    return fit(
        factory,
        train,
        config,
        folder=folder,
        resume=not overwrite,
        overwrite=overwrite,
        validation=None if config.validation_share else test,
        about={"data": data, "model": model},
        progress=lambda epoch, epochs, row: progress(epoch, epochs),
    )


def planned(config: FitConfig, *, model: str, depth: int | None, width: float | None, data: str) -> dict[str, Any]:
    """What training would do: sizes and steps."""
    (images, labels), test = train_and_test(read_data(data))
    network = model_factory(model, depth=depth, width=width, data=(images, labels))()
    held_out = round(config.validation_share * len(images))
    steps = -(-(len(images) - held_out) // config.batch_size)
    return {
        "model": type(network).__name__,
        "parameters": sum(value.numel() for value in network.parameters()),
        "train_examples": len(images) - held_out,
        "validation_examples": held_out or (len(test[0]) if test else 0),
        "epochs": config.epochs,
        "steps": steps * config.epochs,
        "checkpoints": len(config.keys),
        "checkpoint_bytes": len(config.keys) * sum(v.nbytes for v in network.state_dict().values()),
    }


def summary(run: FitResult, folder: Path) -> dict[str, Any]:
    """How a run ended."""
    last = {str(name): value for name, value in run.history.iloc[-1].items()}
    return {"folder": str(folder), "stopped": run.stopped, "checkpoints": [*run.states], **last}
