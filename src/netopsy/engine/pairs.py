"""Cross-products of the units of two networks' layers, pair by pair of layers, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.engine.alignment import constant
from netopsy.engine.batches import Source
from netopsy.engine.reading import reading
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer

PIECE = 1 << 21
"""Numbers of a layer that are taken into float64 at a time."""


@dataclass(frozen=True, eq=False)
class PairMoments:
    """What is kept of two layers' units over the same samples, in float64.

    Attributes:
        count: samples: examples, times positions where a layer has these.
        means: of the units of both.
        deviations: standard deviations of the units of both.
        covariance: of each unit of the first with each of the second.
    """

    count: int
    means: tuple[Float[Tensor, " a"], Float[Tensor, " b"]]
    deviations: tuple[Float[Tensor, " a"], Float[Tensor, " b"]]
    covariance: Float[Tensor, "a b"] = field(repr=False)

    def status(self, side: int) -> list[str]:
        """Of each unit of one layer: `ok`, `constant` or `non-finite`."""
        mean, deviation = self.means[side], self.deviations[side]
        still = constant(mean, deviation).tolist()
        finite = (mean.isfinite() & deviation.isfinite()).tolist()
        return [
            "non-finite" if not whole else "constant" if flat else "ok"
            for whole, flat in zip(finite, still, strict=True)
        ]

    def correlation(self) -> Float[Tensor, "a b"]:
        """Pearson's r, within ±1; NaN for every pair with a unit that is constant or not finite."""
        scales = [
            deviation.masked_fill(constant(mean, deviation), torch.nan)
            for mean, deviation in zip(self.means, self.deviations, strict=True)
        ]
        return (self.covariance / scales[0][:, None] / scales[1]).clamp(-1, 1)


def pair_moments(
    first: nn.Module,
    second: nn.Module,
    pairs: Sequence[tuple[UnitLayer, UnitLayer]],
    source: Source,
    *,
    task: Task,
    progress: Callable[[int, int | None], object] | None = None,
) -> list[PairMoments]:
    """Read pairs of layers in one pass of both networks, in eval mode; they are bit-identical afterwards.

    Values are shifted by the mean of the first batch and added up in float64. Memory is 8 bytes times the product of
    a pair's widths, and one batch's values of the first network's layers.

    Args:
        first: a network.
        second: another, or the same one.
        pairs: a layer of each.
        source: examples, from `netopsy.engine.batches.open_data`.
        task: how batches of both are read.
        progress: called with the examples done and their total.

    Raises:
        NetopsyError: for layers whose units hold several numbers each, or that have different numbers of samples.
    """
    for layer in (layer for pair in pairs for layer in pair):
        if layer.size != 1:
            raise NetopsyError(
                f"site {layer.name!r}: expected units of one number each; its units (such as attention heads) hold "
                f"{layer.size}; pass a UnitLayer with units={layer.units * layer.size} and size=1"
            )
    sums = [_PairSums(*pair) for pair in pairs]
    held: tuple[list[list[Tensor]], list[list[Tensor]]] = ([[] for _ in pairs], [[] for _ in pairs])
    running = 0  # which network runs: hooks on a module that both hold see both

    def taker(side: int) -> Callable[[int, Tensor], object]:
        def take(place: int, value: Tensor) -> None:
            if running == side:
                held[side][place].append(samples(value, pairs[place][side]))

        return take

    done = 0
    with ExitStack() as stack:
        runs = [
            stack.enter_context(reading(model, [pair[side] for pair in pairs], taker(side)))
            for side, model in enumerate((first, second))
        ]
        for order, batch in source.batches():
            for running, run in enumerate(runs):  # noqa: B007 (`take` looks at it)
                run(task.inputs(batch))
            for place, part in enumerate(sums):
                part.add(torch.cat(held[0][place]), torch.cat(held[1][place]))
                held[0][place].clear()
                held[1][place].clear()
            done += len(order)
            if progress is not None:
                progress(done, source.total)
    return [part.moments() for part in sums]


def samples(value: Tensor, layer: UnitLayer) -> Float[Tensor, "samples units"]:
    """A copy of a layer's value with a row for every example and position.

    Raises:
        NetopsyError: when the value does not have the layer's units along its axis.
    """
    inside = -value.ndim <= layer.axis < value.ndim and layer.axis % value.ndim != 0
    if not inside or value.shape[layer.axis] != layer.units:
        raise NetopsyError(
            f"site {layer.name!r}: expected {layer.units} units along axis {layer.axis} in every batch; got a value "
            f"of shape {tuple(value.shape)}"
        )
    return value.movedim(layer.axis, -1).reshape(-1, layer.units).clone()


class _PairSums:
    """Sums of a pair of layers, less the means of the first batch."""

    def __init__(self, a: UnitLayer, b: UnitLayer) -> None:
        self.layers = a, b
        self.count = 0
        self.shifts: list[Tensor] = []
        self.totals = [torch.zeros(layer.units, dtype=torch.float64) for layer in self.layers]
        self.squares = [torch.zeros(layer.units, dtype=torch.float64) for layer in self.layers]
        self.cross = torch.zeros(a.units, b.units, dtype=torch.float64)

    def add(self, a: Float[Tensor, "n a"], b: Float[Tensor, "m b"]) -> None:
        if len(a) != len(b):
            raise NetopsyError(
                f"sites {self.layers[0].name!r} and {self.layers[1].name!r}: expected values with the same examples "
                f"and positions; got {len(a)} and {len(b)} samples of a batch; pass layers of one size"
            )
        if not self.shifts:
            self.shifts = [rows.double().mean(0).cpu() for rows in (a, b)]
        step = max(1, PIECE // max(a.shape[1], b.shape[1]))
        for first in range(0, len(a), step):
            parts = [rows[first : first + step].cpu().double() for rows in (a, b)]
            for side, part in enumerate(parts):
                part -= self.shifts[side]
                self.totals[side] += part.sum(0)
                self.squares[side] += part.square().sum(0)
            self.cross.addmm_(parts[0].T, parts[1])
        self.count += len(a)

    def moments(self) -> PairMoments:
        if not self.count:
            raise NetopsyError("data: expected at least one example; got none")
        off = [total / self.count for total in self.totals]
        a, b = (
            (squares / self.count - moved.square()).clamp(min=0).sqrt()
            for squares, moved in zip(self.squares, off, strict=True)
        )
        return PairMoments(
            count=self.count,
            means=(self.shifts[0] + off[0], self.shifts[1] + off[1]),
            deviations=(a, b),
            covariance=self.cross / self.count - torch.outer(*off),
        )
