"""Robustness of every layer at every checkpoint, as a heatmap (Zhang, Bengio and Singer 2022, Figures 1, 4 and 6)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from netopsy.plots._cells import UNDEFINED, Cells, draw_cells
from netopsy.plots.frames import FULL_MODEL, RERANDOM, Table, tabulate


def heatmap(
    frame: pd.DataFrame,
    *,
    metric: str = "error",
    split: str | None = None,
    final: int | str | None = None,
    members: Collection[str] = (),
    transpose: Literal["auto"] | bool = "auto",
    vmax: float | None = None,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw layers x (re-randomized, checkpoints, final) with one color scale from 0; the last row is the full model.

    `frame` is `netopsy.robustness(...).to_frame()`; `split=None` takes its first. Draws of a re-randomization are
    averaged, and their standard deviation printed if it fits. The last column is the trained model: the checkpoint
    `final`, or the last one where every edit is a no-op, or else a column `final` with the baseline's value. Names in
    `members` (a joint group's layers) are blue and marked with `*`. `transpose="auto"` puts more than 20 sites along
    x. Cells without a value are hatched; `=` marks an edit that changes nothing, `×` an output that is not finite.

    `vmax` is the value of the darkest color, in the frame's unit. None: the largest value, but at least 10 points
    above the baseline's error, so that noise does not look like a finding; for the loss at most twice that of the
    full model at its worst checkpoint, because a single broken layer would bleach all others.

    Without `ax` the picture gets a figure of its own, which pyplot does not know: in a notebook end the cell with
    `ax.figure`, in a script call `netopsy.plots.style.save(ax, path)`. Raises `NetopsyError` for a frame that is
    empty, lacks columns, a baseline or the split, or measures a cell twice, and for unknown members and metrics.
    """
    table = tabulate(frame, metric=metric, split=split, final=final)
    cells = Cells(
        sites=table.sites,
        columns=table.columns,
        value=table.value,
        deviation=table.deviation,
        draws=int(table.draws.max()),
        status=meaningful(table),
        cuts=cuts(table),
        quantity=table.quantity,
        label=table.quantity.named(table.split),
    )
    top = darkest(table, metric) if vmax is None else vmax
    return draw_cells(cells, vmax=top, ax=ax, transpose=transpose, members=members, colorbar=colorbar)


def meaningful(table: Table) -> tuple[tuple[str, ...], ...]:
    """Status of every cell; re-randomizing the full model is no experiment unless somebody made it one."""
    *rows, last = table.status
    if FULL_MODEL in table.sites and table.columns[0] == RERANDOM and not last[0]:
        last = (UNDEFINED, *last[1:])
    return (*rows, last)


def cuts(table: Table) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Gaps set off the full model from its layers, re-randomization from the checkpoints, and the final one."""
    rows = (table.layers,) if FULL_MODEL in table.sites else ()
    columns = {1 if table.columns[0] == RERANDOM else 0, len(table.columns) - 1} - {0}
    return rows, tuple(sorted(columns))


def darkest(table: Table, metric: str) -> float:
    """The end of the color scale (see `heatmap`)."""
    finite = table.value[np.isfinite(table.value)]
    largest = float(max(finite.max(initial=0.0), 1e-12))
    if metric in ("error", "delta_error"):
        return max(largest, min(table.baseline + 0.1, 1.0))
    if metric != "loss":
        return largest
    whole = table.value[table.layers :]
    untrained = float(whole[np.isfinite(whole)].max(initial=0.0))
    return min(largest, 2 * untrained) if untrained > 0 else largest
