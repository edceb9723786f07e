"""Probes that are run once: their results in folders named by what decides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock

from netopsy._identity import canonical, code_version, digest
from netopsy.data.dataset import fingerprint
from netopsy.engine.batches import open_data
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import read_splits
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult


def probed(
    trajectory: Trajectory, data: Any, *, folder: Path | str, progress: Any = None, **options: Any
) -> tuple[RobustnessResult, Path]:
    """Measure robustness, or find the result of the same probe; a probe that was interrupted goes on.

    A probe is known by the checkpoints' values, the model's factory, the data, the options, and the code.

    Args:
        trajectory: of the network.
        data: as `netopsy.robustness` takes them.
        folder: of results; this one's is `folder/robustness-<key>`.
        progress: as `netopsy.robustness` takes it.
        options: the other arguments of `netopsy.robustness`; plain values and functions of modules.

    Returns:
        The result, and its folder.

    Raises:
        NetopsyError: as `netopsy.robustness`; and for an option that cannot be told from another, such as a lambda.
    """
    path = _home(trajectory, data, Path(folder), options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if _is_whole(path):
            return RobustnessResult.load(path), path
        result = robustness(trajectory, data, progress=progress, resume=path / "unfinished", **options)
        result.save(path, overwrite=True)
    return result, path


def find(trajectory: Trajectory, data: Any, *, folder: Path | str, **options: Any) -> Path | None:
    """The folder of the result that `probed` with these arguments would find; None where it would measure.

    Nothing is written.

    Raises:
        NetopsyError: for an option that cannot be told from another, such as a lambda.
    """
    path = _home(trajectory, data, Path(folder), options)
    return path if _is_whole(path) else None


def _home(trajectory: Trajectory, data: Any, folder: Path, options: dict[str, Any]) -> Path:
    """Where the result of a probe lies, whether it is there or not."""
    prints = {
        split: open_data(part, batch_size=None, seed=0).fingerprint for split, part in read_splits(data).items()
    }
    states = {
        repr(key): {name: fingerprint(value) for name, value in trajectory.state(key).items()}
        for key in trajectory.keys
    }
    code = code_version(robustness, *([trajectory.factory] if trajectory.factory else []))
    model = None if trajectory.factory is None else canonical(trajectory.factory)
    key = digest({"data": prints, "states": states, "model": model, "options": options, "code": code})[:16]
    return folder / f"robustness-{key}"


def _is_whole(path: Path) -> bool:
    """Whether a result was written to its end."""
    return (path / "manifest.json").is_file()  # which is written last
