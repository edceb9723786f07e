"""Statistics of width sweeps: one value a seed, of the rows that `units_sweeps.measure_point` leaves.

A net's quantity is the mean over its layers, as in the paper. A net that failed leaves NaN in its seed's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from netopsy.studies.claims import BySeed, rank_correlation
from netopsy.studies.units_sweeps import TRAINED

Quantity: TypeAlias = Literal["robustness", "compressibility", "similar units", "similar share", "tail", "accuracy"]

COLUMNS: dict[str, str] = {
    "robustness": "area",
    "compressibility": "compressibility",
    "similar units": "similar_per_unit",
    "similar share": "similar_share",
    "tail": "r99",
    "accuracy": "accuracy",
}
"""Quantity -> column of the sweep's rows."""


def level(
    rows: pd.DataFrame,
    line: str,
    quantity: Quantity,
    *,
    sites: Sequence[str] | None = None,
    checkpoint: str = TRAINED,
) -> pd.DataFrame:
    """A quantity, mean over the layers: a row a seed, a column a width, ascending."""
    of = rows[rows.line == line]
    kept = (
        of[of.checkpoint == checkpoint] if sites is None else of[(of.checkpoint == checkpoint) & of.site.isin(sites)]
    )
    column = COLUMNS[quantity]
    values = kept.assign(value=pd.to_numeric(kept[column], errors="coerce").astype("float64"))
    table = values.groupby(["seed", "width"]).value.mean().unstack()
    seeds, widths = sorted(rows.seed.unique()), sorted(of.width.unique())
    return table.reindex(index=seeds, columns=widths).astype("float64")


def trend(
    rows: pd.DataFrame,
    line: str,
    quantity: Quantity,
    *,
    sites: Sequence[str] | None = None,
    checkpoint: str = TRAINED,
) -> BySeed:
    """The largest net's minus the smallest one's."""
    table = level(rows, line, quantity, sites=sites, checkpoint=checkpoint)
    return table.iloc[:, -1] - table.iloc[:, 0]


def shift(rows: pd.DataFrame, line: str, other: str, quantity: Quantity) -> BySeed:
    """One line's mean over its widths minus another's."""
    return (level(rows, line, quantity) - level(rows, other, quantity)).mean(axis=1, skipna=False)


def turn(rows: pd.DataFrame, line: str, other: str, quantity: Quantity) -> BySeed:
    """One line's trend minus another's."""
    return trend(rows, line, quantity) - trend(rows, other, quantity)


def ends_over_middle(rows: pd.DataFrame, line: str, quantity: Quantity) -> BySeed:
    """Mean of the first and the last layer minus that of those between, mean over the widths."""
    sites = list(dict.fromkeys(rows[(rows.line == line) & rows.site.notna()].site))
    ends = level(rows, line, quantity, sites=[sites[0], sites[-1]])
    return (ends - level(rows, line, quantity, sites=sites[1:-1])).mean(axis=1, skipna=False)


def agreement(rows: pd.DataFrame, line: str, quantity: Quantity) -> BySeed:
    """Share of the layers whose trend has the sign of the network's."""
    sites = list(dict.fromkeys(rows[(rows.line == line) & rows.site.notna()].site))
    whole = trend(rows, line, quantity)
    each = [(trend(rows, line, quantity, sites=[site]) * whole > 0).astype("float64") for site in sites]
    return pd.concat(each, axis=1).mean(axis=1).where(whole.notna())


def depth_correlation(rows: pd.DataFrame, line: str, quantity: Quantity) -> BySeed:
    """Spearman's correlation of a layer's place and its quantity, mean over the widths."""
    sites = list(dict.fromkeys(rows[(rows.line == line) & rows.site.notna()].site))
    tables = [level(rows, line, quantity, sites=[site]) for site in sites]
    values = np.stack([table.to_numpy() for table in tables])
    found = [
        np.mean([rank_correlation(of_net.tolist()) for of_net in of_seed.T]) for of_seed in values.transpose(1, 0, 2)
    ]
    return pd.Series(found, index=tables[0].index, dtype="float64")
