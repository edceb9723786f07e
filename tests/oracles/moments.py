"""Moments, principal components and similarity the slow way: stored activations in float64, one pair at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Samples = Sequence[Sequence[float]]


def covariance(samples: Samples) -> list[list[float]]:
    """Over the samples, divided by their number."""
    count, units = len(samples), len(samples[0])
    means = [math.fsum(row[i] for row in samples) / count for i in range(units)]
    return [
        [math.fsum((row[i] - means[i]) * (row[j] - means[j]) for row in samples) / count for j in range(units)]
        for i in range(units)
    ]


def components(samples: Samples, level: float) -> int:
    """Principal components needed for a share of the variance, by singular values of the centered samples."""
    table = np.asarray(samples, dtype=np.float64)
    squares = np.linalg.svd(table - table.mean(0), compute_uv=False) ** 2
    kept = 0.0
    for number, square in enumerate(squares, start=1):
        kept += square
        if kept >= level * squares.sum():
            return number
    return len(squares)


def similar(samples: Samples, at_least: float) -> list[int]:
    """For each unit the others with |r| >= a threshold; every unit must vary."""
    table = np.asarray(samples, dtype=np.float64)
    counts = []
    for i in range(table.shape[1]):
        counts.append(0)
        for j in range(table.shape[1]):
            if i != j and abs(np.corrcoef(table[:, i], table[:, j])[0, 1]) >= at_least:
                counts[-1] += 1
    return counts


def explained(samples: Samples) -> list[float]:
    """Adjusted R² of each unit's least-squares fit, with an intercept, by all others; 0 where it is negative."""
    table = np.asarray(samples, dtype=np.float64)
    found = []
    for i in range(table.shape[1]):
        others = np.column_stack([np.ones(len(table)), np.delete(table, i, axis=1)])
        fitted = others @ np.linalg.lstsq(others, table[:, i], rcond=None)[0]
        residual = ((table[:, i] - fitted) ** 2).sum()
        spread = ((table[:, i] - table[:, i].mean()) ** 2).sum()
        freedom = len(table) - table.shape[1]
        found.append(max(0.0, 1 - (residual / freedom) / (spread / (len(table) - 1))))
    return found
