"""Transitions along a path by dense samples in float64 (a plain loop over layers), and by root isolation."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import torch
from torch import Tensor, nn

THRESHOLDS: dict[type[nn.Module], tuple[float, ...]] = {
    nn.ReLU: (0.0,),
    nn.LeakyReLU: (0.0,),
    nn.PReLU: (0.0,),
    nn.ReLU6: (0.0, 6.0),
    nn.Hardtanh: (-1.0, 1.0),
    nn.Hardsigmoid: (-3.0, 3.0),
    nn.Tanh: (0.0,),
    nn.GELU: (0.0,),
}


def codes(model: nn.Module, points: Tensor) -> Tensor:
    """(points, units): the piece of every unit of every activation, read by hooks."""
    found: list[Tensor] = []

    def read(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        pre = args[0].flatten(1)
        found.append(sum((pre > threshold).long() for threshold in THRESHOLDS[type(module)]))

    hooks = [m.register_forward_pre_hook(read) for m in model.modules() if type(m) in THRESHOLDS]
    with torch.no_grad():
        model(points)
    for hook in hooks:
        hook.remove()
    return torch.cat(found, 1)


def sampled(model: nn.Module, points: Tensor, closed: bool) -> int:
    """Sum of |changes of codes| between neighboring points."""
    all_codes = codes(model, points)
    total = int((all_codes[1:] - all_codes[:-1]).abs().sum())
    return total + int((all_codes[-1] - all_codes[0]).abs().sum()) if closed else total


def isolated(
    weights: list[np.ndarray], biases: list[np.ndarray], at: Callable[[mpmath.mpf], list], cells: int
) -> int:
    """Crossings of a ReLU network's units over t in [0, 1], in 40 digits.

    Bisects every stretch until each unit's sign changes at most once between neighbors `2^-60` apart.
    """
    with mpmath.workdps(40):

        def signs(t: mpmath.mpf) -> tuple[int, ...]:
            h, out = at(t), []
            for w, b in zip(weights, biases, strict=True):
                pre = [
                    sum(mpmath.mpf(float(w[i, j])) * h[j] for j in range(len(h))) + float(b[i]) for i in range(len(w))
                ]
                out += [int(value > 0) for value in pre]
                h = [max(value, mpmath.mpf(0)) for value in pre]
            return tuple(out)

        def between(a: mpmath.mpf, b: mpmath.mpf, at_a: tuple[int, ...], at_b: tuple[int, ...], depth: int) -> int:
            if at_a == at_b:
                return 0
            if depth == 0:
                return sum(x != y for x, y in zip(at_a, at_b, strict=True))
            c = (a + b) / 2
            at_c = signs(c)
            return between(a, c, at_a, at_c, depth - 1) + between(c, b, at_c, at_b, depth - 1)

        places = [mpmath.mpf(i) / cells for i in range(cells + 1)]
        known = [signs(t) for t in places]
        return sum(between(places[i], places[i + 1], known[i], known[i + 1], 50) for i in range(cells))
