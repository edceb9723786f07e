"""Sharpness-aware minimization (Foret, Kleiner, Mobahi, Neyshabur 2021, arXiv 2010.01412)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


@contextmanager
def ascended(model: nn.Module, rho: float) -> Iterator[None]:
    """Inside the block the weights are those that the gradients they have now point up to, at distance `rho`.

    θ + ρ g/‖g‖ (equation 2 with p = 2), the norm being that of all parameters' gradients as one vector; a parameter
    without a gradient stays, and all do where the gradient is 0. The gradient found in the block is that of
    equation 3. Afterwards weights and buffers are bit for bit what they were before; the gradients are the block's.

    Buffers, such as the statistics of batch normalization, so follow the weights that are trained, not the others.
    """
    held: Iterator[Tensor] = chain(model.parameters(), model.buffers())
    before = [(value, value.detach().clone()) for value in held]
    _climb(model, rho)
    try:
        yield
    finally:
        with torch.no_grad():
            for value, old in before:
                value.copy_(old)


@torch.no_grad()
def _climb(model: nn.Module, rho: float) -> None:
    moves = [(value, value.grad) for value in model.parameters() if value.grad is not None]
    norm = get_total_norm([gradient for _, gradient in moves])
    scale = (rho / norm).nan_to_num(posinf=0.0)
    for value, gradient in moves:
        value.addcmul_(gradient, scale.to(value.dtype))
