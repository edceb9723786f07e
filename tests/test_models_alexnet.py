"""The small AlexNet: its size, its forward pass by hand, its widths, and what it refuses."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.alexnet import AlexNetSmall, alexnet_small


def count(**options: Any) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in alexnet_small(**options).parameters())


def local_response_normalization(x: Tensor) -> Tensor:
    """TensorFlow's formula, one channel at a time: radius 2, bias 1, alpha 2e-5 a channel, beta 0.75."""
    out = torch.empty_like(x)
    for channel in range(x.shape[1]):
        total = torch.zeros_like(x[:, 0])
        for other in range(channel - 2, channel + 3):
            if 0 <= other < x.shape[1]:
                total = total + x[:, other] ** 2
        out[:, channel] = x[:, channel] / (1.0 + 2e-5 * total) ** 0.75
    return out


def pool_same(x: Tensor) -> Tensor:
    """3×3 maxima of stride 2 with TensorFlow's "SAME" padding: half of what is missing before, the rest after."""
    size = x.shape[-1]
    half = math.ceil(size / 2)
    before = max((half - 1) * 2 + 3 - size, 0) // 2
    rows = [[max(2 * i - before, 0), min(2 * i - before + 3, size)] for i in range(half)]
    out = torch.empty(*x.shape[:2], half, half, dtype=x.dtype)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(rows):
            out[:, :, i, j] = x[:, :, top:bottom, left:right].amax(dim=(2, 3))
    return out


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    for i in (1, 2):
        x = F.conv2d(x, state[f"conv{i}.weight"], state[f"conv{i}.bias"], padding=2).clamp(min=0)
        x = local_response_normalization(pool_same(x))
    x = x.reshape(len(x), -1)
    for i in (1, 2):
        x = (x @ state[f"fc{i}.weight"].T + state[f"fc{i}.bias"]).clamp(min=0)
    return x @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8), (2, 9), (1, 7), (1, 2), (1, 1)])
def test_forward_by_hand(channels: int, size: int) -> None:
    """The images are large, so that the local response normalization matters."""
    with forked(size):
        model = alexnet_small(classes=5, channels=channels, size=size, width=1 / 16, init="he-normal").double().eval()
        x = 300 * torch.randn(3, channels, size, size, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
        model.norm1, model.norm2 = nn.Identity(), nn.Identity()
        without = model(x)
    expected = by_hand(dict(model.state_dict()), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 1e-3
    assert not torch.allclose(without, expected, rtol=1e-2)


def test_normalization_in_closed_form() -> None:
    """Five channels of value v: the middle one sees all five squares, the outer ones three."""
    model = alexnet_small(classes=2, width=1 / 16)
    v = 200.0
    found = model.norm1(torch.full((1, 5, 1, 1), v, dtype=torch.float64)).flatten()
    expected = [v / (1 + 2e-5 * n * v**2) ** 0.75 for n in (3, 4, 5, 4, 3)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_count_in_closed_form() -> None:
    dense = 384 * 192 + 192 + 192 * 10 + 10
    convolutions = 96 * (25 * 3 + 1) + 256 * (25 * 96 + 1)
    assert count(classes=10) == convolutions + 384 * (256 * 8 * 8 + 1) + dense == 6_989_642
    fashion = 96 * (25 + 1) + 256 * (25 * 96 + 1) + 384 * (256 * 7 * 7 + 1) + dense
    assert count(classes=10, channels=1, size=28) == fashion == 5_510_282


def test_count_is_the_one_printed_by_zhang() -> None:
    """Zhang et al. 2017, Table 1, "Alexnet" on crops of 28 pixels: that settles the padding."""
    assert count(classes=10, size=28, widths={"conv1": 64 / 96, "conv2": 64 / 256}) == 1_387_786


@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_width_scales_every_hidden_layer(width: float) -> None:
    shapes = [
        value.shape[0] for value in alexnet_small(classes=10, size=4, width=width).parameters() if value.ndim > 1
    ]
    assert shapes == [96 * width, 256 * width, 384 * width, 192 * width, 10]


@pytest.mark.parametrize(("layer", "at"), [("conv1", 0), ("conv2", 1), ("fc1", 2), ("fc2", 3)])
def test_one_layer_has_its_own_width(layer: str, at: int) -> None:
    model = alexnet_small(classes=10, size=4, width=0.5, widths={layer: 0.25})
    expected = [48, 128, 192, 96, 10]
    expected[at] //= 2
    assert [value.shape[0] for value in model.parameters() if value.ndim > 1] == expected
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 10)


def test_names_and_units() -> None:
    model = alexnet_small(classes=2, width=1 / 16)
    assert isinstance(model, AlexNetSmall)
    names = ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", "flatten"]
    names += ["fc1", "relu3", "fc2", "relu4", "classifier"]
    assert [name for name, _ in model.named_children()] == names
    units: dict[str, tuple[int, ...]] = {}
    x = torch.randn(2, 3, 32, 32)
    for name, module in model.named_children():
        x = module(x)
        units[name] = tuple(x.shape)
    assert [units[f"relu{i}"] for i in (1, 2, 3, 4)] == [(2, 6, 32, 32), (2, 16, 16, 16), (2, 24), (2, 12)]


def test_dropout_follows_the_dense_activations_and_changes_no_name() -> None:
    with forked(0):
        plain = alexnet_small(classes=2, width=1 / 16, size=8)
    with forked(0):
        model = alexnet_small(classes=2, width=1 / 16, size=8, dropout=0.5)
    assert not any(isinstance(module, nn.Dropout) for module in plain.modules())
    names = [name for name, _ in model.named_children()]
    assert names[-7:] == ["fc1", "relu3", "dropout1", "fc2", "relu4", "dropout2", "classifier"]
    assert [model.dropout1.p, model.dropout2.p] == [0.5, 0.5]
    assert list(plain.state_dict()) == list(model.state_dict())
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(plain(x), model.eval()(x))
    assert not torch.equal(plain(x), model.train()(x))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_it_exports_with_a_free_batch_dimension() -> None:
    with forked(0):
        model, x = alexnet_small(classes=2, width=1 / 16, size=8).eval(), torch.randn(6, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, r"classes: expected an integer >= 1; got 0"),
        ({"channels": 0}, r"channels: expected an integer >= 1; got 0"),
        ({"size": 0}, r"size: expected an integer >= 1; got 0"),
        ({"width": 0.005}, r"width: expected a number in \[0\.0104167, inf\); got 0\.005"),
        ({"width": math.nan}, r"width: expected a number in .*; got nan"),
        (
            {"widths": {"conv3": 2.0}},
            r"widths: expected names of .*conv1, conv2, fc1, fc2; got 'conv3'; did you mean",
        ),
        ({"widths": {"fc2": 0.0}}, r"widths\['fc2'\]: expected a number in \[0\.00520833, inf\); got 0\.0"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\); got 1\.0"),
        ({"init": "he"}, r"init: expected one of .*'he-normal'.* Normal\(\.\.\.\) or Scaled\(\.\.\.\); got 'he'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(alexnet_small)(**{"classes": 2, **options})
