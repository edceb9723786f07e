"""Ablation the slow way, in float64: a hook zeroes entries of a module's output, the whole network runs, count."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def predictions(model: nn.Module, x: Tensor, off: Mapping[str, Sequence[int]], axis: int = 1) -> list[int]:
    """Labels with the named modules' output entries at zero, one example at a time."""
    twin = copy.deepcopy(model).double().eval()
    for name, entries in off.items():

        def zero(module: nn.Module, args: object, output: Tensor, entries: Sequence[int] = entries) -> Tensor:
            changed = output.clone()
            for entry in entries:
                changed.select(axis, entry).zero_()
            return changed

        twin.get_submodule(name).register_forward_hook(zero)
    labels = []
    with torch.no_grad():
        for example in x.double():
            row = twin(example[None])[0].tolist()
            labels.append(row.index(max(row)))
    return labels


def measured(
    model: nn.Module, x: Tensor, y: Tensor, off: Mapping[str, Sequence[int]], axis: int = 1
) -> tuple[float, float]:
    """Share of predictions unchanged, and accuracy."""
    before, after = predictions(model, x, {}, axis), predictions(model, x, off, axis)
    same = sum(a == b for a, b in zip(before, after, strict=True))
    right = sum(a == b for a, b in zip(after, y.tolist(), strict=True))
    return same / len(x), right / len(x)


def area(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Trapezoids, one by one."""
    total = 0.0
    for i in range(len(fractions) - 1):
        total += (fractions[i + 1] - fractions[i]) * (values[i] + values[i + 1]) / 2
    return total
