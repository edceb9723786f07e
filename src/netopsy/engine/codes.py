"""Codes of a network's units at points of its input space: which piece of its activation each unit is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.engine.affine_steps import LayerNames, kinks_of
from netopsy.engine.functional import Inputs
from netopsy.engine.graph import Program
from netopsy.engine.masked import Slot

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
        smooth: whether it is none of the piecewise linear ones.
    """

    name: str
    source: int
    thresholds: tuple[float, ...]
    smooth: bool


def coded_layers(program: Program) -> Mapping[int, Coded]:
    """Step -> the activation that it is.

    Args:
        program: exported with its leaf modules marked.

    Raises:
        NetopsyError: where there is none.
    """
    names, found = LayerNames(program), {}
    for index, step in enumerate(program.steps):
        names.see(step)
        operation = step.operation
        if operation is None or not operation.args or not isinstance(operation.args[0], Slot):
            continue
        packet: Any = getattr(operation.function, "overloadpacket", None)
        kinks, source = kinks_of(operation), operation.args[0].number
        if kinks is not None:
            found[index] = Coded(names.name(source, packet), source, kinks.thresholds, False)
        elif packet in SMOOTH:
            found[index] = Coded(names.name(source, packet), source, (0.0,), True)
    if not found:
        raise NetopsyError("model: expected activations; it has none that are known")
    return found


def codes(
    program: Program, layers: Mapping[int, Coded], state: Mapping[str, Tensor], inputs: Inputs
) -> Iterator[tuple[str, Int8[Tensor, "points n"]]]:
    """Each layer's codes at a batch of points; a value at a threshold is on the piece below it."""
    slots = program.load(state, inputs)
    last = {slot: index for index, step in enumerate(program.steps) for slot in step.reads}
    with torch.no_grad():
        for index, step in enumerate(program.steps):
            if index in layers:
                layer = layers[index]
                pre: Float[Tensor, " points *n"] = slots[layer.source].flatten(1)
                above = [(pre > threshold).to(torch.int8) for threshold in layer.thresholds]
                yield layer.name, above[0] if len(above) == 1 else torch.stack(above).sum(0, dtype=torch.int8)
            slots[step.writes] = step.run(slots)
            for slot in step.reads:
                if last[slot] == index:
                    slots[slot] = None
