"""A bound on the true error of a convolutional chain by the norms of its modules, without noise.

Chatterji, Neyshabur, Sedghi (ICLR 2020), Theorem B.2. docs/bounds.md derives the constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from netopsy._checks import at_least, inside
from netopsy._typing import FloatArray
from netopsy.probes.bound_modules import Modules, check_sample, priors, read_column, read_sites


@dataclass(frozen=True, kw_only=True, eq=False)
class DeterministicBound:
    """A bound on L_D(f_Θ), the true 0-1 error of the trained network itself (Theorem B.2), and every term of it.

    Attributes:
        value: `margin_error` + √((movement + covering + failure + union) / (m - 1)).
        status: `certified`: Lipschitz constants prove the premise max_x ‖f_Θ - f_Θα‖ ≤ γ/8; `unverified`: nothing
            does, and the bound holds only if it is true.
        change: what Lipschitz constants give for max_x ‖f_Θ - f_Θα‖; NaN where they were not given.
        margin_error: L_{S,γ}(f_Θ), as it was given.
        movement: ½ Σ k log(1 + α²‖Δ‖²/(kσ²)).
        covering: ½ a module.
        failure: ½ log(4m/δ).
        union: Σ log(π j/√6).
        confidence: 1 - δ.
        m: as asked.
        delta: as asked.
        margin: as asked.
        modules: a row a module: `site, parameters, alpha, distance`, `log_sigma` of the noise it is shown to bear,
            `limit` (what bounds σ: the `margin`; Lemma `B.3`; `one`), and `movement, index, prior_sigma, kl, union`.
    """

    value: float
    status: Literal["certified", "unverified"]
    change: float
    margin_error: float
    movement: float
    covering: float
    failure: float
    union: float
    confidence: float
    m: int
    delta: float
    margin: float
    modules: pd.DataFrame = field(repr=False)

    @property
    def vacuous(self) -> bool:
        """Whether the bound is 1 or more, which every error satisfies."""
        return self.value >= 1

    def __str__(self) -> str:
        says = " (vacuous)" if self.vacuous else ""
        return (
            f"L_D <= {self.value:.4g}{says}, confidence {self.confidence:g}, m = {self.m}; premise {self.status}\n"
            f"margin error {self.margin_error:.4g} at margin {self.margin:.4g}; movement {self.movement:.4g}, "
            f"covering {self.covering:.4g}, failure {self.failure:.4g}, union {self.union:.4g}"
        )


def deterministic_bound(
    modules: Modules, *, m: int, margin: float, margin_error: float, radius: float, size: int, delta: float = 0.05
) -> DeterministicBound:
    """Bound the true error of a ReLU chain without biases by the norms of its modules (Theorem B.2).

    σ_i is the smallest of γ / (32 e d B q_i √(c_i log(4dN²)) Π_{j≠i}‖θ_j^α‖₂) (Eq. 10), of what Lemma B.3 asks for,
    ‖θ_i^α‖₂ / (4 d q_i √(c_i log(4dN²))), and of 1 (Theorem 3.2).

    Args:
        modules: rows in the order of the network; columns `alpha` in [0, 1], `distance` = ‖θ^F - θ^0‖_Fr,
            `parameters` (k), `spectral` = ‖θ^α‖₂ > 0 of the operator, `kernel` (q; 1 for a linear layer), `channels`
            (c: the larger of those that come in and go out); and, to certify the premise, `spectral_final` = ‖θ^F‖₂
            and `spectral_change` = ‖θ^F - θ^α‖₂; `site` for their names.
        m: training examples.
        margin: γ.
        margin_error: the share of training examples with a margin of at most γ.
        radius: B, the largest norm ‖x‖₂ of an input of the domain.
        size: N, of the N×N input; with zero padding, plus the largest kernel less one.
        delta: probability of training sets for which the bound may fail.

    Returns:
        The bound, term by term; `status` says whether its premise is proven.

    Raises:
        NetopsyError: for a column that is missing or numbers out of range.
    """
    check_sample(m, delta)
    inside("margin_error", margin_error, 0, 1)
    for name, value in {"margin": margin, "radius": radius}.items():
        inside(name, value, 0, math.inf, open_low=True, open_high=True)
    at_least("size", size, 2)
    sites = read_sites(modules)
    norms = np.log(read_column(modules, "spectral", sites, 0, math.inf, open_low=True, open_high=True))
    kernel = read_column(modules, "kernel", sites, 1, math.inf, open_high=True)
    channels = read_column(modules, "channels", sites, 1, math.inf, open_high=True)
    depth = len(sites)
    noise = np.log(4 * kernel) + np.log(channels * math.log(4 * depth * size**2)) / 2  # log ‖u‖₂/σ, with chance ½
    others = norms.sum() - norms
    limits = np.stack(
        [
            np.log(margin) - np.log(8 * math.e * depth * radius) - noise - others,
            norms - np.log(depth) - noise,
            np.zeros(depth),
        ]
    )
    table = priors(modules, sites, limits.min(0), m).drop(columns="log_spread")
    table.insert(4, "limit", pd.Series(np.array(["margin", "B.3", "one"])[limits.argmin(0)], dtype="string"))
    change = _change(modules, sites, norms, radius)
    terms = {
        "movement": float(table.movement.sum()) / 2,
        "covering": depth / 2,
        "failure": math.log(4 * m / delta) / 2,
        "union": float(table.union.sum()),
    }
    return DeterministicBound(
        value=margin_error + math.sqrt(sum(terms.values()) / (m - 1)),
        status="certified" if change <= margin / 8 else "unverified",
        change=change,
        margin_error=margin_error,
        **terms,
        confidence=1 - delta,
        m=m,
        delta=delta,
        margin=margin,
        modules=table,
    )


def _change(modules: Modules, sites: Sequence[str], norms: FloatArray, radius: float) -> float:
    """B Σ_i Π_{j<i}‖θ_j^α‖ ‖θ_i^F - θ_i^α‖ Π_{j>i}‖θ_j^F‖, modules exchanged one after another; NaN if unknown."""
    if not {"spectral_final", "spectral_change"} <= set(modules.keys()):
        return math.nan
    final = read_column(modules, "spectral_final", sites, 0, math.inf, open_high=True)
    moved = read_column(modules, "spectral_change", sites, 0, math.inf, open_high=True)
    with np.errstate(divide="ignore", over="ignore"):
        before = np.cumsum(norms) - norms
        after = np.array([np.log(final[i + 1 :]).sum() for i in range(len(final))])
        return float(radius * np.exp(before + np.log(moved) + after).sum())
