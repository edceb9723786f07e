"""What criticality, valleys and convex paths begin with: the sites' lines from the initial to the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from netopsy._checks import NetopsyError
from netopsy._typing import Key
from netopsy.engine.edits import AddNoise, edit_site
from netopsy.engine.evaluate import opened
from netopsy.engine.execution import Engine
from netopsy.engine.line import Line
from netopsy.engine.perturb import Surroundings
from netopsy.engine.run import Run
from netopsy.network.sites import Site
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory


def read_start(trajectory: Trajectory | nn.Module) -> tuple[Trajectory, Key]:
    """The trajectory and the key of the weights that training started from; refuses one without."""
    if not isinstance(trajectory, Trajectory):
        raise NetopsyError(
            f"trajectory: expected a netopsy.Trajectory with checkpoint 0 (the weights before training); got "
            f"{type(trajectory).__name__}; build one with netopsy.Trajectory.from_states(model, {{0: ..., 1: ...}})"
        )
    if trajectory.initial is None:
        raise NetopsyError(
            "trajectory: expected one with the weights before training, which modules are moved back to; it has no "
            "initial checkpoint; record one under key 0, or pass initial= to the Trajectory"
        )
    return trajectory, trajectory.initial


@dataclass(frozen=True, eq=False)
class Opened:
    """A pass over the data that is ready for any site.

    Attributes:
        run: the pass.
        total: examples of the data.
        idle: sites whose values do not reach the logits.
    """

    run: Run
    total: int
    idle: frozenset[str]
    _trajectory: Trajectory
    _start: Key
    _seed: int

    def around(self, site: Site, draws: int) -> Surroundings:
        """The data around a site's line; what it keeps in memory goes with it."""
        state = self.run.execution.state
        line = Line.of(state, site, self._trajectory, self._start, draws=draws, seed=self._seed)
        return Surroundings(self.run, line, self.total)


@contextmanager
def open_lines(
    model: nn.Module,
    trajectory: Trajectory,
    start: Key,
    data: Any,
    sites: Sequence[Site],
    *,
    seed: int,
    task: Task | None,
    engine: Engine,
    batch_size: int | None,
) -> Iterator[Opened]:
    """Check everything and verify the exported program for each site; the model is as it was afterwards."""
    seen = [edit_site(site.name, site, AddNoise(1.0, seed)) for site in sites]
    with opened(
        model,
        data,
        seen,
        task=task,
        metrics=("error", "loss"),
        stop="exact",
        examples=(),
        seed=seed,
        engine=engine,
        batch_size=batch_size,
    ) as run:
        total = run.source.total
        if total is None:
            total = sum(len(order) for order, _ in run.source.batches())
        idle = frozenset(sites[row].name for row in run.idle | run.silent)
        yield Opened(run, total, idle, trajectory, start, seed)
