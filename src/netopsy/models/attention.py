"""The parts that transformers are made of: positions, self-attention, the MLP, the block of both."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from netopsy._checks import NetopsyError, at_least

EPSILON = 1e-6
"""Added to the variance by the normalizations, as in the code of the models that the layers paper measured."""

NonLinearity: TypeAlias = Literal["relu", "gelu"]
"""Of an MLP's hidden units; "gelu" is the exact one, x·Φ(x)."""


class Position(nn.Module):
    """Adds a learned vector to each position, drawn from N(0, sigma²); attention knows no order without."""

    def __init__(self, length: int, width: int, *, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.weight = nn.Parameter(torch.empty(length, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        nn.init.normal_(self.weight, 0.0, self.sigma)

    def forward(self, x: Float[Tensor, "n l w"]) -> Float[Tensor, "n l w"]:
        """Return the sum; a shorter sequence takes the first vectors."""
        if x.shape[1] > len(self.weight):
            raise NetopsyError(
                f"positions: expected at most {len(self.weight)}, the length that the model was built for; got "
                f"{x.shape[1]}; cut the sequences, or build a longer model"
            )
        return x + self.weight[: x.shape[1]]


class Attention(nn.Module):
    """Self-attention (Vaswani et al. 2017, section 3.2): `out` of every head's softmax(q kᵀ/√d) v, side by side.

    Head h reads values h·d to (h + 1)·d of what `query`, `key` and `value` return, d = width/heads, and gives the
    same values of what `out` takes. With `causal` a position sees itself and those before it.
    """

    def __init__(self, width: int, *, heads: int, bias: bool, causal: bool) -> None:
        super().__init__()
        self.num_heads, self.causal = heads, causal
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Float[Tensor, "n l w"]) -> Float[Tensor, "n l w"]:
        """Return what each position takes from those it sees."""
        q, k, v = (self._split(project(x)) for project in (self.query, self.key, self.value))
        heads = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        result: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return result

    def _split(self, x: Float[Tensor, "n l w"]) -> Float[Tensor, "n h l d"]:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class MLP(nn.Module):
    """A hidden layer: `dense0`, `activation`, `dense1`, on the last axis."""

    def __init__(self, width: int, hidden: int, activation: NonLinearity) -> None:
        super().__init__()
        self.dense0 = nn.Linear(width, hidden)
        self.activation = nn.ReLU() if activation == "relu" else nn.GELU()
        self.dense1 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*n w"]) -> Float[Tensor, "*n w"]:
        """Return as many values as came."""
        result: Tensor = self.dense1(self.activation(self.dense0(x)))
        return result


class TransformerBlock(nn.Module):
    """x ← x + attention(norm0(x)); x ← x + mlp(norm1(x))."""

    def __init__(
        self, width: int, *, hidden: int, heads: int, bias: bool, causal: bool, activation: NonLinearity
    ) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads=heads, bias=bias, causal=causal)
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = MLP(width, hidden, activation)

    def forward(self, x: Float[Tensor, "n l w"]) -> Float[Tensor, "n l w"]:
        """Return the next block's input."""
        x = x + self.attention(self.norm0(x))
        result: Tensor = x + self.mlp(self.norm1(x))
        return result


def check_sizes(*, depth: int, width: int, hidden: int | None, heads: int) -> int:
    """Refuse sizes below 1 and heads that do not divide the width; the MLPs' units, 4·width if not told.

    >>> check_sizes(depth=1, width=10, hidden=None, heads=3)
    Traceback (most recent call last):
    netopsy._checks.NetopsyError: heads: expected a divisor of the width, 10; got 3
    """
    at_least("depth", depth, 1)
    at_least("width", width, 1)
    at_least("heads", heads, 1)
    if width % heads:
        raise NetopsyError(f"heads: expected a divisor of the width, {width}; got {heads}")
    units = 4 * width if hidden is None else hidden
    at_least("hidden", units, 1)
    return units
