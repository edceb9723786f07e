"""The initializations that the papers compare: variance set by a layer's fans, or as told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from netopsy._checks import NetopsyError, inside, one_of

Scheme: TypeAlias = Literal[
    "torch", "glorot-normal", "glorot-uniform", "lecun-normal", "lecun-uniform", "he-normal", "he-uniform"
]
"""Variance by a layer's fans, normal or uniform; or PyTorch's own."""

INITS: tuple[str, ...] = get_args(Scheme)

CUT = 2.0
"""Where a truncated normal draw is drawn again, in standard deviations: TensorFlow's convention."""


@dataclass(frozen=True, kw_only=True)
class Normal:
    """The same normal distribution N(0, sigma²) for every weight, whatever its layer's fans.

    Attributes:
        sigma: standard deviation; 0 makes every weight 0.
        truncated: draw again what lies more than 2 sigma from 0, as TensorFlow does. Sigma is still that of the whole
            distribution: the weights that remain have a standard deviation of 0.88 sigma.

    Raises:
        NetopsyError: `sigma` is negative or not finite.
    """

    sigma: float
    truncated: bool = False

    def __post_init__(self) -> None:
        inside("sigma", self.sigma, 0.0, math.inf, open_high=True)


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A scheme's draw, every weight times a factor (the init scale of Novak et al. 2018, A.5.5).

    Attributes:
        scheme: a scheme other than PyTorch's own, which draws biases too.
        scale: positive.

    Raises:
        NetopsyError: an unknown scheme or `"torch"`, or a scale that is not positive and finite.
    """

    scheme: Scheme
    scale: float

    def __post_init__(self) -> None:
        one_of("scheme", self.scheme, INITS[1:])
        inside("scale", self.scale, 0.0, math.inf, open_low=True, open_high=True)


Init: TypeAlias = Scheme | Normal | Scaled
"""How a model's weights are first drawn; `"torch"` keeps PyTorch's own defaults."""


def check_init(init: object) -> None:
    """Refuse what is neither one of `INITS` nor a `Normal` or `Scaled`.

    >>> check_init("zeros")
    Traceback (most recent call last):
    netopsy._checks.NetopsyError: init: expected one of 'torch', ... Normal(...) or Scaled(...); got 'zeros'
    """
    if not isinstance(init, Normal | Scaled) and init not in INITS:
        known = ", ".join(map(repr, INITS))
        raise NetopsyError(f"init: expected one of {known}, Normal(...) or Scaled(...); got {init!r}")


def initialize(model: nn.Module, init: Init) -> None:
    """Draw the weights of every linear and convolutional layer in place; their biases become zero.

    A weight has mean 0 and variance 2/(fan_in + fan_out) (`glorot`: Glorot & Bengio 2010), 1/fan_in (`lecun`: LeCun
    et al. 1998) or 2/fan_in (`he`: He et al. 2015, eq. 10), where a fan is the number of values that one output reads
    (fan_in) or one input feeds (fan_out, strides aside). `normal` is not truncated; `uniform` is the interval around
    0 of that variance. A `Normal` has one variance for all layers, `Scaled` its scheme's times
    the square of its scale. Normalization layers keep their constants, weight
    1 and bias 0. `"torch"` leaves everything, the uniform biases too, as PyTorch's constructors drew it.

    Matters most without batch normalization: a ReLU layer multiplies the variance of its signal by 1 (`he`), 1/2
    (`lecun`) or 1/6 (`torch`). A plain deep net such as VGG-16 needs `he`: from PyTorch's defaults its logits hardly
    depend on the input. A deep ResNet does not: with `he` each block about doubles the variance.

    Draws come from torch's global generator, so that one seed before a factory call fixes the whole model.

    Raises:
        NetopsyError: `init` is neither one of `INITS` nor a `Normal` or `Scaled`.
    """
    check_init(init)
    if init == "torch":
        return
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        _draw(module.weight, init)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _draw(weight: Tensor, init: Init) -> None:
    if isinstance(init, Normal):
        if init.truncated and init.sigma > 0:
            nn.init.trunc_normal_(weight, 0.0, init.sigma, -CUT * init.sigma, CUT * init.sigma)
        else:
            nn.init.normal_(weight, 0.0, init.sigma)
        return
    name, scale = (init.scheme, init.scale) if isinstance(init, Scaled) else (init, 1.0)
    scheme, shape = name.split("-")
    deviation = scale * math.sqrt(_variance(scheme, weight))
    if shape == "normal":
        nn.init.normal_(weight, 0.0, deviation)
    else:
        limit = math.sqrt(3.0) * deviation
        nn.init.uniform_(weight, -limit, limit)


def _variance(scheme: str, weight: Tensor) -> float:
    outputs, inputs = weight.shape[:2]
    window = math.prod(weight.shape[2:])
    fan_in, fan_out = inputs * window, outputs * window
    return {"glorot": 2.0 / (fan_in + fan_out), "lecun": 1.0 / fan_in, "he": 2.0 / fan_in}[scheme]
