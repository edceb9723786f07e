"""VGG networks (Simonyan & Zisserman 2015) for images of any size."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal, TypeAlias, get_args

from torch import nn

from netopsy._checks import at_least, inside, one_of
from netopsy.models.inits import Init, check_init, initialize

Name: TypeAlias = Literal["vgg11", "vgg13", "vgg16", "vgg19"]

CHANNELS = (64, 128, 256, 512, 512)
"""Channels of each stage at width 1; the fully connected layers have `DENSE` units."""
DENSE = 4096
CONVOLUTIONS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions in each stage (Simonyan & Zisserman 2015, Table 1: columns A, B, D, E)."""


class VGG(nn.Sequential):
    """What `vgg` builds: `stage1` … `stage5`, `fc1`, `fc2` and `classifier`, from top to bottom."""


def vgg(
    name: Name,
    *,
    classes: int,
    channels: int = 3,
    size: int = 32,
    width: float = 1.0,
    batch_norm: bool = False,
    init: Init = "torch",
) -> VGG:
    """Build a VGG: images (n, channels, size, size) to logits (n, classes).

    Each of the five stages is a run of 3×3 convolutions with ReLU (`stage3.conv2`, `stage3.relu2`) and a 2×2 max
    pooling that rounds up, so that images of 28 pixels and even 8 fit. Two fully connected ReLU layers (`fc1`, `fc2`)
    and the `classifier` follow. With `size=224` this is the ImageNet model; up to 32 pixels one position is left
    after the last stage and `fc1` reads its 512 channels, which gives the parameter counts of Chatterji et al. 2020,
    Table 2 (2.8e7 for VGG-11, 3.4e7 for VGG-16). There is no dropout: the papers mention none.

    Args:
        name: which of the published depths.
        classes: logits of one example.
        channels: channels of an image.
        size: height and width of an image in pixels.
        width: factor on the channels of every convolution and on the 4096 units of `fc1` and `fc2`.
        batch_norm: put a batch normalization (`norm2`) between each convolution, then without bias, and its ReLU.
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: an unknown `name` or `init`, a size below 1, or a `width` that leaves a stage without channels.

    >>> [name for name, _ in vgg("vgg11", classes=10, width=1 / 16).stage3.named_children()]
    ['conv1', 'relu1', 'conv2', 'relu2', 'pool']
    """
    one_of("name", name, get_args(Name))
    at_least("classes", classes, 1)
    at_least("channels", channels, 1)
    at_least("size", size, 1)
    inside("width", width, 1.0 / CHANNELS[0], math.inf, open_high=True)
    check_init(init)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = channels
    for i, (base, count) in enumerate(zip(CHANNELS, CONVOLUTIONS[name], strict=True), 1):
        outputs = round(base * width)
        layers[f"stage{i}"] = _stage(last, outputs, count, batch_norm)
        size = math.ceil(size / 2)
        last = outputs
    units = round(DENSE * width)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(last * size**2, units)
    layers["relu1"] = nn.ReLU()
    layers["fc2"] = nn.Linear(units, units)
    layers["relu2"] = nn.ReLU()
    layers["classifier"] = nn.Linear(units, classes)
    model = VGG(layers)
    initialize(model, init)
    return model


def _stage(inputs: int, outputs: int, count: int, batch_norm: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, count + 1):
        layers[f"conv{i}"] = nn.Conv2d(inputs if i == 1 else outputs, outputs, 3, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{i}"] = nn.ReLU()
    layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(layers)
