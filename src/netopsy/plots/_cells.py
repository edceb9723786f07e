"""A matrix of numbers as colored cells, with the numbers in them wherever they fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, to_rgb
from matplotlib.patches import Rectangle

from netopsy._checks import NetopsyError, one_of
from netopsy.plots._frames import Quantity
from netopsy.plots.style import (
    INK,
    LABEL,
    MISSING,
    SMALLEST,
    TICK,
    VERMILLION,
    contrast_ink,
    inches,
    label_ticks,
    name_sites,
    new_axes,
    root,
    shades,
    text_width,
)

BAR = 0.14
"""Width of a color bar in inches."""

DEEP = 20
"""Sites beyond which `transpose="auto"` puts them along x."""

SIGNS = {"no-op": "=", "non-finite": "×"}
MEANINGS = {"no-op": "edit changes nothing", "non-finite": "output not finite"}
UNDEFINED = "undefined"
"""Status of a cell that has no meaning, and is left blank; a cell without a value is hatched."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """What is drawn, sites x columns; `status` marks cells, `deviation` over `draws` (NaN: none) is printed after ±.

    `cuts` are the numbers of sites and of columns after which a gap separates what is of another kind.
    """

    sites: tuple[str, ...]
    columns: tuple[str, ...]
    value: Float[np.ndarray, "s c"]
    deviation: Float[np.ndarray, "s c"]
    draws: int
    status: tuple[tuple[str, ...], ...]
    cuts: tuple[tuple[int, ...], tuple[int, ...]]
    quantity: Quantity
    label: str


def draw_cells(
    cells: Cells,
    *,
    vmax: float,
    ax: Axes | None,
    transpose: bool | str,
    members: Collection[str],
    colorbar: bool,
) -> Axes:
    """Draw the cells, the labels of both axes, the color bar and a line that explains the signs in use."""
    one_of("transpose", transpose, ("auto", True, False))
    if not vmax > 0:
        raise NetopsyError(f"vmax: expected a number above 0; got {vmax!r}")
    along_x = len(cells.sites) > DEEP if transpose == "auto" else bool(transpose)
    if ax is None:
        ax = new_axes(*figure_size(cells, along_x=along_x, colorbar=colorbar))
    value = cells.value.T if along_x else cells.value
    status = np.array(cells.status).T if along_x else np.array(cells.status)
    rows, columns = value.shape
    known = np.isfinite(value)
    mesh = ax.pcolormesh(
        np.ma.masked_array(value, ~known), cmap=shades(), norm=Normalize(0, vmax), edgecolors="white", linewidth=0.6
    )
    ax.set(xlim=(0, columns), ylim=(rows, 0))
    ax.spines[:].set_visible(False)
    for row, column in np.argwhere(~known & (status != UNDEFINED)):
        ax.add_patch(
            Rectangle((column, row), 1, 1, facecolor=MISSING, edgecolor="white", linewidth=0.6, hatch="/////")
        )
    across, down = cells.cuts if along_x else cells.cuts[::-1]
    ax.vlines(across, 0, rows, color="white", linewidth=3)
    ax.hlines(down, 0, columns, color="white", linewidth=3)
    if colorbar:
        add_bar(ax, mesh, cells)
    names, keys = np.arange(len(cells.sites)) + 0.5, np.arange(len(cells.columns)) + 0.5
    name_sites(ax, "x" if along_x else "y", cells.sites, names.tolist(), members)
    columns_at: Literal["x", "y"] = "y" if along_x else "x"
    label_ticks(ax, columns_at, cells.columns, keys.tolist())
    printed = print_numbers(
        ax, cells, along_x=along_x, ink=lambda item: contrast_ink(to_rgb(mesh.to_rgba(np.array([item]))[0]))
    )
    ax.set_xlabel(
        "\n".join(line for line in ("" if along_x else "checkpoint", key(cells, printed)) if line), size=LABEL
    )
    if along_x:
        ax.set_ylabel("checkpoint", size=LABEL)
    return ax


def add_bar(ax: Axes, mesh: QuadMesh, cells: Cells) -> None:
    """Put a thin color bar with the quantity's name and unit beside the cells, as high as they are."""
    lowest, highest = np.nanmin(cells.value, initial=0.0), np.nanmax(cells.value, initial=0.0)
    bounds = highest > mesh.norm.vmax, lowest < 0
    bar = root(ax).colorbar(
        mesh,
        ax=ax,
        pad=0.02,
        aspect=max(inches(ax)[1], 1.0) / BAR,
        fraction=0.15,
        format=cells.quantity.formatter(),
        extend={(True, True): "both", (True, False): "max", (False, True): "min"}.get(bounds, "neither"),
        extendfrac=0.03,
    )
    bar.set_label(cells.label, size=LABEL)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=TICK, length=2, width=0.6)


def figure_size(cells: Cells, *, along_x: bool, colorbar: bool) -> tuple[float, float]:
    """Width and height in inches at which the cells are wide enough for their labels."""
    sites, columns = len(cells.sites), len(cells.columns)
    names, keys = min(text_width(cells.sites), 29 * 0.6 * TICK / 72), text_width(cells.columns)
    bar = 0.8 * colorbar
    if along_x:
        return keys + 0.4 + sites * min(0.34, max(0.105, 12 / sites)) + bar, names + 0.3 + columns * 0.25
    return names + 0.2 + columns * max(0.46, keys + 0.1) + bar, max(
        1.9, 0.65 + sites * (0.36 if sites <= 8 else 0.26)
    )


def print_numbers(ax: Axes, cells: Cells, *, along_x: bool, ink: Callable[[float], str]) -> tuple[bool, bool]:
    """Write values and signs into the cells; says whether numbers, and whether deviations, found room."""
    width, height = inches(ax)
    shape = cells.value.shape[::-1] if along_x else cells.value.shape
    room = 72 * width / shape[1], 72 * height / shape[0]
    for decimals, deviations in ((1, True), (1, False), (0, False)):
        texts = list(cell_texts(cells, decimals, deviations))
        size = largest_font([text for _, _, text in texts], *room)
        if size >= SMALLEST:
            break
    else:
        decimals, deviations = -1, False
        texts = [
            (row, column, SIGNS[state])
            for row, states in enumerate(cells.status)
            for column, state in enumerate(states)
            if state in SIGNS
        ]
        size = min(TICK, 0.8 * min(room))
    for row, column, text in texts:
        value = cells.value[row, column]
        color = (
            VERMILLION if text == SIGNS["non-finite"] and np.isnan(value) else INK if np.isnan(value) else ink(value)
        )
        x, y = (row, column) if along_x else (column, row)
        ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", size=size, color=color, linespacing=1.0)
    return decimals >= 0, deviations and bool(np.isfinite(cells.deviation).any())


def cell_texts(cells: Cells, decimals: int, deviations: bool) -> Iterator[tuple[int, int, str]]:
    """Row, column and text of every cell that has something to say."""
    for row, states in enumerate(cells.status):
        for column, state in enumerate(states):
            value, deviation = cells.value[row, column], cells.deviation[row, column]
            text = SIGNS.get(state, "")
            if np.isfinite(value):
                text += cells.quantity.text(float(value), decimals)
            if deviations and np.isfinite(deviation):
                text += f"\n±{cells.quantity.text(float(deviation), decimals)}"
            if text:
                yield row, column, text


def largest_font(texts: Sequence[str], width: float, height: float) -> float:
    """Largest size in points, up to a tick label's, at which every text fits a cell of this size in points."""
    lines = max((text.count("\n") + 1 for text in texts), default=1)
    return min(TICK, 0.82 * width / (72 * max(text_width(texts, 1.0), 1 / 72)), 0.85 * height / (1.15 * lines))


def key(cells: Cells, printed: tuple[bool, bool]) -> str:
    """Explain the signs that occur."""
    states = {state for row in cells.status for state in row}
    notes = [f"{SIGNS[state]} {meaning}" for state, meaning in MEANINGS.items() if state in states]
    if cells.draws > 1:
        notes.append(f"re-rand: mean {'± sd ' * printed[1]}of {cells.draws} draws")
    if any(state != UNDEFINED for state in np.array(cells.status)[~np.isfinite(cells.value)]):
        notes.append("hatched: no value")
    return "   ".join(notes)
