"""Error of a network under noise, from draws that are independent of how the noise was chosen: for bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least
from netopsy._random import derive
from netopsy._typing import Batch
from netopsy.engine.batches import Source
from netopsy.engine.execution import Engine
from netopsy.engine.line import Line
from netopsy.network.sites import SiteSpec, find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.bound_modules import Modules, read_column, read_sites
from netopsy.probes.criticality_lines import open_lines, read_start
from netopsy.probes.joint_lines import Together, check_disjoint


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyError:
    """Errors of independent draws: each in [0, 1], with the mean E_U L_S(f_{Θα+U}).

    Attributes:
        errors: of each draw, on examples of its own.
        examples: a draw.
        seed: of the draws.
    """

    errors: Float[np.ndarray, " draws"] = field(repr=False)
    examples: int
    seed: int

    @property
    def mean(self) -> float:
        """What `netopsy.pac_bayes_bound` takes as `train_error`, with `draws`."""
        return float(self.errors.mean())

    @property
    def draws(self) -> int:
        """How many."""
        return len(self.errors)

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN for one draw."""
        return float(self.errors.std(ddof=1)) / math.sqrt(self.draws) if self.draws > 1 else math.nan

    def __str__(self) -> str:
        return (
            f"error under noise {self.mean:.4g} ± {self.standard_error:.2g} ({self.draws:,} draws, {self.examples} "
            "examples each)"
        )


def noisy_error(
    trajectory: Trajectory | nn.Module,
    data: Any,
    modules: Modules,
    *,
    draws: int = 1000,
    examples: int = 100,
    seed: int = 0,
    sites: SiteSpec | None = None,
    engine: Engine = "auto",
    task: Task | None = None,
) -> NoisyError:
    """Measure E_U L_S(f_{Θα+U}), the 0-1 error with all modules moved toward their start and noisy together.

    Each draw takes fresh noise for every module and fresh examples, with replacement; both have seeds of their own,
    independent of those of `netopsy.criticality` and `netopsy.joint_criticality`, also under the same `seed`. The
    draws are independent, in [0, 1], and their expectation is E_U L_S: with confidence 1 − δ′ it is at most
    kl⁻¹(mean, log(2/δ′)/draws), as `netopsy.pac_bayes_bound(..., train_error=found.mean, draws=found.draws)` has it.

    Args:
        trajectory: checkpoints of a training run, with the weights that it started from.
        data: the training examples; they are held in memory.
        modules: columns `site`, `alpha` in [0, 1], `sigma` in (0, 1], `parameters`, as `pac_bayes_bound` takes them.
        draws: of noise and examples.
        examples: a draw.
        seed: of both.
        sites: what the names in `modules` mean, where they are not modules' own names.
        engine: `"auto"`, `"exported"` or `"eager"`.
        task: how batches are read. With several positions an example is drawn as often as it has positions that
            count, so that the expectation is the error over positions.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    at_least("draws", draws, 1)
    at_least("examples", examples, 2)
    names = read_sites(modules)
    alphas = read_column(modules, "alpha", names, 0, 1)
    sigmas = read_column(modules, "sigma", names, 0, 1, open_low=True)
    trajectory, start = read_start(trajectory)
    model = trajectory.model()
    known = {site.name: site for site in find_sites(model, names if sites is None else sites)}
    missing = [name for name in names if name not in known]
    if missing:
        raise NetopsyError(f"modules: expected names of sites; got {', '.join(missing)}; pass their sites=")
    chosen = [known[name] for name in names]
    check_disjoint(chosen)
    own = derive(seed, "noisy error")
    with open_lines(
        model, trajectory, start, data, chosen, seed=own, task=task, engine=engine, batch_size=examples
    ) as opened:
        execution, whole = opened.run.execution, _whole(opened.run.source)
        positions = execution.task.valid(execution.task.labels(whole)).sum(1).double().cpu().numpy()
        random = np.random.default_rng(derive(own, "examples"))
        picks = random.choice(len(positions), size=(draws, examples), p=positions / positions.sum())
        lines = [opened.around(site, 1).line for site in chosen]
        errors, together = np.zeros(draws), Together(opened.run, lines, opened.total)
        for draw in range(draws):
            fresh = [
                Line(line.site, line.start, line.end, (derive(own, "noise", line.site.name, draw),)) for line in lines
            ]
            values = replace(together, lines=fresh).values(alphas, sigmas, 0)
            wrong = together.wrong(values, _rows(whole, picks[draw]))
            errors[draw] = (wrong / positions[picks[draw]]).mean()
    return NoisyError(errors=errors, examples=examples, seed=seed)


def _whole(source: Source) -> Batch:
    """All examples as one batch."""
    if source.whole is not None:
        return source.whole
    leaves, specs = zip(*(pytree.tree_flatten(batch) for _, batch in source.batches()), strict=True)
    fit = all(spec == specs[0] for spec in specs) and all(
        isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[1:] == first.shape[1:]
        for row in leaves
        for leaf, first in zip(row, leaves[0], strict=True)
    )
    if not fit:
        raise NetopsyError(
            "data: expected batches of tensors whose examples all have one shape, since single examples are drawn; "
            "pad them to one length"
        )
    return pytree.tree_unflatten([torch.cat(column) for column in zip(*leaves, strict=True)], specs[0])


def _rows(whole: Batch, rows: np.ndarray) -> Batch:
    index = torch.from_numpy(rows)
    return pytree.tree_map(lambda leaf: leaf[index.to(leaf.device)], whole)
