"""How far each site has moved from where it started (layers paper, Fig. 1bc, App. D)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from netopsy._typing import Key
from netopsy.network.sites import Site
from netopsy.network.trajectory import Trajectory
from netopsy.probes.key_column import key_column


def checkpoint_distances(
    trajectory: Trajectory | nn.Module, sites: Sequence[Site], checkpoints: Sequence[Key] = ()
) -> pd.DataFrame:
    """Distance of each site's parameters at each checkpoint, and at the end, from the initial ones.

    Args:
        trajectory: with an initial checkpoint; else the frame is empty.
        sites: their parameters count, their buffers do not.
        checkpoints: keys; the final one is added.

    Returns:
        Columns `site, checkpoint, l2, linf`: ‖θ^τ − θ^0‖₂ / √dim and ‖θ^τ − θ^0‖_∞, in units of the weights.
    """
    rows: list[tuple[str, Key, float, float]] = []
    if isinstance(trajectory, Trajectory) and trajectory.initial is not None:
        for site in sites:
            for key in dict.fromkeys([*checkpoints, trajectory.final]):
                rows.append((site.name, key, *_distance(trajectory, site, trajectory.initial, key)))
    names, keys, *norms = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pd.DataFrame(
        {
            "site": pd.Series(names, dtype="string"),
            "checkpoint": key_column(keys),
            "l2": pd.Series(norms[0], dtype="float64"),
            "linf": pd.Series(norms[1], dtype="float64"),
        }
    )


def _distance(trajectory: Trajectory, site: Site, start: Key, key: Key) -> tuple[float, float]:
    squares, largest, size = 0.0, 0.0, 0
    for address in site.addresses:
        if address.kind != "parameter":
            continue
        moved = address.select(trajectory.tensor(key, address.name)).double()
        moved = torch.abs(moved - address.select(trajectory.tensor(start, address.name)).double())
        squares += float(moved.square().sum())
        largest = max(largest, float(moved.max()))
        size += moved.numel()
    return (squares / size) ** 0.5 if size else 0.0, largest
