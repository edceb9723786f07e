"""Correlations of units, ρ̄ and mean ranks by their definitions, one pair of units at a time on stored activations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def pooled(values: Array) -> Array:
    """(n, units) as it is; (n, channels, h, w) with every position as a sample."""
    if values.ndim == 2:
        return values
    return np.stack([values[:, unit].ravel() for unit in range(values.shape[1])], 1)


def rho(teacher: Array, student: Array) -> Array:
    """Cosines of centered columns, a row a teacher's unit; NaN where one of the two is constant."""
    teacher, student = pooled(teacher), pooled(student)
    found = np.full((teacher.shape[1], student.shape[1]), np.nan)
    for t in range(teacher.shape[1]):
        for j in range(student.shape[1]):
            a, b = teacher[:, t] - teacher[:, t].mean(), student[:, j] - student[:, j].mean()
            if np.ptp(teacher[:, t]) > 0 and np.ptp(student[:, j]) > 0:
                found[t, j] = (a * b).sum() / math.sqrt((a * a).sum()) / math.sqrt((b * b).sum())
    return found


def rho_bar(matrix: Array) -> float:
    """Mean over the teacher's units of the best correlation, of those that have one."""
    best = [max(x for x in row if not math.isnan(x)) for row in matrix if not all(map(math.isnan, row))]
    return sum(best) / len(best)


def mean_rank(early: Array, final: Array) -> float:
    """Sort the student's units at the earlier epoch, find the place of the final winner; mean over the teacher's."""
    places = []
    for before, after in zip(early, final, strict=True):
        if all(map(math.isnan, after)):
            continue
        winner = max((x, j) for j, x in enumerate(after) if not math.isnan(x))[1]
        order = sorted(
            range(len(before)), key=lambda j: (math.isnan(before[j]), -before[j] if before[j] == before[j] else 0)
        )
        places.append(order.index(winner) / len(before))
    return sum(places) / len(places)


def one_to_one(matrix: Array) -> float:
    """The largest sum of correlations of any pairing of different units, by trying all."""
    rows, columns = matrix.shape
    if rows > columns:
        return one_to_one(matrix.T)
    return max(sum(matrix[i, j] for i, j in enumerate(way)) for way in itertools.permutations(range(columns), rows))


def separated_update(below: Array, below_star: Array, w: Array, w_star: Array, h: Array, h_star: Array) -> Array:
    """L* W* H* - L W H, entry by entry: below (n, i), w (i, k), h (k, k), h_star (k_star, k)."""
    n = len(below)
    found = np.zeros((below.shape[1], h.shape[1]))
    for i, k in itertools.product(range(found.shape[0]), range(found.shape[1])):
        for i2, k2 in itertools.product(range(w_star.shape[0]), range(w_star.shape[1])):
            found[i, k] += (below[:, i] * below_star[:, i2]).sum() / n * w_star[i2, k2] * h_star[k2, k]
        for i2, k2 in itertools.product(range(w.shape[0]), range(w.shape[1])):
            found[i, k] -= (below[:, i] * below[:, i2]).sum() / n * w[i2, k2] * h[k2, k]
    return found
