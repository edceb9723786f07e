"""Robustness the slow way, in float64: copy the net, write one site's tensors in, run everything, count."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def edited(model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str]) -> nn.Module:
    """A float64 copy in eval mode with the named parameters and buffers taken from a state."""
    twin = copy.deepcopy(model).double().eval()
    own = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    for name in names:
        own[name].data.copy_(state[name])
    return twin


def measured(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """0-1 error and mean cross-entropy (nats); outputs that are not finite are wrong."""
    wrong, loss = 0, 0.0
    with torch.no_grad():
        rows = model(x.double()).tolist()
    for row, label in zip(rows, y.tolist(), strict=True):
        top = max(row)
        wrong += not all(map(math.isfinite, row)) or row.index(top) != label
        loss += top - row[label] + math.log(sum(math.exp(value - top) for value in row))
    return wrong / len(y), loss / len(y)


def distance(end: Mapping[str, Tensor], start: Mapping[str, Tensor], names: Iterable[str]) -> tuple[float, float]:
    """Root mean square and largest change of the named tensors."""
    moved = []
    for name in names:
        moved += [
            abs(a - b) for a, b in zip(end[name].flatten().tolist(), start[name].flatten().tolist(), strict=True)
        ]
    return math.sqrt(sum(value**2 for value in moved) / len(moved)), max(moved)
