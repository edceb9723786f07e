"""DenseNet: its size, its forward pass by hand, its names and sites, and what it refuses."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy import Trajectory, robustness
from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.densenet import densenet
from netopsy.network.groups import residual_groups
from netopsy.network.sites import find_sites
from netopsy.network.units import find_units

State = dict[str, Tensor]


def empty(*args: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return densenet(*args, **options)


def size(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


# Counts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "published"), [(121, 7_978_856), (169, 14_149_480), (201, 20_013_928)])
def test_counts_are_torchvisions(depth: int, published: int) -> None:
    model = empty(depth, classes=1000, batch_norm=True, stem="large")
    assert size(model) == published
    # The depth counts the convolutions and the classifier.
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth


@pytest.mark.parametrize(("classes", "printed"), [(10, 6.8e6), (100, 6.9e6)])
def test_count_on_cifar_is_the_one_that_chatterji_print(classes: int, printed: float) -> None:
    """Chatterji et al. 2020, Tables 2 and 3, column NoP; cut, not rounded."""
    count = size(empty(classes=classes))
    assert math.floor(count / 1e5) * 1e5 == pytest.approx(printed)
    if classes == 10:
        assert count == 6_883_018


def test_count_without_norms_in_closed_form() -> None:
    growth, last, count = 4, 8, 8 * (9 * 3 + 1)
    for stage, layers in enumerate((2, 3)):
        if stage:
            count += (last // 2) * (last + 1)
            last //= 2
        for _ in range(layers):
            count += 4 * growth * (last + 1) + growth * (4 * growth * 9 + 1)
            last += growth
    count += 5 * (last + 1)
    assert size(densenet(classes=5, width=1 / 8, stages=(2, 3))) == count


# Forward --------------------------------------------------------------------------------------------------------


def activated(state: State, name: str, x: Tensor) -> Tensor:
    """Batch normalization with the running statistics, where the net has one of this name, and ReLU."""
    if f"{name}.weight" in state:
        mean, variance, factor, shift = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * factor + shift
    return x.clamp(min=0)


def by_hand(state: State, x: Tensor, stages: tuple[int, ...], *, large: bool) -> Tensor:
    def conv(name: str, value: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(value, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    x = conv("stem.conv", x, 2 if large else 1)
    if large:
        x = F.pad(activated(state, "stem.norm", x), (1, 1, 1, 1))  # what the ReLU gives is never below 0
        x = x.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-2, -1))
    for stage, count in enumerate(stages, 1):
        if stage > 1:
            x = conv(f"transition{stage - 1}.conv", activated(state, f"transition{stage - 1}.norm", x))
            height, width = x.shape[2] // 2, x.shape[3] // 2
            x = x[:, :, : 2 * height, : 2 * width].reshape(*x.shape[:2], height, 2, width, 2).mean(dim=(3, 5))
        seen = [x]  # the outputs of all layers so far
        for layer in range(1, count + 1):
            name = f"stage{stage}.layer{layer}"
            inner = conv(f"{name}.conv1", activated(state, f"{name}.norm1", torch.cat(seen, 1)))
            seen.append(conv(f"{name}.conv2", activated(state, f"{name}.norm2", inner)))
        x = torch.cat(seen, 1)
    return activated(state, "norm", x).mean(dim=(2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]


def stirred(model: nn.Module) -> nn.Module:
    """In float64, no bias or normalization neutral."""
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if "running_var" in name or ("norm" in name and name.endswith("weight")):
                value.copy_(0.5 + torch.rand(value.shape))
            elif value.ndim == 1:
                value.copy_(0.5 * torch.randn(value.shape))
    return model.double().eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("stem", "shape"), [("small", (9, 12)), ("large", (37, 32))])
@pytest.mark.parametrize("channels", [1, 3])
def test_forward_by_hand(batch_norm: bool, stem: str, shape: tuple[int, int], channels: int) -> None:
    stages = (2, 1, 3)
    with forked(channels):
        options = {"channels": channels, "batch_norm": batch_norm, "stem": stem, "stages": stages}
        model = stirred(densenet(classes=4, width=1 / 8, init="he-normal", **options))
        x = torch.randn(3, channels, *shape, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
    expected = by_hand(dict(model.state_dict()), x, stages, large=stem == "large")
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_layer_passes_its_input_on() -> None:
    with forked(0):
        layer, x = densenet(classes=2, width=1 / 16).stage2.layer3, torch.randn(2, 12, 4, 4)
    with torch.no_grad():
        y = layer(x)
    assert y.shape == (2, 14, 4, 4)
    assert torch.equal(y[:, :12], x)


@pytest.mark.parametrize(("stem", "side"), [("small", 32), ("large", 56)])
def test_channels_and_grids_are_the_papers(stem: str, side: int) -> None:
    """Huang et al. 2017, Table 1: on 224 pixels with the large stem; on 32 with the small one."""
    thin = densenet(classes=2, width=1 / 32, stem=stem).eval()
    value, sides = torch.randn(1, 3, 32 if stem == "small" else 224, 32 if stem == "small" else 224), {}
    with torch.no_grad():
        for name, part in thin.named_children():
            value = part(value)
            sides[name] = value.shape[2] if value.ndim == 4 else 0
    grids = {f"stage{i}": side // 2 ** (i - 1) for i in range(1, 5)}
    grids |= {f"transition{i}": side // 2**i for i in range(1, 4)}
    assert sides == {"stem": side, **grids, "relu": side // 8, "pool": 1, "flatten": 0, "classifier": 0}
    model = empty(classes=10, stem=stem)
    firsts = [model.get_submodule(f"stage{i}.layer1.conv1").in_channels for i in range(1, 5)]
    assert firsts == [64, 128, 256, 512]
    assert model.classifier.in_features == 1024


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_parameter_is_in_use_and_biases_stand_where_norms_do_not(batch_norm: bool) -> None:
    with forked(0):
        model, x = densenet(classes=2, width=1 / 16, batch_norm=batch_norm), torch.randn(4, 3, 8, 8)
    model(x).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert all((m.bias is None) == batch_norm for m in model.modules() if isinstance(m, nn.Conv2d))
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == batch_norm


@pytest.mark.parametrize("width", [0.25, 2.0])
def test_width_scales_every_channel(width: float) -> None:
    outputs = [m.out_channels for m in empty(classes=10).modules() if isinstance(m, nn.Conv2d)]
    scaled = [m.out_channels for m in empty(classes=10, width=width).modules() if isinstance(m, nn.Conv2d)]
    assert scaled == [channels * width for channels in outputs]


# Sites and the engine -------------------------------------------------------------------------------------------


def test_names_sites_and_units() -> None:
    model = densenet(classes=2, width=1 / 16, stages=(1, 2))
    names = ["stem.conv", "stage1.layer1.conv1", "stage1.layer1.conv2", "transition1.conv"]
    names += [f"stage2.layer{i}.conv{j}" for i in (1, 2) for j in (1, 2)]
    assert [site.name for site in find_sites(model, "modules")] == [*names, "classifier"]
    blocks = ["stem.conv", "stage1.layer1", "transition1.conv", "stage2.layer1", "stage2.layer2", "classifier"]
    assert [site.name for site in find_sites(model, "blocks")] == blocks
    units = find_units(model, ((torch.randn(2, 3, 8, 8),), {}))
    relus = ["stage1.layer1.relu1", "stage1.layer1.relu2", "transition1.relu"]
    relus += [f"stage2.layer{i}.relu{j}" for i in (1, 2) for j in (1, 2)]
    assert [layer.name for layer in units] == [*relus, "relu"]
    assert [layer.units for layer in units] == [4, 8, 6, 3, 8, 5, 8, 7]


def test_blocks_with_norms_are_the_layers_and_can_be_grouped() -> None:
    model = empty(classes=2, batch_norm=True)
    blocks = [site.name for site in find_sites(model, "blocks")]
    layers = [f"stage{s}.layer{i}" for s, count in enumerate((6, 12, 24, 16), 1) for i in range(1, count + 1)]
    assert [name for name in blocks if "layer" in name] == layers
    outside = ["stem.conv", *(f"transition{i}.{part}" for i in (1, 2, 3) for part in ("norm", "conv"))]
    assert [name for name in blocks if "layer" not in name] == [*outside, "norm", "classifier"]
    assert len(residual_groups(blocks)["every second block"]) == 29


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_the_exported_engine_runs_it_as_the_eager_one_does() -> None:
    states = {}
    for key in (0, 1):
        with forked(key):
            model = densenet(classes=3, width=1 / 16, stages=(1, 2), batch_norm=True, init="he-normal").eval()
        states[key] = model.state_dict()
    x = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        data = (x, model(x).argmax(1))
    path = Trajectory.from_states(model, states)
    sites = ["stage1.layer1", "transition1.conv", "stage2.layer1.conv2", "classifier"]
    found = {engine: robustness(path, data, sites=sites, engine=engine) for engine in ("auto", "eager")}
    assert [result.provenance["engine"] for result in found.values()] == ["exported", "eager"]
    frames = [result.to_frame() for result in found.values()]
    assert frames[0].loss.std() > 1e-3
    np.testing.assert_allclose(frames[0].loss, frames[1].loss, rtol=1e-5)
    # Rewinding the classifier, by hand.
    with torch.no_grad():
        for part in ("weight", "bias"):
            model.classifier.get_parameter(part).copy_(states[0][f"classifier.{part}"])
        expected = F.cross_entropy(model(x), data[1]).item()
    row = frames[0][(frames[0].site == "classifier") & (frames[0].operation == "re-initialize")]
    assert row.loss.item() == pytest.approx(expected, rel=1e-5)


# Bad arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 161}, r"depth: expected one of 121, 169, 201; got 161"),
        ({"classes": 0}, r"classes: expected an integer >= 1; got 0"),
        ({"channels": 0}, r"channels: expected an integer >= 1; got 0"),
        ({"width": 0.03}, r"width: expected a number in \[0\.03125, inf\); got 0\.03"),
        ({"width": math.nan}, r"width: expected a number in .*; got nan"),
        ({"stem": "tiny"}, r"stem: expected one of 'small', 'large'; got 'tiny'"),
        ({"stages": ()}, r"stages: expected the number of layers of at least one stage; got none; pass e\.g\."),
        ({"stages": (2, 0)}, r"stages: expected an integer >= 1; got 0"),
        ({"init": "xavier"}, r"init: expected one of .*; got 'xavier'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(densenet)(**{"classes": 2, **options})
