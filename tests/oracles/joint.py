"""The joint criticality the slow way, in float64: a grid over all modules' alpha and sigma at once."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Values = Mapping[str, Tensor]


@torch.no_grad()
def error(
    model: nn.Module,
    start: Values,
    noise: Sequence[Values],
    x: Tensor,
    y: Tensor,
    point: Mapping[str, tuple[float, float]],
) -> float:
    """Mean 0-1 error over the draws with each named module at (1 - alpha) start + alpha trained + sigma noise."""
    twin = copy.deepcopy(model).double().eval()
    trained = {name: value.clone() for name, value in twin.named_parameters()}
    wrong = 0
    for draw in noise:
        for name, value in twin.named_parameters():
            site = name.rpartition(".")[0]
            if site in point:
                alpha, sigma = point[site]
                mixed = (1 - alpha) * start[name].double() + alpha * trained[name]
                value.copy_(mixed + sigma * draw[name].double())
        wrong += int((twin(x.double()).argmax(1) != y).sum())
    return wrong / (len(noise) * len(y))


def value(model: nn.Module, start: Values, point: Mapping[str, tuple[float, float]]) -> float:
    """Sum over the modules of k log(1 + alpha² ‖Δ‖² / (k sigma²))."""
    total = 0.0
    for site, (alpha, sigma) in point.items():
        squares, count = 0.0, 0
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[0] == site:
                squares += float((parameter.detach().double() - start[name].double()).square().sum())
                count += parameter.numel()
        total += count * math.log(1 + alpha**2 * squares / (count * sigma**2))
    return total


def grid(
    model: nn.Module,
    start: Values,
    noise: Sequence[Values],
    x: Tensor,
    y: Tensor,
    epsilon: float,
    sites: Sequence[str],
    alphas: Sequence[float],
    sigmas: Sequence[float],
) -> float:
    """The least value on the grid that is allowed."""
    single = list(itertools.product(alphas, sigmas))
    points = [dict(zip(sites, choice, strict=True)) for choice in itertools.product(single, repeat=len(sites))]
    for point in sorted(points, key=lambda point: value(model, start, point)):
        if error(model, start, noise, x, y, point) <= epsilon:
            return value(model, start, point)
    return math.inf
