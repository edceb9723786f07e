"""What the spectra probe found: the singular values of modules over a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from netopsy._checks import one_of
from netopsy._storage import new_folder, read_result_manifest, write_json
from netopsy.probes.key_column import read_keyed, write_keyed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = ("results.parquet", "spectra.parquet", "manifest.json")


@dataclass(frozen=True, eq=False)
class SpectraResult:
    """Singular values of linear and convolutional modules at checkpoints, and how far each has moved.

    Attributes:
        frame: one row a module and checkpoint; see `to_frame`.
        values: the spectra: `site, checkpoint, index` (0 is the largest), `value`; of long ones evenly spaced.
        provenance: options, sizes of the convolutions' inputs, versions, data fingerprint, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    values: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site`, `checkpoint`, `norm` (the largest singular value), `smallest`, `stable_rank` (the squares'
        sum over the largest square; both null where only the `top` were computed), `moved` (the norm of
        θ^checkpoint - θ^0 as an operator; null without initial weights), `values` that were computed, `status`: `ok`;
        `not called` (the size of a convolution's input is not known); `padding` (its own is neither zeros nor
        circular); `non-finite` weights.
        """
        return self.frame.copy()

    def plot(self, ax: Axes | None = None, *, kind: Literal["spectrum", "norms"] = "norms", **options: Any) -> Axes:
        """Draw the norms of all modules, or the spectrum of one at every checkpoint.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            kind: which picture; `options` go to `norm_lines` or `spectrum_lines` in `netopsy.plots.spectra`.
        """
        one_of("kind", kind, ("spectrum", "norms"))
        from netopsy.plots.spectra import norm_lines, spectrum_lines

        if kind == "norms":
            return norm_lines(self.frame, ax=ax, **options)
        return spectrum_lines(self.values, ax=ax, **options)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `spectra.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        write_keyed(folder / FILES[0], self.frame)
        write_keyed(folder / FILES[1], self.values)
        write_json(folder / FILES[2], {"provenance": dict(self.provenance)})
        return folder

    @classmethod
    def load(cls, path: Path | str) -> SpectraResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        folder = Path(path)
        provenance = read_result_manifest(folder, "SpectraResult", "spectra", FILES)["provenance"]
        return cls(read_keyed(folder / FILES[0]), read_keyed(folder / FILES[1]), provenance)

    def __str__(self) -> str:
        text = self.frame.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–")
        padding = {"circular": "circular padding", "own": "their own padding"}[self.provenance["padding"]]
        return f"{text}\nconvolutions with {padding}, on inputs of the size that they have on the data."
