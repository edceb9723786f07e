"""Spectral norms of linear layers and convolutions, as the operators they are on inputs of a given size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from netopsy._checks import NetopsyError
from netopsy._typing import FloatArray
from netopsy.probes.lanczos import top_eigenvalue

Linear = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""Modules whose transformation is linear in their parameters and their input."""


def operator_norm(
    module: Linear, weight: Tensor, shape: tuple[int, ...], *, seed: int = 0, tolerance: float = 1e-8
) -> float:
    """‖A‖₂ of x ↦ A x, a linear layer or convolution without its bias, with this weight in place of its own.

    √ of the top eigenvalue of x ↦ AᵀA x by Lanczos iteration in float64: stride, dilation, groups and padding of any
    mode are those of the module. Aᵀ comes from automatic differentiation, as the gradient of ½‖A x‖².

    Args:
        module: for its geometry only.
        weight: of the module's shape.
        shape: of one input, without the batch: `(channels, …)`, or `(features,)` for a linear layer.
        seed: of the vector to start from.
        tolerance: relative, of ‖A‖₂².

    Raises:
        NetopsyError: when the weight's shape is not the module's.
    """
    if weight.shape != module.weight.shape:
        raise NetopsyError(
            f"weight: expected the module's shape {tuple(module.weight.shape)}; got {tuple(weight.shape)}"
        )
    value = weight.detach().to("cpu", torch.float64)
    scale = float(value.abs().max()) if value.numel() else 0.0
    if scale == 0 or not math.isfinite(scale):
        return scale if scale == 0 else math.nan
    value = value / scale  # a change of 10⁻¹⁷⁰ would vanish in its square

    def product(v: FloatArray) -> FloatArray:
        x = torch.tensor(v, dtype=torch.float64).reshape(1, *shape).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(apply(module, value, x).square().sum() / 2, x)
        return gradient.reshape(-1).numpy()

    return scale * math.sqrt(max(0.0, top_eigenvalue(product, math.prod(shape), seed=seed, tolerance=tolerance)))


def apply(module: Linear, weight: Tensor, x: Tensor) -> Tensor:
    """The module's transformation of a batch with this weight and no bias."""
    if isinstance(module, nn.Linear):
        return functional.linear(x, weight)
    result: Tensor = module._conv_forward(x, weight, None)
    return result
