"""Sections -> one HTML file that holds everything it shows."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import netopsy
from netopsy._storage import write_atomic
from netopsy.plots.style import printable
from netopsy.report.blocks import Cell, Chapter
from netopsy.report.palette import LEVELS, classes, level, variables

SEPARATED = re.compile(r"[^._/]*[._/]+(?=[^._/])|.+", re.DOTALL)
"""The pieces of a name, each with the separators that end it."""


def write_page(path: Path, title: str, chapters: Sequence[Chapter], facts: Sequence[str] = ()) -> Path:
    """Write a report; returns where.

    Args:
        path: of the file.
        title: of the page.
        chapters: a run each; the title of a single one is not shown.
        facts: what the page is about, on one line below the title.
    """
    text = render(title, chapters, facts)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))
    return path


def render(title: str, chapters: Sequence[Chapter], facts: Sequence[str] = ()) -> str:
    """A page as HTML.

    Every value is escaped, and its control characters are shown as signs; the only markup that goes in as it is are
    netopsy's own files and its vector graphics.
    The page's policy lets no script run but the one below it, by its hash, and nothing be loaded: a name that got
    past the escaping would still be dead.
    """
    script = _file("script.js")
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            facts=facts,
            chapters=chapters,
            version=netopsy.__version__,
            style=style(),
            script=script,
            logo=_file("logo.svg"),
            policy=(
                f"default-src 'none'; script-src '{_hash(script)}'; style-src 'unsafe-inline'; "
                f"style-src-elem '{_hash(style())}'; img-src data:; base-uri 'none'; form-action 'none'"
            ),
        )
    )


@cache
def style() -> str:
    """The page's style sheet, with the colors of both themes."""
    light, dark = (
        f"color-scheme:light;{variables(dark=False)}",
        f"color-scheme:dark;{variables(dark=True)}",
    )
    gradient = ",".join(f"var(--c{step})" for step in range(LEVELS))
    sheet = _file("style.css").replace("LIGHT;", light).replace("DARK;", dark)
    return sheet.replace("GRADIENT", gradient).replace("CLASSES", classes())


def shade(cell: Cell) -> str:
    """The class of a heatmap's cell."""
    if cell.level is not None:
        return f"k{level(cell.level)}"
    return "empty" if cell.empty else "none"


def order(value: float | str | None) -> str:
    """What a table's script sorts an entry by; empty for none.

    >>> order(2), order(float("-inf")), order(float("nan")), order(None)
    ('2', '-Infinity', '', '')
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return "" if value is None else str(value)


def name(text: str) -> Markup:
    """A name as the head of a row or column, escaped; one of nothing but spaces in quotation marks.

    Where the style sheet has it break if it must, there is an empty element: it adds nothing to the text.

    >>> str(name("<hidden>.0")), str(name(" "))
    ('&lt;hidden&gt;.<i></i>0', '“ ”')
    """
    whole = str(shown(text if text.strip() else f"“{text}”"))
    return Markup("<i></i>").join(SEPARATED.findall(whole))


def shown(value: object) -> object:
    """Text with signs for its control characters, but for line breaks, which the page knows how to show.

    >>> shown("a\\x00b\\n"), shown("\\u202egnp.exe"), shown(3)
    ('a␀b\\n', '�gnp.exe', 3)
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "\n".join(map(printable, value.split("\n")))


def along(value: float, span: tuple[float, float]) -> str:
    """Where a value lies in a span, in percent of it.

    >>> along(0.25, (0.0, 0.5)), along(3, (2, 2))
    ('50', '50')
    """
    low, high = span
    place = (value - low) / (high - low) if high > low else 0.5
    return f"{100 * min(max(place, 0.0), 1.0):.4g}"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("netopsy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"trusted": Markup, "shade": shade, "along": along, "order": order, "name": name}
    return environment


def _file(name: str) -> str:
    return files("netopsy.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
