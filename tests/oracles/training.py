"""Slow, obvious training arithmetic in float64; imports nothing of netopsy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np


def softmax_regression_gradient(
    weight: np.ndarray, bias: np.ndarray, inputs: np.ndarray, labels: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean cross-entropy of logits Wx + b, and its gradients ∂W = mean (p − e_y) xᵀ, ∂b = mean (p − e_y)."""
    loss, d_weight, d_bias = 0.0, np.zeros_like(weight), np.zeros_like(bias)
    for x, y in zip(inputs, labels, strict=True):
        logits = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        total = sum(math.exp(z) for z in logits)
        loss += (math.log(total) - logits[y]) / len(inputs)
        for c, z in enumerate(logits):
            slope = (math.exp(z) / total - (1.0 if c == y else 0.0)) / len(inputs)
            d_bias[c] += slope
            for k, v in enumerate(x):
                d_weight[c, k] += slope * v
    return loss, d_weight, d_bias


def one_hot_regression_gradient(
    weight: np.ndarray, bias: np.ndarray, inputs: np.ndarray, labels: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean over examples of Σ_c (Wx + b − e_y)²_c, and its gradients."""
    loss, d_weight, d_bias = 0.0, np.zeros_like(weight), np.zeros_like(bias)
    for x, y in zip(inputs, labels, strict=True):
        for c, (row, b) in enumerate(zip(weight, bias, strict=True)):
            off = sum(w * v for w, v in zip(row, x, strict=True)) + b - (1.0 if c == y else 0.0)
            loss += off**2 / len(inputs)
            d_bias[c] += 2 * off / len(inputs)
            for k, v in enumerate(x):
                d_weight[c, k] += 2 * off * v / len(inputs)
    return loss, d_weight, d_bias


def sgd(
    weight: np.ndarray,
    bias: np.ndarray,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    lrs: Sequence[float],
    momentum: float,
    weight_decay: float,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """v ← μv + (g + λθ), θ ← θ − lr · v, one step a batch; also the loss met by every batch."""
    parameters = [weight.copy(), bias.copy()]
    velocities = [np.zeros_like(weight), np.zeros_like(bias)]
    losses = []
    for (inputs, labels), lr in zip(batches, lrs, strict=True):
        loss, *gradients = softmax_regression_gradient(parameters[0], parameters[1], inputs, labels)
        losses.append(loss)
        for i in range(2):
            velocities[i] = momentum * velocities[i] + gradients[i] + weight_decay * parameters[i]
            parameters[i] = parameters[i] - lr * velocities[i]
    return parameters[0], parameters[1], losses


def adam(
    weight: np.ndarray,
    bias: np.ndarray,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    lr: float,
    beta1: float,
    weight_decay: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Kingma and Ba (2015), algorithm 1, with β₂ = 0.999, ε = 1e-8 and an L2 term in the gradient."""
    beta2, epsilon = 0.999, 1e-8
    parameters = [weight.copy(), bias.copy()]
    first, second = [np.zeros_like(weight), np.zeros_like(bias)], [np.zeros_like(weight), np.zeros_like(bias)]
    for step, (inputs, labels) in enumerate(batches, start=1):
        _, *gradients = softmax_regression_gradient(parameters[0], parameters[1], inputs, labels)
        for i in range(2):
            gradient = gradients[i] + weight_decay * parameters[i]
            first[i] = beta1 * first[i] + (1 - beta1) * gradient
            second[i] = beta2 * second[i] + (1 - beta2) * gradient**2
            mean, square = first[i] / (1 - beta1**step), second[i] / (1 - beta2**step)
            parameters[i] = parameters[i] - lr * mean / (np.sqrt(square) + epsilon)
    return parameters[0], parameters[1]


def rmsprop(
    weight: np.ndarray,
    bias: np.ndarray,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    lrs: Sequence[float],
    momentum: float,
    weight_decay: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Decay 0.9 and ε = 1 outside of the root, with an L2 term in the gradient."""
    parameters = [weight.copy(), bias.copy()]
    squares, steps = [np.zeros_like(weight), np.zeros_like(bias)], [np.zeros_like(weight), np.zeros_like(bias)]
    for (inputs, labels), lr in zip(batches, lrs, strict=True):
        _, *gradients = softmax_regression_gradient(parameters[0], parameters[1], inputs, labels)
        for i in range(2):
            gradient = gradients[i] + weight_decay * parameters[i]
            squares[i] = 0.9 * squares[i] + 0.1 * gradient**2
            steps[i] = momentum * steps[i] + gradient / (np.sqrt(squares[i]) + 1.0)
            parameters[i] = parameters[i] - lr * steps[i]
    return parameters[0], parameters[1]


def mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation by exact summation."""
    flat = [float(value) for value in values.ravel()]
    mean = math.fsum(flat) / len(flat)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in flat) / len(flat))


def crops(image: np.ndarray, pad: int) -> Iterator[tuple[tuple[int, int, bool], np.ndarray]]:
    """Every (top, left, flip) and what padding by zeros, cropping there and mirroring makes of a (c, h, w) image."""
    channels, height, width = image.shape
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            for flip in (False, True):
                out = np.zeros_like(image)
                for c in range(channels):
                    for i in range(height):
                        for j in range(width):
                            row, column = top + i - pad, left + j - pad
                            if 0 <= row < height and 0 <= column < width:
                                out[c, i, width - 1 - j if flip else j] = image[c, row, column]
                yield (top, left, flip), out


def mean_loss_and_error(
    weight: np.ndarray, bias: np.ndarray, inputs: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """Mean cross-entropy of logits Wx + b, and the share of examples whose largest logit is another class's."""
    loss, wrong = 0.0, 0
    for x, y in zip(inputs, labels, strict=True):
        logits = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        loss += math.log(sum(math.exp(z) for z in logits)) - logits[y]
        wrong += max(range(len(logits)), key=lambda c: logits[c]) != y
    return loss / len(inputs), wrong / len(inputs)


def early_stopping(values: Sequence[float], patience: int) -> tuple[int, int]:
    """(best epoch, last epoch), from 1, of a run that would see these values: a plain counter of epochs in vain."""
    lowest, best, vain = math.inf, 1, 0
    for epoch, value in enumerate(values, start=1):
        vain += 1
        if epoch == 1 or value < lowest:
            lowest, best, vain = (value if math.isfinite(value) else math.inf), epoch, 0
        if vain == patience:
            return best, epoch
    return best, len(values)
