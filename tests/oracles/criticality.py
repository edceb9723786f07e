"""Criticality the slow way, in float64: a fine grid over alpha and sigma, one draw of the noise after the other."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Values = Mapping[str, Tensor]


@torch.no_grad()
def wrong(model: nn.Module, start: Values, draw: Values, x: Tensor, y: Tensor, alpha: float, sigma: float) -> int:
    """Examples that are wrong with the named parameters at (1 - alpha) start + alpha trained + sigma noise."""
    trained = dict(model.named_parameters())
    values = {
        name: (1 - alpha) * start[name].double() + alpha * trained[name] + sigma * draw[name].double()
        for name in start
    }
    return int((torch.func.functional_call(model, values, (x.double(),)).argmax(1) != y).sum())


def in_double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double().eval()


def error(
    model: nn.Module, start: Values, noise: Sequence[Values], x: Tensor, y: Tensor, alpha: float, sigma: float
) -> float:
    """Mean 0-1 error over the draws."""
    twin = in_double(model)
    return sum(wrong(twin, start, draw, x, y, alpha, sigma) for draw in noise) / (len(noise) * len(y))


def fine_grid(
    model: nn.Module,
    start: Values,
    noise: Sequence[Values],
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    alphas: Sequence[float],
    sigmas: Sequence[float],
) -> tuple[float, float, float] | None:
    """The least mu on the grid, and its alpha and sigma; None where no point is feasible.

    For each alpha the sigmas are walked through from the largest down, as far as they can still be better. Of a point
    whose draws are wrong too often already, the other draws cannot change that.
    """
    twin = in_double(model)
    squares = 0.0
    for name, value in model.named_parameters():
        if name in start:
            squares += float((value.detach().double() - start[name].double()).square().sum())
    best: tuple[float, float, float] | None = None
    for alpha in alphas:
        for sigma in sorted(sigmas, reverse=True):
            mu = alpha**2 * squares / sigma**2
            if best is not None and mu >= best[0]:
                break
            seen = 0
            for draw in noise:
                seen += wrong(twin, start, draw, x, y, alpha, sigma)
                if seen / (len(noise) * len(y)) > epsilon:
                    break
            else:
                best = (mu, alpha, sigma)
                break
    return best


def geometric(low: float, high: float, ratio: float) -> list[float]:
    """From low to high by a ratio."""
    count = math.ceil(math.log(high / low) / math.log(ratio))
    return [low * (high / low) ** (i / count) for i in range(count + 1)]
