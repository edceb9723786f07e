"""One look for every picture: colors, sizes, labels of sites, and files that come out the same twice."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text
from matplotlib.ticker import Formatter
from PIL import Image

from netopsy._checks import NetopsyError, near, one_of

# Okabe and Ito's palette: told apart with every common color blindness, and in gray print by the markers beside it.
BLUE, VERMILLION, ORANGE, GRAY, INK = "#0072B2", "#D55E00", "#E69F00", "#767676", "#222222"
MISSING = "#e4e4e4"
FAINT = "#b8b8b8"

LABEL, TICK, SMALLEST = 9.0, 8.0, 6.0
"""Font sizes in points: axis labels, tick labels, and the smallest number that is still printed in a cell."""

LEGEND_COLUMNS = 3
"""Of a legend with more entries than fit below each other; of still more, as many as these hold are named."""

PNG_LIMIT = 200_000
"""Bytes above which a PNG is rendered at a lower resolution, so that a repository can keep it."""

DOTS = (200, 150, 120, 100, 80, 60)
"""Resolutions of a PNG in dots an inch, best first."""

_GLYPH = 0.62  # mean width of a character, in font sizes


def shades() -> Colormap:
    """A perceptually uniform map from cream (nothing lost) to dark purple: magma reversed, without its black end."""
    return ListedColormap(mpl.colormaps["magma_r"](np.linspace(0.02, 0.88, 256)), name="netopsy")


def contrast_ink(color: Sequence[float]) -> str:
    """Black-ish or white, whichever reads better on a background.

    >>> contrast_ink((1.0, 1.0, 0.8)), contrast_ink((0.2, 0.0, 0.3))
    ('#222222', '#ffffff')
    """
    under, dark = luminance(color) + 0.05, luminance(to_rgb(INK)) + 0.05
    return INK if under / dark >= 1.05 / under else "#ffffff"


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance of an sRGB color (WCAG 2), 0 to 1."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def elide(names: Sequence[str], most: int = 28) -> list[str]:
    """Cut the middle out of long names; different names keep different labels, if need be longer than `most`.

    Line breaks and other characters without a shape become signs; names alike over a long way are counted.

    >>> elide(["stem", "encoder.layers.block12.attention.output"], most=20)
    ['stem', 'encoder.la…on.output']
    >>> elide(["encoder.layer.10.norm.weight", "encoder.layer.11.norm.weight"], most=20)
    ['encode…0.norm.weight', 'encode…1.norm.weight']
    """
    if not all(map(str.isprintable, names)):
        names = [printable(name) for name in names]
    longest = max(map(len, names), default=0)
    for width in range(most, min(longest, 3 * most)):
        for head in sorted(range(3, width - 3), key=lambda start: abs(start - width // 2)):
            tail = width - head - 1
            labels = [name if len(name) <= width else f"{name[:head]}…{name[-tail:]}" for name in names]
            if len(set(labels)) == len(set(names)):
                return labels
    if longest <= 3 * most:
        return list(names)
    place = {name: at + 1 for at, name in enumerate(dict.fromkeys(names))}
    side = most // 2 - 3
    return [name if len(name) <= most else f"{name[:side]}…{name[-side:]} #{place[name]}" for name in names]


SHOWN = {sign: 0x2400 + sign for sign in range(0x20)} | dict.fromkeys(
    (*range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF),
    "\N{REPLACEMENT CHARACTER}",
)
"""Control characters, line breaks, overrides of the direction of writing, halves of characters -> what shows them."""


def printable(text: str) -> str:
    """One line that shows what is in it: control characters by their pictures, those that turn the text as `�`.

    >>> printable("a\\tb"), printable("line\\none"), printable("\\u202egnp")
    ('a␉b', 'line␊one', '�gnp')
    """
    if text.isprintable():
        return text
    return text.translate(SHOWN)


def plain(text: str) -> str:
    """Text that matplotlib sets as it is: no formula between dollars."""
    return printable(text).replace("$", r"\$")


def text_width(labels: Collection[str], size: float = TICK) -> float:
    """Estimate the width of the longest line among the labels, in inches; mathematical signs are wide."""
    lines = [line for label in labels for line in label.split("\n")]
    characters = max((len(line) + 0.4 * sum(sign in "=±×−" for sign in line) for line in lines), default=0)
    return characters * _GLYPH * size / 72


def new_axes(width: float, height: float) -> Axes:
    """Axes on a white figure of their own (sizes in inches), unknown to pyplot: dropping them frees the figure."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white").add_subplot()


def lay_out(figure: Figure) -> None:
    """Let the figure's layout engine (if it has one) make room for all labels that are there by now."""
    engine = figure.get_layout_engine()
    if engine is not None:
        with warnings.catch_warnings():  # that a glyph is missing is said when the picture is rendered, if it matters
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            engine.execute(figure)


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes, as last laid out."""
    box = ax.get_window_extent()
    return box.width / root(ax).dpi, box.height / root(ax).dpi


def root(owner: Axes | Figure | SubFigure) -> Figure:
    """The figure that is saved when these axes are."""
    figure = owner.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise NetopsyError("axes: expected axes on a figure; these were removed from theirs; draw them again")
    return figure


def check_members(members: Collection[str], sites: Sequence[str]) -> None:
    """Refuse a member that is no site, before anything is drawn."""
    for member in members:
        if member not in sites:
            raise NetopsyError(f"members: expected names of sites in the frame; got {member!r}{near(member, sites)}")


def name_sites(
    ax: Axes,
    which: Literal["x", "y"],
    sites: Sequence[str],
    positions: Sequence[float],
    members: Collection[str] = (),
) -> None:
    """Label one axis with sites; `members` are blue and marked with `*`."""
    labels = [f"*{text}" if site in members else text for site, text in zip(sites, elide(sites), strict=True)]
    for site, text in zip(sites, label_ticks(ax, which, labels, positions), strict=True):
        if site in members:
            text.set_color(BLUE)


def label_ticks(ax: Axes, which: Literal["x", "y"], labels: Sequence[str], positions: Sequence[float]) -> list[Text]:
    """Put one label at every position, as large as they don't touch; those along x slant if they are too long.

    Label y first: the room along x is what y's labels leave.
    """
    if which == "x":
        lay_out(root(ax))
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_ticks(positions, labels=list(labels), parse_math=False)
    first, last = sorted(ax.get_xlim() if which == "x" else ax.get_ylim())
    room = inches(ax)[which == "y"] / (last - first)
    size = min(TICK, max(2.0, 0.85 * room * 72))
    texts = axis.get_ticklabels()
    if which == "x":
        fits = [points for points in (TICK, 7.0, SMALLEST) if text_width(labels, points) < 0.95 * room]
        if fits:
            size = fits[0]
        else:
            turned = {"rotation": 45, "va": "top"} if room > 0.25 else {"rotation": 90, "va": "center"}
            for text in texts:
                text.set(rotation_mode="anchor", ha="right", **turned)
    axis.set_tick_params(length=0, labelsize=size)
    return texts


def line_axes(sites: Sequence[str]) -> Axes:
    """Axes of their own for a picture with the sites along x and a legend beside it."""
    count = len(sites)
    width = 2.6 + count * max(0.105, min(0.5, 11 / count))
    return new_axes(max(width, 6.0), 2.6 + 0.7 * text_width(elide(sites)))


def finish_lines(ax: Axes, formatter: Formatter, label: str, title: str) -> None:
    """Thin left and bottom spines, a labelled y axis, and the legend beside the axes, where it covers no data."""
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.yaxis.set_major_formatter(formatter)
    ax.set_ylabel(label, size=LABEL)
    ax.tick_params(axis="y", labelsize=TICK, length=2, width=0.6)
    handles, labels = ax.get_legend_handles_labels()
    rows = max(4, int(root(ax).get_figheight() * 72 / (1.55 * TICK)) - 3 - title.count("\n"))
    most = rows * LEGEND_COLUMNS
    if len(labels) > most:  # evenly chosen ones name the others between them
        kept = np.unique(np.linspace(0, len(labels) - 1, most).round().astype(int))
        handles, labels = [handles[i] for i in kept], [labels[i] for i in kept]
    legend = ax.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
        fontsize=TICK,
        title=title,
        title_fontsize=TICK,
        ncols=-(-len(labels) // rows),
        columnspacing=1.0,
    )
    legend.set_alignment("left")
    for text in legend.get_texts():
        text.set_parse_math(False)


def save(picture: Axes | Figure, path: Path | str) -> Path:
    """Write a figure as PNG, SVG or PDF; the same picture always gives the same bytes.

    A PNG that would exceed `PNG_LIMIT` is reduced in resolution and to 256 colors (see `DOTS`).
    Raises `NetopsyError` for any other kind of file, and for a PNG too large even then.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    one_of("path: kind of file", kind, ("png", "svg", "pdf"))
    content = small_png(root(picture), path) if kind == "png" else render(root(picture), kind, 200)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextmanager
def settled(figure: Figure) -> Iterator[None]:
    """Lay out until nothing moves, and hold it: a layout depends a little on the one before, as would a file."""
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    before: list[tuple[float, ...]] = []
    for _ in range(10):
        engine.execute(figure)
        after = [tuple(ax.get_position().bounds) for ax in figure.axes]
        if len(before) == len(after) and np.allclose(before, after, rtol=0, atol=1e-9):
            break
        before = after
    try:
        figure.set_layout_engine("none")
        for ax, (left, bottom, width, height) in zip(figure.axes, after, strict=True):
            in_layout = ax.get_in_layout()  # which setting a position would change
            ax.set_position((round(left, 6), round(bottom, 6), round(width, 6), round(height, 6)))
            ax.set_in_layout(in_layout)
        yield
    finally:
        figure.set_layout_engine(engine)


def render(figure: Figure, kind: str, dpi: int) -> bytes:
    """Render without a date, a version or a random name in the file."""
    silent = {"png": ["Software"], "svg": ["Date", "Creator"], "pdf": ["CreationDate"]}[kind]
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "netopsy"}), settled(figure):
        figure.savefig(
            buffer, format=kind, dpi=dpi, metadata=dict.fromkeys(silent), bbox_inches="tight", pad_inches=0.05
        )
    return buffer.getvalue()


def small_png(figure: Figure, path: Path) -> bytes:
    """The sharpest PNG within `PNG_LIMIT`."""
    for dpi, all_colors in [(dpi, True) for dpi in DOTS[:2]] + [(dpi, False) for dpi in DOTS]:
        content = render(figure, "png", dpi)
        if not all_colors:
            buffer = io.BytesIO()
            image = Image.open(io.BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            image.save(buffer, format="png", optimize=True, dpi=(dpi, dpi))
            content = buffer.getvalue()
        if len(content) <= PNG_LIMIT:
            return content
    raise NetopsyError(
        f"{path}: expected a picture of at most {PNG_LIMIT // 1000} kB; it has {math.ceil(len(content) / 1000)} kB "
        f"at {DOTS[-1]} dots an inch; save it as SVG or PDF, or make the figure smaller"
    )
