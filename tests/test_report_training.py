"""The report's section on how a network was trained."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from netopsy.report.blocks import Facts, Fold, Picture
from netopsy.report.training import summary, training_section

CONFIG = {"epochs": 3, "batch_size": 8, "optimizer": "sgd", "lr": 0.1, "patience": None, "frozen": [], "keep": "all"}
HEAD = "Net on digits, 3 epochs of SGD, lr 0.1, batches of 8"


def manifest(**more: Any) -> dict[str, Any]:
    base = {
        "config": CONFIG,
        "keys": [0, 1, 3],
        "model": "some.where.Net",
        "about": {"data": "digits"},
        "finished": True,
        "stopped": "epochs",
        "data": "abc",
        "versions": {"torch": "2"},
    }
    return {**base, **more}


def history(n: int = 3, **more: list[float]) -> pd.DataFrame:
    train = [0.4 - 0.1 * i for i in range(n)]
    return pd.DataFrame({"epoch": range(1, n + 1), "train_error": train, **more})


@pytest.mark.parametrize(
    ("given", "frame", "expected"),
    [
        ({}, history(), f"{HEAD}: train error while the weights moved 20 %."),
        (
            {},
            history(validation_error=[0.5, 0.4, 0.3]),
            f"{HEAD}: train error while the weights moved 20 %, validation error 30 %.",
        ),
        (
            {},
            history(1, validation_error=[0.5]).assign(epoch=3),
            "Net on digits, 1 epoch of SGD, lr 0.1, batches of 8: train error while the weights moved 40 %, "
            "validation error 50 %.",
        ),
        (
            {"finished": False, "stopped": None, "keys": [0, 1]},
            history(),
            f"{HEAD} so far; not finished: train error while the weights moved 20 %.",
        ),
        (
            {"stopped": "patience", "keys": [0, 2]},
            history(validation_error=[0.5, 0.2, 0.3]),
            f"{HEAD}, of which epoch 2 was the best and is the network's: train error while the weights moved 30 %, "
            "validation error 20 %.",
        ),
        (
            {"stopped": "target"},
            history(fitted_error=[0.3, 0.1, 0.0]),
            f"{HEAD}, until the train data were fitted: train error 0 %.",
        ),
        (
            {},
            history(validation_error=[0.5, 0.2, float("nan")]),
            f"{HEAD}: train error while the weights moved 20 %.",
        ),
        ({}, history().assign(train_error=math.nan), f"{HEAD}."),
        ({}, history(0), "Net on digits, SGD, lr 0.1, batches of 8."),
        ({"finished": False}, history(0), "Net on digits, SGD, lr 0.1, batches of 8; not finished."),
        (
            {"model": None, "about": None, "config": {"optimizer": "adam", "lr": "<b>"}},
            history(0),
            "A network, Adam, lr <b>, batches of None.",
        ),
        (
            {"stopped": "patience", "keys": [0]},
            history(),
            f"{HEAD}, of which epoch 0 was the best and is the network's.",
        ),
    ],
)
def test_what_was_trained_and_to_which_error(given: dict[str, Any], frame: pd.DataFrame, expected: str) -> None:
    assert summary(manifest(**given), frame) == expected


def test_the_picture_says_what_it_shows() -> None:
    both = training_section(manifest(), history(validation_error=[0.5, 0.4, 0.3])).blocks[0]
    assert isinstance(both, Picture)
    assert both.description == "Train and validation error of each epoch"
    assert both.caption == "Error of each epoch. Thin lines: checkpoints that were kept."
    alone = training_section(manifest(keys=[0, 1, 2, 3]), history()).blocks[0]
    assert isinstance(alone, Picture)
    assert alone.description == "Train error of each epoch"
    assert alone.caption == "Error of each epoch."


@pytest.mark.parametrize("frame", [history(1), pd.DataFrame(), history().assign(train_error=math.nan)])
def test_without_errors_of_several_epochs_there_is_no_picture(frame: pd.DataFrame) -> None:
    assert [type(block) for block in training_section(manifest(), frame).blocks] == [Fold]


def test_the_configuration() -> None:
    [fold] = training_section(manifest(versions="?", keys=[0, "x", 3]), pd.DataFrame()).blocks
    assert isinstance(fold, Fold)
    assert fold.blocks == (
        Facts(
            rows=(
                ("epochs", "3"),
                ("batch size", "8"),
                ("optimizer", "sgd"),
                ("lr", "0.1"),
                ("keep", "all"),
                ("data fingerprint", "abc"),
                ("checkpoints", "0, 3"),
            )
        ),
    )
