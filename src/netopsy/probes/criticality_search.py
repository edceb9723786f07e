"""The search for a module's criticality: max of log sigma - log alpha where the error is at most epsilon.

Knows no network: it asks for the error at points (alpha, sigma), on some of the examples or all. With common random
numbers that is one smooth function but for its steps, increasing in sigma where sigma matters.

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
from scipy.optimize import minimize_scalar

from netopsy._random import derive

ALPHAS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.32, 0.25, 0.2, 0.15, 0.11, 0.08, 0.05, 0.03, 0.015, 0.005)
"""Where the search over alpha begins; it goes on between them, and below the last."""

FEW = 1024
"""Examples it begins with."""

SURE = 4.0
"""Standard errors by which a subsample decides what all examples would."""

COARSE = 6.0
"""Tolerances that the interval on the subsample may be wide on either side; all examples do the rest."""

Z = 1.96
WIDTH = 0.05
"""Of a root's bracket in log sigma; inside, the error is taken to be a straight line."""

SMOOTH, NARROW = 100, 0.004
"""Where the error of all examples goes in fewer steps between the ends of a bracket, it is made as narrow as this."""

STEPS = 10
"""Steps of the error that are a slope."""

SMALLEST = 1e-4
"""Sigma from which on noise is noise, in units of the module's size."""


@dataclass(frozen=True)
class Estimate:
    """The error at a point: mean over examples and draws, and its standard error over the examples."""

    error: float
    spread: float


@dataclass(frozen=True)
class Root:
    """Where the error crosses epsilon: log sigma, the error's slope there, the half-width of its interval."""

    log_sigma: float
    slope: float
    half: float


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
    """Errors at points, each measured once: several epsilon share them.

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
    known: dict[int, dict[float, dict[float, Estimate]]] = field(default_factory=dict, repr=False)

    @property
    def floor(self) -> float:
        """The smallest sigma that is tried."""
        return min(1.0, SMALLEST * self.size)

    def at(self, alpha: float, sigma: float, n: int) -> Estimate:
        """The error at a point."""
        known = self.known.setdefault(n, {}).setdefault(alpha, {})
        if sigma not in known:
            known[sigma] = self.measure(alpha, sigma, n)
        return known[sigma]

    def curve(self, alpha: float, n: int) -> list[tuple[float, float]]:
        """What is known of an alpha: (log sigma, error), ascending."""
        known = self.known.get(n, {}).get(alpha, {})
        return sorted((math.log(sigma), estimate.error) for sigma, estimate in known.items())

    @property
    def tests(self) -> int:
        """Points that were measured."""
        return sum(len(known) for by_alpha in self.known.values() for known in by_alpha.values())


def root(land: Landscape, alpha: float, epsilon: float, n: int, guess: float) -> Root | None:
    """Sigma at which the error is epsilon, 1 where it is less there; None where the smallest sigma is too large.

    Args:
        land: the errors.
        alpha: where.
        epsilon: the error allowed.
        n: examples.
        guess: log sigma to begin with.
    """
    bottom = math.log(land.floor)
    guess = min(0.0, max(bottom, guess))
    low, high = _bracket(land, alpha, epsilon, n)
    step = 0.3
    while low is None:
        x = guess if high is None else max(bottom, high[0] - step)
        if not _passes(land, alpha, x, epsilon, n) and x <= bottom:
            return None
        step *= 2
        low, high = _bracket(land, alpha, epsilon, n)
    step = 0.3
    while high is None:
        if low[0] >= 0:
            return Root(0.0, math.nan, 0.0)
        _passes(land, alpha, min(0.0, low[0] + step), epsilon, n)
        step *= 2
        low, high = _bracket(land, alpha, epsilon, n)
        assert low is not None
    for turn in range(40):
        gap = high[0] - low[0]
        if gap <= WIDTH and (gap <= NARROW or n < land.total or high[1] - low[1] >= SMOOTH * land.grain):
            break
        middle = low[0] + gap * (epsilon - low[1]) / (high[1] - low[1])
        if turn % 4 == 3:
            middle = low[0] + gap / 2
        elif turn % 2:  # just beyond, so that the root is between this point and the last
            middle += 0.8 * WIDTH if middle - low[0] < high[0] - middle else -0.8 * WIDTH
        _passes(land, alpha, min(high[0] - 0.05 * gap, max(low[0] + 0.05 * gap, middle)), epsilon, n)
        low, high = _bracket(land, alpha, epsilon, n)
        assert low is not None
        assert high is not None
    log_sigma = low[0] + (high[0] - low[0]) * (epsilon - low[1]) / (high[1] - low[1])
    slope = _slope(land.curve(alpha, n), log_sigma)
    spread = max(land.at(alpha, math.exp(x), n).spread for x in (low[0], high[0]))
    return Root(log_sigma, slope, 2 * Z * spread / slope)


def _passes(land: Landscape, alpha: float, x: float, epsilon: float, n: int) -> bool:
    return land.at(alpha, math.exp(x), n).error <= epsilon


def _bracket(
    land: Landscape, alpha: float, epsilon: float, n: int
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """The smallest sigma known to fail, and the largest below it known to pass."""
    curve = land.curve(alpha, n)
    high = next((point for point in curve if point[1] > epsilon), None)
    low = [point for point in curve if point[1] <= epsilon and (high is None or point[0] < high[0])]
    return (low[-1] if low else None), high


def _slope(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Of the error in log sigma: between points on both sides, far enough apart that steps do not matter."""
    below = [p for p in curve if p[0] <= x - WIDTH / 2] or [curve[0]]
    above = [p for p in curve if p[0] >= x + WIDTH / 2] or [curve[-1]]
    (a, low), (b, high) = below[-1], above[0]
    return max((high - low) / (b - a), 1e-6) if b > a else 1e-6


def search(land: Landscape, epsilon: float, *, tolerance: float, seed: int, hint: float | None = None) -> Found:
    """The feasible point with the least alpha / sigma.

    Args:
        land: the errors.
        epsilon: the error allowed.
        tolerance: relative, of alpha² / sigma².
        seed: of the order in which alphas are tried.
        hint: an alpha that is likely to be good; it is tried first.
    """
    at_zero = _zero(land, epsilon)
    if at_zero is not None:
        return at_zero
    n = min(land.first, land.total)
    order = np.random.default_rng(derive(seed, "alphas")).permutation(len(ALPHAS))
    alphas = [] if hint is None else [hint]
    alphas += [ALPHAS[i] for i in order]
    roots: dict[float, Root] = {}
    while not roots:
        guess = math.log(max(land.floor, min(1.0, 0.3 * land.size)))
        for alpha in alphas:
            _try(land, alpha, epsilon, n, roots, guess)
        if not roots and (n == land.total or not _maybe(land, alphas, epsilon, n)):
            return Found("infeasible", examples=n)
        if not roots:
            n = min(4 * n, land.total)
    best = _refine(land, epsilon, n, roots, alphas, tolerance)
    wanted = COARSE * tolerance
    while n < land.total and roots[best].half > wanted:
        needed = _needed(land, best, roots[best], n, wanted)
        n = land.total if 2 * needed > land.total else max(2 * n, needed)
        rivals = [a for a, r in roots.items() if _ratio(r, a) > _ratio(roots[best], best) - roots[best].half]
        guesses, roots = roots, {}
        for alpha in sorted(rivals, key=lambda a: -_ratio(guesses[a], a)):
            _try(land, alpha, epsilon, n, roots, guesses[alpha].log_sigma)
        if not roots:  # what few examples allowed, more do not
            return search_from(land, epsilon, n, alphas, tolerance)
        best = _refine(land, epsilon, n, roots, alphas, tolerance)
    return _finish(land, best, roots[best], epsilon, n, tolerance)


def search_from(land: Landscape, epsilon: float, n: int, alphas: Sequence[float], tolerance: float) -> Found:
    """The search again, on all examples: where epsilon lies within what few of them leave open."""
    roots: dict[float, Root] = {}
    for alpha in alphas:
        _try(land, alpha, epsilon, land.total, roots, math.log(max(land.floor, min(1.0, 0.1 * land.size))))
    if not roots:
        return Found("infeasible", examples=land.total)
    best = _refine(land, epsilon, land.total, roots, alphas, tolerance)
    return _finish(land, best, roots[best], epsilon, land.total, tolerance)


def _ratio(found: Root, alpha: float) -> float:
    return found.log_sigma - math.log(alpha)


def _try(
    land: Landscape, alpha: float, epsilon: float, n: int, roots: dict[float, Root], guess: float
) -> Root | None:
    """Find the root of an alpha that is better than all others; None of one that is not."""
    if alpha in roots:
        return roots[alpha]
    if roots:
        guess = max(_ratio(r, a) for a, r in roots.items()) + math.log(alpha)
        if guess >= 0 or not _passes(land, alpha, guess, epsilon, n):
            return None
    found = root(land, alpha, epsilon, n, guess)
    if found is not None:
        roots[alpha] = found
    return found


def _refine(
    land: Landscape,
    epsilon: float,
    n: int,
    roots: dict[float, Root],
    alphas: Sequence[float],
    tolerance: float,
) -> float:
    """Look for the best alpha between its neighbors, and below the smallest; the roots found are added."""

    def best() -> float:
        return max(roots, key=lambda alpha: _ratio(roots[alpha], alpha))

    while best() <= min(alphas) and best() > 1e-6:  # down, until it is worse
        lower = best() / 2
        if _try(land, lower, epsilon, n, roots, 0.0) is None:
            break
    around = sorted({*alphas, *roots, best() / 2, 1.0})
    place = around.index(best())
    bounds = math.log(around[place - 1]), math.log(around[min(place + 1, len(around) - 1)])

    def height(x: float) -> float:
        alpha = math.exp(x)
        found = root(land, alpha, epsilon, n, _ratio(roots[best()], best()) + x)
        if found is None:
            return 50.0 - x  # so that the search goes up, where it is feasible
        roots[alpha] = found
        return -_ratio(found, alpha)

    accuracy = max(0.02, min(0.1, math.sqrt(tolerance) / 3))
    minimize_scalar(height, bounds=bounds, method="bounded", options={"xatol": accuracy, "maxiter": 12})
    return best()


def _zero(land: Landscape, epsilon: float) -> Found | None:
    """alpha = 0, if it is feasible at any sigma: a few hundred examples tell, unless it is close."""
    n = min(land.first, land.total)
    while True:
        tiny = land.at(0.0, land.floor, n)
        if abs(tiny.error - epsilon) > SURE * tiny.spread or n >= land.total:
            break
        n = min(4 * n, land.total)
    if tiny.error > epsilon:
        return None
    found = root(land, 0.0, epsilon, n, math.log(max(land.floor, min(1.0, 0.3 * land.size))))
    x = math.log(land.floor) if found is None else found.log_sigma
    back = 0.0 if found is None else max(found.half, WIDTH) * (x < 0 and n < land.total)
    while True:
        x = max(math.log(land.floor), x - back)
        if _passes(land, 0.0, x, epsilon, land.total):
            return Found("alpha-zero", 0.0, math.exp(x), examples=n)
        if x <= math.log(land.floor):
            return None
        back = max(2 * back, WIDTH)


def _maybe(land: Landscape, alphas: Sequence[float], epsilon: float, n: int) -> bool:
    """Whether more examples might find a feasible alpha."""
    points = (land.at(alpha, land.floor, n) for alpha in alphas)
    return any(point.error - SURE * point.spread <= epsilon for point in points)


def _needed(land: Landscape, alpha: float, found: Root, n: int, wanted: float) -> int:
    """Examples for an interval of sigma that is narrow enough."""
    spread = found.half * found.slope / (2 * Z)
    variance = spread**2 / (1 / n - 1 / land.total)
    return math.ceil(1.1 / ((wanted * found.slope / (2 * Z)) ** 2 / variance + 1 / land.total))


def _finish(land: Landscape, alpha: float, found: Root, epsilon: float, n: int, tolerance: float) -> Found:
    """The largest sigma that is feasible on all examples, by secants: at most the tolerance short of it."""
    x, slope, bottom = found.log_sigma, found.slope, math.log(land.floor)
    if math.isnan(slope):  # sigma = 1
        if _passes(land, alpha, 0.0, epsilon, land.total):
            return Found("feasible", alpha, 1.0, slope, n)
        slope = 0.1
    room = tolerance / 2  # what may be lost in log sigma; the middle of it is aimed at
    # the slope tells how close the root is, unless the error goes in steps that one sees
    near = epsilon - room * slope if room * slope > STEPS * land.grain else math.inf
    for turn in range(30):
        error = land.at(alpha, math.exp(x), land.total).error
        low, high = _bracket(land, alpha, epsilon, land.total)
        if low is not None and (low[0] >= 0 or low[1] >= near or (high is not None and high[0] - low[0] <= room)):
            break
        if low is None and high is not None and high[0] <= bottom:
            return Found("infeasible", examples=n)
        if low is not None and high is not None:
            fraction = (epsilon - room / 2 * slope - low[1]) / (high[1] - low[1])
            fraction = 0.5 if turn % 3 == 2 else min(0.9, max(0.1, fraction))
            x = low[0] + fraction * (high[0] - low[0])
        else:
            step = (epsilon - room / 2 * slope - error) / slope
            x = min(0.0, max(bottom, x + math.copysign(max(abs(step), room), step)))
    low, _ = _bracket(land, alpha, epsilon, land.total)
    if low is None:
        return Found("infeasible", examples=n)
    return Found("feasible", alpha, math.exp(low[0]), slope, n)
