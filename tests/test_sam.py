"""Sharpness-aware minimization: its gradient in closed form, its steps against a plain loop, what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.training import resume as resuming
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, fit
from netopsy.training.population import fit_population
from netopsy.training.sam import ascended
from tests.oracles import sam as oracle
from tests.test_fit import Recording, arrays, data, recorded, rows_of
from tests.test_fit_resume import Net
from tests.test_fit_resume import data as images

BASE = FitConfig(epochs=3, batch_size=8, lr=0.1, sam_rho=0.3)


class Bowl(nn.Module):
    """½ Σ aᵢ θᵢ², its parameters in two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
        self.register_buffer("a", torch.tensor([3.0, 0.1, 2.0], dtype=torch.float64))

    def forward(self) -> Tensor:
        return 0.5 * (self.a * torch.cat([self.first, self.second]).square()).sum()


def gradient(model: nn.Module) -> Tensor:
    model.zero_grad()
    model().backward()
    return torch.cat([value.grad for value in model.parameters() if value.grad is not None])


# The gradient ---------------------------------------------------------------------------------------------------


def test_on_a_quadratic_the_gradient_has_a_closed_form() -> None:
    """g = Aθ; at θ + ρ g/‖g‖ it is g + ρ A g/‖g‖, the norm being of all parameters together."""
    model = Bowl()
    start = torch.cat([model.first, model.second]).detach()
    g = gradient(model)
    with ascended(model, 0.7):
        moved = torch.cat([model.first, model.second]).detach()
        found = gradient(model)
    torch.testing.assert_close(moved, start + 0.7 * g / g.norm())
    torch.testing.assert_close(found, g + 0.7 * model.a * g / g.norm())
    assert float((moved - start).norm()) == pytest.approx(0.7)
    assert torch.equal(torch.cat([model.first, model.second]).detach(), start)


def test_weights_and_buffers_come_back_to_the_bit_also_after_an_error() -> None:
    model = Net()
    x, _ = images()
    model.train()(x).sum().backward()
    before = {name: value.clone() for name, value in (*model.named_parameters(), *model.named_buffers())}

    def fails() -> None:
        with ascended(model, 0.05):
            model(x)
            assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
            assert not torch.equal(model.conv.weight, before["conv.weight"])
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(value, before[name])


def test_a_gradient_of_zero_moves_nothing() -> None:
    model = Bowl()
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert not gradient(model).any()
    with ascended(model, 0.7):
        assert not torch.cat([model.first, model.second]).any()


def test_a_parameter_without_a_gradient_stays_and_counts_for_nothing() -> None:
    model = Bowl()
    model.second.requires_grad_(False)
    g = gradient(model)
    assert g.shape == (2,)
    with ascended(model, 0.7):
        assert float(model.second) == 0.5
        torch.testing.assert_close(model.first.detach(), torch.tensor([1.0, -2.0]).double() + 0.7 * g / g.norm())


# Steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.05)])
def test_sgd_agrees_with_a_plain_loop(momentum: float, weight_decay: float) -> None:
    given = inputs, labels = data()
    result, seen = recorded(replace(BASE, momentum=momentum, weight_decay=weight_decay), given)
    first = seen[::2]
    assert all(torch.equal(a, b) for a, b in zip(first, seen[1::2], strict=True)), "two passes over each batch"
    batches = [(batch.numpy(), labels[rows_of(batch, inputs)].numpy()) for batch in first]
    start = arrays(result.states[0])
    *expected, losses = oracle.sgd(*start, batches, 0.1, momentum, weight_decay, rho=0.3)
    for got, wanted in zip(arrays(result.states[3]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)
    means = [np.average(losses[k : k + 3], weights=[8, 8, 4]) for k in (0, 3, 6)]
    np.testing.assert_allclose(result.history.train_loss, means, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_other_optimizers_take_their_step_along_that_gradient(optimizer: Any) -> None:
    """From a fresh memory the first step is known: Adam's lr · g/|g|, RMSprop's lr · g/(√(0.1 g²) + 1)."""
    given = inputs, labels = data()
    config = replace(BASE, epochs=1, batch_size=20, optimizer=optimizer, momentum=0.0)
    result = fit(Recording, given, config)
    start, after = arrays(result.states[0]), arrays(result.states[1])
    _, *gradients = oracle.sam_gradient(*start, inputs.numpy(), labels.numpy(), 0.3)
    for got, old, g in zip(after, start, gradients, strict=True):
        step = g / (np.abs(g) + 1e-8) if optimizer == "adam" else g / (math.sqrt(0.1) * np.abs(g) + 1.0)
        np.testing.assert_allclose(got, old - 0.1 * step, rtol=1e-9, atol=1e-12)


def test_a_small_radius_comes_near_the_plain_step() -> None:
    plain, tiny, wide = (
        fit(Recording, data(), replace(BASE, sam_rho=rho)).states[3]["linear.weight"] for rho in (None, 1e-6, 0.3)
    )
    torch.testing.assert_close(tiny, plain, rtol=0.0, atol=1e-6)
    assert float((wide - plain).abs().max()) > 1e-3


def test_statistics_of_batch_norm_follow_the_first_pass_alone() -> None:
    """After one step they are those of plain training; each step counts once."""
    once = FitConfig(epochs=1, batch_size=36, lr=0.1)
    plain, sharp = (fit(Net, images(), replace(once, sam_rho=rho)).states[1] for rho in (None, 0.5))
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(plain[name], sharp[name])
    assert not torch.equal(plain["conv.weight"], sharp["conv.weight"])
    longer = fit(Net, images(), replace(once, epochs=3, batch_size=12, sam_rho=0.5))
    assert int(longer.states[3]["norm.num_batches_tracked"]) == 9


def test_a_frozen_part_stays() -> None:
    result = fit(Net, images(), replace(BASE, batch_size=12, frozen=("conv",)))
    assert torch.equal(result.states[0]["conv.weight"], result.states[3]["conv.weight"])
    assert not torch.equal(result.states[0]["head.weight"], result.states[3]["head.weight"])


class Stop(BaseException):
    """Like KeyboardInterrupt, which would end the test run if it came through."""


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Any) -> None:
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    config = replace(BASE, epochs=4, batch_size=12, lr=0.02, optimizer=optimizer, augment="pad-crop-flip", pad=1)

    def stop(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise Stop

    def train(name: str, **options: Any) -> FitResult:
        return fit(Net, images(), config, folder=tmp_path / name, **options)

    with pytest.raises(Stop):
        train("broken", progress=stop)
    resumed, whole = train("broken", resume=True), train("whole")
    assert list(resumed.states) == list(whole.states) == [0, 1, 2, 3, 4]
    for key in whole.states:
        ours, theirs = load_file(resumed.states[key]), load_file(whole.states[key])
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert resumed.history.drop(columns="seconds").equals(whole.history.drop(columns="seconds"))


# Populations and refusals ---------------------------------------------------------------------------------------


def test_a_population_trains_one_by_one() -> None:
    configs = [BASE, replace(BASE, sam_rho=None, seed=1), replace(BASE, seed=2, sam_rho=0.1)]
    result = fit_population(Recording, data(), configs)
    assert result.way == "one-by-one"
    assert result.reason.startswith("sharpness-aware minimization")
    for member, config in zip(result.members, configs, strict=True):
        alone = fit(Recording, data(), config)
        assert torch.equal(member.states[3]["linear.weight"], alone.states[3]["linear.weight"])


@pytest.mark.parametrize("way", ["matmul", "vmap"])
def test_a_population_cannot_be_stacked(way: Any) -> None:
    message = (
        f"way='{way}': expected 'one-by-one' or 'auto' with sam_rho, for stacked networks know no second gradient"
    )
    with pytest.raises(NetopsyError, match=message):
        fit_population(Recording, data(), [BASE, BASE], way=way)
