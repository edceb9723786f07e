"""What complexity measures say of a network: a row a measure, and the norms they are made of, a row a module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from netopsy._storage import read_result, write_result

TABLES = {"frame": "results", "modules": "modules"}
"""Attribute of the result -> the name of its file."""


@dataclass(frozen=True, eq=False)
class ComplexityResult:
    """Complexity measures of one trained network.

    Attributes:
        frame: one row a measure; see `to_frame`.
        modules: one row a linear layer or convolution: `site, parameters` (bias included), `frobenius` = ‖W^F‖_Fr and
            `spectral` = ‖W^F‖₂ of the weight, `distance` = ‖θ^F - θ^0‖_Fr of weight and bias, `distance_spectral` =
            ‖W^F - W^0‖₂, `distance_rows` = ‖(W^F - W^0)ᵀ‖_{2,1}. Spectral and row norms are those of the operator.
        provenance: options, seed, versions, data fingerprint, training error, margin, modules left out, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    modules: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: `measure, value, scale, status`.

        `scale` is `plain`, or `log10` for products, which would overflow; `status` is `ok`, or says why there is no
        value (docs/complexity.md).
        """
        return self.frame.copy()

    def value(self, measure: str) -> float:
        """The value of a measure, in its scale."""
        return float(self.frame.set_index("measure")["value"][measure])

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `modules.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        tables = {name: getattr(self, attribute) for attribute, name in TABLES.items()}
        return write_result(path, tables, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> ComplexityResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "ComplexityResult", "complexity", TABLES.values())
        return cls(**{attribute: tables[name] for attribute, name in TABLES.items()}, provenance=provenance)

    def __str__(self) -> str:
        rows = [
            (measure, "–" if pd.isna(value) else f"{value:.4g}", scale, status)
            for measure, value, scale, status in self.frame[["measure", "value", "scale", "status"]].to_numpy()
        ]
        text = pd.DataFrame(rows, columns=["measure", "value", "scale", "status"]).to_string(index=False)
        left = self.provenance["left_out"]
        return text + (f"\nno norms of {', '.join(left)}: neither linear layers nor convolutions." if left else "")
