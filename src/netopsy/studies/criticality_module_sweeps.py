"""What is measured of single modules of the criticality paper's networks: valleys, spectra, CKA, noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import ks_2samp
from torch import Tensor, nn

from netopsy.data.dataset import Dataset
from netopsy.engine.evaluate import evaluate
from netopsy.models.fixup import with_fixup
from netopsy.models.resnet import ResNet
from netopsy.network.rewind import rewound
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory
from netopsy.probes.cka import cka
from netopsy.probes.operator_norm import Linear
from netopsy.probes.robustness import robustness
from netopsy.probes.spectra import spectra
from netopsy.probes.valley import FULL_NETWORK, valley
from netopsy.store.keyed import Measure
from netopsy.store.sweep import Sweep
from netopsy.studies.criticality_settings import NETS, Net, Preset
from netopsy.studies.criticality_statistics import CRITICAL, ROBUST
from netopsy.studies.criticality_sweeps import Point, network_sweep, prepared, result_folder

EPSILON = 0.1
"""Training error that bounds a valley: the paper's default."""

EXAMPLES = 1000
"""By which valleys, CKA and errors under noise are measured: an error of 0.1 is then known to 0.01."""

DRAWS = 5
"""Of the noise, in valleys: a grid has some hundred points."""

KEPT = (1, 2, 5, 10, 20, 50, 100, 200)
"""Epochs whose spectra are measured, beside the first and the last weights; those that training reaches."""

NOISES = (0.1, 0.5, 1.0, 2.0)
"""Of C33, in units of the root mean square of a module's trained parameters."""

NOISE_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

MAIN_PATH = {"fcn": ("activation.*",), "resnet18": ("stem.relu", "stage*.relu2")}
"""Layers behind one another: of a residual network the sums' ReLUs, for those in the branches are on no such line."""


@dataclass(frozen=True, kw_only=True)
class FixupNet(Net):
    """A residual network that starts from Fixup's weights; its `init` has no effect."""

    def factory(self, data: Dataset) -> Callable[[], nn.Module]:
        """What builds the net."""
        return partial(with_fixup, cast("Callable[[], ResNet]", Net.factory(self, data)))


def lines(preset: Preset) -> dict[str, Net]:
    """The networks by name: as they are, with kept checkpoints, by Adam, from Fixup's weights.

    Adam has the learning rate that its authors suggest.
    """
    nets = dict(NETS[preset])
    plain = nets["resnet18"]
    kept = tuple(epoch for epoch in KEPT if epoch <= plain.fit.epochs)
    return nets | {
        "resnet18, kept": replace(plain, fit=replace(plain.fit, keep=kept)),
        "resnet18, Adam": replace(plain, fit=replace(plain.fit, optimizer="adam", lr=0.001)),
        "resnet18, Fixup": FixupNet(**{field.name: getattr(plain, field.name) for field in fields(plain)}),
    }


def module_sweep(name: str, measure: Measure, names: Sequence[str], *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """The networks of some lines, measured in one way."""
    return network_sweep(name, measure, names, preset=preset, seeds=seeds, known=lines(preset))


def linear_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of linear layers and convolutions: the paper's modules."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, Linear))


def rewinding(trajectory: Trajectory, data: Dataset, seed: int) -> pd.DataFrame:
    """What setting each module back to where it started costs, and how far it had moved.

    Returns:
        A row a module that moved, in the order of the model: `site, rise` (of the test error), `distance` (Frobenius
        norm of what its parameters moved by).
    """
    model, start = trajectory.model(), trajectory.model(trajectory.initial)
    names = linear_modules(model)
    result = robustness(trajectory, data.test, sites=names, draws=0, metrics=("error",), seed=seed)
    frame = result.to_frame()
    reset = frame[(frame.operation == "re-initialize") & (frame.status != "no-op")]
    rises = reset.set_index("site").delta_error.astype("float64")
    moved = {name: _moved(model.get_submodule(name), start.get_submodule(name)) for name in names if name in rises}
    return pd.DataFrame({"site": list(moved), "rise": [rises[name] for name in moved], "distance": moved.values()})


def the_critical(modules: pd.DataFrame) -> str | None:
    """The module whose rewinding costs most, if it is critical."""
    found = modules[modules.rise >= CRITICAL]
    return None if found.empty else str(found.sort_values("rise").site.iloc[-1])


def the_robust(modules: pd.DataFrame) -> str | None:
    """Of the robust modules the one that moved farthest: one that stayed where it was would say nothing."""
    found = modules[modules.rise <= ROBUST]
    return None if found.empty else str(found.sort_values("distance").site.iloc[-1])


def measure_modules(config: Point, runs: Path) -> pd.DataFrame:
    """Set each module back to where it started (Figs. 7 and 8).

    Returns:
        A row a module that moved: `site, rise` (of the test error), `distance`, `moved` (the norm of θ^F − θ^0 as an
        operator, convolutions with circular padding).
    """
    trajectory, data = prepared(config, runs)
    modules = rewinding(trajectory, data, config.seed)
    found = spectra(trajectory, data.train, sites=modules.site.tolist(), checkpoints=(trajectory.final,), top=1)
    return modules.assign(moved=modules.site.map(found.to_frame().set_index("site").moved))


def measure_valleys(config: Point, runs: Path) -> pd.DataFrame:
    """The valleys of the most critical module, and of the robust one that moved farthest (Figs. 1 and 10).

    Returns:
        A row an alpha of each that there is: `role` (`critical`, `robust`), `site, rise, alpha`, `width` (the largest
        sigma up to which the training error is at most `EPSILON`; 0: there is none), `relative` (to the width at
        alpha = 1), `result` (folder of the valley, below `runs`). One row without numbers for a role that no module
        has.
    """
    trajectory, data = prepared(config, runs)
    modules = rewinding(trajectory, data, config.seed)
    few = tuple(part[:EXAMPLES] for part in data.train)
    folder = result_folder(config, runs, measure_valleys)
    rows: list[dict[str, object]] = []
    for role, site in (("critical", the_critical(modules)), ("robust", the_robust(modules))):
        if site is None:
            rows.append({"role": role})
            continue
        result = valley(trajectory, few, site, noise_samples=DRAWS, seed=config.seed)
        result.save(folder / role, overwrite=True)
        frame = result.to_frame().sort_values("sigma")
        head = {"role": role, "site": site, "rise": _rise(modules, site)}
        where = (folder / role).relative_to(runs).as_posix()
        widths = {
            alpha: valley_width(part.sigma.tolist(), part.error.tolist(), EPSILON)
            for alpha, part in ((alpha, frame[frame.alpha == alpha]) for alpha in sorted(set(frame.alpha)))
        }
        end = widths[1.0] or math.nan
        rows += [
            {**head, "alpha": alpha, "width": width, "relative": width / end, "result": where}
            for alpha, width in widths.items()
        ]
    return pd.DataFrame(rows)


def valley_width(sigmas: Sequence[float], errors: Sequence[float], epsilon: float) -> float:
    """The largest sigma up to which the error stays within epsilon, by straight lines between ascending sigmas.

    0 where the smallest one's error is above it already, the last sigma where none is.

    >>> valley_width([0.0, 1.0, 2.0], [0.0, 0.05, 0.15], 0.1)
    1.5
    """
    above = [place for place, error in enumerate(errors) if error > epsilon]
    if not above:
        return sigmas[-1]
    if above[0] == 0:
        return 0.0
    low, high = above[0] - 1, above[0]
    return sigmas[low] + (sigmas[high] - sigmas[low]) * (epsilon - errors[low]) / (errors[high] - errors[low])


def measure_spectra(config: Point, runs: Path) -> pd.DataFrame:
    """How alike modules' spectra are at kept checkpoints (Fig. 3): each divided by its largest value.

    Returns:
        A row a pair of modules, critical and robust or both robust, and epoch: `site, other, kind`
        (`critical-robust`, `robust-robust`), `epoch`, `ks` (Kolmogorov and Smirnov's distance of the spectra: the
        largest difference of their distribution functions), `result` (folder of the spectra, below `runs`). One row
        without numbers where there is no pair.
    """
    trajectory, data = prepared(config, runs)
    modules = rewinding(trajectory, data, config.seed)
    found = spectra(trajectory, data.train, sites=modules.site.tolist())
    folder = result_folder(config, runs, measure_spectra)
    found.save(folder, overwrite=True)
    known = found.values.assign(epoch=found.values.checkpoint.astype("int64"))
    scaled = {key: (part.value / part.value.max()).to_numpy() for key, part in known.groupby(["site", "epoch"])}
    critical = modules.site[modules.rise >= CRITICAL].tolist()
    robust = modules.site[modules.rise <= ROBUST].tolist()
    pairs = [("critical-robust", *pair) for pair in itertools.product(critical, robust)]
    pairs += [("robust-robust", *pair) for pair in itertools.combinations(robust, 2)]
    rows = [
        {
            "kind": kind,
            "site": site,
            "other": other,
            "epoch": epoch,
            "ks": float(ks_2samp(scaled[site, epoch], scaled[other, epoch], method="asymp").statistic),
            "result": folder.relative_to(runs).as_posix(),
        }
        for kind, site, other in pairs
        for epoch in sorted(set(known.epoch))
    ]
    return pd.DataFrame(rows or [{"kind": "none"}])


def measure_cka(config: Point, runs: Path) -> pd.DataFrame:
    """How alike the layers are to those of the network with one module set back (Fig. 9).

    The robust module that moved farthest; and of the first half of the modules the most critical: of one near the end
    there is no depth left to fall over.

    Returns:
        A row a layer of the main path, for each role: `role` (`critical`, `robust`), `site, rise, layer, place, cka`
        (of the layer with itself), `result` (folder of all pairs, below `runs`). One row without numbers for a role
        that no module has.
    """
    trajectory, data = prepared(config, runs)
    modules = rewinding(trajectory, data, config.seed)
    few = tuple(part[:EXAMPLES] for part in data.test)
    folder = result_folder(config, runs, measure_cka)
    rows: list[dict[str, object]] = []
    first = modules.head((len(modules) + 1) // 2)
    for role, site in (("critical", the_critical(first)), ("robust", the_robust(modules))):
        if site is None:
            rows.append({"role": role})
            continue
        other = rewound(trajectory, [site])
        result = cka(
            trajectory, other, few, sites=MAIN_PATH[config.net.model], batch_size=EXAMPLES // 4, seed=config.seed
        )
        result.save(folder / role, overwrite=True)
        frame = result.to_frame()
        same = frame[frame.layer_a == frame.layer_b]
        head = {"role": role, "site": site, "rise": _rise(modules, site)}
        where = (folder / role).relative_to(runs).as_posix()
        rows += [
            {**head, "layer": layer, "place": place, "cka": value, "result": where}
            for place, (layer, value) in enumerate(zip(same.layer_a, same.cka, strict=True))
        ]
    return pd.DataFrame(rows)


def measure_noise(config: Point, runs: Path) -> pd.DataFrame:
    """The test error around the convex path, of each module alone and of all together (§3.1).

    Returns:
        A row a module, alpha and sigma: `site` (`full network` among them), `alpha, sigma, error, rise` (over the
        trained network's test error, on the same examples).
    """
    trajectory, data = prepared(config, runs)
    model = trajectory.model()
    few = tuple(part[:EXAMPLES] for part in data.test)
    base = float(evaluate(model, few, (), metrics=("error",)).baseline["error"])
    (whole,) = find_sites(model, {FULL_NETWORK: "*"})
    tables = []
    for site in (*find_sites(model, list(linear_modules(model))), whole):
        size = _root_mean_square(model if site is whole else model.get_submodule(site.name))
        sigmas = [min(1.0, noise * size) for noise in NOISES]
        result = valley(
            trajectory, few, site, alphas=NOISE_ALPHAS, sigmas=sigmas, noise_samples=DRAWS, seed=config.seed
        )
        tables.append(result.to_frame()[["site", "alpha", "sigma", "error"]])
    frame = pd.concat(tables, ignore_index=True)
    return frame.assign(rise=frame.error - base)


def _rise(modules: pd.DataFrame, site: str) -> float:
    return float(modules.set_index("site").rise[site])


def _moved(module: nn.Module, start: nn.Module) -> float:
    return float((_flat(module) - _flat(start)).norm())


def _root_mean_square(module: nn.Module) -> float:
    return float(_flat(module).square().mean().sqrt())


def _flat(module: nn.Module) -> Float[Tensor, " k"]:
    """All parameters in a row, in float64."""
    return torch.cat([value.detach().flatten().double() for value in module.parameters()])
