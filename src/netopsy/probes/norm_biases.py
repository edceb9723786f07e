"""Signs of the biases of batch normalization: a negative one closes the gate behind it more than half of the time.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019), §4.1, Figure 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netopsy import __version__
from netopsy._checks import NetopsyError
from netopsy._storage import read_result, write_result
from netopsy.network.addresses import unwrap
from netopsy.network.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class NormBiases:
    """Biases of all batch normalizations of a network.

    Attributes:
        frame: one row a layer; see `to_frame`.
        biases: one row a channel: `layer, channel, bias`.
        provenance: the version.
    """

    frame: pd.DataFrame = field(repr=False)
    biases: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table in order of registration.

        Columns: `layer`, `channels`, `positive` (the share of biases above 0), `negative` (the share below), `mean`,
        `status`: `ok`, or `no bias` (`affine=False`), with null numbers.
        """
        return self.frame.copy()

    def plot(self, **options: Any) -> Figure:
        """Draw a histogram of each layer (`netopsy.plots.matching.bias_histograms`, to which `options` go)."""
        from netopsy.plots.matching import bias_histograms

        return bias_histograms(self.biases, **options)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `layers.parquet`, `biases.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"layers": self.frame, "biases": self.biases}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> NormBiases:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "NormBiases", "norm_biases", ["layers", "biases"])
        return cls(frame=tables["layers"], biases=tables["biases"], provenance=provenance)

    def __str__(self) -> str:
        text = self.frame.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–")
        if self.biases.empty:
            return f"{text}\nNo batch normalization has biases."
        below = float((self.biases.bias < 0).mean())
        return f"{text}\n{below:.1%} of {len(self.biases):,} biases are below 0: gates closed most of the time."


def norm_biases(model: nn.Module | Trajectory) -> NormBiases:
    """Read the biases of every batch normalization of a model; of a trajectory, the trained one's.

    Raises:
        NetopsyError: for a model without batch normalization.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    >>> norm_biases(model).frame.positive.tolist()
    [0.0]
    """
    given = model.model() if isinstance(model, Trajectory) else model
    if not isinstance(given, nn.Module):
        raise NetopsyError(f"model: expected a torch module or a netopsy.Trajectory; got {type(given).__name__}")
    found = {name: module for name, module in unwrap(given).named_modules() if isinstance(module, _BatchNorm)}
    if not found:
        raise NetopsyError(
            f"model: expected batch normalization (nn.BatchNorm1d, 2d or 3d); {type(given).__name__} has none"
        )
    rows: list[tuple[Any, ...]] = []
    parts = []
    for name, module in found.items():
        bias = module._parameters.get("bias")
        if bias is None:
            rows.append((name, module.num_features, *[float("nan")] * 3, "no bias"))
            continue
        values = bias.detach().double().cpu()
        shares = (float((side > 0).double().mean()) for side in (values, -values))
        rows.append((name, len(values), *shares, float(values.mean()), "ok"))
        parts.append(pd.DataFrame({"layer": name, "channel": range(len(values)), "bias": values.numpy()}))
    names = ["layer", "channels", "positive", "negative", "mean", "status"]
    none = pd.DataFrame({"layer": [], "channel": [], "bias": []})
    biases = pd.concat(parts, ignore_index=True) if parts else none
    return NormBiases(
        frame=pd.DataFrame(rows, columns=names).astype({"layer": "string", "channels": "Int64", "status": "string"}),
        biases=biases.astype({"layer": "string", "channel": "Int64", "bias": "float64"}),
        provenance={"probe": "norm_biases", "netopsy": __version__},
    )
