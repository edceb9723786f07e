"""Probe a run, or anybody's model: what it would cost, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netopsy._checks import NetopsyError
from netopsy._storage import read_json
from netopsy.commands.inputs import imported, probed_splits, read_data, recorded_factory
from netopsy.network.trajectory import Trajectory
from netopsy.plots.style import save
from netopsy.probes.plan import Plan, plan
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.store.probed import probed


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is probed.

    Attributes:
        trajectory: of the network.
        data: to measure on.
        folder: where results go.
    """

    trajectory: Trajectory
    data: Any = field(repr=False)
    folder: Path


def subject(
    run: Path | None,
    *,
    model: str | None,
    init: Path | None,
    final: Path | None,
    data: str | None,
    out: Path | None,
) -> Subject:
    """Open a run folder, with its own model and data or those named; or a model and two checkpoints.

    Raises:
        NetopsyError: when something is missing, and where it must come from.
    """
    if run is None:
        missing = [
            f"--{n}" for n, v in (("model", model), ("init", init), ("final", final), ("data", data)) if v is None
        ]
        if missing or model is None or init is None or final is None or data is None:
            raise NetopsyError(
                f"inspect: expected RUN, or --model, --init, --final and --data; missing {', '.join(missing)}"
            )
        trajectory = Trajectory.from_files(imported("model", model), initial=init, final=final)
        return Subject(
            trajectory=trajectory, data=probed_splits(read_data(data)), folder=out or Path("runs") / "inspected"
        )
    if init is not None or final is not None:
        raise NetopsyError("inspect: expected RUN, or --init and --final; got both; leave one out")
    manifest = read_json(run / "manifest.json") if (run / "manifest.json").is_file() else {}
    factory = imported("model", model) if model is not None else recorded_factory(manifest)
    name = data if data is not None else (manifest.get("about") or {}).get("data")
    if name is None or (data is None and ":" in name):
        was = f" (it was trained on {name})" if name else ""
        raise NetopsyError(f"{run}: it does not say by itself how to load its data{was}; name them by --data")
    trajectory = Trajectory.from_folder(factory, run)
    return Subject(trajectory=trajectory, data=probed_splits(read_data(name)), folder=out or run / "results")


def planned(subject: Subject, options: dict[str, Any]) -> Plan:
    """What the probe will cost."""
    return plan(subject.trajectory, subject.data, **options)


def inspect(
    subject: Subject, options: dict[str, Any], progress: Callable[[int, int | None], object]
) -> tuple[RobustnessResult, dict[str, Path]]:
    """Measure robustness, or find it where it was measured before; returns it and the files written."""
    result, folder = probed(subject.trajectory, subject.data, folder=subject.folder, progress=progress, **options)
    pictures = {"heatmap": folder / "heatmap.png", "curves": folder / "curves.png"}
    for kind, path in pictures.items():
        if not path.is_file():
            save(result.plot(kind=kind), path)  # type: ignore[arg-type]
    return result, {"result": folder, **pictures}
