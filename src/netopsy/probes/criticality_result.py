"""What the criticality probe found: a table, and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy._storage import new_folder, read_result_manifest, read_table, write_json, write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class CriticalityResult:
    """Criticality of the modules of one trained network.

    Attributes:
        frame: one row for each site and epsilon; see `to_frame`.
        surface: columns `site, alpha, sigma, error, loss, examples`, where it was asked for; else None.
        provenance: options, seeds, versions, data fingerprint, engine used and why, points measured, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    surface: pd.DataFrame | None = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site`; `epsilon`; `mu`, null where there is none, with its interval over the noise draws
        `mu_low, mu_high` (null where sigma is 1, or with one draw); `alpha` and `sigma` that reach it; `distance`,
        ‖θ^F − θ^0‖ of the site's parameters; `error`, the mean training error there, on all data and draws (of the
        trained network, where nothing is feasible); `parameters`; `status` (`feasible`; `alpha-zero`: the module can
        go back all the way, mu = 0; `no-op`: it never moved or is not used, mu = 0; `infeasible`: no alpha and sigma
        are allowed; `non-finite`: weights are); `error_low, error_high`, the error's interval over the draws;
        `examples` on which alpha was chosen; with `end_sigma=True`, `end_sigma`, the largest sigma at alpha = 1.
        """
        return self.frame.copy()

    def total(self, epsilon: float | None = None) -> float:
        """Network criticality, the sum of mu over the sites; NaN if a site has none (`infeasible`, `non-finite`).

        Args:
            epsilon: one of those asked for; may be left out if there is one.

        Raises:
            NetopsyError: when there are several and none is named, or it is none of them.
        """
        levels = list(dict.fromkeys(self.frame.epsilon))
        if epsilon is None and len(levels) == 1:
            (epsilon,) = levels
        near = [level for level in levels if epsilon is not None and math.isclose(level, epsilon)]
        if not near:
            raise NetopsyError(f"epsilon: expected one of {shorten(levels)}; got {epsilon!r}")
        return float(self.frame.mu[self.frame.epsilon == near[0]].sum(skipna=False))

    def plot(
        self, ax: Axes | None = None, *, kind: Literal["bars", "surface"] = "bars", **options: Any
    ) -> Axes | Figure:
        """Draw mu of each module, or the error over alpha and sigma of each, with the found optima.

        Args:
            ax: where to draw bars; by default a new figure, `.figure` of what is returned. A surface has a panel a
                module, on a figure of its own, which is returned.
            kind: which picture; `options` go to `netopsy.plots.criticality.criticality_bars`, or to
                `netopsy.plots.valley.valley_panels`.

        Raises:
            NetopsyError: a surface of a result without one, or an `ax` for it.
        """
        one_of("kind", kind, ("bars", "surface"))
        draws = self.provenance["noise_samples"]
        if kind == "bars":
            from netopsy.plots.criticality import criticality_bars

            known = {"draws": draws, "confidence": self.provenance["confidence"]}
            return criticality_bars(self.frame, ax=ax, **{**known, **options})
        if self.surface is None:
            raise NetopsyError("kind='surface': expected a result with one; got none; measure with surface=True")
        if ax is not None:
            raise NetopsyError(
                "ax: expected None for kind='surface', which has several panels; got axes; leave it out"
            )
        from netopsy.plots.valley import valley_panels

        known = {"draws": draws, "levels": self.provenance["epsilon"], "optima": self.frame}
        return valley_panels(self.surface.assign(split="training"), **{**known, **options})

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `manifest.json`, and `surface.parquet` where there is one.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        write_table(folder / "results.parquet", self.frame)
        if self.surface is not None:
            write_table(folder / "surface.parquet", self.surface)
        provenance = {**self.provenance, "surface": self.surface is not None}
        write_json(folder / "manifest.json", {"provenance": provenance})
        return folder

    @classmethod
    def load(cls, path: Path | str) -> CriticalityResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        folder = Path(path)
        manifest = read_result_manifest(
            folder, "CriticalityResult", "criticality", ["results.parquet", "manifest.json"]
        )
        provenance = dict(manifest["provenance"])
        frame = read_table(folder / "results.parquet")
        surface = read_table(folder / "surface.parquet") if provenance.pop("surface") else None
        for table in (frame, surface):
            if table is not None:
                table.attrs.clear()
        return cls(frame, surface, provenance)

    def __str__(self) -> str:
        columns = ["epsilon", "mu", "mu_low", "mu_high", "alpha", "sigma", "distance", "error", "status"]
        table = self.frame.set_index("site")[columns].rename_axis(None)
        text = table.to_string(float_format=lambda value: f"{value:.4g}", na_rep="–")
        return "\n".join([text, *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        p = self.provenance
        notes = [
            f"mu = (alpha ‖θ^F − θ^0‖ / sigma)², within {p['relative_tolerance']:.2g} of the least at "
            f"{p['noise_samples']} noise draws; its interval ({p['confidence']:.0%}) is over the draws. Error of "
            f"{p['examples']:,} examples."
        ]
        for epsilon in dict.fromkeys(self.frame.epsilon):
            part = self.frame[self.frame.epsilon == epsilon]
            bad = part.site[part.mu.isna()].tolist()
            because = f" ({shorten(bad)} has no mu)" if bad else ""
            notes.append(f"network criticality at epsilon = {epsilon:g}: {self.total(epsilon):.4g}{because}")
        return notes
