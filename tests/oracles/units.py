"""What a unit does, the slow way, in float64: whole forwards with hooks, one example at a time, and plain loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def logits(model: nn.Module, x: Tensor, off: Mapping[str, Sequence[int]], axis: int = 1) -> list[list[float]]:
    """With the named modules' output entries at zero."""
    twin = copy.deepcopy(model).double().eval()
    for name, entries in off.items():

        def zero(module: nn.Module, args: object, output: Tensor, entries: Sequence[int] = entries) -> Tensor:
            changed = output.clone()
            for entry in entries:
                changed.select(axis, entry).zero_()
            return changed

        twin.get_submodule(name).register_forward_hook(zero)
    with torch.no_grad():
        return [twin(example[None])[0].tolist() for example in x.double()]


def logit_change(model: nn.Module, x: Tensor, off: Mapping[str, Sequence[int]]) -> float:
    """Root mean square change of the logits over their root mean square deviation from their means."""
    before, after = logits(model, x, {}), logits(model, x, off)
    classes = range(len(before[0]))
    means = [math.fsum(row[c] for row in before) / len(before) for c in classes]
    change = math.fsum((b[c] - a[c]) ** 2 for b, a in zip(before, after, strict=True) for c in classes)
    spread = math.fsum((row[c] - means[c]) ** 2 for row in before for c in classes)
    return math.sqrt(change / spread)


def samples(model: nn.Module, x: Tensor, y: Tensor, site: str) -> tuple[list[list[float]], list[int]]:
    """A module's output: a row for each example and position, a column for each unit (axis 1); and its class."""
    twin, rows, classes = copy.deepcopy(model).double().eval(), [], []
    seen: list[Tensor] = []
    twin.get_submodule(site).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with torch.no_grad():
        for example, label in zip(x.double(), y.tolist(), strict=True):
            seen.clear()
            twin(example[None])
            value = seen[0][0]
            flat = value.reshape(len(value), -1)
            for position in range(flat.shape[1]):
                rows.append(flat[:, position].tolist())
                classes.append(label)
    return rows, classes


def eta_squared(values: Sequence[float], classes: Sequence[int], ignore: int = -100) -> float:
    """Sum of squares between the classes over that of all values."""
    kept = [(value, label) for value, label in zip(values, classes, strict=True) if label != ignore]
    mean = math.fsum(value for value, _ in kept) / len(kept)
    between = 0.0
    for label in {label for _, label in kept}:
        mine = [value for value, other in kept if other == label]
        between += len(mine) * (math.fsum(mine) / len(mine) - mean) ** 2
    return between / math.fsum((value - mean) ** 2 for value, _ in kept)
