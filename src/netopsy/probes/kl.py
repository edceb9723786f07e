"""The divergence of two coins, and how far the true one can be from the one that was seen."""

from __future__ import annotations

import math

from netopsy._checks import inside


def kl(q: float, p: float) -> float:
    """kl(q‖p) = q log(q/p) + (1 - q) log((1 - q)/(1 - p)) of Bernoulli distributions, in nats.

    >>> kl(0.0, 0.5) == math.log(2)
    True
    """
    heads = 0.0 if q == 0 else math.inf if p == 0 else q * math.log(q / p)
    tails = 0.0 if q == 1 else math.inf if p == 1 else (1 - q) * (math.log1p(-q) - math.log1p(-p))
    return heads + tails


def kl_inverse(q: float, c: float) -> float:
    """The largest p with kl(q‖p) ≤ c, from above (Dziugaite and Roy 2017): at most q + √(c/2).

    Args:
        q: what was seen, in [0, 1].
        c: what the divergence is known not to exceed, in nats.

    Raises:
        NetopsyError: for numbers out of range.

    >>> round(kl_inverse(0.0, math.log(4)), 12)  # 1 - e^{-c}
    0.75
    """
    inside("q", q, 0, 1)
    inside("c", c, 0, math.inf)
    low, high = q, 1.0
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return high if c > 0 else q
        low, high = (middle, high) if kl(q, middle) <= c else (low, middle)
