"""Max pooling on affine pieces: a tournament of kinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy.engine.affine_instructions import Instruction, nothing
from netopsy.engine.affine_kinks import RELU
from netopsy.engine.masked import Operation


def max_pooling(
    name: str, axes: int, operation: Operation, source: int, slot: Callable[[], int]
) -> Iterator[Instruction]:
    """The larger of two entries of each window, until one is left; `slot` gives free ones for what is between."""
    shape = [int(size) for size in operation.shapes[operation.args[0].number][-axes:]]
    places = window_indices(shape, *operation.args[1:])
    window, count = slot(), len(places)
    yield Instruction(name, lambda slots, k: slots[source].flatten(-axes)[..., places.flatten(1)], (source,), window)
    while count > 1:
        half, before, d, e, window = count // 2, window, slot(), slot(), slot()
        yield Instruction(name, partial(_compared, before, half), (before,), d)
        yield Instruction(name, nothing, (d,), e, kinks=RELU, counted=False)
        yield Instruction(name, partial(_winners, before, half, e), (before, e), window)
        count -= half
    sizes = places.shape[1:]
    last = window
    yield Instruction(name, lambda slots, k: slots[last].squeeze(-2).unflatten(-1, sizes), (last,), operation.writes)


def _compared(window: int, half: int, slots: Sequence[Any], k: int) -> Float[Tensor, " rows *entries out"]:
    """By how much the first half of the entries are larger than the second."""
    value: Tensor = slots[window]
    return value[..., :half, :] - value[..., half : 2 * half, :]


def _winners(
    window: int, half: int, larger: int, slots: Sequence[Any], k: int
) -> Float[Tensor, " rows *entries out"]:
    """The larger of each two; an odd one goes on alone."""
    value: Tensor = slots[window]
    return torch.cat([value[..., half : 2 * half, :] + slots[larger], value[..., 2 * half :, :]], -2)


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
