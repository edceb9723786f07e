"""Jacobians by their definition, one example at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def by_class(model: nn.Module, x: Tensor, *, softmax: bool) -> Tensor:
    """(examples, classes, inputs): a backward pass for every class of every example alone."""
    found = []
    for z in x:
        z = z[None].clone().requires_grad_()
        out = model(z)[0]
        out = out.exp() / out.exp().sum() if softmax else out
        rows = [torch.autograd.grad(value, z, retain_graph=True)[0].reshape(-1) for value in out]
        found.append(torch.stack(rows))
    return torch.stack(found).detach()


def by_differences(f: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-5) -> Tensor:
    """(outputs, inputs) at one example: central differences, an input at a time."""
    columns = []
    for i in range(x.numel()):
        push = torch.zeros_like(x).reshape(-1)
        push[i] = step
        push = push.reshape(x.shape)
        columns.append((f((x + push)[None])[0] - f((x - push)[None])[0]) / (2 * step))
    return torch.stack(columns, 1)
