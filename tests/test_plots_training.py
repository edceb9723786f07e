"""The picture of a training run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from netopsy._checks import NetopsyError
from netopsy.plots.training import marked_epochs, training_curves

HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "train_error": [0.4, 0.3, 0.2], "validation_error": [0.5, np.nan, 0.3]})


def lines(ax: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in ax.lines}


def test_a_line_each_of_what_was_measured() -> None:
    ax = training_curves(HISTORY)
    assert [*lines(ax)] == ["train, while the weights move", "validation"]
    assert lines(ax)["train, while the weights move"] == [0.4, 0.3, 0.2]
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [1, 2, 3]
    assert ax.get_ylim()[0] == 0
    for frame in (HISTORY.drop(columns="validation_error"), HISTORY.assign(validation_error=np.nan)):
        assert [*lines(training_curves(frame))] == ["train, while the weights move"]


def test_one_epoch_is_a_point() -> None:
    ax = training_curves(HISTORY[:1])
    assert ax.lines[0].get_marker() == "o"
    ax.figure.canvas.draw()


def test_checkpoints_are_marked_unless_all_are() -> None:
    assert marked_epochs(HISTORY, [0, 2, 7]) == [2]
    assert marked_epochs(HISTORY, [0, 1, 2, 3]) == []
    marks = [line.get_xdata()[0] for line in training_curves(HISTORY, checkpoints=[0, 2, 3, 3]).lines[:-2]]  # type: ignore[index]
    assert marks == [2, 3]
    assert len(training_curves(HISTORY, checkpoints=[0, 1, 2, 3]).lines) == 2


def test_axes_of_the_caller_are_drawn_on() -> None:
    ax = training_curves(HISTORY)
    assert training_curves(HISTORY, ax=ax) is ax
    assert len(ax.lines) == 4


def test_refusals() -> None:
    with pytest.raises(NetopsyError, match=r"expected the columns of netopsy.fit.*missing train_error; got epoch"):
        training_curves(HISTORY[["epoch"]])
    with pytest.raises(NetopsyError, match=r"expected at least one row of netopsy.fit.*got an empty frame"):
        training_curves(HISTORY[:0])
    with pytest.raises(NetopsyError, match="expected errors of at least one epoch; got none but NaN"):
        training_curves(HISTORY.assign(train_error=np.nan, validation_error=np.nan))
