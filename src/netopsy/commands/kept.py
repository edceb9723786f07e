"""Results that are measured once: each in a folder named by what decides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from filelock import FileLock

from netopsy._identity import canonical, code_version, digest
from netopsy.commands.probing import Subject
from netopsy.data.dataset import fingerprint
from netopsy.engine.batches import open_data


@runtime_checkable
class Saved(Protocol):
    """What a probe returns."""

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write a folder, its manifest last."""


R = TypeVar("R", bound=Saved)


def place(subject: Subject, name: str, splits: Mapping[str, Any], asked: Mapping[str, Any], code: Any) -> Path:
    """Where a result on the way from the initial to the trained weights lies, whether it is there or not.

    It is known by the values of these two, the model's factory, the data, the options, and the code of the function
    that measures.
    """
    trajectory = subject.trajectory
    factory = [trajectory.factory] if trajectory.factory else []
    states = [trajectory.state(key) for key in (trajectory.initial, trajectory.final) if key is not None]
    known = {
        "data": {split: open_data(data).fingerprint for split, data in splits.items()},
        "states": [{each: fingerprint(value) for each, value in state.items()} for state in states],
        "model": [canonical(each) for each in factory],
        "options": dict(asked),
        "code": code_version(code, *factory),
    }
    return subject.folder / f"{name}-{digest(known)[:16]}"


def is_whole(home: Path) -> bool:
    """Whether a result was written to its end."""
    return (home / "manifest.json").is_file()


def kept(
    home: Path, load: Callable[[Path], R], measure: Callable[[], R], *, grown: Callable[[R], R] = lambda found: found
) -> R:
    """The result that lies there; else it is measured and written.

    Args:
        home: its folder.
        load: reads it.
        measure: makes it.
        grown: it with what has come to be known since, or the same object; written again where it is another.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f".{home.name}.lock")):
        if is_whole(home):
            found = load(home)
        else:
            found = measure()
            found.save(home, overwrite=True)
        result = grown(found)
        if result is not found:
            result.save(home, overwrite=True)
    return result
