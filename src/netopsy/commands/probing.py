"""What the probes of `netopsy inspect` have in common: what they are asked of, what they cost, what they find."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from torch import nn

from netopsy._typing import Key
from netopsy.engine.evaluate import evaluate
from netopsy.network.sites import SiteSpec
from netopsy.network.trajectory import Trajectory
from netopsy.network.transformer_blocks import find_blocks

Options: TypeAlias = Mapping[str, Any]
"""What was asked on the command line; a probe takes those that it knows."""

Progress: TypeAlias = Callable[[int, int | None], object]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is probed.

    Attributes:
        trajectory: of the network.
        data: to measure on.
        folder: where results go.
        home: the folder that is reported on: the run, or where results go that do not belong to one.
        train: the examples that the network was fitted to; None where they are not known.
        no_train: why they are not.
    """

    trajectory: Trajectory
    data: Any = field(repr=False)
    folder: Path
    home: Path
    train: Any = field(default=None, repr=False)
    no_train: str = "the train data are not known"

    @cached_property
    def train_error(self) -> float:
        """Of the trained network, on the examples that it was fitted to: a pass over these, once."""
        return evaluate(self.trajectory.model(), self.train, metrics=("error",)).baseline_error


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a probe will take.

    Attributes:
        rows: of the result.
        seconds, low, high: expected, with the range; 0 for a result that is there already.
        found: that result's folder.
        plan: of what has to be measured; `str()` is for people, `.to_dict()` for JSON.
    """

    rows: int
    seconds: float
    low: float
    high: float
    found: Path | None = None
    plan: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = None if self.found is None else str(self.found)
        plan = None if self.plan is None else self.plan.to_dict()
        return {"rows": self.rows, "seconds": self.seconds, "found": found, "plan": plan}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a probe found.

    Attributes:
        result: `str()` is a table, `.to_frame()` tidy.
        sentences: what it says, the verdict first.
        files: what was written, by what it is.
    """

    result: Any
    sentences: tuple[str, ...]
    files: Mapping[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        files = {what: str(path) for what, path in self.files.items()}
        return {"rows": plain_rows(self.result.to_frame()), "sentences": list(self.sentences), "files": files}


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows, for JSON; what is missing is null."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return rows


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One measurement.

    Attributes:
        name: by which it is chosen.
        question: that it answers, in plain words.
        applies: why it cannot be asked of a subject, or None.
        plan: what it will cost; writes nothing.
        run: measures, or finds what was measured before.
        counts: what its progress is counted in.
        after: probes whose results it adds to its own, where they are asked for too.
    """

    name: str
    question: str
    applies: Callable[[Subject], str | None]
    plan: Callable[[Subject, Options], Cost]
    run: Callable[[Subject, Options, Progress], Finding]
    counts: str = "examples"
    after: tuple[str, ...] = ()


def parts_asked(subject: Subject, options: Options) -> SiteSpec:
    """The sites that were asked for; a transformer's parts, where that was every module."""
    sites: SiteSpec = options["sites"]
    return "transformer" if sites == "modules" and find_blocks(subject.trajectory.model()) else sites


@dataclass(frozen=True, eq=False)
class OneModel(Trajectory):
    """Gives everybody the same trained network, so that it is exported once: for the plan and for the probe.

    Programs are kept by the network they were made of, and probes leave no trace on it.
    """

    @cached_property
    def _trained(self) -> nn.Module:
        return super().model()

    def model(self, key: Key | None = None) -> nn.Module:
        """The trained network, always the same module; or a new one with the weights of another checkpoint."""
        return self._trained if key is None or key == self.final else super().model(key)
