"""The expected update of each layer of a student, and what separating its expectations costs.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019),
Assumptions 1 and 3, Theorem 2.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError
from netopsy._storage import new_folder, read_result, write_result, write_state
from netopsy.engine.batches import open_data
from netopsy.network.task import Task
from netopsy.network.tensor_files import TensorFile
from netopsy.probes.gradient_rule import Betas, descend, layer_gradient, read_pair
from netopsy.probes.relu_chain import ReluChain, Run

MOMENTS = "moments.safetensors"
"""The file of a saved result's matrices."""

NUMBERS = 1 << 22
"""Entries of one layer's β and β* that are held at a time: examples are taken in pieces of so many."""


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Expectations of one layer l, whose map leads from the units i below to the units k above; float64.

    Every matrix has the constant node behind the biases as its last row or column, but at the outputs. With
    W (i x k) and W* the maps and H = `joint` or `separated`, the expected update is W' = L* W* H* - L W H.

    Attributes:
        below: L = E[f_i f_j], of the student.
        below_across: L* = E[f_i f°_i°], of a student's with a teacher's unit.
        gates: D = E[f'_k f'_j]; `gates_across` D* = E[f'_k f'_k°]; `gates_teacher` of the teacher's among each other.
        beta: E[β]; `beta_across` E[β*].
        joint: E[β f'_k f'_j]; `joint_across`, E[β* f'_k f'_k°].
        teacher: E[f f°] of the teacher's units k, whose overlap is Assumption 3.
        update: E[f_i g_k], exact: minus the gradient of ½E‖student - teacher‖² with respect to W.
    """

    below: Float[Tensor, "i i"] = field(repr=False)
    below_across: Float[Tensor, "i i_star"] = field(repr=False)
    gates: Float[Tensor, "k k"] = field(repr=False)
    gates_across: Float[Tensor, "k k_star"] = field(repr=False)
    gates_teacher: Float[Tensor, "k_star k_star"] = field(repr=False)
    beta: Float[Tensor, "k k"] = field(repr=False)
    beta_across: Float[Tensor, "k k_star"] = field(repr=False)
    joint: Float[Tensor, "k k"] = field(repr=False)
    joint_across: Float[Tensor, "k k_star"] = field(repr=False)
    teacher: Float[Tensor, "k_star k_star"] = field(repr=False)
    update: Float[Tensor, "i k"] = field(repr=False)

    @property
    def separated(self) -> Float[Tensor, "k k"]:
        """E[β] E[f'f'], entry by entry: H under Assumption 1."""
        return self.beta * self.gates

    @property
    def separated_across(self) -> Float[Tensor, "k k_star"]:
        """E[β*] E[f'f'°], entry by entry: H* under Assumption 1, transposed."""
        return self.beta_across * self.gates_across


@dataclass(frozen=True, eq=False)
class LayerDynamics:
    """The terms of Theorem 2 for each layer of a student, and the gap that Assumption 1 leaves.

    Attributes:
        moments: of each layer, the one on the inputs first.
        frame: one row a layer; see `to_frame`.
        provenance: versions, data fingerprint, examples, widths, seconds.
    """

    moments: tuple[LayerMoments, ...] = field(repr=False)
    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `layer` (0 is on the inputs), `units` of the student and `teacher_units` above the map, `update` (the
        norm of the expected update), `gap_joint` and `gap_separated` (the norm of the difference to it, relative, of
        the update with E[β f'f'] and with E[β] E[f'f']; null where the update is zero), and of the teacher's units
        above the map (null at the outputs) `gate_overlap` and `value_overlap` (mean off-diagonal over mean diagonal
        entry of E[f'f'ᵀ] and E[f fᵀ]), `epsilon_d` and `epsilon_l` (the largest off-diagonal entry over its row's
        diagonal one: Assumption 3's constants).
        """
        return self.frame.copy()

    def h_star(self, layer: int, *, separated: bool = False) -> Float[Tensor, "k_star k"]:
        """H* of the units above a map, the teacher's (rows) x the student's, without the constant nodes."""
        moments = self.moments[layer]
        rows = (moments.separated_across if separated else moments.joint_across).T
        return rows[: self.frame.teacher_units[layer], : self.frame.units[layer]]

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `layers.parquet`, `moments.safetensors` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        names = [each.name for each in fields(LayerMoments)]
        tensors = {f"{at}.{name}": getattr(layer, name) for at, layer in enumerate(self.moments) for name in names}
        write_state(folder / MOMENTS, tensors)
        return write_result(folder, {"layers": self.frame}, self.provenance, overwrite=True)  # the manifest last

    @classmethod
    def load(cls, path: Path | str) -> LayerDynamics:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "LayerDynamics", "layer_dynamics", ["layers"])
        file, frame = TensorFile(Path(path) / MOMENTS), tables["layers"]
        names = [each.name for each in fields(LayerMoments)]
        wanted = {f"{at}.{name}" for at in range(len(frame)) for name in names}
        if wanted != set(file.names):
            raise NetopsyError(
                f"{path}: expected {len(wanted)} matrices of {len(frame)} layers in {MOMENTS}; it has "
                f"{len(file.names)}; the file is damaged"
            )
        moments = [LayerMoments(**{name: file.read(f"{at}.{name}") for name in names}) for at in range(len(frame))]
        return cls(moments=tuple(moments), frame=frame, provenance=provenance)

    def __str__(self) -> str:
        text = self.frame.to_string(index=False, float_format=lambda value: f"{value:.3g}", na_rep="–")
        examples = self.provenance["examples"]
        return (
            f"{text}\nMeans over {examples:,} examples. Gaps are relative to the exact update: gap_joint of "
            "E[β f'f'], gap_separated of E[β] E[f'f']."
        )


def layer_dynamics(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    task: Task | None = None,
    batch_size: int | None = None,
) -> LayerDynamics:
    """Compute L, L*, D, β, H and H* of every layer, and how far the separated update is from the exact one.

    Expectations are means over all examples, in float64. Memory is 8 bytes times the squares of the layers' widths.

    Args:
        student: linear maps with a ReLU between each two, as `recursive_gradients` takes them.
        teacher: of the same depth, inputs and outputs.
        data: examples in any form that `netopsy.evaluate` takes; targets are not used.
        task: how batches are read; the model's first argument is used.
        batch_size: examples a batch.

    Raises:
        NetopsyError: for networks that are no such chains, or do not fit together.
    """
    started = time.perf_counter()
    source, task = open_data(data, batch_size=batch_size), task or Task()
    a, b = read_pair(student, teacher, _inputs(task, source.first()))
    width = max(a.widths) * (max(a.widths) + max(b.widths))
    step = max(1, NUMBERS // width)
    sums: list[dict[str, Tensor]] = [{} for _ in a.maps]
    count = 0
    for _, batch in source.batches():
        inputs = _inputs(task, batch).detach().flatten(1).double().cpu()
        for piece in torch.split(inputs, step):
            mine, theirs = a.run(piece), b.run(piece)
            for layer, betas in descend(a, b, mine, theirs):
                for name, value in _sums(mine, theirs, layer, betas).items():
                    sums[layer][name] = sums[layer].get(name, torch.zeros_like(value)) + value
            count += len(piece)
    moments = tuple(LayerMoments(**{name: value / count for name, value in each.items()}) for each in sums)
    return LayerDynamics(
        moments=moments,
        frame=_frame(a, b, moments),
        provenance={
            "probe": "layer_dynamics",
            "netopsy": __version__,
            "data": source.fingerprint,
            "examples": count,
            "student": list(a.widths),
            "teacher": list(b.widths),
            "seconds": time.perf_counter() - started,
        },
    )


def overlap(square: Float[Tensor, "k k"]) -> tuple[float, float]:
    """Mean off-diagonal over mean diagonal entry; and the largest off-diagonal entry over its row's diagonal one.

    Rows with a zero on the diagonal (units that are never active) are left out; NaN of fewer than two others.

    >>> overlap(torch.tensor([[2.0, 1.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    (0.333..., 0.5)
    """
    kept = square.diagonal() > 0
    square = square[kept][:, kept].double()
    if len(square) < 2:
        return float("nan"), float("nan")
    diagonal = square.diagonal()
    other = square - torch.diag(diagonal)
    mean = float(other.sum() / (len(square) - 1) / diagonal.sum())
    return mean, float((other / diagonal[:, None]).max())


def _inputs(task: Task, batch: Any) -> Tensor:
    args, kwargs = task.inputs(batch)
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
        raise NetopsyError("data: expected batches with one tensor of inputs; got others; pass task=Task(inputs=...)")
    return args[0]


def _sums(mine: Run, theirs: Run, layer: int, betas: Betas) -> dict[str, Tensor]:
    """Of all expectations, over these examples."""
    low, low_star = mine.values[layer], theirs.values[layer]
    gates, gates_star = mine.gates[layer], theirs.gates[layer]
    high_star = theirs.values[layer + 1]
    return {
        "below": low.T @ low,
        "below_across": low.T @ low_star,
        "gates": gates.T @ gates,
        "gates_across": gates.T @ gates_star,
        "gates_teacher": gates_star.T @ gates_star,
        "beta": betas.within.sum(0),
        "beta_across": betas.across.sum(0),
        "joint": torch.einsum("nk,nkj,nj->kj", gates, betas.within, gates),
        "joint_across": torch.einsum("nk,nkt,nt->kt", gates, betas.across, gates_star),
        "teacher": high_star.T @ high_star,
        "update": low.T @ layer_gradient(mine, theirs, layer, betas),
    }


def _frame(student: ReluChain, teacher: ReluChain, moments: tuple[LayerMoments, ...]) -> pd.DataFrame:
    rows = []
    for layer, each in enumerate(moments):
        units, others = student.widths[layer + 1], teacher.widths[layer + 1]
        exact = each.update[:, :units]
        own, pull = student.maps[layer].T, teacher.maps[layer].T
        norm = float(torch.linalg.matrix_norm(exact))
        gaps = []
        for across, within in ((each.joint_across, each.joint), (each.separated_across, each.separated)):
            made = each.below_across @ pull @ across.T - each.below @ own @ within
            off = float(torch.linalg.matrix_norm(made[:, :units] - exact))
            gaps.append(off / norm if norm > 0 else float("nan"))
        top = layer == len(moments) - 1
        nothing = float("nan"), float("nan")
        gate = nothing if top else overlap(each.gates_teacher[:others, :others])
        value = nothing if top else overlap(each.teacher[:others, :others])
        rows.append((layer, units, others, norm, *gaps, gate[0], value[0], gate[1], value[1]))
    names = [
        "layer", "units", "teacher_units", "update", "gap_joint", "gap_separated", "gate_overlap", "value_overlap",
        "epsilon_d", "epsilon_l",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=names)
