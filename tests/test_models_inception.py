"""Inception-v3: its size, its forward pass by hand, its widths, and what it refuses."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.inception import inception_v3

State = dict[str, Tensor]


def empty(**options: Any) -> nn.Module:
    with torch.device("meta"):
        return inception_v3(**{"classes": 1000, **options})


def size(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


# Counts ---------------------------------------------------------------------------------------------------------


def by_arithmetic(classes: int) -> int:
    """Weights of every convolution, two numbers a channel for its normalization, and the classifier."""

    def conv(inputs: int, outputs: int, window: int) -> int:
        return inputs * outputs * window + 2 * outputs

    total = conv(3, 32, 9) + conv(32, 32, 9) + conv(32, 64, 9) + conv(64, 80, 1) + conv(80, 192, 9)
    for inputs, pool in ((192, 32), (256, 64), (288, 64)):
        total += conv(inputs, 64, 1) + conv(inputs, 48, 1) + conv(48, 64, 25)
        total += conv(inputs, 64, 1) + conv(64, 96, 9) + conv(96, 96, 9) + conv(inputs, pool, 1)
    total += conv(288, 384, 9) + conv(288, 64, 1) + conv(64, 96, 9) + conv(96, 96, 9)
    for c in (128, 160, 160, 192):
        total += conv(768, 192, 1) + conv(768, c, 1) + conv(c, c, 7) + conv(c, 192, 7)
        total += conv(768, c, 1) + 3 * conv(c, c, 7) + conv(c, 192, 7) + conv(768, 192, 1)
    total += conv(768, 192, 1) + conv(192, 320, 9)
    total += conv(768, 192, 1) + 2 * conv(192, 192, 7) + conv(192, 192, 9)
    for inputs in (1280, 2048):
        total += conv(inputs, 320, 1) + conv(inputs, 384, 1) + 2 * conv(384, 384, 3)
        total += conv(inputs, 448, 1) + conv(448, 384, 9) + 2 * conv(384, 384, 3) + conv(inputs, 192, 1)
    return total + 2048 * classes + classes


def test_count_is_torchvisions_and_arithmetic() -> None:
    assert size(empty()) == 23_834_568 == by_arithmetic(1000)


def test_count_without_the_norms_weights_is_keras() -> None:
    """Keras trains 23,817,352 numbers: its normalizations have no factor."""
    model = empty()
    factors = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert size(model) - factors == 23_817_352


def test_count_with_the_auxiliary_classifier_is_torchvisions() -> None:
    assert size(empty(auxiliary=True)) == 27_161_264


def test_normalizations_are_the_papers() -> None:
    norms = [module for module in empty().modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 94
    assert {norm.eps for norm in norms} == {0.001}
    assert all(norm.momentum == pytest.approx(1 - 0.9997) for norm in norms)


# Forward --------------------------------------------------------------------------------------------------------


def unit(state: State, name: str, x: Tensor, stride: int = 1, same: bool = True) -> Tensor:
    weight = state[f"{name}.conv.weight"]
    height, width = weight.shape[2:]
    x = F.conv2d(x, weight, None, stride, (height // 2, width // 2) if same else 0)
    mean, variance, factor, shift = (
        state[f"{name}.norm.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (variance + 1e-3).sqrt() * factor + shift).clamp(min=0)


def average(x: Tensor) -> Tensor:
    """Means of 3×3 windows; those at the border have fewer than nine pixels."""
    ones = torch.ones_like(x[:1, :1])
    kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype)
    total = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), kernel, padding=1).reshape(x.shape)
    return total / F.conv2d(ones, kernel, padding=1)


def halve(x: Tensor) -> Tensor:
    """3×3 maxima of stride 2, whole windows only."""
    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-2, -1))


def by_hand(state: State, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and what each mixed module puts out."""

    def u(name: str, value: Tensor, stride: int = 1, same: bool = True) -> Tensor:
        return unit(state, name, value, stride, same)

    x = u("conv1", x, 2, same=False)
    x = u("conv3", u("conv2", x, same=False))
    x = u("conv5", u("conv4", halve(x)), same=False)
    x = halve(x)
    seen: dict[str, Tensor] = {}
    for i in range(11):
        m = f"mixed{i}"
        if i in (0, 1, 2):
            five = u(f"{m}.five.conv2", u(f"{m}.five.conv1", x))
            three = u(f"{m}.three.conv3", u(f"{m}.three.conv2", u(f"{m}.three.conv1", x)))
            parts = [u(f"{m}.one.conv1", x), five, three, u(f"{m}.pool.conv2", average(x))]
        elif i == 3:
            deep = u(f"{m}.deep.conv2", u(f"{m}.deep.conv1", x))
            parts = [u(f"{m}.three.conv1", x, 2, same=False), u(f"{m}.deep.conv3", deep, 2, same=False), halve(x)]
        elif i in (4, 5, 6, 7):
            seven = u(f"{m}.seven.conv3", u(f"{m}.seven.conv2", u(f"{m}.seven.conv1", x)))
            deep = x
            for j in range(1, 6):
                deep = u(f"{m}.deep.conv{j}", deep)
            parts = [u(f"{m}.one.conv1", x), seven, deep, u(f"{m}.pool.conv2", average(x))]
        elif i == 8:
            three = u(f"{m}.three.conv2", u(f"{m}.three.conv1", x), 2, same=False)
            seven = u(f"{m}.seven.conv3", u(f"{m}.seven.conv2", u(f"{m}.seven.conv1", x)))
            parts = [three, u(f"{m}.seven.conv4", seven, 2, same=False), halve(x)]
        else:
            three = u(f"{m}.three.conv1", x)
            deep = u(f"{m}.deep.conv2", u(f"{m}.deep.conv1", x))
            parts = [u(f"{m}.one.conv1", x)]
            parts += [u(f"{m}.three.fork2.{kernel}", three) for kernel in ("1x3", "3x1")]
            parts += [u(f"{m}.deep.fork3.{kernel}", deep) for kernel in ("1x3", "3x1")]
            parts += [u(f"{m}.pool.conv2", average(x))]
        x = torch.cat(parts, 1)
        seen[m] = x
    return x.mean(dim=(2, 3)) @ state["classifier.weight"].T + state["classifier.bias"], seen


def stirred(**options: Any) -> nn.Module:
    """A thin net in float64, no normalization of which is neutral."""
    model = inception_v3(**{"classes": 4, "width": 1 / 16, "init": "he-normal", **options}).double()
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if "running_var" in name or name.endswith("norm.weight"):
                value.copy_(0.5 + torch.rand(value.shape))
            elif value.ndim == 1:
                value.copy_(0.5 * torch.randn(value.shape))
    return model


@pytest.mark.parametrize("shape", [(75, 75), (110, 81)])
@pytest.mark.parametrize("channels", [1, 3])
def test_forward_by_hand(shape: tuple[int, int], channels: int) -> None:
    with forked(0):
        model = stirred(channels=channels, widths={"mixed2": 1 / 8}).eval()
        x = torch.randn(2, channels, *shape, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
        expected, seen = by_hand(dict(model.state_dict()), x)
        value = x
        for name, layer in model.named_children():
            value = layer(value)
            if name in seen:
                torch.testing.assert_close(value, seen[name], rtol=1e-9, atol=1e-9)
                assert value.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_grids_and_channels_are_the_papers() -> None:
    """Szegedy et al. 2016, Table 1, for images of 299 pixels; channels at width 1, grids on a thin net."""
    thin = inception_v3(classes=2, width=1 / 32).eval()
    sides: dict[str, int] = {}
    value = torch.randn(1, 3, 299, 299)
    with torch.no_grad():
        for name, layer in thin.named_children():
            value = layer(value)
            if value.ndim == 4:
                sides[name] = value.shape[2]
    stem = {"conv1": 149, "conv2": 147, "conv3": 147, "pool1": 73, "conv4": 73, "conv5": 71, "pool2": 35}
    grids = [35] * 3 + [17] * 5 + [8] * 3
    assert sides == stem | {f"mixed{i}": grids[i] for i in range(11)} | {"pool": 1}
    model, outputs = empty(), [256, 288, 288, *[768] * 5, 1280, 2048]
    parts = [model.get_submodule(f"mixed{i}") for i in range(1, 11)]
    firsts = [next(m for m in part.modules() if isinstance(m, nn.Conv2d)).in_channels for part in parts]
    assert [*firsts, model.classifier.in_features] == [*outputs, 2048]


def test_every_parameter_is_in_use() -> None:
    with forked(0):
        model, x = stirred(auxiliary=True), torch.randn(2, 3, 299, 299, dtype=torch.float64)
    logits, beside = model(x)
    assert logits.shape == beside.shape == (2, 4)
    (logits.sum() + beside.sum()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_the_auxiliary_classifier_reads_mixed7_in_train_mode_only() -> None:
    with forked(0):
        model, x = stirred(auxiliary=True).eval(), torch.randn(2, 3, 299, 299, dtype=torch.float64)
    state = dict(model.state_dict())
    with torch.no_grad():
        expected, seen = by_hand(state, x)
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)
        for module in model.modules():  # the running statistics are to be used, and the branch is to be run
            module.training = module is model
        logits, beside = model(x)
        value = seen["mixed7"].unfold(2, 5, 3).unfold(3, 5, 3).mean(dim=(-2, -1))
        value = unit(state, "auxiliary.conv2", unit(state, "auxiliary.conv1", value), same=False)
        hand = value.mean(dim=(2, 3)) @ state["auxiliary.classifier.weight"].T + state["auxiliary.classifier.bias"]
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(beside, hand, rtol=1e-9, atol=1e-9)


# Widths and options ---------------------------------------------------------------------------------------------


def channels(model: nn.Module) -> dict[str, int]:
    return {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_width_scales_every_convolution(width: float) -> None:
    expected = {name: number * width for name, number in channels(empty(auxiliary=True)).items()}
    assert channels(empty(auxiliary=True, width=width)) == expected


@pytest.mark.parametrize("factor", [0.25, 4.0])
@pytest.mark.parametrize("part", ["conv3", "mixed2", "mixed3", "mixed10"])
def test_one_part_has_its_own_width(part: str, factor: float) -> None:
    before, after = channels(empty()), channels(empty(widths={part: factor}))
    inside = [name for name in before if name.startswith(f"{part}.")]
    assert inside
    assert after == before | {name: before[name] * factor for name in inside}


def test_weights_are_truncated_normal_unless_another_init_is_asked_for() -> None:
    with forked(0):
        model = inception_v3(classes=1000, width=1 / 4)
    weights = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if p.ndim > 1])
    assert weights.abs().max() <= 0.2
    # The standard deviation of N(0, 1) cut at ±2 is 0.8796.
    assert weights.std() == pytest.approx(0.08796, rel=5e-3)
    assert not model.classifier.bias.any()
    assert inception_v3(classes=10, width=1 / 16, init="torch").classifier.bias.any()


def test_dropout_stands_before_the_classifier_only_if_asked_for() -> None:
    plain, model = empty(), empty(dropout=0.2)
    assert not any(isinstance(module, nn.Dropout) for module in plain.modules())
    assert [name for name, _ in model.named_children()][-4:] == ["pool", "flatten", "dropout", "classifier"]
    assert model.dropout.p == 0.2
    assert list(plain.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, r"classes: expected an integer >= 1; got 0"),
        ({"channels": 0}, r"channels: expected an integer >= 1; got 0"),
        ({"width": 0.02}, r"width: expected a number in \[0\.03125, inf\); got 0\.02"),
        ({"widths": {"mixed11": 2.0}}, r"widths: expected names of .*; got 'mixed11'; did you mean mixed1"),
        ({"widths": {"mixed2": 0.01}}, r"widths\['mixed2'\]: expected a number in \[0\.0208333, inf\); got 0\.01"),
        ({"dropout": -0.1}, r"dropout: expected a number in \[0, 1\); got -0\.1"),
        ({"init": "xavier"}, r"init: expected one of .*; got 'xavier'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(inception_v3)(**{"classes": 2, **options})
