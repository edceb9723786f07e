"""Two-layer students and teachers by sampling, one example at a time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def kernels(theta: float, threshold: float, samples: int, seed: int) -> tuple[Array, Array]:
    """P(both active) and E[f f] of two units at an angle, by Monte Carlo: mean and standard error of each."""
    rng = np.random.default_rng(seed)
    x, other = rng.standard_normal(samples), rng.standard_normal(samples)
    y = math.cos(theta) * x + math.sin(theta) * other
    gates = (x > threshold) & (y > threshold)
    values = np.stack([gates.astype(float), np.where(gates, (x - threshold) * (y - threshold), 0)])
    return values.mean(1), values.std(1) / math.sqrt(samples)


def hidden(w: Array, x: Array, threshold: float, scale: float) -> tuple[Array, Array]:
    """Values and gates of all units on one example."""
    values, gates = np.zeros(len(w)), np.zeros(len(w))
    for j, row in enumerate(w):
        before = float(row @ x) - threshold * scale * math.sqrt(float(row @ row))
        if before > 0:
            values[j], gates[j] = before, 1
    return values, gates


def gradient(
    student: tuple[Array, Array],
    teacher: tuple[Array, Array],
    inputs: Array,
    *,
    threshold: float,
    scale: float,
    project: bool,
) -> tuple[Array, Array]:
    """Minus the mean gradient of half the squared error with respect to w and v, unit by unit."""
    (w, v), (w_star, v_star) = student, teacher
    moved, top = np.zeros_like(w), np.zeros_like(v)
    for x in inputs:
        f, gates = hidden(w, x, threshold, scale)
        error = hidden(w_star, x, threshold, scale)[0] @ v_star - f @ v
        for j in range(len(w)):
            unit = w[j] / math.sqrt(float(w[j] @ w[j]))
            slope = gates[j] * (x - threshold * scale * unit)
            step = float(error @ v[j]) * slope
            moved[j] += (step - float(step @ unit) * unit if project else step) / len(inputs)
            top[j] += f[j] * error / len(inputs)
    return moved, top
