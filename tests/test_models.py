"""The architectures' sizes, shapes and names, and what they refuse."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.fcn import FCN, fcn
from netopsy.models.inits import initialize
from netopsy.models.resnet import ResNet, resnet, resnet56
from netopsy.models.vgg import VGG, vgg


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def empty(build: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    """Build without memory, for counting."""
    with torch.device("meta"):
        return build(*args, **options)


def layers(model: nn.Module) -> list[str]:
    """Names of the modules that own a weight."""
    return [name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith(".weight")]


# Parameter counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "values"), [(7, 7), ((1, 28, 28), 784)])
def test_fcn_count_in_closed_form(inputs: int | tuple[int, ...], values: int, bias: bool) -> None:
    model = fcn(inputs=inputs, classes=10, depth=3, width=16, bias=bias)
    assert size(model) == values * 16 + 2 * 16**2 + 16 * 10 + (3 * 16 + 10) * bias


@pytest.mark.parametrize(
    ("depth", "published"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_resnet_v1_counts_are_torchvisions(depth: int, published: int) -> None:
    assert size(empty(resnet, depth, classes=1000, version=1, batch_norm=True, stem="large")) == published


@pytest.mark.parametrize(("depth", "published"), [(50, 25_613_800), (101, 44_675_560), (152, 60_380_648)])
def test_resnet_v2_counts_are_keras(depth: int, published: int) -> None:
    """Keras counts running statistics too, and gives biases to the stem, the shortcuts and the last convolutions."""
    model = empty(resnet, depth, classes=1000, version=2, batch_norm=True, stem="large")
    statistics = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    biases = sum(
        module.out_channels
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and name.endswith(("stem.conv", "shortcut.conv", "conv3"))
    )
    assert size(model) + statistics + biases == published


def test_resnet_56_count_is_the_published_one_plus_its_two_projections() -> None:
    model = empty(resnet, 18, classes=10, version=1, stages=(9, 9, 9), width=0.25, batch_norm=True)
    assert size(model) == 853_018 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_resnet_56_has_the_published_count() -> None:
    """He et al. 2016a, Table 6: 0.85M; 853,018 with the parameter-free shortcuts."""
    first, stage = 3 * 16 * 9 + 2 * 16, 18 * (16 * 16 * 9 + 2 * 16)
    second = 16 * 32 * 9 + 17 * 32 * 32 * 9 + 18 * 2 * 32
    third = 32 * 64 * 9 + 17 * 64 * 64 * 9 + 18 * 2 * 64
    assert size(empty(resnet56, classes=10)) == first + stage + second + third + 64 * 10 + 10 == 853_018
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert size(empty(resnet56, classes=10, shortcut="projection")) == 853_018 + projections


@pytest.mark.parametrize("version", [1, 2])
def test_resnet_18_without_norms_in_closed_form(version: int) -> None:
    def convolution(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + outputs

    count = convolution(1, 8, 3) + 4 * convolution(8, 8, 3)
    for c in (8, 16, 32):
        count += convolution(c, 2 * c, 3) + 3 * convolution(2 * c, 2 * c, 3) + convolution(c, 2 * c, 1)
    count += 64 * 10 + 10
    assert size(resnet(18, classes=10, channels=1, width=1 / 8, version=version)) == count


@pytest.mark.parametrize(
    ("name", "published"),
    [("vgg11", 132_863_336), ("vgg13", 133_047_848), ("vgg16", 138_357_544), ("vgg19", 143_667_240)],
)
def test_vgg_counts_are_torchvisions(name: str, published: int) -> None:
    assert size(empty(vgg, name, classes=1000, size=224)) == published


@pytest.mark.parametrize(
    ("name", "published"),
    [("vgg11", 132_868_840), ("vgg13", 133_053_736), ("vgg16", 138_365_992), ("vgg19", 143_678_248)],
)
def test_vgg_counts_with_norms_are_torchvisions_without_the_idle_biases(name: str, published: int) -> None:
    model = empty(vgg, name, classes=1000, size=224, batch_norm=True)
    idle = sum(module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    assert size(model) == published - idle


@pytest.mark.parametrize(
    ("build", "name", "options", "printed"),
    [
        (vgg, "vgg11", {}, "2.8e+07"),
        (vgg, "vgg16", {}, "3.4e+07"),
        (resnet, 18, {"version": 1}, "1.1e+07"),
        (resnet, 34, {"version": 1}, "2.1e+07"),
        (resnet, 50, {"version": 1}, "2.3e+07"),
        (resnet, 101, {"version": 1}, "4.2e+07"),
    ],
)
def test_counts_on_cifar_are_those_printed_by_chatterji(
    build: Callable[..., nn.Module], name: str | int, options: dict[str, Any], printed: str
) -> None:
    """Chatterji et al. 2020, Table 2, column NoP."""
    assert f"{size(empty(build, name, classes=10, **options)):.1e}" == printed


# Shapes, widths, parts ------------------------------------------------------------------------------------------


def test_fcn_flattens_any_shape() -> None:
    model = fcn(inputs=(2, 3, 4), classes=5, width=8)
    x = torch.randn(6, 2, 3, 4)
    assert model(x).shape == (6, 5)
    assert torch.equal(model(x), model(x.flatten(1)))


@pytest.mark.parametrize("name", ["vgg11", "vgg19"])
@pytest.mark.parametrize("side", [8, 28, 32, 33, 224])
def test_vgg_shapes(name: str, side: int) -> None:
    model = vgg(name, classes=7, channels=1, size=side, width=1 / 64)
    assert model(torch.randn(2, 1, side, side)).shape == (2, 7)


@pytest.mark.parametrize(
    ("stem", "side"), [("small", 28), ("small", 32), ("small", 1), ("large", 224), ("large", 32)]
)
@pytest.mark.parametrize(("depth", "version"), [(18, 1), (18, 2), (50, 1), (50, 2)])
def test_resnet_shapes(depth: int, version: int, stem: str, side: int) -> None:
    model = resnet(depth, classes=7, channels=1, version=version, width=1 / 64, stem=stem)
    assert model(torch.randn(2, 1, side, side)).shape == (2, 7)


@pytest.mark.parametrize(("stem", "sides"), [("small", [32, 32, 16, 8, 4]), ("large", [56, 56, 28, 14, 7])])
def test_resnet_resolutions(stem: str, sides: list[int]) -> None:
    model = resnet(18, classes=2, width=1 / 64, stem=stem)
    x = torch.randn(1, 3, 32 if stem == "small" else 224, 32 if stem == "small" else 224)
    for part, side in zip(["stem", "stage1", "stage2", "stage3", "stage4"], sides, strict=True):
        x = model.get_submodule(part)(x)
        assert x.shape[2:] == (side, side), part


def test_width_scales_every_channel() -> None:
    channels = [m.out_channels for m in empty(resnet, 18, classes=10).modules() if isinstance(m, nn.Conv2d)]
    for width in (0.25, 2.0):
        model = empty(resnet, 18, classes=10, width=width)
        assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [c * width for c in channels]
    model = empty(vgg, "vgg11", classes=10, width=0.5)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [32, 64, 128, 128] + [256] * 4
    assert (model.fc1.out_features, model.fc2.out_features, model.classifier.out_features) == (2048, 2048, 10)


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_resnet_56_widths(width: float) -> None:
    model = empty(resnet56, classes=10, width=width)
    channels = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [16 * width] * 19 + [32 * width] * 18 + [64 * width] * 18
    assert not any(isinstance(module, nn.Conv2d) for name, module in model.named_modules() if "shortcut" in name)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("depth", "inner"), [(18, ["conv1"]), (50, ["conv1", "conv2"])])
def test_one_block_has_its_own_inner_width(depth: int, inner: list[str], version: int) -> None:
    def channels(**options: Any) -> dict[str, int]:
        options |= {"classes": 2, "width": 1 / 16, "version": version, "batch_norm": True, "stages": (2, 2)}
        model = resnet(depth, **options).eval()
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 2)
        return {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}

    before = channels()
    for block in ("stage1.block1", "stage2.block1", "stage2.block2"):
        wider = {f"{block}.{name}": 4 * before[f"{block}.{name}"] for name in inner}
        assert channels(widths={block: 1 / 4}) == before | wider


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_fcn_dropout_follows_the_activations_and_changes_no_name(dropout: float) -> None:
    with forked(0):
        plain = fcn(inputs=6, classes=2, depth=2, width=50)
    with forked(0):
        model = fcn(inputs=6, classes=2, depth=2, width=50, dropout=dropout)
    found = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert found == ({"dropout.0": 0.5, "dropout.1": 0.5} if dropout else {})
    assert ("dropout" in dict(model.named_children())) == (dropout > 0)
    assert list(plain.state_dict()) == list(model.state_dict())
    x = torch.randn(4, 6)
    assert torch.equal(plain(x), model.eval()(x))
    assert torch.equal(plain(x), model.train()(x)) == (not dropout)
    with forked(1):
        expected = x
        for hidden in model.hidden:
            expected = torch.dropout(hidden(expected).clamp(min=0), dropout, train=True)
    with forked(1):
        torch.testing.assert_close(model(x), model.classifier(expected))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(
    "build",
    [
        lambda **o: vgg("vgg11", classes=2, width=1 / 64, **o),
        lambda **o: resnet(18, classes=2, width=1 / 64, version=1, **o),
        lambda **o: resnet(18, classes=2, width=1 / 64, version=2, **o),
        lambda **o: resnet(50, classes=2, width=1 / 64, version=2, stem="large", **o),
    ],
)
def test_convolutions_have_biases_exactly_where_there_are_no_norms(
    build: Callable[..., nn.Module], batch_norm: bool
) -> None:
    modules = list(build(batch_norm=batch_norm).modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in modules) == batch_norm
    assert not any(isinstance(m, nn.Identity) for m in modules)
    assert all((m.bias is None) == batch_norm for m in modules if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    "build",
    [
        lambda: fcn(inputs=192, classes=2, width=8),
        lambda: vgg("vgg13", classes=2, size=8, width=1 / 16, batch_norm=True),
        lambda: resnet(18, classes=2, width=1 / 16, version=1, batch_norm=True),
        lambda: resnet(50, classes=2, width=1 / 16, version=2, batch_norm=True),
        lambda: resnet(50, classes=2, width=1 / 16, version=2),
        lambda: resnet56(classes=2, width=1 / 8),
        lambda: fcn(inputs=192, classes=2, width=8, dropout=0.5),
    ],
)
def test_every_parameter_is_in_use_and_a_copy_is_the_same_function(build: Callable[[], nn.Module]) -> None:
    with forked(0):
        model, x = build(), torch.randn(4, 3, 8, 8)
    model(x).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))


def test_a_replaced_part_of_a_block_is_the_one_that_runs() -> None:
    model = resnet(18, classes=2, width=1 / 16, stages=(1,)).eval()
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    model.stage1.block1.relu2 = nn.Identity()
    assert not torch.equal(model(x), before)


# Names ----------------------------------------------------------------------------------------------------------


def test_fcn_names() -> None:
    model = fcn(inputs=4, classes=2, depth=3, width=2)
    assert isinstance(model, FCN)
    assert layers(model) == ["hidden.0", "hidden.1", "hidden.2", "classifier"]


def test_vgg_names() -> None:
    model = vgg("vgg11", classes=2, width=1 / 64)
    assert isinstance(model, VGG)
    convolutions = ["1.conv1", "2.conv1", "3.conv1", "3.conv2", "4.conv1", "4.conv2", "5.conv1", "5.conv2"]
    assert layers(model) == [f"stage{name}" for name in convolutions] + ["fc1", "fc2", "classifier"]
    stage = vgg("vgg11", classes=2, width=1 / 64, batch_norm=True).stage1
    assert [name for name, _ in stage.named_children()] == ["conv1", "norm1", "relu1", "pool"]


def test_resnet_names() -> None:
    model = resnet(18, classes=2, width=1 / 64, version=1, batch_norm=True, stages=(1, 2))
    assert isinstance(model, ResNet)
    body = ["conv1", "norm1", "conv2", "norm2"]
    expected = ["stem.conv", "stem.norm"]
    expected += [f"stage1.block1.{part}" for part in body]
    expected += [f"stage2.block1.{part}" for part in [*body, "shortcut.conv", "shortcut.norm"]]
    expected += [f"stage2.block2.{part}" for part in body]
    assert layers(model) == [*expected, "classifier"]


def test_resnet_stages_are_the_papers() -> None:
    """Zhang et al. 2022, Fig. 4: the blocks of ResNet-152; Chatterji et al. 2020, Appendix C: their shortcuts."""
    model = empty(resnet, 152, classes=10)
    blocks = [f"stage{s}.block{b}" for s, count in enumerate((3, 8, 36, 3), 1) for b in range(1, count + 1)]
    names = [name for name, _ in model.named_modules() if name.count(".") == 1 and name.startswith("stage")]
    assert names == blocks
    first = [f"stage{s}.block1.shortcut" for s in (1, 2, 3, 4)]
    assert [name for name, _ in model.named_modules() if name.endswith("shortcut")] == first
    shallow = empty(resnet, 34, classes=10)
    assert [name for name, _ in shallow.named_modules() if name.endswith("shortcut")] == first[1:]


# Bad arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 0}, r"inputs: expected an integer >= 1; got 0"),
        ({"inputs": (1, -28)}, r"inputs: expected an integer >= 1; got -28"),
        ({"inputs": ()}, r"inputs: expected .* the shape of one example; got \(\); pass e\.g\."),
        ({"classes": 0}, r"classes: expected an integer >= 1; got 0"),
        ({"depth": 0}, r"depth: expected an integer >= 1; got 0"),
        ({"width": 0}, r"width: expected an integer >= 1; got 0"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\); got 1\.0"),
        ({"init": "orthogonal"}, r"init: expected one of 'torch', 'glorot-normal'.*; got 'orthogonal'"),
    ],
)
def test_fcn_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(fcn)(**{"inputs": 4, "classes": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg12"}, r"name: expected one of 'vgg11', .*'vgg19'; got 'vgg12'"),
        ({"classes": 0}, r"classes: expected an integer >= 1; got 0"),
        ({"channels": 0}, r"channels: expected an integer >= 1; got 0"),
        ({"size": 0}, r"size: expected an integer >= 1; got 0"),
        ({"width": 0.01}, r"width: expected a number in \[0\.015625, inf\); got 0\.01"),
        ({"width": math.nan}, r"width: expected a number in .*; got nan"),
        ({"init": "he"}, r"init: expected one of .*'he-normal'.*; got 'he'"),
    ],
)
def test_vgg_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(vgg)(**{"name": "vgg11", "classes": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, r"depth: expected one of 18, 34, 50, 101, 152; got 20"),
        ({"version": 3}, r"version: expected one of 1, 2; got 3"),
        ({"classes": 0}, r"classes: expected an integer >= 1; got 0"),
        ({"channels": 0}, r"channels: expected an integer >= 1; got 0"),
        ({"width": 0.0}, r"width: expected a number in \[0\.015625, inf\); got 0\.0"),
        ({"stem": "tiny"}, r"stem: expected one of 'small', 'large'; got 'tiny'"),
        ({"stages": ()}, r"stages: expected the number of blocks of at least one stage; got none; pass e\.g\."),
        ({"stages": (2, 0)}, r"stages: expected an integer >= 1; got 0"),
        ({"widths": {"stage1": 2.0}}, r"widths: expected names of .*stage1\.block1, .*; got 'stage1'; did you mean"),
        ({"widths": {"stage2.block1": 1e-3}}, r"widths\['stage2\.block1'\]: expected a number in .*; got 0\.001"),
        ({"first": 0}, r"first: expected an integer >= 1; got 0"),
        ({"shortcut": "none"}, r"shortcut: expected one of 'projection', 'padding'; got 'none'"),
        ({"init": "xavier"}, r"init: expected one of .*; got 'xavier'"),
    ],
)
def test_resnet_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(resnet)(**{"depth": 18, "classes": 2, **options})


def test_initialize_refuses_an_unknown_name_and_draws_nothing() -> None:
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NetopsyError, match=r"init: expected one of 'torch'.*; got 'zeros'"):
        inspect.unwrap(initialize)(model, "zeros")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
