"""Tidy rows over alpha and sigma -> grids, and the logarithmic scale with a place for zero that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from netopsy._checks import NetopsyError, one_of
from netopsy.plots.frames import METRICS, UNNAMED, Quantity, floats, need, one_split, ordered_sites

SOURCE = "netopsy.valley(...).to_frame()"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One module's values, sigmas x alphas, both ascending; NaN where nothing finite was measured."""

    site: str
    alphas: Float[np.ndarray, " a"]
    sigmas: Float[np.ndarray, " s"]
    value: Float[np.ndarray, "s a"]
    examples: int
    quantity: Quantity
    label: str


@dataclass(frozen=True, kw_only=True)
class SigmaScale:
    """log10 of sigma; zero lies one step below the least positive value. From `bottom` to `top`."""

    zero: float
    bottom: float
    top: float

    def at(self, sigmas: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
        """Places along the axis."""
        return np.where(sigmas > 0, np.log10(np.where(sigmas > 0, sigmas, 1.0)), self.zero)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Places and labels of round numbers, and of zero where it is on the axis."""
        first, last = int(np.floor(self.bottom)), int(np.ceil(self.top))
        decades = np.arange(first, last + 1)
        apart = 0.07 * (self.top - self.zero)
        least = self.zero + apart if self.bottom <= self.zero else self.bottom
        for factors in ((1,), (1, 3), (1, 2, 5)):
            values = np.array([factor * 10.0**decade for decade in decades for factor in factors])
            inside = values[(np.log10(values) > least - 1e-9) & (np.log10(values) <= self.top + 1e-9)]
            if len(inside) >= 3:
                break
        zero = [(self.zero, "0")] if self.bottom <= self.zero else []
        named = [*zero, *((float(np.log10(value)), f"{value:g}") for value in inside)]
        return [place for place, _ in named], [name for _, name in named]


def read_grids(frame: pd.DataFrame, metric: str, split: str | None) -> list[Grid]:
    """A grid for each site, in the frame's order. Raises `NetopsyError` for a frame that gives none."""
    one_of("metric", metric, ("error", "loss"))
    need(frame, ("site", "alpha", "sigma", metric, "examples"), SOURCE)
    rows, chosen = one_split(frame if "split" in frame else frame.assign(split=UNNAMED), split)
    return [
        read_grid(rows[rows["site"].astype(str) == site], site, metric, chosen) for site in ordered_sites(rows.site)
    ]


def read_grid(part: pd.DataFrame, site: str, metric: str, split: str) -> Grid:
    """The grid of one site."""
    alpha, sigma, numbers = (floats(part[name]) for name in ("alpha", "sigma", metric))
    alphas, sigmas = np.unique(alpha), np.unique(sigma)
    if min(len(alphas), len(sigmas)) < 2:
        raise NetopsyError(
            f"frame: expected at least two alphas and two sigmas for {site!r}; got {len(alphas)} and {len(sigmas)}; "
            "draw values along one sigma with netopsy.plots.paths.path_panels"
        )
    if part.duplicated(["alpha", "sigma"]).any():
        raise NetopsyError(
            f"frame: expected one row for a site, alpha and sigma; got several for {site!r}; draw one run at a time"
        )
    value = np.full((len(sigmas), len(alphas)), np.nan)
    value[np.searchsorted(sigmas, sigma), np.searchsorted(alphas, alpha)] = np.where(
        np.isfinite(numbers), numbers, np.nan
    )
    if np.isnan(value).all():
        raise NetopsyError(f"frame: expected finite values of {metric}; {site!r} has none; draw other sites")
    return Grid(
        site=site,
        alphas=alphas,
        sigmas=sigmas,
        value=value,
        examples=int(part["examples"].max()),
        quantity=METRICS[metric],
        label=METRICS[metric].named(split),
    )


def largest(grids: Sequence[Grid], metric: str) -> float:
    """The end of the scale: the largest error; of the loss, which has no bound, the 80th percentile."""
    finite = np.concatenate([grid.value[np.isfinite(grid.value)] for grid in grids])
    return max(float(finite.max() if metric == "error" else np.quantile(finite, 0.8)), 1e-9)


def sigma_scale(grids: Sequence[Grid], others: Sequence[float] = ()) -> SigmaScale:
    """The scale on which all grids and other points find room."""
    every = np.concatenate([*(grid.sigmas for grid in grids), np.array(others, dtype=np.float64)])
    placed = np.log10(every[every > 0])
    steps = [np.diff(np.log10(grid.sigmas[grid.sigmas > 0])) for grid in grids]
    step = float(np.median(np.concatenate([*steps, [0.3]])))
    zero = float(placed.min()) - max(step, 0.1)
    top = float(placed.max())
    return SigmaScale(zero=zero, bottom=zero if bool((every == 0).any()) else float(placed.min()), top=top)


def star_points(optima: pd.DataFrame | None, grids: Sequence[Grid]) -> dict[str, list[tuple[float, float]]]:
    """Site -> alpha and sigma of the points to mark; those without any are left out."""
    if optima is None:
        return {}
    need(optima, ("site", "alpha", "sigma"), "netopsy.criticality(...).to_frame()")
    known = {grid.site for grid in grids}
    found: dict[str, list[tuple[float, float]]] = {}
    for site, alpha, sigma in zip(optima["site"], floats(optima["alpha"]), floats(optima["sigma"]), strict=True):
        if str(site) in known and np.isfinite(alpha) and sigma > 0:
            found.setdefault(str(site), []).append((float(alpha), float(sigma)))
    return found
