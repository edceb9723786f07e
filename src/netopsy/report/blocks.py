"""What a report is made of: plain values without markup. How they look is decided by the page's templates alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

Mark = Literal["", "robust", "between", "critical", "undecided", "differ", "no-op", "non-finite", "neutral"]
"""What colors a badge: the verdicts and statuses of results; `neutral` for anything else."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Paragraphs of plain words."""

    template: ClassVar = "text"
    paragraphs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and what they are, one a line."""

    template: ClassVar = "facts"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Something to copy into a shell or a Python session."""

    template: ClassVar = "code"
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a heatmap.

    Attributes:
        text: printed in it.
        note: what the pointer shows, one line each.
        level: place on the color scale, 0 to 1; None for a cell without a value.
        mark: a sign beside the number.
        empty: it has no meaning, and is left blank.
    """

    text: str
    note: tuple[str, ...] = ()
    level: float | None = None
    mark: str = ""
    empty: bool = False


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A matrix of numbers as colored cells.

    Attributes:
        corner: what the rows are.
        rows, columns: names.
        cells: `rows` x `columns`.
        scale: what the palest and the darkest color stand for.
        quantity: what the numbers are, with their unit.
        row_gaps, column_gaps: numbers of rows and columns after which a gap separates what is of another kind.
        caption: below.
    """

    template: ClassVar = "heatmap"
    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    scale: tuple[str, str]
    quantity: str
    row_gaps: tuple[int, ...] = ()
    column_gaps: tuple[int, ...] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One small cell of a mosaic.

    Attributes:
        label: what it is, in words: the first line of what the pointer shows.
        note: the other lines.
        tone: place of its color in `netopsy.report.palette.TONES`.
        gap: a space sets it apart from the one after.
    """

    label: str
    note: tuple[str, ...]
    tone: int
    gap: bool = False


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Cells that belong together, as many on a line as fit.

    Attributes:
        name: of what they are in.
        detail: a few words below the name.
    """

    name: str
    detail: str
    cells: tuple[Tile, ...]


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Many small things of a few kinds, a color each.

    Attributes:
        quantity: what the cells are.
        key: tone, name and number of each kind.
        rows: what holds them.
        caption: below.
    """

    template: ClassVar = "mosaic"
    quantity: str
    key: tuple[tuple[int, str, str], ...]
    rows: tuple[Tiles, ...]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        name: in its head.
        help: what the pointer shows there.
        span: smallest and largest end of the bars in a column of intervals.
        line: where a column of intervals has a mark, such as a tolerance.
    """

    name: str
    help: str = ""
    numeric: bool = False
    span: tuple[float, float] | None = None
    line: float | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: printed.
        sort: what the column is sorted by; None comes last.
        mark: makes it a badge.
        bar: low end, value and high end, in a column with a span.
        note: what the pointer shows.
    """

    text: str
    sort: float | str | None = None
    mark: Mark = ""
    bar: tuple[float, float, float] | None = None
    note: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that the reader sorts by any column; the first entry of a row is its head."""

    template: ClassVar = "table"
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A vector graphic, as `netopsy.report.vector.drawn` makes it of matplotlib Axes.

    Attributes:
        svg: markup that netopsy wrote; it goes into the page as it is.
        description: for those who cannot see it.
    """

    template: ClassVar = "picture"
    svg: str
    description: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Blocks behind a title that opens them."""

    template: ClassVar = "fold"
    title: str
    blocks: tuple[Block, ...]


Block: TypeAlias = Text | Facts | Code | Heatmap | Mosaic | Table | Picture | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one probe says of one network.

    Attributes:
        title: short.
        question: what was asked, in plain words.
        verdict: sentences, the most important first; they also stand at the top of the page.
        counts: how many of what, as badges.
        blocks: in reading order.
    """

    title: str
    question: str
    verdict: tuple[str, ...] = ()
    counts: tuple[tuple[Mark, str], ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """All that is said of one run."""

    title: str
    sections: Sequence[Section]
