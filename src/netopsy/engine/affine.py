"""Run a model on pieces of its input space on which it is affine, and cut them where it is not.

A piece of a line, an arc or a plane is a *cell*: x = sum_j c_j(t) coefficient_j with k functions c_j of place, the
first of them the constant one (1, t; 1, cos t, sin t; 1, u, v). As long as a network is affine on a cell, each of its
values has such coefficients too. Where a pre-activation passes a kink of its activation, a `Partition` cuts the cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.engine.affine_export import export_marked, state_in
from netopsy.engine.affine_instructions import Instruction, on_cells, rows_of
from netopsy.engine.affine_kinks import Kinks
from netopsy.engine.affine_steps import ADVICE, compile_steps
from netopsy.engine.functional import bind
from netopsy.network.addresses import evaluation_mode, unwrap
from netopsy.network.task import Task

AGREE = 1e-8
"""Largest difference from the model in float64, relative to its largest logit."""


@dataclass(frozen=True, eq=False)
class Refined:
    """Cells after a cut.

    Attributes:
        parents: the cell that each was cut from; ascending, each parent at least once.
        pieces: the piece of the activation that each unit is on, there.
    """

    parents: Int64[Tensor, " new"]
    pieces: Int8[Tensor, "new n"]


@runtime_checkable
class Partition(Protocol):
    """Cells of one kind, and how they are cut. It changes as they are; the order of the cells is its own."""

    def refine(self, layer: str, pre: Float[Tensor, "cells k n"], kinks: Kinks, counted: bool) -> Refined:
        """Cut the cells where a pre-activation passes one of the kinks' thresholds.

        Args:
            layer: whose pre-activations these are.
            pre: their coefficients.
            kinks: of the activation.
            counted: whether these are kinks of units; else comparisons (of two values, in max pooling).
        """
        ...

    def part(self, cells: slice) -> Partition:
        """Some neighboring cells alone, to go on with; called in ascending order, each part is run to the end."""
        ...


@dataclass(frozen=True, eq=False)
class Points:
    """A partition that cuts nothing: each cell is a point, its constant coefficient (k = 1)."""

    def refine(self, layer: str, pre: Float[Tensor, "cells k n"], kinks: Kinks, counted: bool) -> Refined:
        pieces = sum((pre[:, 0] > threshold).to(torch.int8) for threshold in kinks.thresholds)
        return Refined(torch.arange(len(pre)), torch.as_tensor(pieces))

    def part(self, cells: slice) -> Points:
        return self


@dataclass(frozen=True, eq=False)
class AffineNetwork:
    """A model as instructions on coefficients, in float64.

    Attributes:
        instructions: in an order in which they can run.
        layers: names of what is cut at, in this order -> whether it is counted.
        output: the slot of the logits.
    """

    instructions: tuple[Instruction, ...]
    layers: Mapping[str, bool]
    output: int
    _input: int
    _model: nn.Module
    _state: Mapping[str, Tensor]
    _task: Task

    def run(
        self, inputs: Float[Tensor, "cells k *shape"], partition: Partition, *, budget: int | None = None
    ) -> Float[Tensor, "pieces k *logits"]:
        """Cut the cells until the model is affine on each.

        Args:
            inputs: coefficients of the inputs on the first cells, in float64.
            partition: where these cells are; it is told of each cut.
            budget: bytes of values that are kept at a time; beyond that the cells are run in parts, one after the
                other. Each level of parts keeps as much again.

        Returns:
            Coefficients of the logits on the last cells.
        """
        slots: list[Any] = [None] * (1 + max(self._input, *(i.writes for i in self.instructions)))
        slots[self._input] = inputs.flatten(0, 1)
        with torch.no_grad():
            rows = self._run(0, slots, inputs.shape[1], partition, budget)
            return rows.view(-1, inputs.shape[1], *rows.shape[1:])

    def _run(self, start: int, slots: list[Any], k: int, partition: Partition, budget: int | None) -> Tensor:
        for index in range(start, len(self.instructions)):
            instruction = self.instructions[index]
            if instruction.kinks is None:
                value = instruction.run(slots, k)
                if value.shape[0] != rows_of(slots):
                    raise NetopsyError(
                        f"model: {instruction.name} mixes examples: expected a result for each of {rows_of(slots)} "
                        f"rows; got shape {tuple(value.shape)}; only models that treat examples one by one can be cut"
                    )
                slots[instruction.writes] = value
                for slot in instruction.frees:
                    slots[slot] = None
                continue
            pre = slots[instruction.reads[0]]
            cells = len(pre) // k
            for slot in instruction.frees:
                slots[slot] = None
            refined = partition.refine(
                instruction.name, pre.reshape(cells, k, -1), instruction.kinks, instruction.counted
            )
            parts = _parts(len(refined.parents), [pre, *slots], cells, budget)
            if len(parts) == 1:
                slots = _cut(slots, refined.parents, k)
                slots[instruction.writes] = instruction.apply(pre, refined.parents, refined.pieces, k)
                continue
            outputs = []
            for part in parts:
                own = _cut(slots, refined.parents[part], k)
                own[instruction.writes] = instruction.apply(pre, refined.parents[part], refined.pieces[part], k)
                outputs.append(self._run(index + 1, own, k, partition.part(part), budget))
            return torch.cat(outputs)
        return slots[self.output]  # type: ignore[no-any-return]

    def logits(self, points: Float[Tensor, " points *shape"]) -> Float[Tensor, " points *logits"]:
        """What the model itself gives, in float64.

        Raises:
            NetopsyError: where it cannot compute in float64.
        """
        with torch.no_grad(), evaluation_mode(self._model):
            try:
                output: Tensor = self._task.logits(bind(self._model)(self._state, ((points,), {})))
            except RuntimeError as error:
                raise NetopsyError(
                    f"model: expected one that computes in the type of its input; in float64 {error}; make its "
                    "constants in that type (dtype=x.dtype)"
                ) from error
            return output

    def check(self, points: Float[Tensor, " points *shape"], logits: Float[Tensor, " points *logits"]) -> None:
        """Refuse logits that are not the model's own at these points.

        Raises:
            NetopsyError: where they differ by more than `AGREE` of the largest.
        """
        expected = self.logits(points)
        difference = (logits - expected).abs().max().item()
        if not difference <= AGREE * max(expected.abs().max().item(), 1e-300):
            raise NetopsyError(
                f"model: expected its affine pieces to agree with the model in float64; got logits that differ by "
                f"{difference:.1e}; {ADVICE}"
            )


def affine_network(
    model: nn.Module, points: Float[Tensor, " points *shape"], *, task: Task | None = None
) -> AffineNetwork:
    """Make a model ready to be cut into affine pieces.

    Supported: linear, convolution and matrix products with constants; batch normalization in eval mode; average
    pooling, sums and means; sums of values, products with constants; whatever moves values about; ReLU, ReLU6, leaky
    ReLU, PReLU, hardtanh, clamp, hardsigmoid, abs, maximum and minimum of two values, max pooling.

    Args:
        model: called with one tensor, in eval mode; it is not changed, and its values are copied to float64.
        points: two inputs or more, at which the instructions are compared with the model.
        task: its `logits` says where in the model's output the logits are.

    Raises:
        NetopsyError: a model that cannot be exported, an operation that is not supported, a model that is not in
            floating point or gives other logits in float64.
    """
    task, model = task or Task(), unwrap(model)
    if len(points) < 2:
        raise NetopsyError(f"points: expected two inputs or more; got {len(points)}")
    program, state = export_marked(model, points, task), state_in(model, torch.float64)
    instructions, source, output = compile_steps(program, state)
    layers = {i.name: i.counted for i in instructions if i.kinks is not None}
    network = AffineNetwork(instructions, layers, output, source, model, state, task)
    points = points.double()
    network.check(points, network.run(points.unsqueeze(1), Points()).squeeze(1))
    return network


def _cut(slots: Sequence[Any], parents: Int64[Tensor, " new"], k: int) -> list[Any]:
    """Every value on the new cells."""
    return [None if value is None else on_cells(value, k).index_select(0, parents).flatten(0, 1) for value in slots]


def _parts(count: int, values: Sequence[Any], cells: int, budget: int | None) -> list[slice]:
    """Neighboring cells that are run together."""
    size = sum(value.nbytes for value in values if value is not None) * count / cells
    parts = 1 if budget is None else min(count, math.ceil(size / budget))
    ends = [round(i * count / parts) for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]
