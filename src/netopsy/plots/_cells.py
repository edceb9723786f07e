"""A matrix of numbers as colored cells, with the numbers in them wherever they fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from netopsy._checks import NetopsyError, one_of
from netopsy.plots.frames import Quantity
from netopsy.plots.style import (
    LABEL,
    MISSING,
    SMALLEST,
    TICK,
    VERMILLION,
    check_members,
    contrast_ink,
    elide,
    inches,
    label_ticks,
    lay_out,
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
    if not 0 < vmax < np.inf:
        raise NetopsyError(f"vmax: expected a finite number above 0; got {vmax!r}")
    check_members(members, cells.sites)
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
    ax.grid(False)
    for row, column in np.argwhere(~known & (status != UNDEFINED)):
        ax.add_patch(
            Rectangle((column, row), 1, 1, facecolor=MISSING, edgecolor="white", linewidth=0.6, hatch="/////")
        )
    across, down = cells.cuts if along_x else cells.cuts[::-1]
    ax.vlines(across, 0, rows, color="white", linewidth=3)
    ax.hlines(down, 0, columns, color="white", linewidth=3)
    if colorbar:
        add_bar(ax, mesh, cells)
    names = (np.arange(len(cells.sites)) + 0.5).tolist()
    keys = (np.arange(len(cells.columns)) + 0.5).tolist()
    if along_x:
        label_ticks(ax, "y", elide(cells.columns), keys)
        name_sites(ax, "x", cells.sites, names, members)
    else:
        name_sites(ax, "y", cells.sites, names, members)
        label_ticks(ax, "x", elide(cells.columns), keys)
    lay_out(root(ax))
    colors = mesh.to_rgba(np.where(np.isfinite(cells.value), cells.value, 0))[..., :3].tolist()
    printed = print_numbers(ax, cells, colors, along_x=along_x)
    lines = [*([] if along_x else ["checkpoint"]), *explain(cells, deviations=printed)]
    ax.set_xlabel("\n".join(lines), size=LABEL)
    if along_x:
        ax.set_ylabel("checkpoint", size=LABEL)
    return ax


def add_bar(ax: Axes, mesh: QuadMesh, cells: Cells) -> None:
    """Put a thin color bar with the quantity's name and unit beside the cells, as high as they are."""
    known = cells.value[np.isfinite(cells.value)]
    bounds = bool((known > mesh.norm.vmax).any()), bool((known < 0).any())
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
    names, keys = text_width(elide(cells.sites)), text_width(elide(cells.columns))
    bar = 0.8 * colorbar
    if along_x:
        return keys + 0.4 + sites * min(0.34, max(0.105, 12 / sites)) + bar, names + 0.3 + columns * 0.25
    row = 0.36 if sites <= 8 else 0.26
    return names + 0.2 + columns * max(0.46, keys + 0.1) + bar, max(1.9, 0.65 + sites * row)


def print_numbers(ax: Axes, cells: Cells, colors: list[list[list[float]]], *, along_x: bool) -> bool:
    """Write values and signs into the cells, as far as there is room; says whether deviations found it."""
    width, height = inches(ax)
    shape = cells.value.shape[::-1] if along_x else cells.value.shape
    room = 72 * width / shape[1], 72 * height / shape[0]
    deviations, size = False, min(TICK, 0.8 * min(room))
    texts = list(cell_texts(cells, None, deviations=False))
    for decimals, with_deviations in ((1, True), (1, False), (0, False)):
        candidates = list(cell_texts(cells, decimals, deviations=with_deviations))
        largest = largest_font([text for _, _, text in candidates], *room)
        if largest >= SMALLEST:
            deviations, size, texts = with_deviations, largest, candidates
            break
    for row, column, text in texts:
        x, y = (row, column) if along_x else (column, row)
        color = contrast_ink(colors[row][column]) if np.isfinite(cells.value[row, column]) else VERMILLION
        ax.text(
            x + 0.5, y + 0.5, text, ha="center", va="center", size=size, color=color, linespacing=1.0
        ).set_in_layout(False)  # it lies inside; leaving hundreds of texts out of the layout makes it fast
    return deviations


def cell_texts(cells: Cells, decimals: int | None, *, deviations: bool) -> Iterator[tuple[int, int, str]]:
    """Row, column and text of every cell that has something to say; decimals=None: only its sign."""
    for row, states in enumerate(cells.status):
        for column, state in enumerate(states):
            value, deviation = float(cells.value[row, column]), float(cells.deviation[row, column])
            text = SIGNS.get(state, "")
            if decimals is not None and np.isfinite(value):
                text += cells.quantity.text(value, decimals)
                if deviations and np.isfinite(deviation):
                    text += f"\n±{cells.quantity.text(deviation, decimals if cells.quantity.percent else 0)}"
            if text:
                yield row, column, text


def largest_font(texts: Sequence[str], width: float, height: float) -> float:
    """Largest size in points, up to a tick label's, at which every text fits a cell of this size in points."""
    lines = max((text.count("\n") + 1 for text in texts), default=1)
    return min(TICK, 0.82 * width / (72 * max(text_width(texts, 1.0), 1 / 72)), 0.85 * height / (1.15 * lines))


def explain(cells: Cells, *, deviations: bool) -> list[str]:
    """One line on the signs that occur, or none."""
    states = {state for row in cells.status for state in row}
    notes = [f"{SIGNS[state]} {meaning}" for state, meaning in MEANINGS.items() if state in states]
    if cells.draws > 1:
        notes.append(f"re-rand: mean {'± sd ' if deviations else ''}of {cells.draws} draws")
    if any(state != UNDEFINED for state in np.array(cells.status)[~np.isfinite(cells.value)]):
        notes.append("hatched: no value")
    return ["   ".join(notes)] if notes else []
