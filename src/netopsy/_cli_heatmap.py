"""A robustness table on a terminal: as a heatmap where there are colors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from netopsy.probes.robustness_result import RobustnessResult

COLORS = ("256", "truecolor")
"""Terminals with fewer colors get the plain table: cells in 16 colors would tell little, and some unreadably."""


def print_result(result: Any) -> None:
    """A result's table: in colors on a terminal that has them, else as text."""
    from netopsy.probes.robustness_result import RobustnessResult

    out = Console(highlight=False)
    colored = sys.stdout.isatty() and out.color_system in COLORS and not out.no_color
    if colored and isinstance(result, RobustnessResult):
        for line in heatmap(result, out.width):
            out.print(line)
    else:
        print(result)


def heatmap(result: RobustnessResult, width: int) -> Iterator[Text]:
    """Lines of the table that `str(result)` is, the cells' backgrounds in the colors of the pictures.

    Columns that do not fit into the width follow below.
    """
    from netopsy.plots.style import elide

    column = "error" if "error" in result.frame else "delta_error"
    for split, frame in result.frame.groupby("split", sort=False):
        base = frame[frame.operation == "baseline"].iloc[0]
        what = "error" if column == "error" else "change of error"
        yield Text(f"{split}: {what} after each edit; the trained network: {base[column]:.2%}, n = {base.n}", "bold")
        cells = _cells(frame, column)
        top = max([value for value, _ in cells.values()] + [min(float(base[column]) + 0.1, 1.0)])
        sites, columns = list(dict.fromkeys(s for s, _ in cells)), list(dict.fromkeys(c for _, c in cells))
        names = dict(zip(sites, elide(sites), strict=True))
        left, wide = max(map(len, names.values())) + 1, max(len("100.00%!"), *map(len, columns)) + 2
        each = max(1, (width - left) // wide)
        for some in (columns[start : start + each] for start in range(0, len(columns), each)):
            yield Text(" " * left + "".join(f"{name:>{wide - 2}}  " for name in some), "dim")
            for site in sites:
                drawn = [_cell(cells.get((site, name)), wide, top) for name in some]
                yield Text.assemble(f"{names[site]:<{left}}", *drawn)
        yield Text.assemble(" " * left, "0% ", *_scale(24), f" {top:.0%}")
    for note in result.notes():
        yield Text(note, "dim")


def _cells(frame: Any, column: str) -> dict[tuple[str, str], tuple[float, str]]:
    """Site and column -> the value, draws averaged, and the mark of its verdict."""
    from netopsy.probes.robustness_result import DIFFER, MARKS

    found: dict[tuple[str, str], list[tuple[float, str | None]]] = {}
    for row in frame[frame.operation != "baseline"].to_dict("records"):
        name = str(row["checkpoint"]) if row["operation"] == "re-initialize" else "re-rand"
        verdict = row["verdict"] if isinstance(row["verdict"], str) else None
        found.setdefault((str(row["site"]), name), []).append((row[column], verdict))
    marked = {}
    for place, draws in found.items():
        verdicts = {verdict for _, verdict in draws}
        mark = MARKS[verdicts.pop()] if len(verdicts) == 1 else DIFFER
        marked[place] = sum(value for value, _ in draws) / len(draws), mark
    return marked


def _cell(cell: tuple[float, str] | None, wide: int, top: float) -> Text:
    if cell is None:
        return Text(" " * wide)
    value, mark = cell
    return Text(f"{value:.2%}{mark:<1}".rjust(wide - 1) + " ", _shade(value / top))


def _scale(steps: int) -> Sequence[Text]:
    return [Text(" ", _shade(step / (steps - 1))) for step in range(steps)]


def _shade(share: float) -> Style:
    from matplotlib.colors import to_hex

    from netopsy.plots.style import contrast_ink, shades

    color = shades()(min(max(share, 0.0), 1.0))
    return Style(color=contrast_ink(color), bgcolor=to_hex(color))
