"""Search of a module's least alpha / sigma at which the error stays within epsilon.

For each alpha there is a largest feasible sigma, and mu is least where the ratio of the two is largest.

- An alpha is worth a root-finding in sigma only if it is feasible at sigma = alpha r with the best ratio r so far.
- The ratio's maximum over alpha is flat: few examples tell its place; its height needs many. So alpha is sought on a
  subsample. The best point is then measured on all examples and made the subsample's anchor (`crossing.Sample`); if
  sigma's interval is still wider than a few tolerances, the subsample grows. The last steps in sigma, for which the
  slope is known, are made on all examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from netopsy._random import derive
from netopsy.probes.crossing import Curve, Estimate, Root, Sample, Z, crossing, finish

ALPHAS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.32, 0.25, 0.2, 0.15, 0.11, 0.08, 0.05, 0.03, 0.015, 0.005)
"""Where the search over alpha begins; it goes on between them, and below the last."""

FEW = 1024
"""Examples it begins with."""

SURE = 4.0
"""Standard errors by which a subsample decides what all examples would."""

COARSE = 6.0
"""Tolerances that the interval on the subsample may be wide on either side; all examples do the rest."""

ANCHORS = 3
"""Points of one search that are measured on all examples for the subsample's sake, at most."""

ENOUGH = 8192
"""Examples by which the last choice of alpha is made: between neighbors few of them tell less than their noise."""

BACK = math.log(3)
"""Step in log sigma from one sigma to the next where alpha = 0 is allowed."""

APART, PLACES = 0.2, 2
"""Distance in log alpha of the places of a parabola, and how many there are on either side of its middle."""

SHIFTS = 4
"""Parabolas around one place after the other, until the top of one is in its middle."""

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
        measure: (alpha, sigma, sample) -> the error.
        total: examples there are.
        size: of the module's values: the scale of sigma.
        first: examples to begin with.
        grain: the least change of the error on all examples.
    """

    measure: Callable[[float, float, Sample], Estimate]
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
    def few(self) -> Sample:
        """What a search begins with."""
        return Sample(min(self.first, self.total))

    @property
    def guess(self) -> float:
        """Log sigma to begin with where nothing is known."""
        return math.log(min(1.0, 0.3 * self.size))

    def along(self, alpha: float) -> Curve:
        """The errors of one alpha."""
        if alpha not in self.curves:

            def measure(sigma: float, sample: Sample) -> Estimate:
                return self.measure(alpha, sigma, sample)

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
    sample = land.few
    order = np.random.default_rng(derive(seed, "alphas")).permutation(len(ALPHAS))
    alphas = [ALPHAS[i] for i in order]
    if before is not None and before.slope > 0:
        alphas = sorted({*alphas, before.alpha}, key=lambda a: -_promise(land, a, epsilon, sample, before.slope))
    ascent = _Ascent(land, epsilon, tolerance)
    while not ascent.start(alphas, sample):
        if sample.size == land.total or not _maybe(land, alphas, epsilon, sample):
            return _end(land, epsilon, tolerance, sample.size)
        sample = Sample(min(4 * sample.size, land.total))
    best = ascent.climb(STEP if ascent.best > min(ALPHAS) else math.log(2))
    found, size = ascent.roots[best], sample.size
    if size < land.total:
        narrowed = _narrowed(ascent, best)
        if narrowed is None:  # what few examples allowed, more do not
            if not ascent.start(alphas, Sample(land.total)):
                return _end(land, epsilon, tolerance, land.total)
            best = ascent.climb(2 * ascent.accuracy)
            narrowed = best, ascent.roots[best]
        (best, found), size = narrowed, ascent.sample.size
    others = sorted(ascent.roots, key=ascent.ratio, reverse=True)
    for alpha, root in ((best, found), *((alpha, ascent.roots[alpha]) for alpha in others)):
        x = finish(land.along(alpha), root, epsilon, tolerance)
        if x is not None:
            return Found("feasible", alpha, math.exp(x), root.slope, size)
    return _end(land, epsilon, tolerance, size)


def _end(land: Landscape, epsilon: float, tolerance: float, size: int) -> Found:
    """alpha = 1, where the trained network's own error decides whether anything is feasible."""
    curve, everything = land.along(1.0), Sample(land.total)
    root = crossing(curve, epsilon, everything, land.guess)
    x = None if root is None else finish(curve, root, epsilon, tolerance)
    if root is None or x is None:
        return Found("infeasible", examples=size)
    return Found("feasible", 1.0, math.exp(x), root.slope, size)


def _narrowed(ascent: _Ascent, best: float) -> tuple[float, Root] | None:
    """The best alpha and its root by more examples, beside an anchor; None where these allow no alpha."""
    land, anchor = ascent.land, None
    for _ in range(ANCHORS):
        found = ascent.roots[best]
        anchor = best, math.exp(found.log_sigma)
        land.along(best).at(found.log_sigma, Sample(land.total))
        if not ascent.again(Sample(land.few.size, anchor)):
            return None
        best = ascent.climb(2 * ascent.accuracy)
        if _near(anchor, best, ascent.roots[best]):
            break
    size = max(ENOUGH, _needed(land, ascent.roots[best], land.few.size, COARSE * ascent.tolerance))
    if 2 * size > land.total:
        if not ascent.again(Sample(land.total)):
            return None
        best = ascent.climb(2 * ascent.accuracy)
        return best, ascent.roots[best]
    ascent.roots = {best: ascent.roots[best]}
    return ascent.smoothed() if ascent.again(Sample(size, anchor)) else None


def _near(anchor: tuple[float, float], alpha: float, found: Root) -> bool:
    """Whether a point is a neighbor of the anchor; what differs between others is as unsure as an error."""
    return max(abs(math.log(alpha / anchor[0])), abs(found.log_sigma - math.log(anchor[1]))) < 2 * STEP


def largest_sigma(land: Landscape, epsilon: float, *, tolerance: float) -> float:
    """The largest sigma that is allowed at alpha = 1 on all examples; NaN where the smallest is not."""
    curve = land.along(1.0)
    found = crossing(curve, epsilon, land.few, land.guess)
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
    sample: Sample = field(default_factory=lambda: Sample(0))
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

    def start(self, alphas: Sequence[float], sample: Sample) -> bool:
        """Try alphas; whether one is feasible."""
        self.sample, self.roots = sample, {}
        for alpha in alphas:
            self.attempt(alpha, self.land.guess)
        return bool(self.roots)

    def again(self, sample: Sample) -> bool:
        """Try those that may be the best on more examples; whether one is feasible."""
        old, least = self.roots, self.ratio(self.best) - self.roots[self.best].half
        rivals = sorted((a for a in old if self.ratio(a) > least), key=self.ratio, reverse=True)
        self.sample, self.roots = sample, {}
        for alpha in rivals:
            self.attempt(alpha, old[alpha].log_sigma)
        return bool(self.roots)

    def climb(self, step: float) -> float:
        """From the best alpha to its neighbors as long as they are better, then in smaller steps."""
        top = self.best
        finest = self.accuracy / 4 if self.sample.size == self.land.total else self.accuracy
        while step >= finest:
            top = self.best
            for alpha in (min(1.0, top * math.exp(step)), top * math.exp(-step)):
                if alpha > 1e-6:
                    self.attempt(alpha, 0.0)
            if self.best == top:
                step /= 2
        for place in (1, 2, 3, 5, 8, 13):  # few examples and draws make it rough
            for alpha in (top * math.exp(place * self.accuracy), top * math.exp(-place * self.accuracy)):
                if 1e-6 < alpha <= 1:
                    self.attempt(alpha, 0.0)
        return self.best

    def smoothed(self) -> tuple[float, Root]:
        """The top of a parabola through log ratios around the best alpha: the noise of single ones would mislead."""
        middle = round(math.log(self.best) / APART)
        for turn in range(SHIFTS):
            places = range(middle - PLACES, min(0, middle + PLACES) + 1)
            around = [place * APART for place in places if self.root(math.exp(place * APART)) is not None]
            found = [self.roots[math.exp(x)] for x in around]
            if len(around) < PLACES + 2 or any(math.isnan(root.slope) for root in found):
                break
            heights = [root.log_sigma - x for x, root in zip(around, found, strict=True)]
            _, rise, bend = np.polynomial.polynomial.polyfit(np.array(around) - middle * APART, heights, 2)
            if bend >= 0:
                break
            top = min(around[-1], max(around[0], middle * APART - rise / (2 * bend)))
            nearest = round(top / APART)
            if nearest == middle or turn == SHIFTS - 1:
                best = self.root(math.exp(top))
                return (self.best, self.roots[self.best]) if best is None else (math.exp(top), best)
            middle = nearest
        return self.best, self.roots[self.best]

    def root(self, alpha: float) -> Root | None:
        """Of an alpha near the best one, better or not."""
        if alpha not in self.roots:
            guess, slope = self.ratio(self.best) + math.log(alpha), self.roots[self.best].slope
            found = crossing(self.land.along(alpha), self.epsilon, self.sample, guess, slope)
            if found is not None:
                self.roots[alpha] = found
        return self.roots.get(alpha)

    def attempt(self, alpha: float, guess: float) -> None:
        """Find the root of an alpha that is better than all others, by more than counts; no more than see that of one
        that is not."""
        if alpha in self.roots:
            return
        curve = self.land.along(alpha)
        if self.roots:
            guess = self.ratio(self.best) + math.log(alpha) + self.tolerance / 8
            if guess >= 0 or not curve.passes(guess, self.epsilon, self.sample):
                return
        slope = self.roots[self.best].slope if self.roots else math.nan
        found = crossing(curve, self.epsilon, self.sample, guess, slope)
        if found is not None:
            self.roots[alpha] = found


def _zero(land: Landscape, epsilon: float) -> Found | None:
    """alpha = 0, if it is feasible at any sigma: a few hundred examples tell, unless it is close."""
    curve, sample = land.along(0.0), land.few
    while True:
        tiny = curve.at(curve.bottom, sample)
        if abs(tiny.error - epsilon) > SURE * tiny.spread or sample.size >= land.total:
            break
        sample = Sample(min(4 * sample.size, land.total))
    if tiny.error > epsilon:
        return None
    x = 0.0  # mu is 0 whatever sigma: how much noise it bears is told to a factor
    while x > curve.bottom and not (
        curve.passes(x, epsilon, land.few) and curve.at(x, Sample(land.total)).error <= epsilon
    ):
        x = max(curve.bottom, x - BACK)
    if x <= curve.bottom and curve.at(x, Sample(land.total)).error > epsilon:
        return None
    return Found("alpha-zero", 0.0, math.exp(x), examples=sample.size)


def _promise(land: Landscape, alpha: float, epsilon: float, sample: Sample, slope: float) -> float:
    """Log of sigma / alpha at epsilon, from the point nearest to it and the slope of the error in log sigma."""
    points = land.along(alpha).points(sample)
    if not points:
        return -math.inf
    x, error = min(points, key=lambda point: abs(point[1] - epsilon))
    return x + (epsilon - error) / slope - math.log(alpha)


def _maybe(land: Landscape, alphas: Sequence[float], epsilon: float, sample: Sample) -> bool:
    """Whether more examples might find a feasible alpha."""
    points = (land.along(alpha).at(land.bottom, sample) for alpha in alphas)
    return any(point.error - SURE * point.spread <= epsilon for point in points)


def _needed(land: Landscape, found: Root, n: int, wanted: float) -> int:
    """Examples for an interval of sigma that is narrow enough."""
    spread = found.half * found.slope / (2 * Z)
    variance = spread**2 / (1 / n - 1 / land.total)
    return math.ceil(1.1 / ((wanted * found.slope / (2 * Z)) ** 2 / variance + 1 / land.total))
