"""Training on labels by position, one position at a time in float64; imports nothing of netopsy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.oracles import training

IGNORED = -100
Gradient = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray, np.ndarray]]


def counted(inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions that count as examples of their own: inputs (n, p, f), labels (n, p) to (m, f), (m,)."""
    pairs = [
        (inputs[i, j], labels[i, j])
        for i in range(labels.shape[0])
        for j in range(labels.shape[1])
        if labels[i, j] != IGNORED
    ]
    return np.array([x for x, _ in pairs]).reshape(len(pairs), inputs.shape[2]), np.array([y for _, y in pairs])


def sgd(
    weight: np.ndarray,
    bias: np.ndarray,
    batches: list[tuple[np.ndarray, np.ndarray]],
    lr: float,
    momentum: float,
    gradient: Gradient = training.softmax_regression_gradient,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Weights after the batches, and the mean loss and the share of errors over all positions that were met."""
    velocities = [np.zeros_like(weight), np.zeros_like(bias)]
    total, wrong, count = 0.0, 0, 0
    for inputs, labels in batches:
        own = counted(inputs, labels)
        loss, *slopes = gradient(weight, bias, *own)  # no position: a sum of nothing, 0
        total, count = total + loss * len(own[1]), count + len(own[1])
        wrong += sum(int(np.argmax(weight @ x + bias)) != y for x, y in zip(*own, strict=True))
        velocities = [momentum * v + g for v, g in zip(velocities, slopes, strict=True)]
        weight, bias = weight - lr * velocities[0], bias - lr * velocities[1]
    return weight, bias, total / count, wrong / count
