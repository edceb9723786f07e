"""Run a sweep that the user's Python defines, or say how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from netopsy._checks import NetopsyError
from netopsy.commands.inputs import function, imported
from netopsy.store.keyed import Progress
from netopsy.store.sweep import Status, Sweep, run_sweep, status_of, sweep_status


def find_sweep(name: str) -> Sweep:
    """The sweep that `pkg.mod:name` is, or returns.

    Raises:
        NetopsyError: when it is anything else.
    """
    found = imported("sweep", name)
    sweep = function("sweep", name)() if callable(found) else found
    if not isinstance(sweep, Sweep):
        raise NetopsyError(
            f"sweep: expected {name} to be a netopsy.Sweep, or a function that returns one; "
            f"it is {type(sweep).__name__}"
        )
    return sweep


def statuses(target: str | None, out: Path | None) -> list[Status]:
    """How far the sweep that `pkg.mod:name` names is; or the sweeps in a folder and below it."""
    if target is not None and ":" in target:
        return [state(find_sweep(target), out)]
    folder = Path(target) if target is not None else out or Path("runs")
    below = sorted({path.parent.parent for path in folder.rglob("sweeps/*.parquet")})
    return [status for home in below or [folder] for status in sweep_status(home)]


def state(sweep: Sweep, out: Path | None) -> Status:
    """How far a sweep is."""
    return status_of(sweep, out or home(sweep))


def run(
    sweep: Sweep, folder: Path, *, jobs: int, threads: int, retry: bool, progress: Callable[[Progress], object]
) -> Status:
    """Do what is left of a sweep."""
    run_sweep(sweep, folder, jobs=jobs, threads=threads, retry=retry, progress=progress)
    return status_of(sweep, folder)


def home(sweep: Sweep) -> Path:
    """Where a sweep goes by default."""
    return Path("runs") / sweep.name


def described(sweep: Sweep, most: int = 5) -> str:
    """The first of a sweep's tasks, for a look before it runs."""
    tasks = sweep.tasks()
    lines = [", ".join(f"{name}={value}" for name, value in task.columns.items()) for task in tasks[:most]]
    more = [f"and {len(tasks) - most} more"] if len(tasks) > most else []
    return "\n".join([*lines, *more])


def plain(status: Status) -> dict[str, Any]:
    """For JSON."""
    return {**asdict(status), "left": status.left}
