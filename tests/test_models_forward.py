"""The architectures compute what hand-written float64 forward passes compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netopsy._random import forked
from netopsy.models.fcn import fcn
from netopsy.models.resnet import resnet
from netopsy.models.vgg import CONVOLUTIONS, vgg
from tests.oracles import forwards


def stirred(model: nn.Module) -> nn.Module:
    """Give every tensor a value of its own, so that no norm, bias or running statistic is neutral."""
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if "running_var" in name or ("norm" in name and name.endswith("weight")):
                value.copy_(0.5 + torch.rand(value.shape))
            elif value.is_floating_point() and value.ndim == 1:
                value.copy_(0.5 * torch.randn(value.shape))
    return model.double().eval()


def agree(model: nn.Module, x: torch.Tensor, expected: torch.Tensor) -> None:
    with torch.no_grad():
        found = model(x)
    assert expected.std() > 1e-3, "a case whose logits are all alike tests nothing"
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_fcn(depth: int, bias: bool) -> None:
    with forked(depth):
        model = stirred(fcn(inputs=(2, 3), classes=4, depth=depth, width=5, bias=bias, init="he-normal"))
        x = torch.randn(3, 2, 3, dtype=torch.float64)
    agree(model, x, torch.from_numpy(forwards.fcn(dict(model.state_dict()), x.numpy(), depth)))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("name", "side"), [("vgg11", 28), ("vgg13", 32), ("vgg16", 45), ("vgg19", 8)])
def test_vgg(name: str, side: int, batch_norm: bool) -> None:
    with forked(side):
        model = vgg(name, classes=4, channels=2, size=side, width=1 / 32, batch_norm=batch_norm, init="he-normal")
        model, x = stirred(model), torch.randn(3, 2, side, side, dtype=torch.float64)
    agree(model, x, forwards.vgg(dict(model.state_dict()), x, CONVOLUTIONS[name]))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("stem", "shape"), [("small", (9, 12)), ("large", (37, 32))])
def test_resnet(version: int, depth: int, batch_norm: bool, stem: str, shape: tuple[int, int]) -> None:
    stages = (2, 1, 2)
    with forked(depth):
        model = resnet(
            depth, classes=4, channels=2, version=version, width=1 / 16, batch_norm=batch_norm, stem=stem,
            stages=stages, init="he-normal",
        )  # fmt: skip
        model, x = stirred(model), torch.randn(3, 2, *shape, dtype=torch.float64)
    forward = forwards.resnet_v1 if version == 1 else forwards.resnet_v2
    expected = forward(dict(model.state_dict()), x, stages, bottleneck=depth == 50, large=stem == "large")
    agree(model, x, expected)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_resnet_with_padding_is_one_whose_projections_copy(version: int, depth: int, batch_norm: bool) -> None:
    """He et al. 2016a, option A: a strided 1×1 convolution that copies each channel, and zeros in the others."""
    stages = (2, 1, 2)
    with forked(depth):
        model = resnet(
            depth, classes=4, channels=2, version=version, width=1 / 16, batch_norm=batch_norm, stages=stages,
            shortcut="padding", init="he-normal", widths={"stage2.block1": 1 / 8},
        )  # fmt: skip
        model, x = stirred(model), torch.randn(3, 2, 9, 12, dtype=torch.float64)
    state = dict(model.state_dict())
    paddings = [name for name, _ in model.named_modules() if name.endswith("shortcut")]
    assert paddings == [f"stage{stage}.block1.shortcut" for stage in ((1, 2, 3) if depth == 50 else (2, 3))]
    for name in paddings:
        block = name.removesuffix("shortcut")
        outputs = state[f"{block}conv{3 if depth == 50 else 2}.weight"].shape[0]
        inputs = state[f"{block}conv1.weight"].shape[1]
        state[f"{name}.conv.weight"] = torch.eye(outputs, inputs)[:, :, None, None]
    forward = forwards.resnet_v1 if version == 1 else forwards.resnet_v2
    agree(model, x, forward(state, x, stages, bottleneck=depth == 50, large=False))


def test_v2_without_residual_bodies_is_its_skips() -> None:
    """Closed form: with the bodies' last convolutions at zero, a stage of identity skips passes its input on."""
    with forked(0):
        model, x = resnet(18, classes=2, width=1 / 16, stages=(3,)), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        for block in model.stage1:
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
        start = model.stem(x)
        assert (start < 0).any()
        assert torch.equal(model.stage1(start), start)


def test_v1_without_residual_bodies_clips_its_skips() -> None:
    with forked(0):
        model, x = resnet(18, classes=2, width=1 / 16, stages=(3,), version=1), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        for block in model.stage1:
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
        assert torch.equal(model.stage1(x), x.clamp(min=0))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_a_block_with_norms_exports_with_a_free_batch_dimension() -> None:
    with forked(0):
        model = resnet(18, classes=2, width=1 / 16, stages=(1, 1), batch_norm=True).eval()
        x = torch.randn(6, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
        torch.testing.assert_close(program.module()(x), model(x))
