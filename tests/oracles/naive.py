"""The obvious way to measure edited networks, in float64: copy, write the values in, run everything, one by one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def edited(model: nn.Module, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """A float64 copy of the model in eval mode with some parameters or buffers (any of their names) replaced."""
    with torch.no_grad():
        twin = copy.deepcopy(model).double().eval()
        holders = dict(twin.named_parameters(remove_duplicate=False))
        holders |= dict(twin.named_buffers(remove_duplicate=False))
        for name, value in values.items():
            holders[name].copy_(value)
    return twin


def double(inputs: Inputs) -> Inputs:
    """Inputs with every floating tensor in float64."""

    def convert(value: Any) -> Any:
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    args, kwargs = inputs
    return tuple(convert(value) for value in args), {name: convert(value) for name, value in kwargs.items()}


def logits(
    model: nn.Module,
    values: Mapping[str, torch.Tensor],
    batches: Iterable[Inputs],
    read: Callable[[Any], torch.Tensor],
) -> torch.Tensor:
    """Logits of all examples, `(n, ..., classes)`."""
    twin = edited(model, values)
    with torch.no_grad():
        return torch.cat([read(twin(*args, **kwargs)) for args, kwargs in map(double, batches)])


def example(
    scores: Sequence[Sequence[float]], labels: Sequence[int], baseline: Sequence[Sequence[float]], ignore: int
) -> dict[str, float]:
    """Sums over one example's positions: 0-1 errors, cross-entropy, agreement with the baseline, and positions."""
    sums = {"error": 0.0, "loss": 0.0, "unchanged": 0.0, "positions": 0.0}
    for row, label, before in zip(scores, labels, baseline, strict=True):
        if label == ignore:
            continue
        sums["positions"] += 1
        finite = all(math.isfinite(value) for value in row)
        best = max(range(len(row)), key=lambda i, row=row: row[i])
        top = max(row)
        sums["error"] += 0.0 if finite and best == label else 1.0
        sums["unchanged"] += float(finite and best == max(range(len(before)), key=lambda i, row=before: row[i]))
        sums["loss"] += (
            math.log(sum(math.exp(value - top) for value in row)) + top - row[label] if finite else math.nan
        )
    return sums


def metrics(
    scores: torch.Tensor, labels: torch.Tensor, baseline: torch.Tensor, *, ignore: int = -100, shift: bool = False
) -> dict[str, np.ndarray]:
    """Sums of every example, `(n,)` each: `error`, `loss`, `unchanged`, `positions`.

    With `shift`, position i predicts label i + 1.
    """
    n, classes = len(labels), scores.shape[-1]
    scores, baseline, labels = scores.reshape(n, -1, classes), baseline.reshape(n, -1, classes), labels.reshape(n, -1)
    if shift:
        scores, baseline, labels = scores[:, :-1], baseline[:, :-1], labels[:, 1:]
    rows = [example(scores[i].tolist(), labels[i].tolist(), baseline[i].tolist(), ignore) for i in range(n)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def batch_norm_statistics(
    model: nn.Module, values: Mapping[str, torch.Tensor], batches: Iterable[Inputs]
) -> dict[str, torch.Tensor]:
    """Mean over the batches of each norm's batch mean and unbiased variance, while all norms use the batch's own."""
    twin = edited(model, values)
    norms = {name: m for name, m in twin.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            x = args[0].transpose(0, 1).reshape(args[0].shape[1], -1)
            seen.setdefault(f"{name}.running_mean", []).append(x.mean(1))
            seen.setdefault(f"{name}.running_var", []).append(x.var(1, unbiased=True))

        return hook

    for name, norm in norms.items():
        norm.train()
        norm.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for args, kwargs in map(double, batches):
            twin(*args, **kwargs)
    return {name: torch.stack(values).mean(0) for name, values in seen.items()}
