"""The layers paper's single networks: what is trained, at a laptop's size and at the paper's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import nn

from netopsy.data.cifar import cifar10
from netopsy.data.dataset import Dataset, standardize, subset
from netopsy.data.idx import fashion_mnist, mnist
from netopsy.models.fcn import fcn
from netopsy.models.resnet import resnet
from netopsy.network.groups import fcn_groups, residual_groups
from netopsy.store.axes import grid
from netopsy.store.probed import probed
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.training.config import FitConfig
from netopsy.training.recipes import layers_conv, layers_fcn

Preset = Literal["laptop", "paper"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One network on one data set.

    Attributes:
        name: of its run folders.
        data: loads the data set, standardized.
        factory: a data set -> what builds the network.
        config: a seed -> how it is trained.
        sites: the granularity of its figures.
        groups: the joint resets tried.
        draws: re-randomizations a site.
    """

    name: str
    data: Callable[[], Dataset]
    factory: Callable[[Dataset], Callable[[], nn.Module]]
    config: Callable[[int], FitConfig]
    sites: str
    groups: Callable[[Sequence[str]], Mapping[str, Sequence[str]]]
    draws: int = 3


def _fcn(data: Dataset, *, depth: int) -> Callable[[], nn.Module]:
    return partial(fcn, inputs=tuple(data.train[0].shape[1:]), classes=data.classes, depth=depth, width=256)


def _resnet(data: Dataset, *, depth: Literal[18, 50], width: float) -> Callable[[], nn.Module]:
    channels = data.train[0].shape[1]
    return partial(resnet, depth, classes=data.classes, channels=channels, width=width, init="glorot-uniform")


def _seeded(recipe: Callable[..., FitConfig], epochs: int) -> Callable[[int], FitConfig]:
    return lambda seed: recipe(epochs=epochs, seed=seed)


def _fcn_setting(name: str, depth: int, load: Callable[[], Dataset]) -> Setting:
    return Setting(
        name=f"fcn-{depth}x256-{name}",
        data=lambda: standardize(load()),
        factory=partial(_fcn, depth=depth),
        config=_seeded(layers_fcn, 100),
        sites="modules",
        groups=fcn_groups,
    )


LAPTOP = {
    "fcn3": _fcn_setting("fashion-mnist", 3, fashion_mnist),
    "fcn5": _fcn_setting("fashion-mnist", 5, fashion_mnist),
    "resnet": Setting(
        name="resnet-18-fashion-mnist",
        data=lambda: standardize(subset(fashion_mnist(), train=5000, test=2000)),
        factory=partial(_resnet, depth=18, width=0.25),
        config=_seeded(layers_fcn, 25),
        sites="blocks",
        groups=residual_groups,
    ),
}
"""Minutes on two cores: Fashion-MNIST; ResNet-18 V2 at a quarter of its width, 5,000 train and 2,000 test images,
25 epochs, no batch norm, Glorot's uniform initialization."""

PAPER = {
    "fcn3": _fcn_setting("mnist", 3, mnist),
    "fcn5": _fcn_setting("mnist", 5, mnist),
    "resnet": Setting(
        name="resnet-50-cifar10",
        data=lambda: standardize(cifar10()),
        factory=partial(_resnet, depth=50, width=1.0),
        config=_seeded(layers_conv, 100),
        sites="blocks",
        groups=residual_groups,
    ),
}
"""The paper's own setting: MNIST and CIFAR-10, full width, 100 epochs, pad-crop-flip for the residual net."""

PRESETS = {"laptop": LAPTOP, "paper": PAPER}


@dataclass(frozen=True, kw_only=True)
class Probed:
    """One network of the study: a setting of a preset, and a seed."""

    preset: Preset = "laptop"
    setting: str = "fcn3"
    seed: int = 0


def single_sweep(settings: Sequence[str], *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Train each setting with each seed, and reset its sites to every checkpoint kept."""
    axes = (grid({"setting": tuple(settings)}),)
    return Sweep(name=f"layers-{preset}", base=Probed(preset=preset), measure=measure_single, axes=axes, seeds=seeds)


def measure_single(config: Probed, runs: Path) -> pd.DataFrame:
    """The paper's table for one trained network, on its test split; `result` is its folder below `runs`."""
    setting = PRESETS[config.preset][config.setting]
    data = setting.data()
    recipe = setting.config(config.seed)
    run = trained(setting.factory(data), data.train, recipe, catalogue=runs, validation=data.test)
    result, path = probed(
        run.trajectory,
        {"test": data.test},
        folder=runs / "probed",
        sites=setting.sites,
        checkpoints="all",
        draws=setting.draws,
        groups=setting.groups,
        full_model=True,
        seed=config.seed,
    )
    frame = result.to_frame().rename(columns={"status": "edit_status"})
    return frame.assign(result=path.relative_to(runs).as_posix())
