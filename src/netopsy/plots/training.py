"""How a training run went, epoch by epoch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from netopsy._checks import NetopsyError
from netopsy.plots.frames import need
from netopsy.plots.style import BLUE, FAINT, LABEL, TICK, VERMILLION, finish_lines, new_axes

LINES = {
    "train_error": ("train, while the weights move", BLUE, (0, (4, 2))),
    "validation_error": ("validation", VERMILLION, "-"),
}


def training_curves(history: pd.DataFrame, *, checkpoints: Collection[int] = (), ax: Axes | None = None) -> Axes:
    """Draw the errors of each epoch; thin lines mark the epochs whose checkpoints were kept.

    Args:
        history: `netopsy.fit(...).history`, one row an epoch.
        checkpoints: epochs to mark.
        ax: where to draw; None makes a figure.

    Raises:
        NetopsyError: the frame is empty, lacks columns, or has no error in them.
    """
    need(history, ("epoch", "train_error"), "netopsy.fit(...).history")
    ax = new_axes(6.6, 2.8) if ax is None else ax
    epochs = history["epoch"].to_numpy()
    for epoch in marked_epochs(history, checkpoints):
        ax.axvline(epoch, color=FAINT, linewidth=0.6, zorder=1)
    measured = [name for name in LINES if name in history and history[name].notna().any()]
    if not measured:
        raise NetopsyError("frame: expected errors of at least one epoch; got none but NaN")
    few: dict[str, Any] = {"marker": "o", "markersize": 3} if len(history) <= 10 else {}
    for name in measured:
        label, color, dashes = LINES[name]
        ax.plot(epochs, history[name], color=color, linestyle=dashes, linewidth=1.3, label=label, **few)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(axis="x", labelsize=TICK, length=2, width=0.6)
    ax.set_xlabel("epoch", size=LABEL)
    finish_lines(ax, PercentFormatter(xmax=1, symbol=""), "error (%)", "")
    return ax


def marked_epochs(history: pd.DataFrame, checkpoints: Collection[int]) -> list[int]:
    """The epochs of checkpoints that get a line: none where every epoch has one, and lines would tell nothing.

    >>> marked_epochs(pd.DataFrame({"epoch": [1, 2, 3]}), [0, 1, 3])
    [1, 3]
    """
    epochs = {int(epoch) for epoch in history["epoch"]}
    inside = sorted(epochs.intersection(checkpoints))
    return inside if len(inside) < len(epochs) else []
