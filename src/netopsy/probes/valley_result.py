"""What valleys and convex paths are returned as: a table, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from netopsy._storage import read_result, write_result


@dataclass(frozen=True, eq=False)
class ValleyResult:
    """Error and loss between the initial and the trained values of modules.

    Attributes:
        frame: one row for each site, split, alpha and sigma; see `to_frame`.
        provenance: options, seeds, versions, data fingerprints, engine used and why, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site`; `split`; `alpha` (0: the initial values, 1: the trained ones); `sigma` of the noise; `error`
        (0-1) and `loss`, means over the examples and the noise draws; `examples`.
        """
        return self.frame.copy()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"results": self.frame}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> ValleyResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no such result, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "ValleyResult", "valley", ["results"])
        return cls(tables["results"], provenance)

    def __str__(self) -> str:
        """Error (%) by alpha: along each path, or in the valley by sigma."""
        one = self.frame.sigma.nunique() == 1
        parts = []
        for split, part in self.frame.groupby("split", sort=False):
            rows = "site" if one else "sigma"
            table = (100 * part.pivot_table(index=rows, columns="alpha", values="error", sort=False)).round(1)
            table.index = [value if one else f"{value:.3g}" for value in table.index]
            table.columns = [f"{alpha:g}" for alpha in table.columns]
            what = "" if one else f"{part.site.iloc[0]}, rows sigma, "
            parts.append(f"error (%) on {split}: {what}columns alpha\n{table.to_string()}")
        return "\n\n".join(parts)
