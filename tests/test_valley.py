"""Valleys and convex paths: what their points are, and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked
from netopsy.engine.edits import AddNoise
from netopsy.network.addresses import Address
from netopsy.network.trajectory import Trajectory
from netopsy.probes.valley import convex_path, valley
from netopsy.probes.valley_result import ValleyResult
from tests.oracles import criticality as oracle


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


@cache
def trajectory() -> Trajectory:
    states = {}
    for key in (0, 7):
        with forked(key):
            model = Normed()
            model(torch.randn(40, 4) + key)  # other statistics
            states[key] = model.state_dict()
    return Trajectory.from_states(Normed, states)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    with forked(seed):
        return torch.randn(30, 4), torch.randint(0, 3, (30,))


def error(model: nn.Module, examples: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((model(examples[0]).argmax(1) != examples[1]).double().mean())


def test_a_path_leads_from_the_initial_to_the_trained_network() -> None:
    splits = {"train": data(), "test": data(1)}
    frame = convex_path(trajectory(), splits, alphas=(0.0, 0.5, 1.0), engine="eager").to_frame()
    assert list(frame) == ["site", "split", "alpha", "sigma", "error", "loss", "examples"]
    assert list(dict.fromkeys(frame.site)) == ["a", "norm", "b", "full network"]
    assert not frame.sigma.any()
    for split, examples in splits.items():
        part = frame[frame.split == split].set_index(["site", "alpha"])
        whole = part.loc["full network"]
        assert whole.error[0.0] == pytest.approx(error(trajectory().model(0), examples))
        for site in ("a", "norm", "b", "full network"):
            assert part.error[site, 1.0] == pytest.approx(error(trajectory().model(7), examples))
        x, y = examples
        model = trajectory().model(7)
        loss = float(nn.functional.cross_entropy(model(x), y).detach())
        assert part.loss["a", 1.0] == pytest.approx(loss, rel=1e-5)
        start = {name: trajectory().tensor(0, name) for name in ("a.weight", "a.bias")}
        none = [{name: torch.zeros_like(value) for name, value in start.items()}]
        assert part.error["a", 0.5] == pytest.approx(oracle.error(model, start, none, x, y, 0.5, 0.0))


def test_a_valley_is_the_mean_over_draws() -> None:
    x, y = data()
    found = valley(
        trajectory(), (x, y), "b", alphas=(0.0, 0.7), sigmas=(0.0, 0.5), noise_samples=4, seed=3, engine="eager"
    )
    start = {name: trajectory().tensor(0, name) for name in ("b.weight", "b.bias")}
    draws = [
        {
            name: AddNoise(1.0, derive(3, "b", k))(torch.zeros_like(value), Address("parameter", name))
            for name, value in start.items()
        }
        for k in range(4)
    ]
    for row in found.to_frame().itertuples():
        at = oracle.error(trajectory().model(7), start, draws, x, y, row.alpha, row.sigma)
        assert row.error == pytest.approx(at)
    assert len(found.frame) == 4
    text = str(found)
    assert "error (%) on data: b, rows sigma, columns alpha" in text


def test_the_default_grid_is_in_units_of_the_weights() -> None:
    frame = valley(trajectory(), data(), "b", noise_samples=1, engine="eager").to_frame()
    assert frame.alpha.nunique() == 11
    sigmas = sorted(frame.sigma.unique())
    flat = torch.cat([trajectory().tensor(7, f"b.{kind}").flatten() for kind in ("weight", "bias")])
    assert sigmas[:2] == pytest.approx([0.0, 0.05 * float(flat.square().mean().sqrt())])
    assert sigmas[-1] <= 1


def test_it_is_saved(tmp_path: Path) -> None:
    result = convex_path(trajectory(), data(), alphas=(0.0, 1.0), full_network=False, engine="eager")
    result.save(tmp_path / "path")
    again = ValleyResult.load(tmp_path / "path")
    pd.testing.assert_frame_equal(again.frame, result.frame)
    assert again.provenance["initial"] == 0
    assert "columns alpha" in str(again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": (1.2,)}, r"alphas: expected a number in \[0, 1\]; got 1.2"),
        ({"alphas": ()}, "alphas: expected at least one; got none"),
        ({"sigmas": (-1.0,)}, r"sigmas: expected a number in \[0, inf\); got -1.0"),
        ({"noise_samples": 0}, "noise_samples: expected an integer >= 1; got 0"),
        ({"site": "*"}, r"site: expected the name of one module; '\*' means 3"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        valley(trajectory(), data(), **{"site": "b", **options})


def test_a_trajectory_with_a_start_is_needed() -> None:
    with pytest.raises(NetopsyError, match=r"expected a netopsy\.Trajectory with checkpoint 0"):
        convex_path(Normed(), data())
    later = Trajectory.from_states(Normed, {7: trajectory().state(7)})
    with pytest.raises(NetopsyError, match="it has no initial checkpoint"):
        valley(later, data(), "b")
