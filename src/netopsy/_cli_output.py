"""What commands show: results on standard output; bars, plans and errors on the terminal behind standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.style import Style
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from netopsy.commands.probes import Cost, Finding, Probe
    from netopsy.probes.robustness_result import RobustnessResult
    from netopsy.store.keyed import Progress as Pace

COLORS = ("256", "truecolor")
"""Terminals with fewer colors get the plain table: cells in 16 colors would tell little, and some unreadably."""


class _Amount(ProgressColumn):
    """`3/30`, or nothing for work that is not counted."""

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text("" if "said" in task.fields else f"{task.completed:,.0f}/{total}")


class _Bar(BarColumn):
    """None for work that is not counted: the wheel before it turns."""

    def render(self, task: Task) -> RenderableType:  # type: ignore[override]
        return Text("") if "said" in task.fields else super().render(task)


def errors() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def bars(console: Console) -> Progress:
    """Bars for as long as they are entered, then gone; none where nobody looks."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), _Bar(), _Amount(), TimeRemainingColumn())
    seen = is_watched(console)
    return Progress(*columns, console=console, disable=not seen, transient=True, redirect_stdout=False)


def is_watched(console: Console) -> bool:
    """Whether standard error is a terminal that can draw (what `FORCE_COLOR` says is no terminal)."""
    return sys.stderr.isatty() and console.is_interactive


def say(progress: Progress, doing: str) -> None:
    """Show that something is done which cannot be counted."""
    for shown in progress.tasks:
        if "said" in shown.fields:
            progress.update(shown.id, description=doing)
            return
    progress.add_task(doing, total=None, said=True)


def task(progress: Progress, description: str) -> Callable[[int, int | None], None]:
    """A callback that shows a bar from its first call on, in place of what was said.

    A full bar stands still: what comes after it (another network, pictures) is said.
    """
    started: dict[str, TaskID] = {}

    def advance(done: int, total: int | None) -> None:
        if not started:
            started["id"] = progress.add_task(description, total=total)
        progress.update(started["id"], completed=done, total=total)
        if done == total:
            say(progress, "going on")
        else:
            _unsay(progress)

    return advance


def pace(progress: Progress) -> Callable[[str, Pace], None]:
    """A callback that shows a bar for each sweep, with its rate."""
    started: dict[str, TaskID] = {}

    def advance(name: str, pace: Pace) -> None:
        if name not in started:
            _unsay(progress)
            started[name] = progress.add_task(name, total=pace.total)
        speed = f"{pace.rate:.3g}/s" if pace.rate >= 1 else f"{60 * pace.rate:.3g}/min"
        failed = f", {pace.failed} failed" if pace.failed else ""
        progress.update(started[name], completed=pace.done, description=f"{name}, {speed}{failed}")
        if pace.done == pace.total:
            say(progress, "going on")

    return advance


def _unsay(progress: Progress) -> None:
    for shown in progress.tasks:
        if "said" in shown.fields:
            progress.remove_task(shown.id)


def print_json(value: Any) -> None:
    """Exactly what is known, for programs; what JSON cannot write (NaN and infinities) is null."""
    print(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    bad = isinstance(value, float) and not float("-inf") < value < float("inf")
    return None if bad else value


def print_table(values: Mapping[str, Any]) -> None:
    """Names and what they are, one a line, numbers for the eye."""
    width = max(map(len, values))
    for name, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        print(f"{name:<{width}}  {shown}")


def print_bullets(sentences: Iterable[str]) -> None:
    """One a line."""
    for sentence in sentences:
        print(f"• {sentence}")


def plan_table(costs: Mapping[Probe, Cost], skipped: Mapping[str, str]) -> Table:
    """What is about to be done, and what not."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("probe", no_wrap=True)
    table.add_column("asks")
    table.add_column("rows", justify="right")
    table.add_column("time", no_wrap=True)
    for probe, cost in costs.items():
        table.add_row(probe.name, probe.question, f"{cost.rows:,}", _time(cost))
    for name, reason in skipped.items():
        table.add_row(name, Text(f"does not apply: {reason}"), "", "", style="dim")
    return table


def plan_lines(costs: Mapping[Probe, Cost], skipped: Mapping[str, str]) -> str:
    """The same with all that the plans say, for standard output."""
    parts = []
    for probe, cost in costs.items():
        detail = f"{_time(cost)}: {cost.found}" if cost.found else str(cost.plan)
        parts.append(f"{probe.name}: {probe.question}\n{detail}")
    parts += [f"{name}: does not apply: {reason}" for name, reason in skipped.items()]
    return "\n\n".join(parts)


def _time(cost: Cost) -> str:
    if cost.found is not None:
        return "found, nothing to do"
    return f"{_duration(cost.seconds)} ({_duration(cost.low)} to {_duration(cost.high)})"


def _duration(seconds: float) -> str:
    """
    >>> [_duration(s) for s in (0.25, 42, 600, 9000)]
    ['0.2 s', '42 s', '10 min', '2.5 h']
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def print_finding(finding: Finding) -> None:
    """Table and sentences."""
    print_result(finding.result)
    print()
    print_bullets(finding.sentences)
    print()


def files_of(findings: Mapping[str, Finding]) -> dict[str, Path]:
    """Files by what they are; where there are several probes, also by whose."""
    several = len(findings) > 1
    return {
        f"{name} {what}" if several else what: path
        for name, finding in findings.items()
        for what, path in finding.files.items()
    }


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
