"""The networks of the sensitivity paper (Novak et al. 2018), at a laptop's size and at the paper's own.

All are fully connected and have no biases; all inputs lie on the sphere of radius √d (A.5). The laptop's stop
once they have the whole train split right, or are sure of it; the paper's go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np
from torch import nn

from netopsy._random import derive
from netopsy.data.cifar import cifar10
from netopsy.data.dataset import Dataset, shrink, subset
from netopsy.data.idx import fashion_mnist, mnist
from netopsy.data.sphere import on_sphere
from netopsy.models.activations import Activation
from netopsy.models.fcn import fcn
from netopsy.models.inits import Scaled
from netopsy.training.config import FitConfig

T = TypeVar("T")

Preset = Literal["laptop", "paper"]
DataName = Literal["fashion-mnist", "mnist", "cifar-10"]
_SOURCES: Mapping[DataName, Callable[[], Dataset]] = {
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    "cifar-10": cifar10,
}

LECUN: tuple[Activation, ...] = ("tanh", "hardtanh")
"""Begin with a variance of 1/n, all others with 2/n (A.5)."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set.

    Attributes:
        name: which.
        train: images of the train split; None for all.
        test: of the test split.
        shrink: factor by which images are made smaller.
        crop: pixels of the central square that is kept, before; None for all.
    """

    name: DataName
    train: int | None = None
    test: int | None = None
    shrink: int = 1
    crop: int | None = None

    def load(self) -> Dataset:
        """Its images, each on the sphere."""
        data = subset(_SOURCES[self.name](), train=self.train, test=self.test)
        data = data if self.crop is None else _cropped(data, self.crop)
        return on_sphere(shrink(data, self.shrink) if self.shrink > 1 else data)


@dataclass(frozen=True, kw_only=True)
class Net:
    """One network and how it is trained; learning rate, scale and seed are told apart where several differ in them.

    Attributes:
        images: its data.
        depth: hidden layers.
        width: units of each.
        activation: of all of them.
        scale: factor on the initial weights.
        fit: how it is trained.
    """

    images: Images
    depth: int
    width: int
    activation: Activation = "relu"
    scale: float = 1.0
    fit: FitConfig

    def factory(self, data: Dataset) -> Callable[[], nn.Module]:
        """What builds it."""
        scheme: Literal["lecun-normal", "he-normal"] = "lecun-normal" if self.activation in LECUN else "he-normal"
        return partial(
            fcn,
            inputs=tuple(data.train[0].shape[1:]),
            classes=data.classes,
            depth=self.depth,
            width=self.width,
            bias=False,
            init=Scaled(scheme=scheme, scale=self.scale),
            activation=self.activation,
        )


def epochs_of(steps: int, examples: int, batch: int) -> int:
    """Passes that make so many steps.

    >>> epochs_of(2**18, 60_000, 256)
    1116
    """
    a_pass = -(-examples // batch)
    return -(-steps // a_pass)


def momentum_fit(epochs: int, *, batch_size: int = 256, lr: float = 0.005) -> FitConfig:
    """Of the paper: SGD with momentum 0.9, lr 0.005 times 0.1 every 500 epochs, batches of 256."""
    drops = tuple(range(500, epochs, 500))
    return FitConfig(
        epochs=epochs, batch_size=batch_size, lr=lr, momentum=0.9, lr_drops=drops, lr_factor=0.1, keep=()
    )


def until_fitted(fit: FitConfig) -> FitConfig:
    """To the first epoch after which the whole train split is right."""
    return replace(fit, target_error=0.0)


def until_sure(fit: FitConfig) -> FitConfig:
    """Until it is right with probabilities of 0.999 on the (geometric) mean, as after the paper's many steps."""
    return replace(fit, target_error=0.0, target_loss=0.001)


SMALL = Images(name="fashion-mnist", train=2000, test=1000)
WHOLE_TEST = Images(name="fashion-mnist", train=1000)
TINY_IMAGES = Images(name="fashion-mnist", train=1000, shrink=2)
"""Of 14×14 pixels, with all 10,000 test images."""

STEPS = 2**18
MNIST, CIFAR = 60_000, 50_000
"""Examples of the train splits."""

ELLIPSES: Mapping[Preset, Net] = {
    "laptop": Net(images=SMALL, depth=20, width=200, fit=until_sure(momentum_fit(400))),
    "paper": Net(
        images=Images(name="mnist"), depth=20, width=200, fit=momentum_fit(epochs_of(STEPS, MNIST, 256))
    ),
}  # fmt: skip
"""Of Figure 2 (A.5.2, which gives no number of steps)."""

SLICE_FIT: Mapping[Preset, FitConfig] = {
    "laptop": momentum_fit(300, batch_size=64),
    "paper": momentum_fit(epochs_of(STEPS, MNIST, 256)),
}
SLICES: Mapping[Preset, Net] = {
    preset: Net(
        images=SMALL if preset == "laptop" else Images(name="mnist"),
        depth=15,
        width=300,
        activation="relu6",
        fit=replace(fit, augment="wrap-flip-turn", pad=4),
    )
    for preset, fit in SLICE_FIT.items()
}
"""Of Figure 3 (A.5.3). They need not have the train split right: they never meet it as it is."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A way of training, and the learning rates at which it is tried."""

    name: Literal["sgd", "adam", "rmsprop"]
    momentum: float
    rates: tuple[float, ...]


PAPER_RATES = (1e-4, 1e-3, 1e-2)
OPTIMIZERS: Mapping[Preset, tuple[Optimizer, ...]] = {
    "laptop": (
        Optimizer(name="sgd", momentum=0.0, rates=(0.05, 0.1)),
        Optimizer(name="sgd", momentum=0.9, rates=(0.005, 0.02)),
        Optimizer(name="adam", momentum=0.9, rates=(0.001, 0.003)),
        Optimizer(name="rmsprop", momentum=0.9, rates=(0.01, 0.03)),
    ),
    "paper": (
        Optimizer(name="sgd", momentum=0.0, rates=PAPER_RATES),
        Optimizer(name="sgd", momentum=0.9, rates=PAPER_RATES),
        Optimizer(name="adam", momentum=0.9, rates=PAPER_RATES),
        Optimizer(name="rmsprop", momentum=0.0, rates=PAPER_RATES),
    ),
}
"""Rates with which 1,000 images are fitted in some hundred epochs; and the paper's of A.5.6. RMSprop's ε is 1, which
makes it close to SGD."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Networks to draw from.

    Attributes:
        images: of all.
        widths: units of a layer.
        depths: hidden layers.
        activations: non-linearities.
        optimizers: ways of training.
        fit: the rest.
    """

    images: Images
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    activations: tuple[Activation, ...]
    optimizers: tuple[Optimizer, ...]
    fit: FitConfig

    def draw(self, *names: object) -> Net:
        """A network of it at random, decided by these names."""
        source = np.random.default_rng(derive(0, *names))

        def choice(values: Sequence[T]) -> T:
            return values[int(source.integers(len(values)))]

        how = choice(self.optimizers)
        fit = replace(self.fit, optimizer=how.name, momentum=how.momentum, lr=choice(how.rates))
        return Net(
            images=self.images,
            depth=choice(self.depths),
            width=choice(self.widths),
            activation=choice(self.activations),
            fit=fit,
        )


EVERY: tuple[Activation, ...] = ("relu", "relu6", "tanh", "hardtanh", "hardsigmoid")
BY_POINT: Mapping[Preset, Range] = {
    "laptop": Range(
        images=WHOLE_TEST,
        widths=(50, 100, 200),
        depths=(2, 5, 10),
        activations=EVERY,
        optimizers=OPTIMIZERS["laptop"],
        fit=until_fitted(momentum_fit(300, batch_size=128)),
    ),
    "paper": Range(
        images=Images(name="cifar-10"),
        widths=(50, 100, 200, 500, 1000),
        depths=(2, 5, 10, 20, 30),
        activations=EVERY,
        optimizers=OPTIMIZERS["paper"],
        fit=momentum_fit(epochs_of(2 * STEPS, CIFAR, 256)),
    ),
}
"""Of Figure 6 (A.5.6)."""

BOUNDED: Mapping[Preset, Range] = {
    preset: replace(
        known,
        images=replace(known.images, test=1000),
        widths=(50, 100, 200),
        depths=known.depths[:4],
        optimizers=(Optimizer(name="sgd", momentum=0.9, rates=(0.005,)),),
        fit=until_sure(known.fit) if preset == "laptop" else momentum_fit(epochs_of(STEPS, CIFAR, 256)),
    )
    for preset, known in BY_POINT.items()
}
"""Of Figure App.11 (A.5.7)."""


def _cropped(dataset: Dataset, size: int) -> Dataset:
    height, width = dataset.train[0].shape[2:]
    top, left = (height - size) // 2, (width - size) // 2
    train, test = (
        (images[..., top : top + size, left : left + size], labels)
        for images, labels in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test)
