"""What training a population gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from torch import nn

from netopsy._typing import Key, State
from netopsy.network.trajectory import Trajectory
from netopsy.training.config import FitConfig
from netopsy.training.population_folder import Status
from netopsy.training.population_ways import Way


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberResult:
    """One member's training run.

    Attributes:
        states: checkpoints by epoch, ascending, as `FitResult.states`. A diverged member has those before it did.
        history: a row an epoch, as `FitResult.history`; `seconds` is an equal share of what the epoch took all
            members that were trained in it. A diverged member's ends with the epoch in which it did.
        config: of the run.
        factory: makes the network that was trained.
        status: why training ended: "epochs", "patience", "target" or "diverged".
    """

    states: Mapping[int, State | Path] = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    config: FitConfig
    factory: Callable[[], nn.Module]
    status: Status

    @property
    def seed(self) -> int:
        """The member's seed."""
        return self.config.seed

    @property
    def trajectory(self) -> Trajectory:
        """The checkpoints, for probes; read from the folder, where there is one, as they are needed."""
        states: dict[Key, State | Path | str] = dict(self.states.items())
        return Trajectory.from_states(self.factory, states)


@dataclass(frozen=True, kw_only=True, eq=False)
class PopulationResult:
    """Many training runs.

    Attributes:
        members: in the order of the configs.
        way: how they were trained: "matmul", "vmap" or "one-by-one".
        reason: why in this way.
    """

    members: tuple[MemberResult, ...] = field(repr=False)
    way: Way
    reason: str

    @property
    def history(self) -> pd.DataFrame:
        """All members' histories, with the column `member` in front; columns that a member lacks are NaN there."""
        parts = [member.history.assign(member=number) for number, member in enumerate(self.members)]
        frame = pd.concat(parts, ignore_index=True)
        return frame[["member", *(name for name in frame if name != "member")]]

    def to_frame(self) -> pd.DataFrame:
        """A row a member: what its config says, its status, and the last row of its history."""
        rows = []
        for number, member in enumerate(self.members):
            config = member.config
            rates = {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
            head = {"member": number, "seed": config.seed, **rates, "status": member.status}
            rows.append(member.history.tail(1).drop(columns=["lr", "seconds"]).assign(**head))
        frame = pd.concat(rows, ignore_index=True)
        return frame[[*head, *(name for name in frame if name not in head)]]

    def __str__(self) -> str:
        head = f"{len(self.members)} networks, trained by {self.way} ({self.reason})"
        return f"{head}\n{self.to_frame().to_string(index=False, float_format='{:.4g}'.format)}"
