"""What is measured of a trained network of the criticality paper: rewinding, convex paths, criticality, bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from netopsy._identity import code_version, digest
from netopsy.data.dataset import Dataset
from netopsy.network.trajectory import Trajectory
from netopsy.probes.bounds import pac_bayes_bound
from netopsy.probes.criticality import criticality
from netopsy.probes.joint_criticality import joint_criticality
from netopsy.probes.noisy_error import noisy_error
from netopsy.probes.robustness import robustness
from netopsy.probes.valley import convex_path
from netopsy.store.keyed import Measure
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.studies.criticality_settings import BOUNDED, NETS, Net, Preset

EPSILONS = (0.025, 0.05, 0.075, 0.1, 0.125, 0.15)
"""Of Figure 5a."""

TOLERANCE = 0.05
"""Of criticality: networks are told apart by more."""

BOUND_EPSILON = 0.2
BOUND_SAMPLES = 3
"""Of the noise, in the search for a bound's alpha and sigma: any will do, better ones give a better bound."""

BOUND_DRAWS = 1000
"""Of the noise, for the training error in a bound: kl⁻¹ then adds some three points to an error of 0.1."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network.

    Attributes:
        line: its name, see `lines`.
        net: what is trained.
        seed: of everything; a replicate.
    """

    line: str
    net: Net
    seed: int = 0


def lines(preset: Preset) -> dict[str, Net]:
    """The networks by name: each, with corrupted labels; and one for the bound, on all or a part of its data."""
    nets = dict(NETS[preset])
    corrupted = {f"{name}, corrupted labels": replace(net, labels="corrupted") for name, net in nets.items()}
    parts = {f"bounded, 1/{part} of the data": replace(BOUNDED, train=BOUNDED.train // part) for part in (2, 4)}
    return nets | corrupted | {"bounded": BOUNDED} | parts


def network_sweep(
    name: str,
    measure: Measure,
    names: Sequence[str],
    *,
    preset: Preset,
    seeds: Sequence[int],
    known: Mapping[str, Net] | None = None,
) -> Sweep:
    """The networks of some lines, of `lines` or of those that are given, measured in one way."""
    nets = lines(preset) if known is None else known
    axis = [{"line": line, "net": nets[line]} for line in names]
    base = Point(line=names[0], net=nets[names[0]])
    return Sweep(name=f"criticality-{name}-{preset}", base=base, measure=measure, axes=(axis,), seeds=seeds)


def prepared(config: Point, runs: Path) -> tuple[Trajectory, Dataset]:
    """The trained network, and its data."""
    data = config.net.load(config.seed)
    run = trained(config.net.factory(data), data.train, config.net.recipe(config.seed), catalogue=runs)
    return run.trajectory, data


def result_folder(config: Point, runs: Path, measure: Measure) -> Path:
    """Where a measurement keeps larger results of a network."""
    return runs / "criticality" / digest({"config": config, "code": code_version(measure)})[:16]


def measure_rewinding(config: Point, runs: Path) -> pd.DataFrame:
    """Set each module back to where it started (Figs. 2 and 6).

    Returns:
        A row a module and split: `site, split, error, loss, delta_error, delta_loss`.
    """
    trajectory, data = prepared(config, runs)
    splits = {"train": data.train, "test": data.test}
    frame = robustness(trajectory, splits, draws=0, seed=config.seed).to_frame()
    base = frame[frame.operation == "baseline"].set_index("split").loss
    reset = frame[frame.operation == "re-initialize"].rename(columns={"status": "edit_status"})
    reset = reset.assign(delta_loss=reset.loss - reset.split.map(base))
    return reset[["site", "split", "error", "loss", "delta_error", "delta_loss", "edit_status"]]


def measure_paths(config: Point, runs: Path) -> pd.DataFrame:
    """Go from the trained to the initial weights, with each module and with the whole network (Fig. 4).

    Returns:
        A row a module, split and alpha: `site, split, alpha, error, loss`.
    """
    trajectory, data = prepared(config, runs)
    splits = {"train": config.net.few(data.train), "test": config.net.few(data.test)}
    path = convex_path(trajectory, splits, seed=config.seed)
    return path.to_frame().drop(columns=["sigma", "examples"])


def measure_criticality(config: Point, runs: Path) -> pd.DataFrame:
    """Criticality of each module at every epsilon of Figure 5a.

    Returns:
        A row a module and epsilon, as `netopsy.criticality` gives it; its status is `module_status`.
    """
    trajectory, data = prepared(config, runs)
    result = criticality(
        trajectory,
        config.net.few(data.train),
        epsilon=EPSILONS,
        noise_samples=config.net.draws,
        relative_tolerance=TOLERANCE,
        seed=config.seed,
    )
    result.save(result_folder(config, runs, measure_criticality), overwrite=True)
    return result.to_frame().rename(columns={"status": "module_status"})


def measure_bounds(config: Point, runs: Path) -> pd.DataFrame:
    """Theorem 3.2 at one (alpha, sigma), on more and more of the examples that the network was trained on.

    Prior and noise know nothing of the examples left out; what the trained weights know of them is allowed: they are
    independent of those in the bound.

    Returns:
        A row a number of examples m: `m, bound, bound_kl, complexity, train_error` (the mean over the draws), and of
        held-out data `held_out_error`, with its standard error over the draws.
    """
    trajectory, data = prepared(config, runs)
    options: dict[str, Any] = {"epsilon": BOUND_EPSILON, "noise_samples": BOUND_SAMPLES, "seed": config.seed}
    alone = criticality(trajectory, data.train, relative_tolerance=0.1, end_sigma=True, **options)
    chosen = joint_criticality(trajectory, data.train, criticality=alone, **options).to_frame()
    held_out = noisy_error(trajectory, data.test, chosen, draws=BOUND_DRAWS, seed=config.seed)
    total, rows = len(data.train[0]), []
    for m in (total // 4, total // 2, total):
        part = tuple(values[:m] for values in data.train)
        found = noisy_error(trajectory, part, chosen, draws=BOUND_DRAWS, seed=config.seed)
        bound = {
            form: pac_bayes_bound(chosen, m=m, train_error=found.mean, draws=BOUND_DRAWS, form=form)
            for form in ("valid", "kl")
        }
        rows.append(
            {
                "m": m,
                "bound": bound["valid"].value,
                "bound_kl": bound["kl"].value,
                "complexity": bound["valid"].complexity,
                "train_error": found.mean,
                "held_out_error": held_out.mean,
                "held_out_standard_error": held_out.standard_error,
            }
        )
    return pd.DataFrame(rows)
