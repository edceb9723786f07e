"""Fully connected networks: D hidden layers of width H, ReLU if not told, and a linear classifier."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, inside
from netopsy.models.activations import MODULES, Activation, check_activation
from netopsy.models.inits import Init, check_init, initialize


class FCN(nn.Module):
    """What `fcn` builds: `hidden.i` is a layer before its non-linearity, `activation.i` after it, before dropout."""

    def __init__(
        self,
        *,
        inputs: int,
        classes: int,
        depth: int,
        width: int,
        bias: bool,
        dropout: float = 0.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.flatten = nn.Flatten()
        self.hidden = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1], bias=bias) for i in range(depth))
        self.activation = nn.ModuleList(MODULES[activation]() for _ in range(depth))
        # None, not modules that pass everything on: a net without dropout has no trace of it.
        self.dropout = nn.ModuleList(nn.Dropout(dropout) for _ in range(depth)) if dropout else None
        self.classifier = nn.Linear(width, classes, bias=bias)

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        x = self.flatten(x)
        for i, (hidden, activation) in enumerate(zip(self.hidden, self.activation, strict=True)):
            x = activation(hidden(x))
            if self.dropout is not None:
                x = self.dropout[i](x)
        logits: Tensor = self.classifier(x)
        return logits


def fcn(
    *,
    inputs: int | tuple[int, ...],
    classes: int,
    depth: int = 3,
    width: int = 256,
    bias: bool = True,
    dropout: float = 0.0,
    init: Init = "torch",
    activation: Activation = "relu",
) -> FCN:
    """Build FCN `depth`×`width` (Zhang et al. 2022, section 3.1).

    Args:
        inputs: values of one example, or the shape of one example, which the model flattens.
        classes: logits of one example.
        depth: hidden layers D, each a linear map and a non-linearity; the classifier comes on top.
        width: units H of each hidden layer.
        bias: whether the layers have biases (Novak et al. 2018 train without).
        dropout: probability that a unit is dropped in train mode, after its non-linearity; 0 makes no such module.
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.
        activation: the non-linearity of all hidden layers.

    Raises:
        NetopsyError: a size below 1, an empty shape, a `dropout` outside [0, 1), an unknown `init` or `activation`.

    >>> model = fcn(inputs=(1, 28, 28), classes=10, depth=2, width=32)
    >>> [name for name, _ in model.named_parameters() if name.endswith("weight")]
    ['hidden.0.weight', 'hidden.1.weight', 'classifier.weight']
    """
    shape = inputs if isinstance(inputs, tuple) else (inputs,)
    if not shape:
        raise NetopsyError("inputs: expected an integer or the shape of one example; got (); pass e.g. (1, 28, 28)")
    for size in shape:
        at_least("inputs", size, 1)
    at_least("classes", classes, 1)
    at_least("depth", depth, 1)
    at_least("width", width, 1)
    inside("dropout", dropout, 0.0, 1.0, open_high=True)
    check_init(init)
    check_activation(activation)
    model = FCN(
        inputs=math.prod(shape), classes=classes, depth=depth, width=width, bias=bias, dropout=dropout,
        activation=activation,
    )  # fmt: skip
    initialize(model, init)
    return model
