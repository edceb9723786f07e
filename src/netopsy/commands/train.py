"""Train a network into a run folder that every other command reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from netopsy._checks import NetopsyError
from netopsy.commands.inputs import model_factory, read_data, train_and_test
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, build, fit
from netopsy.training.inputs import check_inputs, hold_out
from netopsy.training.run_folder import clear_listed


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
    given, test = train_and_test(read_data(data))
    validation = None if config.validation_share else test
    factory = model_factory(model, depth=depth, width=width, data=given)
    with _sole_trainer(folder):
        if overwrite:
            check_inputs(given, validation, config)  # what is refused must not cost the old run
            build(factory, given, validation, config)
            clear_listed(folder)
        return fit(
            factory,
            given,
            config,
            folder=folder,
            resume=not overwrite,
            overwrite=overwrite,
            validation=validation,
            about={"data": data, "model": model},
            progress=lambda epoch, epochs, row: progress(epoch, epochs),
        )


def planned(config: FitConfig, *, model: str, depth: int | None, width: float | None, data: str) -> dict[str, Any]:
    """What training would do: sizes and steps.

    Raises:
        NetopsyError: for what training would refuse, but for its folder.
    """
    given, test = train_and_test(read_data(data))
    validation = None if config.validation_share else test
    check_inputs(given, validation, config)
    network, _ = build(model_factory(model, depth=depth, width=width, data=given), given, validation, config)
    if config.validation_share:
        given, validation = hold_out(given, config.validation_share, config.seed)
    parameters = list(network.parameters())
    return {
        "model": type(network).__name__,
        "parameters": sum(value.numel() for value in parameters),
        "trained_parameters": sum(value.numel() for value in parameters if value.requires_grad),
        "train_examples": len(given[0]),
        "validation_examples": len(validation[0]) if validation else 0,
        "epochs": config.epochs,
        "steps": -(-len(given[0]) // config.batch_size) * config.epochs,
        "checkpoints": len(config.keys),
        "checkpoint_bytes": len(config.keys) * sum(value.nbytes for value in network.state_dict().values()),
    }


def summary(run: FitResult, folder: Path) -> dict[str, Any]:
    """How a run ended: where, why, and the history's row of its last checkpoint."""
    last = max(run.states)
    [row] = run.history[run.history.epoch == last].drop(columns=["epoch", "seconds"]).to_dict("records")
    return {
        "folder": str(folder),
        "checkpoints": [*run.states],
        "stopped": run.stopped,
        "epochs": len(run.history),
        "epoch": last,
        **{str(name): value for name, value in row.items()},
        "seconds": float(run.history.seconds.sum()),
    }


@contextmanager
def _sole_trainer(folder: Path) -> Iterator[None]:
    """Two processes in one run folder would write over each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise NetopsyError(
            f"{folder}: another process is training there; wait for it, or choose another folder"
        ) from error
