"""The error under noise: closed forms, an interval with a fixed seed, independence of the search's draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.bounds import pac_bayes_bound
from netopsy.probes.noisy_error import noisy_error

W0, W1, ALPHA, SIGMA = -0.1, 0.3, 0.75, 0.25
MODULES = {"site": ["layer"], "alpha": [ALPHA], "sigma": [SIGMA], "distance": [0.4], "parameters": [2]}


class Pair(nn.Module):
    """Logits (w x, 0): an example is wrong where w x has the wrong sign."""

    def __init__(self, w: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        self.layer.weight.data.fill_(w)

    def forward(self, x: Tensor) -> Tensor:
        value = self.layer(x)
        return torch.cat([value, torch.zeros_like(value)], -1)


def pairs() -> Trajectory:
    return Trajectory.from_states(Pair(), {0: Pair(W0).state_dict(), 1: Pair(W1).state_dict()})


ONES = (torch.ones(8, 1), torch.zeros(8, dtype=torch.long))


def test_a_linear_model_whose_error_is_a_normal_tail() -> None:
    """w = 0.2 + 0.25 u is wrong on every example where it is negative: with chance Φ(-0.8)."""
    found = noisy_error(pairs(), ONES, MODULES, draws=900, examples=2)
    assert set(found.errors.tolist()) == {0.0, 1.0}
    assert found.mean == pytest.approx(norm.cdf(-0.8), abs=3.5 * found.standard_error)
    p = found.mean
    assert found.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 900), rel=1e-3)
    assert found.draws == 900
    assert "900 draws, 2 examples each" in str(found)


def test_examples_are_drawn_with_replacement_and_independently() -> None:
    """One of four examples is always wrong: a draw's error is binomial, whatever the noise."""
    data = (torch.ones(4, 1), torch.tensor([0, 0, 0, 1]))
    found = noisy_error(pairs(), data, MODULES | {"sigma": [1e-6]}, draws=800, examples=5)
    assert found.mean == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 5 / 800))
    assert found.errors.var() == pytest.approx(0.25 * 0.75 / 5, rel=0.15)
    assert abs(np.corrcoef(found.errors[:-1], found.errors[1:])[0, 1]) < 0.1


def test_noise_is_fresh_in_each_draw_and_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    from netopsy.probes.joint_lines import Together

    seen: list[float] = []
    values = Together.values

    def noting(self: Together, *args: object) -> dict[str, Tensor]:
        found = values(self, *args)
        seen.append(float(found["layer.weight"]))
        return found

    monkeypatch.setattr(Together, "values", noting)
    noisy_error(pairs(), ONES, MODULES, draws=300, examples=2)
    assert kstest((np.array(seen) - 0.2) / SIGMA, "norm").pvalue > 0.01
    assert len(set(seen)) == 300


def test_a_bound_takes_it() -> None:
    found = noisy_error(pairs(), ONES, MODULES, draws=200, examples=2)
    bound = pac_bayes_bound(MODULES, m=1000, train_error=found.mean, draws=found.draws)
    assert bound.train_error_high > norm.cdf(-0.8)


def test_positions_that_count_weigh_alike() -> None:
    """Three positions of one example and one of another: the error is over positions."""
    data = (torch.ones(2, 3, 1), torch.tensor([[0, 0, 0], [1, -100, -100]]))
    found = noisy_error(pairs(), data, MODULES | {"sigma": [1e-6]}, draws=400, examples=4, task=Task())
    assert found.mean == pytest.approx(0.25, abs=0.04)


def test_a_list_of_batches_and_the_same_twice() -> None:
    batches = [(torch.ones(3, 1), torch.zeros(3, dtype=torch.long)) for _ in range(3)]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*ONES), batch_size=3)
    for data in (batches, loader):
        first, second = (noisy_error(pairs(), data, MODULES, draws=50, examples=3, seed=1) for _ in range(2))
        assert first.errors.tolist() == second.errors.tolist()
    other = noisy_error(pairs(), batches, MODULES, draws=50, examples=3, seed=2)
    assert other.errors.tolist() != first.errors.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws: expected an integer >= 1; got 0"),
        ({"examples": 1}, "examples: expected an integer >= 2; got 1"),
        ({"modules": MODULES | {"sigma": [0.0]}}, r"sigma: expected numbers in \(0, 1\]"),
        ({"modules": MODULES | {"site": ["leyer"]}}, "site 'leyer': matches no module"),
        ({"sites": {"other": "layer"}}, "modules: expected names of sites; got layer; pass their sites="),
        (
            {
                "data": [
                    (torch.ones(2, 3, 1), torch.zeros(2, 3).long()),
                    (torch.ones(2, 2, 1), torch.zeros(2, 2).long()),
                ]
            },
            "expected batches of tensors whose examples all have one shape",
        ),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str) -> None:
    given = {"data": ONES, "modules": MODULES} | options
    with pytest.raises(NetopsyError, match=message):
        noisy_error(pairs(), **given)
