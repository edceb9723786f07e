"""What the luck paper assumes of gates, measured: expectations that separate, little overlap, negative biases."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._identity import code_version, digest
from netopsy._random import derive
from netopsy.data.dataset import shrink, standardize, subset
from netopsy.data.idx import fashion_mnist
from netopsy.models.vgg import vgg
from netopsy.network.tensor_files import TensorFile
from netopsy.probes.arc_cosine import unit_rows
from netopsy.probes.convergence_rate import convergence_rate, log_sine_rates
from netopsy.probes.layer_dynamics import layer_dynamics
from netopsy.probes.norm_biases import norm_biases
from netopsy.probes.student_dynamics import student_dynamics
from netopsy.probes.teacher_student_nets import open_sources, students_of, teachers_of
from netopsy.probes.teacher_student_run import train
from netopsy.probes.two_layers import TwoLayer
from netopsy.store.sweep import Sweep
from netopsy.studies.luck_settings import Preset
from netopsy.studies.luck_sweeps import Point
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit
from netopsy.training.together import Together

EARLY = (0, 1, 3, 10)
"""Epochs at which Theorem 2's gaps are measured, beside the last one."""

PUBLISHED = ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")
"""Files of torchvision that Figure 6 is about, by how their names begin; a net takes the place of a seed."""

TIMES = 41
"""Moments of a student's way, over four times the time in which its error alone would fall to 1/e."""


@dataclass(frozen=True, kw_only=True)
class Cone:
    """A teacher of Theorem 4 and students in a cone around its units.

    Attributes:
        line: a name.
        threshold: of all gates, in standard deviations of a pre-activation; of 3, a gate is open for 1 input in 741.
        share: the cone's angle, over the largest at which the theorem's condition holds.
        otherwise: the cone's angle, in radians, where the condition holds at none.
        seed: of all draws.
    """

    line: str
    threshold: float
    units: int = 5
    inputs: int = 100
    share: float = 0.5
    otherwise: float = 0.05
    lr: float = 0.5
    batch: int = 128
    seed: int = 0


CONES = tuple(Cone(line=f"h = {threshold:g}", threshold=threshold) for threshold in (0.0, 2.5, 3.0))
"""The first is outside the condition."""


@dataclass(frozen=True, kw_only=True)
class Normed:
    """A VGG with batch normalization.

    Attributes:
        line: `published` or `ours`.
        fit: how ours is trained, on `train` images of Fashion-MNIST at 14x14 pixels; None of a published one.
        width: factor on VGG-11's channels, of ours.
        seed: of ours; of the published ones, the place in `PUBLISHED`.
    """

    line: str
    fit: FitConfig | None = None
    train: int = 10_000
    width: float = 1 / 8
    seed: int = 0


NORMED: Mapping[Preset, Normed] = {
    "laptop": Normed(
        line="ours", fit=FitConfig(epochs=10, batch_size=64, lr=0.05, weight_decay=5e-4, lr_drops=(5, 8), keep=())
    ),
    "paper": Normed(line="published"),
}


def cone_sweep(*, seeds: Sequence[int]) -> Sweep:
    """All cones; they have one size."""
    axis = [{"line": cone.line, "threshold": cone.threshold} for cone in CONES]
    return Sweep(name="luck-cones", base=CONES[0], measure=measure_cone, axes=(axis,), seeds=tuple(seeds))


def bias_sweep(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Our own nets, or the published ones.

    Raises:
        NetopsyError: for more seeds than there are published nets.
    """
    if preset == "paper" and not set(seeds) <= set(range(len(PUBLISHED))):
        raise NetopsyError(
            f"seeds: expected those of 0 to {len(PUBLISHED) - 1} for F6's published nets, which stand for "
            f"{', '.join(PUBLISHED)}; got {list(seeds)}"
        )
    return Sweep(
        name=f"luck-biases-{preset}", base=NORMED[preset], measure=measure_biases, seeds=tuple(seeds)
    )  # fmt: skip


def measure_gaps(config: Point, runs: Path) -> pd.DataFrame:
    """Train students; over training, hold both updates of Theorem 2 against the exact one (Assumption 1).

    Expectations are means over the run's evaluation examples, the exact update's too.

    Returns:
        A row an epoch, seed and layer (from 0, on the inputs): `update`, `gap_joint`, `gap_separated`,
        `gate_overlap`, `value_overlap`, as `LayerDynamics.to_frame` has them.
    """
    settings = replace(config.config, h_star=())
    sources = open_sources(settings)
    teachers = teachers_of(settings, sources)
    students = students_of(settings, sources, teachers)
    wanted, parts = {*EARLY, settings.epochs}, []

    def watch(epoch: int, stack: Together) -> None:
        if epoch not in wanted:
            return
        for place, (seed, teacher, student) in enumerate(zip(settings.seeds, teachers, students, strict=True)):
            student.load_state_dict(stack.member(place))
            inputs = sources.evaluation(seed)
            found = layer_dynamics(student, teacher, (inputs, torch.zeros(len(inputs))))
            parts.append(found.to_frame().assign(epoch=epoch, seed=seed))

    train(settings, sources, teachers, students, origin="drawn", watch=watch)
    return pd.concat(parts, ignore_index=True)


def measure_cone(config: Cone, runs: Path) -> pd.DataFrame:
    """Follow students of Theorem 4 to their teachers: as the differential equation, and by SGD on fresh inputs.

    Returns:
        A row a way (`ode`, `sgd`) and moment: `time`, `angle` (the largest), `theta_0` and `gamma` (at the start),
        `stated` (the theorem's rate for a cone of θ_0), `rate` and `stated_now` (of `ode`: what -d log sin θ/dt of
        the largest angle is, and the theorem's rate for a cone of that angle).
    """
    source = np.random.default_rng(derive(config.seed, "cone"))
    teacher = unit_rows(source.standard_normal((config.units, config.inputs)))
    theta_0 = config.share * _widest(teacher, config.threshold) or config.otherwise
    start = _turned(teacher, theta_0, source)
    stated = convergence_rate(teacher, theta_0, threshold=config.threshold)
    ones = np.ones((config.units, 1))
    goal = TwoLayer(fan_in=teacher, fan_out=ones)
    times = np.linspace(0, 4 / ndtr(-config.threshold), TIMES)
    found = student_dynamics(
        goal,
        TwoLayer(fan_in=start, fan_out=ones),
        times.tolist(),
        train_top=False,
        threshold=config.threshold,
        lr=config.lr,
        batch=config.batch,
        seed=config.seed,
        tolerance=1e-9,
    )
    rows = []
    for way, path in found.paths.items():
        angles = found.nodes[found.nodes.way == way].pivot(index="time", columns="node", values="angle")
        for (time, each), net in zip(angles.iterrows(), path, strict=True):
            widest = float(each.max())
            row = {"way": way, "time": time, "angle": widest}
            if way == "ode":
                rates = log_sine_rates(teacher, net.fan_in, threshold=config.threshold)
                now = convergence_rate(teacher, widest, threshold=config.threshold)
                row |= {"rate": float(rates[int(each.argmax())]), "stated_now": now.rate}
            rows.append(row)
    return pd.DataFrame(rows).assign(theta_0=theta_0, gamma=stated.gamma, stated=stated.rate)


def measure_biases(config: Normed, runs: Path) -> pd.DataFrame:
    """The biases of a trained VGG's batch normalizations.

    A published net is read from `vgg/<name>*.pth` beside the folder of runs, that is, in the study's folder.

    Returns:
        A row a channel: `layer` (from 0, the lowest), `channel`, `bias`.

    Raises:
        NetopsyError: when the file is not there, there are several, or it is of another network.
    """
    model = _ours(config, config.fit, runs) if config.fit else _published(PUBLISHED[config.seed], runs.parent / "vgg")
    found = norm_biases(model)
    order = {name: place for place, name in enumerate(found.frame.layer)}
    return found.biases.assign(layer=found.biases.layer.map(order))


def _widest(teacher: Float[np.ndarray, "m d"], threshold: float) -> float:
    """The largest angle at which Theorem 4's condition holds; 0 where it holds for none."""

    def gamma(theta: float) -> float:
        return convergence_rate(teacher, theta, threshold=threshold).gamma

    if gamma(0.0) <= 0:
        return 0.0
    return float(brentq(gamma, 0.0, math.pi / 2 - 1e-6))


def _turned(rows: Float[np.ndarray, "m d"], angle: float, source: np.random.Generator) -> Float[np.ndarray, "m d"]:
    """Rows of length one, each turned by an angle in a direction at random."""
    noise = source.standard_normal(rows.shape)
    across = unit_rows(noise - (noise * rows).sum(1, keepdims=True) * rows)
    turned: Float[np.ndarray, "m d"] = math.cos(angle) * rows + math.sin(angle) * across
    return turned


def _ours(config: Normed, how: FitConfig, runs: Path) -> nn.Module:
    few = subset(fashion_mnist(), train=config.train, test=10)
    data = standardize(shrink(few, 2))
    shape = data.train[0].shape
    build = partial(
        vgg, "vgg11", classes=data.classes, channels=shape[1], size=shape[2], width=config.width, batch_norm=True
    )
    folder = runs / "luck" / digest({"config": config, "code": code_version(measure_biases)})[:16]
    found = fit(build, data.train, replace(how, seed=config.seed), folder=folder, resume=True)
    return found.trajectory.model()


def _published(name: str, folder: Path) -> nn.Module:
    """The batch normalizations of one of torchvision's state files, alone, from below to the top."""
    files = sorted(path for path in folder.glob(f"{name}*") if path.suffix in (".pth", ".pt", ".safetensors"))
    if len(files) != 1:
        raise NetopsyError(
            f"F6: expected one file of torchvision's trained {name} in {folder}, such as {name}.pth; got "
            f"{len(files)}; save torchvision.models.{name}(weights='DEFAULT').state_dict() there, or run the preset "
            "laptop"
        )
    file = TensorFile(files[0])
    found = [match for match in map(re.compile(r"features\.(\d+)\.running_mean").fullmatch, file.names) if match]
    places = sorted(int(match[1]) for match in found)
    if not places:
        raise NetopsyError(
            f"F6: expected the state of torchvision's {name} in {files[0]}, with features.N.running_mean and "
            "features.N.bias; got one without batch normalization; save it again"
        )
    norms = nn.ModuleDict()
    for layer, place in enumerate(places):
        bias = file.read(f"features.{place}.bias")
        norm = nn.BatchNorm2d(len(bias))
        with torch.no_grad():
            norm.bias.copy_(bias)
        norms[f"norm{layer}"] = norm
    return norms
