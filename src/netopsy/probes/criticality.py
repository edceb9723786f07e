"""Module criticality: how far a module can go back to where it started, and how much noise it bears there.

Chatterji, Neyshabur, Sedghi: The Intriguing Role of Module Criticality in the Generalization of Deep Networks (ICLR
2020), Definition 3.1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from scipy.stats import t as student
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside
from netopsy._random import derive
from netopsy._typing import FloatArray
from netopsy.engine.execution import Engine
from netopsy.engine.perturb import Measured, Surroundings
from netopsy.network.sites import SiteSpec, find_sites, parameter_count
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import described
from netopsy.probes.criticality_lines import open_lines, read_start
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.probes.criticality_search import FEW, Found, Landscape, largest_sigma, search
from netopsy.probes.crossing import Estimate, Sample
from netopsy.probes.valley import ALPHAS, default_sigmas, grid_rows


def criticality(
    trajectory: Trajectory | nn.Module,
    train_data: Any,
    *,
    epsilon: float | Sequence[float] = 0.1,
    sites: SiteSpec = "modules",
    noise_samples: int = 10,
    seed: int = 0,
    relative_tolerance: float = 0.01,
    confidence: float = 0.95,
    end_sigma: bool = False,
    surface: bool = False,
    engine: Engine = "auto",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> CriticalityResult:
    """Measure each module's criticality, the least alpha² ‖θ^F − θ^0‖² / sigma² at which the network still works.

    A module's parameters are put at (1 − alpha) θ^0 + alpha θ^F + u, u normal with standard deviation sigma; all
    others stay trained. Over 0 <= alpha <= 1 and 0 < sigma <= 1 the least value is sought at which the mean 0-1 error
    on the training data is at most epsilon. The mean over u is that of `noise_samples` draws, the same at every alpha
    and sigma. Batch norm's running statistics move with their site's parameters, and get no noise.

    Args:
        trajectory: checkpoints of a training run, with the weights that it started from.
        train_data: examples the network was trained on, in any form that `netopsy.evaluate` takes.
        epsilon: the training error allowed; or several, which share work.
        sites: modules, one at a time.
        noise_samples: draws of u.
        seed: of the draws, of the order of the examples and of the search.
        relative_tolerance: how far above the least value, at these draws, the one found may lie, where the error is a
            smooth function; of few examples and draws it goes in steps, and a narrow peak may be missed by more.
        confidence: of the intervals over the draws.
        end_sigma: also find the largest sigma that is allowed at alpha = 1, on all data: column `end_sigma`, which
            `netopsy.complexity` takes for its `pac_bayes`.
        surface: also measure error and loss over a grid of alpha and sigma, on at most 1,024 examples.
        engine: `"auto"`, `"exported"` or `"eager"`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the sites done and their number.

    Returns:
        A result with a row for every site and epsilon. Its alpha and sigma are feasible on all of the data.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    levels = _read_levels(epsilon)
    at_least("noise_samples", noise_samples, 1)
    inside("relative_tolerance", relative_tolerance, 0, 0.5, open_low=True)
    inside("confidence", confidence, 0, 1, open_low=True, open_high=True)
    trajectory, start = read_start(trajectory)
    model = trajectory.model()
    found = find_sites(model, sites)
    rows: list[dict[str, Any]] = []
    grid: list[dict[str, Any]] = []
    tests: dict[str, int] = {}
    with open_lines(
        model, trajectory, start, train_data, found, seed=seed, task=task, engine=engine, batch_size=batch_size
    ) as data:
        first = FEW if data.run.source.drawn else data.total
        for done, site in enumerate(found):
            around = data.around(site, noise_samples)
            head: dict[str, Any] = {
                "site": site.name,
                "distance": around.line.distance(),
                "parameters": parameter_count(model, site),
            }
            fixed = site.name in data.idle or around.line.is_still()
            land, whole = _landscape(around, first)
            part = _module(around, land, whole, levels, relative_tolerance, confidence, seed, fixed)
            if end_sigma and math.isfinite(head["distance"]):
                for row in part:
                    row["end_sigma"] = largest_sigma(land, row["epsilon"], tolerance=relative_tolerance)
            tests[site.name] = land.tests
            rows += [{**head, **row} for row in part]
            if surface:
                points = grid_rows(around, ALPHAS, default_sigmas(around.line), min(FEW, data.total))
                grid += [{"site": site.name, **point} for point in points]
            if progress is not None:
                progress(done + 1, len(found))
        execution, source = data.run.execution, data.run.source
        provenance = {
            "probe": "criticality",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": source.fingerprint,
            "examples": data.total,
            "engine": execution.used,
            "engine_reasons": list(execution.reasons),
        }
    return CriticalityResult(
        frame=_typed(pd.DataFrame(rows)),
        surface=pd.DataFrame(grid) if surface else None,
        provenance={
            **provenance,
            "sites": described(sites),
            "initial": start,
            "final": trajectory.final,
            "epsilon": list(levels),
            "noise_samples": noise_samples,
            "relative_tolerance": relative_tolerance,
            "confidence": confidence,
            "seed": seed,
            "tests": tests,
            "seconds": time.perf_counter() - started,
        },
    )


def _read_levels(epsilon: float | Sequence[float]) -> tuple[float, ...]:
    """The errors allowed, as they were given."""
    levels = tuple(float(e) for e in epsilon) if isinstance(epsilon, Sequence) else (float(epsilon),)
    if not levels:
        raise NetopsyError("epsilon: expected an error between 0 and 1, or several; got none")
    for level in levels:
        inside("epsilon", level, 0, 1, open_high=True)
    if len(set(levels)) < len(levels):
        raise NetopsyError(f"epsilon: expected each value once; got {levels}")
    return levels


def _landscape(around: Surroundings, first: int) -> tuple[Landscape, dict[tuple[float, float], Measured]]:
    """A site's errors; and the points that were measured on all data."""
    line, total = around.line, around.total
    whole: dict[tuple[float, float], Measured] = {}

    def measure(alpha: float, sigma: float, sample: Sample) -> Estimate:
        (found,) = around.measure([(alpha, sigma)], sample.size)
        if sample.size >= total:
            whole[alpha, sigma] = found
        if sample.anchor is not None:
            return Estimate(*found.beside(whole[sample.anchor]))
        return Estimate(found.error, found.spread)

    return Landscape(measure, total, line.size() or 1.0, first, 1 / (total * len(line.seeds))), whole


def _module(
    around: Surroundings,
    land: Landscape,
    whole: Mapping[tuple[float, float], Measured],
    levels: Sequence[float],
    tolerance: float,
    confidence: float,
    seed: int,
    fixed: bool,
) -> list[dict[str, Any]]:
    """One site's rows, in the order of `levels`; from the smallest epsilon up."""
    line, distance = around.line, around.line.distance()
    rows: dict[float, dict[str, Any]] = {}
    before: Found | None = None
    for epsilon in sorted(levels):
        if not math.isfinite(distance):
            rows[epsilon] = _row("non-finite", Found("infeasible"), math.nan, None, confidence)
            continue
        found = search(
            land,
            epsilon,
            tolerance=tolerance,
            seed=derive(seed, "search", line.site.name),
            before=before,
        )
        if before is not None and _worse(found, before):
            found = before  # what a smaller error allowed, a larger one does
        if found.status != "infeasible":
            before = found
        mine = whole[found.alpha, found.sigma].draws if found.status != "infeasible" else None
        if mine is None:  # what there is to say: the trained network's error
            (trained,) = around.measure([(1.0, 0.0)], around.total)
            rows[epsilon] = _row(found.status, found, math.nan, None, confidence) | {"error": trained.error}
        else:
            rows[epsilon] = _row(found.status, found, distance, mine, confidence)
        if fixed:
            rows[epsilon] |= {"status": "no-op", "mu": 0.0, "mu_low": 0.0, "mu_high": 0.0, "alpha": 0.0}
    return [{"epsilon": epsilon, **rows[epsilon]} for epsilon in levels]


def _worse(found: Found, before: Found) -> bool:
    return found.status == "infeasible" or found.alpha / found.sigma > before.alpha / before.sigma


def _row(status: str, found: Found, distance: float, draws: FloatArray | None, confidence: float) -> dict[str, Any]:
    """mu with its interval: that of the error over the draws, through the slope of the error in log sigma."""
    error = half = spread = math.nan
    if draws is not None:
        error = float(draws.mean())
        if len(draws) > 1:
            spread = (
                float(draws.std(ddof=1)) / math.sqrt(len(draws)) * student.ppf((1 + confidence) / 2, len(draws) - 1)
            )
    mu = (found.alpha * distance / found.sigma) ** 2
    if found.status == "alpha-zero":
        half = 0.0
    elif not math.isnan(found.slope):
        half = min(2 * spread / found.slope, 300.0)
    return {
        "mu": mu,
        "mu_low": mu * math.exp(-half),
        "mu_high": mu * math.exp(half),
        "alpha": found.alpha,
        "sigma": found.sigma,
        "error": error,
        "error_low": max(0.0, error - spread) if not math.isnan(spread) else math.nan,
        "error_high": min(1.0, error + spread) if not math.isnan(spread) else math.nan,
        "examples": found.examples,
        "status": status,
    }


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    columns = ["site", "epsilon", "mu", "mu_low", "mu_high", "alpha", "sigma", "distance", "error", "parameters"]
    extra = ["end_sigma"] if "end_sigma" in frame else []
    typed = frame[[*columns, "status", "error_low", "error_high", "examples", *extra]]
    return typed.astype({"site": "string", "status": "string", "parameters": "Int64", "examples": "Int64"})
