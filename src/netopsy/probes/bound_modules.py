"""The modules that a bound is told of, and the prior and KL of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from netopsy._checks import NetopsyError, at_least, inside, shorten
from netopsy._typing import FloatArray

Modules: TypeAlias = pd.DataFrame | Mapping[str, Sequence[Any]]
"""A frame, or a dict of lists, with a row a module."""


def priors(modules: Modules, sites: Sequence[str], log_sigma: FloatArray, m: int) -> pd.DataFrame:
    """The prior that the grid offers each module, and its KL; in logarithms, for σ can be below 10⁻³⁰⁰.

    With s² = σ² + α²‖Δ‖²/k, the best σ_P², the grid's next above it is e^{t} s² with 0 ≤ t < 1/k, and
    KL = ½ k (log(s²/σ²) + e^{-t} - 1 + t). Where the grid ends below s² (j = 1, t < 0) KL exceeds 2m: vacuous.
    """
    alpha = read_column(modules, "alpha", sites, 0, 1)
    distance = read_column(modules, "distance", sites, 0, math.inf, open_high=True)
    k = read_column(modules, "parameters", sites, 1, math.inf, open_high=True)
    with np.errstate(divide="ignore"):  # a module that did not move, or goes all the way back
        log_step = 2 * np.log(alpha * distance) - np.log(k)
    movement = k * np.logaddexp(0, log_step - 2 * log_sigma)
    log_spread = np.logaddexp(2 * log_sigma, log_step)
    place = 4 * m + k - k * log_spread
    index = np.maximum(1, np.floor(place))
    gap = (place - index) / k
    with np.errstate(over="ignore"):  # far below the grid's end: infinite serves
        excess = k * (np.expm1(-gap) + gap)
    return pd.DataFrame(
        {
            "site": pd.Series(sites, dtype="string"),
            "parameters": k.astype(np.int64),
            "alpha": alpha,
            "distance": distance,
            "log_sigma": log_sigma,
            "movement": movement,
            "index": index.astype(np.int64),
            "prior_sigma": np.exp((log_spread + gap) / 2),
            "kl": (movement + excess) / 2,
            "union": np.log(math.pi / math.sqrt(6) * index),
            "log_spread": log_spread,
        }
    )


def check_sample(m: int, delta: float) -> None:
    """Refuse fewer than two examples, and a chance of failure outside (0, 1)."""
    at_least("m", m, 2)
    inside("delta", delta, 0, 1, open_low=True, open_high=True)


def read_sites(modules: Modules) -> list[str]:
    """Names of the rows; refuses none, and one twice (several epsilons)."""
    if "parameters" not in modules:
        raise NetopsyError(f"modules: expected a column 'parameters'; got {', '.join(map(str, modules.keys()))}")
    count = len(modules["parameters"])
    sites = [str(site) for site in modules["site"]] if "site" in modules else [str(i) for i in range(count)]
    if not sites:
        raise NetopsyError("modules: expected at least one row; got none")
    if len(set(sites)) < len(sites):
        raise NetopsyError(
            "modules: expected one row a site; some have several; of a criticality frame take the rows of one epsilon"
        )
    return sites


def read_column(
    modules: Modules,
    name: str,
    sites: Sequence[str],
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> FloatArray:
    """A column as floats, each inside the interval; the message names the sites that are not."""
    if name not in modules:
        raise NetopsyError(f"modules: expected a column {name!r}; got {', '.join(map(str, modules.keys()))}")
    values = pd.Series(list(modules[name]), dtype="Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    if len(values) != len(sites):
        raise NetopsyError(f"modules: expected columns of one length, {len(sites)}; {name!r} has {len(values)}")
    above = values > low if open_low else values >= low
    below = values < high if open_high else values <= high
    bad = [f"{sites[int(i)]} ({values[i]:g})" for i in np.flatnonzero(~(above & below))]
    if bad:
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise NetopsyError(
            f"{name}: expected numbers in {left}{low:g}, {high:g}{right}; got {shorten(bad)}; an infeasible module "
            "has no bound: take a larger epsilon"
        )
    return values
