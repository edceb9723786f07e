"""The networks of the units paper (Casper et al. 2019), at a laptop's size and at the paper's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import nn

from netopsy._checks import NetopsyError
from netopsy.data.cifar import cifar10
from netopsy.data.dataset import Dataset, standardize, subset
from netopsy.data.gaussian import gaussian_teacher
from netopsy.data.idx import fashion_mnist
from netopsy.models.alexnet import alexnet_small
from netopsy.models.fcn import fcn
from netopsy.models.inits import Init, Normal
from netopsy.models.resnet import resnet56
from netopsy.training.config import FitConfig

Preset = Literal["laptop", "paper"]
Architecture = Literal["mlp", "alexnet", "resnet56"]
DataName = Literal["gaussian-10", "gaussian-10000", "fashion-mnist", "cifar-10"]

HIDDEN = 128
"""Units of the MLP at width 1; its teacher is one of width 1/4."""


@dataclass(frozen=True, kw_only=True)
class Net:
    """One architecture, trained in one way; its width and seed are told apart in `units_sweeps.Point`.

    Attributes:
        model: which architecture.
        data: which data set; Gaussian ones have a teacher for each seed.
        train: examples of the train split; with `fit.validation_share` some of them are held out.
        test: examples of the test split, by which accuracy and redundancy are measured.
        ablated: examples of them by which ablation curves are measured.
        init: of the weights.
        dropout: probability; see the model.
        factor: by which learning rate and batch size are multiplied (Krizhevsky 2014).
        layer: the only layer whose width changes; empty for all.
        fit: how it is trained; its seed is the point's.
    """

    model: Architecture
    data: DataName
    train: int
    test: int
    ablated: int
    init: Init = "glorot-normal"
    dropout: float = 0.0
    factor: float = 1.0
    layer: str = ""
    fit: FitConfig

    def recipe(self, seed: int) -> FitConfig:
        """How the net of a seed is trained."""
        batch = round(self.fit.batch_size * self.factor)
        return replace(self.fit, seed=seed, lr=self.fit.lr * self.factor, batch_size=batch)

    def load(self, seed: int) -> Dataset:
        """Its data; images are standardized by those of the train split."""
        if self.data == "fashion-mnist":
            return standardize(subset(fashion_mnist(), train=self.train, test=self.test))
        if self.data == "cifar-10":
            return standardize(subset(cifar10(), train=self.train, test=self.test))
        dimensions = int(self.data.removeprefix("gaussian-"))
        return gaussian_teacher(
            dimensions=dimensions, train=self.train, test=self.test, hidden=HIDDEN // 4, seed=seed
        )

    def factory(self, data: Dataset, width: float) -> Callable[[], nn.Module]:
        """What builds the net of a width.

        Raises:
            NetopsyError: for a single layer's width of a model that has none.
        """
        shape, classes = tuple(data.train[0].shape[1:]), data.classes
        if self.layer and self.model != "alexnet":
            raise NetopsyError(f"layer: expected '' for {self.model}, which has no single widths; got {self.layer!r}")
        if self.model == "mlp":
            units = round(HIDDEN * width)
            return partial(
                fcn, inputs=shape, classes=classes, depth=1, width=units, dropout=self.dropout, init=self.init
            )
        if self.model == "resnet56":
            return partial(resnet56, classes=classes, channels=shape[0], width=width, init=self.init)
        return partial(
            alexnet_small,
            classes=classes,
            channels=shape[0],
            size=shape[1],
            width=1.0 if self.layer else width,
            widths={self.layer: width} if self.layer else None,
            dropout=self.dropout,
            init=self.init,
        )


MLP = Net(
    model="mlp",
    data="gaussian-10",
    train=1000,
    test=1000,
    ablated=1000,
    init=Normal(sigma=0.01),
    fit=FitConfig(epochs=50, batch_size=32, lr=0.01, momentum=0.9, keep=()),
)
"""The paper's own size. It gives neither learning rate nor batch size: these fit the train data, of 10 dimensions and
of 10,000."""


def _alexnet(*, data: DataName, train: int, test: int, ablated: int, epochs: int, batch_size: int) -> Net:
    """Momentum 0.9, lr 0.01 falling by 5 % an epoch, the epoch of the best validation accuracy (Appendix A)."""
    fit = FitConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=0.01,
        momentum=0.9,
        lr_drops=tuple(range(1, epochs)),
        lr_factor=0.95,
        validation_share=0.1,
        patience=epochs,
        monitor="validation_error",
        keep=(),
    )
    return Net(model="alexnet", data=data, train=train, test=test, ablated=ablated, fit=fit)


ALEXNET: Mapping[Preset, Net] = {
    "laptop": _alexnet(data="fashion-mnist", train=2400, test=1000, ablated=400, epochs=5, batch_size=32),
    "paper": _alexnet(data="cifar-10", train=50_000, test=10_000, ablated=10_000, epochs=100, batch_size=128),
}
"""On a laptop batches of 32, so that few images still make some 300 steps."""


def _resnet56(*, data: DataName, train: int, test: int, ablated: int, epochs: int) -> Net:
    """Weight decay 2e-4, lr ÷10 at a half and three quarters; lr 0.1 as He et al. 2016 (1 is printed)."""
    fit = FitConfig(
        epochs=epochs,
        batch_size=128,
        lr=0.1,
        momentum=0.9,
        weight_decay=2e-4,
        lr_drops=tuple(sorted({max(1, epochs * part // 182) for part in (91, 136)})),
        lr_factor=0.1,
        augment="pad-crop-flip",
        keep=(),
    )
    return Net(model="resnet56", data=data, train=train, test=test, ablated=ablated, fit=fit)


RESNET56: Mapping[Preset, Net] = {
    "laptop": _resnet56(data="fashion-mnist", train=2000, test=1000, ablated=400, epochs=4),
    "paper": _resnet56(data="cifar-10", train=45_000, test=10_000, ablated=10_000, epochs=182),
}
