"""Planes in input space, on which slices of a network are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError

ANGLES = (math.pi / 3, math.pi, 5 * math.pi / 3)
"""Of the three points, as on the ellipse through them."""

DISTANCE = 0.8
"""Of the three points from the center; the slice is the square [-1, 1]²."""

FLAT = 1e-9
"""A triangle whose height is below this part of its longest side is a line."""


@dataclass(frozen=True, eq=False)
class Plane:
    """The inputs center + u·across + v·up, in float64.

    Attributes:
        center: the input at (0, 0).
        across: what one step of u adds.
        up: what one step of v adds.
        anchors: points (u, v) to mark, such as training examples.
    """

    center: Float[Tensor, "*shape"] = field(repr=False)
    across: Float[Tensor, "*shape"] = field(repr=False)
    up: Float[Tensor, "*shape"] = field(repr=False)
    anchors: Float[Tensor, "m 2"]

    def at(self, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n ..."]:
        """The inputs at points (u, v), in float64.

        >>> corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
        >>> plane = plane_through(*corners)
        >>> plane.at(plane.anchors).round(decimals=6) + 0.0
        tensor([[0., 0.],
                [4., 0.],
                [0., 4.]], dtype=torch.float64)
        """
        u, v = uv.to(self.center).T.reshape(2, -1, *[1] * self.center.ndim)
        inputs: Tensor = self.center + u * self.across + v * self.up
        return inputs


def plane_through(a: Tensor, b: Tensor, c: Tensor) -> Plane:
    """The plane of three inputs, laid so that they form an equilateral triangle around (0, 0).

    Its corners are at distance 0.8, at the angles π/3, π and 5π/3 (Novak et al. 2018, A.5.2 and A.5.3). The map is
    affine; lengths and angles in the plane are not those in input space, unless the inputs are equally far apart.

    Args:
        a: an input, without an axis for the examples.
        b: another, of the same shape.
        c: a third.

    Raises:
        NetopsyError: inputs of different shapes, that are not finite, not floating point, or on one line.
    """
    if not a.shape == b.shape == c.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (a, b, c))
        raise NetopsyError(f"a, b, c: expected three inputs of one shape; got {shapes}; give one example each")
    for name, value in (("a", a), ("b", b), ("c", c)):
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            what = "NaN or infinity" if value.is_floating_point() else str(value.dtype)
            raise NetopsyError(
                f"{name}: expected finite floating-point values; got {what}; give an input of the model"
            )
    points = torch.stack([a, b, c]).detach().cpu().double()
    angles = torch.tensor(ANGLES, dtype=torch.float64)
    anchors = DISTANCE * torch.stack([angles.cos(), angles.sin()], 1)
    center = points.mean(0)
    # The rows of the anchors are orthogonal: their squares sum to 3/2 · 0.8² along each axis.
    across, up = torch.tensordot(anchors.T, points - center, 1) / (1.5 * DISTANCE**2)
    sides = torch.linalg.svdvals(torch.stack([across, up]).flatten(1))
    if not sides[1] > FLAT * sides[0]:
        raise NetopsyError("a, b, c: expected three points of a triangle; they lie on one line; choose other inputs")
    return Plane(center, across, up, anchors)
