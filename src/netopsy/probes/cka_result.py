"""What the CKA probe found: how alike each layer of one network is to each of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from netopsy._storage import read_result, write_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class CKAResult:
    """Linear CKA of all pairs of layers of two networks.

    Attributes:
        frame: one row a pair; see `to_frame`.
        provenance: options, seed, versions, data fingerprint, layers of both, examples left out, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `layer_a` (of the first network), `layer_b` (of the other), `cka` (null where the status is not
        `ok`), `n` examples in so many `batches`, `status`: `ok`; `few examples` (no batch has four);
        `non-finite` values; `constant`: a layer gives the same for all examples; `degenerate`: what is left of a
        layer's Gram matrices after centering is rounding (such as a layer that differs on one example only).
        """
        return self.frame.copy()

    @property
    def matrix(self) -> pd.DataFrame:
        """CKA by the layers of the first network (rows) and of the other (columns), in order of running."""
        a, b = (list(dict.fromkeys(self.frame[name])) for name in ("layer_a", "layer_b"))
        table = self.frame.pivot(index="layer_a", columns="layer_b", values="cka")
        return table.reindex(index=a, columns=b)

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the matrix (`netopsy.plots.cka.cka_heatmap`, to which `options` go).

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
        """
        from netopsy.plots.cka import cka_heatmap

        return cka_heatmap(self.frame, ax=ax, **options)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"results": self.frame}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> CKAResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "CKAResult", "cka", ["results"])
        return cls(frame=tables["results"], provenance=provenance)

    def __str__(self) -> str:
        table = self.matrix.rename_axis(index=None, columns=None)
        text = table.to_string(float_format=lambda value: f"{value:.3f}", na_rep="–")
        return "\n".join([text, *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        p = self.provenance
        ways = {"minibatch": "unbiased HSIC of batches, added up", "exact": "of all examples, biased upwards"}
        columns = "the same network's" if p["same"] else "the other network's"
        notes = [f"linear CKA ({ways[p['estimator']]}) on {p['examples']} examples; columns are {columns} layers."]
        if p["left_out"]:
            notes.append(f"{p['left_out']} examples are left out: their batch has fewer than four.")
        for status in dict.fromkeys(self.frame.status[self.frame.status != "ok"]):
            part = self.frame[self.frame.status == status]
            notes.append(f"{status}: no number for {len(part)} of {len(self.frame)} pairs.")
        return notes
