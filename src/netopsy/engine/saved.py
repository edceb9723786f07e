"""The file that holds how far a pass has come: one `.npz`, written whole or not at all, never pickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netopsy._checks import NetopsyError, shorten
from netopsy._storage import SCHEMA, check_schema, write_atomic
from netopsy.engine.progress import Arrays

SECONDS = 5.0
"""Least time between two writes; an interruption writes at once."""

HEADER = "header"


def write_saved(path: Path, arrays: Arrays, header: Mapping[str, Any]) -> None:
    """Write arrays, and a header as JSON with the schema version."""
    text = np.array(json.dumps({"schema": SCHEMA, **header}))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # by its name numpy would add a suffix
            np.savez(file, allow_pickle=False, **{HEADER: text, **arrays})

    write_atomic(path, write)


def read_saved(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and header of a file that `write_saved` wrote.

    Raises:
        NetopsyError: for a damaged file, another kind of file, or a newer schema.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        header: Any = json.loads(str(arrays.pop(HEADER)))
        known: dict[str, Any] = dict(header)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error
    check_schema(path, known.pop("schema", None))
    return arrays, known


def unreadable(path: Path, error: Exception) -> NetopsyError:
    """What to say of a damaged file."""
    return NetopsyError(
        f"{path}: expected how far a pass has come, as netopsy writes it; it cannot be read "
        f"({type(error).__name__}: {error}); delete {path} to start again"
    )


def other_work(path: Path, differences: Sequence[str]) -> NetopsyError:
    """What to say of a file of other work."""
    return NetopsyError(
        f"{path}: holds how far other work has come: {shorten(differences)} differ from what is asked now; ask the "
        f"same, pass another path, or delete {path} to start again"
    )


def delete_saved(path: Path) -> None:
    """Delete the file, and what a process that was killed while writing it left beside."""
    path.unlink(missing_ok=True)
    for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 16}"):
        left.unlink(missing_ok=True)
