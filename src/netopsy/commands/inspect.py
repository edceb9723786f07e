"""Probe a run, or anybody's model: what it would cost, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netopsy._checks import NetopsyError
from netopsy._storage import read_json
from netopsy.commands.inputs import DATA, function, probed_splits, read_data, recorded_factory, trained_factory
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
        trajectory = Trajectory.from_files(function("model", model), initial=init, final=final)
        return Subject(
            trajectory=trajectory, data=probed_splits(read_data(data)), folder=out or Path("runs") / "inspected"
        )
    if final is not None:
        raise NetopsyError("inspect: expected RUN, or --model, --init, --final and --data; got RUN and --final")
    if not run.is_dir():
        raise NetopsyError(f"inspect: expected the folder of a run; there is no folder {run}")
    manifest = read_json(run / "manifest.json") if (run / "manifest.json").is_file() else {}
    factory, name = recorded_factory(manifest), _entry(manifest, "about", "data")
    if model is not None:
        factory = function("model", model)
    needed = [] if factory is not None else ["--model pkg.mod:factory" + _was(_entry(manifest, "factory", "call"))]
    needed += [] if data is not None or name in DATA else ["--data NAME or pkg.mod:loader" + _was(name)]
    if factory is None or needed:
        raise NetopsyError(
            f"{run}: only netopsy's own models and data are loaded because a folder says so; pass "
            f"{' and '.join(needed)}"
        )
    trajectory = Trajectory.from_folder(trained_factory(factory, manifest), run, initial=init)
    return Subject(
        trajectory=trajectory,
        data=probed_splits(read_data(str(name) if data is None else data)),
        folder=out or run / "results",
    )


def _entry(manifest: Mapping[str, Any], part: str, name: str) -> str | None:
    inner = manifest.get(part)
    value = inner.get(name) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else None


def _was(name: str | None) -> str:
    return f" (it was {name})" if name else ""


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
