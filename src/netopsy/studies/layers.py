"""Are All Layers Created Equal? (Zhang, Bengio, Singer, JMLR 2022): settings, runs, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy._storage import read_json, write_table
from netopsy.data.cifar import cifar10
from netopsy.data.dataset import Dataset, fingerprint, standardize, subset
from netopsy.data.idx import fashion_mnist, mnist
from netopsy.models.fcn import fcn
from netopsy.models.resnet import resnet
from netopsy.network.groups import fcn_groups, residual_groups
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.studies.claims import Verdict, judge
from netopsy.studies.layers_claims import CLAIMS, measure
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit
from netopsy.training.recipes import layers_conv, layers_fcn

Progress = Callable[[str], object]


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

NEEDS = {"F1a": ("fcn3",), "F4": ("resnet",), "F6": ("resnet", "fcn5")}


def run(
    folder: Path,
    *,
    preset: Literal["laptop", "paper"] = "laptop",
    claims: Sequence[str] = tuple(CLAIMS),
    seeds: Sequence[int] = (0, 1, 2),
    report: Progress = lambda line: None,
) -> tuple[dict[str, Verdict], dict[str, list[RobustnessResult]]]:
    """Train what is not there, probe it, judge the claims.

    Args:
        folder: run folders go below it; a finished run of the same configuration is used again.
        preset: `"laptop"` or `"paper"`.
        claims: of `CLAIMS`.
        seeds: training seeds.
        report: called with a line of text as the work goes on.

    Returns:
        Verdicts by claim; results by setting, one a seed.

    Raises:
        NetopsyError: for an unknown preset or claim, too few seeds for a verdict, or a seed given twice.
    """
    one_of("preset", preset, tuple(PRESETS))
    for claim in claims:
        one_of("claim", claim, tuple(CLAIMS))
        if len(seeds) < CLAIMS[claim].seeds or len(set(seeds)) < len(seeds):
            raise NetopsyError(
                f"seeds: expected at least {CLAIMS[claim].seeds} different ones for {claim}; got {shorten(seeds)}"
            )
    needed = list(dict.fromkeys(name for claim in claims for name in NEEDS[claim]))
    results: dict[str, list[RobustnessResult]] = {}
    for name in needed:
        setting = PRESETS[preset][name]
        data = setting.data()
        results[name] = []
        for seed in seeds:
            trajectory = trained(setting, data, seed, folder, report)
            report(f"{setting.name}, seed {seed}: probing")
            result = probe(setting, trajectory, data, seed)
            result.save(folder / "results" / f"{setting.name}-{seed}", overwrite=True)
            results[name].append(result)
    verdicts = {claim: judge(CLAIMS[claim], measure(claim, results)) for claim in claims}
    for claim, verdict in verdicts.items():
        write_table(folder / "verdicts" / f"{claim}.parquet", verdict.table)
    return verdicts, results


def trained(setting: Setting, data: Dataset, seed: int, folder: Path, report: Progress) -> Trajectory:
    """The trajectory of one seed: read where a finished run of this configuration is there, else trained.

    Raises:
        NetopsyError: when the folder holds a run of another configuration or of other data.
    """
    config, factory = setting.config(seed), setting.factory(data)
    path = folder / f"{setting.name}-{seed}"
    manifest = path / "manifest.json"
    if manifest.is_file():
        old = read_json(manifest)
        mine = json.loads(json.dumps({"config": asdict(config), "data": fingerprint(*data.train)}))
        other = [name for name in mine if old.get(name) != mine[name]]
        if other:
            raise NetopsyError(f"{path}: holds a run of another {other[0]}; choose another folder, or delete it")
        if old["finished"]:
            return Trajectory.from_folder(factory, path)

    def progress(epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        report(f"{setting.name}, seed {seed}: epoch {epoch}/{epochs}, train error {row['train_error']:.2%}")

    fit(factory, data.train, config, folder=path, overwrite=True, validation=data.test, progress=progress)
    return Trajectory.from_folder(factory, path)


def probe(setting: Setting, trajectory: Trajectory, data: Dataset, seed: int) -> RobustnessResult:
    """The paper's table for one trained network, on its test split."""
    return robustness(
        trajectory,
        {"test": data.test},
        sites=setting.sites,
        checkpoints="all",
        draws=setting.draws,
        groups=setting.groups,
        full_model=True,
        seed=seed,
    )
