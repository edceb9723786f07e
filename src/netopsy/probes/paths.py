"""Paths through input space: segments, polygons, ellipses.

Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein: Sensitivity and Generalization in Neural Networks (ICLR 2018), §3,
§4.1 and A.5.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import generator
from netopsy.engine.curves import Curve
from netopsy.probes.plane import ANGLES

ANCHORS = tuple(angle / (2 * math.pi) for angle in ANGLES)
"""Where `ellipse_through` meets its points: angles of π/3, π and 5π/3, in turns."""

ARCS = 4
"""An ellipse is worked on in so many arcs."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Path:
    """A path of t in [0, 1]: equal shares of t for each segment, or the angle of an ellipse in turns.

    Attributes:
        coefficients: in float64. k = 2: segments a + t b. k = 3: one ellipse, center + cos b + sin c.
        closed: whether it ends where it starts.
    """

    coefficients: Float[Tensor, "pieces k *shape"]
    closed: bool

    @property
    def pieces(self) -> int:
        """Segments, or one ellipse."""
        return len(self.coefficients)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input."""
        return tuple(self.coefficients.shape[2:])

    def at(self, t: Float[Tensor, " n"] | Sequence[float]) -> Float[Tensor, " n *shape"]:
        """Points in float64.

        Args:
            t: in [0, 1].
        """
        t = torch.as_tensor(t, dtype=torch.float64)
        if not ((t >= 0) & (t <= 1)).all():
            raise NetopsyError(f"t: expected numbers in [0, 1]; got {t.min().item():g} to {t.max().item():g}")
        sizes = (-1, *[1] * len(self.shape))
        if self.coefficients.shape[1] == 3:
            center, u, v = self.coefficients[0]
            angle = (2 * math.pi * t).view(sizes)
            points: Tensor = center + torch.cos(angle) * u + torch.sin(angle) * v
            return points
        piece = (t * self.pieces).long().clamp(max=self.pieces - 1)
        start, way = self.coefficients[piece].unbind(1)
        return start + (t * self.pieces - piece).view(sizes) * way

    def curve(self) -> Curve:
        """As the engine takes it; its parameter is t times `turns`."""
        if self.coefficients.shape[1] == 3:
            ends = 2 * math.pi / ARCS * torch.arange(ARCS + 1, dtype=torch.float64)
            coefficients = self.coefficients.expand(ARCS, *self.coefficients.shape[1:])
            return Curve(coefficients, ends[:-1], ends[1:], torch.zeros(ARCS, dtype=torch.float64), self.closed)
        starts = torch.zeros(self.pieces, dtype=torch.float64)
        offsets = torch.arange(self.pieces, dtype=torch.float64)
        return Curve(self.coefficients, starts, starts + 1, offsets, self.closed)

    @property
    def turns(self) -> float:
        """The engine's parameter at t = 1."""
        return 2 * math.pi if self.coefficients.shape[1] == 3 else float(self.pieces)


def segment(a: Tensor, b: Tensor) -> Path:
    """The straight way from `a` to `b`, open.

    >>> segment(torch.zeros(2), torch.ones(2)).at([0.25])
    tensor([[0.2500, 0.2500]], dtype=torch.float64)
    """
    return polygon([a, b], closed=False)


def polygon(points: Tensor | Sequence[Tensor], *, closed: bool = True) -> Path:
    """Straight ways from each point to the next, and from the last to the first if it is closed.

    Args:
        points: two or more, of one shape.
        closed: whether it returns.
    """
    corners = _points(points)
    if len(corners) < 2:
        raise NetopsyError(f"points: expected two or more; got {len(corners)}")
    ways = corners.roll(-1, 0) - corners
    pieces = torch.stack([corners, ways], 1)
    return Path(coefficients=pieces if closed else pieces[:-1], closed=closed)


def ellipse_through(a: Tensor, b: Tensor, c: Tensor) -> Path:
    """The ellipse through three points with its center in their mean (Figure 2; A.5.2).

    In the plane where the points are an equilateral triangle it is their circumcircle. It meets them at the angles
    π/3, π and 5π/3 (`ANCHORS`). Its other points are not normalized again, as the three may have been.
    """
    points = _points([a, b, c])
    center = points.mean(0)
    return Path(
        coefficients=torch.stack([center, center - points[1], (points[0] - points[2]) / math.sqrt(3)])[None],
        closed=True,
    )


def random_ellipse(shape: Sequence[int], seed: int = 0) -> Path:
    """An ellipse around 0 whose two axis vectors have N(0, 1) entries (A.5.2)."""
    axes = torch.randn(2, *shape, generator=generator(seed), dtype=torch.float64)
    return Path(coefficients=torch.cat([torch.zeros_like(axes[:1]), axes])[None], closed=True)


def translations(image: Tensor) -> Path:
    """The closed polygon through all horizontal shifts of an image, with wrap-around (§3, Figure App.7).

    Args:
        image: (..., height, width).
    """
    if image.ndim < 2:
        raise NetopsyError(f"image: expected (..., height, width); got shape {tuple(image.shape)}")
    return polygon([image.roll(shift, -1) for shift in range(image.shape[-1])])


def _points(points: Tensor | Sequence[Tensor]) -> Float[Tensor, " n *shape"]:
    """Points as one tensor in float64; refuses different shapes and values that are not finite."""
    shapes = {tuple(point.shape) for point in points}
    if len(shapes) > 1:
        raise NetopsyError(f"points: expected one shape; got {sorted(shapes)}")
    stacked = torch.stack([point.detach().double() for point in points])
    if not stacked.isfinite().all():
        raise NetopsyError("points: expected finite values; got some that are not")
    return stacked
