"""The path norm of a ReLU network: the weights of all its paths, squared, multiplied along them and added up.

Neyshabur, Tomioka, Srebro: Norm-based capacity control in neural networks (COLT 2015), eq. 6 with p = 2.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from netopsy._random import generator
from netopsy.network.addresses import evaluation_mode
from netopsy.network.task import Task

POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)

WEIGHTED = (nn.Linear, _ConvNd, _BatchNorm)
"""Modules with parameters whose paths have a weight; with others a network has no path norm here."""


def path_norm(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]], task: Task) -> float | None:
    """√ of the sum over all paths from an input or a bias to a logit of the product of its squared weights.

    It is what the network with squared weights makes of an input of ones. Batch normalization counts as the scaling
    and shift that it is in evaluation mode, average pooling as its weights 1/n (windows without overlap), max pooling
    as in the network.

    Args:
        model: is not changed.
        inputs: of one example or more; only their shapes matter.
        task: where the logits are.

    Returns:
        log₁₀ of the norm (in float64); inf where its square overflows; None where paths have no weights: with other
        modules with parameters, or others without that are not positively homogeneous, f(2x) = 2 f(x).
    """
    squared = copy.deepcopy(model).double()
    plain: list[bool] = []
    for module in squared.modules():
        if isinstance(module, _BatchNorm):
            plain.append(_square_normalization(module))
        elif isinstance(module, POOLS):
            module.register_forward_hook(_pooled)
        elif not list(module.children()) and not isinstance(module, WEIGHTED):
            module.register_forward_hook(lambda module, given, _: plain.append(_homogeneous(module, given)))
        else:
            own = list(module.parameters(recurse=False))
            plain.append(not own or isinstance(module, WEIGHTED))
            for parameter in own:
                parameter.data.square_()
    if not all(plain):
        return None
    with torch.no_grad(), evaluation_mode(squared):
        args, kwargs = pytree.tree_map(_ones, inputs)
        total = float(task.logits(squared(*args, **kwargs)).sum())
    if not all(plain):
        return None
    return math.log10(total) / 2 if total > 0 else -math.inf


def _ones(leaf: Any) -> Any:
    return torch.ones_like(leaf[:1], dtype=torch.float64) if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _square_normalization(module: _BatchNorm) -> bool:
    """In evaluation mode it is x ↦ a x + b: make it x ↦ a² x + b². False for one that has no moments of its own."""
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        return False
    gain = torch.ones_like(variance) if module.weight is None else module.weight
    shift = torch.zeros_like(mean) if module.bias is None else module.bias
    scale = gain / torch.sqrt(variance + module.eps)
    bias = shift - scale * mean
    module.running_mean = torch.zeros_like(mean)
    module.running_var = torch.ones_like(variance) - module.eps
    module.weight = nn.Parameter(scale.detach().square())
    module.bias = nn.Parameter(bias.detach().square())
    return True


def _pooled(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A mean over n with its weights 1/n squared: once more over n."""
    return output * (output.numel() / given[0].numel())


def _homogeneous(module: nn.Module, given: tuple[Any, ...]) -> bool:
    """Whether a module without parameters scales with a random input, as ReLU, pooling, padding and reshaping do."""
    if list(module.parameters(recurse=False)) or len(given) != 1 or not isinstance(given[0], Tensor):
        return False
    z = torch.randn(given[0].shape, generator=generator(0), dtype=torch.float64).to(given[0].device)
    once, twice = module.forward(z.clone()), module.forward(2 * z)
    return isinstance(once, Tensor) and isinstance(twice, Tensor) and bool(torch.allclose(2 * once, twice))
