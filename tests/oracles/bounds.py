"""The bounds of Chatterji et al. (2020) a term at a time in 50 digits: slow, plain, from the definitions."""

from __future__ import annotations

from decimal import Decimal, getcontext
from typing import Any

getcontext().prec = 50
PI = Decimal("3.14159265358979323846264338327950288419716939937510")

Row = tuple[float, float, float, int]
"""alpha, sigma, distance, parameters."""


def gaussian_kl(step: Decimal, sigma2: Decimal, prior2: Decimal, k: int) -> Decimal:
    """KL(N(μ, σ² I) ‖ N(μ_P, σ_P² I)) in k dimensions with ‖μ - μ_P‖² = step, coordinate by coordinate."""
    each = step / k  # only the norm counts: spread it evenly
    total = Decimal(0)
    for _ in range(min(k, 10)):
        total += (prior2 / sigma2).ln() / 2 + (sigma2 + each) / (2 * prior2) - Decimal(1) / 2
    return total * k / min(k, 10)


def prior(m: int, k: int, best: Decimal) -> tuple[int, Decimal]:
    """The last j whose σ_P² = exp((4m - j)/k + 1) is not below the best one, found by walking along the grid."""
    j = 1
    leap = 1 << 24
    while leap:  # the grid falls with j
        if (Decimal(4 * m - (j + leap)) / k + 1).exp() >= best:
            j += leap
        leap >>= 1
    return j, (Decimal(4 * m - j) / k + 1).exp()


def terms(rows: list[Row], m: int, delta: float) -> dict[str, Any]:
    """Everything that the bounds are made of, per module and in all."""
    found: dict[str, Any] = {"index": [], "kl": [], "best_kl": [], "union": []}
    for alpha, sigma, distance, k in rows:
        step = (Decimal(alpha) * Decimal(distance)) ** 2
        sigma2 = Decimal(sigma) ** 2
        best = sigma2 + step / k
        j, prior2 = prior(m, k, best)
        found["index"].append(j)
        found["kl"].append(gaussian_kl(step, sigma2, prior2, k))
        found["best_kl"].append(gaussian_kl(step, sigma2, best, k))
        found["union"].append((PI * PI * j * j / 6).ln())  # log of what 1/j² in the union bound costs: 2 log(πj/√6)
    found["failure"] = (Decimal(m) / Decimal(delta)).ln()
    return found


def kl_rate(rows: list[Row], m: int, delta: float) -> Decimal:
    """The right side of Theorem A.1 under the union bound over the grid."""
    t = terms(rows, m, delta)
    return (sum(t["kl"]) + t["failure"] + sum(t["union"])) / (m - 1)


def valid_rate(rows: list[Row], m: int, delta: float) -> Decimal:
    """What is under the root: Pinsker halves Theorem A.1; the grid costs at most ½ a module over the best prior."""
    t = terms(rows, m, delta)
    most = sum(best + Decimal(1) / 2 for best in t["best_kl"])
    return (most + t["failure"] + sum(t["union"])) / (2 * (m - 1))


def paper_rate(rows: list[Row], m: int, delta: float) -> Decimal:
    """As printed: ¼ Σ k log(1 + α²‖Δ‖²/(kσ²)) + log(m/δ) + Σ log(7m + 2 log(k/(kσ² + α²‖Δ‖²)))."""
    total = (Decimal(m) / Decimal(delta)).ln()
    for alpha, sigma, distance, k in rows:
        step, sigma2 = (Decimal(alpha) * Decimal(distance)) ** 2, Decimal(sigma) ** 2
        total += k * (1 + step / (k * sigma2)).ln() / 4
        total += (7 * m + 2 * (k / (k * sigma2 + step)).ln()).ln()
    return total / (m - 1)


def deterministic_rate(rows: list[Row], m: int, delta: float) -> Decimal:
    """Under the root of Theorem B.2.

    The part of the posterior that keeps every output within γ/4 has mass ≥ ½, so its KL is ≤ 2 (KL + log 2); twice
    the KL and log 4 then come into Theorem A.1 for the margin loss.
    """
    t = terms(rows, m, delta)
    most = sum(best + Decimal(1) / 2 for best in t["best_kl"])
    restricted = 2 * (most + Decimal(2).ln())
    return (restricted + t["failure"] + sum(t["union"])) / (2 * (m - 1))


def kl(q: Decimal, p: Decimal) -> Decimal:
    total = Decimal(0)
    if q > 0:
        total += q * (q / p).ln()
    if q < 1:
        total += (1 - q) * ((1 - q) / (1 - p)).ln()
    return total


def kl_inverse(q: float, c: Decimal) -> Decimal:
    low, high = Decimal(q), Decimal(1)
    for _ in range(150):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(Decimal(q), middle) <= c else (low, middle)
    return low
