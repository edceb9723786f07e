"""Densely connected networks (Huang et al. 2017), with and without batch normalization."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy.models.inits import Init, check_init, initialize

Depth: TypeAlias = Literal[121, 169, 201]
"""Published depths."""

Stem: TypeAlias = Literal["small", "large"]
"""First layers for images of about 32 pixels, or of 224."""

STAGES = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
"""Layers in each stage (Huang et al. 2017, Table 1)."""
GROWTH = 32
"""Channels that each published layer adds; the stem has twice as many."""
BOTTLENECK = 4
"""How many times the growth a layer's 1×1 convolution puts out."""
COMPRESSION = 2
"""By what a transition divides the channels, rounding down."""


class DenseLayer(nn.Sequential):
    """A layer of a stage: x -> (x, body(x)), one behind the other along the channels."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """Return the next layer's input."""
        added = x
        for part in self:
            added = part(added)
        return torch.cat([x, added], dim=1)


class DenseNet(nn.Sequential):
    """What `densenet` builds: `stem`, `stage1`, `transition1`, … `norm`, `relu`, `pool`, `flatten`, `classifier`."""


def densenet(
    depth: Depth = 121,
    *,
    classes: int,
    channels: int = 3,
    width: float = 1.0,
    batch_norm: bool = False,
    stem: Stem = "small",
    stages: Sequence[int] | None = None,
    init: Init = "torch",
) -> DenseNet:
    """Build a DenseNet-BC: images (n, channels, height, width) to logits (n, classes).

    A layer (`stage2.layer3`) is `norm1 relu1 conv1 norm2 relu2 conv2`: a 1×1 convolution to four times the growth and
    a 3×3 one to the growth, which is put behind the layer's input. Between stages a transition `norm relu conv pool`
    halves the channels and the resolution; `norm`, `relu` and the mean over all positions end the net. Images must
    have a side of 2^(number of stages - 1) pixels, 8 for the published ones, and four times that with a large stem.

    The defaults are the net that Chatterji et al. 2020 (Appendix C) train on CIFAR, without batch normalization. They
    print 6.8e6 parameters for 10 classes; this has 6,883,018.

    Args:
        depth: the published depth; sets, without `stages`, the layers of each stage.
        classes: logits of one example.
        channels: channels of an image.
        width: factor on the growth, 32 (rounded, at least one), and with it on all channels.
        batch_norm: whether there are normalizations; convolutions have biases exactly where there are none.
        stem: "small" is a 3×3 convolution for images of about 32 pixels; "large" a 7×7 convolution, normalization,
            ReLU and a 3×3 max pooling, the first and last of stride 2, for 224.
        stages: layers in each stage instead of the published ones; any number of stages.
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: an unknown `depth`, `stem` or `init`, a size or a number of layers below 1, no stage, or a
            `width` that leaves no growth.

    >>> model = densenet(classes=10, width=1 / 16, batch_norm=True)
    >>> [name for name, _ in model.stage1.layer1.named_children()]
    ['norm1', 'relu1', 'conv1', 'norm2', 'relu2', 'conv2']
    """
    one_of("depth", depth, get_args(Depth))
    at_least("classes", classes, 1)
    at_least("channels", channels, 1)
    inside("width", width, 1.0 / GROWTH, math.inf, open_high=True)
    one_of("stem", stem, get_args(Stem))
    check_init(init)
    counts = STAGES[depth] if stages is None else tuple(stages)
    if not counts:
        raise NetopsyError("stages: expected the number of layers of at least one stage; got none; pass e.g. (2, 2)")
    for count in counts:
        at_least("stages", count, 1)
    growth = round(GROWTH * width)

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = 2 * growth
    layers["stem"] = _stem(channels, last, stem, batch_norm)
    for i, count in enumerate(counts, 1):
        if i > 1:
            step = _chain("", last, last // COMPRESSION, 1, batch_norm)
            layers[f"transition{i - 1}"] = nn.Sequential(OrderedDict(step, pool=nn.AvgPool2d(2)))
            last //= COMPRESSION
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(1, count + 1):
            inner = BOTTLENECK * growth
            first = _chain("1", last, inner, 1, batch_norm)
            stage[f"layer{j}"] = DenseLayer(OrderedDict(first | _chain("2", inner, growth, 3, batch_norm)))
            last += growth
        layers[f"stage{i}"] = nn.Sequential(stage)
    if batch_norm:
        layers["norm"] = nn.BatchNorm2d(last)
    layers["relu"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(last, classes)
    model = DenseNet(layers)
    initialize(model, init)
    return model


def _stem(inputs: int, outputs: int, stem: Stem, batch_norm: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stem == "small":
        layers["conv"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)
        return nn.Sequential(layers)
    layers["conv"] = nn.Conv2d(inputs, outputs, 7, stride=2, padding=3, bias=not batch_norm)
    if batch_norm:
        layers["norm"] = nn.BatchNorm2d(outputs)
    layers["relu"] = nn.ReLU()
    layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(layers)


def _chain(number: str, inputs: int, outputs: int, kernel: int, batch_norm: bool) -> dict[str, nn.Module]:
    """Normalization, ReLU and convolution, their names ending in `number`."""
    norm = {f"norm{number}": nn.BatchNorm2d(inputs)} if batch_norm else {}
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not batch_norm)
    return {**norm, f"relu{number}": nn.ReLU(), f"conv{number}": convolution}
