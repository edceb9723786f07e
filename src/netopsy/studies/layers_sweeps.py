"""Figure 2 and Table 1 of the layers paper as sweeps: what is trained, and what is measured of each net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset, shrink, standardize, subset
from netopsy.data.digits import digits
from netopsy.data.idx import fashion_mnist
from netopsy.engine.evaluate import evaluate
from netopsy.models.fcn import fcn
from netopsy.models.resnet import resnet
from netopsy.network.groups import ALL_BUT_FIRST, residual_groups
from netopsy.network.sites import find_sites
from netopsy.probes.robustness import robustness
from netopsy.store.axes import grid
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.training.recipes import layers_fcn

DataName = Literal["digits", "fashion-mnist"]
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Width:
    """One net of Figure 2: FCN `depth`×`width`, trained by `layers_fcn`.

    Attributes:
        data: set; the hard one is a balanced subset, see `load`.
        depth: hidden layers.
        width: units of each.
        epochs: of training.
        seed: of everything.
    """

    data: DataName = "digits"
    depth: int = 3
    width: int = 256
    epochs: int = 400
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Treated:
    """One net of Table 1: a V2 ResNet of three stages of three blocks, trained by `layers_fcn`, without batch norm.

    With a quarter of the channels it is CIFAR's ResNet-20. ResNet-18 has but one block a stage beside the first; the
    paper's own nets are deeper, and it calls its ResNet-18 relatively robust to joint resets (Appendix B).

    Attributes:
        data: set; the hard one is a balanced subset at half its resolution.
        training: as usual, with all but the first block of each stage frozen at their initial values, or removed.
        width: factor of the channels.
        epochs: of training.
        seed: of everything.
    """

    data: DataName = "digits"
    training: Literal["normal", "frozen", "removed"] = "normal"
    width: float = 0.25
    epochs: int = 100
    seed: int = 0


def load(data: DataName, *, small: bool = False) -> Dataset:
    """Digits whole; of Fashion-MNIST 10,000 train and 2,000 test images, or 5,000 and 2,000 at 14×14 pixels."""
    if data == "digits":
        return standardize(digits())
    if small:
        return standardize(shrink(subset(fashion_mnist(), train=5000, test=2000), 2))
    return standardize(subset(fashion_mnist(), train=10_000, test=2000))


def measure_width(config: Width, runs: Path) -> pd.DataFrame:
    """Train a net of Figure 2 and set each of its layers back to checkpoint 0."""
    data = load(config.data)
    shape = tuple(data.train[0].shape[1:])
    factory = partial(fcn, inputs=shape, classes=data.classes, depth=config.depth, width=config.width)
    recipe = replace(layers_fcn(epochs=config.epochs, seed=config.seed), keep=(0,))
    run = trained(factory, data.train, recipe, catalogue=runs)
    result = robustness(run.trajectory, {"test": data.test}, draws=0, seed=config.seed)
    return result.to_frame().rename(columns={"status": "edit_status"})


def measure_treated(config: Treated, runs: Path) -> pd.DataFrame:
    """Train a net of Table 1; of a normal one, reset each group's blocks one by one and all together too."""
    data = load(config.data, small=True)
    factory = partial(
        resnet,
        18,
        classes=data.classes,
        channels=data.train[0].shape[1],
        stages=(3, 3, 3),
        width=config.width,
        init="glorot-uniform",
    )
    recipe = replace(layers_fcn(epochs=config.epochs, seed=config.seed), keep=(0,))
    group = residual_groups([site.name for site in find_sites(factory(), "blocks")])[ALL_BUT_FIRST]
    if config.training != "normal":
        recipe = replace(recipe, frozen=group) if config.training == "frozen" else replace(recipe, removed=group)
    run = trained(factory, data.train, recipe, catalogue=runs)
    if config.training != "normal":
        error = evaluate(run.trajectory.model(), data.test, (), metrics=("error",)).baseline["error"]
        return _row(config.training, ALL_BUT_FIRST, error)
    joint = {ALL_BUT_FIRST: group}
    frame = robustness(
        run.trajectory, {"test": data.test}, sites="blocks", draws=0, groups=joint, seed=config.seed
    ).to_frame()
    reset = frame[frame.operation == "re-initialize"].set_index("site").error
    rows = [
        _row("normal", NONE, float(frame[frame.operation == "baseline"].error.iloc[0])),
        _row("individual", ALL_BUT_FIRST, float(reset[list(group)].mean())),
        _row("joint", ALL_BUT_FIRST, float(reset[ALL_BUT_FIRST])),
    ]
    return pd.concat(rows, ignore_index=True)


def treated_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 1's rows: a failed run's under the name of what it was to be, and `delta_error` over the normal net.

    Raises:
        NetopsyError: for two normal nets of one data set and seed.
    """
    if "treatment" not in rows:  # nothing but failures
        rows = rows.assign(treatment=None, groups=None, error=float("nan"))
    group = rows.training.map({"normal": NONE, "frozen": ALL_BUT_FIRST, "removed": ALL_BUT_FIRST})
    named = rows.assign(treatment=rows.treatment.fillna(rows.training), groups=rows.groups.fillna(group))
    normal = named[named.treatment == "normal"].set_index(["data", "seed"]).error
    if normal.index.has_duplicates:
        raise NetopsyError("table 1: expected one normal net of each data set and seed; got several")
    base = [normal.get(key) for key in zip(named.data, named.seed, strict=True)]
    return named.assign(delta_error=named.error - pd.Series(base, index=named.index, dtype=float))


def width_sweep(
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    widths: Sequence[int] = (16, 32, 64, 128, 256, 512),
    epochs: tuple[int, int] = (400, 60),
) -> Sweep:
    """Figure 2: widths 16 to 512, 3 and 5 layers, an easy and a hard data set.

    Both sets get about as many steps: 400 epochs of 1,437 images, and 60 of 10,000.
    """
    sets = ({"data": "digits", "epochs": epochs[0]}, {"data": "fashion-mnist", "epochs": epochs[1]})
    axes = (sets, grid({"depth": (3, 5), "width": widths}))
    return Sweep(name="layers-f2", base=Width(), measure=measure_width, axes=axes, seeds=seeds)


def treatment_sweep(*, seeds: Sequence[int] = (0, 1, 2), epochs: tuple[int, int] = (100, 30)) -> Sweep:
    """Table 1: residual blocks trained as usual, frozen and removed, on an easy and a hard data set."""
    sets = ({"data": "digits", "epochs": epochs[0]}, {"data": "fashion-mnist", "epochs": epochs[1]})
    axes = (grid({"training": ("normal", "frozen", "removed")}), sets)
    return Sweep(name="layers-t1", base=Treated(), measure=measure_treated, axes=axes, seeds=seeds)


def _row(treatment: str, groups: str, error: float) -> pd.DataFrame:
    return pd.DataFrame({"treatment": [treatment], "groups": [groups], "error": [error]})
