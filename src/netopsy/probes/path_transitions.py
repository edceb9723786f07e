"""Transitions on and off the data: along triangles through examples of one class, and along the same ones turned.

After Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein: Sensitivity and Generalization in Neural Networks: an
Empirical Study (2018), Section 4.1 and Figure 2, with closed polygons in the place of ellipses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from scipy import stats
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least
from netopsy._random import derive, generator
from netopsy._storage import read_result, write_result
from netopsy.engine.affine import Points, Refined, affine_network
from netopsy.engine.affine_kinks import Kinks
from netopsy.engine.batches import open_data
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.paths import polygon
from netopsy.probes.transitions import transitions

CORNERS = 3
"""Of a path, as many as the paper's ellipses pass through."""

CONFIDENCE = 0.95

ALL = "all layers"

KINDS = ("data", "turned")


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The median of some ratios, and an interval of it that holds for any distribution of them."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PathTransitions:
    """Transitions along closed triangles through three examples of one class, and along the same ones turned.

    Attributes:
        frame: one row a path, kind and layer; see `to_frame`.
        paths: one row a path: `label` of its class, `length`, and the `examples` at its corners, by their place in
            the data.
        provenance: options, seed, versions, data fingerprint, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    paths: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def layers(self) -> list[str]:
        """Names, in the order of the network."""
        return [str(name) for name in self.frame.layer.unique()]

    def counts(self, layer: str = ALL) -> pd.DataFrame:
        """Transitions of a layer, or of all: a row a path, `data` and `turned`."""
        rows = self.frame if layer == ALL else self.frame[self.frame.layer == layer]
        table = rows.groupby(["path", "kind"], sort=False).transitions.sum().unstack("kind")
        return table[list(KINDS)].astype("int64")

    def ratio(self, layer: str = ALL) -> Ratio:
        """Transitions on the data over those of the same path turned: the median over the paths.

        Paths are drawn independently, so that the number of ratios below the true median is binomial: the interval
        between two of them holds with at least 95 %, for paths drawn as these are. Fewer than six have none. Without
        any transition the ratio is 1, with none on the turned path alone it is infinite.
        """
        table = self.counts(layer).astype("float64")
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (table.data / table.turned).to_numpy()
        known = np.where(np.isnan(ratios), 1.0, ratios)
        interval = stats.quantile_test(known, q=1.0, p=0.5).confidence_interval(CONFIDENCE)
        low, high = (0.0, np.inf) if np.isnan(interval.low) else (float(interval.low), float(interval.high))
        return Ratio(median=float(np.median(known)), low=low, high=high)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: `path`, its `kind` (`data` or `turned`), `layer`, its `units`, `transitions`."""
        return self.frame.copy()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `paths.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        tables = {"results": self.frame, "paths": self.paths}
        return write_result(path, tables, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> PathTransitions:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no such result, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "PathTransitions", "path_transitions", ["results", "paths"])
        return cls(frame=tables["results"], paths=tables["paths"], provenance=provenance)

    def __str__(self) -> str:
        rows = []
        for layer in (*self.layers, ALL):
            means, ratio = self.counts(layer).mean(), self.ratio(layer)
            rows.append((layer, means.data, means.turned, ratio.median, ratio.low, ratio.high))
        table = pd.DataFrame(rows, columns=["layer", "data", "turned", "ratio", "low", "high"])
        text = table.to_string(index=False, float_format=lambda value: f"{value:.4g}")
        return (
            f"{text}\nTransitions a path, mean over {len(self.paths)} triangles through {CORNERS} examples of one "
            f"class, and over the same turned at random; median of the ratios with its {CONFIDENCE:.0%} interval."
        )


@dataclass(frozen=True, eq=False)
class Pool:
    """Examples that paths lead through.

    Attributes:
        inputs: of a model that takes one tensor.
        labels: of the examples.
        classes: labels of which there are enough examples.
    """

    inputs: Float[Tensor, "n ..."]
    labels: Int64[Tensor, " n"]
    classes: tuple[int, ...]

    def triangle(self, seed: int) -> tuple[int, Int64[Tensor, " k"]]:
        """A class, all equally likely, and as many of its examples as a path has corners."""
        source = generator(seed)
        label = self.classes[int(torch.randint(len(self.classes), (1,), generator=source))]
        own = (self.labels == label).nonzero()[:, 0]
        return label, own[torch.randperm(len(own), generator=source)[:CORNERS]]


def read_pool(data: Any, task: Task | None = None) -> Pool:
    """All examples, in the order of the data.

    Raises:
        NetopsyError: when there is not one floating tensor and one label an example, or no class has enough of them.
    """
    task, source = task or Task(), open_data(data)
    inputs, labels, places = [], [], []
    for order, batch in source.batches():
        args, kwargs = task.inputs(batch)
        leaves = [*args, *kwargs.values()]
        if len(leaves) != 1 or kwargs or not isinstance(leaves[0], Tensor) or not leaves[0].is_floating_point():
            got = ", ".join(str(x.dtype) if isinstance(x, Tensor) else type(x).__name__ for x in leaves)
            raise NetopsyError(f"data: expected one floating tensor of inputs, which paths lead through; got {got}")
        found = task.labels(batch)
        if found.shape[1] != 1:
            raise NetopsyError(f"targets: expected one label an example; got {found.shape[1]}")
        inputs.append(leaves[0])
        labels.append(found[:, 0])
        places.append(torch.as_tensor(order))
    back = torch.cat(places).argsort()
    joined = torch.cat(labels)[back]
    present, many = torch.unique(joined[task.valid(joined[:, None])[:, 0]], return_counts=True)
    classes = tuple(present[many >= CORNERS].tolist())
    if not classes:
        raise NetopsyError(
            f"data: expected a class with {CORNERS} examples or more; "
            f"{len(joined)} examples have {len(present)} labels"
        )
    return Pool(torch.cat(inputs)[back].detach(), joined, classes)


def counted_units(model: nn.Module, inputs: Float[Tensor, "n ..."], task: Task | None = None) -> dict[str, int]:
    """Layer -> units whose activation has a kink.

    Raises:
        NetopsyError: when the model cannot be followed exactly, or has no such unit.
    """
    two = inputs[:2] if len(inputs) > 1 else inputs.expand(2, *inputs.shape[1:])
    network, counted = affine_network(model, two.double(), task=task), _Counted({})
    network.run(two[:1].double().unsqueeze(1), counted)
    if not counted.units:
        raise NetopsyError("model: expected units whose activation has a kink, such as ReLU; it has none")
    return dict(counted.units)


@dataclass(frozen=True, eq=False)
class _Counted(Points):
    """Points that count the values that are looked at."""

    units: dict[str, int]

    def refine(self, layer: str, pre: Float[Tensor, "cells k n"], kinks: Kinks, counted: bool) -> Refined:
        if counted:
            self.units[layer] = pre.shape[2]
        return super().refine(layer, pre, kinks, counted)

    def part(self, cells: slice) -> _Counted:
        return self


def turned(corners: Float[Tensor, " k *shape"], seed: int) -> Float[Tensor, " k *shape"]:
    """The same polygon around the same center, in random directions: all lengths and angles stay, in float64.

    Its axes are uniform among orthonormal ones (the QR factor of a Gaussian matrix, its signs those of a positive
    diagonal).
    """
    flat = corners.double().flatten(1)
    center = flat.mean(0)
    triangular = torch.linalg.qr((flat - center).T).R
    random = torch.randn(flat.shape[1], len(triangular), generator=generator(seed), dtype=torch.float64)
    axes, scale = torch.linalg.qr(random)
    axes = axes * scale.diagonal().sign()
    moved: Tensor = center + triangular.T @ axes.T
    return moved.view(corners.shape)


def perimeter(corners: Float[Tensor, " k *shape"]) -> float:
    """Length of the closed polygon."""
    sides = corners.double() - corners.double().roll(-1, 0)
    return float(sides.flatten(1).norm(dim=1).sum())


def path_transitions(
    model: nn.Module | Trajectory,
    data: Any,
    *,
    paths: int = 20,
    seed: int = 0,
    task: Task | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> PathTransitions:
    """Count transitions along triangles through three examples of a class, and along the same triangles turned.

    Both paths of a pair have one center, one shape and one length: only their directions differ, those of the data in
    one and random ones in the other. Counts are exact (`netopsy.transitions`).

    Args:
        model: takes one floating tensor, and is piecewise linear; of a trajectory the trained one.
        data: examples with labels in any form that `netopsy.evaluate` takes.
        paths: pairs of them; each has a random class and three of its examples.
        seed: of classes, examples and directions.
        task: how batches and outputs are read.
        progress: called with the paths done and their number, both kinds counted.

    Raises:
        NetopsyError: for data without labels, other inputs, and a model that cannot be followed exactly.
    """
    started = time.perf_counter()
    at_least("paths", paths, 1)
    network = model.model() if isinstance(model, Trajectory) else model
    pool = read_pool(data, task)
    units = counted_units(network, pool.inputs, task)
    rows, about = [], []
    for path in range(paths):
        label, chosen = pool.triangle(derive(seed, "path", path))
        corners: Float[Tensor, " k *shape"] = pool.inputs[chosen].double()
        both = dict(zip(KINDS, (corners, turned(corners, derive(seed, "turned", path))), strict=True))
        for done, (kind, points) in enumerate(both.items(), 2 * path + 1):
            found = transitions(network, polygon(points), task=task).per_layer
            rows += [(path, kind, layer, many, found[layer]) for layer, many in units.items()]
            if progress is not None:
                progress(done, 2 * paths)
        about.append((label, perimeter(corners), " ".join(map(str, sorted(chosen.tolist())))))
    frame = pd.DataFrame(rows, columns=["path", "kind", "layer", "units", "transitions"])
    return PathTransitions(
        frame=frame.astype({"kind": "string", "layer": "string"}),
        paths=pd.DataFrame(about, columns=["label", "length", "examples"]).astype({"examples": "string"}),
        provenance={
            "probe": "path_transitions",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": open_data(data).fingerprint,
            "examples": len(pool.labels),
            "paths": paths,
            "seed": seed,
            "seconds": time.perf_counter() - started,
        },
    )
