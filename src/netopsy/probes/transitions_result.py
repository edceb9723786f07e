"""What `netopsy.transitions` returns: every crossing along a path, and what they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError, at_least
from netopsy._storage import new_folder, read_result, write_result, write_state
from netopsy._typing import FloatArray, IntArray
from netopsy.network.tensor_files import TensorFile

TABLES, FUNCTIONS = ("crossings", "layers", "cells"), "functions.safetensors"
"""Of a saved result."""

CLOSE = 1e-13
"""Crossings as close as this, in t, are at one place."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """Where units pass from one piece of their activation to another, along a path (Novak et al. 2018, §3).

    Attributes:
        crossings: one row each; see `to_frame`.
        layers: one row for each layer: `layer`, `transitions`, and `comparisons`: kinks of max pooling, maximum and
            minimum, which belong to no unit and are not transitions.
        cells: `start`, `end` (t) and `piece` of the path: stretches on which the network is affine; none when
            sampled. They also end at the path's corners and where a comparison has a kink.
        provenance: options, counts of samples, versions, seconds.
        functions: the logits on each cell as coefficients of 1 and the piece's own parameter in [0, 1], or of 1, cos
            and sin of the angle; where it was asked for.
    """

    crossings: pd.DataFrame = field(repr=False)
    layers: pd.DataFrame
    cells: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)
    functions: Float[Tensor, "cells k *logits"] | None = field(default=None, repr=False)

    @property
    def total(self) -> int:
        """The sum of all changes of codes."""
        return int(self.layers.transitions.sum())

    @property
    def per_layer(self) -> dict[str, int]:
        """Layer -> transitions."""
        return dict(zip(self.layers.layer, map(int, self.layers.transitions), strict=True))

    @property
    def comparisons(self) -> int:
        """Kinks that belong to no unit."""
        return int(self.layers.comparisons.sum())

    @property
    def regions(self) -> int:
        """Stretches between transitions; a region that is visited twice counts twice."""
        return len(self._codes)

    @property
    def distinct_regions(self) -> int:
        """Different codes on the way."""
        return len(np.unique(self._codes))

    @cached_property
    def _codes(self) -> IntArray:
        """A number for the code of each stretch: the sum of a random number for each unit times its piece."""
        t, closed = self.crossings.t.to_numpy(), self.provenance["closed"]
        if not len(t):
            return np.zeros(1, np.int64)
        layer = self.crossings.layer.astype("string").map({name: i for i, name in enumerate(self.layers.layer)})
        units = layer.to_numpy(np.uint64) << np.uint64(40) | self.crossings.unit.to_numpy(np.uint64)
        step = (self.crossings.after.astype(np.int64) - self.crossings.before.astype(np.int64)).to_numpy()
        changes = np.cumsum(_scattered(units).view(np.int64) * step)
        last = np.append(np.diff(t) > CLOSE, True)
        ends = changes[last]
        return ends if closed else np.concatenate([np.zeros(1, np.int64), ends])

    def density(self, bins: int = 100) -> tuple[FloatArray, FloatArray]:
        """Transitions in each of `bins` equal shares of t, per unit of t; and the bins' edges."""
        at_least("bins", bins, 1)
        size = (self.crossings.after - self.crossings.before).abs()
        counts, edges = np.histogram(self.crossings.t, bins=bins, range=(0.0, 1.0), weights=size)
        return counts * float(bins), edges

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, a row for each crossing in the order of the path.

        Columns: `t` in [0, 1]; `layer`; `unit`, its number among the layer's flattened values; `before` and `after`,
        the pieces that it leaves and enters, from 0.
        """
        return self.crossings.copy()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `crossings.parquet`, `layers.parquet`, `cells.parquet`, `manifest.json`.

        The affine functions, where there are, go to `functions.safetensors`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        tables = dict(zip(TABLES, (self.crossings, self.layers, self.cells), strict=True))
        folder = new_folder(Path(path), overwrite=overwrite)
        if self.functions is not None:
            write_state(folder / FUNCTIONS, {"functions": self.functions})
        return write_result(folder, tables, self.provenance, overwrite=True)  # the manifest last

    @classmethod
    def load(cls, path: Path | str) -> Transitions:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no such result, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "Transitions", "transitions", TABLES)
        crossings, layers, cells = (tables[name] for name in TABLES)
        functions = None
        if provenance.get("function"):  # else a file of this name is of a result that was overwritten
            functions = TensorFile(Path(path) / FUNCTIONS).read("functions")
            if len(functions) != len(cells):
                raise NetopsyError(
                    f"{path}: expected the functions of {len(cells)} cells in {FUNCTIONS}; it has {len(functions)}; "
                    "the file is damaged"
                )
        return cls(crossings, layers, cells, provenance, functions)

    def __str__(self) -> str:
        """The count and how it was made, and a row for each layer."""
        how = self.provenance["method"]
        if how == "sampled":
            how = f"{max(self.provenance['samples'])} samples"
            if self.provenance["converged"] is False:
                how += ", the count still changes with more of them"
        return (
            f"{self.total} transitions ({how}), {self.regions} regions visited, {self.distinct_regions} different\n"
            f"{self.layers.to_string(index=False)}"
        )


def _scattered(numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A fixed random 64-bit number for each (splitmix64)."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
