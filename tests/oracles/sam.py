"""Sharpness-aware minimization of softmax regression, one step after the other; imports nothing of netopsy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.oracles.training import softmax_regression_gradient


def sam_gradient(
    weight: np.ndarray, bias: np.ndarray, inputs: np.ndarray, labels: np.ndarray, rho: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Foret et al. 2021, algorithm 1: the loss at the weights, and the gradients at distance rho up their own."""
    loss, d_weight, d_bias = softmax_regression_gradient(weight, bias, inputs, labels)
    norm = math.sqrt(sum(value**2 for value in [*d_weight.ravel(), *d_bias.ravel()]))
    _, *gradients = softmax_regression_gradient(
        weight + rho / norm * d_weight, bias + rho / norm * d_bias, inputs, labels
    )
    return loss, gradients[0], gradients[1]


def sgd(
    weight: np.ndarray,
    bias: np.ndarray,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    lr: float,
    momentum: float,
    weight_decay: float,
    rho: float,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """v ← μv + (g + λθ), θ ← θ − lr · v with g of `sam_gradient`; also the loss met by every batch."""
    parameters, losses = [weight.copy(), bias.copy()], []
    velocities = [np.zeros_like(weight), np.zeros_like(bias)]
    for inputs, labels in batches:
        loss, *gradients = sam_gradient(parameters[0], parameters[1], inputs, labels, rho)
        losses.append(loss)
        for i in range(2):
            velocities[i] = momentum * velocities[i] + gradients[i] + weight_decay * parameters[i]
            parameters[i] = parameters[i] - lr * velocities[i]
    return parameters[0], parameters[1], losses
