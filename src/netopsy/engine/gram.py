"""Inner products of layers' centered Gram matrices, added up over batches: all pairs of layers of two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._typing import FloatArray
from netopsy.network.units import UnitLayer

LEAST = 4
"""Examples of a batch: of fewer there is no unbiased estimate."""

ROUNDING = 1e-6
"""A layer whose examples differ by a smaller part of their values is constant: float32 has 24 bits."""

FLAT = 1e-5
"""Centered Gram entries that are a smaller part of what they are made of are rounding."""


def features(value: Tensor, layer: UnitLayer, examples: int) -> Float[Tensor, "n features"]:
    """A layer's value as one row an example."""
    if value.ndim < 2 or len(value) != examples:
        raise NetopsyError(
            f"site {layer.name!r}: expected a value of shape (n, ...) with the batch's {examples} examples along "
            f"its first axis; got {tuple(value.shape)}; choose another module"
        )
    return (value if value.dtype in (torch.float32, torch.float64) else value.float()).flatten(1)


def centered(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The U-centered matrix of a Gram matrix (Székely and Rizzo 2014): the inner product of two is n (n - 3) HSIC₁.

    Song et al. (2012) define HSIC₁ of K and L with zero diagonals K̃, L̃ as
    (tr K̃L̃ + 1ᵀK̃1 1ᵀL̃1 / (n-1)(n-2) - 2 1ᵀK̃L̃1 / (n-2)) / n(n-3), a difference of large numbers, which this is not.
    """
    n = len(gram)
    off = gram.double().clone()
    off.diagonal().zero_()
    sums = off.sum(0) / (n - 2)
    off += sums.sum() / (n - 1) - sums - sums[:, None]
    off.diagonal().zero_()
    return off


@dataclass
class Spread:
    """How far a layer's examples lie apart, of what was seen: whether a similarity has a meaning."""

    squares: float = 0.0
    apart: float = 0.0  # from the mean
    gram: float = 0.0  # squares of a Gram matrix, and what centering leaves of them
    kept: float = 0.0
    finite: bool = True

    def add(self, rows: Float[Tensor, "n features"], moved: Float[Tensor, "n features"]) -> None:
        """Rows before and after their mean was taken off."""
        self.squares += float(torch.linalg.vector_norm(rows)) ** 2  # a sum in float64 copies its input first
        self.apart += float(torch.linalg.vector_norm(moved)) ** 2
        self.finite = self.finite and bool(np.isfinite(self.apart))

    def status(self) -> str:
        """Of the layer."""
        if not self.finite:
            return "non-finite"
        if self.apart <= ROUNDING**2 * self.squares:
            return "constant"
        return "degenerate" if self.kept < FLAT**2 * self.gram else "ok"


@dataclass
class Grams:
    """Minibatch sums: memory is 8 bytes times a batch's examples squared for every layer, and never grows with data.

    Attributes:
        layers: of one network.
        spread: of each, of all batches.
    """

    layers: Sequence[UnitLayer]
    spread: list[Spread] = field(init=False)
    _now: dict[int, Tensor] = field(init=False, default_factory=dict)
    _size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.spread = [Spread() for _ in self.layers]

    def start(self, examples: int) -> None:
        """Forget the batch before."""
        self._now.clear()
        self._size = examples

    def take(self, place: int, value: Tensor) -> None:
        """A layer's value; of several calls the features stand side by side."""
        rows = features(value, self.layers[place], self._size)
        moved = rows - rows.mean(0)  # changes no centered Gram matrix but its rounding
        self.spread[place].add(rows, moved)
        gram = moved @ moved.T
        self._now[place] = gram if place not in self._now else self._now[place] + gram

    def stacked(self) -> Float[Tensor, "layers pairs"]:
        """This batch's U-centered Gram matrices, a row a layer: inner products are its examples times HSIC₁."""
        rows = []
        for place, spread in enumerate(self.spread):
            gram = self._now[place]
            row = centered(gram).flatten().cpu() / (self._size - 3) ** 0.5
            spread.gram += float(gram.double().square().sum()) / (self._size - 3)
            spread.kept += float(row @ row)
            rows.append(row)
        return torch.stack(rows)


@dataclass
class Features:
    """The features of all layers of one network side by side, for a batch, less a mean that stays the same."""

    layers: Sequence[UnitLayer]
    spread: list[Spread] = field(init=False)
    widths: list[int] = field(init=False, default_factory=list)
    _now: dict[int, list[Tensor]] = field(init=False, default_factory=dict)
    _shift: dict[int, Tensor] = field(init=False, default_factory=dict)
    _size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.spread = [Spread() for _ in self.layers]

    def start(self, examples: int) -> None:
        """Forget the batch before."""
        self._now.clear()
        self._size = examples

    def take(self, place: int, value: Tensor) -> None:
        """A layer's value; of several calls the features stand side by side."""
        self._now.setdefault(place, []).append(features(value, self.layers[place], self._size).double().cpu())

    def joined(self) -> Float[Tensor, "n features"]:
        """All layers' features of this batch in float64, less the mean of the first batch."""
        parts = []
        for place, spread in enumerate(self.spread):
            rows = torch.cat(self._now[place], 1)
            shift = self._shift.setdefault(place, rows.mean(0))
            if rows.shape[1] != len(shift):
                raise NetopsyError(
                    f"site {self.layers[place].name!r}: expected {len(shift)} numbers an example in every batch; got "
                    f"{rows.shape[1]}; use estimator='minibatch'"
                )
            moved = rows - shift
            spread.add(rows, moved)
            parts.append(moved)
        self.widths = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)


def block_squares(cross: Float[Tensor, "a b"], heights: Sequence[int], widths: Sequence[int]) -> FloatArray:
    """Squared Frobenius norms of the blocks of a matrix."""
    rows = torch.stack([part.sum(0) for part in torch.split(cross.square(), list(heights))])
    found: FloatArray = torch.stack([part.sum(1) for part in torch.split(rows, list(widths), 1)], 1).numpy()
    return found
