"""A grid over alpha and sigma as a landscape in three dimensions (Chatterji et al. 2020, Figure 1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LightSource, Normalize
from mpl_toolkits.mplot3d.axes3d import Axes3D  # type: ignore[import-untyped]

from netopsy.plots._grids import Grid, SigmaScale
from netopsy.plots.style import BLUE, LABEL, TICK, shades

FINE = 8
"""Cells of a surface between two measured points: its color then changes smoothly along straight lines."""
MESH = 0.88
"""Brightness of the lines through measured points."""
ROOM = 0.24
"""Between two labels of sigma, as a share of one side."""
WALL = "#f7f7f7"


def draw_surface(ax: Axes3D, grid: Grid, scale: SigmaScale, top: float, *, label: str) -> None:
    """The landscape with both sides, the path and its ends."""
    away = scale.at(grid.sigmas) - scale.at(grid.sigmas[:1])
    x, value = np.concatenate([-away[:0:-1], away]), np.concatenate([grid.value[:0:-1], grid.value])
    value = np.minimum(value, top)
    fine_x, fine_y = refined(x), refined(grid.alphas)
    along = np.array([np.interp(fine_y, grid.alphas, row) for row in value])
    z = np.array([np.interp(fine_x, x, column) for column in along.T]).T
    grid_x, grid_y = np.meshgrid(fine_x, fine_y, indexing="ij")
    norm = Normalize(0, top)
    shadow = LightSource(azdeg=300, altdeg=50).hillshade(z, vert_exag=0.35 / top, dx=0.1, dy=0.1)
    colors = shades()(norm(z))
    colors[..., :3] *= (0.75 + 0.25 * np.minimum(shadow / np.sin(np.pi * 50 / 180), 1))[..., None]  # flat: unchanged
    colors[::FINE, :, :3] *= MESH
    colors[:, ::FINE, :3] *= MESH
    ax.plot_surface(
        grid_x, grid_y, z, rstride=1, cstride=1, facecolors=colors, linewidth=0, antialiased=False, shade=False
    )
    path = np.minimum(grid.value[0], top)
    ax.plot(np.zeros(len(path)), grid.alphas, path, color=BLUE, linewidth=2, zorder=9, label="path")
    ends = (grid.alphas[0], path[0], 0.08, "θ⁰", "center"), (grid.alphas[-1], path[-1], 0.03, "θᶠ  ", "right")
    for alpha, height, over, name, side in ends:  # the initial values lie behind, the trained ones before the path
        if alpha in (0, 1):
            ax.plot(0, alpha, height, marker="o", markersize=5, color=BLUE, markeredgecolor="white", zorder=10)
            ax.text(0, alpha, height + over * top, name, size=LABEL + 1, color=BLUE, ha=side, zorder=11)
    ticks, names = scale.ticks()
    pairs = [(place - scale.at(grid.sigmas[:1])[0], name) for place, name in zip(ticks, names, strict=True)]
    apart = [(place, name) for place, name in pairs if place == 0]
    last = np.inf
    for place, name in reversed(pairs):  # from the outermost inwards, as close as labels have room
        if ROOM * x[-1] < place < last - ROOM * x[-1]:
            apart, last = [*apart, (place, name)], place
    sides = sorted({(side * place, name) for place, name in apart for side in (-1, 1)})
    ax.set_xticks([place for place, _ in sides], labels=[name for _, name in sides])
    ax.set_yticks([0, 0.5, 1], labels=["0", "½", "1"])
    ax.set(xlim=(x[0], x[-1]), ylim=(0, 1), zlim=(0, top))
    ax.zaxis.set_major_formatter(grid.quantity.formatter())
    ax.set_xlabel("σ of the noise", size=LABEL, labelpad=0)
    ax.set_ylabel("α", size=LABEL, labelpad=-2)
    ax.set_zlabel(label, size=LABEL, labelpad=-1)
    ax.tick_params(labelsize=TICK - 1, pad=0)
    ax.set_box_aspect((1.25, 1.1, 0.75), zoom=1.0)
    ax.view_init(elev=36, azim=108)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color(WALL)
        axis._axinfo["grid"].update(color="#dddddd", linewidth=0.5)


def refined(places: Float[np.ndarray, " p"]) -> Float[np.ndarray, " q"]:
    """The same points with further ones between them."""
    fine: Float[np.ndarray, " q"] = np.interp(
        np.arange((len(places) - 1) * FINE + 1) / FINE, np.arange(len(places)), places
    )
    return fine
