"""What each operation of a model does to the coefficients of an affine piece: a program as instructions on rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.engine.affine_export import LayerNames, operation_name
from netopsy.engine.affine_instructions import Instruction, Run, nothing, rows_of, shifted_rows
from netopsy.engine.affine_kinks import RELU, kinks_of
from netopsy.engine.affine_pooling import max_pooling
from netopsy.engine.graph import Program, Step
from netopsy.engine.masked import Operation, Slot, batch_norm

aten = torch.ops.aten

SAME = {
    aten.alias, aten.clone, aten.contiguous, aten.detach, aten.lift_fresh, aten.dropout, aten.feature_dropout,
    aten.to, aten._to_copy, aten.type_as,
}  # fmt: skip
"""What gives the value itself: dropout, as the model is in eval mode; another type, as all is in float64 here."""

SEVERAL = {aten.split, aten.split_with_sizes, aten.chunk, aten.unbind, aten.tensor_split}
"""Linear operations with several results."""

LINEAR = SEVERAL | {
    aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.permute, aten.transpose,
    aten.unsqueeze, aten.squeeze, aten.expand, aten.slice, aten.select, aten.narrow, aten.cat, aten.stack,
    aten.index_select, aten.flip, aten.roll, aten.movedim, aten.neg, aten.mean, aten.sum, aten.cumsum,
    aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d,
    aten.adaptive_avg_pool3d, aten.upsample_nearest2d, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle,
}  # fmt: skip
"""Linear in all their values; what moves the examples' axis is refused where its result is seen."""

BIASED = {
    aten.linear: 2, aten.conv1d: 2, aten.conv2d: 2, aten.conv3d: 2, aten.convolution: 2, aten.conv_transpose1d: 2,
    aten.conv_transpose2d: 2, aten.conv_transpose3d: 2, aten.addmm: 0,
}  # fmt: skip
"""Linear in the value, but for a constant that is added; where that is among the arguments."""

SUMS = {aten.add, aten.sub, aten.rsub}
PRODUCTS = {aten.mul, aten.matmul, aten.mm, aten.bmm}
WINDOWS = {aten.max_pool1d: 1, aten.max_pool2d: 2, aten.max_pool3d: 3}

SUPPORTED = (
    "linear layers, convolutions, batch normalization, average pooling, sums, products with constants, reshaping, "
    "relu, relu6, leaky_relu, prelu, hardtanh, clamp, hardsigmoid, abs, maximum, minimum, max_pool"
)
ADVICE = "count by samples instead (method='sampled')"


def compile_steps(program: Program, state: Mapping[str, Tensor]) -> tuple[tuple[Instruction, ...], int, int]:
    """A program's steps as instructions; whatever does not depend on the input is computed here, once.

    Args:
        program: exported with the leaf modules marked: they name the layers.
        state: in float64.

    Returns:
        The instructions, the slots of the input and of the logits.

    Raises:
        NetopsyError: for an operation that is not supported.
    """
    if len(program.inputs) != 1:
        raise NetopsyError(f"model: expected one input that the logits depend on; got {len(program.inputs)}")
    compiler = _Compiler(program, state)
    made = compiler.instructions()
    (source,) = program.inputs.values()
    return made, source, compiler.moving[program.output]


class _Compiler:
    """One walk through the steps: constants are computed, the rest becomes instructions."""

    def __init__(self, program: Program, state: Mapping[str, Tensor]) -> None:
        self.program = program
        self.constants: list[Any] = [None] * program.slots
        for name, slot in program.state.items():
            self.constants[slot] = state[name]
        for slot, value in program.constants.items():
            self.constants[slot] = _double(value)
        self.moving = {slot: slot for slot in program.inputs.values()}  # -> the slot that holds its value
        self.sizes: dict[int, Callable[[int], Any]] = {}  # numbers that follow the number of rows
        self.lists: dict[int, tuple[Run, tuple[int, ...]]] = {}  # operations with several results
        self.names = LayerNames(program)
        self.slots = program.slots

    def instructions(self) -> tuple[Instruction, ...]:
        made = [instruction for step in self.program.steps for instruction in self.compiled(step)]
        if self.program.output not in self.moving:
            raise NetopsyError("model: expected logits that depend on its input; these do not")
        output = self.moving[self.program.output]
        last = {slot: index for index, i in enumerate(made) for slot in (*i.reads, i.writes) if slot != output}
        frees: dict[int, tuple[int, ...]] = {}
        for slot, index in last.items():
            frees[index] = (*frees.get(index, ()), slot)
        return tuple(replace(instruction, frees=frees.get(index, ())) for index, instruction in enumerate(made))

    def compiled(self, step: Step) -> Iterator[Instruction]:
        operation, writes = step.operation, step.writes
        self.names.see(step)
        if operation is None:
            raise NetopsyError(f"model: expected {SUPPORTED}; got an operation that takes a value by name; {ADVICE}")
        packet = getattr(operation.function, "overloadpacket", operation.function)
        args = operation.args
        if not any(slot in self.moving or slot in self.lists for slot in step.reads):
            yield from self.constant(step, operation)
        elif packet is aten.sym_size:
            self.sizes[writes] = lambda rows: rows  # only the number of examples may vary
        elif packet in SAME:
            self.moving[writes] = self.moving[args[0].number]
        elif packet is operator.getitem:
            run, reads = self.lists[args[0].number]
            self.moving[writes] = writes
            yield Instruction(operation_name(packet), lambda slots, k: run(slots, k)[args[1]], reads, writes)
        else:
            source = next(slot for slot in step.reads if slot in self.moving)
            read = tuple(dict.fromkeys(self.moving[slot] for slot in step.reads if slot in self.moving))
            made = tuple(self.moved(packet, operation, source, read))
            if packet in SEVERAL:
                self.lists[writes] = (made[0].run, read)
            else:
                self.moving[writes] = writes
                yield from made

    def constant(self, step: Step, operation: Operation) -> Iterator[Instruction]:
        """A value that no input decides: a tensor, a number, or one of these for each row."""
        if not any(slot in self.sizes for slot in step.reads):
            self.constants[step.writes] = _double(step.run(self.constants))
            return
        of = partial(self.sized, operation)
        one = _double(of(1))
        if not isinstance(one, Tensor):
            self.sizes[step.writes] = of
            return
        self.moving[step.writes] = step.writes
        yield Instruction(operation_name(operation.function), partial(_repeated, one), (), step.writes)

    def sized(self, operation: Operation, rows: int) -> Any:
        """What an operation on the number of rows gives."""
        return operation.function(*self.filled(operation.args, (), rows), **operation.options)

    def moved(self, packet: Any, operation: Operation, source: int, read: tuple[int, ...]) -> Iterator[Instruction]:
        """An operation on values that the input decides."""
        args, options, writes = operation.args, dict(operation.options), operation.writes
        kinks = kinks_of(operation)
        lowest = self.constants[args[1].number] if packet is aten.prelu else None
        if kinks is not None:
            yield Instruction(self.names.name(source, packet), nothing, read, writes, kinks=kinks, lowest=lowest)
        elif packet in (aten.maximum, aten.minimum) and all(arg.number in self.moving for arg in args):
            (a, b), sign = (self.moving[arg.number] for arg in args), 1 if packet is aten.maximum else -1
            d, e, name = self.slot(), self.slot(), self.names.name(source, packet)
            yield Instruction(name, lambda slots, k: sign * (slots[a] - slots[b]), (a, b), d)
            yield Instruction(name, nothing, (d,), e, kinks=RELU, counted=False)
            yield Instruction(name, lambda slots, k: slots[b] + sign * slots[e], (b, e), writes)
        elif packet in WINDOWS:
            name = self.names.name(source, packet)
            yield from max_pooling(name, WINDOWS[packet], operation, read[0], self.slot)
        else:
            run = self.affine(packet, args, options, read[0])
            if run is None:
                where = f" in {self.names.entered[source]!r}" if source in self.names.entered else ""
                raise NetopsyError(f"model: expected {SUPPORTED}; got {operation_name(packet)}{where}; {ADVICE}")
            yield Instruction(operation_name(packet), run, read, writes)

    def affine(self, packet: Any, args: Any, options: Mapping[str, Any], source: int) -> Run | None:
        """An operation that is affine in its values, on rows; None where it is none."""
        function: Any = aten.reshape if packet is aten.view else packet
        values = {leaf.number for leaf in pytree.tree_leaves(args) if isinstance(leaf, Slot)} & set(self.moving)
        linear = self.on_rows(function, args, options, source)
        if packet in LINEAR:
            return linear
        if packet in (aten.pad, aten.constant_pad_nd):
            return linear if _pads_zeros(packet, args, options) else None
        if packet in SUMS and len(values) == 2:
            return linear
        if len(values) > 1:
            return None
        if packet in PRODUCTS or (packet is aten.div and args[0].number in values and not options):
            return linear
        if packet in SUMS:
            inert = [arg if self.is_moving(arg) else _zero(*self.filled((arg,), (), 0)) for arg in args[:2]]
            still = [_zero(0.0) if self.is_moving(arg) else arg for arg in args[:2]]
            offset = function(*self.filled((*still, *args[2:]), (), 0), **options)
            return partial(shifted_rows, self.on_rows(function, (*inert, *args[2:]), options, source), offset)
        if packet in BIASED:
            place = BIASED[packet]
            bias = self.filled(args[place : place + 1], (), 0)
            if not bias or bias[0] is None:
                return linear
            unbiased = (*args[:place], _zero(bias[0]) if place == 0 else None, *args[place + 1 :])
            spatial = self.filled(args[1:2], (), 0)[0].ndim - 2 if place else 0
            offset = bias[0].view(-1, *[1] * spatial) if spatial else bias[0]
            return partial(shifted_rows, self.on_rows(function, unbiased, options, source), offset)
        if packet is batch_norm:
            weight, bias, mean, variance, _, epsilon = self.filled(args[1:], (), 0)
            scale = (variance + epsilon).rsqrt() * (1.0 if weight is None else weight)
            shift = (0.0 if bias is None else bias) - mean * scale
            return partial(_normalized, source, scale, shift)
        return None

    def on_rows(self, function: Any, args: Any, options: Mapping[str, Any], source: int) -> Run:
        """An operation as it is, on as many rows as the value in `source` has."""
        return lambda slots, k: function(*self.filled(args, slots, len(slots[source])), **options)

    def filled(self, args: Any, slots: Sequence[Any], rows: int) -> Any:
        """Arguments with the values in place."""
        return pytree.tree_map(lambda arg: self.value(arg, slots, rows) if isinstance(arg, Slot) else arg, args)

    def value(self, arg: Slot, slots: Sequence[Any], rows: int) -> Any:
        if arg.number in self.moving:
            return slots[self.moving[arg.number]]
        return self.sizes[arg.number](rows) if arg.number in self.sizes else self.constants[arg.number]

    def is_moving(self, arg: Any) -> bool:
        return isinstance(arg, Slot) and arg.number in self.moving

    def slot(self) -> int:
        self.slots += 1
        return self.slots - 1


def _normalized(
    source: int, scale: Float[Tensor, " c"], shift: Float[Tensor, " c"], slots: Sequence[Any], k: int
) -> Float[Tensor, " rows c *shape"]:
    """Batch normalization by fixed statistics."""
    value: Tensor = slots[source]
    sizes = [-1, *[1] * (value.ndim - 2)]
    result: Tensor = value * scale.view(sizes)
    result[::k] += shift.view(sizes)
    return result


def _repeated(one: Float[Tensor, " one *shape"], slots: Sequence[Any], k: int) -> Float[Tensor, " rows *shape"]:
    """A value that is the same on all cells."""
    value = one.new_zeros(rows_of(slots), *one.shape[1:])
    value[::k] = one
    return value


def _pads_zeros(packet: Any, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether what is added is zeros or entries of the value."""
    mode, fill = (*args[2:], "constant", None)[:2] if packet is aten.pad else ("constant", args[2] if args[2:] else 0)
    return mode != "constant" or not options.get("value", fill if args[2:] else None)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _zero(value: Any) -> Tensor:
    """Zeros in a value's shape."""
    return torch.zeros_like(value) if isinstance(value, Tensor) else torch.zeros((), dtype=torch.float64)
