"""What the Jacobian norm probe found: a norm at every point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from netopsy._storage import read_result, write_result
from netopsy._typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class JacobianNorms:
    """Norms of a network's input-output Jacobian at points.

    Attributes:
        frame: one row a point; see `to_frame`.
        provenance: options, seed, versions, data fingerprint, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def norms(self) -> FloatArray:
        """The norm at each point, outputs per unit of input. They are in the order of the data."""
        return self.frame["norm"].to_numpy(np.float64)

    @property
    def squared(self) -> FloatArray:
        """Squares of the norms; with projections these are the unbiased estimates."""
        return self.norms**2

    @property
    def mean(self) -> float:
        """The paper's Jacobian norm, a mean of norms and not of squares."""
        return float(self.norms.mean())

    @property
    def sem(self) -> float:
        """Standard error of the mean over the points; NaN of a single one."""
        return float(self.norms.std(ddof=1) / len(self.norms) ** 0.5) if len(self.norms) > 1 else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `index` of the point in the data, `norm`; `standard_error` of it, if it was estimated by projections;
        and where there are labels: `label`, `loss` (the task's, in nats), `correct`.
        """
        return self.frame.copy()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw a histogram of the norms on a logarithmic axis, right and wrong points apart where there are labels.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
        """
        from netopsy.plots.jacobians import norm_histogram

        return norm_histogram(self.frame, quantity=self.quantity, ax=ax)

    @property
    def quantity(self) -> str:
        """What was measured, in signs."""
        f = {"probabilities": "f_σ", "logits": "f"}[self.provenance["output"]]
        return f"‖∂{f}/∂x‖" + {"frobenius": "_F", "spectral": "₂"}[self.provenance["norm"]]

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"results": self.frame}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> JacobianNorms:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "JacobianNorms", "jacobian_norm", ["results"])
        return cls(frame=tables["results"], provenance=provenance)

    def __str__(self) -> str:
        p, frame = self.provenance, self.frame
        groups = {"all points": frame}
        if "correct" in frame:
            right = frame["correct"].fillna(False).astype(bool)
            wrong = (~frame["correct"]).fillna(False).astype(bool)
            groups |= {"correct": frame[right], "wrong": frame[wrong]}
        rows = []
        for name, part in groups.items():
            norm = part["norm"].to_numpy(np.float64)
            if len(norm):
                sem = norm.std(ddof=1) / len(norm) ** 0.5 if len(norm) > 1 else np.nan
                rows.append((name, len(norm), norm.mean(), sem, np.median(norm), norm.max()))
        table = pd.DataFrame(rows, columns=["", "points", "mean", "s.e.m.", "median", "largest"])
        text = table.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–")
        ways = f"of the {p['output']} by the input" + (
            "" if p["embedding"] is None else f", the output of {p['embedding']}"
        )
        how = "exact" if p["projections"] is None else f"estimated from {p['projections']} directions a point"
        notes = [f"{self.quantity}: {p['norm']} norms of the Jacobian {ways}; {how}."]
        bad = int((~np.isfinite(self.norms)).sum())
        if bad:
            notes.append(f"not finite at {bad} of {len(frame)} points, so neither is the mean.")
        return "\n".join([text, *notes])
