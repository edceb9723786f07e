"""How a network behaves on and off the data: a quantity along closed curves that pass through a few examples.

Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein: Sensitivity and Generalization in Neural Networks: an Empirical
Study (2018), Section 4.1 and Figure 2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, one_of
from netopsy._storage import read_result, write_result
from netopsy._typing import FloatArray
from netopsy.network.task import Task
from netopsy.probes.jacobian_norm import Output, jacobian_norm
from netopsy.probes.plane import ANGLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIDPOINTS = (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
"""Angles between them."""

WINDOW = math.pi / 12
"""How far from an anchor or a midpoint an angle counts as near it."""


@runtime_checkable
class Curve(Protocol):
    """A closed curve in input space."""

    def at(self, t: Float[Tensor, " p"]) -> Float[Tensor, "p ..."]:
        """Its points at t in [0, 1), the angle over 2π."""


@dataclass(frozen=True, eq=False)
class EllipseProfile:
    """A quantity along closed curves, of several networks.

    Attributes:
        frame: one row a network, curve and angle; see `to_frame`.
        provenance: options, versions, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: `kind` of the curve, `net`, `path` (its number among that kind), `angle` in [0, 2π), `value`.

        The value is the Jacobian norm at the angle, or the transitions per radian in the interval around it.
        """
        return self.frame.copy()

    def profile(self) -> pd.DataFrame:
        """What Figure 2 draws: `kind, angle, mean`, and `low` and `high`, one standard error to each side.

        Curves are averaged within a network first; the error is that over networks (null with a single one).
        """
        nets = self.frame.groupby(["kind", "net", "angle"], sort=False)["value"].mean()
        groups = nets.groupby(level=["kind", "angle"], sort=False)
        table = groups.agg(["mean", "sem"]).reset_index()
        table = table.assign(low=table["mean"] - table["sem"], high=table["mean"] + table["sem"])
        return table.drop(columns="sem")

    def ratios(self) -> pd.DataFrame:
        """Claim F2's statistic for each `kind` and `net`: near the anchors over near the midpoints, `ratio`.

        `anchors` and `midpoints` are means over the curves and the angles within ±π/12 of π/3, π, 5π/3 and of 0,
        2π/3, 4π/3. Below 1 the network is more robust near the examples than between them.
        """
        angle = self.frame["angle"].to_numpy(np.float64)
        rows = {}
        for name, places in (("anchors", ANGLES), ("midpoints", MIDPOINTS)):
            part = self.frame[_near(angle, places)]
            rows[name] = part.groupby(["kind", "net"], sort=False)["value"].mean()
        table = pd.DataFrame(rows).reset_index()
        return table.assign(ratio=table["anchors"] / table["midpoints"])

    @property
    def quantity(self) -> str:
        """What was measured, in words."""
        jacobian = f"Jacobian norm of the {self.provenance['output']}"
        return jacobian if self.provenance["quantity"] == "jacobian" else "transitions per radian"

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the mean over networks at each angle, with a band, for each kind of curve; anchors marked (Figure 2).

        Transitions are averaged over ±π/12, as few of them are near any one angle.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            options: those of `netopsy.plots.profiles.profile`.
        """
        from netopsy.plots.profiles import profile

        window = WINDOW if self.provenance["quantity"] == "transitions" else 0.0
        return profile(self.frame, "value", ax=ax, **{"label": self.quantity, "window": window, **options})

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"results": self.frame}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> EllipseProfile:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "EllipseProfile", "ellipse_profile", ["results"])
        return cls(frame=tables["results"], provenance=provenance)

    def __str__(self) -> str:
        ratios = self.ratios().groupby("kind", sort=False)[["anchors", "midpoints", "ratio"]].mean()
        nets = self.frame["net"].nunique()
        text = ratios.rename_axis(None).to_string(float_format=lambda value: f"{value:.4g}")
        return f"{text}\n{self.quantity} near the anchors and between them, means over {nets} nets."


def ellipse_profile(
    models: nn.Module | Sequence[nn.Module],
    paths: Mapping[str, Sequence[Curve]] | Sequence[Curve],
    *,
    points: int = 192,
    quantity: Literal["jacobian", "transitions"] = "jacobian",
    output: Output = "probabilities",
    transitions: Callable[[nn.Module, Any], Any] | None = None,
    task: Task | None = None,
) -> EllipseProfile:
    """Follow the Jacobian norm, or how densely transitions lie, along closed curves, of every network on every curve.

    Args:
        models: a network or several.
        paths: curves, or a mapping from their kind to curves. An ellipse through three examples passes them at the
            angles π/3, π and 5π/3 (`netopsy.probes.paths.ellipse_through`).
        points: angles, evenly spaced from 0; a multiple of 24, so that windows around the anchors are symmetric.
        quantity: which.
        output: of the Jacobian norm, as in `netopsy.jacobian_norm`.
        transitions: model and curve -> where on the curve its transitions are, each t in [0, 1); such as
            `lambda model, path: netopsy.transitions(model, path).crossings.t`. They are counted in intervals around
            the angles and divided by the interval's length.
        task: how outputs are read.

    Returns:
        A result with a row for every network, curve and angle.

    Raises:
        NetopsyError: for input that cannot be worked with.
    """
    started = time.perf_counter()
    one_of("quantity", quantity, ("jacobian", "transitions"))
    at_least("points", points, 24)
    if points % 24:
        raise NetopsyError(f"points: expected a multiple of 24; got {points}; such as {24 * max(1, points // 24)}")
    if (quantity == "transitions") != (transitions is not None):
        raise NetopsyError(
            "transitions: expected a function (model, path) -> places in [0, 1) with quantity='transitions', and "
            f"only with it; got {transitions!r} with quantity={quantity!r}"
        )
    nets = [models] if isinstance(models, nn.Module) else list(models)
    kinds = {name: list(group) for name, group in (paths if isinstance(paths, Mapping) else {"path": paths}).items()}
    if not nets or not kinds or not all(kinds.values()):
        raise NetopsyError("models, paths: expected at least one network, and at least one curve of each kind")
    t = torch.arange(points, dtype=torch.float64) / points
    rows = []
    for kind, curves in kinds.items():
        for path, curve in enumerate(curves):
            for net, model in enumerate(nets):
                if transitions is None:
                    value = jacobian_norm(model, _as_taken(model, curve.at(t)), output=output, task=task).norms
                else:
                    value = _density(np.asarray(transitions(model, curve), dtype=np.float64), points)
                columns = {"kind": kind, "net": net, "path": path, "angle": 2 * math.pi * t.numpy(), "value": value}
                rows.append(pd.DataFrame(columns))
    frame = pd.concat(rows, ignore_index=True)
    return EllipseProfile(
        frame=frame.astype({"kind": "string", "net": "Int64", "path": "Int64"}),
        provenance={
            "probe": "ellipse_profile",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "quantity": quantity,
            "output": output,
            "points": points,
            "seconds": time.perf_counter() - started,
        },
    )


def _as_taken(model: nn.Module, x: Float[Tensor, "p ..."]) -> Float[Tensor, "p ..."]:
    """In the precision of the model's parameters."""
    kinds = [value.dtype for value in model.parameters() if value.is_floating_point()]
    return x.to(kinds[0]) if kinds else x


def _density(places: FloatArray, points: int) -> FloatArray:
    """Transitions per radian in the interval around each angle."""
    if places.size and not (places.min() >= 0 and places.max() <= 1):
        raise NetopsyError(
            f"transitions: expected places in [0, 1); got {places.min():g} to {places.max():g}; divide by the length"
        )
    bins = np.floor(places * points + 0.5).astype(np.int64) % points
    counts: FloatArray = np.bincount(bins, minlength=points) * points / (2 * math.pi)
    return counts


def _near(angle: FloatArray, places: Sequence[float]) -> Any:
    """Whether an angle is within the window of one of the places, around the circle; ends count."""
    apart = np.abs((angle[:, None] - np.array(places) + math.pi) % (2 * math.pi) - math.pi)
    return (apart <= WINDOW + 1e-9).any(1)
