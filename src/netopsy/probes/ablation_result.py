"""What the ablation probe found: curves, their areas, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from netopsy._checks import NetopsyError, inside, one_of
from netopsy._storage import new_folder, read_result_manifest, read_table, write_json, write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AblationMetric: TypeAlias = Literal["unchanged", "accuracy"]
"""Share of predictions equal to the unedited network's, or to the targets."""

METRICS = ("unchanged", "accuracy")

ALL = "all"
"""The site of all layers at once."""

LEVEL = 0.8
"""Where a curve is said to have fallen."""

WORDS = {"unchanged": "predictions unchanged", "accuracy": "accuracy"}
FILES = ("results.parquet", "manifest.json")


@dataclass(frozen=True, eq=False)
class AblationResult:
    """Robustness of one network to the ablation of its units.

    Attributes:
        frame: one row for each site, order and fraction; see `to_frame`.
        units: layer -> how many units it has.
        provenance: options, seeds, versions, data fingerprint, engine used and why, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    units: Mapping[str, int]
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site` (a layer, or `all`), `fraction`, `order` (its number), `ablated` (units set to zero),
        `unchanged` (share of predictions equal to the unedited network's) and its interval `unchanged_low`,
        `unchanged_high` (null where an example has several predictions); `accuracy`; `accuracy_change`, paired, and
        its interval `accuracy_change_low`, `accuracy_change_high`; `n`, the examples run; `status` (`ok`, `no-op`:
        nothing was ablated, or nothing that the output depends on; `non-finite`).
        """
        return self.frame.copy()

    def areas(self, metric: AblationMetric | None = None, *, level: float = LEVEL) -> pd.DataFrame:
        """One row a site: the area under its curve, by the trapezoid rule, and where the curve falls below a level.

        Columns: `site`, `units`, `area` (mean over the orders), `area_sd` (sample standard deviation; null of one
        order), `crossing` (the smallest fraction at which the mean curve falls below `level`, interpolated
        linearly; null where it never does), `orders`.

        Raises:
            NetopsyError: for an unknown metric or a level outside [0, 1].
        """
        metric = self.provenance["metric"] if metric is None else metric
        one_of("metric", metric, METRICS)
        inside("level", level, 0, 1)
        rows = []
        for site, part in self.frame.groupby("site", sort=False):
            table = part.pivot(index="order", columns="fraction", values=metric)
            fractions = table.columns.to_numpy(dtype=np.float64)
            values = table.to_numpy(dtype=np.float64)
            areas = (values[:, 1:] + values[:, :-1]) / 2 @ np.diff(fractions)
            rows.append(
                {
                    "site": str(site),
                    "units": sum(self.units.values()) if site == ALL else self.units[str(site)],
                    "area": float(areas.mean()),
                    "area_sd": float(areas.std(ddof=1)) if len(areas) > 1 else np.nan,
                    "crossing": falls_below(fractions, values.mean(0), level),
                    "orders": len(areas),
                }
            )
        return pd.DataFrame(rows).astype({"site": "string"})

    def plot(
        self,
        ax: Axes | None = None,
        *,
        kind: Literal["curves", "areas"] = "curves",
        metric: AblationMetric | None = None,
        **options: Any,
    ) -> Axes:
        """Draw a curve for each site, or the area of each as a bar.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            kind: which picture; `options` go to the function of that name in `netopsy.plots.ablation`.
            metric: by default the one the result was asked for.
        """
        one_of("kind", kind, ("curves", "areas"))
        metric = self.provenance["metric"] if metric is None else metric
        one_of("metric", metric, METRICS)
        from netopsy.plots.ablation import ablation_areas, ablation_curves

        if kind == "areas":
            return ablation_areas(self.areas(metric), label=f"area, {WORDS[metric]}", ax=ax, **options)
        return ablation_curves(self.frame, metric=metric, label=f"{WORDS[metric]} (%)", ax=ax, **options)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        write_table(folder / "results.parquet", self.frame)
        write_json(folder / "manifest.json", {"units": dict(self.units), "provenance": dict(self.provenance)})
        return folder

    @classmethod
    def load(cls, path: Path | str) -> AblationResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        folder = Path(path)
        manifest = read_result_manifest(folder, "AblationResult", "ablation", FILES)
        provenance = manifest["provenance"]
        if "units" not in manifest:
            raise NetopsyError(f"{folder}: expected a saved AblationResult; its manifest is of something else")
        frame = read_table(folder / "results.parquet")
        frame.attrs = {}
        return cls(frame, manifest["units"], provenance)

    def __str__(self) -> str:
        metric = self.provenance["metric"]
        mean = self.frame.groupby(["site", "fraction"], sort=False)[metric].mean().unstack()
        mean.columns = [f"{fraction:.0%}" for fraction in mean.columns]
        areas = self.areas().set_index("site").reindex(mean.index)
        table = mean.map("{:.1%}".format)
        table["area"] = [
            f"{area:.3f}" + ("" if np.isnan(sd) else f" ± {sd:.3f}")
            for area, sd in zip(areas.area, areas.area_sd, strict=True)
        ]
        table[f"below {LEVEL:.0%} at"] = ["never" if np.isnan(at) else f"{at:.0%}" for at in areas.crossing]
        table.index.name = None
        n = self.frame.n.iloc[0]
        orders, order = self.provenance["orders"], self.provenance["order"]
        what = f"mean ± sd of {orders} {order} orders" if orders > 1 else f"one order, {order}"
        head = f"{WORDS[metric]} with a share of the units at zero; {what}; n = {n}"
        return "\n".join([head, table.to_string(), *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        notes = []
        idle = self.frame[(self.frame.status == "no-op") & (self.frame.ablated > 0)].site.unique()
        if len(idle):
            notes.append(f"the output does not depend on {', '.join(map(str, idle))}.")
        bad = int((self.frame.status == "non-finite").sum())
        if bad:
            notes.append(f"{bad} rows have non-finite outputs, which count as changed and as errors.")
        notes += [f"run by the eager engine: {reason}" for reason in self.provenance["engine_reasons"]]
        return notes


def falls_below(fractions: Float[np.ndarray, " f"], values: Float[np.ndarray, " f"], level: float) -> float:
    """Where the line through the points first falls below a level; NaN where it never does.

    >>> falls_below(np.array([0.0, 0.5, 1.0]), np.array([1.0, 1.0, 0.5]), 0.75)
    0.75
    """
    below = np.flatnonzero(values < level)
    if not below.size:
        return float("nan")
    right = int(below[0])
    if right == 0:
        return float(fractions[0])
    left = right - 1
    share = (values[left] - level) / (values[left] - values[right])
    return float(fractions[left] + share * (fractions[right] - fractions[left]))
