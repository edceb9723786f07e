"""What valleys and convex paths are returned as: a table, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from netopsy._checks import NetopsyError, one_of
from netopsy._storage import read_result, write_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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

    def plot(
        self,
        ax: Axes | None = None,
        *,
        kind: Literal["map", "surface", "paths"] | None = None,
        **options: Any,
    ) -> Axes | Figure:
        """Draw the valley as a map or a landscape (Figure 1), or the paths as curves (Figure 4).

        Several modules' valleys side by side: `netopsy.plots.valley.valley_panels` of their frames joined.

        Args:
            ax: where to draw a map or a surface (then three-dimensional); by default a new figure, `.figure` of what
                is returned. Paths always have a figure of their own, which is returned.
            kind: which picture; None: a map of a valley, paths of convex paths. `options` go to `valley_map`,
                `valley_surface` in `netopsy.plots.valley` or `path_panels` in `netopsy.plots.paths`.

        Raises:
            NetopsyError: a picture that these points do not make, or an `ax` for paths.
        """
        if kind is None:
            kind = "paths" if self.frame.sigma.nunique() == 1 else "map"
        one_of("kind", kind, ("map", "surface", "paths"))
        if kind == "paths":
            from netopsy.plots.paths import path_panels

            if ax is not None:
                raise NetopsyError(
                    "ax: expected None for kind='paths', which has several panels; got axes; leave it out"
                )
            return path_panels(self.frame, **options)
        from netopsy.plots.valley import valley_map, valley_surface

        draw = valley_map if kind == "map" else valley_surface
        return draw(self.frame, ax=ax, **{"draws": self.provenance["noise_samples"], **options})

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
