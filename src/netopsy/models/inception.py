"""Inception-v3 (Szegedy et al. 2016)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import at_least, inside
from netopsy.models.inits import Init, Normal, check_init, initialize
from netopsy.models.widths import layer_factors

MOMENTUM = 3e-4
"""Share of a batch in batch normalization's running statistics: 1 minus the published decay, .9997."""
EPS = 1e-3


class Conv(NamedTuple):
    """One convolution, batch normalization and ReLU; `same` pads so that stride 1 keeps the resolution."""

    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True


Step: TypeAlias = Conv | Literal["average", "max"] | tuple[Conv, Conv]
"""A convolution, a 3×3 pooling, or two convolutions of one input whose outputs are concatenated."""

Branches: TypeAlias = Mapping[str, tuple[Step, ...]]

STEM: tuple[tuple[str, Step], ...] = (
    ("conv1", Conv(32, (3, 3), 2, same=False)),
    ("conv2", Conv(32, (3, 3), same=False)),
    ("conv3", Conv(64, (3, 3))),
    ("pool1", "max"),
    ("conv4", Conv(80)),
    ("conv5", Conv(192, (3, 3), same=False)),
    ("pool2", "max"),
)


def _grid35(pool: int) -> Branches:
    return {
        "one": (Conv(64),),
        "five": (Conv(48), Conv(64, (5, 5))),
        "three": (Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3))),
        "pool": ("average", Conv(pool)),
    }


def _grid17(inner: int) -> Branches:
    row, column = Conv(inner, (1, 7)), Conv(inner, (7, 1))
    return {
        "one": (Conv(192),),
        "seven": (Conv(inner), row, Conv(192, (7, 1))),
        "deep": (Conv(inner), column, row, column, Conv(192, (1, 7))),
        "pool": ("average", Conv(192)),
    }


def _grid8() -> Branches:
    fork = (Conv(384, (1, 3)), Conv(384, (3, 1)))
    return {
        "one": (Conv(320),),
        "three": (Conv(384), fork),
        "deep": (Conv(448), Conv(384, (3, 3)), fork),
        "pool": ("average", Conv(192)),
    }


MIXED: Mapping[str, Branches] = {
    "mixed0": _grid35(32),
    "mixed1": _grid35(64),
    "mixed2": _grid35(64),
    "mixed3": {
        "three": (Conv(384, (3, 3), 2, same=False),),
        "deep": (Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3), 2, same=False)),
        "pool": ("max",),
    },
    "mixed4": _grid17(128),
    "mixed5": _grid17(160),
    "mixed6": _grid17(160),
    "mixed7": _grid17(192),
    "mixed8": {
        "three": (Conv(192), Conv(320, (3, 3), 2, same=False)),
        "seven": (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, (3, 3), 2, same=False)),
        "pool": ("max",),
    },
    "mixed9": _grid8(),
    "mixed10": _grid8(),
}
"""Channels, kernels and strides at width 1 (Szegedy et al. 2016, Table 1 and Figs. 5-7, 10)."""
AUXILIARY = (Conv(128), Conv(768, (5, 5), same=False))
"""Of the auxiliary classifier on `mixed7`."""


class Concatenated(nn.Module):
    """Modules that all read one input; their outputs are concatenated along the channels."""

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in branches.items():
            self.add_module(name, module)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the branches' channels in the order of the branches."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Inception(nn.Sequential):
    """What `inception_v3` builds without auxiliary classifier: `conv1` …, `mixed0` … `mixed10`, `classifier`."""


class InceptionWithAuxiliary(Inception):
    """What `inception_v3` builds with `auxiliary`: a classifier of `mixed7`'s output beside the net's own."""

    def __init__(self, layers: OrderedDict[str, nn.Module], auxiliary: nn.Sequential) -> None:
        super().__init__(layers)
        self.auxiliary = auxiliary

    def forward(
        self, x: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n classes"] | tuple[Float[Tensor, "n classes"], Float[Tensor, "n classes"]]:
        """Return the logits; in train mode also the auxiliary ones, second."""
        beside: Tensor | None = None
        for name, layer in self.named_children():
            if name == "auxiliary":
                continue
            x = layer(x)
            if name == "mixed7" and self.training:
                beside = self.auxiliary(x)
        return x if beside is None else (x, beside)


def inception_v3(
    *,
    classes: int,
    channels: int = 3,
    width: float = 1.0,
    widths: Mapping[str, float] | None = None,
    dropout: float = 0.0,
    auxiliary: bool = False,
    init: Init = Normal(sigma=0.1, truncated=True),  # noqa: B008 (frozen)
) -> Inception:
    """Build Inception-v3: images (n, channels, height, width), 299×299 as published, to logits (n, classes).

    Five convolutions, eleven modules of parallel branches (`mixed0` … `mixed10` as in TensorFlow's first release;
    `mixed2` is the last one of 35×35, of 288 channels), the mean over all positions and the `classifier`. Each
    convolution (`mixed2.five.conv2.conv`) has a batch normalization (`.norm`) instead of biases, then a ReLU
    (`.relu`). Average poolings do not count what lies beyond the border, as in TensorFlow. Images must be of 75 or
    more pixels; with `auxiliary`, of 299 or more to train.

    The defaults are those of Casper et al. 2019, Appendix A, who list no dropout; Szegedy's team dropped 0.2.

    Args:
        classes: logits of one example.
        channels: channels of an image.
        width: factor on the channels of every convolution (rounded), those of the auxiliary classifier too.
        widths: factors of single parts instead of `width`: `{"mixed2": 4.0}` scales all convolutions of `mixed2`.
        dropout: probability that a mean is dropped before the classifier in train mode; 0 makes no such module.
        auxiliary: add the auxiliary classifier. In train mode the model then returns (logits, auxiliary logits).
        init: see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: a size below 1, an unknown part in `widths`, a factor that leaves a convolution without
            channels, a `dropout` outside [0, 1) or an unknown `init`.

    >>> model = inception_v3(classes=10, width=1 / 16, widths={"mixed2": 1 / 8})
    >>> [(name, branch[-1].conv.out_channels) for name, branch in model.mixed2.named_children()]
    [('one', 8), ('five', 8), ('three', 12), ('pool', 8)]
    """
    at_least("classes", classes, 1)
    at_least("channels", channels, 1)
    bases = {name: step.channels for name, step in STEM if isinstance(step, Conv)}
    bases |= {name: min(conv.channels for conv in _convolutions(branches)) for name, branches in MIXED.items()}
    factors = layer_factors(bases, width, widths)
    inside("dropout", dropout, 0.0, 1.0, open_high=True)
    check_init(init)

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = channels
    for name, step in STEM:
        layers[name], last = _step(step, last, factors.get(name, width))
    beside: nn.Sequential | None = None
    for name, branches in MIXED.items():
        chains = {branch: _chain(steps, last, factors[name]) for branch, steps in branches.items()}
        layers[name] = Concatenated({branch: chain for branch, (chain, _) in chains.items()})
        last = sum(outputs for _, outputs in chains.values())
        if name == "mixed7" and auxiliary:
            beside = _auxiliary(last, classes, width)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["classifier"] = nn.Linear(last, classes)
    model = Inception(layers) if beside is None else InceptionWithAuxiliary(layers, beside)
    initialize(model, init)
    return model


def _convolutions(branches: Branches) -> Iterator[Conv]:
    for steps in branches.values():
        for step in steps:
            if isinstance(step, Conv):
                yield step
            elif isinstance(step, tuple):
                yield from step


def _chain(steps: tuple[Step, ...], inputs: int, factor: float) -> tuple[nn.Sequential, int]:
    """Modules one after another, named by kind and number, and the channels that they put out."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, step in enumerate(steps, 1):
        kind = "pool" if isinstance(step, str) else "conv" if isinstance(step, Conv) else "fork"
        layers[f"{kind}{i}"], inputs = _step(step, inputs, factor)
    return nn.Sequential(layers), inputs


def _step(step: Step, inputs: int, factor: float) -> tuple[nn.Module, int]:
    if step == "average":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), inputs
    if step == "max":
        return nn.MaxPool2d(3, stride=2), inputs
    if isinstance(step, Conv):
        outputs = round(step.channels * factor)
        padding = (step.kernel[0] // 2, step.kernel[1] // 2) if step.same else (0, 0)
        unit: OrderedDict[str, nn.Module] = OrderedDict()
        unit["conv"] = nn.Conv2d(inputs, outputs, step.kernel, step.stride, padding, bias=False)
        unit["norm"] = nn.BatchNorm2d(outputs, eps=EPS, momentum=MOMENTUM)
        unit["relu"] = nn.ReLU()
        return nn.Sequential(unit), outputs
    parts = {f"{conv.kernel[0]}x{conv.kernel[1]}": _step(conv, inputs, factor) for conv in step}
    fork = Concatenated({name: part for name, (part, _) in parts.items()})
    return fork, sum(outputs for _, outputs in parts.values())


def _auxiliary(inputs: int, classes: int, width: float) -> nn.Sequential:
    chain, outputs = _chain(AUXILIARY, inputs, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.AvgPool2d(5, stride=3))
    layers.update(chain.named_children())
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(outputs, classes)
    return nn.Sequential(layers)
