"""The capital of a confidence sequence for one row: plain loops over examples and candidates, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence


def remaining_means(
    batches: Sequence[Sequence[float]], candidate: float, total: int | None
) -> list[list[tuple[float, float]]]:
    """Pair every value with the mean that the candidate leaves for the examples not seen before its batch."""
    seen: list[float] = []
    pairs = []
    for batch in batches:
        mean = candidate if total is None else (total * candidate - sum(seen)) / (total - len(seen))
        pairs.append([(x, mean) for x in batch])
        seen.extend(batch)
    return pairs


def averaged(pairs: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    """Replace the remaining means of equal values by their average."""
    flat = [pair for batch in pairs for pair in batch]
    means = {x: [g for value, g in flat if value == x] for x, _ in flat}
    return [[(x, math.fsum(means[x]) / len(means[x])) for x, _ in flat]]


def log_capital(
    pairs: list[list[tuple[float, float]]],
    low: float,
    fractions: Sequence[float],
    prior: Sequence[float],
) -> float:
    """Log of sum_c prior(c) prod_i (1 + c (x_i - g_i) / (g_i - low)): the gambler who doubts "mean <= candidate"."""
    logs = []
    for c, p in zip(fractions, prior, strict=True):
        logs.append(math.log(p) + math.fsum(math.log(1 + c * (x - g) / (g - low)) for b in pairs for x, g in b))
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))


def lower_bound(
    batches: Sequence[Sequence[float]],
    low: float,
    high: float,
    total: int | None,
    level: float,
    fractions: Sequence[float],
    prior: Sequence[float],
) -> float:
    """Largest candidate that the examples so far exclude: by the capital's 1/level, or as impossible."""
    seen = [x for batch in batches for x in batch]
    left = low if total is None else (sum(seen) + (total - len(seen)) * low) / total
    right = high
    for _ in range(40):
        middle = (left + right) / 2
        pairs = averaged(remaining_means(batches, middle, total))
        if log_capital(pairs, low, fractions, prior) >= math.log(1 / level):
            left = middle
        else:
            right = middle
    return left
