"""Complexity measures by their definitions: matrices written out, paths walked one by one; nothing of netopsy."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def matrix(module: nn.Module, shape: tuple[int, ...], weight: Tensor) -> Tensor:
    """The matrix of x ↦ A x: what a bias-free copy of the module makes of each unit vector, in float64."""
    size = int(np.prod(shape))
    columns = []
    with torch.no_grad():
        zero = torch.func.functional_call(module, {"weight": weight}, (torch.zeros(1, *shape, dtype=torch.float64),))
        for i in range(size):
            unit = torch.zeros(size, dtype=torch.float64)
            unit[i] = 1
            output = torch.func.functional_call(module, {"weight": weight}, (unit.reshape(1, *shape),))
            columns.append((output - zero).flatten())
    return torch.stack(columns, 1)


def path_norm(weights: list[np.ndarray], biases: list[np.ndarray]) -> float:
    """√ Σ over paths, from an input or from a bias, of the product of squared weights: a fully connected network."""
    total = 0.0
    depth = len(weights)
    for start in range(depth):
        later = [range(weights[i].shape[0]) for i in range(start, depth)]
        for path in itertools.product(*later):
            product = 1.0
            for i in range(start + 1, depth):
                product *= weights[i][path[i - start], path[i - start - 1]] ** 2
            if start == 0:
                total += sum(w**2 for w in weights[0][path[0]]) * product
            total += biases[start][path[0]] ** 2 * product
    return float(np.sqrt(total))


def hessian(loss: Callable[[Tensor], Tensor], parameters: Tensor) -> np.ndarray:
    """Second derivatives by central differences of the loss itself."""
    size, step = len(parameters), 1e-3
    found = np.zeros((size, size))
    for i, j in itertools.product(range(size), repeat=2):
        total = 0.0
        for a, b in itertools.product((-1, 1), repeat=2):
            moved = parameters.clone()
            moved[i] += a * step
            moved[j] += b * step
            total += a * b * float(loss(moved))
        found[i, j] = total / (4 * step**2)
    return found


def kendall(x: list[float], y: list[float]) -> float:
    total, pairs = 0, 0
    for i in range(len(x)):
        for j in range(i):
            pairs += 1
            if (x[i] < x[j] and y[i] < y[j]) or (x[i] > x[j] and y[i] > y[j]):
                total += 1
            elif x[i] != x[j] and y[i] != y[j]:
                total -= 1
    return total / pairs
