"""Weights are drawn with the variance and the shape that their initialization names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._identity import canonical
from netopsy._random import forked
from netopsy.models.fcn import fcn
from netopsy.models.inits import INITS, Normal, Scaled
from netopsy.models.resnet import resnet
from netopsy.models.vgg import vgg
from netopsy.models.widths import layer_factors

BUILDS: list[Callable[[str], nn.Module]] = [
    lambda init: fcn(inputs=300, classes=10, depth=2, width=120, init=init),
    lambda init: vgg("vgg11", classes=10, channels=1, width=1 / 8, init=init),
    lambda init: resnet(50, classes=10, width=1 / 4, stages=(1, 1), batch_norm=True, init=init),
]
VARIANCE: dict[str, Callable[[int, int], float]] = {
    "torch": lambda fan_in, fan_out: 1 / (3 * fan_in),
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
    "he": lambda fan_in, fan_out: 2 / fan_in,
}


def fans(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Conv2d):
        window = module.kernel_size[0] * module.kernel_size[1]
        return module.in_channels * window, module.out_channels * window
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def standardized(model: nn.Module, scheme: str) -> list[Tensor]:
    """Each layer's weights over the standard deviation they should have."""
    drawn = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return [m.weight.detach().double().flatten() / math.sqrt(VARIANCE[scheme](*fans(m))) for m in drawn]


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("build", BUILDS, ids=["fcn", "vgg", "resnet"])
def test_moments(build: Callable[[str], nn.Module], init: str) -> None:
    """Mean, variance and fourth moment of every layer within 5 standard errors of what was asked for."""
    with forked(11):
        model = build(init)
    uniform = not init.endswith("normal")
    # E z⁴ and E z⁸ of a standardized draw: 3 and 105 for a normal one, 9/5 and 9 for a uniform one.
    fourth, eighth = (9 / 5, 9.0) if uniform else (3.0, 105.0)
    for z in standardized(model, init.split("-")[0]):
        root = math.sqrt(len(z))
        assert abs(z.mean()) * root < 5
        assert abs((z**2).mean() - 1) * root < 5 * math.sqrt(fourth - 1)
        assert abs((z**4).mean() - fourth) * root < 5 * math.sqrt(eighth - fourth**2)
        assert (z.abs().max() <= math.sqrt(3) * (1 + 1e-6)) == uniform


@pytest.mark.parametrize("init", INITS[1:])
def test_biases_are_zero_and_norms_neutral(init: str) -> None:
    for build in BUILDS:
        for name, value in build(init).named_parameters():
            if name.endswith("bias"):
                assert not value.any(), name
            elif "norm" in name:
                assert (value == 1).all(), name


def test_torch_is_what_the_constructors_draw() -> None:
    with forked(3):
        first, second, last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)
    with forked(3):
        model = fcn(inputs=6, classes=2, depth=2, width=5)
    for found, expected in zip([*model.hidden, model.classifier], [first, second, last], strict=True):
        assert torch.equal(found.weight, expected.weight)
        assert torch.equal(found.bias, expected.bias)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("build", BUILDS, ids=["fcn", "vgg", "resnet"])
def test_one_seed_is_one_model(build: Callable[[str], nn.Module], init: str) -> None:
    states = []
    for seed in (0, 0, 1):
        with forked(seed):
            states.append(build(init).state_dict())
    weights = [name for name, value in states[0].items() if value.ndim > 1]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert not any(torch.equal(states[0][name], states[2][name]) for name in weights)


# One variance for all layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_normal_has_one_deviation_in_every_layer(sigma: float) -> None:
    with forked(5):
        model = fcn(inputs=300, classes=10, depth=2, width=120, init=Normal(sigma=sigma))
    for layer in (*model.hidden, model.classifier):
        z = layer.weight.detach().double().flatten() / sigma
        root = math.sqrt(len(z))
        assert abs(z.mean()) * root < 5
        assert abs((z**2).mean() - 1) * root < 5 * math.sqrt(2)
        assert abs((z**4).mean() - 3) * root < 5 * math.sqrt(96)
        assert not layer.bias.any()


def test_truncated_normal_has_the_moments_of_a_cut_one() -> None:
    """N(0, 1) given |z| < 2: variance 1 - 4 phi(2) / (2 Phi(2) - 1), fourth moment 3 - 28 phi(2) / (2 Phi(2) - 1)."""
    with forked(5):
        model = fcn(inputs=400, classes=10, depth=1, width=500, init=Normal(sigma=0.1, truncated=True))
    z = model.hidden[0].weight.detach().double().flatten() / 0.1
    density, mass = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    second, fourth = 1 - 4 * density / mass, 3 - 28 * density / mass
    root = math.sqrt(len(z))
    assert 1.99 < z.abs().max() <= 2.0000001
    assert abs(z.mean()) * root < 5 * math.sqrt(second)
    assert abs((z**2).mean() - second) * root < 5 * math.sqrt(fourth - second**2)


@pytest.mark.parametrize("truncated", [False, True])
def test_sigma_zero_is_zero_and_draws_follow_the_seed(truncated: bool) -> None:
    assert not any(
        p.any() for p in fcn(inputs=3, classes=2, init=Normal(sigma=0.0, truncated=truncated)).parameters()
    )
    weights = []
    for seed in (0, 0, 1):
        with forked(seed):
            weights.append(fcn(inputs=3, classes=2, init=Normal(sigma=1.0, truncated=truncated)).hidden[0].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_sigma_is_a_finite_deviation(sigma: float) -> None:
    with pytest.raises(NetopsyError, match=r"sigma: expected a number in \[0, inf\); got"):
        Normal(sigma=sigma)


def test_normal_can_be_written_down() -> None:
    written = {"type": "netopsy.models.inits:Normal", "fields": {"sigma": 0.01, "truncated": False}}
    assert canonical(Normal(sigma=0.01)) == written


# Widths ----------------------------------------------------------------------------------------------------------


def test_a_layer_has_its_own_factor_or_the_common_one() -> None:
    bases, own = {"a": 10, "b": 4}, {"b": 3.0}
    assert layer_factors(bases, 0.5, own) == {"a": 0.5, "b": 3.0}
    assert layer_factors(bases, 0.25, None) == {"a": 0.25, "b": 0.25}
    assert own == {"b": 3.0}


@pytest.mark.parametrize(
    ("width", "widths", "message"),
    [
        (0.2, None, r"width: expected a number in \[0\.25, inf\); got 0\.2"),
        (math.inf, None, r"width: expected a number in .*; got inf"),
        (1.0, {"a": 0.09}, r"widths\['a'\]: expected a number in \[0\.1, inf\); got 0\.09"),
        (
            1.0,
            {"bb": 1.0},
            r"widths: expected names of layers whose width can be set, a, b; got 'bb'; did you mean b",
        ),
    ],
)
def test_factors_leave_a_unit_and_name_a_layer(width: float, widths: dict[str, float] | None, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        layer_factors({"a": 10, "b": 4}, width, widths)


def test_a_scale_multiplies_the_scheme_s_draw() -> None:
    weights = []
    for init in ("he-normal", Scaled(scheme="he-normal", scale=4.0)):
        with forked(3):
            weights.append(fcn(inputs=5, classes=2, init=init).hidden[1].weight.detach())  # type: ignore[arg-type]
    torch.testing.assert_close(weights[1], 4 * weights[0])


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf])
def test_a_scale_is_positive(scale: float) -> None:
    with pytest.raises(NetopsyError, match=r"scale: expected a number in \(0, inf\); got"):
        Scaled(scheme="he-normal", scale=scale)


def test_pytorch_s_draw_has_no_scale() -> None:
    with pytest.raises(NetopsyError, match=r"scheme: expected one of 'glorot-normal'.*got 'torch'"):
        Scaled(scheme="torch", scale=2.0)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("relu", lambda x: x.clamp(min=0)),
        ("relu6", lambda x: x.clamp(0, 6)),
        ("tanh", torch.tanh),
        ("hardtanh", lambda x: x.clamp(-1, 1)),
        ("hardsigmoid", lambda x: (x + 0.5).clamp(0, 1)),
    ],
)
def test_activations_of_the_sensitivity_paper(activation: Any, formula: Any) -> None:
    net = fcn(inputs=3, classes=2, depth=2, width=4, bias=False, activation=activation, init="he-normal")
    x = 5 * torch.randn(7, 3)
    expected = net.classifier(formula(net.hidden[1](formula(net.hidden[0](x)))))
    torch.testing.assert_close(net(x), expected)


def test_an_unknown_activation_is_refused(unchecked: None) -> None:
    with pytest.raises(NetopsyError, match=r"activation: expected one of 'relu', .*; got 'selu'"):
        fcn(inputs=3, classes=2, activation="selu")  # type: ignore[arg-type]
