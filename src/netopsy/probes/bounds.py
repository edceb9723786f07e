"""A bound on the true error from how far each module has to move, and how much noise it bears there.

Chatterji, Neyshabur, Sedghi: The intriguing role of module criticality in the generalization of deep networks
(ICLR 2020), Theorems 3.2 and A.1. docs/bounds.md derives the constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy.probes.bound_modules import Modules, check_sample, priors, read_column, read_sites
from netopsy.probes.kl import kl_inverse

Form: TypeAlias = Literal["valid", "kl", "paper"]
"""Theorem 3.2 with constants that hold; the tighter inverse of kl (Theorem A.1); or as printed (Eq. 3)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PacBayesBound:
    """A bound on E_U L_D(f_{Θα+U}), the true 0-1 error of the network under noise, and every term of it.

    The first four terms add up to `complexity`; `rate` is that over m - 1. `value` is `train_error_high + √rate`, or
    for `form="kl"` the largest p with kl(train_error_high ‖ p) ≤ rate.

    Attributes:
        value: the bound; 1 or more says nothing (see `vacuous`).
        confidence: that it holds, 1 - δ (- δ' for a training error from draws).
        train_error: as it was given.
        train_error_high: what stands for E_U L_S: the same where it is exact, else its upper limit at 1 - δ'.
        movement: ¼ Σ k log(1 + α²‖Δ‖²/(kσ²)); for `"kl"` the exact KL(Q‖P) = Σ `modules.kl`.
        covering: ¼ a module, the price of the grid of σ_P (0 for `"kl"`, where it is in the KL, and for `"paper"`).
        failure: ½ log(m/δ); for `"kl"` and `"paper"` log(m/δ).
        union: Σ log(π j/√6); for `"kl"` twice that; for `"paper"` Σ log(7m + 2 log(k/(kσ² + α²‖Δ‖²))).
        form: as asked.
        m: as asked.
        delta: as asked.
        draws: as asked.
        delta_draws: as asked.
        modules: a row a module: `site, parameters, alpha, sigma, distance`; `movement` = k log(1 + α²‖Δ‖²/(kσ²));
            `index` j and `prior_sigma` of the prior that the grid offers; `kl` with that prior; `union` as above.
    """

    value: float
    confidence: float
    train_error: float
    train_error_high: float
    movement: float
    covering: float
    failure: float
    union: float
    form: Form
    m: int
    delta: float
    draws: int | None
    delta_draws: float
    modules: pd.DataFrame = field(repr=False)

    @property
    def complexity(self) -> float:
        """Movement, covering, failure and union together."""
        return self.movement + self.covering + self.failure + self.union

    @property
    def rate(self) -> float:
        """Complexity over m - 1."""
        return self.complexity / (self.m - 1)

    @property
    def vacuous(self) -> bool:
        """Whether the bound is 1 or more, which every error satisfies."""
        return self.value >= 1

    def __str__(self) -> str:
        terms = {name: getattr(self, name) for name in ("movement", "covering", "failure", "union", "complexity")}
        read = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        says = " (vacuous)" if self.vacuous else ""
        return (
            f"E L_D <= {self.value:.4g}{says} with confidence {self.confidence:g}; form {self.form!r}, m = {self.m}\n"
            f"train error {self.train_error:.4g}, at most {self.train_error_high:.4g}; {read}; rate {self.rate:.4g}"
        )


def pac_bayes_bound(
    modules: Modules,
    *,
    m: int,
    train_error: float,
    draws: int | None = None,
    delta: float = 0.05,
    delta_draws: float = 0.01,
    form: Form = "valid",
) -> PacBayesBound:
    """Bound the true error of a network whose modules were moved toward their initial weights and made noisy.

    The posterior of module i is N(θ_i^α, σ_i² I), the prior N(θ_i^0, σ_P² I) with σ_P² = exp((4m - j)/k_i + 1) for
    one of j = 1, 2, …; a union bound over j makes it hold for all α_i and σ_i at once, also for chosen ones.

    Args:
        modules: columns `alpha` in [0, 1], `sigma` in (0, 1], `distance` = ‖θ^F - θ^0‖_Fr, `parameters` (k, an
            integer), and `site` for their names; such as the frame of `netopsy.criticality` at one epsilon.
        m: training examples.
        train_error: E_U L_S(f_{Θα+U}), the training 0-1 error with *all* modules moved and noisy together (not the
            `error` of a criticality frame, where one module is), or its mean over `draws`.
        draws: of the noise that `train_error` is the mean of, independent of how α and σ were chosen; None: it is
            exact.
        delta: probability of training sets for which the bound may fail.
        delta_draws: probability of draws for which it may.
        form: `"valid"`, `"kl"` (the same prior, its exact KL and no square root: never larger), or `"paper"` (as
            printed: its constant is not proven and can be too small with many modules).

    Returns:
        The bound, term by term.

    Raises:
        NetopsyError: for a column that is missing, numbers out of range, a module that is infeasible (no α, σ).
    """
    one_of("form", form, ("valid", "kl", "paper"))
    check_sample(m, delta)
    inside("train_error", train_error, 0, 1)
    if draws is not None:
        at_least("draws", draws, 1)
        inside("delta_draws", delta_draws, 0, 1, open_low=True, open_high=True)
    sites = read_sites(modules)
    sigma = read_column(modules, "sigma", sites, 0, 1, open_low=True)
    table = priors(modules, sites, np.log(sigma), m)
    table["log_sigma"] = sigma
    table = table.rename(columns={"log_sigma": "sigma"})
    high = train_error if draws is None else kl_inverse(train_error, math.log(2 / delta_draws) / draws)
    if form == "paper":
        inner = 7 * m - 2 * table.pop("log_spread").to_numpy()
        if (inner <= 1).any():
            raise NetopsyError(
                f"form='paper': its constant log(7m + 2 log(k/(kσ² + α²‖Δ‖²))) is not positive at m = {m}; use "
                "form='valid'"
            )
        table["union"] = np.log(inner)
        terms = {"movement": table.movement.sum() / 4, "covering": 0.0, "failure": math.log(m / delta)}
    elif form == "kl":
        table["union"] *= 2
        terms = {"movement": table.kl.sum(), "covering": 0.0, "failure": math.log(m / delta)}
    else:
        terms = {
            "movement": table.movement.sum() / 4,
            "covering": len(table) / 4,
            "failure": math.log(m / delta) / 2,
        }
    table = table.drop(columns="log_spread", errors="ignore")
    terms["union"] = table.union.sum()
    terms = {name: float(value) for name, value in terms.items()}
    rate = sum(terms.values()) / (m - 1)
    return PacBayesBound(
        value=kl_inverse(high, rate) if form == "kl" else high + math.sqrt(rate),
        confidence=1 - delta - (0 if draws is None else delta_draws),
        train_error=train_error,
        train_error_high=high,
        **terms,
        form=form,
        m=m,
        delta=delta,
        draws=draws,
        delta_draws=delta_draws,
        modules=table,
    )
