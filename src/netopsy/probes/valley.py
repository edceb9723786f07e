"""Valleys and convex paths: loss and error between a module's initial and its trained values.

Chatterji, Neyshabur, Sedghi (ICLR 2020), Figs. 1, 4 and 10.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside
from netopsy.engine.execution import Engine
from netopsy.engine.line import Line
from netopsy.engine.perturb import Surroundings
from netopsy.network.sites import Site, SiteSpec, find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import check_apart, described, read_splits
from netopsy.probes.criticality_lines import open_lines, read_start
from netopsy.probes.valley_result import ValleyResult

ALPHAS = tuple(float(a) for a in np.linspace(0, 1, 11))
FULL_NETWORK = "full network"
"""Name of the path along which all parameters and running statistics move together."""

SIGMAS = (0.0, *(float(s) for s in np.geomspace(0.05, 5, 10)))
"""Of a valley, in units of the root mean square of the module's trained parameters."""


def valley(
    trajectory: Trajectory | nn.Module,
    data: Any,
    site: str | Site,
    *,
    alphas: Sequence[float] = ALPHAS,
    sigmas: Sequence[float] | None = None,
    noise_samples: int = 10,
    seed: int = 0,
    engine: Engine = "auto",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> ValleyResult:
    """Measure error and loss over a grid of alpha and sigma: how wide the valley is from θ^F to θ^0 (Figs. 1, 10).

    The module is at (1 − alpha) θ^0 + alpha θ^F + sigma z, the mean is over `noise_samples` draws z, the same at all
    points and the same as those of `netopsy.criticality` under the same seed.

    Args:
        trajectory: checkpoints of a training run, with the weights that it started from.
        data: examples in any form that `netopsy.evaluate` takes; or a mapping from a split's name to such data.
        site: one module, by its name.
        alphas: between 0 (the initial values) and 1 (the trained ones).
        sigmas: standard deviations of the noise; by default 0 and ten from 0.05 to 5 times the root mean square of
            the module's trained parameters.
        noise_samples: draws of the noise.
        seed: of the draws.
        engine: `"auto"`, `"exported"` or `"eager"`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the splits done and their number.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    check_points(alphas, sigmas)
    at_least("noise_samples", noise_samples, 1)
    trajectory, _ = read_start(trajectory)
    sites = find_sites(trajectory.model(), [site])
    if len(sites) > 1:
        raise NetopsyError(
            f"site: expected the name of one module; {site!r} means {len(sites)} ({', '.join(map(str, sites[:4]))} …)"
        )
    return _measured(
        trajectory,
        data,
        sites,
        alphas,
        sigmas,
        noise_samples,
        {"probe": "valley", "sites": [str(sites[0])], "noise_samples": noise_samples},
        seed=seed,
        engine=engine,
        task=task,
        batch_size=batch_size,
        progress=progress,
    )


def convex_path(
    trajectory: Trajectory | nn.Module,
    data: Any,
    *,
    sites: SiteSpec = "modules",
    full_network: bool = True,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    engine: Engine = "auto",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> ValleyResult:
    """Measure error and loss along (1 − alpha) θ^0 + alpha θ^F of each module, and of the whole network (Fig. 4).

    Args:
        trajectory: checkpoints of a training run, with the weights that it started from.
        data: examples in any form that `netopsy.evaluate` takes; or a mapping from a split's name to such data, such
            as `{"train": ..., "test": ...}`.
        sites: modules, one at a time.
        full_network: add the path along which all parameters and running statistics move together.
        alphas: between 0 (the initial values) and 1 (the trained ones).
        seed: of the order of the examples.
        engine: `"auto"`, `"exported"` or `"eager"`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the paths done and their number.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    check_points(alphas, None)
    trajectory, _ = read_start(trajectory)
    model = trajectory.model()
    single = find_sites(model, sites)
    check_apart([site.name for site in single] + [FULL_NETWORK] * full_network)
    whole = (Site(FULL_NETWORK, find_sites(model, {FULL_NETWORK: "*"})[0].addresses),) if full_network else ()
    return _measured(
        trajectory,
        data,
        (*single, *whole),
        alphas,
        (0.0,),
        1,
        {"probe": "valley", "sites": described(sites), "noise_samples": 0},
        seed=seed,
        engine=engine,
        task=task,
        batch_size=batch_size,
        progress=progress,
    )


def _measured(
    trajectory: Trajectory,
    data: Any,
    sites: Sequence[Site],
    alphas: Sequence[float],
    sigmas: Sequence[float] | None,
    draws: int,
    known: dict[str, Any],
    *,
    seed: int,
    engine: Engine,
    task: Task | None,
    batch_size: int | None,
    progress: Callable[[int, int | None], object] | None,
) -> ValleyResult:
    """Every site and split on the grid."""
    started = time.perf_counter()
    splits, (_, start) = read_splits(data), read_start(trajectory)
    rows: list[dict[str, Any]] = []
    parts: dict[str, Any] = {}
    for split, examples in splits.items():
        with open_lines(
            trajectory.model(),
            trajectory,
            start,
            examples,
            sites,
            seed=seed,
            task=task,
            engine=engine,
            batch_size=batch_size,
        ) as opened:
            for site in sites:
                around = opened.around(site, draws)
                widths = default_sigmas(around.line) if sigmas is None else sigmas
                head = {"site": site.name, "split": split}
                rows += [{**head, **row} for row in grid_rows(around, alphas, widths, opened.total)]
                if progress is not None:
                    progress(len(parts) * len(sites) + sites.index(site) + 1, len(splits) * len(sites))
            execution = opened.run.execution
            parts[split] = {
                "data": opened.run.source.fingerprint,
                "examples": opened.total,
                "engine": execution.used,
                "engine_reasons": list(execution.reasons),
            }
    return ValleyResult(
        frame=pd.DataFrame(rows).astype({"site": "string", "split": "string", "examples": "Int64"}),
        provenance={
            **known,
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "splits": parts,
            "initial": start,
            "final": trajectory.final,
            "seed": seed,
            "seconds": time.perf_counter() - started,
        },
    )


def default_sigmas(line: Line) -> tuple[float, ...]:
    """The grid's, in units of the module's size; not above 1."""
    size = line.size() or 1.0
    return tuple(dict.fromkeys(min(1.0, sigma * size) for sigma in SIGMAS))


def grid_rows(
    around: Surroundings, alphas: Sequence[float], sigmas: Sequence[float], most: int
) -> list[dict[str, float | int]]:
    """`alpha, sigma, error, loss, examples` of every pair, on the first examples."""
    points = [(float(alpha), float(sigma)) for alpha in alphas for sigma in sigmas]
    found = around.measure(points, most, loss=True)
    return [
        {"alpha": a, "sigma": s, "error": one.error, "loss": one.loss, "examples": len(one.errors)}
        for (a, s), one in zip(points, found, strict=True)
    ]


def check_points(alphas: Sequence[float], sigmas: Sequence[float] | None) -> None:
    """Refuse no alphas or sigmas, and those outside their range."""
    for name, values in (("alphas", alphas), ("sigmas", sigmas)):
        if values is not None and not len(values):
            raise NetopsyError(f"{name}: expected at least one; got none")
    for alpha in alphas:
        inside("alphas", float(alpha), 0, 1)
    for sigma in sigmas or ():
        inside("sigmas", float(sigma), 0, float("inf"), open_high=True)
