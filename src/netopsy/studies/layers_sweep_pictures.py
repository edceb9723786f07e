"""The layers paper's Figure 2 and Table 1 from our sweeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from netopsy.plots.grouped_bars import grouped_bars
from netopsy.plots.style import save
from netopsy.plots.width_curves import width_curves
from netopsy.studies.layers_sweep_claims import EASY, HARD, NORMAL, TREATMENTS, UNGROUPED, layer_increases

NAMES = {EASY: "digits", HARD: "Fashion-MNIST"}
BARS = {
    "normal": "trained normally",
    "individual": "one block reset\n(mean over the group)",
    "frozen": "trained with the\ngroup frozen",
    "removed": "trained without\nthe group",
    "joint": "group reset together",
}
"""What each treatment of Table 1 is called."""


def draw_f2(frame: pd.DataFrame, path: Path) -> Path:
    """Draw Figure 2: the mean increase of error of all layers but the first, against width.

    Takes and refuses the table that `layer_increases` does; a run without a value there is marked here.
    """
    runs = layer_increases(frame)
    runs = runs.assign(
        data=runs["data"].map(NAMES),
        net=[f"FCN {depth}×H" for depth in runs["depth"]],
        value=runs["increase"],
    )
    return save(width_curves(runs), path)


def draw_t1(frame: pd.DataFrame, path: Path) -> Path:
    """Draw Table 1: the test error of each treatment, for each data set and group of blocks.

    Takes the table of `measure_t1`. The normal net stands beside every group; a failed run has no value.
    """
    grouped = frame[frame["groups"] != UNGROUPED]
    pairs = grouped[["data", "groups"]].drop_duplicates().sort_values(["data", "groups"])
    normal = frame[frame["treatment"] == NORMAL].drop(columns="groups").merge(pairs, on="data")
    rows = pd.concat([normal, grouped], ignore_index=True)
    order = {name: place for place, name in enumerate(TREATMENTS)}
    rows = rows.assign(
        case=[f"{NAMES[data]}\n{group}" for data, group in zip(rows["data"], rows["groups"], strict=True)],
        value=np.where(rows["status"].isin(["ok"]), rows["error"], np.nan),
        place=rows["treatment"].map(order),
    ).sort_values(["data", "groups", "place", "seed"])
    return save(grouped_bars(rows.assign(treatment=rows["treatment"].map(BARS))), path)
