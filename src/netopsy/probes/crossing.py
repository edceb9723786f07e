"""Where an error that grows with the noise crosses epsilon: a root in log sigma, first on some examples, then on all.

`crossing` finds it on a subsample, with an interval from the error's standard error and its slope; `finish` makes the
last steps on all examples, for which the slope is known. Beside a point that was measured on all examples, its
anchor, a subsample tells a difference, which is far surer than an error: most examples are right or wrong at both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Z = 1.96
WIDTH = 0.05
"""Of a root's bracket in log sigma; inside, the error is taken to be a straight line."""

SMOOTH, NARROW = 100, 0.004
"""Where the error of all examples goes in fewer steps between the ends of a bracket, it is made as narrow as this."""

STEPS = 10
"""Steps of the error that are a slope."""

FLAT = 1e-6
"""Slope of an error that shows none."""


@dataclass(frozen=True)
class Estimate:
    """The error at a point: mean over examples and draws, and its standard error over the examples."""

    error: float
    spread: float


@dataclass(frozen=True)
class Sample:
    """The first examples.

    Attributes:
        size: how many.
        anchor: alpha and sigma of a point known on all examples, from which errors are told by their difference.
    """

    size: int
    anchor: tuple[float, float] | None = None


@dataclass(frozen=True)
class Root:
    """Where the error crosses epsilon: log sigma, the error's slope there, the half-width of its interval."""

    log_sigma: float
    slope: float
    half: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Errors along sigma, each measured once: several epsilon share them. Sigma is given by its logarithm x <= 0.

    Attributes:
        measure: (sigma, sample) -> the error.
        total: examples there are.
        bottom: log of the smallest sigma that is tried.
        grain: the least change of the error on all examples.
        known: sample -> x -> the error.
    """

    measure: Callable[[float, Sample], Estimate]
    total: int
    bottom: float
    grain: float = 0.0
    known: dict[Sample, dict[float, Estimate]] = field(default_factory=dict, repr=False)

    def at(self, x: float, sample: Sample) -> Estimate:
        """The error at a point."""
        known = self.known.setdefault(sample, {})
        if x not in known:
            known[x] = self.measure(math.exp(x), sample)
        return known[x]

    def passes(self, x: float, epsilon: float, sample: Sample) -> bool:
        """Whether the error is at most epsilon; unseen where a smaller sigma fails or a larger one passes."""
        low, high = self.bracket(epsilon, sample)
        if high is not None and high[0] <= x:
            return False
        return (low is not None and low[0] >= x) or self.at(x, sample).error <= epsilon

    def points(self, sample: Sample) -> list[tuple[float, float]]:
        """What is known: (x, error), ascending."""
        return sorted((x, estimate.error) for x, estimate in self.known.get(sample, {}).items())

    def bracket(
        self, epsilon: float, sample: Sample
    ) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """The largest sigma known to pass below the smallest known to fail, and that: (x, error), or None."""
        points = self.points(sample)
        high = next((point for point in points if point[1] > epsilon), None)
        low = [point for point in points if point[1] <= epsilon and (high is None or point[0] < high[0])]
        return (low[-1] if low else None), high

    @property
    def tests(self) -> int:
        """Points that were measured."""
        return sum(map(len, self.known.values()))


def crossing(curve: Curve, epsilon: float, sample: Sample, guess: float, slope: float = math.nan) -> Root | None:
    """Where the error is epsilon, 0 where it is less up to sigma = 1; None where the smallest sigma is too large.

    Args:
        curve: the errors.
        epsilon: the error allowed.
        sample: of examples.
        guess: log sigma to begin with, if nothing is known.
        slope: of the error in log sigma, as it is elsewhere; NaN: not known.
    """
    guess = min(0.0, max(curve.bottom, guess))
    low, high = curve.bracket(epsilon, sample)
    step, x = 0.0, guess
    while low is None:
        if high is not None:
            step = max(2 * step, _reach(curve, high, epsilon, sample, slope) or 0.3)
            x = max(curve.bottom, high[0] - step)
        if curve.at(x, sample).error > epsilon and x <= curve.bottom:
            return None
        low, high = curve.bracket(epsilon, sample)
    step = 0.0
    while high is None:
        if low[0] >= 0:
            return Root(0.0, math.nan, 0.0)
        step = max(2 * step, _reach(curve, low, epsilon, sample, slope) or 0.3)
        curve.at(min(0.0, low[0] + step), sample)
        low, high = curve.bracket(epsilon, sample)
        assert low is not None
    for turn in range(40):
        gap = high[0] - low[0]
        if gap <= WIDTH and (gap <= NARROW or sample.size < curve.total or high[1] - low[1] >= SMOOTH * curve.grain):
            break
        middle = low[0] + gap * (epsilon - low[1]) / (high[1] - low[1])
        if turn % 4 == 3:
            middle = low[0] + gap / 2
        elif turn % 2:  # just beyond, so that the root is between this point and the last
            middle += 0.8 * WIDTH if middle - low[0] < high[0] - middle else -0.8 * WIDTH
        curve.at(min(high[0] - 0.05 * gap, max(low[0] + 0.05 * gap, middle)), sample)
        low, high = curve.bracket(epsilon, sample)
        assert low is not None
        assert high is not None
    log_sigma = low[0] + (high[0] - low[0]) * (epsilon - low[1]) / (high[1] - low[1])
    slope = _slope(curve.points(sample), log_sigma)
    spread = max(curve.at(x, sample).spread for x in (low[0], high[0]))
    return Root(log_sigma, slope, 2 * Z * spread / slope)


def finish(curve: Curve, found: Root, epsilon: float, tolerance: float) -> float | None:
    """The largest log sigma that is allowed on all examples, by secants, and at most half the tolerance short of it.

    None where the smallest sigma is not.
    """
    x, slope, sample = found.log_sigma, found.slope, Sample(curve.total)
    if math.isnan(slope):  # sigma = 1
        if curve.at(0.0, sample).error <= epsilon:
            return 0.0
        slope = 0.1
    room = tolerance / 2  # what may be lost in log sigma; the middle of it is aimed at
    # the slope tells how close the root is, unless the error goes in steps that one sees
    near = epsilon - room * slope if room * slope > STEPS * curve.grain else math.inf
    x = max(curve.bottom, x - room / 2)
    for turn in range(30):
        error = curve.at(x, sample).error
        low, high = curve.bracket(epsilon, sample)
        if low is not None and (low[0] >= 0 or low[1] >= near or (high is not None and high[0] - low[0] <= room)):
            break
        if low is None and high is not None and high[0] <= curve.bottom:
            return None
        if low is not None and high is not None:
            fraction = (epsilon - room / 2 * slope - low[1]) / (high[1] - low[1])
            fraction = 0.5 if turn % 3 == 2 else min(0.9, max(0.1, fraction))
            x = low[0] + fraction * (high[0] - low[0])
        else:
            step = (epsilon - room / 2 * slope - error) / slope
            x = min(0.0, max(curve.bottom, x + math.copysign(max(abs(step), room), step)))
    low, _ = curve.bracket(epsilon, sample)
    return None if low is None else low[0]


def _reach(curve: Curve, point: tuple[float, float], epsilon: float, sample: Sample, slope: float) -> float:
    """How far beyond the point the root may be, from the slope of what is known; 0 where that shows none."""
    known = _slope(curve.points(sample), point[0])
    if known <= FLAT and not slope > FLAT:
        return 0.0
    return min(1.0, max(WIDTH, 1.3 * abs(epsilon - point[1]) / max(known, slope if known <= FLAT else 0.0)))


def _slope(points: Sequence[tuple[float, float]], x: float) -> float:
    """Of the error in log sigma: between points on both sides, far enough apart that steps do not matter."""
    below = [p for p in points if p[0] <= x - WIDTH / 2] or [points[0]]
    above = [p for p in points if p[0] >= x + WIDTH / 2] or [points[-1]]
    (a, low), (b, high) = below[-1], above[0]
    return max((high - low) / (b - a), FLAT) if b > a else FLAT
