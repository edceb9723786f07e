"""The cells along a curve: where units pass a threshold in them, and how they are cut there.

Along the curve a pre-activation is f(t) = r + p t or r + p cos t + q sin t as long as no earlier unit passes a kink,
and the roots of f - threshold have closed forms. Three rules make the count sound in floating point:

- at a breakpoint between two cells a pre-activation is computed once, from the cell after it;
- there a value within `AT` of the threshold (relative to the sum of its terms) is on neither side: what counts is on
  which sides the cells before and after it are. A unit that comes from 0 and goes up passes once; one that touches
  its threshold and turns back does not pass at all;
- one that stays at its threshold is on the piece below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from netopsy.engine.affine import Refined
from netopsy.engine.affine_kinks import Kinks
from netopsy.engine.curve_roots import AT, Doubtful, combine

TOGETHER = 2.0**-44
"""Kinks as close as this along the path have no cell between them, in units of its parameter."""


@dataclass(eq=False)
class Record:
    """What is found on the way, and what one stretch tells the next; `first` is for the end of a closed curve.

    Attributes:
        layers: their numbers.
        offsets: what makes the parameter of each of the curve's pieces the curve's own.
        seam: where a closed curve starts and ends; None for one that does not return.
    """

    layers: Mapping[str, int]
    offsets: Float[Tensor, " pieces"]
    seam: Float[Tensor, ""] | None
    found: list[tuple[Tensor, ...]] = field(default_factory=list)
    first: dict[tuple[int, float], _End] = field(default_factory=dict)
    last: dict[tuple[int, float], _End] = field(default_factory=dict)

    def add(self, layer: str, t: Tensor, unit: Tensor, threshold: int, up: Tensor) -> None:
        """Crossings of one threshold."""
        up = up.to(torch.int8)
        self.found.append((t, torch.full_like(unit, self.layers[layer]), unit, threshold + 1 - up, threshold + up))

    def columns(self) -> list[Tensor]:
        """Those of `Crossings`."""
        empty = [torch.zeros(0, dtype=kind) for kind in (torch.float64, torch.int64, torch.int64)]
        none = (*empty, *[torch.zeros(0, dtype=torch.int8)] * 2)
        columns = [torch.cat(column) for column in zip(none, *self.found, strict=True)]
        for key in (2, 1, 0):  # by place, then layer, then unit
            order = torch.argsort(columns[key], stable=True)
            columns = [column[order] for column in columns]
        return columns


@dataclass(frozen=True, eq=False)
class _End:
    """A layer at an end of a stretch: distance from the threshold, its scale, and whether it is above just inside."""

    distance: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    above: Bool[Tensor, " n"]


@dataclass(eq=False)
class CurveCells:
    """Cells along a curve, in order: their pieces, and where they start and end in the pieces' parameters."""

    record: Record
    piece: Tensor
    start: Tensor
    end: Tensor
    first: bool
    last: bool
    level: int = 0
    parts: list[CurveCells] = field(default_factory=list)

    def stretches(self) -> Iterator[CurveCells]:
        """The parts that were not divided further."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.stretches()

    def part(self, cells: slice) -> CurveCells:
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
        values = combine(pre, self.start)
        final = combine(pre[-1:], self.end[-1:])
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
        if self.last and record.seam is not None:
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
        one = Doubtful(
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

        offsets = record.offsets[self.piece]
        record.add(layer, offsets[cell] + t, unit, number, up)
        last, turned = (right[:-1] != left[1:]).nonzero(as_tuple=True)
        record.add(layer, (offsets + self.start)[last + 1], turned, number, left[last + 1, turned])
        if self.first:
            record.first[key] = _End(distance[0], scale[0], left[0])
        else:
            self._joined(layer, number, record.last[key].above, left[0], (offsets + self.start)[0])
        if self.last and record.seam is not None:
            self._joined(layer, number, right[-1], record.first[key].above, record.seam)
        record.last[key] = _End(distance[-1], scale[-1], right[-1])
        return left, right, (cell, unit, t, up)

    def _joined(self, layer: str, number: int, before: Tensor, after: Tensor, where: Tensor) -> None:
        """Crossings between two stretches."""
        (unit,) = (before != after).nonzero(as_tuple=True)
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
