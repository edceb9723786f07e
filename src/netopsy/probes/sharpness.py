"""Sharpness: the top eigenvalue of the Hessian of the loss, from Hessian-vector products."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from netopsy._typing import Batch, FloatArray
from netopsy.network.addresses import evaluation_mode
from netopsy.network.task import Task
from netopsy.probes.lanczos import top_eigenvalue


def sharpness(
    model: nn.Module, batches: Iterable[Batch], task: Task, *, seed: int = 0, tolerance: float = 1e-4
) -> float:
    """The largest eigenvalue of ∂² L/∂θ², L the mean loss over some examples, θ all parameters; evaluation mode.

    Lanczos iteration in float64; a product is a gradient of a gradient. Where a derivative is taken on a kink of a
    ReLU, automatic differentiation decides.

    Args:
        model: is not changed.
        batches: kept in memory.
        task: how they are read.
        seed: of the vector to start from.
        tolerance: of the eigenvalue, relative.

    Returns:
        The eigenvalue; NaN where the iteration does not converge.
    """
    own = copy.deepcopy(model).double().requires_grad_()
    kept = [pytree.tree_map(_double, batch) for batch in batches]
    parameters = list(own.parameters())
    count = sum(int(task.valid(task.labels(batch)).sum()) for batch in kept)

    def product(v: FloatArray) -> FloatArray:
        parts = _split(torch.tensor(v, dtype=torch.float64), parameters)
        total = torch.zeros(len(v), dtype=torch.float64)
        for batch in kept:
            with torch.enable_grad():
                first = torch.autograd.grad(_loss(own, batch, task), parameters, create_graph=True, allow_unused=True)
                pairs = [(g, part) for g, part in zip(first, parts, strict=True) if g is not None and g.requires_grad]
                if not pairs:
                    continue
                along = torch.stack([(g * part).sum() for g, part in pairs]).sum()
                second = torch.autograd.grad(along, parameters, allow_unused=True)
            flat = [
                torch.zeros(p.numel()) if h is None else h.reshape(-1)
                for h, p in zip(second, parameters, strict=True)
            ]
            total += torch.cat([part.to("cpu", torch.float64) for part in flat])
        return (total / count).numpy()

    with evaluation_mode(own):
        size = sum(parameter.numel() for parameter in parameters)
        return top_eigenvalue(product, size, seed=seed, tolerance=tolerance)


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _split(v: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    pieces = torch.split(v, [parameter.numel() for parameter in parameters])
    return [piece.reshape(p.shape).to(p.device) for piece, p in zip(pieces, parameters, strict=True)]


def _loss(model: nn.Module, batch: Batch, task: Task) -> Tensor:
    """Summed over the valid positions of a batch."""
    args, kwargs = task.inputs(batch)
    labels = task.labels(batch)
    valid = task.valid(labels)
    scores = task.scores(task.logits(model(*args, **kwargs)), labels)
    return task.loss(scores[valid], labels[valid]).sum()
