"""The folder of a training run: checkpoints, history, manifest; whole after an interruption at any instant."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import netopsy
from netopsy._checks import NetopsyError, shorten
from netopsy._storage import new_folder, read_json, sweep_temporaries, write_json, write_state, write_table
from netopsy._typing import State
from netopsy.network.states import StateFile
from netopsy.training.config import FitConfig

OWN = re.compile(r"manifest\.json|history\.parquet|resume\.safetensors|checkpoints")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run writes.

    Attributes:
        path: of the folder, which exists.
        origin: what the manifest says of where the run comes from, beside the versions; JSON.
    """

    path: Path
    origin: Mapping[str, Any]

    @property
    def resume_file(self) -> Path:
        """What an unfinished run goes on from."""
        return self.path / "resume.safetensors"

    def checkpoint(self, epoch: int) -> Path:
        """Where an epoch's state is."""
        return self.path / "checkpoints" / f"{epoch}.safetensors"

    def write(
        self, new: Mapping[int, State], history: pd.DataFrame, keys: Collection[int], stopped: str | None = None
    ) -> None:
        """Write new checkpoints, then `history.parquet`, then `manifest.json`, which names all that are there."""
        for epoch, state in new.items():
            write_state(self.checkpoint(epoch), state, epoch=epoch)
        write_table(self.path / "history.parquet", history)
        ended = {"finished": stopped is not None, "stopped": stopped}
        write_json(
            self.path / "manifest.json", {**self.origin, "versions": versions(), "keys": sorted(keys), **ended}
        )

    def tidy(self, keys: Collection[int], *, finished: bool) -> None:
        """Remove checkpoints but these, what killed writes left, and of a finished run what it would go on from."""
        for file in self.path.glob("checkpoints/*.safetensors"):
            if file.stem.isdecimal() and int(file.stem) not in keys:
                file.unlink()
        _sweep(self.path)
        if finished:
            self.resume_file.unlink(missing_ok=True)

    def states(self, keys: Iterable[int]) -> dict[int, Path]:
        """The files of these checkpoints.

        Raises:
            NetopsyError: one is missing.
        """
        files = {key: self.checkpoint(key) for key in sorted(keys)}
        missing = [file.name for file in files.values() if not file.is_file()]
        if missing:
            raise NetopsyError(
                f"run folder {self.path}: expected every checkpoint that the run has kept; {shorten(missing)} "
                "missing; put them back, or train again with overwrite=True"
            )
        return files


def versions() -> dict[str, str]:
    """Of what decides a run's bits, for its manifest."""
    return {
        "netopsy": netopsy.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def clear_listed(path: Path) -> None:
    """Remove the checkpoints that an older run's manifest lists: the next one may keep other epochs."""
    if (path / "manifest.json").is_file():
        keys = read_json(path / "manifest.json").get("keys")
        for key in keys if isinstance(keys, list) else ():
            if isinstance(key, int):
                (path / "checkpoints" / f"{key}.safetensors").unlink(missing_ok=True)


def prepare(path: Path, keys: Collection[int], *, overwrite: bool) -> Path:
    """Make the folder of a run that may keep these epochs.

    What the run is going to replace is removed now: if it is interrupted, its folder holds no mixture of two runs.

    Raises:
        NetopsyError: it has files in it and `overwrite` is False; or it has checkpoints of another run that this
            one would not replace, and that would be taken for its own.
    """
    new_folder(path, overwrite=overwrite)
    mine = {f"{key}.safetensors" for key in keys}
    found = sorted(path.glob("checkpoints/*.safetensors"))
    others = [file.name for file in found if file.name not in mine]
    if others:
        raise NetopsyError(
            f"output folder {path}: expected no checkpoints but those that this run replaces; it has "
            f"{shorten(others)} of another run; delete them or choose another path"
        )
    # The manifest goes first: without it, what is left is nobody's run.
    for file in (*(path / name for name in ("manifest.json", "history.parquet", "resume.safetensors")), *found):
        file.unlink(missing_ok=True)
    _sweep(path)
    return path


def find_run(path: Path, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the run in a folder; None when none has begun there. Changes nothing.

    Raises:
        NetopsyError: the folder holds something else, or a run of another origin: the message says what differs.
    """
    if not path.is_dir() or not any(path.iterdir()):
        return None
    if not (path / "manifest.json").is_file():
        inner = path / "checkpoints"
        strange = [entry.name for entry in path.iterdir() if not (OWN.fullmatch(entry.name) or _abandoned(entry))]
        strange += [file.name for file in inner.glob("*") if file.suffix != ".safetensors" and not _abandoned(file)]
        if strange:
            raise NetopsyError(
                f"run folder {path}: expected a run to go on with, or an empty folder; it has no manifest.json, and "
                f"{shorten(sorted(strange))}; choose another path"
            )
        return None
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest.get("config"), dict) or not {"model", "data", "keys", "finished"} <= manifest.keys():
        raise NetopsyError(
            f"run folder {path}: expected the manifest of a training run; it is of something else; choose another "
            "path"
        )
    differences = _differences(manifest, json.loads(json.dumps(origin)))
    if differences:
        raise NetopsyError(
            f"run folder {path}: expected the run of these arguments to go on with; it holds another one: "
            f"{'; '.join(differences)}; pass what it was begun with, choose another path or pass overwrite=True"
        )
    return manifest


def check_start(file: Path, state: State) -> None:
    """Hold checkpoint 0 against the initial state that the factory makes now.

    Raises:
        NetopsyError: they differ in a bit.
    """
    old = StateFile(file)
    differing = [name for name in {**old, **state} if name not in old or name not in state]
    differing += [name for name in state if name in old and not torch.equal(old[name], state[name].cpu())]
    if differing:
        raise NetopsyError(
            f"{file}: expected the initial weights that the factory makes with this seed; {shorten(differing)} "
            "differ; the factory makes another model now, or draws its weights from more than the seed; pass the "
            "factory that the run was begun with, choose another path or pass overwrite=True"
        )


def _differences(manifest: Mapping[str, Any], origin: Mapping[str, Any]) -> list[str]:
    """What differs, in words. What an older netopsy did not write down yet is taken for the default."""
    defaults = {f.name: f.default for f in fields(FitConfig) if f.default is not MISSING}
    then = {**json.loads(json.dumps(defaults)), **manifest["config"]}
    now: Mapping[str, Any] = origin["config"]
    found = [
        f"{name} was {then.get(name)!r}, is {now.get(name)!r}"
        for name in {**now, **then}
        if then.get(name) != now.get(name)
    ]
    for name in ("model", "data", "validation"):
        if manifest.get(name, origin[name]) != origin[name]:
            found.append(f"{name} was {manifest[name]}, is {origin[name]}")
    old, new = manifest.get("factory"), origin["factory"]
    if old is not None and new is not None and old != new:  # a lambda can't be told from another
        found.append(f"factory was {old}, is {new}")
    return found


def _abandoned(path: Path) -> bool:
    return path.name.startswith(".")


def _sweep(path: Path) -> None:
    """Remove what writes that were killed left."""
    for folder in (path, path / "checkpoints"):
        sweep_temporaries(folder)
