"""Single networks of the sensitivity paper: along ellipses, on slices, at test points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import Diverged, NetopsyError
from netopsy._identity import code_version, digest
from netopsy._random import derive, generator
from netopsy._storage import write_table
from netopsy._typing import IntArray
from netopsy.data.dataset import Dataset
from netopsy.engine.affine import affine_network
from netopsy.engine.codes import coded_network
from netopsy.engine.curves import trace
from netopsy.probes.boundary_density import boundary_density
from netopsy.probes.jacobian_bounds import jacobian_bounds
from netopsy.probes.jacobian_norm import jacobian_norm
from netopsy.probes.manifold_profile import ellipse_profile
from netopsy.probes.paths import Path as Curve
from netopsy.probes.paths import ellipse_through, random_ellipse
from netopsy.probes.plane import Plane, plane_through
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.studies.sensitivity_settings import BOUNDED, BY_POINT, ELLIPSES, SLICES, Net, Preset, Range
from netopsy.training.epoch import mean_loss_and_error
from netopsy.training.fit import FitResult
from netopsy.training.losses import loss_of

RANDOM, DIFFERENT, SAME = "random", "different classes", "same class"
"""Kinds of ellipses."""

ANGLES = 192
"""At which an ellipse is measured."""

TRIES = 8
"""Networks that are drawn at most, until one has the train split right."""

BEFORE, AFTER = "before", "after"
"""Of training."""

LINES = 64
"""Through the square and through the disc around each anchor, along which boundaries are counted."""

PIXELS = 600
"""Along a side of a picture of boundaries."""


@dataclass(frozen=True, kw_only=True)
class Ellipses:
    """A network along closed curves.

    Attributes:
        net: what is trained.
        curves: of each kind.
        seed: of everything; a replicate.
    """

    net: Net
    curves: int = 2
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A network on a plane through three train images of different classes."""

    net: Net
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Points:
    """A network drawn at random, at test points.

    Attributes:
        line: the loss, or `BOUNDS`.
        range: what it is drawn from, until one has the train split right.
        loss: what it is trained on.
        seed: of everything; a replicate.
    """

    line: str
    range: Range
    loss: Literal["cross-entropy", "l2"] = "cross-entropy"
    seed: int = 0


BOUNDS = "bounds"


def ellipse_sweep(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Networks along ellipses."""
    base = Ellipses(net=ELLIPSES[preset])
    return Sweep(name=f"sensitivity-ellipses-{preset}", base=base, measure=measure_ellipses, seeds=tuple(seeds))


def slice_sweep(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Networks on planes."""
    base = Slice(net=SLICES[preset])
    return Sweep(name=f"sensitivity-slices-{preset}", base=base, measure=measure_slice, seeds=tuple(seeds))


def point_sweep(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Networks of both losses, at all test images."""
    axis = [{"line": loss, "loss": loss} for loss in ("cross-entropy", "l2")]
    base = Points(line="cross-entropy", range=BY_POINT[preset])
    name = f"sensitivity-points-{preset}"
    return Sweep(name=name, base=base, measure=measure_points, axes=(axis,), seeds=tuple(seeds))


def bound_sweep(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Networks whose Jacobian norm is held against what the cross-entropy says of it."""
    base = Points(line=BOUNDS, range=BOUNDED[preset])
    return Sweep(name=f"sensitivity-bounds-{preset}", base=base, measure=measure_bounds, seeds=tuple(seeds))


def measure_ellipses(config: Ellipses, runs: Path) -> pd.DataFrame:
    """Train a network; its Jacobian norm and transitions along ellipses of three kinds.

    Returns:
        A row a kind, quantity (`jacobian`, `transitions`) and angle: `kind, quantity, angle`, `value` (mean over the
        curves of this kind, as `EllipseProfile` has it), `fitted` (whether the whole train split is right).
    """
    data = config.net.images.load()
    run = _train(config.net, data, config.seed, runs)
    model = run.trajectory.model()
    fitted = _is_fitted(model, data)
    model = model.double()
    curves = _curves(data, config.curves, config.seed)
    network = affine_network(model, data.train[0][:3].double())

    def places(_: nn.Module, curve: Curve) -> Float[Tensor, " m"]:
        return (trace(network, curve.curve()).crossings.t / curve.turns) % 1.0

    found = {
        "jacobian": ellipse_profile(model, curves, points=ANGLES),
        "transitions": ellipse_profile(model, curves, points=ANGLES, quantity="transitions", transitions=places),
    }
    tables = []
    for quantity, profile in found.items():
        mean = profile.frame.groupby(["kind", "angle"], sort=False)["value"].mean().reset_index()
        tables.append(mean.assign(quantity=quantity))
    return pd.concat(tables, ignore_index=True).assign(fitted=fitted)


def measure_slice(config: Slice, runs: Path) -> pd.DataFrame:
    """Train a network; how densely boundaries of its last hidden layer lie on a plane, before and after.

    Returns:
        A row a moment and anchor: `when` (`BEFORE`, `AFTER`), `anchor`, `relative` (length of boundaries an area
        within 0.1 of it, over that of the square), `density` (that of the square), `train_error`, `result` (a folder
        below `runs` with the counts, and in `map` the pixels between which codes differ).
    """
    data = config.net.images.load()
    run = _train(config.net, data, config.seed, runs)
    anchors = _anchors(data, config.seed, "plane", same=False)
    folder = runs / "sensitivity" / digest({"config": config, "code": code_version(measure_slice)})[:16]
    tables = []
    for when, key in {BEFORE: run.trajectory.keys[0], AFTER: run.trajectory.keys[-1]}.items():
        model = run.trajectory.model(key)
        error = mean_loss_and_error(model, *data.train, "cross-entropy")[1]
        plane = plane_through(*anchors.double())
        found = boundary_density(model.double(), plane, lines=LINES, seed=config.seed)
        found.save(folder / when, overwrite=True)
        row, column = np.nonzero(boundary_map(model, plane, PIXELS))
        write_table(folder / when / "map.parquet", pd.DataFrame({"row": row, "column": column}))
        near, density = found.relative(), float(found.density().density.iloc[0])
        rows = {"anchor": range(len(near)), "relative": near, "density": density}
        where = (folder / when).relative_to(runs).as_posix()
        tables.append(pd.DataFrame(rows).assign(when=when, train_error=error, result=where))
    return pd.concat(tables, ignore_index=True)


def boundary_map(model: nn.Module, plane: Plane, pixels: int) -> IntArray:
    """How many units of the last hidden layer differ in code between a pixel and the one to its right or above.

    Returns:
        (pixels - 1, pixels - 1), the rows from v = -1 upwards.
    """
    side = torch.linspace(-1, 1, pixels, dtype=torch.float64)
    network = coded_network(model, plane.at(plane.anchors))
    last = network.layers[-1]
    rows = []
    for some in torch.split(side, 8):
        rows.append(dict(network.at(plane.at(torch.cartesian_prod(some, side).flip(1))))[last])
    grid = torch.cat(rows).view(pixels, pixels, -1).to(torch.int16)
    changes = (grid[1:, :-1] - grid[:-1, :-1]).abs().sum(2) + (grid[:-1, 1:] - grid[:-1, :-1]).abs().sum(2)
    found: IntArray = changes.numpy()
    return found


def measure_points(config: Points, runs: Path) -> pd.DataFrame:
    """Draw and train a network; the Jacobian norm, and the loss that it was trained on, at test points.

    The Jacobian is that of the outputs that the loss is of: probabilities, or for `l2` the logits.

    Returns:
        A row a test image: `index, label, correct, norm`, `point_loss`, and of the network `depth, width, activation,
        optimizer, rate, tries` (how many were drawn).
    """
    net, data, model, tries = _fitted(config, runs)
    images, labels = data.test[0].double(), data.test[1]
    output: Literal["probabilities", "logits"] = "logits" if config.loss == "l2" else "probabilities"
    found = jacobian_norm(model, (images, labels), output=output).to_frame()
    with torch.no_grad():
        losses = loss_of(config.loss, model(images), labels, reduction="none")
    return _described(found.drop(columns="loss").assign(point_loss=losses.numpy()), net, tries)


def measure_bounds(config: Points, runs: Path) -> pd.DataFrame:
    """Draw and train a network; the per-point bounds of A.3 beside what is measured.

    Returns:
        A row a test image: the columns of `JacobianBounds.to_frame` with `point_loss` for `loss`, and of the network
        those of `measure_points`.
    """
    net, data, model, tries = _fitted(config, runs)
    found = jacobian_bounds(model, (data.test[0].double(), data.test[1])).to_frame()
    return _described(found.rename(columns={"loss": "point_loss"}), net, tries)


def _fitted(config: Points, runs: Path) -> tuple[Net, Dataset, nn.Module, int]:
    """The first of the networks drawn that has the train split right, in float64.

    Raises:
        NetopsyError: none of `TRIES` has.
    """
    data = config.range.images.load()
    for number in range(TRIES):
        net = config.range.draw(config.loss, config.line == BOUNDS, config.seed, number)
        larger = config.loss == "l2" and net.fit.optimizer != "adam"  # gradients; Adam's steps do not grow with them
        rate = net.fit.lr / 4 if larger else net.fit.lr
        net = replace(net, fit=replace(net.fit, loss=config.loss, lr=rate))
        try:
            model = _train(net, data, config.seed, runs).trajectory.model()
        except Diverged:
            continue
        if _is_fitted(model, data):
            return net, data, model.double(), number + 1
    raise NetopsyError(
        f"{config.line}, seed {config.seed}: expected one of {TRIES} networks drawn at random to have the whole "
        "train split right; none had; train for more epochs"
    )


def _described(points: pd.DataFrame, net: Net, tries: int) -> pd.DataFrame:
    return points.assign(
        depth=net.depth,
        width=net.width,
        activation=net.activation,
        optimizer=net.fit.optimizer,
        rate=net.fit.lr,
        tries=tries,
    )


def _train(net: Net, data: Dataset, seed: int, runs: Path) -> FitResult:
    return trained(net.factory(data), data.train, replace(net.fit, seed=seed), catalogue=runs)


def _is_fitted(model: nn.Module, data: Dataset) -> bool:
    return mean_loss_and_error(model, *data.train, "cross-entropy")[1] == 0


def _curves(data: Dataset, count: int, seed: int) -> dict[str, list[Curve]]:
    """So many ellipses of each kind."""
    shape = data.train[0].shape[1:]
    numbers = range(count)
    return {
        RANDOM: [random_ellipse(shape, derive(seed, RANDOM, number)) for number in numbers],
        DIFFERENT: [ellipse_through(*_anchors(data, seed, number, same=False)) for number in numbers],
        SAME: [ellipse_through(*_anchors(data, seed, number, same=True)) for number in numbers],
    }


def _anchors(data: Dataset, seed: int, *names: object, same: bool) -> Float[Tensor, "3 c h w"]:
    """Three train images at random, of one class or of three."""
    images, labels = data.train
    source = generator(derive(seed, "anchors", same, *names))
    order = torch.randperm(len(images), generator=source)
    classes = torch.randperm(data.classes, generator=source)[:3]
    if same:
        return images[order[labels[order] == classes[0]][:3]]
    return images[torch.stack([order[labels[order] == label][0] for label in classes])]
