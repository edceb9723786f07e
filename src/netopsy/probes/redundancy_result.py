"""What the redundancy probe found: a table of layers, one of units, the distribution of |r|."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from netopsy._checks import one_of
from netopsy._storage import read_result, write_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLES = {"frame": "results", "units": "units", "pairs": "pairs", "samplings": "samplings"}
"""Attribute of the result -> the name of its file."""

MEANS = ("components", "compressibility", "similar_per_unit", "similar_share", "silent", "constant")
"""Columns that are means over the samplings; each has another one, `_sd`."""


@dataclass(frozen=True, eq=False)
class RedundancyResult:
    """Compressibility and similarity of the units of each layer of one network.

    Attributes:
        frame: one row a layer; see `to_frame`.
        units: one row a unit: `site, sampling, unit` (its place along the axis; for `convention="positions"` in the
            flattened value of one example), `activity` (share of samples above 0), `mean`, `variance`, `r2` (of its
            best linear reconstruction from the other units of the layer), `similar` (others similar
            to it), `kind` (`varying`, `silent`, `constant`).
        pairs: the distribution of `abs(r)`: `site, sampling, low, high, pairs` (of different units that vary).
        samplings: the numbers of `frame` for each sampling.
        provenance: options, seed, versions, data fingerprint, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    units: pd.DataFrame = field(repr=False)
    pairs: pd.DataFrame = field(repr=False)
    samplings: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site`; `units` that were read; `components` that keep `level` of the variance; `compressibility`,
        the share of the components that are *not* needed for it, 1 - components / units; `similar_per_unit`, the
        mean over the varying units of the number of others with abs(r) >= `similar`; `similar_share`, as a share of
        the others that vary; `silent` (zero on all samples) and `constant` units, which have no r and are in no mean;
        `samples`; `ridge`, with which R² was computed; `status` (`ok`; `few samples`: not more than units, no R²;
        `one unit` varies: no similarity; `constant`: none varies; `non-finite`); `samplings`, and the standard
        deviation over them of each number (`_sd`, null where there is one).
        """
        return self.frame.copy()

    def plot(self, ax: Axes | None = None, *, kind: Literal["bars", "pairs"] = "bars", **options: Any) -> Axes:
        """Draw the result: compressibility and similarity by layer, or the distributions of `abs(r)`.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            kind: which picture; `options` go to `redundancy_bars` or `pair_histograms` in `netopsy.plots.redundancy`.
        """
        one_of("kind", kind, ("bars", "pairs"))
        from netopsy.plots.redundancy import pair_histograms, redundancy_bars

        if kind == "bars":
            return redundancy_bars(self.frame, ax=ax, **options)
        return pair_histograms(self.pairs, ax=ax, **{"similar": self.provenance["similar"], **options})

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `units.parquet`, `pairs.parquet`, `samplings.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        tables = {name: getattr(self, attribute) for attribute, name in TABLES.items()}
        return write_result(path, tables, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> RedundancyResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "RedundancyResult", "redundancy", TABLES.values())
        return cls(**{attribute: tables[name] for attribute, name in TABLES.items()}, provenance=provenance)

    def __str__(self) -> str:
        columns = ["units", "components", "compressibility", "similar_per_unit", "silent", "constant", "status"]
        table = self.frame.set_index("site")[columns]
        if (self.frame.samplings > 1).any():
            for name in ("compressibility", "similar_per_unit"):
                spread = self.frame.set_index("site")[f"{name}_sd"]
                table[name] = [
                    f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"
                    for mean, sd in zip(table[name], spread, strict=True)
                ]
        text = table.rename_axis(None).to_string(float_format=lambda value: f"{value:.3f}", na_rep="–")
        return "\n".join([text, *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        p = self.provenance
        sample = "every position a sample" if p["convention"] == "channels" else "every example a sample"
        notes = [
            f"components keep {100 * p['level']:g}% of the variance; compressibility is the share of components not "
            f"needed; similar: |r| >= {p['similar']:g}; a unit is a "
            f"{'channel' if p['convention'] == 'channels' else 'channel at a position'}, {sample}."
        ]
        if (self.frame.samplings > 1).any():
            notes.append(f"± is the standard deviation over {p['samplings']} samplings of at most {p['most']} units.")
        few = self.frame.site[self.frame.status == "few samples"].tolist()
        if few:
            notes.append(f"few samples: not more than units in {', '.join(few)}; there is no R², and r is uncertain.")
        bad = self.frame.site[self.frame.status == "non-finite"].tolist()
        if bad:
            notes.append(f"non-finite values in {', '.join(bad)}.")
        return notes
