"""How far each member of a population has come, and what is written of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from netopsy._storage import read_json, read_table
from netopsy._typing import State
from netopsy.training import resume as resuming
from netopsy.training.epoch import Row
from netopsy.training.history import history_of, rows_of
from netopsy.training.population_folder import Status
from netopsy.training.population_result import MemberResult
from netopsy.training.population_trainers import Member, Trainer
from netopsy.training.run_folder import RunFolder
from netopsy.training.stopping import best_epoch, why_stop


@dataclass(kw_only=True, eq=False)
class Course:
    """How far a member has come."""

    member: Member
    run: RunFolder | None
    rows: list[Row] = field(default_factory=list)
    states: dict[int, State | Path] = field(default_factory=dict)
    best: State | None = None
    status: Status | None = None

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch."""
        return history_of(self.rows, self.member.config.loss)


Write = Callable[[], object]
"""What a thread of its own has to do; holds copies."""


def advance(course: Course, row: Row, trainer: Trainer) -> list[Write]:
    """Take note of an epoch; what is to be written of it."""
    number, config, epoch = course.member.number, course.member.config, int(row["epoch"])
    course.rows.append(row)
    if not (math.isfinite(row["train_loss"]) and trainer.is_finite(number)):
        course.status = "diverged"
        return [history_write(course)] if course.run is not None else []
    if config.patience is not None and best_epoch(course.rows, config.monitor) == epoch:
        course.best = trainer.state(number)
    course.status = why_stop(course.rows, config)
    if course.status is None:
        return keep(course, epoch, trainer.state(number)) if epoch in config.keys else []
    last = epoch if course.best is None else best_epoch(course.rows, config.monitor)
    course.states = {key: state for key, state in course.states.items() if key < last}
    writes = keep(course, last, trainer.state(number) if course.best is None else course.best)
    if course.run is not None:
        writes.append(functools.partial(course.run.tidy, tuple(course.states), finished=True))
    return writes


def keep(course: Course, epoch: int, state: State) -> list[Write]:
    """Add a checkpoint; what is to be written of it."""
    if course.run is None:
        course.states[epoch] = state
        return []
    course.states[epoch] = course.run.checkpoint(epoch)
    keys = tuple(course.states)
    return [functools.partial(course.run.write, {epoch: state}, course.history, keys, course.status)]


def history_write(course: Course) -> Write:
    """The write of a member's history alone, for one whose training has come to no good end."""
    assert course.run is not None
    # Unfinished, also if it diverged: `fit` in this folder would come to the same end, and say so.
    return functools.partial(course.run.write, {}, course.history, tuple(course.states))


def go_on(
    courses: Sequence[Course], status: Sequence[Status | None], snapshots: Mapping[int, resuming.Snapshot]
) -> None:
    """Set members to where they stand in the folder: those with a snapshot are to be trained on."""
    for course, ended in zip(courses, status, strict=True):
        run, number = course.run, course.member.number
        assert run is not None
        if number in snapshots:
            course.rows, course.best = list(snapshots[number].rows), snapshots[number].best
            kept = [key for key in course.member.config.keys if key <= len(course.rows)]
            course.states = dict(run.states(kept))
            run.write({}, course.history, kept)
            run.tidy(kept, finished=False)
        else:
            course.status = ended
            keys = read_json(run.path / "manifest.json")["keys"]
            course.states = dict(run.states(keys))
            course.rows = rows_of(read_table(run.path / "history.parquet"))
            run.tidy(keys, finished=True)


def result_of(course: Course) -> MemberResult:
    """The result of a member that is done."""
    assert course.status is not None
    return MemberResult(
        states=course.states,
        history=course.history,
        config=course.member.config,
        factory=course.member.factory,
        status=course.status,
    )
