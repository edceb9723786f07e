"""Search of a module's least alpha / sigma at which the error stays within epsilon.

For each alpha there is a largest feasible sigma, and mu is least where the ratio of the two is largest.

- An alpha is worth a root-finding in sigma only if it is feasible at sigma = alpha r with the best ratio r so far.
- The ratio's maximum over alpha is flat: few examples tell its place; its height needs many. So alpha is sought on a
  subsample, which grows until sigma's interval (from the slope of the error) is a few tolerances wide; the last steps
  in sigma, for which the slope is known, are made on all examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from netopsy._random import derive
from netopsy.probes.crossing import WIDTH, Curve, Estimate, Root, Z, crossing, finish

ALPHAS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.32, 0.25, 0.2, 0.15, 0.11, 0.08, 0.05, 0.03, 0.015, 0.005)
"""Where the search over alpha begins; it goes on between them, and below the last."""

FEW = 1024
"""Examples it begins with."""

SURE = 4.0
"""Standard errors by which a subsample decides what all examples would."""

COARSE = 6.0
"""Tolerances that the interval on the subsample may be wide on either side; all examples do the rest."""

STEP = 0.16
"""First step in log alpha between the alphas of the grid."""

SMALLEST = 1e-4
"""Sigma from which on noise is noise, in units of the module's size."""


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        status: `"feasible"`, `"alpha-zero"` or `"infeasible"`.
        alpha: of the best point; NaN where none is feasible.
        sigma: its sigma, feasible on all examples.
        slope: of the error in log sigma there; NaN where it was not needed.
        examples: of the subsample on which alpha was chosen.
    """

    status: Literal["feasible", "alpha-zero", "infeasible"]
    alpha: float = math.nan
    sigma: float = math.nan
    slope: float = math.nan
    examples: int = 0


@dataclass(frozen=True, eq=False)
class Landscape:
    """Errors over alpha and sigma, each measured once: several epsilon share them.

    Attributes:
        measure: (alpha, sigma, examples) -> the error on the first of them.
        total: examples there are.
        size: of the module's values: the scale of sigma.
        first: examples to begin with.
        grain: the least change of the error on all examples.
    """

    measure: Callable[[float, float, int], Estimate]
    total: int
    size: float
    first: int = FEW
    grain: float = 0.0
    curves: dict[float, Curve] = field(default_factory=dict, repr=False)

    @property
    def bottom(self) -> float:
        """Log of the smallest sigma that is tried."""
        return math.log(min(1.0, SMALLEST * self.size))

    @property
    def guess(self) -> float:
        """Log sigma to begin with where nothing is known."""
        return math.log(min(1.0, 0.3 * self.size))

    def along(self, alpha: float) -> Curve:
        """The errors of one alpha."""
        if alpha not in self.curves:

            def measure(sigma: float, n: int) -> Estimate:
                return self.measure(alpha, sigma, n)

            self.curves[alpha] = Curve(measure, self.total, self.bottom, self.grain)
        return self.curves[alpha]

    @property
    def tests(self) -> int:
        """Points that were measured."""
        return sum(curve.tests for curve in self.curves.values())


def search(land: Landscape, epsilon: float, *, tolerance: float, seed: int, before: Found | None = None) -> Found:
    """The feasible point with the least alpha / sigma.

    Args:
        land: the errors.
        epsilon: the error allowed.
        tolerance: relative, of alpha² / sigma².
        seed: of the order in which alphas are tried.
        before: what was found at a smaller epsilon: alphas are then tried in the order that its points promise.
    """
    at_zero = _zero(land, epsilon)
    if at_zero is not None:
        return at_zero
    n = min(land.first, land.total)
    order = np.random.default_rng(derive(seed, "alphas")).permutation(len(ALPHAS))
    alphas = [ALPHAS[i] for i in order]
    if before is not None and before.slope > 0:
        alphas = sorted({*alphas, before.alpha}, key=lambda alpha: -_promise(land, alpha, epsilon, n, before.slope))
    ascent = _Ascent(land, epsilon, tolerance)
    while not ascent.start(alphas, n):
        if n == land.total or not _maybe(land, alphas, epsilon, n):
            return Found("infeasible", examples=n)
        n = min(4 * n, land.total)
    best = ascent.climb(STEP if ascent.best > min(ALPHAS) else math.log(2))
    wanted = COARSE * tolerance
    while n < land.total and ascent.roots[best].half > wanted:
        needed = _needed(land, ascent.roots[best], n, wanted)
        n = land.total if 2 * needed > land.total else max(2 * n, needed)
        if not ascent.again(n):  # what few examples allowed, more do not
            n = land.total
            if not ascent.start(alphas, n):
                return Found("infeasible", examples=n)
        best = ascent.climb(2 * ascent.accuracy)
    x = finish(land.along(best), ascent.roots[best], epsilon, tolerance)
    if x is None:
        return Found("infeasible", examples=n)
    return Found("feasible", best, math.exp(x), ascent.roots[best].slope, n)


def largest_sigma(land: Landscape, epsilon: float, *, tolerance: float) -> float:
    """The largest sigma that is allowed at alpha = 1 on all examples; NaN where the smallest is not."""
    curve, n = land.along(1.0), min(land.first, land.total)
    found = crossing(curve, epsilon, n, land.guess)
    x = finish(curve, found or Root(land.bottom, 0.1, 0.0), epsilon, tolerance)
    return math.nan if x is None else math.exp(x)


@dataclass
class _Ascent:
    """The way to the alpha of the largest sigma / alpha, on one subsample after the other.

    Attributes:
        roots: of the alphas that were the best when they were tried, on the present subsample.
    """

    land: Landscape
    epsilon: float
    tolerance: float
    n: int = 0
    roots: dict[float, Root] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Of log alpha; the ratio is flat around its maximum."""
        return max(0.02, min(0.1, math.sqrt(self.tolerance) / 3))

    @property
    def best(self) -> float:
        return max(self.roots, key=self.ratio)

    def ratio(self, alpha: float) -> float:
        """Log of sigma / alpha."""
        return self.roots[alpha].log_sigma - math.log(alpha)

    def start(self, alphas: Sequence[float], n: int) -> bool:
        """Try alphas; whether one is feasible."""
        self.n, self.roots = n, {}
        for alpha in alphas:
            self.attempt(alpha, self.land.guess)
        return bool(self.roots)

    def again(self, n: int) -> bool:
        """Try those that may be the best on more examples; whether one is feasible."""
        old, least = self.roots, self.ratio(self.best) - self.roots[self.best].half
        rivals = sorted((a for a in old if self.ratio(a) > least), key=self.ratio, reverse=True)
        self.n, self.roots = n, {}
        for alpha in rivals:
            self.attempt(alpha, old[alpha].log_sigma)
        return bool(self.roots)

    def climb(self, step: float) -> float:
        """From the best alpha to its neighbors as long as they are better, then in smaller steps."""
        top = self.best
        while step >= self.accuracy:
            top = self.best
            for alpha in (min(1.0, top * math.exp(step)), top * math.exp(-step)):
                if alpha > 1e-6:
                    self.attempt(alpha, 0.0)
            if self.best == top:
                step /= 2
        for place in (1, 2, 3):  # few examples and draws make it rough
            for alpha in (top * math.exp(place * self.accuracy), top * math.exp(-place * self.accuracy)):
                if 1e-6 < alpha <= 1:
                    self.attempt(alpha, 0.0)
        return self.best

    def attempt(self, alpha: float, guess: float) -> None:
        """Find the root of an alpha that is better than all others, by more than counts; no more than see that of one
        that is not."""
        if alpha in self.roots:
            return
        curve = self.land.along(alpha)
        if self.roots:
            guess = self.ratio(self.best) + math.log(alpha) + self.tolerance / 8
            if guess >= 0 or not curve.passes(guess, self.epsilon, self.n):
                return
        found = crossing(curve, self.epsilon, self.n, guess)
        if found is not None:
            self.roots[alpha] = found


def _zero(land: Landscape, epsilon: float) -> Found | None:
    """alpha = 0, if it is feasible at any sigma: a few hundred examples tell, unless it is close."""
    curve, n = land.along(0.0), min(land.first, land.total)
    while True:
        tiny = curve.at(curve.bottom, n)
        if abs(tiny.error - epsilon) > SURE * tiny.spread or n >= land.total:
            break
        n = min(4 * n, land.total)
    if tiny.error > epsilon:
        return None
    found = crossing(curve, epsilon, n, land.guess)
    x = curve.bottom if found is None else found.log_sigma
    back = 0.0 if found is None else max(found.half, WIDTH) * (x < 0 and n < land.total)
    while True:
        x = max(curve.bottom, x - back)
        if curve.at(x, land.total).error <= epsilon:
            return Found("alpha-zero", 0.0, math.exp(x), examples=n)
        if x <= curve.bottom:
            return None
        back = max(2 * back, WIDTH)


def _promise(land: Landscape, alpha: float, epsilon: float, n: int, slope: float) -> float:
    """Log of sigma / alpha at epsilon, from the point nearest to it and the slope of the error in log sigma."""
    points = land.along(alpha).points(n)
    if not points:
        return -math.inf
    x, error = min(points, key=lambda point: abs(point[1] - epsilon))
    return x + (epsilon - error) / slope - math.log(alpha)


def _maybe(land: Landscape, alphas: Sequence[float], epsilon: float, n: int) -> bool:
    """Whether more examples might find a feasible alpha."""
    points = (land.along(alpha).at(land.bottom, n) for alpha in alphas)
    return any(point.error - SURE * point.spread <= epsilon for point in points)


def _needed(land: Landscape, found: Root, n: int, wanted: float) -> int:
    """Examples for an interval of sigma that is narrow enough."""
    spread = found.half * found.slope / (2 * Z)
    variance = spread**2 / (1 / n - 1 / land.total)
    return math.ceil(1.1 / ((wanted * found.slope / (2 * Z)) ** 2 / variance + 1 / land.total))
