"""Fixup: an initialization with which residual networks train without normalization (Zhang, Dauphin, Ma 2019)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy.models.inits import initialize
from netopsy.models.resnet import Block, ResNet


def fixup(model: ResNet) -> None:
    """Draw the weights of a ResNet without batch normalization again, in place.

    With L residual branches in the whole net and m convolutions in each (2, in a bottleneck 3):

    1. the classifier and the last convolution of each branch are 0;
    2. every other weight is drawn from N(0, 2/fan_in) (He et al. 2015), and in the branches multiplied by
       L^(-1/(2m - 2)). Stem and projections, which are no part of a branch, keep their scale.

    At first the net is its skips and its logits are 0; one step of gradient descent changes the logits by an amount
    that does not grow with L (their section 3). The third rule adds scalars: a bias, 0, before each convolution,
    linear layer and ReLU, and a multiplier, 1, in each branch. Here the biases that convolutions have without
    normalization, one a channel and 0 at first, stand for the scalar ones; there are no multipliers. They would
    change no function that the net can express, only its speed of training, and each would be one more module to
    measure.

    Draws come from torch's global generator, in the order of `initialize(model, "he-normal")`.

    Raises:
        NetopsyError: the model is not one of `netopsy.models.resnet`, or it has normalizations.

    >>> from netopsy.models.resnet import resnet
    >>> model = resnet(18, classes=10, width=1 / 16)
    >>> fixup(model)
    >>> bool(model.stage1.block1.conv1.weight.any()), bool(model.stage1.block1.conv2.weight.any())
    (True, False)
    """
    if not isinstance(model, ResNet):
        raise NetopsyError(
            f"model: expected a ResNet of netopsy.models.resnet, whose branches are known; got {type(model).__name__}"
        )
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        raise NetopsyError(
            "model: expected a ResNet without batch normalization, which Fixup stands in for; build it with "
            "batch_norm=False, or keep the initialization it has"
        )
    initialize(model, "he-normal")
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    with torch.no_grad():
        for block in blocks:
            *inner, last = (module for module in block.children() if isinstance(module, nn.Conv2d))
            for convolution in inner:
                convolution.weight.mul_(len(blocks) ** (-1.0 / (2 * len(inner))))
            last.weight.zero_()
        for value in model.get_submodule("classifier").parameters():
            value.zero_()


def with_fixup(build: Callable[[], ResNet]) -> ResNet:
    """Build a ResNet and initialize it by `fixup`: a factory, `partial(with_fixup, partial(resnet, 18, ...))`.

    Raises:
        NetopsyError: as `fixup`.
    """
    model = build()
    fixup(model)
    return model
