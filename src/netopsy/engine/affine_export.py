"""What the affine engine reads a model as: a program that knows its layers' names, and values in one precision."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.engine.graph import ExportError, Program, Step, export
from netopsy.network.addresses import evaluation_mode, named_state
from netopsy.network.task import Task


def export_marked(model: nn.Module, points: Float[Tensor, " points *shape"], task: Task) -> Program:
    """Export a model in eval mode with all its leaf modules marked.

    Args:
        model: called with one tensor; it is not changed.
        points: two inputs or more, in any precision.
        task: its `logits` says where in the model's output the logits are.

    Raises:
        NetopsyError: it cannot be exported.
    """
    leaves = frozenset(name for name, module in model.named_modules() if name and not [*module.children()])
    own = [value.dtype for value in named_state(model).values() if value.is_floating_point()]
    example = points[:2].to(own[0] if own else torch.get_default_dtype())
    with evaluation_mode(model):
        try:
            return export(model, ((example,), {}), task.logits, leaves)
        except ExportError as error:
            raise NetopsyError(
                f"model: expected one that torch.export can trace; {type(model).__name__} cannot be turned into "
                f"steps ({error})"
            ) from error


def state_in(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's values, those in floating point in this precision; they are its own where that is theirs."""
    state = {name: value.detach() for name, value in named_state(model).items()}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


class LayerNames:
    """Names of the activations of a program that was exported with its leaf modules marked."""

    def __init__(self, program: Program) -> None:
        self.places = program.places
        self.entered: dict[int, str] = {}  # slot of what enters a module -> the module
        self.taken: set[str] = set()

    def see(self, step: Step) -> None:
        """Note a mark; steps are to be shown in order."""
        if step.place and step.place.startswith("input|"):
            _, name, call, _ = step.place.split("|")
            calls = sum(place.startswith(f"input|{name}|") and place.endswith("|0") for place in self.places)
            self.entered[step.writes] = name if calls == 1 else f"{name}, call {call}"

    def name(self, source: int, packet: Any) -> str:
        """The module that this activation is, with the call where it is called several times; else the operation with
        a running number.
        """
        module = self.entered.get(source)
        numbered = (f"{operation_name(packet)}_{number}" for number in itertools.count())
        names = itertools.chain([module] if module else [], numbered)
        free = next(name for name in names if name not in self.taken)
        self.taken.add(free)
        return free


def operation_name(function: Any) -> str:
    """Of an ATen operator, without its overload."""
    return str(getattr(function, "__name__", function)).removeprefix("aten.").split(".")[0]
