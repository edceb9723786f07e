"""Which convex polygon a point lies in, and the pieces of a chain of modules at a point: plain loops."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

KINKS = {
    nn.ReLU: (0.0,), nn.LeakyReLU: (0.0,), nn.PReLU: (0.0,), nn.ReLU6: (0.0, 6.0), nn.Hardtanh: (-1.0, 1.0),
    nn.Hardsigmoid: (-3.0, 3.0),
}  # fmt: skip


def holds(polygon: np.ndarray, point: np.ndarray, margin: float) -> bool:
    """Whether a point lies inside a counterclockwise polygon, farther than `margin` from its border."""
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        (du, dv), (u, v) = end - start, point - start
        length = np.hypot(du, dv)
        if length > 0 and (du * v - dv * u) / length <= margin:
            return False
    return True


@torch.no_grad()
def code(modules: Sequence[nn.Module], x: Tensor) -> tuple[int, ...]:
    """The piece of each unit of each activation in a chain, at one input, in the precision of the modules."""
    found: list[int] = []
    x = x.unsqueeze(0)
    for module in modules:
        if type(module) in KINKS:
            found += [sum(value > t for t in KINKS[type(module)]) for value in x.flatten().tolist()]
        x = module(x)
    return tuple(found)
