"""Width sweeps of the units paper: lines of nets that differ in width and seed, and what is measured of each net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from netopsy._identity import code_version, digest
from netopsy.engine.evaluate import evaluate
from netopsy.models.inits import Normal
from netopsy.probes.ablation import ablation_curve
from netopsy.probes.ablation_result import ALL
from netopsy.probes.redundancy import redundancy
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.studies.units_settings import ALEXNET, MLP, RESNET56, DataName, Net, Preset

INITIAL, TRAINED = "initial", "trained"
"""The two checkpoints of every net: before the first step, and the last one kept."""

SIGMAS = (0.01, 0.1, 1.0)
"""Of the perceptrons' weights: the paper's default, and two above it; its others are not printed."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One net of a line.

    Attributes:
        line: name of the line, see `lines`.
        net: what is trained.
        width: factor on its units.
        seed: of everything; a replicate.
    """

    line: str
    net: Net
    width: float
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """Nets that differ in width only.

    Attributes:
        net: what is trained.
        widths: factors on the units, ascending.
    """

    net: Net
    widths: tuple[float, ...]


def lines(preset: Preset) -> dict[str, Line]:
    """All lines of the paper that can be drawn without ImageNet, by name: model, then what is not its default."""
    small, large = (0.25, 0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0, 4.0)
    alexnet, resnet = ALEXNET[preset], RESNET56[preset]
    widths = small if preset == "laptop" else large
    regularized = {
        "augmentation": _augmented(alexnet),
        "dropout": replace(alexnet, dropout=0.5),
        "weight decay": _decayed(alexnet),
        "all three": replace(_decayed(_augmented(alexnet)), dropout=0.5),
    }
    nets: dict[str, Net] = {"alexnet": alexnet}
    nets |= {
        f"alexnet, {scheme}": replace(alexnet, init=scheme)
        for scheme in ("lecun-normal", "he-normal", "glorot-uniform", "lecun-uniform", "he-uniform")
    }
    nets |= {"alexnet, random labels": _random_labels(alexnet), "resnet56, random labels": _random_labels(resnet)}
    nets |= {f"alexnet, {name}": net for name, net in regularized.items()}
    nets |= {f"{name}, lr and batch x{factor:g}": replace(net, factor=factor)
             for name, net in (("alexnet", alexnet), ("resnet56", resnet)) for factor in (0.25, 4.0)}  # fmt: skip
    nets |= {f"alexnet, only {layer}": replace(alexnet, layer=layer) for layer in ("conv1", "conv2", "fc1", "fc2")}
    nets |= {
        "alexnet, twice as long": _longer(alexnet),
        "resnet56": resnet,
        "resnet56, twice as long": _longer(resnet),
    }
    gaussian: tuple[tuple[int, DataName], ...] = ((10, "gaussian-10"), (10_000, "gaussian-10000"))
    perceptrons = {
        f"mlp-{dimensions}, sigma {sigma:g}": replace(MLP, data=data, init=Normal(sigma=sigma))
        for dimensions, data in gaussian
        for sigma in SIGMAS
    }
    far = replace(MLP, data="gaussian-10000")
    perceptrons |= {
        "mlp-10000, plain SGD": replace(far, fit=replace(MLP.fit, momentum=0.0)),
        "mlp-10000, Adam": replace(far, fit=replace(MLP.fit, optimizer="adam", lr=0.001)),
    }
    found = {name: Line(net=net, widths=widths) for name, net in nets.items()}
    return found | {name: Line(net=net, widths=large) for name, net in perceptrons.items()}


def width_sweep(names: Sequence[str], *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Every net of some lines."""
    known = lines(preset)
    axis = [{"line": name, "net": known[name].net, "width": width} for name in names for width in known[name].widths]
    base = Point(line=names[0], net=known[names[0]].net, width=1.0)
    return Sweep(name=f"units-{preset}", base=base, measure=measure_point, axes=(axis,), seeds=seeds)


def measure_point(config: Point, runs: Path) -> pd.DataFrame:
    """Train a net; measure its layers before and after.

    Returns:
        A row for each checkpoint and layer of units: `checkpoint` (`INITIAL`, `TRAINED`), `site`, `units`, `area`
        (under the ablation curve of this layer alone: the paper's robustness), `area_all` (of all at once; of the
        net), `components`, `compressibility`, `similar_per_unit`, `similar_share` (of the other units), `silent`,
        `constant`, `r99` (99 % of the pairs have a smaller `abs(r)`), `accuracy` (on the test split; of the net),
        `train_accuracy` (over the last epoch; trained net only), `result` (folder of the two probes' results, below
        `runs`).
    """
    data = config.net.load(config.seed)
    factory = config.net.factory(data, config.width)
    run = trained(factory, data.train, config.net.recipe(config.seed), catalogue=runs)
    keys = {INITIAL: run.trajectory.keys[0], TRAINED: run.trajectory.keys[-1]}
    fitted = 1 - float(run.history.set_index("epoch").train_error[keys[TRAINED]])
    few = tuple(part[: config.net.ablated] for part in data.test)
    folder = runs / "units" / digest({"config": config, "code": code_version(measure_point, factory)})[:16]
    tables = []
    for name, key in keys.items():
        model = run.trajectory.model(key)
        curve = ablation_curve(model, few, seed=config.seed)
        curve.save(folder / name / "ablation", overwrite=True)
        found = redundancy(model, data.test, seed=config.seed)
        found.save(folder / name / "redundancy", overwrite=True)
        areas = curve.areas("unchanged").set_index("site").area
        accuracy = 1 - float(evaluate(model, data.test, (), metrics=("error",)).baseline["error"])
        table = found.frame.assign(
            checkpoint=name,
            area=found.frame.site.map(areas),
            area_all=areas[ALL],
            r99=found.frame.site.map(_quantiles(found.pairs, 0.99)),
            accuracy=accuracy,
            train_accuracy=fitted if name == TRAINED else None,
            result=(folder / name).relative_to(runs).as_posix(),
        )
        tables.append(table.rename(columns={"status": "redundancy_status"}))
    return pd.concat(tables, ignore_index=True)


def _quantiles(pairs: pd.DataFrame, share: float) -> dict[str, float]:
    """Site -> where the distribution of its pairs by |r| reaches a share, to the width of a bin."""
    found = {}
    for site, part in pairs.groupby("site", sort=False):
        reached = part["pairs"].cumsum() >= share * part["pairs"].sum()
        found[str(site)] = float(part.high[reached].iloc[0])
    return found


def _augmented(net: Net) -> Net:
    return replace(net, fit=replace(net.fit, augment="pad-crop-flip"))


def _decayed(net: Net) -> Net:
    """The paper does not print AlexNet's weight decay: this is Zhang et al.'s (2017), whose net it is modeled on."""
    return replace(net, fit=replace(net.fit, weight_decay=0.0005))


def _random_labels(net: Net) -> Net:
    """No label can be learned from another: nothing is held out, nothing augmented, and all epochs are trained."""
    fit = replace(net.fit, label_noise=1.0, augment="none", validation_share=0.0, patience=None)
    return replace(net, fit=replace(fit, epochs=4 * fit.epochs, lr_drops=tuple(4 * drop for drop in fit.lr_drops)))


def _longer(net: Net) -> Net:
    """On, past the epoch that is best for validation: to the last of twice as many epochs."""
    fit = replace(net.fit, epochs=2 * net.fit.epochs, patience=None, validation_share=0.0)
    if net.model == "alexnet":
        fit = replace(fit, lr_drops=tuple(range(1, fit.epochs)))
    return replace(net, fit=fit)
