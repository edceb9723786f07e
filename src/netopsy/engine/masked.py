"""Values of which an edit replaces a few units only, and what a step must tell of itself to take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.utils._pytree as pytree
from torch import Tensor

aten = torch.ops.aten

Units: TypeAlias = range | Tensor
"""Entries along an axis: consecutive ones (read without a copy), or indices."""

Shape: TypeAlias = tuple[str, ...]
Slots = list[Any]


@dataclass(frozen=True)
class Slot:
    """A value among an operation's arguments."""

    number: int


@dataclass(frozen=True)
class Operation:
    """What a step computes.

    Attributes:
        function: an ATen operator.
        args: its arguments.
        options: its named arguments; no value is among them.
        writes: the slot of its result.
        shapes: slot -> sizes of its arguments and its result, a symbol for the number of examples; of tensors in
            single and double precision only: in half precision a sum of two values has lost what matters.
    """

    function: Any
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    writes: int
    shapes: Mapping[int, Shape]


@dataclass(frozen=True, eq=False)
class Part:
    """An edited value that differs from the unedited one in some entries along one axis.

    Attributes:
        whole: the unedited value.
        part: the entries that replace `whole`'s, for each example or one for all.
        units: which entries.
        axis: along which axis; not the first.
    """

    whole: Tensor
    part: Tensor
    units: Units
    axis: int

    def before(self) -> Tensor:
        """The entries that are replaced."""
        return take(self.whole, self.units, self.axis)

    def change(self) -> Tensor:
        """What the replaced entries change by, for each example."""
        return self.part - self.before()

    def changes(self) -> bool:
        """Whether any value is another."""
        before = self.before()
        return not torch.equal(self.part.expand_as(before), before)

    def filled(self) -> Tensor:
        """The edited value, whole."""
        value = self.whole.clone()
        if isinstance(self.units, range):
            take(value, self.units, self.axis).copy_(self.part)
        else:
            value.index_copy_(self.axis, self.units, self.part.expand_as(self.before()))
        return value


def take(value: Tensor, units: Units, axis: int) -> Tensor:
    """Some entries along an axis; a view where they are consecutive."""
    if isinstance(units, range):
        return value.narrow(axis, units.start, len(units))
    return value.index_select(axis, units)


def as_units(entries: tuple[int, ...], count: int, device: torch.device) -> Units:
    """Entries out of `count` in ascending order; negative ones count from the end."""
    places = sorted({entry % count for entry in entries})
    if places[-1] - places[0] == len(places) - 1:
        return range(places[0], places[-1] + 1)
    return torch.tensor(places, device=device)


def is_few(entries: tuple[int, ...], count: int) -> bool:
    """Whether entries are there, and not more than half: else the whole value is as quick."""
    return all(-count <= entry < count for entry in entries) and 0 < 2 * len({e % count for e in entries}) <= count


def batch_norm(x: Tensor, *args: Any) -> Tensor:
    """Batch normalization by fixed statistics: weight, bias, mean, variance, momentum, epsilon."""
    result: Tensor = aten._native_batch_norm_legit_no_training.default(x, *args)[0]
    return result


def is_batch_norm(node: Any) -> bool:
    """Whether a node is a batch normalization; the step made of it gives the first result alone."""
    return getattr(node, "target", None) is aten._native_batch_norm_legit_no_training.default


def operation_of(
    node: torch.fx.Node, function: Any, args: Any, slot: Mapping[torch.fx.Node, int]
) -> Operation | None:
    """A node's operation without the node, which would keep the graph alive; None: a value is among the options."""
    if any(isinstance(leaf, torch.fx.Node) for leaf in pytree.tree_leaves(node.kwargs)):
        return None
    shapes = {}
    for value in (node, *node.all_input_nodes):
        found = value.meta.get("val")
        tensor = found[0] if isinstance(found, tuple | list) and is_batch_norm(value) else found
        if isinstance(tensor, Tensor) and tensor.dtype in (torch.float32, torch.float64):
            shapes[slot[value]] = tuple(str(size) for size in tensor.shape)
    args = pytree.tree_map(lambda leaf: Slot(slot[leaf]) if isinstance(leaf, torch.fx.Node) else leaf, args)
    return Operation(function, tuple(args), dict(node.kwargs), slot[node], shapes)
