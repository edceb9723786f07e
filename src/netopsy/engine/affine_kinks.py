"""Piecewise linear activations: where they change their slope, and which operations they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from netopsy.engine.masked import Operation, Slot

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
