"""What a slice through the linear regions is returned as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from netopsy._checks import NetopsyError, inside, one_of
from netopsy._storage import read_result, write_result
from netopsy._typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AREA = 4.0
"""Of the square [-1, 1]²."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionSlice:
    """The polygons of a plane's square [-1, 1]² on which a network is affine, and boundaries of units in it.

    Attributes:
        segments: a row a straight piece of a boundary: `layer`, `unit`, its ends `u0, v0, u1, v1`. Where boundaries
            of two units coincide there is a row each.
        polygons_frame: a row a polygon: `region` (of the network), `class` (-1 where it was not asked for), `area`.
        vertices: a row a vertex, counterclockwise: `polygon` (a row above), `u`, `v`.
        provenance: model, layers, anchors, versions, seconds.
    """

    segments: pd.DataFrame = field(repr=False)
    polygons_frame: pd.DataFrame = field(repr=False)
    vertices: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def regions(self) -> int:
        """How many polygons the network is affine on, before any cut by classes."""
        return int(self.polygons_frame.region.max()) + 1

    @property
    def polygons(self) -> list[FloatArray]:
        """The corners (n, 2) of each polygon, counterclockwise."""
        starts = np.flatnonzero(self.vertices.polygon.diff().to_numpy() > 0)
        return np.split(self.vertices[["u", "v"]].to_numpy(), starts)

    @property
    def areas(self) -> FloatArray:
        """Area of each region; they sum to 4."""
        return self.polygons_frame.groupby("region").area.sum().to_numpy()

    @property
    def anchors(self) -> FloatArray:
        """The plane's marked points (m, 2)."""
        return np.asarray(self.provenance["anchors"], dtype=np.float64).reshape(-1, 2)

    @property
    def density(self) -> float:
        """Length of the boundaries per area, over the whole square."""
        ends = self.segments[["u0", "v0", "u1", "v1"]].to_numpy()
        return float(np.hypot(*(ends[:, 2:] - ends[:, :2]).T).sum()) / AREA

    def relative_density(self, points: FloatArray | None = None, *, radius: float = 0.1) -> FloatArray:
        """Length of the boundaries per area within a radius of each point, over that of the whole square.

        Near 1 where boundaries lie alike everywhere; below 1 where a point lies in larger regions than others
        (Novak et al. 2018, Figure 3). NaN where the square has no boundary.

        Args:
            points: (m, 2); None: the anchors.
            radius: of the discs, which have to lie within the square.

        Raises:
            NetopsyError: a disc that leaves the square.
        """
        points = self.anchors if points is None else points
        inside("radius", radius, 0, 1, open_low=True)
        if points.ndim != 2 or points.shape[1] != 2 or np.abs(points).max(initial=0) + radius > 1 + 1e-9:
            raise NetopsyError(
                f"points: expected (m, 2) in the square, {radius:g} or more from its border; got "
                f"{points.tolist()}; take a smaller radius= or other points"
            )
        ends = self.segments[["u0", "v0", "u1", "v1"]].to_numpy()
        found = np.array([length_within(ends, point, radius) for point in points])
        mean = self.density
        return found / (np.pi * radius**2) / mean if mean else np.full(len(points), np.nan)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: a row a segment, with columns `layer, unit, u0, v0, u1, v1`."""
        return self.segments.copy()

    def plot(
        self, ax: Axes | None = None, *, color: Literal["region", "class"] | None = None, **options: Any
    ) -> Axes:
        """Draw the boundaries as lines, the anchors marked (Figure 3).

        Args:
            ax: where; by default a new figure, `.figure` of what is returned.
            color: fill the polygons: `"region"` tells neighbors apart, `"class"` shows the largest logit; None: lines
                alone. `options` go to `netopsy.plots.slices.slice_map`.

        Raises:
            NetopsyError: `"class"` for a slice made without `classes=True`.
        """
        from netopsy.plots.slices import slice_map

        if color is not None:
            one_of("color", color, ("region", "class"))
        if color == "class" and not self.provenance["classes"]:
            raise NetopsyError("color: expected a slice with classes; make it with region_slice(..., classes=True)")
        fills = None if color is None else self.polygons_frame[color].to_numpy()
        polygons = None if color is None else self.polygons
        return slice_map(self.segments, polygons, fills, self.anchors, named=color == "class", ax=ax, **options)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `segments.parquet`, `polygons.parquet`, `vertices.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        tables = {"segments": self.segments, "polygons": self.polygons_frame, "vertices": self.vertices}
        return write_result(path, tables, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> RegionSlice:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no such result, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "RegionSlice", "region_slice", ["segments", "polygons", "vertices"])
        segments, polygons, vertices = (tables[name] for name in ("segments", "polygons", "vertices"))
        return cls(segments=segments, polygons_frame=polygons, vertices=vertices, provenance=provenance)

    def __str__(self) -> str:
        """Regions, boundaries and how close they come to the anchors."""
        layers = ", ".join(self.provenance["layers"]) or "no layer"
        lines = [
            f"{self.provenance['model']}: {self.regions:,} linear regions in the square [-1, 1]²",
            f"areas: median {np.median(self.areas):.2g}, largest {self.areas.max():.2g}",
            f"boundaries of {layers}: {len(self.segments):,} segments, length per area {self.density:.3g}",
        ]
        if len(self.anchors) and np.abs(self.anchors).max() <= 0.9:
            ratios = ", ".join(f"{ratio:.2f}" for ratio in self.relative_density())
            lines.append(f"within 0.1 of the anchors, over the mean: {ratios}")
        return "\n".join(lines)


def length_within(ends: FloatArray, center: FloatArray, radius: float) -> float:
    """Length of segments (n, 4) within a disc."""
    start, step = ends[:, :2] - center, ends[:, 2:] - ends[:, :2]
    square = (step**2).sum(1)
    some = square > 0
    start, step, square = start[some], step[some], square[some]
    middle = -(start * step).sum(1) / square
    reach = radius**2 - (start**2).sum(1) + middle**2 * square  # squared half chord
    half = np.sqrt(np.maximum(reach, 0) / square)
    part = np.minimum(middle + half, 1) - np.maximum(middle - half, 0)
    return float((np.maximum(part, 0) * np.sqrt(square)).sum())
