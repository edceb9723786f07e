"""The history of a run: a row an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from netopsy.training.epoch import Row
from netopsy.training.losses import Loss

COLUMNS = (
    "epoch", "lr", "loss", "train_loss", "train_error", "fitted_loss", "fitted_error", "validation_loss",
    "validation_error", "seconds",
)  # fmt: skip


def history_of(rows: Sequence[Row], loss: Loss) -> pd.DataFrame:
    """Epochs as a table, with what their losses are; columns that the run does not have are left out."""
    known = [name for name in COLUMNS if name == "loss" or not rows or name in rows[0]]
    return pd.DataFrame(list(rows), columns=known).assign(loss=pd.Series(loss, range(len(rows)), dtype="string"))


def rows_of(history: pd.DataFrame) -> list[Row]:
    """The epochs of a table that `history_of` made."""
    numbers = history.drop(columns="loss", errors="ignore")  # an older netopsy did not write it: it knew one only
    return [{str(name): value for name, value in row.items()} for row in numbers.to_dict("records")]
