"""Criticality of all modules under one constraint: each is moved back and noisy at the same time.

Chatterji, Neyshabur, Sedghi: The Intriguing Role of Module Criticality in the Generalization of Deep Networks (ICLR
2020), Corollary 3.3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import Bounds, NonlinearConstraint, minimize
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside, shorten
from netopsy._typing import BoolArray, FloatArray
from netopsy.engine.execution import Engine
from netopsy.engine.line import Line
from netopsy.network.sites import Site, SiteSpec, find_sites, parameter_count
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import described
from netopsy.probes.criticality import criticality as each_alone
from netopsy.probes.criticality_lines import open_lines, read_start
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.probes.criticality_search import SMALLEST
from netopsy.probes.crossing import Curve, Estimate, Root, Sample, crossing, finish
from netopsy.probes.joint_lines import Together, check_disjoint

FACTOR = 8.0
"""The largest common factor on sigma that is tried."""

PULLS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the search may start between the modules' own optima and alpha = 1."""

CANDIDATES = 4
"""Of the search's choices, of which the common factor is found before the best is taken."""

FLATTEST = 0.02
"""Least slope of the error in log sigma that is believed."""


@dataclass(frozen=True, eq=False)
class JointCriticalityResult:
    """Alpha and sigma of all modules of one trained network, chosen together.

    Attributes:
        frame: one row for each site; see `to_frame`.
        provenance: options, seeds, versions, data fingerprint, engine used and why, points measured, seconds; and
            `start`, the total with which the search began.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, which `netopsy.pac_bayes_bound` and `netopsy.noisy_error` take as modules.

        Columns: `site`; `epsilon`; `alpha`, `sigma`; `distance`, ‖θ^F − θ^0‖ of the site's parameters; `parameters`
        k; `mu` = k log(1 + alpha² distance² / (k sigma²)); `error`, the mean training error with all sites moved and
        noisy together, on all data and draws, the same in each row; `status` (`feasible`; `alpha-zero`; `no-op`: it
        never moved; `infeasible`: no choice is allowed for the sites together, and `error` is the trained network's).
        """
        return self.frame.copy()

    def total(self) -> float:
        """Sum of mu over the sites; NaN where they are `infeasible`."""
        return float(self.frame.mu.sum(skipna=False))

    def __str__(self) -> str:
        table = self.frame.set_index("site").rename_axis(None)
        text = table.to_string(float_format=lambda value: f"{value:.4g}", na_rep="–")
        return (
            f"{text}\njoint criticality {self.total():.4g} (the search began at {self.provenance['start']:.4g}): an "
            f"upper bound of the least at {self.provenance['noise_samples']} noise draws"
        )


@dataclass(frozen=True, eq=False)
class _Choice:
    """Alpha and log sigma of each site."""

    alphas: FloatArray
    logs: FloatArray


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is minimized, and the one constraint.

    Attributes:
        measure: (alphas, sigmas, examples) -> the error.
        total: examples there are; `few` of them are the subsample's.
        bottoms: log of each site's smallest sigma.
    """

    measure: Callable[[FloatArray, FloatArray, int], Estimate]
    few: int
    total: int
    grain: float
    epsilon: float
    tolerance: float
    distances: FloatArray
    parameters: FloatArray
    bottoms: FloatArray

    @property
    def moved(self) -> BoolArray:
        return self.distances > 0

    def sigmas(self, choice: _Choice, factor: float = 1.0) -> FloatArray:
        """Noise where it lowers mu: at most 1, and the least of a site that is at its start."""
        noisy = self.moved & (choice.alphas > 0)
        logs = np.where(noisy, np.clip(choice.logs + math.log(factor), self.bottoms, 0.0), self.bottoms)
        return np.exp(logs)

    def mus(self, alphas: FloatArray, sigmas: FloatArray) -> FloatArray:
        """k log(1 + alpha² ‖Δ‖² / (k sigma²))."""
        return self.parameters * np.log1p((alphas * self.distances / sigmas) ** 2 / self.parameters)

    def value(self, choice: _Choice, factor: float = 1.0) -> float:
        return float(self.mus(choice.alphas, self.sigmas(choice, factor)).sum())

    def curve(self, choice: _Choice) -> Curve:
        """The error along a common factor on sigma, in units of `FACTOR`."""

        def measure(part: float, sample: Sample) -> Estimate:
            return self.measure(choice.alphas, self.sigmas(choice, part * FACTOR), sample.size)

        return Curve(measure, self.total, math.log(SMALLEST / FACTOR), self.grain)

    def fit(self, choice: _Choice) -> tuple[_Choice, Root, Curve] | None:
        """Sigmas times the largest factor that the subsample allows; None where it allows none."""
        curve = self.curve(choice)
        found = crossing(curve, self.epsilon, Sample(self.few), -math.log(FACTOR))
        if found is None:
            return None
        return _Choice(choice.alphas, np.log(self.sigmas(choice, math.exp(found.log_sigma) * FACTOR))), found, curve

    def finished(self, choice: _Choice) -> _Choice | None:
        """Sigmas times the largest factor that all examples allow."""
        fitted = self.fit(choice)
        curve = self.curve(choice) if fitted is None else fitted[2]
        root = Root(curve.bottom, 0.1, 0.0) if fitted is None else fitted[1]
        x = finish(curve, root, self.epsilon, self.tolerance)
        return None if x is None else _Choice(choice.alphas, np.log(self.sigmas(choice, math.exp(x) * FACTOR)))

    def searched(self, start: _Choice, slope: float, evaluations: int) -> list[_Choice]:
        """Good choices by the subsample, the best first: COBYQA (Ragonneau, Zhang 2023) from the start.

        A point's rank is its value after the common factor on sigma that the slope of the error in log sigma says
        would use the constraint up: the points go back and forth over its edge.
        """
        free = self.moved & (start.alphas > 0)
        count, tried = int(free.sum()), [(self.value(start), start)]
        if not count or tried[0][0] == 0:
            return [start]

        def choice(x: FloatArray) -> _Choice:
            alphas, logs = start.alphas.copy(), start.logs.copy()
            alphas[free], logs[free] = np.clip(x[:count], 0, 1), x[count:]
            return _Choice(alphas, logs)

        def goal(x: FloatArray) -> float:
            return math.log(max(self.value(choice(x)), 1e-12))

        seen: dict[bytes, float] = {}

        def excess(x: FloatArray) -> float:
            known = x.tobytes()  # COBYQA asks for the constraint at one point some ten times
            if known not in seen:
                seen[known] = measured(x)
            return seen[known]

        def measured(x: FloatArray) -> float:
            point = choice(x)
            error = self.measure(point.alphas, self.sigmas(point), self.few).error
            factor = math.exp(max(-2.0, min(2.0, (self.epsilon - error) / slope)))
            tried.append((self.value(point, factor), point))
            return error / max(self.epsilon, self.grain) - 1

        low = np.concatenate([np.zeros(count), self.bottoms[free]])
        minimize(
            goal,
            np.concatenate([start.alphas[free], np.clip(start.logs[free], low[count:], 0.0)]),
            method="COBYQA",
            bounds=Bounds(low, np.repeat([1.0, 0.0], count)),
            constraints=[NonlinearConstraint(excess, -np.inf, 0.0)],
            options={"maxfev": evaluations, "initial_tr_radius": 0.1, "final_tr_radius": 0.005},
        )
        return [point for _, point in sorted(tried, key=lambda pair: pair[0])]


def joint_criticality(
    trajectory: Trajectory | nn.Module,
    train_data: Any,
    *,
    epsilon: float = 0.1,
    sites: SiteSpec = "modules",
    criticality: CriticalityResult | None = None,
    noise_samples: int = 10,
    seed: int = 0,
    relative_tolerance: float = 0.01,
    examples: int = 4096,
    evaluations: int | None = None,
    engine: Engine = "auto",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> JointCriticalityResult:
    """Choose alpha and sigma of all modules together, under one constraint on the network's error (Corollary 3.3).

    Σ k_i log(1 + alpha_i² ‖Δ_i‖² / (k_i sigma_i²)) is made small over 0 <= alpha_i <= 1, 0 < sigma_i <= 1, where the
    mean 0-1 training error with *all* modules at (1 − alpha_i) θ_i^0 + alpha_i θ_i^F + u_i is at most epsilon. The
    mean over u is that of `noise_samples` draws, the same at every choice. What is found is an upper bound of the
    minimum at these draws, never above the start's value: the start is the best between the modules' own optima and
    alpha = 1, their sigmas times one factor.

    Args:
        trajectory: checkpoints of a training run, with the weights that it started from.
        train_data: examples the network was trained on, in any form that `netopsy.evaluate` takes.
        epsilon: the training error allowed.
        sites: modules that share no values.
        criticality: their own optima at this epsilon, if they are known (`end_sigma=True` is of use); else they are
            measured here.
        noise_samples: draws of u.
        seed: of the draws and of the order of the examples.
        relative_tolerance: how far below its largest allowed value the last common factor on sigma² may lie.
        examples: at about so many the error is measured in the search, each under one of the draws.
        evaluations: of the error in the search; by default 100 and 10 a module.
        engine: `"auto"`, `"exported"` or `"eager"`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the points measured, and None.

    Returns:
        A result with a row for every site. The constraint holds on all of the data at the draws.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    inside("epsilon", epsilon, 0, 1, open_high=True)
    at_least("noise_samples", noise_samples, 1)
    inside("relative_tolerance", relative_tolerance, 0, 0.5, open_low=True)
    at_least("examples", examples, 1)
    if evaluations is not None:
        at_least("evaluations", evaluations, 1)
    trajectory, first = read_start(trajectory)
    model = trajectory.model()
    found = find_sites(model, sites)
    check_disjoint(found)
    rows = None if criticality is None else _own(criticality.to_frame(), found, epsilon)
    options: dict[str, Any] = {"seed": seed, "task": task, "engine": engine, "batch_size": batch_size}
    if rows is None:
        alone = each_alone(
            trajectory,
            train_data,
            epsilon=epsilon,
            sites=sites,
            noise_samples=noise_samples,
            relative_tolerance=0.1,
            end_sigma=True,
            **options,
        )
        rows = _own(alone.to_frame(), found, epsilon)
    points = 0
    with open_lines(model, trajectory, first, train_data, found, **options) as data:
        lines = [data.around(site, noise_samples).line for site in found]
        together = Together(data.run, lines, data.total)
        distances = _distances(lines)
        blocks = together.blocks(examples)
        few = sum(len(data.run.execution.task.labels(block)) for block in blocks) or data.total

        def measure(alphas: FloatArray, sigmas: FloatArray, n: int) -> Estimate:
            nonlocal points
            points += 1
            if progress is not None:
                progress(points, None)
            return together.error(alphas, sigmas) if n == data.total else together.sampled(alphas, sigmas, blocks)

        problem = _Problem(
            measure=measure,
            few=few,
            total=data.total,
            grain=1 / (data.total * noise_samples),
            epsilon=epsilon,
            tolerance=relative_tolerance,
            distances=distances,
            parameters=np.array([parameter_count(model, site) for site in found], dtype=np.float64),
            bottoms=np.array([math.log(min(1.0, SMALLEST * (line.size() or 1.0))) for line in lines]),
        )
        best, start = _solve(problem, rows, evaluations or 100 + 10 * len(found))
        still = np.zeros(len(found))
        error = (
            together.error(np.ones(len(found)), still)
            if best is None
            else together.error(best.alphas, problem.sigmas(best))
        ).error
        execution, source = data.run.execution, data.run.source
        provenance = {
            "probe": "joint_criticality",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": source.fingerprint,
            "examples": data.total,
            "engine": execution.used,
            "engine_reasons": list(execution.reasons),
            "sites": described(sites),
            "initial": first,
            "final": trajectory.final,
            "epsilon": epsilon,
            "noise_samples": noise_samples,
            "relative_tolerance": relative_tolerance,
            "search_examples": few,
            "seed": seed,
            "start": start,
            "points": points,
        }
    return JointCriticalityResult(
        frame=_frame(found, problem, best, error),
        provenance={**provenance, "seconds": time.perf_counter() - started},
    )


def _own(frame: pd.DataFrame, sites: tuple[Site, ...], epsilon: float) -> pd.DataFrame:
    """The modules' own rows at epsilon, in the order of the sites."""
    rows = frame[np.isclose(frame.epsilon.to_numpy(dtype=np.float64), epsilon)].set_index("site")
    missing = [site.name for site in sites if site.name not in rows.index]
    if missing:
        raise NetopsyError(
            f"criticality: expected a row of each site at epsilon = {epsilon:g}; {shorten(missing)} not there"
        )
    ordered: pd.DataFrame = rows.loc[[site.name for site in sites]]
    return ordered


def _distances(lines: list[Line]) -> FloatArray:
    distances = np.array([line.distance() for line in lines])
    bad = [line.site.name for line, distance in zip(lines, distances, strict=True) if not math.isfinite(distance)]
    if bad:
        raise NetopsyError(f"trajectory: expected finite weights; {shorten(bad)} have NaN or infinite ones")
    return distances


def _solve(problem: _Problem, rows: pd.DataFrame, evaluations: int) -> tuple[_Choice | None, float]:
    """The best choice, which all examples allow, and the start's value; None and NaN where they allow none."""
    alphas, sigmas = (rows[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("alpha", "sigma"))
    ends = rows.get("end_sigma", rows.sigma).to_numpy(dtype=np.float64, na_value=np.nan)
    logs, at_end = (np.log(np.where(np.isnan(s), np.exp(problem.bottoms), s)) for s in (sigmas, ends))
    alphas = np.where(problem.moved & ~np.isnan(alphas), alphas, 1.0)
    starts = [_Choice(alphas + pull * (1 - alphas), logs + pull * (at_end - logs)) for pull in PULLS]
    fitted = [fit for fit in map(problem.fit, starts) if fit is not None]
    start, root, _ = min(fitted, key=lambda fit: problem.value(fit[0]), default=(starts[-1], None, None))
    for site in np.argsort(problem.mus(start.alphas, problem.sigmas(start)))[
        ::-1
    ]:  # those that may go back all the way
        if alphas[site] == 0 < start.alphas[site]:
            back = start.alphas.copy()
            back[site] = 0.0
            fit = problem.fit(replace(start, alphas=back))
            if fit is not None and problem.value(fit[0]) < problem.value(start):
                start, root, _ = fit
    begun = problem.finished(start)
    if begun is None:
        return None, math.nan
    if root is None:
        return begun, problem.value(begun)
    slope = FLATTEST if math.isnan(root.slope) else max(root.slope, FLATTEST)
    found = [problem.fit(point) for point in problem.searched(start, slope, evaluations)[:CANDIDATES]]
    better = min((fit[0] for fit in found if fit is not None), key=problem.value, default=start)
    done = problem.finished(better)
    return min([begun] if done is None else [begun, done], key=problem.value), problem.value(begun)


def _frame(sites: tuple[Site, ...], problem: _Problem, best: _Choice | None, error: float) -> pd.DataFrame:
    nothing = np.full(len(sites), math.nan)
    alphas, sigmas = (nothing, nothing) if best is None else (best.alphas, problem.sigmas(best))
    status = np.where(alphas == 0, "alpha-zero", "feasible")
    status = np.where(problem.moved, status, "no-op") if best is not None else np.full(len(sites), "infeasible")
    frame = pd.DataFrame(
        {
            "site": [site.name for site in sites],
            "epsilon": problem.epsilon,
            "alpha": alphas,
            "sigma": sigmas,
            "distance": problem.distances,
            "parameters": problem.parameters.astype(np.int64),
            "mu": problem.mus(alphas, sigmas),
            "error": error,
            "status": status,
        }
    )
    return frame.astype({"site": "string", "status": "string", "parameters": "Int64"})
