"""Where a pre-activation passes a threshold within a cell of a curve, in closed form, for many at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

AT = 2.0**-40
"""Relative to the sum of a value's terms: closer than this is at the threshold."""


@dataclass(frozen=True, eq=False)
class Doubtful:
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


def combine(pre: Float[Tensor, "cells k n"], t: Float[Tensor, " cells"]) -> Float[Tensor, "cells n"]:
    """All of a cell's functions at its place."""
    result = pre[:, 0]
    for j, function in enumerate(_basis(t, pre.shape[1]), start=1):
        result = torch.addcmul(result, pre[:, j], function[:, None])
    return result
