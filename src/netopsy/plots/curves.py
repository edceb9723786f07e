"""Robustness of every layer as lines, one a checkpoint (Zhang, Bengio and Singer 2022, Figure 20)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from netopsy.plots._frames import METRICS, RERANDOM, Table, tabulate
from netopsy.plots.style import (
    FAINT,
    INK,
    LABEL,
    TICK,
    VERMILLION,
    bare,
    legend_beside,
    line_figure,
    name_sites,
)

MARKERS = "os^DvP<p>h"


def curves(
    frame: pd.DataFrame,
    *,
    metric: str = "error",
    split: str | None = None,
    final: int | str | None = None,
    members: Collection[str] = (),
    bands: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw one line over the layers for each checkpoint and for re-randomization, with the trained model as reference.

    The arguments are those of `netopsy.plots.heatmap.heatmap`. A band spans the smallest and the largest of several
    draws, or for a single value the interval that came with it (the frame's `delta_error_low` and `delta_error_high`,
    shifted to the metric; the loss has none). The full model stands apart at the right, joined to no layer. An open
    marker with `×` is an output that is not finite but has a value; no value leaves a gap. Raises `NetopsyError` as
    `heatmap` does.
    """
    table = tabulate(frame, metric=metric, split=split, final=final)
    quantity = METRICS[metric]
    places = np.arange(len(table.sites), dtype=np.float64)
    places[table.layers :] += 0.5
    ax = ax or line_figure(table.sites)
    ax.set_xlim(-0.5, places[-1] + 0.5)
    ax.axhline(table.baseline, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="trained model", zorder=1)
    # The last column is the reference line, unless somebody measured there something that is not the trained model.
    columns = table.columns[:-1] if len(table.columns) > 1 else table.columns
    styles = line_styles(columns)
    for column, label in enumerate(columns):
        draw_line(ax, table, column, places, styles[column], bands=bands)
        _ = label
    if table.layers < len(table.sites):
        ax.axvline(table.layers - 0.25, color=FAINT, linewidth=0.6)
    bare(ax)
    ax.yaxis.set_major_formatter(quantity.formatter())
    ax.set_ylabel(quantity.label.format(split=table.split), size=LABEL)
    ax.tick_params(axis="y", labelsize=TICK, length=2, width=0.6)
    legend_beside(ax, title="checkpoint")
    name_sites(ax, "x", table.sites, places.tolist(), members)
    return ax
