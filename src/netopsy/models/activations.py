"""The non-linearities that the papers compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from netopsy._checks import one_of

Activation: TypeAlias = Literal["relu", "relu6", "tanh", "hardtanh", "hardsigmoid"]
"""Those of Novak et al. (2018), A.4; all but `"tanh"` are piecewise linear."""


class HardSigmoid(nn.Module):
    """clip(x + 1/2, 0, 1) (Novak et al. 2018, A.4); PyTorch's `Hardsigmoid` has another slope, 1/6.

    >>> import torch
    >>> HardSigmoid()(torch.tensor([-1.0, -0.25, 0.0, 2.0])).tolist()
    [0.0, 0.25, 0.5, 1.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every number."""
        return (x + 0.5).clamp(0.0, 1.0)


MODULES: Mapping[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": HardSigmoid,
}
"""Name -> its module, clipped as in the paper: ReLU6 to [0, 6], HardTanh to [-1, 1]."""


def check_activation(activation: str) -> None:
    """Refuse what is none of `Activation`."""
    one_of("activation", activation, get_args(Activation))
