"""Module criticality: closed forms, a fine grid in float64, what scaling does, sites without a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked
from netopsy.engine.edits import AddNoise
from netopsy.network.addresses import Address
from netopsy.network.trajectory import Trajectory
from netopsy.probes.criticality import criticality
from netopsy.probes.criticality_result import CriticalityResult
from tests.oracles import criticality as oracle

DRAWS = 5


def net(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 16, bias=bias), nn.ReLU(), nn.Linear(16, 16, bias=bias), nn.ReLU(), nn.Linear(16, 3, bias=bias)
    )


@cache
def data(n: int = 600) -> tuple[Tensor, Tensor]:
    with forked(3):
        x, teacher = torch.randn(600, 6), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        x = torch.cat([x, torch.randn(n - 600, 6)])
        return x, teacher(x).argmax(1)


@cache
def trained(bias: bool = True) -> Trajectory:
    """A small network, its weights before and after a short training."""
    x, y = data()
    with forked(4):
        model = net(bias)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return Trajectory.from_states(net(bias), {0: start, 1: model.state_dict()})


@cache
def measured() -> CriticalityResult:
    return criticality(trained(), data(), epsilon=[0.02, 0.04], noise_samples=DRAWS, relative_tolerance=0.005)


def noise(trajectory: Trajectory, site: str, seed: int = 0, draws: int = DRAWS) -> list[dict[str, Tensor]]:
    """The draws of a site as `AddNoise` makes them."""
    names = [name for name, _ in trajectory.model().named_parameters() if name.startswith(f"{site}.")]
    return [
        {
            name: AddNoise(1.0, derive(seed, site, draw))(
                torch.zeros_like(trajectory.tensor(1, name)), Address("parameter", name)
            )
            for name in names
        }
        for draw in range(draws)
    ]


class Margin(nn.Module):
    """One parameter pair (w, -w): the logits of a constant input, whose margin is 2 w."""

    def __init__(self, w: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[w], [-w]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def margins(start: float, end: float) -> Trajectory:
    return Trajectory.from_states(Margin(), {0: Margin(start).state_dict(), 1: Margin(end).state_dict()})


ONES = (torch.ones(8, 1), torch.zeros(8, dtype=torch.long))


def gaps(trajectory: Trajectory) -> list[float]:
    """What each of ten draws takes off the margin at sigma = 1, the largest first."""
    draws = noise(trajectory, "layer", draws=10)
    return sorted((float(d["layer.weight"][1] - d["layer.weight"][0]) for d in draws), reverse=True)


def only(result: CriticalityResult) -> pd.Series:
    frame = result.to_frame()
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.mark.parametrize(("epsilon", "allowed"), [(0.0, 0), (0.1, 1), (0.35, 3)])
def test_a_linear_model_whose_constraint_is_solved_by_hand(epsilon: float, allowed: int) -> None:
    """Draw k is wrong where sigma d_k > 2 w: sigma is 2 w over the largest d_k that must not be wrong.

    From w0 < 0 the margin grows faster than alpha, so that alpha = 1 is best: mu = ‖Δ‖² d² / (2 w)².
    """
    trajectory = margins(-0.02, 0.04)
    row = only(criticality(trajectory, ONES, epsilon=epsilon, engine="eager"))
    expected = 2 * 0.06**2 * gaps(trajectory)[allowed] ** 2 / 0.08**2
    assert row.status == "feasible"
    assert row.alpha == pytest.approx(1, abs=0.01)
    assert row.mu == pytest.approx(expected, rel=0.02)
    assert row.distance == pytest.approx(0.06 * 2**0.5)
    assert row.error == pytest.approx(allowed / 10)
    assert row.parameters == 2


@pytest.mark.parametrize("site", ["0", "2"])
def test_a_fine_grid_finds_the_same(site: str) -> None:
    trajectory, (x, y) = trained(), data()
    row = measured().to_frame().set_index(["site", "epsilon"]).loc[(site, 0.02)]
    start = {f"{site}.{kind}": trajectory.tensor(0, f"{site}.{kind}") for kind in ("weight", "bias")}
    draws = noise(trajectory, site)
    at = oracle.error(trajectory.model(), start, draws, x, y, row.alpha, row.sigma)
    assert row.error == pytest.approx(at, abs=2 / (DRAWS * len(y)))  # float32 may differ in an example or two
    assert row.error <= 0.02
    around = oracle.geometric(row.sigma / 1.2, 1.2 * row.sigma, 1.008)
    wide = oracle.geometric(row.sigma / 20, min(1.0, 4 * row.sigma), 1.02)
    grids = [
        oracle.fine_grid(trajectory.model(), start, draws, x, y, 0.02, alphas=alphas, sigmas=sigmas)
        for alphas, sigmas in (([row.alpha], [*around, *wide]), (oracle.geometric(0.05, 1, 1.15), wide))
    ]
    least = min(found[0] for found in grids if found is not None)
    assert abs(math.log(row.mu / least)) < 0.02


def test_mu_falls_as_epsilon_grows_and_several_at_once_are_what_each_is_alone() -> None:
    result = measured()
    frame = result.to_frame().pivot(index="site", columns="epsilon", values="mu")
    assert (frame[0.04] <= frame[0.02]).all()
    assert frame[0.04]["2"] < frame[0.02]["2"]
    assert result.total(0.04) == pytest.approx(frame[0.04].sum())
    options = {"noise_samples": DRAWS, "relative_tolerance": 0.005, "sites": ["2"]}
    alone = [criticality(trained(), data(), epsilon=epsilon, **options) for epsilon in (0.02, 0.04)]
    for epsilon, one in zip((0.02, 0.04), alone, strict=True):
        assert abs(math.log(only(one).mu / frame[epsilon]["2"])) < 0.02
    assert result.provenance["tests"]["2"] < 1.2 * sum(one.provenance["tests"]["2"] for one in alone)


def test_intervals_hold_the_numbers() -> None:
    frame = measured().to_frame().query("status == 'feasible'")
    assert len(frame) == 4
    assert (frame.mu_low < frame.mu).all()
    assert (frame.mu < frame.mu_high).all()
    assert (frame.error_low < frame.error).all()
    assert (frame.error <= frame.epsilon).all()
    assert (frame.epsilon - frame.error < 0.002).all()  # the constraint is used up


def test_alpha_zero_is_feasible_by_the_oracle_too() -> None:
    trajectory, (x, y) = trained(), data()
    row = measured().to_frame().set_index(["site", "epsilon"]).loc[("4", 0.02)]
    assert (row.status, row.mu, row.alpha) == ("alpha-zero", 0, 0)
    start = {f"4.{kind}": trajectory.tensor(0, f"4.{kind}") for kind in ("weight", "bias")}
    at = oracle.error(trajectory.model(), start, noise(trajectory, "4"), x, y, 0.0, row.sigma)
    assert at == pytest.approx(row.error, abs=2 / (DRAWS * len(y)))
    assert at <= 0.02


def scaled(trajectory: Trajectory, factors: Mapping[str, float]) -> Trajectory:
    states = {
        key: {name: value * factors.get(name, 1.0) for name, value in trajectory.state(key).items()} for key in (0, 1)
    }
    return Trajectory.from_states(net(bias=False), states)


def test_scaling_adjacent_layers_scales_sigma_and_leaves_mu() -> None:
    options = {"epsilon": 0.05, "noise_samples": 3, "relative_tolerance": 0.05}
    before = criticality(trained(False), data(), **options).to_frame()
    again = scaled(trained(False), {"0.weight": 0.5, "2.weight": 2.0})
    after = criticality(again, data(), **options).to_frame()
    assert after.mu.tolist() == pytest.approx(before.mu.tolist(), rel=0.05)  # the search's tolerance
    assert (after.sigma / before.sigma).tolist() == pytest.approx([0.5, 2.0, 1.0], rel=0.025)
    assert (after.distance / before.distance).tolist() == pytest.approx([0.5, 2.0, 1.0], rel=1e-5)
    assert after.error.tolist() == pytest.approx(before.error.tolist(), abs=0.005)


def test_a_module_that_never_moved() -> None:
    trajectory = trained()
    states = {key: dict(trajectory.state(key)) for key in (0, 1)}
    states[0] |= {name: value for name, value in states[1].items() if name.startswith("2.")}
    frozen = Trajectory.from_states(net(), states)
    frame = (
        criticality(frozen, data(), epsilon=0.05, noise_samples=2, sites=["0", "2"], relative_tolerance=0.1)
        .to_frame()
        .set_index("site")
    )
    row = frame.loc["2"]
    assert (row.status, row.mu, row.mu_low, row.mu_high, row.distance) == ("no-op", 0, 0, 0, 0)
    assert frame.status["0"] == "feasible"


def test_an_unused_module_is_no_op() -> None:
    class Spare(Margin):
        def __init__(self, w: float = 0.0) -> None:
            super().__init__(w)
            self.spare = nn.Linear(2, 2)

    with forked(0):
        start, end = Spare(-0.1).state_dict(), Spare(0.2).state_dict()
    frame = criticality(Trajectory.from_states(Spare(), {0: start, 1: end}), ONES).to_frame().set_index("site")
    assert frame.status.to_dict() == {"layer": "feasible", "spare": "no-op"}
    assert (frame.mu["spare"], frame.sigma["spare"]) == (0, 1)


def test_a_module_that_can_go_back_all_the_way() -> None:
    row = only(criticality(margins(0.1, 0.2), ONES, engine="eager"))
    assert (row.status, row.mu, row.alpha, row.mu_low, row.mu_high) == ("alpha-zero", 0, 0, 0, 0)
    assert row.error <= 0.1
    assert 0 < row.sigma <= 1


def test_sigma_at_alpha_one() -> None:
    """The k-th draw is wrong from sigma = 2 w / d_k on."""
    trajectory = margins(-0.02, 0.04)
    frame = criticality(
        trajectory, ONES, epsilon=[0.1, 0.35], engine="eager", end_sigma=True, relative_tolerance=0.002
    ).to_frame()
    expected = [0.08 / gaps(trajectory)[allowed] for allowed in (1, 3)]
    assert frame.end_sigma.tolist() == pytest.approx(expected, rel=0.003)
    wrong = (ONES[0], torch.tensor([0] * 4 + [1] * 4))
    assert criticality(trajectory, wrong, epsilon=0.3, engine="eager", end_sigma=True).frame.end_sigma.isna().all()
    assert "end_sigma" not in criticality(trajectory, wrong, epsilon=0.3, engine="eager").frame


def test_what_is_infeasible_has_no_number_and_no_sum() -> None:
    wrong = (ONES[0], torch.tensor([0] * 4 + [1] * 4))
    result = criticality(margins(-0.1, 0.2), wrong, epsilon=0.3, engine="eager")
    row = only(result)
    assert row.status == "infeasible"
    assert row.error == 0.5  # the trained network's
    assert row[["mu", "mu_low", "mu_high", "alpha", "sigma"]].isna().all()
    assert math.isnan(result.total())
    assert "layer has no mu" in str(result)


def test_a_start_that_is_not_finite() -> None:
    row = only(criticality(margins(math.nan, 0.2), ONES, engine="eager"))
    assert row.status == "non-finite"
    assert math.isnan(row.mu)


def test_sigma_is_at_most_one() -> None:
    """Then alpha is the least whose margin, 2 (10 alpha - 5), bears noise of 1."""
    trajectory = margins(-5.0, 5.0)
    row = only(criticality(trajectory, ONES, epsilon=0.4, engine="eager"))
    assert row.sigma == 1
    assert row.mu == pytest.approx(row.alpha**2 * 200, rel=1e-6)
    assert row.alpha == pytest.approx((gaps(trajectory)[4] / 2 + 5) / 10, rel=0.02)


@pytest.mark.parametrize("tolerance", [0.05, 0.01])
def test_subsamples_of_many_examples_give_what_all_give(monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
    from netopsy.probes import criticality as module

    x, y = data(4000)
    options = {
        "epsilon": 0.06,
        "noise_samples": 5,
        "sites": ["0"],
        "batch_size": 128,
        "relative_tolerance": tolerance,
    }
    monkeypatch.setattr("netopsy.probes.criticality_search.ENOUGH", 1500)
    few = only(criticality(trained(), (x, y), **options))
    monkeypatch.setattr(module, "FEW", 10_000)
    whole = only(criticality(trained(), (x, y), **options))
    assert whole.examples == 4000
    assert few.examples < 4000
    assert abs(math.log(few.mu / whole.mu)) < max(tolerance, 0.02)
    assert few.error <= 0.06


def test_a_surface_is_measured_beside() -> None:
    result = criticality(trained(), data(), epsilon=0.2, sites=["4"], noise_samples=2, surface=True, engine="eager")
    assert result.surface is not None
    assert list(result.surface) == ["site", "alpha", "sigma", "error", "loss", "examples"]
    end = result.surface[(result.surface.alpha == 1) & (result.surface.sigma == 0)].iloc[0]
    x, y = data()
    assert end.error == pytest.approx(float((trained().model()(x).argmax(1) != y).double().mean()))


def test_it_is_the_same_twice_and_leaves_the_trajectory(tmp_path: Path) -> None:
    trajectory = margins(-0.1, 0.2)
    few: dict[str, Any] = {"noise_samples": 3, "engine": "eager"}
    first, second = (criticality(trajectory, ONES, surface=True, seed=3, **few) for _ in range(2))
    pd.testing.assert_frame_equal(first.frame, second.frame)
    assert torch.equal(trajectory.tensor(1, "layer.weight"), Margin(0.2).layer.weight)
    assert not only(first).equals(only(criticality(trajectory, ONES, seed=4, **few)))
    first.save(tmp_path / "a")
    again = CriticalityResult.load(tmp_path / "a")
    pd.testing.assert_frame_equal(again.frame, first.frame)
    pd.testing.assert_frame_equal(again.surface, first.surface)
    assert again.provenance["noise_samples"] == 3
    assert "network criticality at epsilon = 0.1" in str(again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.5}, r"epsilon: expected a number in \[0, 1\); got 1.5"),
        ({"epsilon": []}, "epsilon: expected an error between 0 and 1, or several; got none"),
        ({"epsilon": [0.1, 0.1]}, "epsilon: expected each value once"),
        ({"noise_samples": 0}, "noise_samples: expected an integer >= 1; got 0"),
        ({"relative_tolerance": 0.0}, r"relative_tolerance: expected a number in \(0, 0.5\]"),
        ({"confidence": 1.0}, r"confidence: expected a number in \(0, 1\)"),
        ({"sites": "leyer"}, "site 'leyer': matches no module"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        criticality(margins(-0.1, 0.2), ONES, **options)


def test_a_trajectory_is_needed() -> None:
    with pytest.raises(NetopsyError, match=r"expected a netopsy\.Trajectory with checkpoint 0"):
        criticality(Margin(), ONES)
    with pytest.raises(NetopsyError, match="it has no initial checkpoint; record one under key 0"):
        criticality(Trajectory.from_states(Margin(), {1: Margin().state_dict()}), ONES)


def test_totals_that_are_refused() -> None:
    with pytest.raises(NetopsyError, match=r"epsilon: expected one of 0.02, 0.04; got None"):
        measured().total()
    with pytest.raises(NetopsyError, match=r"epsilon: expected one of 0.02, 0.04; got 0.3"):
        measured().total(0.3)


def test_the_columns() -> None:
    columns: Sequence[str] = list(measured().to_frame())
    assert columns[:11] == [
        "site",
        "epsilon",
        "mu",
        "mu_low",
        "mu_high",
        "alpha",
        "sigma",
        "distance",
        "error",
        "parameters",
        "status",
    ]
