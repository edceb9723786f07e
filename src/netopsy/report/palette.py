"""The report's colors, light and dark. The heatmaps' scale is the one of the pictures, and its mirror."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_hex

from netopsy.plots.style import luminance, shades
from netopsy.plots.units import KIND_COLORS

LIGHT = {
    "page": "#ffffff",
    "ink": "#201d26",
    "soft": "#635e6c",
    "line": "#dfdbe5",
    "panel": "#f7f5fa",
    "accent": "#7b2382",
    "blue": "#0072b2",
    "orange": "#a36a00",
    "vermillion": "#c24e00",
}
DARK = {
    "page": "#16141b",
    "ink": "#ebe8f0",
    "soft": "#aaa4b5",
    "line": "#37333f",
    "panel": "#1f1c26",
    "accent": "#dd8fd6",
    "blue": "#56b4e9",
    "orange": "#f0b442",
    "vermillion": "#ff8552",
}
"""The colors of a page by their names in style.css."""

TONES = tuple(zip(KIND_COLORS.values(), (
    "#467cda", "#c0d2fd", "#f2960d", "#3f3f48", "#6e657c", "#1bc1a7", "#ee2a2f", "#ffffff",
), strict=True))  # fmt: skip
"""Colors of the kinds of units, on a light page (the pictures') and on a dark one."""

LEVELS = 32
"""Steps of the scale: finer ones cannot be told apart."""


def level(value: float) -> int:
    """The step of a place on the scale, 0 to 1.

    >>> level(0), level(0.5), level(1), level(7)
    (0, 16, 31, 31)
    """
    return min(int(min(max(value, 0.0), 1.0) * LEVELS), LEVELS - 1)


def variables(*, dark: bool) -> str:
    """CSS variables: the page's colors; `--c0` … the heatmaps' from "nothing lost" on; `--i0` … what reads on each;
    `--t0` … the tones of kinds.

    Nothing lost is near the page's own color in both themes, so that the eye goes to what is lost.
    """
    places = np.linspace(0, 1, LEVELS)
    colors = _night(places) if dark else shades()(places)
    named = [f"--{name}:{color}" for name, color in (DARK if dark else LIGHT).items()]
    steps = [f"--c{step}:{to_hex(color)};--i{step}:{_ink(color)}" for step, color in enumerate(colors.tolist())]
    tones = [f"--t{place}:{pair[dark]}" for place, pair in enumerate(TONES)]
    return ";".join([*named, *steps, *tones])


def _ink(color: Sequence[float]) -> str:
    """Black or white: one of them has a contrast of at least 4.58, the root of 21, to any color."""
    return "#000000" if luminance(color) > 21**0.5 / 20 - 0.05 else "#ffffff"


@cache
def dark_scale() -> dict[str, str]:
    """The pictures' color scale, light -> dark."""
    scale = shades()
    places = np.linspace(0, 1, scale.N)
    return {to_hex(day): to_hex(night) for day, night in zip(scale(places), _night(places), strict=True)}


def _night(places: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 4"]:
    """The color scale of a dark page."""
    return mpl.colormaps["magma"](0.14 + 0.8 * places)


def classes() -> str:
    """CSS rules that give a cell of a step its color and its ink, and a tile its tone."""
    steps = [f".k{step}{{background:var(--c{step});color:var(--i{step})}}" for step in range(LEVELS)]
    return "".join([*steps, *(f".t{place}{{background:var(--t{place})}}" for place in range(len(TONES)))])
