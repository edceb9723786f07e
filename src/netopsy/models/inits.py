"""The initializations that the papers compare: variance set by a layer's fans, normal or uniform."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from netopsy._checks import one_of

Init: TypeAlias = Literal[
    "torch", "glorot-normal", "glorot-uniform", "lecun-normal", "lecun-uniform", "he-normal", "he-uniform"
]
"""How a model's weights are first drawn; `"torch"` keeps PyTorch's own defaults."""

INITS: tuple[str, ...] = get_args(Init)


def initialize(model: nn.Module, init: Init) -> None:
    """Draw the weights of every linear and convolutional layer in place; their biases become zero.

    A weight has mean 0 and variance 2/(fan_in + fan_out) (`glorot`: Glorot & Bengio 2010), 1/fan_in (`lecun`: LeCun
    et al. 1998) or 2/fan_in (`he`: He et al. 2015, eq. 10), where a fan is the number of values that one output reads
    (fan_in) or one input feeds (fan_out, strides aside). `normal` is not truncated; `uniform` is the interval around
    0 of that variance. Normalization layers keep their constants, weight 1 and bias 0. `"torch"` leaves everything,
    the uniform biases too, as PyTorch's constructors drew it.

    Matters most without batch normalization: a ReLU layer multiplies the variance of its signal by 1 (`he`), 1/2
    (`lecun`) or 1/6 (`torch`). A plain deep net such as VGG-16 needs `he`: from PyTorch's defaults its logits hardly
    depend on the input. A deep ResNet does not: with `he` each block about doubles the variance.

    Draws come from torch's global generator, so that one seed before a factory call fixes the whole model.

    Raises:
        NetopsyError: `init` is not one of `INITS`.
    """
    one_of("init", init, INITS)
    if init == "torch":
        return
    scheme, shape = init.split("-")
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        deviation = math.sqrt(_variance(scheme, module.weight))
        if shape == "normal":
            nn.init.normal_(module.weight, 0.0, deviation)
        else:
            limit = math.sqrt(3.0) * deviation
            nn.init.uniform_(module.weight, -limit, limit)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _variance(scheme: str, weight: Tensor) -> float:
    outputs, inputs = weight.shape[:2]
    window = math.prod(weight.shape[2:])
    fan_in, fan_out = inputs * window, outputs * window
    return {"glorot": 2.0 / (fan_in + fan_out), "lecun": 1.0 / fan_in, "he": 2.0 / fan_in}[scheme]
