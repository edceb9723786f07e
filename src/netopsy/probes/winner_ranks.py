"""When a student's winners were known: their ranks over training.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019),
§5.1: ρ̄ and the mean rank r̄(e).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._storage import new_folder, read_result_manifest, write_json
from netopsy.engine.alignment import mean_rank, rho_bar
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.network.units import UnitSpec
from netopsy.probes.key_column import key_column, read_keyed, write_keyed
from netopsy.probes.matching import match_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 12
"""Checkpoints that a printed result has, at most."""

FILES = ("results.parquet", "manifest.json")


@dataclass(frozen=True, eq=False)
class WinnerRanks:
    """How well a student's units covered a teacher's at each checkpoint, and how its later winners ranked.

    Attributes:
        frame: one row a layer and checkpoint; see `to_frame`.
        provenance: that of the match at the end, and the checkpoints.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `checkpoint`, `layer` (of the student), `teacher_layer`, `rho_bar` (mean over the teacher's units of
        their highest ρ), `rank` (r̄: the mean place, 0 for the first and 1 for beyond the last, of the units that win
        at the end; 0 at the end itself). Null where no unit has a number.
        """
        return self.frame.copy()

    def plot(self, ax: Axes | None = None, *, column: Literal["rho_bar", "rank"] = "rho_bar") -> Axes:
        """Draw a column over the checkpoints (`netopsy.plots.matching.match_lines`).

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            column: which.
        """
        from netopsy.plots.matching import match_lines

        return match_lines(self.frame.rename(columns={"checkpoint": "epoch"}), column=column, ax=ax)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        write_keyed(folder / FILES[0], self.frame)
        write_json(folder / FILES[1], {"provenance": dict(self.provenance)})
        return folder

    @classmethod
    def load(cls, path: Path | str) -> WinnerRanks:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        folder = Path(path)
        provenance = read_result_manifest(folder, "WinnerRanks", "winner_ranks", FILES)["provenance"]
        return cls(frame=read_keyed(folder / FILES[0]), provenance=provenance)

    def __str__(self) -> str:
        known = self.provenance.get("names")
        head = [f"units of {known[1]} among those of {known[0]}"] if known else []
        keys = list(dict.fromkeys(self.frame.checkpoint))
        places = np.linspace(0, len(keys) - 1, min(len(keys), SHOWN)).round().astype(int)
        shown = [keys[place] for place in places]
        part = self.frame[self.frame.checkpoint.isin(shown)].drop(columns="teacher_layer")
        text = part.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–")
        left_out = f" {len(shown)} of {len(keys)} checkpoints." if len(shown) < len(keys) else ""
        return "\n".join([*head, text, f"rank: 0 for winners that led, about 0.5 by chance.{left_out}"])


def winner_ranks(
    trajectory: Trajectory,
    teacher: nn.Module | Trajectory,
    data: Any,
    *,
    sites: UnitSpec = None,
    teacher_sites: UnitSpec = None,
    names: tuple[str, str] | None = None,
    seed: int = 0,
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> WinnerRanks:
    """Measure ρ̄ and the mean rank r̄ of the final winners at every checkpoint; one pass over the data each.

    Each unit of the teacher has its winner: the student's unit with the highest ρ at the last checkpoint. The
    teacher may be any network with as many layers, such as another run of the same training.

    Args:
        trajectory: of the student.
        teacher: whose units are to be covered.
        data: examples in any form that `netopsy.evaluate` takes: at least a thousand for a steady ρ.
        sites: layers of the student; by default the outputs of all activation modules.
        teacher_sites: as many of the teacher; by default named as the student's.
        names: of the student and the teacher, for tables and reports.
        seed: of the order of the examples, which changes rounding only.
        task: how batches of both are read.
        batch_size: examples a batch.
        progress: called with the checkpoints done and their number.

    Raises:
        NetopsyError: as `match_units` does; for a module in place of a trajectory; `teacher_sites` without `sites`.
    """
    if not isinstance(trajectory, Trajectory):
        raise NetopsyError(
            f"trajectory: expected a netopsy.Trajectory, whose checkpoints are compared with its last one; got "
            f"{type(trajectory).__name__}; for two networks use netopsy.match_units"
        )
    if sites is None and teacher_sites is not None:
        raise NetopsyError("sites: expected the student's layers beside teacher_sites; got None; pass both")
    started = time.perf_counter()
    reference = teacher.model() if isinstance(teacher, Trajectory) else teacher
    keys = trajectory.keys
    found = {}
    for done, key in enumerate(reversed(keys)):
        found[key] = match_units(
            reference,
            trajectory.model(key),
            data,
            sites=sites if teacher_sites is None else teacher_sites,
            other_sites=sites,
            seed=seed,
            task=task,
            batch_size=batch_size,
        )
        if progress is not None:
            progress(done + 1, len(keys))
    final = found[keys[-1]]
    rows = []
    for key in keys:
        for name, other in zip(final.layers.layer_a, final.layers.layer_b, strict=True):
            early, late = (torch.from_numpy(match.matrix[name]) for match in (found[key], final))
            rows.append((key, other, name, float(rho_bar(early)), float(mean_rank(early, late))))
    frame = pd.DataFrame(rows, columns=["checkpoint", "layer", "teacher_layer", "rho_bar", "rank"])
    frame["checkpoint"] = key_column(frame.checkpoint.tolist())
    return WinnerRanks(
        frame=frame.astype({"layer": "string", "teacher_layer": "string"}),
        provenance={
            **final.provenance,
            "probe": "winner_ranks",
            "names": None if names is None else list(names),
            "checkpoints": list(keys),
            "seconds": time.perf_counter() - started,
        },
    )
