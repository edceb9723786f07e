"""The small AlexNet of Zhang et al. 2017 and Casper et al. 2019 for images of about 32 pixels."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from netopsy._checks import at_least, inside
from netopsy.models.inits import Init, check_init, initialize
from netopsy.models.widths import layer_factors

UNITS = {"conv1": 96, "conv2": 256, "fc1": 384, "fc2": 192}
"""Units of each hidden layer at width 1 (Casper et al. 2019, Appendix A)."""
RADIUS = 2
ALPHA = 2e-5
BETA = 0.75
BIAS = 1.0
"""Local response normalization: y_i = x_i / (BIAS + ALPHA · Σ_{|j - i| ≤ RADIUS} x_j²)^BETA, i and j channels."""


class AlexNetSmall(nn.Sequential):
    """What `alexnet_small` builds; `relu1` … `relu4` put out the units of `conv1`, `conv2`, `fc1` and `fc2`."""


def alexnet_small(
    *,
    classes: int,
    channels: int = 3,
    size: int = 32,
    width: float = 1.0,
    widths: Mapping[str, float] | None = None,
    dropout: float = 0.0,
    init: Init = "glorot-normal",
) -> AlexNetSmall:
    """Build a small AlexNet: images (n, channels, size, size) to logits (n, classes).

    Casper et al. 2019, Appendix A: twice a 5×5 convolution of stride 1, ReLU, 3×3 max pooling of stride 2 and local
    response normalization; then two fully connected ReLU layers and the `classifier`. All layers have biases.

    They do not say how borders are padded. Here it is as in TensorFlow's "SAME": a convolution keeps the resolution,
    a pooling halves it (rounded up, windows past the border take what is inside). Only this gives the 1,387,786
    parameters that Zhang et al. 2017 print for the net that this one is modeled on (28 pixels; 64 channels).

    Args:
        classes: logits of one example.
        channels: channels of an image.
        size: height and width of an image in pixels.
        width: factor on the units of every hidden layer, those of `UNITS` at width 1 (rounded).
        widths: factors of single layers instead of `width`, such as `{"conv1": 2.0}`; names as in `UNITS`.
        dropout: probability that a unit of `fc1` and `fc2` is dropped in train mode, after its ReLU (as in Krizhevsky
            et al. 2012; Casper et al. do not say where, nor how often); 0 makes no such module.
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: a size below 1, an unknown layer in `widths`, a factor that leaves a layer without units, a
            `dropout` outside [0, 1) or an unknown `init`.

    >>> model = alexnet_small(classes=10, channels=1, size=28, width=1 / 4, widths={"conv1": 1 / 8})
    >>> [(name, tuple(value.shape)) for name, value in model.named_parameters() if value.ndim > 1][:3]
    [('conv1.weight', (12, 1, 5, 5)), ('conv2.weight', (64, 12, 5, 5)), ('fc1.weight', (96, 3136))]
    """
    at_least("classes", classes, 1)
    at_least("channels", channels, 1)
    at_least("size", size, 1)
    factors = layer_factors(UNITS, width, widths)
    inside("dropout", dropout, 0.0, 1.0, open_high=True)
    check_init(init)
    units = {name: round(base * factors[name]) for name, base in UNITS.items()}

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = channels
    for i in (1, 2):
        outputs = units[f"conv{i}"]
        layers[f"conv{i}"] = nn.Conv2d(last, outputs, 5, padding=2)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"pool{i}"] = nn.MaxPool2d(3, stride=2, padding=size % 2, ceil_mode=True)
        # PyTorch divides its alpha by the number of channels in the window, TensorFlow does not.
        window = 2 * RADIUS + 1
        layers[f"norm{i}"] = nn.LocalResponseNorm(window, alpha=window * ALPHA, beta=BETA, k=BIAS)
        last, size = outputs, math.ceil(size / 2)
    layers["flatten"] = nn.Flatten()
    last *= size**2
    for i in (1, 2):
        outputs = units[f"fc{i}"]
        layers[f"fc{i}"] = nn.Linear(last, outputs)
        layers[f"relu{i + 2}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{i}"] = nn.Dropout(dropout)
        last = outputs
    layers["classifier"] = nn.Linear(last, classes)
    model = AlexNetSmall(layers)
    initialize(model, init)
    return model
