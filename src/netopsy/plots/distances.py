"""How far every layer has moved at every checkpoint (Zhang, Bengio and Singer 2022, Figures 1b, 1c and 17 to 19)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from netopsy._checks import NetopsyError, one_of
from netopsy.plots._cells import Cells, draw_cells
from netopsy.plots.frames import Quantity, key, need, ordered_keys, ordered_sites

LABELS = {
    "l2": "‖θ − θ⁰‖₂ / √dim",
    "linf": "‖θ − θ⁰‖∞",
}


def distances(
    frame: pd.DataFrame,
    *,
    norm: Literal["l2", "linf"] = "l2",
    members: Collection[str] = (),
    transpose: Literal["auto"] | bool = "auto",
    vmax: float | None = None,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the distance of each layer's weights at each checkpoint from its initial weights, sites x checkpoints.

    `frame` has the columns `site, checkpoint, l2, linf`, one row for each site and checkpoint; `l2` is
    ‖θ_d^τ − θ_d^0‖₂ / √dim, `linf` is ‖θ_d^τ − θ_d^0‖_∞, both in units of the weights. The other arguments are those
    of `netopsy.plots.heatmap.heatmap`, beside which it is drawn. Raises `NetopsyError` for an unknown norm or member,
    and for a frame that is empty, lacks columns or has a cell twice.
    """
    one_of("norm", norm, tuple(LABELS))
    need(frame, ("site", "checkpoint", norm), "layer distances")
    keys = ordered_keys(frame["checkpoint"])
    sites = ordered_sites(frame["site"])
    value = np.full((len(sites), len(keys)), np.nan)
    for site, checkpoint, distance in zip(frame["site"], frame["checkpoint"], frame[norm], strict=True):
        at = sites.index(str(site)), keys.index(key(checkpoint))
        if not np.isnan(value[at]):
            raise NetopsyError(
                f"frame: expected one row for a site and checkpoint; got several for {site!r} at {key(checkpoint)!r}"
                "; draw one run at a time"
            )
        value[at] = distance
    finite = value[np.isfinite(value)]
    largest = float(max(finite.max(initial=0.0), 1e-12))
    cells = Cells(
        sites=sites,
        columns=tuple(map(str, keys)),
        value=value,
        deviation=np.full_like(value, np.nan),
        draws=1,
        status=tuple(tuple("non-finite" if np.isinf(item) else "ok" for item in row) for row in value),
        cuts=((), ()),
        quantity=Quantity(label=LABELS[norm], percent=False),
        label=LABELS[norm],
    )
    top = largest if vmax is None else vmax
    return draw_cells(cells, vmax=top, ax=ax, transpose=transpose, members=members, colorbar=colorbar)
