"""Confidence sequences for means of bounded values: valid at any stopping time, simultaneous over rows.

A row is one variant: it sees one value x an example (a paired difference to the baseline), low <= x <= high, in
batches, the examples in a uniformly random order. Two estimands:

- ``total=N``: the mean of this data set of N examples, sampled without replacement;
- ``total=None``: the mean of the population that the examples were drawn from, independently.

**The bet.** Scale to y = (x - low)/(high - low) in [0, 1]. A gambler who doubts "the mean is <= g" keeps the share
1 - c of the capital in cash and stakes c on the fair ticket y/g. With g_t the mean that g leaves for the examples not
seen before batch t, the capital is

    K(g, c) = prod_t prod_{i in batch t} (1 - c + c y_i / g_t),      g_t = (N g - S_t) / (N - n_t)

(S_t the sum and n_t the number of the examples before batch t; g_t = g for a population): Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", JRSS-B 2024, with the bet lambda = c/g. Instead of tuning
c on earlier batches, a fixed prior over c is mixed, K(g) = sum_c prior(c) K(g, c): Cover's universal portfolio, as in
Orabona and Jun, "Tight concentrations and confidence sequences from the regret of universal portfolio", IEEE Trans.
Inf. Theory 70(1), 2024. "The mean is >= g" is doubted in the same way, with 1 - y and 1 - g.

**Valid at any stopping time.** If the mean m is <= g, the examples left at batch t have a mean <= g_t, so that the
factors a_i of all of them are nonnegative with a mean <= 1. Without replacement the expected product over a batch of
b is the mean of the products over b-subsets, at most (mean a)^b <= 1 by Maclaurin's inequality; for a population the
expectations multiply. Hence K(g) is a supermartingale over batches, also as a mixture, and by Ville's inequality it
ever reaches 2/alpha with probability <= alpha/2. K falls in g, so that the g with K(g) >= 2/alpha are an interval
[low, L]; all of its points can be excluded at once because m <= L would mean K(m) >= K(L) >= 2/alpha. There is no
grid of candidates, hence nothing between its points to worry about. A g that leaves the unseen examples no possible
mean (N g < S_n) is excluded outright; at n = N that leaves the exact mean. Bounds are intersected over time.
alpha = (1 - confidence)/rows (Bonferroni): all intervals at all times hold at once with the stated confidence.

**What is stored.** log(1 - c + c y/u) is convex in u, so that by Jensen's inequality replacing the g_t by their
average over the examples with the same value y can only lower the capital: still valid. The average is again linear
in g: the state is three numbers a row and value (count, the average's slope and shift), however many batches there
were. For a population nothing is lost; without replacement the loss is of the order of the squared drift of g_t.

**The root** of K(g) = 2/alpha is found by Newton's method in log g. log K is convex and falling there (each term is,
as a function of log g_t, and log g_t is concave in log g), so that every iterate, started at the last bound, stays on
the excluded side: stopping early is safe.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from netopsy._checks import NetopsyError, at_least, inside, shorten

FRACTIONS = np.geomspace(0.002, 0.9, 16)
"""The mixed stakes c. Half-width h at variance v is best met by c = (g - low) h/v: large for a row that hardly
differs from the baseline (v < h), small for a mean near an end of the range; a ratio of 1.5 costs at most 4 % of
the growth."""

LOG_PRIOR = np.log(FRACTIONS**0.25 / (FRACTIONS**0.25).sum())
"""Somewhat more capital on large stakes: they decide early, where a factor in the capital costs most examples."""

_START, _TOLERANCE, _STEPS, _TINY = 1e-9, 1e-6, 50, 1e-100
_STATE = ("n", "low", "high", "counts", "shifts", "slopes")


class ConfidenceSequence:
    """Simultaneous intervals for the means of `rows` streams of bounded values (see the module).

    Args:
        rows: How many means are covered at once.
        confidence: In (0, 1): the probability that every interval holds at every time.
        total: Number of examples in the data set whose mean is wanted; None for the population behind it.
        support: The values that are counted, ascending; the first and the last are the known bounds of a value.
            Values between two of them are shared out by `tally`.

    Raises:
        NetopsyError: for no rows, a confidence outside (0, 1), an empty data set, or a support that is not ascending.

    Example: two rows, 400 examples; the first never differs from the baseline, the second is wrong on half of them.

    >>> sequence = ConfidenceSequence(2, confidence=0.99)
    >>> sequence.update(np.array([0, 1]), np.array([[0, 400, 0], [0, 200, 200]]))
    >>> sequence.low.round(3), sequence.high.round(3)
    (array([-0.022,  0.403]), array([0.022, 0.599]))
    >>> sequence.decided_verdict(0.05)
    array([ True,  True])
    """

    def __init__(
        self, rows: int, *, confidence: float, total: int | None = None, support: Sequence[float] = (-1.0, 0.0, 1.0)
    ) -> None:
        at_least("rows", rows, 1)
        inside("confidence", confidence, 0, 1, open_low=True, open_high=True)
        if total is not None:
            at_least("total", total, 1)
        self.support = _ascending(support)
        self.total = total
        self._unit = (self.support - self.support[0]) / (self.support[-1] - self.support[0])
        self._examples = np.inf if total is None else float(total)
        self._threshold = np.log(2 * rows / (1 - confidence))
        self._n = np.zeros(rows, np.int64)
        self._low = np.full(rows, self.support[0])
        self._high = np.full(rows, self.support[-1])
        self._counts, self._shifts = np.zeros((2, rows, len(self.support)))
        self._slopes = np.ones_like(self._shifts)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `update` changes, by name: what `restored` takes."""
        return {name: getattr(self, f"_{name}").copy() for name in _STATE}

    def restored(self, arrays: Mapping[str, np.ndarray]) -> ConfidenceSequence:
        """The sequence of the same arguments that gave these arrays; this one is unchanged.

        Raises:
            KeyError: when an array is missing.
            ValueError: for an array of another shape or type.
        """
        other = copy.copy(self)
        for name in _STATE:
            mine, theirs = getattr(self, f"_{name}"), arrays[name]
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                raise ValueError(f"{name}: expected {mine.dtype} of shape {mine.shape}; got {theirs.shape}")
            setattr(other, f"_{name}", theirs.copy())
        return other

    @property
    def n(self) -> Int[np.ndarray, " rows"]:
        """Examples seen."""
        return self._n.copy()

    @property
    def mean(self) -> Float[np.ndarray, " rows"]:
        """Mean of the values seen; NaN before the first. It may leave the interval, which keeps its best bounds."""
        mean = np.full(len(self._n), np.nan)
        np.divide(self._counts @ self.support, self._n, out=mean, where=self._n > 0)
        return mean

    @property
    def low(self) -> Float[np.ndarray, " rows"]:
        """Lower ends of the intervals; never fall."""
        return self._low.copy()

    @property
    def high(self) -> Float[np.ndarray, " rows"]:
        """Upper ends of the intervals; never rise."""
        return self._high.copy()

    def update(self, rows: Int[np.ndarray, " active"], counts: Real[np.ndarray, "... values"]) -> None:
        """Take in one batch: how often each value of the support came, for some of the rows.

        Which rows go on may depend on everything seen so far; which examples come next may not.

        Args:
            rows: Indices of the rows that saw the batch, without repeats.
            counts: One line for each of them. Fractions are fine (`tally`); a line sums to its number of examples.

        At n = total the interval is the exact mean. It replaces the running intersection, which misses it with
        probability at most 1 - confidence; that apart, intervals never widen.

        Raises:
            NetopsyError: for unknown or repeated rows, counts of another shape, that are negative, not finite or not
                whole in sum, or more examples than `total`. The state is then unchanged.
        """
        sizes = self._check(rows, counts)
        rows, counts, sizes = rows[sizes > 0], counts[sizes > 0], sizes[sizes > 0]
        if not rows.size:
            return
        left = (1 - self._n[rows] / self._examples)[:, None]
        shift = (self._counts[rows] @ self._unit / self._examples)[:, None] / left
        self._counts[rows] += counts
        self._n[rows] += sizes
        share = counts / np.maximum(self._counts[rows], _TINY)  # of the batch, in the averages
        self._slopes[rows] += share * (1 / left - self._slopes[rows])
        self._shifts[rows] += share * (shift - self._shifts[rows])
        self._tighten(rows)

    def _tighten(self, rows: Int[np.ndarray, " active"]) -> None:
        bottom, width = self.support[0], self.support[-1] - self.support[0]
        low, high = self._low[rows], self._high[rows]
        bounds = np.maximum(np.stack([low - bottom, bottom + width - high]) / width, self._least(rows))
        start = np.log(np.maximum(bounds, _START))
        position = start.copy()
        for _ in range(_STEPS):
            value, slope = self._evaluate(rows, np.exp(position))
            excess = value - self._threshold
            step = np.where(excess > 0, excess / np.maximum(-slope, _TINY), 0.0)
            position += step
            if step.max() < _TOLERANCE:
                break
        bounds = np.where(position > start, np.exp(position), bounds)
        # the two sides can only cross where a true mean was excluded: keep an interval, if only a point
        new_low = np.clip(bottom + width * bounds[0], low, high)
        new_high = np.clip(bottom + width * (1 - bounds[1]), new_low, high)
        exact = self._n[rows] == self._examples
        self._low[rows] = np.where(exact, self.mean[rows], new_low)
        self._high[rows] = np.where(exact, self.mean[rows], new_high)

    def log_capital(self, candidate: float) -> Float[np.ndarray, "2 rows"]:
        """Log of the capital of the two gamblers, now, who doubt "mean <= candidate" and "mean >= candidate".

        Each is an e-process: whenever it is looked at, exp(-log_capital) is a p-value for the sentence doubted (of
        this row alone, before Bonferroni). Infinite when the examples seen make the sentence impossible.

        Raises:
            NetopsyError: for a candidate that is not strictly inside the support's range.
        """
        bottom, top = self.support[0], self.support[-1]
        inside("candidate", candidate, bottom, top, open_low=True, open_high=True)
        rows = np.arange(len(self._n))
        sides = np.array([[candidate - bottom], [top - candidate]]) / (top - bottom)
        value, _ = self._evaluate(rows, np.broadcast_to(sides, (2, len(rows))))
        return np.where(sides < self._least(rows), np.inf, value)

    def decided_precision(self, half_width: float) -> Bool[np.ndarray, " rows"]:
        """Which intervals are at most `half_width` wide to either side of their middle.

        Raises:
            NetopsyError: for a half-width that is not positive.
        """
        inside("half_width", half_width, 0, np.inf, open_low=True)
        decided: Bool[np.ndarray, " rows"] = (self._high - self._low) / 2 <= half_width
        return decided

    def decided_verdict(self, tolerance: float) -> Bool[np.ndarray, " rows"]:
        """Which intervals lie entirely above `tolerance`, or entirely at or below it.

        Raises:
            NetopsyError: for a tolerance that is not finite.
        """
        inside("tolerance", tolerance, -np.inf, np.inf, open_low=True, open_high=True)
        decided: Bool[np.ndarray, " rows"] = (self._low > tolerance) | (self._high <= tolerance)
        return decided

    def _least(self, rows: Int[np.ndarray, " active"]) -> Float[np.ndarray, "2 active"]:
        """Smallest possible means of y and 1 - y: those if they were 0 in every unseen example."""
        sums = self._counts[rows] @ self._unit
        least: Float[np.ndarray, "2 active"] = np.stack([sums, self._n[rows] - sums]) / self._examples
        return np.maximum(least - 1e-12, 0)  # rounding must not exclude the least itself

    def _evaluate(
        self, rows: Int[np.ndarray, " active"], mean: Float[np.ndarray, "2 active"]
    ) -> tuple[Float[np.ndarray, "2 active"], Float[np.ndarray, "2 active"]]:
        """Log capital against these means of y and of 1 - y, and its derivative in the log of the mean."""
        counts, slopes, shifts = self._counts[rows], self._slopes[rows], self._shifts[rows]
        below, above = mean[..., None]
        remaining = np.stack([slopes * below - shifts, 1 - (slopes * (1 - above) - shifts)])
        remaining = np.maximum(remaining, _TINY)
        payoff = (np.stack([self._unit, 1 - self._unit])[:, None] / remaining)[..., None, :]
        gain = FRACTIONS[:, None] * (payoff - 1)
        logs = (counts[:, None] * np.log1p(gain)).sum(-1) + LOG_PRIOR
        falls = ((counts * slopes / remaining)[..., None, :] * FRACTIONS[:, None] * payoff / (1 + gain)).sum(-1)
        top = logs.max(-1, keepdims=True)
        weights = np.exp(logs - top)
        mixed = weights.sum(-1)
        return top[..., 0] + np.log(mixed), -mean * (weights * falls).sum(-1) / mixed

    def _check(
        self, rows: Int[np.ndarray, " active"], counts: Real[np.ndarray, "... values"]
    ) -> Int[np.ndarray, " active"]:
        known = len(self._n)
        if len(np.unique(rows)) < len(rows) or (rows.size and not 0 <= rows.min() <= rows.max() < known):
            raise NetopsyError(f"rows: expected distinct indices from 0 to {known - 1}; got {shorten(rows)}")
        if counts.shape != (len(rows), len(self.support)):
            raise NetopsyError(
                f"counts: expected shape {(len(rows), len(self.support))} (one line a row, one column for each value "
                f"of the support); got {counts.shape}"
            )
        sizes = counts.sum(1)
        whole: Float[np.ndarray, " active"] = np.rint(sizes)
        sound = ((counts >= 0) & (counts < np.inf)).all(1) & np.isclose(sizes, whole, rtol=0, atol=1e-6)
        if not sound.all():
            raise NetopsyError(
                "counts: expected finite counts >= 0 that sum to a whole number of examples in each line; got "
                f"{counts[~sound][0]}"
            )
        after = self._n[rows] + whole
        if (after > self._examples).any():
            raise NetopsyError(
                f"counts: expected at most total={self.total} examples a row; got {after.max():.0f}; sample without "
                "replacement, or pass total=None for the mean of the population"
            )
        return whole.astype(np.int64)


def tally(
    values: Real[np.ndarray, "rows batch"], support: Sequence[float] | Float[np.ndarray, " values"]
) -> Float[np.ndarray, "rows values"]:
    """Count, in each row, how often each value of the support came; a value between two is shared, keeping the mean.

    Sharing is valid in `ConfidenceSequence.update`: the log of a ticket's payoff is concave in the value, so that
    the shared counts give less capital than the value itself. It costs as much as a variance larger by at most a
    quarter of the squared spacing: 33 points over a range of 2 add less than 0.001.

    Raises:
        NetopsyError: for a support that is not ascending, or values outside its range or NaN.

    >>> tally(np.array([[-1.0, 0.0, 0.25, 1.0]]), (-1.0, 0.0, 1.0))
    array([[1.  , 1.75, 1.25]])
    """
    points = _ascending(support)
    outside = ~((values >= points[0]) & (values <= points[-1]))
    if outside.any():
        raise NetopsyError(
            f"values: expected numbers in [{points[0]:g}, {points[-1]:g}]; got {shorten(values[outside], 3)}; the "
            "bounds must be known before the data, widen the support"
        )
    cell = np.clip(np.searchsorted(points, values, side="right") - 1, 0, len(points) - 2)
    share = (values - points[cell]) / (points[cell + 1] - points[cell])
    counts = np.zeros((len(values), len(points)))
    lines = np.arange(len(values))[:, None]
    np.add.at(counts, (lines, cell), 1 - share)
    np.add.at(counts, (lines, cell + 1), share)
    return counts


def _ascending(support: Sequence[float] | Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    points: Float[np.ndarray, " values"] = np.array(support, np.float64)
    if len(points) < 2 or not np.isfinite(points).all() or (np.diff(points) <= 0).any():
        raise NetopsyError(
            "support: expected at least two finite values in ascending order, the bounds of a value first and last; "
            f"got {shorten(points)}"
        )
    return points
