"""Fully connected networks with batch normalization, each hidden layer of a width of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, inside
from netopsy.models.inits import Init, check_init, initialize

FCN_I = (5000, 1000)
FCN_II = (10000, 2000)
"""Units of the hidden layers of FCN (I) and FCN (II) (Chatterji et al. 2020, Appendix C)."""


class NormalizedFCN(nn.Module):
    """What `normalized_fcn` builds; `hidden.i` is layer i, then `norm.i` and `activation.i`; named as `FCN`'s."""

    def __init__(self, *, inputs: int, classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.flatten = nn.Flatten()
        # The normalization's shift takes the place of a bias, as in the convolutional nets.
        self.hidden = nn.ModuleList(nn.Linear(sizes[i], units, bias=False) for i, units in enumerate(hidden))
        self.norm = nn.ModuleList(nn.BatchNorm1d(units) for units in hidden)
        self.activation = nn.ModuleList(nn.ReLU() for _ in hidden)
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        x = self.flatten(x)
        for hidden, norm, activation in zip(self.hidden, self.norm, self.activation, strict=True):
            x = activation(norm(hidden(x)))
        logits: Tensor = self.classifier(x)
        return logits


def normalized_fcn(
    *,
    inputs: int | tuple[int, ...],
    classes: int,
    hidden: Sequence[int] = FCN_I,
    width: float = 1.0,
    init: Init = "torch",
) -> NormalizedFCN:
    """Build a fully connected net: per hidden layer a linear map without bias, a batch normalization and a ReLU.

    With `hidden=FCN_I` and `FCN_II` these are FCN (I) and FCN (II) of Chatterji et al. 2020, Appendix C. On CIFAR-10
    they have 20,382,010 and 50,764,010 parameters; 2.0e7 and 5.0e7 are printed in Table 2.

    Args:
        inputs: values of one example, or the shape of one example, which the model flattens.
        classes: logits of one example.
        hidden: units of each hidden layer, from the input on.
        width: factor on all of `hidden` (rounded, at least one unit), for small copies.
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: a size below 1, an empty shape, no hidden layer, a `width` that leaves a layer without units, or
            an unknown `init`.

    >>> model = normalized_fcn(inputs=(3, 32, 32), classes=10, width=1 / 100)
    >>> [tuple(layer.weight.shape) for layer in model.hidden]
    [(50, 3072), (10, 50)]
    """
    shape = inputs if isinstance(inputs, tuple) else (inputs,)
    if not shape:
        raise NetopsyError("inputs: expected an integer or the shape of one example; got (); pass e.g. (1, 28, 28)")
    for size in shape:
        at_least("inputs", size, 1)
    at_least("classes", classes, 1)
    if not hidden:
        raise NetopsyError(
            "hidden: expected the units of at least one hidden layer; got none; pass e.g. (5000, 1000)"
        )
    for units in hidden:
        at_least("hidden", units, 1)
    inside("width", width, 1.0 / min(hidden), math.inf, open_high=True)
    check_init(init)
    scaled = [round(units * width) for units in hidden]
    model = NormalizedFCN(inputs=math.prod(shape), classes=classes, hidden=scaled)
    initialize(model, init)
    return model
