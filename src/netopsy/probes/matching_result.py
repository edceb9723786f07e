"""What the matching probe found: how the units of two networks correlate, and who goes with whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from netopsy._checks import NetopsyError, one_of
from netopsy._storage import read_result, write_result
from netopsy._typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class UnitMatch:
    """Correlations of the units of two networks, layer by layer, and each unit's match.

    Attributes:
        matrix: layer of the first network -> ρ, its units (rows) x the units of the other's layer, in float64; NaN
            where a unit is constant or not finite.
        frame: one row a unit of the first network; see `to_frame`.
        layers: one row a pair of layers: `layer_a, layer_b, units_a, units_b, rho_bar` (the mean over the first
            layer's units of their highest ρ), `mean_rho` (the mean of the matches' ρ), `matched` units, `samples`.
        provenance: options, names and layers of both, seed, versions, data fingerprint, seconds.
    """

    matrix: Mapping[str, FloatArray] = field(repr=False)
    frame: pd.DataFrame = field(repr=False)
    layers: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `layer_a`, `unit` (of the first network), `layer_b`, `match` (the other's unit; null without one),
        `rho`, `status`: `ok`; `constant`: the unit gives the same for all samples; `non-finite` values; `unmatched`:
        no unit of the other network is left, or none has a number.
        """
        return self.frame.copy()

    def plot(self, ax: Axes | None = None, *, layer: str | None = None, **options: Any) -> Axes:
        """Draw one layer's matrix, its columns in the order of the matches.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            layer: of the first network; by default its first.
            options: go to `netopsy.plots.matching.match_heatmap`.
        """
        from netopsy.plots.matching import match_heatmap

        layer = next(iter(self.matrix)) if layer is None else layer
        one_of("layer", layer, tuple(self.matrix))
        match = self.frame.match[self.frame.layer_a == layer].fillna(-1).to_numpy("int64")
        known = self.provenance.get("names")
        own = {"labels": tuple(f"units of {name}" for name in known)} if known else {}
        return match_heatmap(self.matrix[layer], match, ax=ax, **{**own, **options})

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `units.parquet`, `layers.parquet`, `matrix.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        parts = [pd.DataFrame({"layer_a": name, "rho": matrix.ravel()}) for name, matrix in self.matrix.items()]
        tables = {"units": self.frame, "layers": self.layers, "matrix": pd.concat(parts, ignore_index=True)}
        return write_result(path, tables, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> UnitMatch:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "UnitMatch", "match_units", ["units", "layers", "matrix"])
        layers, long = tables["layers"], tables["matrix"]
        matrix = {}
        for name, a, b in zip(layers.layer_a, layers.units_a, layers.units_b, strict=True):
            values = long.rho[long.layer_a == name].to_numpy("float64", copy=True)  # pandas may lend a read-only one
            if values.size != a * b:
                raise NetopsyError(
                    f"{path}: expected {a} x {b} correlations of {name!r}; it has {values.size}; the file is damaged"
                )
            matrix[str(name)] = values.reshape(a, b)
        return cls(matrix=matrix, frame=tables["units"], layers=layers, provenance=provenance)

    def __str__(self) -> str:
        text = self.layers.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–")
        known = self.provenance.get("names")
        head = [f"a: {known[0]}, b: {known[1]}"] if known else []
        ways = {"best": "each unit's best", "one-to-one": "no unit twice"}
        lost = self.frame.status.value_counts()
        notes = [f"{count} units are {name}." for name, count in lost.items() if name != "ok"]
        return "\n".join(
            [*head, text, f"Pearson's r between units; matches: {ways[self.provenance['assignment']]}.", *notes]
        )
