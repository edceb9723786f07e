"""Follow masked units to the next linear step, and add up their change there.

A step that treats units alone (an activation, pooling, normalization by fixed statistics, a depthwise convolution,
flattening) is run on the masked entries only. A convolution or matrix product is linear: W x' = W x + W (x' - x), and
only the columns of W that meet masked entries are needed. Anything else gets the whole value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from netopsy.engine.edits import Edit, Mask
from netopsy.engine.graph import Step
from netopsy.engine.masked import Operation, Part, Shape, Slot, Slots, Units, as_units, batch_norm, is_few, take

aten = torch.ops.aten

CANCELS = 64
"""A sum this many times smaller than a summand has lost digits: that step is then run on the whole value."""

Places = Mapping[int, tuple[tuple[int, ...], int | None]]
"""Step whose value an activation edit replaces -> the slots the replacement reads, and the axis of masked units."""

Run: TypeAlias = Callable[[Slots, Part], Part | Tensor]
"""A variant's slots, with a step's unedited result still in its place, and a part it reads -> its edited result."""

Change: TypeAlias = Callable[[Slots, Part], Tensor]
"""Likewise -> what a linear step's result changes by."""


@dataclass(frozen=True)
class Carry:
    """How a step takes a `Part`.

    Attributes:
        run: gives the edited result.
        axis: of the units in the result; None where it is a whole tensor.
    """

    run: Run
    axis: int | None


def masking(edit: Edit, step: Step) -> tuple[int, Callable[[Slots], Part]] | tuple[()]:
    """The axis of few masked units and what makes a part of them; nothing for other edits."""
    rule, shape = edit.rule, step.operation.shapes.get(step.writes) if step.operation is not None else None
    if not isinstance(rule, Mask) or shape is None or edit.address.index is not None:
        return ()
    if not -len(shape) <= rule.axis < len(shape):
        return ()
    axis, (source,) = rule.axis % len(shape), step.reads
    if axis == 0 or not shape[axis].isdigit() or not is_few(rule.units, int(shape[axis])):
        return ()

    def enter(slots: Slots) -> Part:
        whole: Tensor = slots[source]
        units = as_units(rule.units, whole.shape[axis], whole.device)
        return Part(whole, rule.replaced(take(whole, units, axis)), units, axis)

    return axis, enter


def reads_of(places: Places, steps: Sequence[Step], index: int) -> tuple[int, ...]:
    """What a step or the edit in its place reads."""
    return places[index][0] if index in places else steps[index].reads


@dataclass(frozen=True)
class Followed:
    """Where parts go: the steps whose edit gives one, and the steps that take one, or need it whole."""

    parts: frozenset[int]
    carries: Mapping[int, Run]
    taken: Mapping[int, int]
    fills: Mapping[int, tuple[int, ...]]


def follow(steps: Sequence[Step], dirty: set[int], places: Places, run: Sequence[int]) -> Followed:
    """Follow masked units through the steps of a plan; where something else is edited too, they are made whole."""
    axes: dict[int, int] = {}  # slot of a part -> the axis of its units
    parts, carries, taken, fills = set[int](), dict[int, Run](), dict[int, int](), dict[int, tuple[int, ...]]()
    for index in run:
        writes, reads = steps[index].writes, reads_of(places, steps, index)
        mine = [slot for slot in dict.fromkeys(reads) if slot in axes]
        axis = places[index][1] if index in places else None
        if axis is not None and dirty.isdisjoint(reads):
            parts.add(index)
            axes[writes] = axis
        elif index not in places and len(mine) == 1 and dirty.intersection(reads) == set(mine):
            taking = carry(steps[index].operation, mine[0], axes[mine[0]])
            if taking is not None:
                carries[index], taken[index] = taking.run, mine[0]
                mine = []
                if taking.axis is not None:
                    axes[writes] = taking.axis
        if mine:
            fills[index] = tuple(mine)
            for slot in mine:
                del axes[slot]
        dirty.add(writes)
    return Followed(frozenset(parts), carries, taken, fills)


_ELEMENTWISE = frozenset(
    [
        aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.pow.Tensor_Scalar, aten.neg.default,
        aten.abs.default, aten.exp.default, aten.sqrt.default, aten.rsqrt.default, aten.erf.default,
        aten.alias.default, aten.clone.default, aten.clamp.default, aten.clamp_min.default, aten.threshold.default,
        aten.relu.default, aten.relu6.default, aten.leaky_relu.default, aten.hardtanh.default, aten.elu.default,
        aten.celu.default, aten.selu.default, aten.gelu.default, aten.silu.default, aten.mish.default,
        aten.tanh.default, aten.sigmoid.default, aten.log_sigmoid.default, aten.hardsigmoid.default,
        aten.hardswish.default, aten.softplus.default, aten.softshrink.default, aten.hardshrink.default,
    ]
)  # fmt: skip

_POOLS = {
    aten.max_pool1d.default: 3, aten.avg_pool1d.default: 3, aten.adaptive_avg_pool1d.default: 3,
    aten.max_pool2d.default: 4, aten.avg_pool2d.default: 4, aten.adaptive_avg_pool2d.default: 4,
    aten.max_pool3d.default: 5, aten.avg_pool3d.default: 5, aten.adaptive_avg_pool3d.default: 5,
}  # fmt: skip
"""Pooling -> the axes of its argument: (n, channels, ...)."""

_CONVOLUTIONS = {
    aten.conv1d.default: 3, aten.conv2d.default: 4, aten.conv3d.default: 5,
    aten.conv1d.padding: 3, aten.conv2d.padding: 4, aten.conv3d.padding: 5,
}  # fmt: skip


def carry(operation: Operation | None, slot: int, axis: int) -> Carry | None:
    """How an operation takes a `Part` of what is in a slot, the units along `axis`; None: it needs the whole value.

    Its other arguments are the unedited network's.
    """
    if operation is None:
        return None
    function, args = operation.function, operation.args
    before, after = operation.shapes.get(slot), operation.shapes.get(operation.writes)
    if before is None or after is None:
        return None
    if function in _ELEMENTWISE:
        alike = all(operation.shapes.get(arg.number) == after for arg in args if isinstance(arg, Slot))
        return Carry(_elementwise(operation, slot), axis) if alike else None
    places = [i for i, arg in enumerate(args) if arg == Slot(slot)]
    if function is aten.addmm.default:
        fits = places == [1] and axis == 1 and not operation.options
        return Carry(_sum(operation, slot, _product(args[2], 0)), None) if fits else None
    if places != [0]:
        return None
    if function is aten.linear.default:
        return Carry(_sum(operation, slot, _product(args[1], 1)), None) if axis == len(before) - 1 else None
    if function is aten.view.default:
        return _reshaped(operation, before, after, axis)
    if axis != 1:
        return None
    spatial = function is aten.mean.dim and args[1] and all(dim % len(before) > 1 for dim in args[1])
    if spatial or _POOLS.get(function) == len(before):
        return Carry(_alone(operation, ()), 1)
    if function is batch_norm:
        return Carry(_alone(operation, (1, 2, 3, 4)), 1)
    if _CONVOLUTIONS.get(function) == len(before):
        return _convolved(operation, slot, before, after)
    return None


def _elementwise(operation: Operation, slot: int) -> Run:
    def run(slots: Slots, part: Part) -> Part:
        values = list(operation.args)
        for i, arg in enumerate(operation.args):
            if isinstance(arg, Slot):
                values[i] = part.part if arg.number == slot else take(slots[arg.number], part.units, part.axis)
        value = operation.function(*values, **operation.options)
        return Part(slots[operation.writes], value, part.units, part.axis)

    return run


def _alone(operation: Operation, narrowed: tuple[int, ...]) -> Run:
    """Each unit for itself; the arguments at `narrowed` have one entry a unit."""

    def run(slots: Slots, part: Part) -> Part:
        values = [slots[arg.number] if isinstance(arg, Slot) else arg for arg in operation.args]
        values[0] = part.part
        for i in narrowed:
            if values[i] is not None:
                values[i] = take(values[i], part.units, 0)
        value = operation.function(*values, **operation.options)
        return Part(slots[operation.writes], value, part.units, 1)

    return run


def _reshaped(operation: Operation, before: Shape, after: Shape, axis: int) -> Carry | None:
    """A flattening of everything but the examples, or of what lies before the units."""
    if axis == 1 and len(after) == 2 and before[0] == after[0] and all(map(str.isdigit, before[2:])):
        width = math.prod(map(int, before[2:]))

        def flat(slots: Slots, part: Part) -> Part:
            return Part(slots[operation.writes], part.part.flatten(1), _widened(part.units, width), 1)

        return Carry(flat, 1)
    if axis == len(before) - 1 and before[-1] == after[-1] and len(after) > 1:

        def kept(slots: Slots, part: Part) -> Part:
            whole = slots[operation.writes]
            rows = part.part.expand_as(part.before()).reshape(*whole.shape[:-1], len(part.units))
            return Part(whole, rows, part.units, whole.ndim - 1)

        return Carry(kept, len(after) - 1)
    return None


def _widened(units: Units, width: int) -> Units:
    """Entries of units of `width` consecutive entries each."""
    if isinstance(units, range):
        return range(units.start * width, units.stop * width)
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()


def _convolved(operation: Operation, slot: int, before: Shape, after: Shape) -> Carry | None:
    """A convolution over all channels sums; one with a group for each channel treats them alone."""
    function, args = operation.function, operation.args
    groups, weight = (args[6] if len(args) > 6 else 1), args[1].number
    if groups == 1:

        def change(slots: Slots, part: Part) -> Tensor:
            result: Tensor = function(part.change(), take(slots[weight], part.units, 1), None, *args[3:])
            return result

        return Carry(_sum(operation, slot, change), None)
    if str(groups) != before[1]:
        return None
    width = int(after[1]) // groups

    def depthwise(slots: Slots, part: Part) -> Part:
        units = _widened(part.units, width)
        kernel = take(slots[weight], units, 0)
        bias = take(slots[args[2].number], units, 0) if isinstance(args[2], Slot) else None
        value = function(part.part, kernel, bias, *args[3:6], len(part.units))
        return Part(slots[operation.writes], value, units, 1)

    return Carry(depthwise, 1)


def _product(weight: Slot, axis: int) -> Change:
    """The change times a matrix that has its inputs along an axis."""

    def change(slots: Slots, part: Part) -> Tensor:
        matrix = take(slots[weight.number], part.units, axis)
        return part.change() @ (matrix if axis == 0 else matrix.T)

    return change


def _sum(operation: Operation, slot: int, change: Change) -> Run:
    """The unedited result and the change; where they cancel, or are not finite, the step on the whole value."""

    def run(slots: Slots, part: Part) -> Tensor:
        value, whole = change(slots, part), slots[operation.writes]
        size = float(torch.linalg.vector_norm(value))
        value = value.add_(whole) if value.stride() == whole.stride() else whole + value  # images stay channels last
        left = float(torch.linalg.vector_norm(value))
        if math.isfinite(size + left) and left * CANCELS >= size:
            return value
        values = [slots[arg.number] if isinstance(arg, Slot) else arg for arg in operation.args]
        values[operation.args.index(Slot(slot))] = part.filled()
        result: Tensor = operation.function(*values)
        return result

    return run
