"""A square cut into convex polygons by lines: vertices, edges, and the faces on both sides of each edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from netopsy._typing import BoolArray, FloatArray, IntArray

Signs = npt.NDArray[np.int8]

Square = tuple[float, float, float, float]
"""Least u and v, largest u and v."""


@dataclass
class Mesh:
    """Convex polygons that tile a square. Neighbors share their edges and vertices: they cannot disagree.

    Attributes:
        points: of each vertex (u, v).
        ends: of each edge its two vertices.
        sides: of each edge the faces on its two sides; the second is -1 outside the square.
        seams: which edges have a face of another part of the square on their other side.
        faces: how many there are.
    """

    points: FloatArray
    ends: IntArray
    sides: IntArray
    seams: BoolArray
    faces: int

    @classmethod
    def of(cls, square: Square) -> Mesh:
        """One face: the square."""
        u0, v0, u1, v1 = square
        return cls(
            points=np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], np.float64),
            ends=np.array([(0, 1), (1, 2), (2, 3), (3, 0)]),
            sides=np.array([(0, -1)] * 4),
            seams=np.zeros(4, bool),
            faces=1,
        )

    def part(self, faces: slice) -> Mesh:
        """Some faces alone, in their order."""
        label = np.full(self.faces + 1, -1)
        label[faces] = np.arange(faces.stop - faces.start)
        sides = label[self.sides]
        own = np.flatnonzero((sides >= 0).any(1))
        seams = self.seams[own] | ((sides[own] < 0) & (self.sides[own] >= 0)).any(1)
        sides = np.where(sides[own, :1] < 0, sides[own, ::-1], sides[own])
        used, ends = np.unique(self.ends[own], return_inverse=True)
        return Mesh(self.points[used], ends.reshape(-1, 2), sides, seams, faces.stop - faces.start)

    def renumber(self, order: IntArray) -> None:
        """Give the faces new numbers: `order[i]` becomes face i."""
        label = np.full(self.faces + 1, -1)
        label[order] = np.arange(self.faces)
        self.sides = label[self.sides]

    def merge(self, label: IntArray) -> None:
        """Join the faces that have one label, 0 to the number of labels; they become face `label`."""
        label = np.append(label, -1)
        sides = label[self.sides]
        kept = sides[:, 0] != sides[:, 1]
        self.ends, self.sides, self.seams = self.ends[kept], sides[kept], self.seams[kept]
        self.faces = int(label.max()) + 1

    def cut(self, value: FloatArray, sign: Signs) -> tuple[IntArray, IntArray]:
        """Cut every face along the line where an affine function is zero.

        Args:
            value: the function at each vertex.
            sign: -1, 0 or 1 at each vertex, 0 for one that counts as on the line.

        Returns:
            The edges that were cut, in the order of the vertices that this appended; and the faces that were cut, in
            the order of the faces that it appended. Those are the parts where the function is negative.
        """
        first, second = self.ends.T
        crossed = np.flatnonzero(sign[first] * sign[second] < 0)
        sign = self._split_edges(crossed, value, sign)
        first, second = sign[self.ends.T]
        side = np.where(first != 0, first, second)
        above, below = np.zeros((2, self.faces + 1), bool)  # the last one is the outside
        above[self.sides[side > 0]] = True
        below[self.sides[side < 0]] = True
        both = above & below
        both[-1] = False
        low = np.flatnonzero((side < 0) & both[self.sides].any(1))
        cut, chords = self._chords(low, sign, both)
        label = np.arange(self.faces + 1)
        label[-1] = -1
        label[cut] = self.faces + np.arange(len(cut))
        self.sides[low] = label[self.sides[low]]
        self.ends = np.concatenate([self.ends, chords])
        self.sides = np.concatenate([self.sides, np.stack([cut, label[cut]], 1)])
        self.seams = np.concatenate([self.seams, np.zeros(len(cut), bool)])
        self.faces += len(cut)
        return crossed, cut

    def _split_edges(self, crossed: IntArray, value: FloatArray, sign: Signs) -> Signs:
        """Put a vertex on each of these edges where the function is zero; the signs of all vertices."""
        if not len(crossed):
            return sign
        first, second = self.ends[crossed].T
        part = (value[first] / (value[first] - value[second]))[:, None]
        middle = len(self.points) + np.arange(len(crossed))
        self.points = np.concatenate([self.points, (1 - part) * self.points[first] + part * self.points[second]])
        self.ends[crossed, 1] = middle
        self.ends = np.concatenate([self.ends, np.stack([middle, second], 1)])
        self.sides = np.concatenate([self.sides, self.sides[crossed]])
        self.seams = np.concatenate([self.seams, self.seams[crossed]])
        return np.concatenate([sign, np.zeros(len(crossed), sign.dtype)])

    def _chords(self, low: IntArray, sign: Signs, both: BoolArray) -> tuple[IntArray, IntArray]:
        """Faces to cut, and for each the two vertices to join: the ends of its chain of negative edges.

        A vertex on the line within the chain belongs to two of its edges, an end to one. A face whose chain is not
        in one piece (it is as small as rounding) stays whole.
        """
        face, vertex = self._incident(low)
        on_line = both[face] & (sign[vertex] == 0)
        found, times = np.unique(face[on_line] * len(sign) + vertex[on_line], return_counts=True)
        face, vertex = np.divmod(found[times == 1], len(sign))
        faces, start, count = np.unique(face, return_index=True, return_counts=True)
        start = start[count == 2]
        return faces[count == 2], np.stack([vertex[start], vertex[start + 1]], 1)

    def centers(self) -> FloatArray:
        """The mean of each face's vertices (u, v)."""
        inner = self.sides[:, 1] >= 0
        face = np.concatenate([self.sides[:, 0], self.sides[inner, 1]])
        middle = self.points[self.ends].mean(1)  # each vertex is in two edges of a face
        middle = np.concatenate([middle, middle[inner]])
        total = [np.bincount(face, middle[:, axis], self.faces) for axis in (0, 1)]
        return np.stack(total, 1) / np.bincount(face, minlength=self.faces)[:, None]

    def areas(self) -> FloatArray:
        """Of each face."""
        face, vertex = self.corners()
        start = np.searchsorted(face, np.arange(self.faces))
        after = np.arange(1, len(face) + 1)
        after[np.append(start[1:], len(face)) - 1] = start
        spoke = self.points[vertex] - self.centers()[face]
        (u, v), (next_u, next_v) = spoke.T, spoke[after].T
        return np.add.reduceat(u * next_v - v * next_u, start) / 2

    def corners(self) -> tuple[IntArray, IntArray]:
        """Pairs of a face and a vertex of it, each once, ordered by face, then around it counterclockwise."""
        face, vertex = self._incident(np.arange(len(self.ends)))
        found = np.unique((face * len(self.points) + vertex)[face >= 0])
        face, vertex = np.divmod(found, len(self.points))
        u, v = (self.points[vertex] - self.centers()[face]).T
        order = np.lexsort((np.arctan2(v, u), face))
        return face[order], vertex[order]

    def _incident(self, edges: IntArray) -> tuple[IntArray, IntArray]:
        """Faces and vertices of these edges, each with each."""
        return np.repeat(self.sides[edges], 2, axis=1).ravel(), np.tile(self.ends[edges], (1, 2)).ravel()
