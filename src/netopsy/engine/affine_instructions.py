"""An instruction: one operation on rows of coefficients.

A value's rows are `k` a cell, the constant coefficient first. A linear operation runs on rows as the model runs it on
examples; what an affine one adds goes to the constant rows alone; a piecewise linear one is a kink, a slope for each
piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor

from netopsy.engine.affine_kinks import Kinks

Run = Callable[[Sequence[Any], int], Tensor]
"""All slots and the number of rows a cell -> the rows of the result."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """One operation on rows.

    Attributes:
        name: the layer where it is a kink; else the operation.
        run: what it computes; nothing where it is a kink.
        reads: slots it reads.
        writes: the slot it writes.
        frees: slots that nothing reads after it.
        kinks: where the cells are to be cut.
        counted: whether the kinks are those of units.
        lowest: the lowest piece's slope, where each channel has its own.
    """

    name: str
    run: Run
    reads: tuple[int, ...]
    writes: int
    frees: tuple[int, ...] = ()
    kinks: Kinks | None = None
    counted: bool = True
    lowest: Tensor | None = None

    def apply(
        self,
        pre: Float[Tensor, " rows *shape"],
        parents: Int64[Tensor, " new"],
        pieces: Int8[Tensor, "new n"],
        k: int,
    ) -> Float[Tensor, " new_rows *shape"]:
        """The kinked function on cells cut from those of `pre`."""
        assert self.kinks is not None
        value = on_cells(pre, k).index_select(0, parents)
        pieces = pieces.view(len(parents), *pre.shape[1:])
        if self.lowest is not None:
            slopes = torch.where(pieces > 0, 1.0, self.lowest.view(-1, *[1] * (pre.ndim - 2)))
        elif self.kinks.slopes == (0.0, 1.0):
            slopes = pieces.to(pre.dtype)
        else:
            slopes = torch.tensor(self.kinks.slopes, dtype=pre.dtype)[pieces.int()]
        value *= slopes.unsqueeze(1)
        if any(self.kinks.intercepts):
            value[:, 0] += torch.tensor(self.kinks.intercepts, dtype=pre.dtype)[pieces.int()]
        return value.flatten(0, 1)


def nothing(slots: Sequence[Any], k: int) -> Tensor:
    """A kink runs by `Instruction.apply`."""
    raise AssertionError


def shifted_rows(
    run: Run, offset: Float[Tensor, " *offset"], slots: Sequence[Any], k: int
) -> Float[Tensor, " rows *shape"]:
    """What a linear operation gives, with `offset` added to the constant rows."""
    value = run(slots, k)
    value[::k] += offset
    return value


def rows_of(slots: Sequence[Any]) -> int:
    """The number of rows, which all values share."""
    return next(len(value) for value in slots if value is not None)


def on_cells(rows: Float[Tensor, " rows *shape"], k: int) -> Float[Tensor, "cells k *shape"]:
    """Rows by their cell."""
    return rows.unflatten(0, (-1, k))  # type: ignore[no-any-return, no-untyped-call]
