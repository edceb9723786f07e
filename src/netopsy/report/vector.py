"""matplotlib Axes -> an SVG inside a page, light and dark with it."""

from __future__ import annotations

import colorsys
import io
import re
import warnings
from functools import cache
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb

from netopsy._identity import digest
from netopsy.plots.style import INK as PICTURE_INK
from netopsy.plots.style import lay_out, luminance, root
from netopsy.report.palette import DARK, dark_scale

REFERENCE = re.compile(r"(?<=#)[\w-]+(?=\))")
COLOR = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})\b")
UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot hold, and that a name may."""

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
PAGE, INK = DARK["page"], DARK["ink"]


def drawn(picture: Axes) -> str:
    """The figure of these axes as inline SVG: text as text, ids of its own, no background, colors of both themes.

    Glyphs that matplotlib has no font for are set by the browser, so that its warning about them is none here.
    """
    figure = root(picture)
    buffer, engine, dots = io.StringIO(), figure.get_layout_engine(), figure.dpi
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "netopsy"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.set_dpi(72)  # the one of SVG
        lay_out(figure)
        for mesh in figure.findobj(QuadMesh):
            mesh.set_rasterized(False)  # a color bar would be an image, which does not turn dark
        try:
            figure.set_layout_engine("none")  # once is enough: saving would do it twice more
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        finally:
            figure.set_layout_engine(engine)
            figure.set_dpi(dots)
    text = UNFIT.sub("\N{REPLACEMENT CHARACTER}", buffer.getvalue())
    svg = ElementTree.fromstring(text)
    prefix = f"p{digest(text)[:8]}-"  # several pictures share one page, and ids are the page's
    for element in svg.iter():
        for name in ("metadata", "style"):  # a style would be the whole page's; style.css has it
            for child in element.findall(f"{{{SVG}}}{name}"):
                element.remove(child)
        _adapt(element, prefix)
    width, height = (72 * size for size in figure.get_size_inches())
    svg.attrib.clear()
    svg.attrib |= {"class": "drawn", "viewBox": f"0 0 {width:g} {height:g}", "style": f"--width:{width:.0f}px"}
    return ElementTree.tostring(svg, encoding="unicode")


@cache
def dark(color: str) -> str:
    """What a picture's color is on a dark page: the color scale's own mirror, or else light for dark, in its hue.

    >>> dark("#ffffff"), dark("#222222"), dark("#0072b2")
    ('#16141b', '#ebe8f0', '#2bb3ff')
    """
    if color in dark_scale():
        return dark_scale()[color]
    rgb = to_rgb(color)
    tone = luminance(rgb) ** (1 / 3)
    if max(rgb) - min(rgb) < 0.05:  # gray: from the page's color to that of its ink
        page, ink = np.array(to_rgb(PAGE)), np.array(to_rgb(INK))
        return to_hex(page + (ink - page) * min((1 - tone) / (1 - luminance(to_rgb(PICTURE_INK)) ** (1 / 3)), 1.0))
    hue, _, saturation = colorsys.rgb_to_hls(*rgb)
    wanted, low, high = (0.55 + 0.4 * (1 - tone)) ** 3, 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        below = luminance(colorsys.hls_to_rgb(hue, middle, saturation)) < wanted
        low, high = (middle, high) if below else (low, middle)
    return to_hex(colorsys.hls_to_rgb(hue, low, saturation))


def _both(found: re.Match[str]) -> str:
    """A color of each theme; browsers that know no `light-dark` keep the light one."""
    name, color = found.groups()
    return f"{name}: {color}; {name}: light-dark({color}, {dark(color)})"


def _adapt(element: ElementTree.Element, prefix: str) -> None:
    attributes = element.attrib
    for name in ("style", "fill", "clip-path"):
        if name in attributes:
            attributes[name] = REFERENCE.sub(rf"{prefix}\g<0>", attributes[name])
    style = attributes.get("style", "")
    if element.tag in (f"{{{SVG}}}text", f"{{{SVG}}}rect") and "fill:" not in style:
        style = f"fill: #000000; {style}"  # unsaid where it is black
    if style:
        attributes["style"] = COLOR.sub(_both, style)
    if "id" in attributes:
        attributes["id"] = prefix + attributes["id"]
    target = attributes.pop(f"{{{LINK}}}href", None)
    if target is not None:
        attributes["href"] = f"#{prefix}{target[1:]}" if target.startswith("#") else target  # else an image's data
