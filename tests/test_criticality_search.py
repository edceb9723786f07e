"""The search for the least alpha / sigma on landscapes whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from netopsy.probes.criticality_search import ENOUGH, FEW, Landscape, search
from netopsy.probes.crossing import Estimate, Sample

EPSILON = 0.1


def exact(error: Callable[[float, float], float]) -> Landscape:
    """Errors known without examples."""
    return Landscape(lambda alpha, sigma, sample: Estimate(error(alpha, sigma), 0.0), 1000, 1.0, first=1000)


@pytest.mark.parametrize("steep", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("tolerance", [0.01, 0.05])
def test_a_landscape_with_a_formula(steep: float, tolerance: float) -> None:
    """With an error of 0.01 + steep (1 - alpha)² + sigma² the best alpha is 1 - room / steep."""
    room = EPSILON - 0.01
    found = search(
        exact(lambda alpha, sigma: 0.01 + steep * (1 - alpha) ** 2 + sigma**2), EPSILON, tolerance=tolerance, seed=0
    )
    assert found.status == "feasible"
    assert -1e-9 <= math.log((found.alpha / found.sigma) ** 2 * room / (1 - room / steep)) < tolerance


def test_where_noise_helps_at_small_alpha_a_feasible_module_is_not_called_infeasible() -> None:
    """Below alpha = 0.5 the error falls with the noise before it rises; at 1 it is 0.01 and sigma."""

    def error(alpha: float, sigma: float) -> float:
        return 0.01 + sigma if alpha >= 0.5 else 0.11 - 0.2 * sigma if sigma < 0.1 else sigma - 0.01

    for seed in range(5):
        found = search(exact(error), EPSILON, tolerance=0.01, seed=seed)
        assert found.status == "feasible"
        assert error(found.alpha, found.sigma) <= EPSILON


def test_nothing_is_feasible_where_the_trained_network_is_not() -> None:
    assert search(exact(lambda alpha, sigma: 0.2 + sigma), EPSILON, tolerance=0.01, seed=0).status == "infeasible"


class Population:
    """Examples that are wrong where the damage exceeds what each can take; counts what is measured."""

    def __init__(self, seed: int, damage: Callable[[float, float], float], total: int = 60_000) -> None:
        self.limits = np.random.default_rng(seed).normal(size=total)
        self.ordered, self.damage, self.total = np.sort(self.limits), damage, total
        self.measured: list[int] = []

    def error(self, alpha: float, sigma: float) -> float:
        return float(np.searchsorted(self.ordered, self.damage(alpha, sigma))) / self.total

    def measure(self, alpha: float, sigma: float, sample: Sample) -> Estimate:
        n = sample.size
        self.measured.append(n)
        wrong = self.limits[:n] < self.damage(alpha, sigma)
        if n == self.total:
            return Estimate(float(wrong.mean()), 0.0)
        left = math.sqrt(1 - n / self.total)
        if sample.anchor is None:
            return Estimate(float(wrong.mean()), float(wrong.std()) / math.sqrt(n) * left)
        apart = wrong.astype(float) - (self.limits[:n] < self.damage(*sample.anchor))
        spread = max(float(apart.std()), 1 / math.sqrt(n)) / math.sqrt(n) * left
        return Estimate(self.error(*sample.anchor) + float(apart.mean()), spread)


@pytest.mark.parametrize("seed", range(4))
def test_few_examples_and_an_anchor_find_what_all_examples_have(seed: int) -> None:
    people = Population(seed, lambda alpha, sigma: -2.4 + 1.5 * (1 - alpha) ** 4 + 8 * sigma**1.5)
    land = Landscape(people.measure, people.total, 1.0, FEW, 1 / people.total)
    found = search(land, EPSILON, tolerance=0.01, seed=seed)

    def least(alpha: float) -> float:
        room = people.ordered[math.floor(EPSILON * people.total)] - people.damage(alpha, 0.0)
        return alpha / max(1e-9, room / 8) ** (2 / 3)

    best = minimize_scalar(least, bounds=(0.02, 1), method="bounded").fun
    assert people.error(found.alpha, found.sigma) <= EPSILON  # on all of them
    assert abs(2 * math.log(found.alpha / found.sigma / best)) < 0.02
    assert people.measured.count(people.total) <= 6
    assert found.examples >= ENOUGH
