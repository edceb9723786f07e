"""Criticality under one constraint: a grid in float64, the constraint on all data, modules that do not count."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked
from netopsy.engine.edits import AddNoise
from netopsy.network.addresses import Address
from netopsy.network.trajectory import Trajectory
from netopsy.probes.bounds import pac_bayes_bound
from netopsy.probes.criticality import criticality
from netopsy.probes.joint_criticality import JointCriticalityResult, joint_criticality
from tests.oracles import joint as oracle

DRAWS, EPSILON = 2, 0.12


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))


@cache
def data() -> tuple[Tensor, Tensor]:
    with forked(3):
        x = torch.randn(200, 3)
        return x, x.argmax(1)


@cache
def trained() -> Trajectory:
    x, y = data()
    with forked(4):
        model = net()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return Trajectory.from_states(net(), {0: start, 1: model.state_dict()})


def noise(trajectory: Trajectory, draws: int = DRAWS) -> list[dict[str, Tensor]]:
    return [
        {
            name: AddNoise(1.0, derive(0, name.rpartition(".")[0], draw))(
                torch.zeros_like(value), Address("parameter", name)
            )
            for name, value in trajectory.model().named_parameters()
        }
        for draw in range(draws)
    ]


@cache
def measured() -> JointCriticalityResult:
    return joint_criticality(trained(), data(), epsilon=EPSILON, noise_samples=DRAWS)


def test_the_constraint_holds_on_all_data_and_the_sum_is_what_the_formula_gives() -> None:
    trajectory, frame = trained(), measured().to_frame()
    assert list(frame) == ["site", "epsilon", "alpha", "sigma", "distance", "parameters", "mu", "error", "status"]
    point = {row.site: (row.alpha, row.sigma) for row in frame.itertuples()}
    at = oracle.error(trajectory.model(), trajectory.state(0), noise(trajectory), *data(), point)
    assert frame.error.tolist() == pytest.approx([at] * 2, abs=1.5 / (DRAWS * 200))
    assert (frame.error <= EPSILON).all()
    assert measured().total() == pytest.approx(oracle.value(trajectory.model(), trajectory.state(0), point))
    assert frame.sigma.between(0, 1).all()
    assert frame.alpha.between(0, 1).all()


def test_no_coarse_grid_finds_much_less() -> None:
    trajectory = trained()
    least = oracle.grid(
        trajectory.model(),
        trajectory.state(0),
        noise(trajectory),
        *data(),
        EPSILON,
        ["0", "2"],
        [0.0, 0.3, 0.5, 0.7, 0.85, 1.0],
        [0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6],
    )
    assert math.isfinite(least)
    assert measured().total() < 1.1 * least


def test_it_is_never_above_the_modules_own_optima_made_smaller_together() -> None:
    trajectory = trained()
    alone = criticality(trajectory, data(), epsilon=EPSILON, noise_samples=DRAWS, relative_tolerance=0.1)
    rows, start = alone.to_frame(), trajectory.state(0)
    for shrink in (0.02 * 1.05**i for i in range(90)):
        point = {row.site: (row.alpha, min(1.0, row.sigma * shrink)) for row in rows.itertuples()}
        if oracle.error(trajectory.model(), start, noise(trajectory), *data(), point) <= EPSILON:
            assert measured().total() <= oracle.value(trajectory.model(), start, point) * 1.01
    assert measured().total() <= measured().provenance["start"]
    given = joint_criticality(trajectory, data(), epsilon=EPSILON, noise_samples=DRAWS, criticality=alone)
    assert given.to_frame().error.max() <= EPSILON


def test_a_bound_takes_it_as_its_modules() -> None:
    bound = pac_bayes_bound(measured().to_frame(), m=200, train_error=EPSILON)
    assert bound.movement == pytest.approx(measured().total() / 4)


def test_what_never_moved_has_no_mu() -> None:
    end = trained().state(1)
    still = Trajectory.from_states(net(), {0: end, 1: end})
    frame = joint_criticality(still, data(), epsilon=EPSILON, noise_samples=DRAWS).to_frame()
    assert frame.status.tolist() == ["no-op"] * 2
    assert frame.mu.tolist() == [0, 0]
    assert (frame.error <= EPSILON).all()


def test_a_network_that_fits_nothing_is_infeasible() -> None:
    x, y = data()
    result = joint_criticality(trained(), (x, (y + 1) % 3), epsilon=0.1, noise_samples=DRAWS)
    assert set(result.to_frame().status) == {"infeasible"}
    assert math.isnan(result.total())
    assert result.to_frame().error[0] > 0.8


def test_blocks_of_examples_in_the_search_and_the_same_twice() -> None:
    options = {"epsilon": EPSILON, "noise_samples": DRAWS, "batch_size": 20, "examples": 80, "evaluations": 25}
    first, second = (joint_criticality(trained(), data(), **options) for _ in range(2))
    assert first.provenance["search_examples"] == 80
    assert first.to_frame().equals(second.to_frame())
    assert first.to_frame().error.max() <= EPSILON
    assert "an upper bound of the least at 2 noise draws" in str(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.5}, r"epsilon: expected a number in \[0, 1\); got 1.5"),
        ({"noise_samples": 0}, "noise_samples: expected an integer >= 1"),
        ({"relative_tolerance": 0.0}, r"relative_tolerance: expected a number in \(0, 0.5\]"),
        ({"examples": 0}, "examples: expected an integer >= 1"),
        ({"evaluations": 0}, "evaluations: expected an integer >= 1"),
        ({"sites": {"all": "*", "first": "0"}}, "sites: expected sites that share no values"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        joint_criticality(trained(), data(), **options)


def test_weights_and_rows_that_are_refused() -> None:
    start = {name: value * math.nan for name, value in trained().state(0).items()}
    bad = Trajectory.from_states(net(), {0: start, 1: trained().state(1)})
    with pytest.raises(NetopsyError, match="expected finite weights; 0, 2 have NaN"):
        joint_criticality(bad, data(), epsilon=EPSILON)
    alone = criticality(trained(), data(), epsilon=EPSILON, noise_samples=1, sites="0", relative_tolerance=0.5)
    with pytest.raises(NetopsyError, match=r"expected a row of each site at epsilon = 0\.12; 2 not there"):
        joint_criticality(trained(), data(), epsilon=EPSILON, criticality=alone)
