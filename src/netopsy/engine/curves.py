"""Where the units of a piecewise linear network pass a kink along a curve in input space, exactly.

The curve is a chain of pieces: segments (x = a + t b, k = 2) or arcs of ellipses (x = a + b cos t + c sin t, k = 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor

from netopsy.engine.affine import AffineNetwork
from netopsy.engine.curve_cells import CurveCells, Record

BUDGET = 16 * 2**20
"""Bytes of values at a time: what is worked on fits in the caches of most machines."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A chain of pieces in input space.

    Attributes:
        coefficients: of the inputs on each piece, in float64: k = 2 for segments (1, t), k = 3 for arcs (1, cos t,
            sin t).
        starts: where each piece starts in its own parameter; arcs are shorter than pi.
        ends: where it ends.
        offsets: what makes its parameter the chain's.
        closed: whether the last piece ends where the first starts.
    """

    coefficients: Float[Tensor, "pieces k *shape"]
    starts: Float[Tensor, " pieces"]
    ends: Float[Tensor, " pieces"]
    offsets: Float[Tensor, " pieces"]
    closed: bool


@dataclass(frozen=True, eq=False)
class Crossings:
    """Where values pass a kink.

    Attributes:
        t: place along the curve, ascending.
        layer: number of the layer, in the order of `Traced.layers`.
        unit: which value of it, in the order in which they lie in memory.
        before: piece that it leaves.
        after: piece that it enters, one higher or lower.
    """

    t: Float[Tensor, " m"]
    layer: Int64[Tensor, " m"]
    unit: Int64[Tensor, " m"]
    before: Int8[Tensor, " m"]
    after: Int8[Tensor, " m"]


@dataclass(frozen=True, eq=False)
class Traced:
    """A network along a curve.

    Attributes:
        crossings: all of them, those of comparisons (max pooling, maximum, minimum) included.
        layers: names of the layers -> whether their kinks are those of units.
        starts: where the cells start on which the network is affine; places along the curve.
        ends: where they end.
        logits: coefficients of the logits there, in the parameter of the piece that the cell is on.
        pieces: which piece that is.
    """

    crossings: Crossings
    layers: Mapping[str, bool]
    starts: Float[Tensor, " cells"]
    ends: Float[Tensor, " cells"]
    logits: Float[Tensor, "cells k *logits"]
    pieces: Int64[Tensor, " cells"]


def trace(network: AffineNetwork, curve: Curve, *, budget: int = BUDGET) -> Traced:
    """Follow a network along a curve and find every kink that it passes.

    Args:
        network: what `affine_network` made of the model.
        curve: in the space of its inputs.
        budget: bytes of values that are kept at a time (a few times as much while they are worked on). The curve is
            run in stretches; their ends are no kinks and change no number.
    """
    seam = curve.offsets[0] + curve.starts[0] if curve.closed else None
    record = Record({name: number for number, name in enumerate(network.layers)}, curve.offsets, seam)
    count = len(curve.starts)
    cells = CurveCells(record, torch.arange(count), curve.starts, curve.ends, first=True, last=True)
    logits = network.run(curve.coefficients, cells, budget=budget)
    stretches = list(cells.stretches())
    pieces = torch.cat([stretch.piece for stretch in stretches])
    starts, ends = (
        torch.cat([getattr(s, name) for s in stretches]) + curve.offsets[pieces] for name in ("start", "end")
    )
    return Traced(Crossings(*record.columns()), network.layers, starts, ends, logits, pieces)
