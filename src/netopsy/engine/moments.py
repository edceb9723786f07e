"""Count, mean and cross-products of the units of many layers, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._typing import IntArray
from netopsy.engine.batches import Source
from netopsy.engine.reading import reading
from netopsy.network.addresses import unwrap
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer

ROWS = 8192
"""Samples whose products are added up in the activations' own precision, before that sum is added in float64."""

CHUNK = 1 << 19
"""Numbers of one layer that are taken at a time: they stay in a core's cache while they are read again."""

BLOCK = 256
"""Rows of the cross-product matrix computed together, from the diagonal on: the rest is known by symmetry."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Which numbers of a layer are its units.

    Attributes:
        layer: whose units lie along its axis; every other position is a sample.
        entries: None; or each of these entries of one example's value (flat indices) is a unit, an example a sample.
    """

    layer: UnitLayer
    entries: IntArray | None = None

    @property
    def units(self) -> int:
        """How many."""
        return self.layer.units if self.entries is None else len(self.entries)


@dataclass(frozen=True, eq=False)
class Moments:
    """What is kept of a layer's units; those of different samples add up to those of all.

    Attributes:
        count: samples.
        mean: of each unit.
        cross: sums over the samples of (x_i - mean_i) (x_j - mean_j).
        active: samples in which a unit is above zero.
    """

    count: int
    mean: Float[Tensor, " units"]
    cross: Float[Tensor, "units units"] = field(repr=False)
    active: Int[Tensor, " units"]

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances (1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        cross = torch.outer(apart, apart).mul_(self.count * (other.count / count)).add_(self.cross).add_(other.cross)
        return Moments(
            count=count,
            mean=self.mean + apart * (other.count / count),
            cross=cross,
            active=self.active + other.active,
        )

    @property
    def variance(self) -> Float[Tensor, " units"]:
        """Of each unit over these samples (divided by their number)."""
        return self.cross.diagonal().clamp(min=0) / self.count

    @property
    def covariance(self) -> Float[Tensor, "units units"]:
        """Over these samples (divided by their number)."""
        return self.cross / self.count

    def correlation(self, kept: Bool[Tensor, " units"] | None = None) -> Float[Tensor, "kept kept"]:
        """Pearson's r between the units kept, all of which must vary; ones on the diagonal, none beyond ±1."""
        cross = self.cross if kept is None or bool(kept.all()) else self.cross[kept][:, kept]
        scale = cross.diagonal().rsqrt()
        matrix = (cross * scale[:, None]).mul_(scale).clamp_(-1, 1)
        matrix.diagonal().fill_(1)
        return matrix


def unit_moments(
    model: nn.Module,
    source: Source,
    readings: Sequence[Reading],
    *,
    task: Task | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> list[Moments]:
    """Read the units of all layers in one pass of the plain model, in eval mode; it is bit-identical afterwards.

    Memory is 12 bytes times the square of a layer's units, in all layers together, and two copies of a part of one
    value: never samples x units. Values are shifted by the mean of the first of them; products of up to `ROWS`
    samples are added up in the activations' precision, and these sums in float64: float32 activations then give a
    covariance within 1e-5 of the two standard deviations' product, as measured (docs/redundancy.md) and held
    (`tests/test_moments.py`). The order of the batches changes nothing but rounding.

    Args:
        model: any module.
        source: examples, from `netopsy.engine.batches.open_data`.
        readings: what to read; one layer may be read in several ways.
        task: how batches are read.
        progress: called with the examples done and their total.

    Returns:
        The moments of each reading, on the CPU in float64.

    Raises:
        NetopsyError: when a layer's units hold several numbers each, when its values do not have the shape that it
            says, or when the model never computes it.
    """
    for each in readings:
        _check_reading(each)
    model, task = unwrap(model), task or Task()
    scratch = _Scratch()
    sums = [_Sums(each, scratch) for each in readings]
    layers = [each.layer for each in readings]
    done = 0
    with reading(model, layers, lambda place, value: sums[place].add(value), always=False) as run:
        for order, batch in source.batches():
            run(task.inputs(batch))
            done += len(order)
            if progress is not None:
                progress(done, source.total)
    return [part.moments() for part in sums]


def _check_reading(reading: Reading) -> None:
    layer = reading.layer
    if layer.size != 1:
        raise NetopsyError(
            f"site {layer.name!r}: expected units of one number each; its units (such as attention heads) hold "
            f"{layer.size}, between which there is no one correlation; pass a UnitLayer with units="
            f"{layer.units * layer.size} and size=1 to read each number as a unit"
        )


class _Scratch:
    """Memory that all layers of one pass use by turns."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def take(self, number: int, like: Tensor) -> Tensor:
        """A flat tensor, not shorter than another is large, of its type; what it holds is anybody's."""
        key = number, like.dtype, like.device
        held = self._held.get(key)
        if held is None or held.numel() < like.numel():
            held = self._held[key] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        return held

    def ones(self, rows: Float[Tensor, "samples units"]) -> Float[Tensor, " samples"]:
        """A one for each sample."""
        key = -1, rows.dtype, rows.device
        held = self._held.get(key)
        if held is None or len(held) < len(rows):
            held = self._held[key] = torch.ones(len(rows), dtype=rows.dtype, device=rows.device)
        return held[: len(rows)]


class _Sums:
    """The sums of one reading, of what was seen so far."""

    def __init__(self, reading: Reading, scratch: _Scratch) -> None:
        self.reading, self.scratch = reading, scratch
        self.count, self.waiting = 0, 0

    def add(self, value: Tensor) -> None:
        samples = self._samples(value if value.dtype in (torch.float32, torch.float64) else value.float())
        if self.count == 0:
            self._start(samples)
        examples, positions, units = samples.shape
        most = max(1, min(ROWS, CHUNK // max(units, 1)))
        step = max(1, most // max(positions, 1))
        for first in range(0, examples, step):
            for place in range(0, positions, most):
                self._add(samples[first : first + step, place : place + most])

    def _samples(self, value: Tensor) -> Float[Tensor, "n positions units"]:
        """A view by example, position and unit; of sampled entries a copy."""
        layer, entries = self.reading.layer, self.reading.entries
        if entries is not None:
            if tuple(value.shape[1:]) != layer.shape:
                raise NetopsyError(
                    f"site {layer.name!r}: expected values of shape (n, {', '.join(map(str, layer.shape))}) in every "
                    f"batch, since each position is a unit; got {tuple(value.shape)}; use convention='channels'"
                )
            return value.flatten(1)[:, None, torch.from_numpy(entries).to(value.device)]
        inside = -value.ndim <= layer.axis < value.ndim and layer.axis % value.ndim != 0
        if not inside or value.shape[layer.axis] != layer.units:
            raise NetopsyError(
                f"site {layer.name!r}: expected {layer.units} units along axis {layer.axis} in every batch; got a "
                f"value of shape {tuple(value.shape)}"
            )
        return value.movedim(layer.axis, -1).flatten(1, -2) if value.ndim > 2 else value[:, None]

    def _start(self, samples: Float[Tensor, "n positions units"]) -> None:
        first = samples[: max(1, ROWS // max(samples.shape[1], 1))]
        self.shift = first.mean((0, 1))  # any value near the mean will do
        self.total = torch.zeros_like(self.shift, dtype=torch.float64)
        self.above = torch.zeros_like(self.shift)
        self.active = torch.zeros_like(self.total)
        self.part = first.new_zeros(len(self.shift), len(self.shift))
        self.cross = self.part if first.dtype == torch.float64 else self.part.double()

    def _add(self, samples: Float[Tensor, "n positions units"]) -> None:
        # each line was timed against what is more plainly said: products of long columns take a fifth of the time of
        # long rows', counting ten times that of a product of ones, and memory that is new each time as long as all
        # the rest
        size, shape = samples.numel(), samples.shape
        rows = self.scratch.take(0, samples)[:size].view(shape).copy_(samples).flatten(0, 1)
        if self.waiting + len(rows) > ROWS:
            self._settle()
        ones = self.scratch.ones(rows)
        above = torch.gt(rows, 0, out=self.scratch.take(1, samples)[:size].view(rows.shape))
        self.above.addmv_(above.T, ones)
        rows -= self.shift
        self.total += rows.sum(0)
        for first in range(0, rows.shape[1], BLOCK):
            self.part[first : first + BLOCK, first:].addmm_(rows[:, first : first + BLOCK].T, rows[:, first:])
        self.count += len(rows)
        self.waiting += len(rows)

    def _settle(self) -> None:
        if self.part is not self.cross:
            self.cross += self.part
            self.part.zero_()
        self.active += self.above
        self.above.zero_()
        self.waiting = 0

    def moments(self) -> Moments:
        """Of all that was added; nothing may be added afterwards."""
        if self.count == 0:
            layer = self.reading.layer
            raise NetopsyError(f"site {layer.name!r}: the model computes no {layer.address} on these data")
        self._settle()
        del self.part
        off = self.total / self.count
        cross = self.cross.cpu()
        del self.cross
        cross.addr_(off.cpu(), off.cpu(), alpha=-self.count)
        for first in range(0, len(cross), BLOCK):
            block = cross[first : first + BLOCK, first : first + BLOCK]
            block.copy_(block.triu() + block.triu(1).T)  # its halves may differ by rounding
            cross[first + BLOCK :, first : first + BLOCK] = cross[first : first + BLOCK, first + BLOCK :].T
        return Moments(
            count=self.count,
            mean=(self.shift.double() + off).cpu(),
            cross=cross,
            active=self.active.long().cpu(),
        )


def sample_entries(layer: UnitLayer, most: int, seed: int) -> IntArray:
    """At most so many entries of one example's value, drawn without replacement, in order."""
    total = int(np.prod(layer.shape, dtype=np.int64))
    if total <= most:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(total, size=most, replace=False)).astype(np.int64)
