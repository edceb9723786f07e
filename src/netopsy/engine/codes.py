"""Codes of a network's units at points of its input space: which piece of its activation each unit is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.engine.affine_export import LayerNames, export_marked, state_in
from netopsy.engine.affine_kinks import kinks_of
from netopsy.engine.graph import Program
from netopsy.engine.masked import Slot
from netopsy.network.task import Task

aten = torch.ops.aten

SMOOTH = {
    aten.tanh, aten.sigmoid, aten.gelu, aten.silu, aten.softplus, aten.elu, aten.celu, aten.selu, aten.mish,
    aten.hardswish, aten.log_sigmoid, aten.atan,
}  # fmt: skip
"""Activations without kinks, or with curved pieces: their code is whether the pre-activation is above 0."""


@dataclass(frozen=True)
class Coded:
    """An activation.

    Attributes:
        name: its layer.
        source: the slot of its pre-activations.
        thresholds: between its pieces.
    """

    name: str
    source: int
    thresholds: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class CodedNetwork:
    """A model as steps, some of which are activations.

    Attributes:
        activations: step -> the activation that it is, in the order in which they run.
    """

    activations: Mapping[int, Coded]
    _program: Program
    _state: Mapping[str, Tensor]
    _dtype: torch.dtype

    @property
    def layers(self) -> list[str]:
        """Names of the activations' layers, in order."""
        return [activation.name for activation in self.activations.values()]

    def at(self, points: Float[Tensor, " points *shape"]) -> Iterator[tuple[str, Int8[Tensor, "points n"]]]:
        """Each layer's name and codes, in order; a value at a threshold is on the piece below it."""
        program = self._program
        slots = program.load(self._state, ((points.to(self._dtype),), {}))
        last = {slot: index for index, step in enumerate(program.steps) for slot in step.reads}
        with torch.no_grad():
            for index, step in enumerate(program.steps):
                if index in self.activations:
                    layer = self.activations[index]
                    pre: Float[Tensor, " points *n"] = slots[layer.source].flatten(1)
                    above = [(pre > threshold).to(torch.int8) for threshold in layer.thresholds]
                    yield layer.name, above[0] if len(above) == 1 else torch.stack(above).sum(0, dtype=torch.int8)
                slots[step.writes] = step.run(slots)
                for slot in step.reads:
                    if last[slot] == index:
                        slots[slot] = None


def coded_network(
    model: nn.Module,
    points: Float[Tensor, " points *shape"],
    *,
    dtype: torch.dtype = torch.float64,
    task: Task | None = None,
) -> CodedNetwork:
    """Make a model ready to be asked for its units' codes.

    Args:
        model: called with one tensor, in eval mode; it is not changed.
        points: two inputs or more, to export it with.
        dtype: precision in which it is run.
        task: its `logits` says where in the model's output the logits are.

    Raises:
        NetopsyError: it cannot be exported, or has no activations that are known.
    """
    program = export_marked(model, points, task or Task())
    return CodedNetwork(_activations(program), program, state_in(model, dtype), dtype)


def _activations(program: Program) -> Mapping[int, Coded]:
    """Step -> the activation that it is."""
    names, found = LayerNames(program), {}
    for index, step in enumerate(program.steps):
        names.see(step)
        operation = step.operation
        if operation is None or not operation.args or not isinstance(operation.args[0], Slot):
            continue
        packet: Any = getattr(operation.function, "overloadpacket", None)
        kinks, source = kinks_of(operation), operation.args[0].number
        thresholds = (0.0,) if packet in SMOOTH else None if kinks is None else kinks.thresholds
        if thresholds is not None:
            found[index] = Coded(names.name(source, packet), source, thresholds)
    if not found:
        raise NetopsyError("model: expected activations; it has none that are known")
    return found
