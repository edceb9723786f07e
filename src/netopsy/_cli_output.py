"""What commands show: results on standard output; bars, plans and errors on the terminal behind standard error."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from rich.table import Table
from rich.text import Text

from netopsy._amounts import duration
from netopsy._cli_heatmap import print_result

if TYPE_CHECKING:
    from netopsy.commands.probes import Cost, Finding, Probe
    from netopsy.store.keyed import Progress as Pace


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


@contextmanager
def loading() -> Iterator[None]:
    """Around imports, which take seconds: an interruption inside one can surface as any error, so leave at once."""
    mine = threading.current_thread() is threading.main_thread()
    mine = mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def leave(*_: object) -> None:
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a bar may have hidden it
        os.write(2, f"{show_cursor}interrupted; nothing was begun\n".encode())
        os._exit(130)

    if mine:
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)


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
    return f"{duration(cost.seconds)} ({duration(cost.low)} to {duration(cost.high)})"


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
