"""Hundreds of small networks of the sensitivity paper, trained as populations: drawn at random, and in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._identity import code_version, digest
from netopsy._random import derive
from netopsy.data.dataset import Dataset, corrupt_labels
from netopsy.engine.affine import affine_network
from netopsy.engine.curves import trace
from netopsy.models.activations import Activation
from netopsy.probes.jacobian_norm import jacobian_norm
from netopsy.probes.paths import translations
from netopsy.store.sweep import Sweep
from netopsy.studies.sensitivity_settings import (
    CIFAR,
    MNIST,
    OPTIMIZERS,
    STEPS,
    TINY_IMAGES,
    Images,
    Net,
    Preset,
    Range,
    epochs_of,
    momentum_fit,
    until_fitted,
)
from netopsy.training.config import FitConfig
from netopsy.training.epoch import mean_loss_and_error
from netopsy.training.population import fit_population
from netopsy.training.population_result import MemberResult

PIECEWISE: tuple[Activation, ...] = ("relu", "relu6", "hardtanh", "hardsigmoid")
"""Those whose transitions are counted exactly: the paper's small experiment has these too, and no Tanh (A.5.4)."""

TRUE, RANDOM_LABELS, AUGMENTED, HARD_SIGMOID, FULL_BATCH = (
    "true", "random labels", "augmented", "hard sigmoid", "full batch",
)  # fmt: skip
"""Networks of Figure 4: the paper's default, and what one setting makes of it."""

EXEMPT = (AUGMENTED,)
"""Need not have the train split right: they never meet it as it is."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """What members of one population differ in.

    Attributes:
        seed: of everything; a replicate.
        lr: learning rate.
        scale: factor on the initial weights.
    """

    seed: int
    lr: float
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Population:
    """Networks of one architecture.

    Attributes:
        line: `random`, or what they are in Figure 4.
        net: the architecture, the data, and how they are trained but for what a member says.
        members: of the population.
        points: test images at which Jacobian norms are measured; None for all.
        polygons: test images along whose translations transitions are counted.
    """

    line: str
    net: Net
    members: tuple[Member, ...]
    points: int | None = 1000
    polygons: int = 10


@dataclass(frozen=True, kw_only=True)
class Design:
    """What the populations are.

    Attributes:
        range: of the random ones.
        batches: sizes that they draw from.
        scales: of initial weights.
        populations: random ones a seed.
        base: of the pairs: trained as most are, on true labels.
        sizes: their depths and widths.
        pad: pixels of the augmentation.
        rounds: epochs of L-BFGS.
        points: see `Population`.
    """

    range: Range
    batches: tuple[int, ...]
    scales: tuple[float, ...]
    populations: int
    base: Net
    sizes: tuple[tuple[int, int], ...]
    pad: int
    rounds: int
    points: int | None


_LAPTOP_FIT = until_fitted(momentum_fit(500, batch_size=128, lr=0.02))

DESIGNS: Mapping[Preset, Design] = {
    "laptop": Design(
        range=Range(
            images=TINY_IMAGES,
            widths=(16, 32, 64, 128, 256),
            depths=(2, 3, 5),
            activations=PIECEWISE,
            optimizers=OPTIMIZERS["laptop"],
            fit=until_fitted(momentum_fit(300)),
        ),
        batches=(64, 256),
        scales=(0.5, 1.0, 2.0, 4.0),
        populations=10,
        base=Net(images=TINY_IMAGES, depth=2, width=64, fit=_LAPTOP_FIT),
        sizes=tuple((depth, width) for depth in (2, 3, 5) for width in (64, 128, 256)),
        pad=2,
        rounds=40,
        points=1000,
    ),
    "paper": Design(
        range=Range(
            images=Images(name="fashion-mnist"),
            widths=(100, 200, 500, 1000, 2000, 3000),
            depths=(2, 3, 5, 10, 15, 20),
            activations=PIECEWISE,
            optimizers=(replace(OPTIMIZERS["paper"][1], rates=(0.005,)),),
            fit=momentum_fit(epochs_of(STEPS, MNIST, 256)),
        ),
        batches=(256,),
        scales=(1.0,),
        populations=144,
        base=Net(
            images=Images(name="cifar-10", crop=24),
            depth=2,
            width=64,
            fit=momentum_fit(epochs_of(2 * STEPS, CIFAR, 128), batch_size=128),
        ),
        sizes=tuple((depth, width) for depth in (2, 3, 5, 9, 17) for width in (64, 256, 1024)),
        pad=4,
        rounds=2684 // 20,
        points=None,
    ),
}
"""On a laptop 40 random networks a seed, and pairs of nine sizes. The paper's: its small experiment (A.5.4) as random
draws from the same grid, as many as it has architectures; pairs in the setting of its large one (A.5.5)."""


def random_sweep(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Networks drawn at random, others for each seed."""
    design = DESIGNS[preset]
    found = [_drawn(design, seed, number) for seed in seeds for number in range(design.populations)]
    return _sweep(f"sensitivity-random-{preset}", found)


def paired_sweep(*lines: str, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Networks of all sizes that differ in one setting, and the true ones; members are seeds."""
    design = DESIGNS[preset]
    found = [_arm(design, line, size, seeds) for line in (TRUE, *lines) for size in design.sizes]
    return _sweep("-".join(["sensitivity-pairs", preset, *lines]).replace(" ", "-"), found)


def measure_population(config: Population, runs: Path) -> pd.DataFrame:
    """Train a population; generalization, Jacobian norms and transitions of its members.

    Returns:
        A row a member: `seed`, `rate`, `scale`, `ended` (why training did), `fitted` (whether the
        whole train split is right), `train_loss`, `train_error` (of the labels trained on, without augmentation),
        `test_error`, `gap`, and of those that are fitted or `EXEMPT`: `jacobian`, `logit_jacobian` (mean norms),
        `transitions` (mean over the polygons); `neurons`, `parameters`.
    """
    net = config.net
    data = net.images.load()
    fits = [replace(net.fit, seed=member.seed, lr=member.lr) for member in config.members]
    factories = [replace(net, scale=member.scale).factory(data) for member in config.members]
    folder = runs / "sensitivity" / digest({"config": config, "code": code_version(measure_population)})[:16]
    found = fit_population(factories, data.train, fits, folder=folder, resume=True)
    rows = [
        {"seed": member.seed, "rate": member.lr, "scale": member.scale, **_member(config, data, result)}
        for member, result in zip(config.members, found.members, strict=True)
    ]
    return pd.DataFrame(rows)


def mean_transitions(model: nn.Module, images: Float[Tensor, "n c h w"]) -> float:
    """Mean number of transitions along the closed polygons of all horizontal translations of each image (§3)."""
    network = affine_network(model, images[:3])
    counts = [len(trace(network, translations(image).curve()).crossings.t) for image in images]
    return float(np.mean(counts))


def _member(config: Population, data: Dataset, result: MemberResult) -> dict[str, object]:
    row: dict[str, object] = {"ended": result.status, "fitted": False, "neurons": config.net.depth * config.net.width}
    if result.status == "diverged":
        return row
    model = result.trajectory.model()
    images, labels = data.train
    if noise := result.config.label_noise:
        labels = corrupt_labels(labels, noise, data.classes, derive(result.seed, "labels"))  # as it was trained on
    loss, error = mean_loss_and_error(model, images, labels, "cross-entropy")
    test_error = mean_loss_and_error(model, *data.test, "cross-entropy")[1]
    row |= {
        "fitted": error == 0,
        "train_loss": loss,
        "train_error": error,
        "test_error": test_error,
        "gap": test_error - error,
        "parameters": sum(value.numel() for value in model.parameters()),
    }
    if not math.isfinite(loss) or not (error == 0 or config.line in EXEMPT):
        return row
    model, tests = model.double(), data.test[0].double()
    outputs: tuple[tuple[str, Literal["probabilities", "logits"]], ...] = (
        ("jacobian", "probabilities"),
        ("logit_jacobian", "logits"),
    )
    row |= {name: jacobian_norm(model, tests[: config.points], output=output).mean for name, output in outputs}
    return row | {"transitions": mean_transitions(model, tests[: config.polygons])}


def _drawn(design: Design, seed: int, number: int) -> Population:
    """A random architecture and optimizer; members have two of its rates and two scales."""
    net = design.range.draw("population", seed, number)
    source = np.random.default_rng(derive(seed, "members", number))
    how = next(o for o in design.range.optimizers if (o.name, o.momentum) == (net.fit.optimizer, net.fit.momentum))
    rates = source.permutation(how.rates)[:2].tolist()
    scales = source.permutation(design.scales)[:2].tolist()
    net = replace(net, fit=replace(net.fit, batch_size=int(source.choice(design.batches))))
    members = tuple(Member(seed=seed, lr=lr, scale=scale) for lr in rates for scale in scales)
    return Population(line="random", net=net, members=members, points=design.points)


def _arm(design: Design, line: str, size: tuple[int, int], seeds: Sequence[int]) -> Population:
    base = replace(design.base, depth=size[0], width=size[1])
    net = {
        TRUE: base,
        RANDOM_LABELS: replace(base, fit=replace(base.fit, label_noise=1.0)),
        AUGMENTED: replace(base, fit=replace(base.fit, augment="wrap-flip", pad=design.pad)),
        HARD_SIGMOID: replace(base, activation="hardsigmoid"),
        FULL_BATCH: replace(base, fit=_full_batch(design)),
    }[line]
    members = tuple(Member(seed=seed, lr=net.fit.lr) for seed in seeds)
    return Population(line=line, net=net, members=members, points=design.points)


def _full_batch(design: Design) -> FitConfig:
    """L-BFGS, whose line search finds the length of a step: its learning rate is the first one tried."""
    base = design.base
    return FitConfig(
        epochs=design.rounds,
        batch_size=base.images.train or CIFAR,
        optimizer="lbfgs",
        lr=1.0,
        target_error=base.fit.target_error,
        keep=(),
    )


def _sweep(name: str, populations: Sequence[Population]) -> Sweep:
    axis = [{"line": each.line, "net": each.net, "members": each.members} for each in populations]
    return Sweep(name=name, base=populations[0], measure=measure_population, axes=(axis,))
