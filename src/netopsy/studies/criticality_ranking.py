"""Networks of several architectures, ranked by complexity measures (criticality paper, Fig. 5b and Tables 2 to 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import nn

from netopsy._identity import code_version, digest
from netopsy.data.cifar import cifar10, cifar100
from netopsy.data.dataset import Dataset, shrink, standardize, subset
from netopsy.data.digits import digits
from netopsy.data.idx import fashion_mnist
from netopsy.engine.evaluate import evaluate
from netopsy.models.densenet import densenet
from netopsy.models.fcn import fcn
from netopsy.models.inits import Init
from netopsy.models.normalized_fcn import FCN_I, FCN_II, normalized_fcn
from netopsy.models.resnet import Depth, resnet
from netopsy.models.vgg import Name, vgg
from netopsy.probes.complexity import complexity
from netopsy.probes.criticality import criticality
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.studies.criticality_module_sweeps import linear_modules, rewinding
from netopsy.studies.criticality_settings import Preset
from netopsy.studies.criticality_statistics import CRITICAL
from netopsy.training.config import FitConfig

Architecture = Literal[
    "fcn-1x128", "fcn-3x64", "fcn-3x256", "fcn-6x128", "fcn-i", "fcn-ii", "vgg11", "vgg16", "resnet18", "resnet34",
    "resnet50", "resnet101", "densenet121",
]  # fmt: skip
DataName = Literal["fashion-mnist", "digits", "cifar-10", "cifar-100"]

FCNS: Mapping[str, tuple[int, int]] = {
    "fcn-1x128": (1, 128), "fcn-3x64": (3, 64), "fcn-3x256": (3, 256), "fcn-6x128": (6, 128),
}  # fmt: skip
"""Depth and width."""
NORMALIZED = {"fcn-i": FCN_I, "fcn-ii": FCN_II}
VGGS: Mapping[str, Name] = {"vgg11": "vgg11", "vgg16": "vgg16"}
RESNETS: Mapping[str, Depth] = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}

EPSILON = 0.1
"""At which networks are ranked."""

EPSILONS = (0.05, 0.1, 0.15)
"""Of the curves of Figure 5b: three, for each costs a search a module."""

NORMS = ("pfn", "psn", "dti", "nop", "sosp", "pac_bayes", "spectral_margin", "path_norm")
"""Measures beside criticality: the paper's, and two that came after."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One network to be ranked.

    Attributes:
        architecture: which.
        data: which data set. Of digits the splits are exchanged: 360 train and 1,437 test examples, so that there is
            a gap to measure, and enough examples to measure it by.
        train: examples of the train split; None for all.
        test: examples of the test split.
        shrink: factor by which images are made smaller.
        width: factor on units and channels.
        init: of the weights.
        noise_samples: draws of the noise, for criticality.
        tolerance: how far above the least mu the one found may lie.
        fit: how it is trained; its seed is the point's.
    """

    architecture: Architecture
    data: DataName
    train: int | None = None
    test: int | None = None
    shrink: int = 1
    width: float = 1.0
    init: Init = "torch"
    noise_samples: int = 10
    tolerance: float = 0.01
    fit: FitConfig

    def recipe(self, seed: int) -> FitConfig:
        """How the network of a seed is trained."""
        return replace(self.fit, seed=seed)

    def load(self) -> Dataset:
        """Its data, standardized by the train split."""
        source = _SOURCES[self.data]()
        if self.data == "digits":
            source = replace(source, train=source.test, test=source.train)
        few = subset(source, train=self.train, test=self.test)
        return standardize(shrink(few, self.shrink) if self.shrink > 1 else few)

    def factory(self, data: Dataset) -> Callable[[], nn.Module]:
        """What builds the network."""
        shape, classes = tuple(data.train[0].shape[1:]), data.classes
        name, width, init = self.architecture, self.width, self.init
        if name in FCNS:
            depth, units = FCNS[name]
            return partial(fcn, inputs=shape, classes=classes, depth=depth, width=round(units * width), init=init)
        if name in NORMALIZED:
            return partial(
                normalized_fcn, inputs=shape, classes=classes, hidden=NORMALIZED[name], width=width, init=init
            )
        if name in VGGS:
            return partial(vgg, VGGS[name], classes=classes, channels=shape[0], size=shape[1], width=width, init=init)
        if name in RESNETS:
            return partial(
                resnet, RESNETS[name], classes=classes, channels=shape[0], version=1, width=width, init=init
            )
        return partial(densenet, 121, classes=classes, channels=shape[0], width=width, init=init)


_SOURCES: Mapping[DataName, Callable[[], Dataset]] = {
    "fashion-mnist": fashion_mnist,
    "digits": digits,
    "cifar-10": cifar10,
    "cifar-100": cifar100,
}


@dataclass(frozen=True, kw_only=True)
class RankedPoint:
    """One network of a line-up.

    Attributes:
        line: its name.
        net: what is trained.
        seed: of everything; a replicate.
    """

    line: str
    net: Ranked
    seed: int = 0


LAPTOP_WIDTHS: Mapping[Architecture, float] = {
    "fcn-1x128": 1.0,
    "fcn-3x64": 1.0,
    "fcn-3x256": 1.0,
    "fcn-6x128": 1.0,
    "fcn-i": 1 / 20,
    "fcn-ii": 1 / 20,
    "vgg11": 1 / 8,
    "vgg16": 1 / 8,
    "resnet18": 1 / 8,
    "resnet34": 1 / 8,
}
"""Ten architectures, and the factors that make them small."""

PAPER_NETWORKS: tuple[Architecture, ...] = (
    "resnet18", "resnet34", "resnet50", "resnet101", "vgg11", "vgg16", "densenet121", "fcn-i", "fcn-ii",
)  # fmt: skip
"""Of Table 2."""

BASE, SMALL_BATCH, LOW_RATE = "", ", small batch", ", low rate"
VARIANTS = (BASE, SMALL_BATCH, LOW_RATE)
"""Ways of training each of the laptop's: as the base; with half its batch; with half its learning rate."""

WIDTHS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of Table 4, a quarter of the paper's on a laptop: ResNet-18 with 4 to 32 channels in its first stage."""


def laptop_net(architecture: Architecture, data: DataName, *, width: float, variant: str = BASE) -> Ranked:
    """A small network; true labels, no weight decay, no augmentation, one target for all."""
    fit = FitConfig(
        epochs=150,
        batch_size=16 if variant == SMALL_BATCH else 32,
        lr=0.01 if variant == LOW_RATE else 0.02,
        momentum=0.9,
        lr_drops=(80, 120),
        lr_factor=0.2,
        target_loss=0.1,
        target_error=0.02,
        keep=(),
    )
    small = data == "fashion-mnist"
    return Ranked(
        architecture=architecture,
        data=data,
        train=1000 if small else None,
        test=5000 if small else None,
        shrink=2 if small else 1,
        width=width,
        init=_init(architecture),
        noise_samples=5,
        tolerance=0.05,
        fit=fit,
    )


def paper_net(architecture: Architecture, data: DataName, *, width: float = 1.0) -> Ranked:
    """The paper's: weight decay 5e-4, lr × 0.2 every 60 epochs (FCN: 200), to its cross-entropy.

    The learning rate, printed as 0.1, is 0.02 as in `criticality_settings`: without normalization a ResNet does not
    train at 0.1.
    """
    every = 200 if architecture.startswith("fcn") else 60
    fit = FitConfig(
        epochs=4 * every,
        batch_size=128,
        lr=0.02,
        momentum=0.9,
        weight_decay=5e-4,
        lr_drops=(every, 2 * every, 3 * every),
        lr_factor=0.2,
        augment="pad-crop-flip",
        target_loss=0.25 if data == "cifar-100" else 0.19,
        keep=(),
    )
    return Ranked(architecture=architecture, data=data, width=width, init=_init(architecture), fit=fit)


def ranked(preset: Preset, table: Literal[2, 3]) -> dict[str, Ranked]:
    """The networks of Table 2 or 3, by name: thirty on a laptop, the paper's nine."""
    if preset == "paper":
        source: DataName = "cifar-10" if table == 2 else "cifar-100"
        return {name: paper_net(name, source) for name in PAPER_NETWORKS}
    source = "fashion-mnist" if table == 2 else "digits"
    return {
        f"{name}{variant}": laptop_net(name, source, width=width, variant=variant)
        for name, width in LAPTOP_WIDTHS.items()
        for variant in VARIANTS
    }


def widths(preset: Preset) -> dict[str, Ranked]:
    """The four networks of Table 4, by name."""
    if preset == "paper":
        return {f"resnet18, width {4 * w:g}": paper_net("resnet18", "cifar-10", width=4 * w) for w in WIDTHS}
    return {f"resnet18, width {w:g}": laptop_net("resnet18", "fashion-mnist", width=w) for w in WIDTHS}


def ranking_sweep(name: str, nets: Mapping[str, Ranked], *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Some networks, all measures of each."""
    axis = [{"line": line, "net": net} for line, net in nets.items()]
    first = next(iter(nets))
    base = RankedPoint(line=first, net=nets[first])
    return Sweep(name=f"criticality-{name}-{preset}", base=base, measure=measure_network, axes=(axis,), seeds=seeds)


def measure_network(config: RankedPoint, runs: Path) -> pd.DataFrame:
    """Train a network to its target; its generalization gap, criticality and complexity.

    Returns:
        A row an epsilon: `epsilon, criticality` (of the network; null where a module has none); and of the network,
        the same in each row, `architecture, batch, rate, reached` (whether training reached its target),
        `train_error, test_error, gap, critical_modules` (their number), and `NORMS`, in their scales.
    """
    data = config.net.load()
    recipe = config.net.recipe(config.seed)
    run = trained(config.net.factory(data), data.train, recipe, catalogue=runs)
    trajectory = run.trajectory
    model = trajectory.model()
    mu = criticality(
        trajectory,
        data.train,
        epsilon=EPSILONS,
        sites=list(linear_modules(model)),
        noise_samples=config.net.noise_samples,
        relative_tolerance=config.net.tolerance,
        end_sigma=True,
        seed=config.seed,
    )
    key = digest({"config": config, "code": code_version(measure_network)})[:16]
    mu.save(runs / "criticality" / key, overwrite=True)
    at = mu.frame[mu.frame.epsilon == EPSILON]
    found = complexity(
        trajectory,
        data.train,
        criticality=mu,
        epsilon=EPSILON,
        end_sigma=dict(zip(at.site, at.end_sigma, strict=True)),
        hessian_examples=0,
        seed=config.seed,
    )
    values = found.frame.set_index("measure").value
    splits = data.train, data.test
    train, test = (float(evaluate(model, part, (), metrics=("error",)).baseline["error"]) for part in splits)
    return pd.DataFrame(
        {
            "epsilon": EPSILONS,
            "criticality": [mu.total(epsilon) for epsilon in EPSILONS],
            "architecture": config.net.architecture,
            "batch": recipe.batch_size,
            "rate": recipe.lr,
            "reached": run.stopped == "target",
            "train_error": train,
            "test_error": test,
            "gap": test - train,
            "critical_modules": int((rewinding(trajectory, data, config.seed).rise >= CRITICAL).sum()),
            **{name: float(values[name]) for name in NORMS},
        }
    )


def _init(architecture: Architecture) -> Init:
    """A plain deep network needs the variance that He et al. keep; a residual one a smaller."""
    if architecture.startswith("vgg"):
        return "he-normal"
    return "torch" if architecture.startswith("fcn") else "glorot-uniform"
