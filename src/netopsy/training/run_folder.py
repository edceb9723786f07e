"""The folder of a training run: checkpoints, history, manifest; whole after an interruption at any instant."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import netopsy
from netopsy._checks import NetopsyError, shorten
from netopsy._storage import new_folder, write_json, write_state, write_table
from netopsy._typing import State


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run writes.

    Attributes:
        path: of the folder, which exists.
        origin: what the manifest says of where the run comes from, beside the versions; JSON.
    """

    path: Path
    origin: Mapping[str, Any]

    def keep(self, epoch: int, state: State) -> Path:
        """Write `checkpoints/<epoch>.safetensors`."""
        path = self.path / "checkpoints" / f"{epoch}.safetensors"
        write_state(path, state, epoch=epoch)
        return path

    def log(self, history: pd.DataFrame, keys: Iterable[int], *, finished: bool) -> None:
        """Write `history.parquet`, then `manifest.json`, which names the checkpoints that are there."""
        versions = {
            "netopsy": netopsy.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        write_table(self.path / "history.parquet", history)
        write_json(
            self.path / "manifest.json",
            {**self.origin, "versions": versions, "keys": list(keys), "finished": finished},
        )


def prepare(path: Path, keys: Iterable[int], *, overwrite: bool) -> Path:
    """Make the folder of a run that will keep these epochs.

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
    for file in (path / "manifest.json", path / "history.parquet", *found):
        file.unlink(missing_ok=True)
    return path
