"""Moments of units in one pass: against stored activations, in parts, at any batch size, without a trace."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine import moments
from netopsy.engine.batches import open_data
from netopsy.engine.moments import Moments, Reading, sample_entries, unit_moments
from netopsy.network.addresses import Address
from netopsy.network.units import UnitLayer, find_units
from tests import zoo
from tests.oracles import moments as oracle

X = torch.randn(37, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(23, 1, 6, 5, generator=torch.Generator().manual_seed(1))
PARTS = ("mean", "cross", "active")


def conv() -> nn.Sequential:
    with forked(5):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 2), nn.Tanh(),
            nn.Flatten(), nn.Linear(60, 3),
        ).eval()  # fmt: skip


def mlp() -> nn.Sequential:
    with forked(6):
        return zoo.mlp()


def read(model: nn.Module, x: Tensor, *, batch_size: int = 8, **options: Any) -> list[Moments]:
    layers = find_units(model, ((x[:2],), {}), **options)
    return moments_of(model, x, [Reading(layer) for layer in layers], batch_size=batch_size)


def moments_of(model: nn.Module, x: Tensor, readings: list[Reading], *, batch_size: int = 8) -> list[Moments]:
    source = open_data((x, torch.zeros(len(x), dtype=torch.long)), batch_size=batch_size)
    return unit_moments(model, source, readings)


def rows(value: Tensor) -> np.ndarray[Any, Any]:
    """Stored activations (n, units, ...) as samples x units."""
    flat = value.detach().double().movedim(1, -1).reshape(-1, value.shape[1])
    return flat.numpy()


def close(mine: Moments, theirs: Moments, tolerance: float) -> None:
    assert mine.count == theirs.count
    for part in PARTS:
        torch.testing.assert_close(
            getattr(mine, part), getattr(theirs, part), rtol=tolerance, atol=tolerance, msg=part
        )


@pytest.mark.parametrize(("model", "x", "ends"), [(conv(), IMAGES, (3, 5)), (mlp(), X, (2, 4))], ids=["conv", "mlp"])
def test_in_float64_they_are_those_of_the_stored_activations(model: nn.Sequential, x: Tensor, ends: Any) -> None:
    model, x = copy.deepcopy(model).double(), x.double()
    for mine, end in zip(read(model, x), ends, strict=True):
        with torch.no_grad():
            samples = rows(model[:end](x))
        assert mine.count == len(samples)
        expected = np.array(oracle.covariance(samples.tolist()))
        np.testing.assert_allclose(mine.covariance, expected, rtol=0, atol=1e-8)
        np.testing.assert_allclose(mine.covariance, np.cov(samples.T, bias=True), rtol=0, atol=1e-8)
        np.testing.assert_allclose(mine.mean, samples.mean(0), atol=1e-12)
        np.testing.assert_allclose(mine.variance, samples.var(0), atol=1e-12)
        np.testing.assert_array_equal(mine.active, (samples > 0).sum(0))
        kept = torch.from_numpy(samples.std(0) > 0)
        r = np.corrcoef(samples[:, kept.numpy()].T)
        np.testing.assert_allclose(mine.correlation(kept), r, atol=1e-8)


def test_float32_activations_are_enough() -> None:
    """The error of the covariance, as a part of the standard deviations' product, also where the mean is large."""
    with forked(0):
        weights = torch.randn(40, 40) / 6
        x = torch.randn(20_000, 40) @ weights
        offset = 100 * torch.rand(40)
    model = nn.Sequential(nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(40))
        model[1].bias.copy_(offset)
    for mine, end in zip(read(model, x, batch_size=256, sites=["0", "1"]), (1, 2), strict=True):
        with torch.no_grad():
            samples = rows(model[:end](x))
        exact = np.cov(samples.T, bias=True)
        scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
        error = (np.abs(mine.covariance.numpy() - exact) / scale).max()
        assert error < 5e-6
        np.testing.assert_allclose(mine.mean, samples.mean(0), rtol=1e-6)
        float32 = samples.astype(np.float32)
        plain = float32.T @ float32 / np.float32(len(x)) - np.outer(float32.mean(0), float32.mean(0))
        if end == 2:  # without the shift the same precision would not do
            assert (np.abs(plain - exact) / scale).max() > 100 * error


def test_many_samples_of_a_wide_layer_are_added_up_in_blocks() -> None:
    """More units than a block, more samples than are summed in float32."""
    with forked(1):
        x = torch.randn(9000, 300)
    (mine,) = read(nn.Sequential(nn.Tanh(), nn.Linear(300, 2)), x, batch_size=1000)
    samples = torch.tanh(x.double()).numpy()
    np.testing.assert_allclose(mine.covariance, np.cov(samples.T, bias=True), atol=1e-6)
    assert torch.equal(mine.cross, mine.cross.T)


def test_an_example_of_many_positions_is_added_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more samples than said are added up in float32."""
    monkeypatch.setattr(moments, "ROWS", 12)
    waited: list[int] = []
    settle = moments._Sums._settle
    monkeypatch.setattr(moments._Sums, "_settle", lambda sums: (waited.append(sums.waiting), settle(sums))[1])
    for mine, end in zip(read(conv(), IMAGES), (3, 5), strict=True):
        with torch.no_grad():
            samples = rows(conv()[:end](IMAGES))
        assert mine.count == len(samples)
        np.testing.assert_allclose(mine.covariance, np.cov(samples.T, bias=True), atol=1e-6)
        np.testing.assert_array_equal(mine.active, (samples > 0).sum(0))
    assert max(waited) <= 12


def test_merged_shards_equal_one_pass() -> None:
    model, x = conv().double(), IMAGES.double()
    whole = read(model, x)
    parts = [read(model, x[cut]) for cut in (slice(0, 9), slice(9, 10), slice(10, None))]
    for mine, a, b, c in zip(whole, *parts, strict=True):
        close((a + b) + c, mine, 1e-12)
        close(a + (b + c), mine, 1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_batch_size_changes_nothing_beyond_rounding(batch_size: int) -> None:
    for mine, other in zip(read(conv(), IMAGES), read(conv(), IMAGES, batch_size=batch_size), strict=True):
        close(mine, other, 2e-5)


def test_no_trace_is_left() -> None:
    model = conv().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    read(model, IMAGES)
    with pytest.raises(NetopsyError, match="expected 5 units along axis 1 in every batch"):
        moments_of(model, IMAGES, [Reading(UnitLayer("2", Address("output", "2"), 1, 5))])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_runs_once_a_batch() -> None:
    model, runs = mlp(), []
    model[0].register_forward_hook(lambda *_: runs.append(1))
    layers = find_units(model, ((X[:2],), {}))
    runs.clear()
    moments_of(model, X, [Reading(layer) for layer in layers], batch_size=10)
    assert len(runs) == 4


def test_inputs_and_single_calls_are_read() -> None:
    model = zoo.Twice().double()
    x = X.double()
    places = {
        "second input": Address("input", "a", call=1),
        "first output": Address("output", "a", call=0),
        "both outputs": Address("output", "a"),
        "a slice": Address("output", "a", index=":, 2:4", call=0),
    }
    layers = [UnitLayer(name, place, 1, 2 if name == "a slice" else 6) for name, place in places.items()]
    entering, first, both, part = moments_of(model, x, [Reading(layer) for layer in layers])
    with torch.no_grad():
        one = model.a(x)
        two = torch.tanh(one)
        three = model.a(two)
    np.testing.assert_allclose(entering.covariance, np.cov(two.T, bias=True), atol=1e-12)
    np.testing.assert_allclose(first.covariance, np.cov(one.T, bias=True), atol=1e-12)
    np.testing.assert_allclose(both.covariance, np.cov(torch.cat([one, three]).T, bias=True), atol=1e-12)
    np.testing.assert_allclose(part.covariance, np.cov(one[:, 2:4].T, bias=True), atol=1e-12)
    assert both.count == 2 * first.count == 2 * len(X)


def test_units_along_the_last_axis_and_sampled_entries() -> None:
    with forked(3):
        model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)).double()
        x = torch.randn(20, 4, 6, dtype=torch.float64)
    (layer,) = find_units(model, ((x[:2],), {}), "1")
    entries = np.array([0, 7, 19])
    by_channel, by_entry = moments_of(model, x, [Reading(layer), Reading(layer, entries)])
    with torch.no_grad():
        value = model[:2](x)
    np.testing.assert_allclose(by_channel.covariance, np.cov(value.reshape(-1, 5).T, bias=True), atol=1e-12)
    assert by_channel.count == 80
    np.testing.assert_allclose(by_entry.covariance, np.cov(value.flatten(1)[:, entries].T, bias=True), atol=1e-12)
    assert by_entry.count == 20


def test_entries_are_drawn_without_replacement() -> None:
    layer = UnitLayer("a", Address("output", "a"), 1, 4, shape=(4, 5, 5))
    assert sample_entries(layer, 100, 0).tolist() == list(range(100))
    drawn = sample_entries(layer, 30, 0)
    assert len(set(drawn.tolist())) == 30
    assert drawn.min() >= 0
    assert drawn.max() < 100
    assert drawn.tolist() == sample_entries(layer, 30, 0).tolist() != sample_entries(layer, 30, 1).tolist()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (UnitLayer("heads", Address("output", "1"), 1, 4, size=2), r"'heads': .* hold 2, .* units=8 and size=1"),
        (UnitLayer("z", Address("output", "nowhere"), 1, 8), "the model has no module 'nowhere'"),
        (UnitLayer("z", Address("output", "1", call=1), 1, 8), "computes no output of 1, call 1 on these data"),
        (UnitLayer("z", Address("output", "1", item=1), 1, 8), "of which item 1 is read; output of 1 holds 1"),
        (UnitLayer("z", Address("output", "1"), 0, 8), "expected 8 units along axis 0 in every batch"),
    ],
    ids=["heads", "module", "call", "item", "axis"],
)
def test_a_layer_that_cannot_be_read_is_refused(layer: UnitLayer, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        moments_of(mlp(), X, [Reading(layer)])


def test_entries_of_values_of_another_shape_are_refused() -> None:
    layer = UnitLayer("act", Address("output", "1"), 1, 8, shape=(8, 2))
    with pytest.raises(NetopsyError, match=r"expected values of shape \(n, 8, 2\) .* use convention='channels'"):
        moments_of(mlp(), X, [Reading(layer, np.arange(4))])
