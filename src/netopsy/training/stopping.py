"""When training ends, and at which epoch its trajectory does; both follow from the history alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from netopsy.training.config import FitConfig
from netopsy.training.epoch import Row

Stopped: TypeAlias = Literal["epochs", "patience", "target"]
"""Why training ended (all epochs are done, nothing got better for long enough, or the train split is fitted)."""


def best_epoch(rows: Sequence[Row], monitor: str) -> int:
    """The first epoch with the lowest value of a column; a value that is not finite is never below another one.

    >>> best_epoch([{"epoch": 1, "v": 2.0}, {"epoch": 2, "v": 1.0}, {"epoch": 3, "v": 1.0}], "v")
    2
    """
    return int(min(rows, key=lambda row: row[monitor] if math.isfinite(row[monitor]) else math.inf)["epoch"])


def why_stop(rows: Sequence[Row], config: FitConfig) -> Stopped | None:
    """Why training ends after the epochs in `rows`; None when it goes on."""
    row = rows[-1]
    if config.has_target and all(
        target is None or row[column] <= target
        for column, target in (("fitted_loss", config.target_loss), ("fitted_error", config.target_error))
    ):
        return "target"
    if config.patience is not None and row["epoch"] - best_epoch(rows, config.monitor) >= config.patience:
        return "patience"
    return "epochs" if row["epoch"] >= config.epochs else None
