"""What each operation of a model does to the coefficients of an affine piece.

Values are rows: `k` of them a cell, the constant coefficient first. A linear operation runs on rows as the model runs
it on examples; what an affine one adds goes to the constant rows alone; a piecewise linear one is a kink, a slope for
each piece.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from jaxtyping import Float, Int8, Int64
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.engine.graph import Program, Step
from netopsy.engine.masked import Operation, Slot, batch_norm

aten = torch.ops.aten


@dataclass(frozen=True)
class Kinks:
    """A piecewise linear function of one number.

    Attributes:
        thresholds: where it may change its slope, ascending; a value at a threshold is on the piece below it.
        slopes: of the pieces from low to high, one more.
        intercepts: of the pieces: the function is slope * value + intercept.
    """

    thresholds: tuple[float, ...]
    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]


RELU = Kinks((0.0,), (0.0, 1.0), (0.0, 0.0))

Run = Callable[[Sequence[Any], int], Tensor]
"""All slots and the number of rows a cell -> the rows of the result."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """One operation on rows.

    Attributes:
        name: the layer where it is a kink; else the operation.
        run: what it computes; nothing where it is a kink.
        reads: slots it reads.
        writes: the slot it writes.
        frees: slots that nothing reads after it.
        kinks: where the cells are to be cut.
        counted: whether the kinks are those of units.
        lowest: the lowest piece's slope, where each channel has its own.
    """

    name: str
    run: Run
    reads: tuple[int, ...]
    writes: int
    frees: tuple[int, ...] = ()
    kinks: Kinks | None = None
    counted: bool = True
    lowest: Tensor | None = None

    def apply(
        self,
        pre: Float[Tensor, " rows *shape"],
        parents: Int64[Tensor, " new"],
        pieces: Int8[Tensor, "new n"],
        k: int,
    ) -> Float[Tensor, " new_rows *shape"]:
        """The kinked function on cells cut from those of `pre`."""
        assert self.kinks is not None
        value = on_cells(pre, k).index_select(0, parents)
        pieces = pieces.view(len(parents), *pre.shape[1:])
        if self.lowest is not None:
            slopes = torch.where(pieces > 0, 1.0, self.lowest.view(-1, *[1] * (pre.ndim - 2)))
        elif self.kinks.slopes == (0.0, 1.0):
            slopes = pieces.to(pre.dtype)
        else:
            slopes = torch.tensor(self.kinks.slopes, dtype=pre.dtype)[pieces.int()]
        value *= slopes.unsqueeze(1)
        if any(self.kinks.intercepts):
            value[:, 0] += torch.tensor(self.kinks.intercepts, dtype=pre.dtype)[pieces.int()]
        return value.flatten(0, 1)


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


def clipped(low: float | None = -1.0, high: float | None = 1.0) -> Kinks:
    """Constant below `low` and above `high`, the identity between them.

    >>> clipped(0.0, 6.0)
    Kinks(thresholds=(0.0, 6.0), slopes=(0.0, 1.0, 0.0), intercepts=(0.0, 0.0, 6.0))
    """
    below, above = [() if end is None else (float(end),) for end in (low, high)]
    slopes = (*(0.0 for _ in below), 1.0, *(0.0 for _ in above))
    return Kinks((*below, *above), slopes, (*below, 0.0, *above))


KINKS: Mapping[Any, Callable[..., Kinks]] = {
    aten.relu: lambda: RELU,
    aten.relu6: lambda: clipped(0.0, 6.0),
    aten.leaky_relu: lambda slope=0.01: Kinks((0.0,), (float(slope), 1.0), (0.0, 0.0)),
    aten.hardtanh: clipped,
    aten.hardsigmoid: lambda: Kinks((-3.0, 3.0), (0.0, 1 / 6, 0.0), (0.0, 0.5, 1.0)),
    aten.threshold: lambda threshold, value: Kinks((float(threshold),), (0.0, 1.0), (float(value), 0.0)),
    aten.abs: lambda: Kinks((0.0,), (-1.0, 1.0), (0.0, 0.0)),
    aten.clamp_min: lambda low: clipped(low, None),
    aten.clamp_max: lambda high: clipped(None, high),
}


def kinks_of(operation: Operation) -> Kinks | None:
    """A piecewise linear activation's; of `prelu` the upper slope alone is right."""
    packet, numbers = getattr(operation.function, "overloadpacket", None), operation.args[1:]
    if packet is aten.prelu:
        return RELU
    if any(isinstance(number, Slot) for number in numbers):
        return None
    if packet is aten.clamp:
        low, high = (*numbers, None, None)[:2]
        return clipped(operation.options.get("min", low), operation.options.get("max", high))
    if packet is aten.threshold and numbers[0] != numbers[1]:
        return None  # it jumps
    make = KINKS.get(packet)
    return make(*numbers) if make is not None else None


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
            yield Instruction(_name(packet), lambda slots, k: run(slots, k)[args[1]], reads, writes)
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

        def of(rows: int) -> Any:
            return operation.function(*self.filled(operation.args, (), rows), **operation.options)

        one = _double(of(1))
        if not isinstance(one, Tensor):
            self.sizes[step.writes] = of
            return

        def each(slots: Sequence[Any], k: int) -> Tensor:
            value: Tensor = one.new_zeros(rows_of(slots), *one.shape[1:])
            value[::k] = one
            return value

        self.moving[step.writes] = step.writes
        yield Instruction(_name(operation.function), each, (), step.writes)

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
            yield from self.pooled(self.names.name(source, packet), WINDOWS[packet], operation, read[0])
        else:
            run = self.affine(packet, args, options, read[0])
            if run is None:
                where = f" in {self.names.entered[source]!r}" if source in self.names.entered else ""
                raise NetopsyError(f"model: expected {SUPPORTED}; got {_name(packet)}{where}; {ADVICE}")
            yield Instruction(_name(packet), run, read, writes)

    def pooled(self, name: str, axes: int, operation: Operation, source: int) -> Iterator[Instruction]:
        """Max pooling as a tournament: the larger of two entries of each window, until one is left."""
        shape = [int(size) for size in operation.shapes[operation.args[0].number][-axes:]]
        places = window_indices(shape, *operation.args[1:])
        window, count = self.slot(), len(places)
        yield Instruction(
            name, lambda slots, k: slots[source].flatten(-axes)[..., places.flatten(1)], (source,), window
        )
        while count > 1:
            half, before, d, e, window = count // 2, window, self.slot(), self.slot(), self.slot()

            def compared(slots: Sequence[Any], k: int, w: int = before, h: int = half) -> Tensor:
                value: Tensor = slots[w]
                return value[..., :h, :] - value[..., h : 2 * h, :]

            def winners(slots: Sequence[Any], k: int, w: int = before, h: int = half, e: int = e) -> Tensor:
                value: Tensor = slots[w]
                return torch.cat([value[..., h : 2 * h, :] + slots[e], value[..., 2 * h :, :]], -2)

            yield Instruction(name, compared, (before,), d)
            yield Instruction(name, nothing, (d,), e, kinks=RELU, counted=False)
            yield Instruction(name, winners, (before, e), window)
            count -= half
        sizes = places.shape[1:]
        last = window
        yield Instruction(
            name, lambda slots, k: slots[last].squeeze(-2).unflatten(-1, sizes), (last,), operation.writes
        )

    def affine(self, packet: Any, args: Any, options: Mapping[str, Any], source: int) -> Run | None:
        """An operation that is affine in its values, on rows; None where it is none."""
        function: Any = aten.reshape if packet is aten.view else packet
        values = {leaf.number for leaf in pytree.tree_leaves(args) if isinstance(leaf, Slot)} & set(self.moving)

        def linear(slots: Sequence[Any], k: int) -> Any:
            return function(*self.filled(args, slots, len(slots[source])), **options)

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
            return _shifted(lambda s, n: function(*self.filled((*inert, *args[2:]), s, n), **options), offset, source)
        if packet in BIASED:
            place = BIASED[packet]
            bias = self.filled(args[place : place + 1], (), 0)
            if not bias or bias[0] is None:
                return linear
            unbiased = (*args[:place], _zero(bias[0]) if place == 0 else None, *args[place + 1 :])
            spatial = self.filled(args[1:2], (), 0)[0].ndim - 2 if place else 0
            offset = bias[0].view(-1, *[1] * spatial) if spatial else bias[0]
            return _shifted(lambda s, n: function(*self.filled(unbiased, s, n), **options), offset, source)
        if packet is batch_norm:
            weight, bias, mean, variance, _, epsilon = self.filled(args[1:], (), 0)
            scale = (variance + epsilon).rsqrt() * (1.0 if weight is None else weight)
            shift = (0.0 if bias is None else bias) - mean * scale

            def normalized(slots: Sequence[Any], k: int) -> Tensor:
                value: Tensor = slots[source]
                sizes = [-1, *[1] * (value.ndim - 2)]
                result: Tensor = value * scale.view(sizes)
                result[::k] += shift.view(sizes)
                return result

            return normalized
        return None

    def filled(self, args: Any, slots: Sequence[Any], rows: int) -> Any:
        """Arguments with the values in place."""

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, Slot):
                return leaf
            if leaf.number in self.moving:
                return slots[self.moving[leaf.number]]
            return self.sizes[leaf.number](rows) if leaf.number in self.sizes else self.constants[leaf.number]

        return pytree.tree_map(value, args)

    def is_moving(self, arg: Any) -> bool:
        return isinstance(arg, Slot) and arg.number in self.moving

    def slot(self) -> int:
        self.slots += 1
        return self.slots - 1


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
        numbered = (f"{_name(packet)}_{number}" for number in itertools.count())
        names = itertools.chain([module] if module else [], numbered)
        free = next(name for name in names if name not in self.taken)
        self.taken.add(free)
        return free


def rows_of(slots: Sequence[Any]) -> int:
    """The number of rows, which all values share."""
    return next(len(value) for value in slots if value is not None)


def on_cells(rows: Float[Tensor, " rows *shape"], k: int) -> Float[Tensor, "cells k *shape"]:
    """Rows by their cell."""
    return rows.unflatten(0, (-1, k))  # type: ignore[no-any-return, no-untyped-call]


def nothing(slots: Sequence[Any], k: int) -> Tensor:
    """A kink runs by `Instruction.apply`."""
    raise AssertionError


def window_indices(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Int64[Tensor, " window *out"]:
    """Flat indices of what each pooling window sees; an entry in the padding is replaced by another of the window."""
    result = torch.zeros([1] + [1] * len(shape), dtype=torch.int64)
    options = (kernel, stride or kernel, padding, dilation)
    for axis, n in enumerate(shape):
        size, step, pad, spread = (option[axis % len(option)] for option in options)
        free = n + 2 * pad - spread * (size - 1) - 1
        count = (-(-free // step) if ceil_mode else free // step) + 1
        if ceil_mode and (count - 1) * step >= n + pad:
            count -= 1
        taps = torch.arange(size)[:, None] * spread + torch.arange(count) * step - pad
        inside = (taps >= 0) & (taps < n)
        taps = torch.where(inside, taps, taps.where(inside, -1).amax(0))
        view = [size, *[1] * len(shape)]
        view[axis + 1] = count
        result = (result[:, None] * n + taps.view(view)[None]).flatten(0, 1)
    return result


def _shifted(run: Callable[[Sequence[Any], int], Tensor], offset: Tensor, source: int) -> Run:
    """A linear operation, and what is added to its constant rows."""

    def shifted(slots: Sequence[Any], k: int) -> Tensor:
        value = run(slots, len(slots[source]))
        value[::k] += offset
        return value

    return shifted


def _pads_zeros(packet: Any, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether what is added is zeros or entries of the value."""
    mode, fill = (*args[2:], "constant", None)[:2] if packet is aten.pad else ("constant", args[2] if args[2:] else 0)
    return mode != "constant" or not options.get("value", fill if args[2:] else None)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _zero(value: Any) -> Tensor:
    """Zeros in a value's shape."""
    return torch.zeros_like(value) if isinstance(value, Tensor) else torch.zeros((), dtype=torch.float64)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function)).removeprefix("aten.").split(".")[0]
