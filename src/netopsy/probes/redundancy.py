"""Redundancy of the units of each layer: compressibility and similarity.

Casper et al.: Frivolous Units: Wider Networks Are Not Really That Wide (2019), §2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy._random import derive
from netopsy._typing import FloatArray, IntArray
from netopsy.engine.batches import open_data
from netopsy.engine.moments import Moments, Reading, sample_entries, unit_moments
from netopsy.network.addresses import unwrap
from netopsy.network.states import check_parameters
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer, UnitSpec, find_units
from netopsy.probes.redundancy_result import MEANS, RedundancyResult

Convention: TypeAlias = Literal["channels", "positions"]
"""A unit of a convolution is a channel, with every position a sample; or a channel at a position."""

MOST = 50_000
"""Units of a layer at most (the paper's); their cross-products in float64 take 20 GB."""

BINS = 50
"""Of the distribution of abs(r), between 0 and 1."""

SPECTRUM = 16
"""Above what float32 does to sums of a covariance's largest eigenvalues, in √n ε ‖C‖_F: 5 is the most seen."""

ROUNDING = 1e-6
"""A unit whose standard deviation is a smaller part of its mean is constant: float32 has 24 bits."""


def redundancy(
    model: nn.Module,
    data: Any,
    *,
    sites: UnitSpec = None,
    level: float = 0.95,
    similar: float = 0.5,
    convention: Convention = "channels",
    most: int = 2000,
    samplings: int = 3,
    ridge: float = 1e-6,
    seed: int = 0,
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> RedundancyResult:
    """Measure how far the units of each layer could be fewer: all layers in one pass over the data.

    Args:
        model: a trained network.
        data: examples in any form that `netopsy.evaluate` takes.
        sites: the layers; by default the outputs of all activation modules (see
            `netopsy.network.units.find_units`).
        level: share of the variance that the principal components are to keep.
        similar: two units are similar from this abs(r) on (Pearson).
        convention: what a unit of a value with positions is: a channel, every position a sample (`"channels"`); or
            a channel at a position, every example a sample (`"positions"`).
        most: units of a layer that are drawn for `"positions"` where it has more; memory is 12 bytes times its square
            for each layer and sampling. The paper's 50,000 are the most that is taken.
        samplings: how often they are drawn; the result has the mean and the standard deviation.
        ridge: added to the correlation matrix's diagonal before it is inverted for R² (a share of a unit's variance);
            raised tenfold until the inverse exists.
        seed: of the samplings and of the order of the examples.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the examples done and their total.

    Returns:
        A result with a row a layer, and one a unit.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    inside("level", level, 0, 1, open_low=True)
    inside("similar", similar, 0, 1, open_low=True)
    inside("ridge", ridge, 0, 1, open_low=True)
    one_of("convention", convention, ("channels", "positions"))
    at_least("samplings", samplings, 1)
    at_least("most", most, 2)
    if most > MOST:
        raise NetopsyError(
            f"most: expected at most {MOST} units a layer; got {most}; choose fewer and more samplings"
        )
    if not isinstance(model, nn.Module):
        raise NetopsyError(
            f"model: expected a torch module; got {type(model).__name__}; of a trajectory pass .model(key)"
        )
    model, task = unwrap(model), task or Task()
    check_parameters(model)
    source = open_data(data, batch_size=batch_size, seed=seed)
    layers = find_units(model, task.inputs(source.first()), sites, task=task)
    readings = [reading for layer in layers for reading in _readings(layer, convention, most, samplings, seed)]
    read = unit_moments(model, source, readings, task=task, progress=progress)
    rows: list[dict[str, Any]] = []
    units, pairs = [], []
    numbers = {layer.name: 0 for layer in layers}
    while read:  # each is freed when it has been looked at
        reading, moments = readings[len(rows)], read.pop(0)
        name = reading.layer.name
        found = _measure(moments, level=level, similar=similar, ridge=ridge)
        key = {"site": name, "sampling": numbers[name]}
        numbers[name] += 1
        rows.append({**key, **found.row})
        which = np.arange(reading.units) if reading.entries is None else reading.entries
        units.append(pd.DataFrame({**key, "unit": which, **found.units}))
        if found.pairs is not None:
            edges = np.linspace(0, 1, BINS + 1)
            pairs.append(pd.DataFrame({**key, "low": edges[:-1], "high": edges[1:], "pairs": found.pairs}))
    table = pd.DataFrame(rows)
    return RedundancyResult(
        frame=_summary(table, convention),
        units=_typed(pd.concat(units, ignore_index=True), {"unit": "Int64", "similar": "Int64"}),
        pairs=_typed(pd.concat(pairs, ignore_index=True) if pairs else _no_pairs(), {"pairs": "Int64"}),
        samplings=_typed(table, {"components": "Int64"}),
        provenance={
            "probe": "redundancy",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": source.fingerprint,
            "examples": _examples(table, readings, source.total),
            "layers": {layer.name: {"address": str(layer.address), "shape": list(layer.shape)} for layer in layers},
            "level": level,
            "similar": similar,
            "convention": convention,
            "most": most,
            "samplings": samplings,
            "ridge": ridge,
            "seed": seed,
            "seconds": time.perf_counter() - started,
        },
    )


def _readings(layer: UnitLayer, convention: Convention, most: int, samplings: int, seed: int) -> list[Reading]:
    """One of each layer; where entries are drawn, one a sampling."""
    if convention == "channels" or layer.size != 1:  # units of several numbers are refused by the pass
        return [Reading(layer)]
    if not layer.shape:
        raise NetopsyError(
            f"site {layer.name!r}: expected a UnitLayer with the shape of one example's value for "
            "convention='positions'; take it from netopsy.network.units.find_units"
        )
    drawn = int(np.prod(layer.shape, dtype=np.int64)) > most
    seeds = [derive(seed, "positions", layer.name, k) for k in range(samplings if drawn else 1)]
    return [Reading(layer, sample_entries(layer, most, each)) for each in seeds]


@dataclass(frozen=True)
class Found:
    """What is measured of one reading: numbers of the layer, columns of its units, pairs of units by |r|."""

    row: dict[str, Any]
    units: dict[str, Any]
    pairs: IntArray | None


def _measure(moments: Moments, *, level: float, similar: float, ridge: float) -> Found:
    """Compressibility and similarity; null, with a status, where they have no meaning."""
    finite = bool(torch.isfinite(moments.mean).all() and torch.isfinite(moments.cross.diagonal()).all())
    silent, constant = still(moments)
    count, varying = len(moments.mean), ~(silent | constant)
    moving = int(varying.sum())
    row: dict[str, Any] = {
        "units": count,
        "components": None,
        "compressibility": np.nan,
        "similar_per_unit": np.nan,
        "similar_share": np.nan,
        "silent": int(silent.sum()),
        "constant": int(constant.sum()),
        "samples": moments.count,
        "ridge": np.nan,
        "status": _status(finite, count, moving, moments.count),
    }
    unit: dict[str, Any] = {
        "activity": (moments.active / moments.count).numpy(),
        "mean": moments.mean.numpy(),
        "variance": moments.variance.numpy(),
        "r2": np.full(count, np.nan),
        "similar": pd.array([pd.NA] * count, dtype="Int64"),
        "kind": np.select([silent.numpy(), constant.numpy()], ["silent", "constant"], "varying"),
    }
    pairs = None
    if finite and count > 1 and moving:
        row["components"] = components(moments.covariance, level)
        row["compressibility"] = 1 - row["components"] / count
    if finite and moving > 1:
        r = moments.correlation(varying)
        near = ((r.abs() >= similar).sum(1) - 1).numpy()
        row["similar_per_unit"], row["similar_share"] = float(near.mean()), float(near.mean() / (moving - 1))
        unit["similar"][varying.numpy()] = near
        pairs = histogram(r)
        if row["status"] == "ok":
            fitted, row["ridge"] = explained(r, ridge, moments.count)
            unit["r2"][varying.numpy()] = fitted
    return Found(row, unit, pairs)


def _status(finite: bool, units: int, varying: int, samples: int) -> str:
    if not finite:
        return "non-finite"
    if varying == 0:
        return "constant"
    if units == 1 or varying == 1:
        return "one unit"
    return "ok" if samples > varying + 1 else "few samples"


def still(moments: Moments) -> tuple[Bool[Tensor, " units"], Bool[Tensor, " units"]]:
    """Units that are zero on all samples (silent), and others that do not vary beyond rounding (constant)."""
    variance = moments.variance
    silent = (moments.mean == 0) & (variance == 0)
    flat = variance.sqrt() <= ROUNDING * moments.mean.abs()
    return silent, flat & ~silent


def components(covariance: Float[Tensor, "units units"], level: float) -> int:
    """Principal components that keep a share of the variance.

    A spectrum in float32 takes half the time. Its number stands where it is the same for sums of eigenvalues larger
    and smaller by `SPECTRUM` √n ε ‖C‖_F; else float64 decides.
    """
    moving = covariance.diagonal() > 0
    kept = covariance if bool(moving.all()) else covariance[moving][:, moving]
    kept = kept / kept.diagonal().sum()
    rounding = SPECTRUM * len(kept) ** 0.5 * torch.finfo(torch.float32).eps * float(torch.linalg.matrix_norm(kept))
    sums = torch.linalg.eigvalsh(kept.float()).double().flip(0).cumsum(0)
    few, many = (int((sums < level + way * rounding).sum()) for way in (-1, 1))
    if few != many:
        sums = torch.linalg.eigvalsh(kept).clamp(min=0).flip(0).cumsum(0)
        few = int((sums < level * sums[-1] * (1 - 1e-12)).sum())
    return min(few + 1, len(sums))


def explained(r: Float[Tensor, "k k"], ridge: float, samples: int) -> tuple[FloatArray, float]:
    """R² of the best linear reconstruction of each unit from the others, and the ridge it took.

    Of the samples themselves it is 1 - 1 / (r⁻¹)_ii; this is too high by about k / samples, and is adjusted for it
    (Ezekiel 1930): 1 - (1 - R²) (samples - 1) / (samples - k), and 0 where that is negative. Units that others
    determine exactly make r singular: with the ridge λ their R² is 1 - O(λ).
    """
    while True:
        raised = r.clone()
        raised.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(raised)
        if not int(failed):
            break
        ridge *= 10  # float32 products need not give a matrix without negative eigenvalues
    diagonal = torch.cholesky_inverse(factor).diagonal()
    values: FloatArray = (1 - (samples - 1) / (samples - len(r)) / diagonal).clamp(0, 1).numpy()
    return values, ridge


def histogram(r: Float[Tensor, "k k"]) -> IntArray:
    """Pairs of different units by |r|; a bin holds its lower edge, the last one also 1."""
    counts = torch.histc(r.abs(), BINS, 0, 1).long()
    counts[-1] -= len(r)  # the diagonal
    pairs: IntArray = (counts // 2).numpy()
    return pairs


def _summary(table: pd.DataFrame, convention: Convention) -> pd.DataFrame:
    """A row a layer; of several samplings the means and standard deviations."""
    rows = []
    for _, part in table.groupby("site", sort=False):
        first = part.iloc[0].drop("sampling").to_dict()
        numbers = part[list(MEANS)].astype("float64")
        means, spread = numbers.mean(), numbers.std(ddof=1)
        status = part.status[part.status != "ok"]
        first |= means.to_dict() | {"status": "ok" if status.empty else status.iloc[0], "samplings": len(part)}
        rows.append(first | {f"{name}_sd": spread[name] for name in MEANS})
    frame = _typed(pd.DataFrame(rows), {"samplings": "Int64"})
    if convention == "channels":
        return frame.astype(dict.fromkeys(("components", "silent", "constant"), "Int64"))
    return frame


def _typed(frame: pd.DataFrame, kinds: dict[str, str]) -> pd.DataFrame:
    text = [name for name in ("site", "status", "kind") if name in frame]
    whole = [name for name in ("sampling", "units", "samples") if name in frame]
    return frame.astype({**dict.fromkeys(text, "string"), **dict.fromkeys(whole, "Int64"), **kinds})


def _no_pairs() -> pd.DataFrame:
    columns = {"site": str, "sampling": int, "low": float, "high": float, "pairs": int}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})


def _examples(table: pd.DataFrame, readings: Sequence[Reading], total: int | None) -> int | None:
    """Of the data; where only a pass tells, known from layers of which an example is a sample."""
    if total is not None:
        return total
    plain = [i for i, reading in enumerate(readings) if reading.entries is not None or len(reading.layer.shape) == 1]
    return int(table.samples[plain[0]]) if plain else None
