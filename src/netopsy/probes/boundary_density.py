"""How densely the boundaries of linear regions lie on a plane, from exact crossings along random lines.

A plane through a large network has millions of polygons (`netopsy.region_slice`); lines across it have thousands of
crossings. By Cauchy and Crofton, curves of length L in an area A are crossed 2 L / (pi A) times a unit of length by
lines that are uniform in place and direction (Santaló 1976, Integral Geometry and Geometric Probability, chapter 3).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside
from netopsy._random import derive
from netopsy._storage import read_result, write_result
from netopsy._typing import FloatArray
from netopsy.engine.affine import AffineNetwork
from netopsy.engine.curves import trace
from netopsy.network.task import Task
from netopsy.probes.paths import segment
from netopsy.probes.plane import Plane
from netopsy.probes.region_slice import kept_layers, plane_network

SQUARE = -1
"""Number of the whole square among the places."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundaryDensity:
    """Crossings along random lines, through the square and through a disc around each anchor.

    Attributes:
        frame: a row a line: `place` (-1 is the square, others number the anchors), `line`, `length` (of the part that
            lies there), `crossings` (of boundaries on it).
        provenance: options, versions, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def density(self) -> pd.DataFrame:
        """Length of the boundaries per area of each place.

        Returns:
            A row a place: `place`, `density`, `standard_error` (of a ratio of two means, over the lines), `lines`.
        """
        rows = []
        for place, lines in self.frame.groupby("place", sort=True):
            length, crossings = lines.length.to_numpy(np.float64), lines.crossings.to_numpy(np.float64)
            ratio, n = crossings.sum() / length.sum(), len(lines)
            spread = np.square(crossings - ratio * length).sum() / (n - 1) / n
            error = math.sqrt(spread) / length.mean()
            scale = math.pi / 2
            rows.append({"place": place, "density": scale * ratio, "standard_error": scale * error, "lines": n})
        return pd.DataFrame(rows)

    def relative(self) -> FloatArray:
        """Density around each anchor over that of the square; NaN where the square has no boundary."""
        table = self.density().set_index("place").density
        mean = float(table[SQUARE])
        around = table.drop(SQUARE).to_numpy(np.float64)
        return around / mean if mean else np.full(len(around), np.nan)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, a row a line; see `frame`."""
        return self.frame.copy()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"results": self.frame}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> BoundaryDensity:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no such result, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "BoundaryDensity", "boundary_density", ["results"])
        return cls(frame=tables["results"], provenance=provenance)

    def __str__(self) -> str:
        table = self.density()
        table["place"] = ["square" if place == SQUARE else f"anchor {place}" for place in table.place]
        return str(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def boundary_density(
    model: nn.Module,
    plane: Plane,
    *,
    radius: float = 0.1,
    lines: int = 64,
    layer: str | None = None,
    seed: int = 0,
    task: Task | None = None,
) -> BoundaryDensity:
    """Estimate the length of boundaries per area: of the square [-1, 1]² of a plane, and near each of its anchors.

    Crossings are exact; the lines are random, uniform among those that meet the square or the disc. The estimate is
    unbiased up to the ratio's own 1/n.

    Args:
        model: as for `netopsy.region_slice`.
        plane: such as `netopsy.plane_through` of three training examples.
        radius: of the disc around each anchor.
        lines: through each place, two or more.
        layer: whose boundaries count: the name of an activation, `"all"`, or None for the last hidden one.
        seed: of the lines.
        task: its `logits` says where in the model's output the logits are.

    Raises:
        NetopsyError: options or a layer that do not fit, or a model that is not piecewise linear or not supported.
    """
    started = time.perf_counter()
    at_least("lines", lines, 2)
    inside("radius", radius, 0.0, 1.0, open_low=True)
    anchors = plane.anchors.double().numpy()
    if len(anchors) and np.abs(anchors).max() + radius > 1 + 1e-9:
        raise NetopsyError(
            f"radius: expected discs within the square; {radius:g} around one of {anchors.tolist()} is not; take a "
            "smaller radius"
        )
    network = plane_network(model, plane, task)
    kept = kept_layers(network, layer)
    rows = []
    for place in (SQUARE, *range(len(anchors))):
        source = np.random.default_rng(derive(seed, "lines", place))
        center = np.zeros(2) if place == SQUARE else anchors[place]
        chords = _through_square(source) if place == SQUARE else _through_disc(source, center, radius)
        for line, (start, end) in zip(range(lines), chords, strict=False):
            found = _crossings(network, kept, plane, start, end)
            length = float(np.hypot(*(end - start)))
            rows.append({"place": place, "line": line, "length": length, "crossings": found})
    return BoundaryDensity(
        frame=pd.DataFrame(rows),
        provenance={
            "probe": "boundary_density",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "model": type(model).__name__,
            "layers": kept,
            "radius": radius,
            "lines": lines,
            "seed": seed,
            "anchors": anchors.tolist(),
            "seconds": time.perf_counter() - started,
        },
    )


def _crossings(network: AffineNetwork, kept: list[str], plane: Plane, start: FloatArray, end: FloatArray) -> int:
    """How often units of these layers pass a kink between two points of the plane."""
    path = segment(*plane.at(torch.from_numpy(np.stack([start, end]))))
    found = trace(network, path.curve())
    own = torch.tensor([name in kept for name in found.layers])
    return int(own[found.crossings.layer].sum())


def _through_disc(source: np.random.Generator, center: FloatArray, radius: float) -> Iterator[tuple[FloatArray, ...]]:
    """Chords of lines that are uniform in direction and in their distance from the center."""
    while True:
        angle, offset = source.uniform(0, math.pi), source.uniform(-radius, radius)
        across, along = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        half = math.sqrt(radius**2 - offset**2)
        middle = center + offset * across
        yield middle - half * along, middle + half * along


def _through_square(source: np.random.Generator) -> Iterator[tuple[FloatArray, ...]]:
    """Chords of such lines through the circle around the square [-1, 1]², of those that meet the square."""
    for start, end in _through_disc(source, np.zeros(2), math.sqrt(2)):
        way = end - start
        # Where the line enters and leaves the strips |u| <= 1 and |v| <= 1, as shares of the chord.
        with np.errstate(divide="ignore"):
            sides = np.sort(np.stack([(-1 - start) / way, (1 - start) / way]), axis=0)
        low, high = sides[0].max(), sides[1].min()
        if low < high:
            yield start + low * way, start + high * way
