"""Exact partition of a square in input space into the convex polygons on which a network is affine.

A value of the network on a polygon is c_0 + u c_1 + v c_2. Vertices are shared by the polygons around them, and each
pre-activation is evaluated once at each vertex, so that neighbors are cut at the same places: no slivers, no gaps.

Tolerance: a vertex counts as on a unit's line when the pre-activation there is within `TOLERANCE` of the threshold,
relative to the largest |c_0| + |c_1| + |c_2| among the layer's units on the polygon. Rounding in float64 is some
hundred times smaller, so a vertex that counts as on one side is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._typing import FloatArray, IntArray
from netopsy.engine.affine import Refined
from netopsy.engine.affine_kinks import Kinks
from netopsy.engine.mesh import Mesh, Square

TOLERANCE = 1e-12
SAME = 1e-9
"""Distance within which two edges' middles are one, where two parts of the square meet."""
ROWS, UNITS = 4096, 256
"""Polygons or vertices, and units, that are evaluated at a time."""


@dataclass(frozen=True)
class Boundaries:
    """Edges with their unit and the pieces on both sides; on a seam only the own side's piece is known.

    Attributes:
        ends: (n, 2, 2): both ends' (u, v).
        units: (n,).
        pieces: (n,): only for edges on seams.
    """

    layer: str
    ends: FloatArray
    units: IntArray
    pieces: IntArray


@dataclass
class Record:
    """What all parts of one square note down: boundaries inside, those on seams, and how many polygons there are."""

    layers: Collection[str]
    most: int
    inside: list[Boundaries] = field(default_factory=list)
    seams: list[Boundaries] = field(default_factory=list)
    polygons: int = 1


@dataclass
class PlanePartition:
    """A partition of a square for `AffineNetwork.run` (k = 3: 1, u, v).

    Attributes:
        mesh: the polygons; the cells' order is that of its faces.
        record: of boundaries, shared by all parts.
        parts: this one was cut into; then its own mesh is no longer up to date.
    """

    mesh: Mesh
    record: Record
    parts: list[PlanePartition] = field(default_factory=list)

    @classmethod
    def of(cls, square: Square, *, layers: Collection[str], most: int) -> PlanePartition:
        """The whole square; boundaries of `layers` are recorded, and more than `most` polygons refused."""
        return cls(Mesh.of(square), Record(layers, most))

    def refine(self, layer: str, pre: Float[Tensor, "cells k n"], kinks: Kinks, counted: bool) -> Refined:
        """Cut every polygon by the lines of all units; see `Partition`.

        Raises:
            NetopsyError: there are more polygons than `most`.
        """
        values, mesh = pre.numpy(), self.mesh
        parent = np.arange(mesh.faces)
        near = TOLERANCE * np.abs(values).sum(1).max(1)
        owner = np.zeros(len(mesh.points), np.int64)
        owner[mesh.ends] = mesh.sides[:, :1]
        for start in range(0, values.shape[2], UNITS):
            some = values[:, :, start : start + UNITS]
            at = evaluate(some, owner, mesh.points)
            close = near[owner]
            for threshold in kinks.thresholds:
                known = len(owner)
                low, high = at[:, :known] < threshold - close, at[:, :known] > threshold + close
                for unit in np.flatnonzero(low.any(1) & high.any(1)):
                    value = at[unit, : len(owner)] - threshold
                    edges, faces = mesh.cut(value, (value > close).astype(np.int8) - (value < -close))
                    parent = np.concatenate([parent, parent[faces]])
                    known, owner = len(owner), np.concatenate([owner, parent[mesh.sides[edges, 0]]])
                    if len(owner) > at.shape[1]:
                        at = np.concatenate([at, np.empty((len(at), len(owner)))], 1)
                    at[:, known : len(owner)] = evaluate(some, owner[known:], mesh.points[known:])
                    close = near[owner]
                    self._count(len(faces), layer)
        order = np.argsort(parent, kind="stable")
        mesh.renumber(order)
        parent = parent[order]
        pieces = np.zeros((len(parent), values.shape[2]), np.int8)
        centers = mesh.centers()
        for start in range(0, len(parent), ROWS):
            rows = slice(start, start + ROWS)
            at = evaluate(values, parent[rows], centers[rows]).T
            for threshold in kinks.thresholds:
                pieces[rows] += at > threshold + near[parent[rows], None]
        if counted and layer in self.record.layers:
            self._note(layer, values, kinks, pieces, parent, near)
        return Refined(torch.from_numpy(parent), torch.from_numpy(pieces))

    def part(self, cells: slice) -> PlanePartition:
        """Some polygons alone, with their shared record."""
        self.parts.append(PlanePartition(self.mesh.part(cells), self.record))
        return self.parts[-1]

    def leaves(self) -> Iterator[PlanePartition]:
        """The parts that were cut no further, in the order of the cells."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()

    def boundaries(self) -> list[Boundaries]:
        """Recorded edges on whose two sides a unit is on different pieces, each once."""
        return [*self.record.inside, *joined(self.record.seams)]

    def _count(self, new: int, layer: str) -> None:
        self.record.polygons += new
        if self.record.polygons > self.record.most:
            raise NetopsyError(
                f"limit: expected at most {self.record.most:,} polygons; at layer {layer} there are more; take a "
                "smaller square (a smaller triangle), a smaller network, or raise limit="
            )

    def _note(
        self, layer: str, values: FloatArray, kinks: Kinks, pieces: np.ndarray, parent: IntArray, near: FloatArray
    ) -> None:
        """Write down where pieces differ, and what is on a line along a seam."""
        mesh = self.mesh
        inner = np.flatnonzero(mesh.sides[:, 1] >= 0)
        edges, units = np.nonzero(pieces[mesh.sides[inner, 0]] != pieces[mesh.sides[inner, 1]])
        nothing = np.zeros(0, np.int64)
        self.record.inside.append(Boundaries(layer, mesh.points[mesh.ends[inner[edges]]], units, nothing))
        seams = np.flatnonzero(mesh.seams)
        face = mesh.sides[seams, 0]
        own = parent[face]
        first, second = (evaluate(values, own, mesh.points[mesh.ends[seams, end]]).T for end in (0, 1))
        on_line = np.zeros(first.shape, bool)
        for threshold in kinks.thresholds:
            on_line |= np.maximum(abs(first - threshold), abs(second - threshold)) <= near[own, None]
        edges, units = np.nonzero(on_line)
        self.record.seams.append(
            Boundaries(
                layer, mesh.points[mesh.ends[seams[edges]]], units, pieces[face[edges], units].astype(np.int64)
            )
        )


def evaluate(values: FloatArray, cells: IntArray, points: FloatArray) -> FloatArray:
    """Each unit's value (n, points) at points (u, v) of these cells; `values` are coefficients (cells, 3, n)."""
    found = np.empty((values.shape[2], len(points)))
    for start in range(0, len(points), ROWS):
        rows = slice(start, start + ROWS)
        own, place = values[cells[rows]], points[rows]
        found[:, rows] = (own[:, 0] + place[:, :1] * own[:, 1] + place[:, 1:] * own[:, 2]).T
    return found


def joined(seams: list[Boundaries]) -> list[Boundaries]:
    """Edges on a seam where the pieces on both sides differ; each side noted its own."""
    found = []
    for layer in dict.fromkeys(part.layer for part in seams):
        own = [part for part in seams if part.layer == layer]
        ends, units, pieces = (
            np.concatenate([getattr(p, name) for p in own]) for name in ("ends", "units", "pieces")
        )
        if len(units):
            places = np.column_stack([ends.mean(1), units])
            pairs = cKDTree(places).query_pairs(SAME, output_type="ndarray")
            pairs = pairs[pieces[pairs[:, 0]] != pieces[pairs[:, 1]]]
            found.append(Boundaries(layer, ends[pairs[:, 0]], units[pairs[:, 0]], np.zeros(0, np.int64)))
    return found


def cut_classes(mesh: Mesh, logits: FloatArray) -> tuple[IntArray, IntArray]:
    """Cut each polygon where the largest logit changes; for each new one the polygon it was, and its class.

    Args:
        mesh: changed in place.
        logits: coefficients (polygons, 3, classes).
    """
    parent = np.arange(mesh.faces)
    near = TOLERANCE * np.abs(logits).sum(1).max(1)
    owner = np.zeros(len(mesh.points), np.int64)
    owner[mesh.ends] = mesh.sides[:, :1]
    at = evaluate(logits, owner, mesh.points)
    for k in range(1, logits.shape[2]):
        value = at[k] - at[:k].max(0)  # affine on each polygon, as those before it are cut already
        edges, faces = mesh.cut(value, (value > near[owner]).astype(np.int8) - (value < -near[owner]))
        parent = np.concatenate([parent, parent[faces]])
        new = parent[mesh.sides[edges, 0]]
        at = np.concatenate([at, evaluate(logits, new, mesh.points[len(owner) :])], 1)
        owner = np.concatenate([owner, new])
    classes = evaluate(logits, parent, mesh.centers()).argmax(0)
    found, label = np.unique(np.stack([parent, classes]), axis=1, return_inverse=True)
    mesh.merge(label.ravel())  # a line that a later class outdoes is no boundary
    return found[0], found[1]
