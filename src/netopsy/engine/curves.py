"""Where the units of a piecewise linear network pass a kink along a curve in input space, exactly.

The curve is a chain of pieces: segments (x = a + t b, k = 2) or arcs of ellipses (x = a + b cos t + c sin t, k = 3).
Along it a pre-activation is f(t) = r + p t or r + p cos t + q sin t as long as no earlier unit passes a kink, and the
roots of f - threshold have closed forms. Three rules make the count sound in floating point:

- at a breakpoint between two cells a pre-activation is computed once, from the cell after it;
- there a value within `AT` of the threshold (relative to the sum of its terms) is on neither side: what counts is on
  which sides the cells before and after it are. A unit that comes from 0 and goes up passes once; one that touches
  its threshold and turns back does not pass at all;
- one that stays at its threshold is on the piece below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int8, Int64
from torch import Tensor

from netopsy.engine.affine import AffineNetwork, Kinks, Refined

BUDGET = 16 * 2**20
"""Bytes of values at a time: what is worked on fits in the caches of most machines."""

AT = 2.0**-40
"""Relative to the sum of a value's terms: closer than this is at the threshold."""

TOGETHER = 2.0**-44
"""Kinks as close as this along the path have no cell between them, in units of its parameter."""


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
    record = _Record({name: number for number, name in enumerate(network.layers)})
    count = len(curve.starts)
    along = _Along(record, curve, torch.arange(count), curve.starts, curve.ends, first=True, last=True)
    logits = network.run(curve.coefficients, along, budget=budget)
    stretches = list(along.stretches())
    pieces = torch.cat([stretch.piece for stretch in stretches])
    starts, ends = (
        torch.cat([getattr(s, name) for s in stretches]) + curve.offsets[pieces] for name in ("start", "end")
    )
    return Traced(record.crossings(), network.layers, starts, ends, logits, pieces)


@dataclass(eq=False)
class _Record:
    """What is found on the way, and what one stretch tells the next; `first` is for the end of a closed curve."""

    layers: Mapping[str, int]
    found: list[tuple[Tensor, ...]] = field(default_factory=list)
    first: dict[tuple[int, float], _End] = field(default_factory=dict)
    last: dict[tuple[int, float], _End] = field(default_factory=dict)

    def add(self, layer: str, t: Tensor, unit: Tensor, threshold: int, up: Tensor) -> None:
        """Crossings of one threshold."""
        up = up.to(torch.int8)
        self.found.append((t, torch.full_like(unit, self.layers[layer]), unit, threshold + 1 - up, threshold + up))

    def crossings(self) -> Crossings:
        empty = [torch.zeros(0, dtype=kind) for kind in (torch.float64, torch.int64, torch.int64)]
        none = (*empty, *[torch.zeros(0, dtype=torch.int8)] * 2)
        columns = [torch.cat(column) for column in zip(none, *self.found, strict=True)]
        for key in (2, 1, 0):  # by place, then layer, then unit
            order = torch.argsort(columns[key], stable=True)
            columns = [column[order] for column in columns]
        return Crossings(*columns)


@dataclass(frozen=True, eq=False)
class _End:
    """A layer at an end of a stretch: distance from the threshold, its scale, and whether it is above just inside."""

    distance: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    above: Bool[Tensor, " n"]


@dataclass(eq=False)
class _Along:
    """Cells along a curve, in order: their pieces, and where they start and end in the pieces' parameters."""

    record: _Record
    curve: Curve
    piece: Tensor
    start: Tensor
    end: Tensor
    first: bool
    last: bool
    level: int = 0
    parts: list[_Along] = field(default_factory=list)

    def stretches(self) -> Iterator[_Along]:
        """The parts that were not divided further."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.stretches()

    def part(self, cells: slice) -> _Along:
        made = replace(
            self,
            piece=self.piece[cells],
            start=self.start[cells],
            end=self.end[cells],
            first=self.first and cells.start == 0,
            last=self.last and cells.stop == len(self.start),
            parts=[],
        )
        self.parts.append(made)
        return made

    def refine(self, layer: str, pre: Float[Tensor, "cells k n"], kinks: Kinks, counted: bool) -> Refined:
        cells, _, n = pre.shape
        values = _combine(pre, self.start)
        final = _combine(pre[-1:], self.end[-1:])
        terms = pre.abs().sum(1)
        code, code_end = (torch.zeros(cells, n, dtype=torch.int8) for _ in range(2))
        events = []
        for number, threshold in enumerate(kinks.thresholds):
            left, right, found = self._passed(layer, pre, values, final, terms, number, threshold)
            code += left
            code_end += right
            events.append(found)
        self.level += 1
        cell, unit, t, up = (torch.cat(column) for column in zip(*events, strict=True))
        return self._cut(code, code_end, cell, unit, t, up)

    def _passed(
        self, layer: str, pre: Tensor, values: Tensor, final: Tensor, terms: Tensor, number: int, threshold: float
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Whether values are above a threshold just inside their cells, at both ends; and the crossings in them.

        Returns:
            Above at the start, above at the end; cell, unit, place and direction (up) of the crossings.
        """
        record, key = self.record, (self.level, number)
        distance = torch.cat([values, final])
        scale = torch.cat([terms[:1], torch.maximum(terms[:-1], terms[1:]), terms[-1:]])
        if threshold:
            distance, scale = distance - threshold, scale + abs(threshold)
        if not self.first:
            before = record.last[key]
            distance[0], scale[0] = before.distance, torch.maximum(before.scale, scale[0])
        if self.last and self.curve.closed:
            after = record.first.get(key)
            distance[-1], scale[-1] = (distance[0], scale[0]) if after is None else (after.distance, after.scale)
        near, above = distance.abs(), distance > 0
        at = near <= AT * scale
        doubtful = (above[:-1] != above[1:]) | at[:-1] | at[1:]
        if pre.shape[1] == 3:
            bend = ((self.end - self.start) ** 2 / 8)[:, None]
            doubtful |= torch.minimum(near[:-1], near[1:]) <= bend * terms
        left, right = above[:-1], above[1:]
        if not threshold:  # a unit that is zero on all of a cell is not above, whatever the next cell's rounding
            alive = terms > 0
            doubtful, left, right = doubtful & alive, left & alive, right & alive
        left, right = left.clone(), right.clone()
        cell, unit = doubtful.nonzero(as_tuple=True)
        one = _Doubtful(
            pre[cell, :, unit],
            self.start[cell],
            self.end[cell],
            distance[cell, unit],
            distance[cell + 1, unit],
            at[cell, unit],
            at[cell + 1, unit],
            threshold,
        )
        left[cell, unit], right[cell, unit], which, t, up = one.solve()
        cell, unit = cell[which], unit[which]

        offsets = self.curve.offsets[self.piece]
        record.add(layer, offsets[cell] + t, unit, number, up)
        last, turned = (right[:-1] != left[1:]).nonzero(as_tuple=True)
        record.add(layer, (offsets + self.start)[last + 1], turned, number, left[last + 1, turned])
        if self.first:
            record.first[key] = _End(distance[0], scale[0], left[0])
        else:
            self._joined(layer, number, record.last[key].above, left[0])
        if self.last and self.curve.closed:
            self._joined(layer, number, right[-1], record.first[key].above, at_start=True)
        record.last[key] = _End(distance[-1], scale[-1], right[-1])
        return left, right, (cell, unit, t, up)

    def _joined(self, layer: str, number: int, before: Tensor, after: Tensor, *, at_start: bool = False) -> None:
        """Crossings between two stretches."""
        (unit,) = (before != after).nonzero(as_tuple=True)
        curve = self.curve
        where = curve.offsets[0] + curve.starts[0] if at_start else curve.offsets[self.piece[0]] + self.start[0]
        self.record.add(layer, where.expand(len(unit)), unit, number, after[unit])

    def _cut(self, code: Tensor, code_end: Tensor, cell: Tensor, unit: Tensor, t: Tensor, up: Tensor) -> Refined:
        """New cells between the crossings, and each unit's piece there: the sum of the changes up to it."""
        cells = torch.arange(len(code))
        if not len(cell):
            return Refined(cells, code)
        order = torch.argsort(t)
        order = order[torch.argsort(cell[order], stable=True)]
        cell, unit, t, up = cell[order], unit[order], t[order], up[order]
        fresh = torch.ones_like(cell, dtype=torch.bool)
        fresh[1:] = (cell[1:] != cell[:-1]) | (t[1:] - t[:-1] > TOGETHER)
        breaks = torch.bincount(cell[fresh], minlength=len(code))
        parents = cells.repeat_interleave(breaks + 1)
        heads = cells + breaks.cumsum(0) - breaks
        after = cell + fresh.cumsum(0)

        changes = torch.zeros(len(parents), code.shape[1], dtype=torch.int8)
        changes[heads] = code
        changes[heads[1:]] -= code_end[:-1]
        changes.index_put_((after, unit), 2 * up.to(torch.int8) - 1, accumulate=True)

        tails = torch.cat([heads[1:] - 1, torch.tensor([len(parents) - 1])])
        start, end = self.start[parents], self.end[parents]
        start[after[fresh]] = t[fresh]
        inner = torch.ones(len(parents), dtype=torch.bool)
        inner[tails] = False
        end[inner] = start.roll(-1)[inner]
        self.piece, self.start, self.end = self.piece[parents], start, end
        return Refined(parents, changes.cumsum(0, dtype=torch.int8))


@dataclass(frozen=True, eq=False)
class _Doubtful:
    """Values that may pass a threshold inside their cell, or are at it at one of its ends."""

    coefficients: Float[Tensor, "m k"]
    start: Float[Tensor, " m"]
    end: Float[Tensor, " m"]
    first: Float[Tensor, " m"]
    last: Float[Tensor, " m"]
    at_first: Bool[Tensor, " m"]
    at_last: Bool[Tensor, " m"]
    threshold: float

    def solve(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Above just inside the start and the end; then the crossings between: of which value, where, whether up."""
        middle = (self.start + self.end) / 2
        extreme = torch.zeros_like(middle, dtype=torch.bool)
        high = _at(self.coefficients, middle) - self.threshold > 0
        if self.coefficients.shape[1] == 3:
            extreme, peak = self._extreme(middle)
            high = torch.where(extreme, peak, high)
        # at the threshold at one end: the extremum, or else the other end, says where it goes from there
        left = torch.where(self.at_first, torch.where(extreme | self.at_last, high, self.last > 0), self.first > 0)
        right = torch.where(self.at_last, torch.where(extreme | self.at_first, high, self.first > 0), self.last > 0)
        (once,) = (left != right).nonzero(as_tuple=True)
        (twice,) = (extreme & (left == right) & (high != left)).nonzero(as_tuple=True)
        which = torch.cat([once, twice, twice])
        up = torch.cat([right[once], torch.ones_like(twice, dtype=torch.bool), torch.zeros_like(twice).bool()])
        return left, right, which, self._root(which, up, middle), up

    def _extreme(self, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Whether an arc has an extremum inside that is not at the threshold; and whether that is above it."""
        r, p, q = self.coefficients.unbind(1)
        amplitude, phase = torch.hypot(p, q), torch.atan2(q, p)
        top, bottom = _nearest(phase, middle), _nearest(phase + math.pi, middle)
        is_top, is_bottom = ((self.start < place) & (place < self.end) for place in (top, bottom))
        value = r + torch.where(is_top, amplitude, -amplitude) - self.threshold
        clear = value.abs() > AT * (self.coefficients.abs().sum(1) + abs(self.threshold))
        return (is_top | is_bottom) & clear, value > 0

    def _root(self, which: Tensor, up: Tensor, middle: Tensor) -> Tensor:
        """Where the values pass the threshold in this direction; in closed form, then one step of Newton's method."""
        coefficients, start, end = self.coefficients[which], self.start[which], self.end[which]
        if coefficients.shape[1] == 2:
            first, last = self.first[which], self.last[which]
            t = start + (end - start) * (first / (first - last))
            slope = coefficients[:, 1]
        else:
            r, p, q = coefficients.unbind(1)
            angle = torch.acos(((self.threshold - r) / torch.hypot(p, q)).clamp(-1, 1))
            t = _nearest(torch.atan2(q, p) + torch.where(up, -angle, angle), middle[which])
            t = torch.minimum(torch.maximum(t, start), end)
            slope = q * torch.cos(t) - p * torch.sin(t)
        step = (_at(coefficients, t) - self.threshold) / slope
        t = torch.where(step.abs() < end - start, t - step, t)
        return torch.minimum(torch.maximum(t, start), end)


def _nearest(angle: Tensor, to: Tensor) -> Tensor:
    """The angle, full turns apart, that is nearest to another."""
    return angle + 2 * math.pi * torch.round((to - angle) / (2 * math.pi))


def _basis(t: Float[Tensor, " m"], k: int) -> tuple[Tensor, ...]:
    """The functions beside the constant one."""
    return (t,) if k == 2 else (torch.cos(t), torch.sin(t))


def _at(coefficients: Float[Tensor, "m k"], t: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Each row's function at a place."""
    terms = zip(coefficients.unbind(1)[1:], _basis(t, coefficients.shape[1]), strict=True)
    return coefficients[:, 0] + sum((c * f for c, f in terms), torch.zeros_like(t))


def _combine(pre: Float[Tensor, "cells k n"], t: Float[Tensor, " cells"]) -> Float[Tensor, "cells n"]:
    """All of a cell's functions at its place."""
    result = pre[:, 0]
    for j, function in enumerate(_basis(t, pre.shape[1]), start=1):
        result = torch.addcmul(result, pre[:, j], function[:, None])
    return result
