"""Linear maps of stacked networks whose backward pass takes plain SGD's step itself.

The product that would make a weight's gradient is added to the weight at once, so that no gradient is written and
read again: for wide layers, half of a step's time. (Lv et al. 2023, LOMO, arXiv 2306.09782, do so to save memory.)
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear


def stacked_linear(
    x: Float[Tensor, "*m b i"], weight: Float[Tensor, "m o i"], bias: Float[Tensor, "m o"] | None
) -> Float[Tensor, "m b o"]:
    """Every member's linear map, of inputs that all share, (b, i), or of its own, (m, b, i)."""
    if x.ndim == 3:
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)
    # All members' units as those of one wide layer.
    wide = linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
    return wide.view(len(x), len(weight), -1).transpose(0, 1)


def descending_linear(
    x: Float[Tensor, "*m b i"], weight: Float[Tensor, "m o i"], bias: Float[Tensor, "m o"] | None, lr: Tensor
) -> Float[Tensor, "m b o"]:
    """As `stacked_linear`; in the backward pass weight and bias change in place, and get no gradient.

    Args:
        lr: each member's, (m,).
    """
    out: Tensor = _Descending.apply(x, weight, bias, lr)  # type: ignore[no-untyped-call]
    return out


class _Descending(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, lr: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        # Not among the saved ones: autograd would refuse them once they have changed.
        ctx.weight, ctx.bias, ctx.lr = weight.detach(), None if bias is None else bias.detach(), lr
        return stacked_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        (grad,), (x,) = grads, ctx.saved_tensors
        below = None
        if ctx.needs_input_grad[0]:  # before the step, which changes the weight
            below = torch.bmm(grad, ctx.weight)
            below = below if x.ndim == 3 else below.sum(0)
        move = grad * ctx.lr.to(grad.dtype)[:, None, None]
        ctx.weight.baddbmm_(move.mT, x.expand(len(grad), -1, -1), alpha=-1)
        if ctx.bias is not None:
            ctx.bias.sub_(move.sum(1))
        return below, None, None, None
