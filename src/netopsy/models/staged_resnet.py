"""Pre-activation ResNets whose blocks all have identity skips, with downsampling layers between the stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from netopsy._checks import NetopsyError, at_least, inside
from netopsy.models.inits import Init, check_init, initialize
from netopsy.models.resnet import CHANNELS, Block, ResNet


class StagedResNet(ResNet):
    """What `staged_resnet` builds: `stem`, `stage1`, `down2`, `stage2` …, `norm`, `relu`, `pool`, `classifier`."""


def staged_resnet(
    stages: Sequence[int],
    *,
    classes: int,
    channels: int = 3,
    width: float = 1.0,
    batch_norm: bool = False,
    init: Init = "torch",
) -> StagedResNet:
    """Build a ResNet V2 of which any block can be replaced: images (n, channels, h, w) to logits (n, classes).

    The networks of Zhang et al. 2022, section 6: "explicitly having a downsample layer between stages, so that all
    the residual blocks are with identity skip connections" (Appendix A). ResN(4_2) is `stages=(4, 4)`, ResN(4_4) is
    `stages=(4, 4, 4, 4)`. A block is that of `netopsy.models.resnet.resnet` in version 2. The paper does not say what
    a downsampling layer is; here `down2` is the preact ReLU (with `batch_norm` also its normalization) and a 3×3
    convolution of stride 2 with twice the channels. The stem is the small one, for images of about 32 pixels.

    Args:
        stages: blocks in each stage.
        classes: logits of one example.
        channels: channels of an image.
        width: factor on the channels (rounded), which are 64 in the first stage and double from stage to stage.
        batch_norm: whether there are normalizations; convolutions have biases exactly where there are none.
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: no stage, a size or a number of blocks below 1, a `width` that leaves no channel, or an unknown
            `init`.

    >>> model = staged_resnet((1, 1), classes=10, width=1 / 16)
    >>> [name for name, _ in model.named_children()]
    ['stem', 'stage1', 'down2', 'stage2', 'relu', 'pool', 'flatten', 'classifier']
    """
    if not stages:
        raise NetopsyError("stages: expected the number of blocks of at least one stage; got none; pass e.g. (4, 4)")
    for count in stages:
        at_least("stages", count, 1)
    at_least("classes", classes, 1)
    at_least("channels", channels, 1)
    inside("width", width, 1.0 / CHANNELS, float("inf"), open_high=True)
    check_init(init)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = round(CHANNELS * width)
    layers["stem"] = nn.Sequential(OrderedDict(conv=_convolution(channels, last, 1, batch_norm)))
    for i, count in enumerate(stages, 1):
        if i > 1:
            outputs = round(CHANNELS * 2 ** (i - 1) * width)
            down = {**_preact("", last, batch_norm), "conv": _convolution(last, outputs, 2, batch_norm)}
            layers[f"down{i}"] = nn.Sequential(OrderedDict(down))
            last = outputs
        blocks: dict[str, nn.Module] = {f"block{j}": _block(last, batch_norm) for j in range(1, count + 1)}
        layers[f"stage{i}"] = nn.Sequential(OrderedDict(blocks))
    layers |= _preact("", last, batch_norm)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(last, classes)
    model = StagedResNet(layers)
    initialize(model, init)
    return model


def _block(channels: int, batch_norm: bool) -> Block:
    first, second = (_convolution(channels, channels, 1, batch_norm) for _ in range(2))
    body = {"conv1": first, **_preact("2", channels, batch_norm), "conv2": second}
    return Block(before=_preact("1", channels, batch_norm), body=body, after={}, shortcut=None)


def _preact(number: str, channels: int, batch_norm: bool) -> dict[str, nn.Module]:
    norm: dict[str, nn.Module] = {f"norm{number}": nn.BatchNorm2d(channels)} if batch_norm else {}
    return {**norm, f"relu{number}": nn.ReLU()}


def _convolution(inputs: int, outputs: int, stride: int, batch_norm: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=not batch_norm)
