"""What a population of students became: correlations with their teachers' units, ranks, norms, losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError, one_of
from netopsy._storage import new_folder, read_result_manifest, write_json, write_state
from netopsy.engine.alignment import best, mean_rank, rho_bar
from netopsy.network.tensor_files import TensorFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = ("records.safetensors", "final.safetensors", "manifest.json")


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherStudentResult:
    """Records of N students over E epochs.

    Attributes:
        seeds: of the students, in order.
        records: see `netopsy.probes.teacher_student_run.measure`; the first axis is the epoch, from 0, the second the
            seed. `h_star.l` has the epochs that the config asks for, ascending.
        final: the students' parameters and buffers at the end, (N, …).
        provenance: config, versions, seconds.
    """

    seeds: tuple[int, ...]
    records: Mapping[str, Tensor] = field(repr=False)
    final: Mapping[str, Tensor] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def layers(self) -> int:
        """Hidden layers."""
        return sum(name.startswith("rho.") for name in self.records)

    def rho(self, layer: int) -> Float[Tensor, "e n t j"]:
        """Correlations of the teachers' units (t) with the students' (j), a hidden layer's, counted from 0.

        Raises:
            NetopsyError: for a layer that is not there.
        """
        one_of("layer", layer, range(self.layers))
        return self.records[f"rho.{layer}"]

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: a row an epoch, layer and seed.

        Columns: `epoch` (0: before the first step), `layer` (from 0), `seed`, `rho_bar` (mean over the teacher's
        units of their best correlation), `rank` (mean rank, in [0, 1], of the units that win at the end), `loss`
        (mean squared error on the evaluation examples; the same for all layers). Null where a student diverged.
        """
        parts = []
        loss = self.records["loss"].double()
        for layer in range(self.layers):
            rho = self.rho(layer)
            values = {"rho_bar": rho_bar(rho), "rank": mean_rank(rho, rho[-1:].expand_as(rho)), "loss": loss}
            epochs, seeds = loss.shape
            parts.append(
                pd.DataFrame(
                    {
                        "epoch": torch.arange(epochs).repeat_interleave(seeds).numpy(),
                        "layer": layer,
                        "seed": list(self.seeds) * epochs,
                        **{name: value.double().flatten().numpy() for name, value in values.items()},
                    }
                )
            )
        frame = pd.concat(parts, ignore_index=True)
        return frame.sort_values(["epoch", "layer"], kind="stable", ignore_index=True)

    def units(self) -> pd.DataFrame:
        """One row an epoch, layer, seed and unit of the student.

        Columns: `epoch, layer, seed, unit`, `fan_in` and `fan_out` (lengths of its incoming and outgoing weights),
        `winner` (whether it is the best of a unit of the teacher at the end).
        """
        parts = []
        for layer in range(self.layers):
            inward, outward = self.records[f"in.{layer}"], self.records[f"out.{layer}"]
            index = pd.MultiIndex.from_product(
                [range(len(inward)), [layer], self.seeds, range(inward.shape[2])],
                names=["epoch", "layer", "seed", "unit"],
            )
            winner = self.winners(layer).expand(len(inward), -1, -1)
            values = {"fan_in": inward.double(), "fan_out": outward.double(), "winner": winner}
            columns = {name: value.flatten().numpy() for name, value in values.items()}
            parts.append(pd.DataFrame(columns, index=index).reset_index())
        return pd.concat(parts, ignore_index=True)

    def winners(self, layer: int) -> Tensor:
        """Which units of the students, (N, j), are the best of a unit of their teacher at the end."""
        return winners(self.rho(layer)[-1])

    def plot(self, ax: Axes | None = None, *, column: Literal["rho_bar", "rank"] = "rho_bar") -> Axes:
        """Draw a column over the epochs, a line a layer: mean, and the band of the seeds.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            column: which.
        """
        from netopsy.plots.matching import match_lines

        return match_lines(self.to_frame(), column=column, ax=ax)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `records.safetensors`, `final.safetensors` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        write_state(folder / FILES[0], self.records)
        write_state(folder / FILES[1], self.final)
        write_json(folder / FILES[2], {"provenance": dict(self.provenance), "seeds": list(self.seeds)})
        return folder

    @classmethod
    def load(cls, path: Path | str) -> TeacherStudentResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        folder = Path(path)
        manifest = read_result_manifest(folder, "TeacherStudentResult", "teacher_student", FILES)
        files = [TensorFile(folder / name) for name in FILES[:2]]
        records, final = ({name: file.read(name) for name in file.names} for file in files)
        seeds = tuple(manifest.get("seeds", ()))
        if "loss" not in records or records["loss"].shape[-1] != len(seeds):
            raise NetopsyError(f"{folder}: expected the losses of {len(seeds)} seeds; the files are damaged")
        return cls(seeds=seeds, records=records, final=final, provenance=manifest["provenance"])

    def __str__(self) -> str:
        frame = self.to_frame()
        ends = frame[frame.epoch.isin([0, 1, frame.epoch.max()])]
        means = ends.groupby(["epoch", "layer"])[["rho_bar", "rank", "loss"]].mean().reset_index()
        text = means.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–")
        lost = [
            seed for seed, loss in zip(self.seeds, self.records["loss"][-1].tolist(), strict=True) if loss != loss
        ]
        note = [f"Diverged: the students of seeds {', '.join(map(str, lost))}."] if lost else []
        return "\n".join([text, f"Means over {len(self.seeds)} seeds.", *note])


def winners(rho: Float[Tensor, "n t j"]) -> Tensor:
    """Which units (n, j) are the best of a unit of the teacher."""
    chosen = best(rho)
    found = torch.zeros(len(rho), rho.shape[2], dtype=torch.bool)
    for place, match in enumerate(chosen):
        found[place, match[match >= 0]] = True
    return found
