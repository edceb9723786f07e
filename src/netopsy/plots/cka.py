"""How alike the layers of two networks are (Chatterji, Neyshabur and Sedghi 2020, Figure 9)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from netopsy._checks import NetopsyError, inside
from netopsy.plots.frames import floats, need
from netopsy.plots.style import (
    LABEL,
    MISSING,
    SMALLEST,
    TICK,
    contrast_ink,
    elide,
    inches,
    lay_out,
    name_sites,
    new_axes,
    root,
    shades,
    text_width,
)

BAR = 0.14
"""Width of the color bar in inches."""


def cka_heatmap(
    frame: pd.DataFrame,
    *,
    vmin: float = 0.0,
    labels: tuple[str, str] = ("original", "other"),
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw CKA of all pairs of layers: the first network's along y from the bottom, the other's along x.

    `frame` is `netopsy.cka(...).to_frame()`; its `n` goes to the color bar's label. Colors go from `vmin` to 1;
    numbers are in the cells where there is room, in hundredths; a pair without a number is hatched. `labels` name the
    networks. Raises `NetopsyError` for a frame that is empty, lacks columns, or has a pair twice.
    """
    need(frame, ("layer_a", "layer_b", "cka"), "netopsy.cka(...).to_frame()")
    inside("vmin", vmin, -1, 1, open_high=True)
    rows, columns = (tuple(dict.fromkeys(map(str, frame[name]))) for name in ("layer_a", "layer_b"))
    if frame.duplicated(["layer_a", "layer_b"]).any():
        raise NetopsyError("frame: expected one row for a pair of layers; got several; draw one result at a time")
    value = np.full((len(rows), len(columns)), np.nan)
    row, column = ({name: place for place, name in enumerate(names)} for names in (rows, columns))
    for a, b, number in zip(frame["layer_a"], frame["layer_b"], floats(frame["cka"]), strict=True):
        value[row[str(a)], column[str(b)]] = number
    if ax is None:
        cell = max(0.105, min(0.42, 7 / max(value.shape)))
        beside, below = text_width(elide(rows)), 0.7 * text_width(elide(columns))
        ax = new_axes(beside + 0.6 + cell * len(columns) + 0.9 * colorbar, below + 0.6 + cell * len(rows))
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(value), cmap=shades(), norm=Normalize(vmin, 1), edgecolors="white", linewidth=0.6
    )
    ax.set(xlim=(0, len(columns)), ylim=(0, len(rows)), aspect="equal")
    ax.spines[:].set_visible(False)
    ax.grid(False)
    for i, j in np.argwhere(~np.isfinite(value)):
        ax.add_patch(Rectangle((j, i), 1, 1, facecolor=MISSING, edgecolor="white", linewidth=0.6, hatch="/////"))
    if colorbar:
        bar = root(ax).colorbar(mesh, ax=ax, pad=0.02, aspect=max(inches(ax)[1], 1.0) / BAR, fraction=0.15)
        bar.set_label("linear CKA" + counted(frame), size=LABEL)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=TICK, length=2, width=0.6)
    ax.set_ylabel(labels[0], size=LABEL, parse_math=False)
    ax.set_xlabel(labels[1], size=LABEL, parse_math=False)
    name_sites(ax, "y", rows, (np.arange(len(rows)) + 0.5).tolist())
    name_sites(ax, "x", columns, (np.arange(len(columns)) + 0.5).tolist())
    lay_out(root(ax))
    size = min(TICK, 72 * inches(ax)[0] / len(columns) * 0.3)
    for i, j in np.argwhere(np.isfinite(value)) if size >= SMALLEST else ():
        ink = contrast_ink(np.asarray(mesh.to_rgba(value[i, j]))[:3].tolist())
        text = f"{value[i, j]:.2f}".replace("-", "−").replace("0.", ".")
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", size=size, color=ink).set_in_layout(False)
    return ax


def counted(frame: pd.DataFrame) -> str:
    """The number of examples that pairs were measured on, for a label."""
    counts = floats(frame["n"])[np.isfinite(floats(frame["cka"]))] if "n" in frame else np.empty(0)
    if not len(counts):
        return ""
    least, most = int(counts.min()), int(counts.max())
    return f", n = {most:,} examples" if least == most else f", n = {least:,} to {most:,} examples"
