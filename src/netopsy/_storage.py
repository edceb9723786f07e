"""Files written whole or not at all: states as safetensors, tables as Parquet, a manifest with a schema version."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file
from torch import Tensor

from netopsy._checks import NetopsyError

SCHEMA = 1
"""Version of every file layout that netopsy writes; raised when an older reader would misread the file."""


TEMPORARY = re.compile(r"^\.(.+\.[0-9a-f]{16}|tmp\w{6})$")
"""Names of files that are being written, by us or, inside ours, by safetensors."""


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it into place.

    A process killed at any instant leaves either the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # those of any new file; safetensors makes files that only their owner reads
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporaries(folder: Path) -> None:
    """Remove what a process that was killed left of files that it was writing; nobody may be writing there now."""
    for path in folder.glob(".*"):
        if TEMPORARY.search(path.name):
            path.unlink(missing_ok=True)


def write_state(path: Path, state: Mapping[str, Tensor], **metadata: object) -> None:
    """Write tensors as safetensors; names that share one storage are written once, the others as aliases."""
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    items = list(state.items())  # all alive at once, or a lazy mapping's next tensor may take the place of the last
    for name, value in items:
        place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
            tensor = value.detach().cpu().contiguous()
            if tensor.untyped_storage().data_ptr() in storages:
                tensor = tensor.clone()  # another view of a storage, which safetensors takes only once
            storages.add(tensor.untyped_storage().data_ptr())
            tensors[name] = tensor
    header = {"schema": str(SCHEMA), "aliases": json.dumps(aliases)}
    header |= {name: json.dumps(value) for name, value in metadata.items()}
    write_atomic(path, lambda temporary: save_file(tensors, str(temporary), metadata=header))


def write_table(path: Path, frame: pd.DataFrame, **metadata: object) -> None:
    """Write a frame as Parquet; `metadata` (JSON) travels in `frame.attrs`."""
    tagged = frame.copy()
    tagged.attrs.update({"schema": SCHEMA, **metadata})
    write_atomic(path, lambda temporary: tagged.to_parquet(temporary))


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file that `write_table` wrote; raises `NetopsyError` for a newer schema or a damaged file."""
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise NetopsyError(
            f"{path}: expected a Parquet file written by netopsy; it cannot be read ({error})"
        ) from error
    check_schema(path, frame.attrs.get("schema"))
    return frame


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest: JSON with the schema version."""
    text = json.dumps({"schema": SCHEMA, **content}, indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a manifest; raises `NetopsyError` for a newer schema or a damaged file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NetopsyError(f"{path}: expected JSON written by netopsy; it cannot be read ({error})") from error
    manifest: dict[str, Any] = content if isinstance(content, dict) else {}
    check_schema(path, manifest.get("schema"))
    return manifest


def check_schema(path: Path, schema: object) -> None:
    """Refuse a file without a schema version, or with a newer one than this netopsy knows."""
    if not str(schema).isdecimal():
        raise NetopsyError(f"{path}: expected a file written by netopsy; it has no schema version")
    if int(str(schema)) > SCHEMA:
        raise NetopsyError(
            f"{path}: written with schema {schema}, this netopsy reads up to {SCHEMA}; upgrade netopsy to read it"
        )


def read_result_manifest(folder: Path, kind: str, probe: str, files: Iterable[str]) -> dict[str, Any]:
    """The manifest of a result that a probe's `save` wrote.

    Raises:
        NetopsyError: the folder lacks one of the files, or its manifest is damaged, of a newer netopsy, or of
            something else.
    """
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise NetopsyError(f"{folder}: expected a saved {kind}; it has no {', '.join(missing)}")
    manifest = read_json(folder / "manifest.json")
    if manifest.get("provenance", {}).get("probe") != probe:
        raise NetopsyError(f"{folder}: expected a saved {kind}; its manifest is of something else")
    return manifest


def write_result(
    path: Path | str, tables: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write a folder of a probe's result: a Parquet file a table, then `manifest.json`.

    Raises:
        NetopsyError: when the folder exists and has files in it, unless `overwrite`.
    """
    folder = new_folder(Path(path), overwrite=overwrite)
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table)
    write_json(folder / "manifest.json", {"provenance": dict(provenance)})
    return folder


def read_result(
    path: Path | str, kind: str, probe: str, names: Iterable[str]
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Read what `write_result` wrote: the tables of these names, and the provenance.

    Raises:
        NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
    """
    folder, names = Path(path), list(names)
    files = [*(f"{name}.parquet" for name in names), "manifest.json"]
    manifest = read_result_manifest(folder, kind, probe, files)
    tables = {name: read_table(folder / f"{name}.parquet") for name in names}
    for table in tables.values():
        table.attrs.clear()
    return tables, manifest["provenance"]


class Scratch:
    """A temporary folder, at `path`, that goes when nothing refers to this object any more, or the process ends.

    Unlike `tempfile.TemporaryDirectory` it may go without being closed: that one warns then.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="netopsy-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def new_folder(path: Path, *, overwrite: bool = False) -> Path:
    """Make an output folder; refuses one that exists and has files in it, unless `overwrite`.

    Nothing in an existing folder is deleted: with `overwrite`, files of the same name are replaced.
    """
    if path.exists() and not path.is_dir():
        raise NetopsyError(f"output folder {path}: expected a folder; it is a file; choose another path")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise NetopsyError(
            f"output folder {path}: it exists and is not empty; choose another path or pass overwrite=True "
            "(--overwrite)"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path
