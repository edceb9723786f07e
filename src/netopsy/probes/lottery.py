"""Lottery tickets among students: trained again with the later winners alone, where they began or drawn anew.

Frankle and Carbin: The Lottery Ticket Hypothesis (2019). Tian et al.: Luck Matters (2019), §1, argue that a
teacher's winning students are such tickets; they did not run it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError
from netopsy._identity import canonical
from netopsy._random import derive, generator
from netopsy.probes.teacher_student_config import TeacherStudentConfig
from netopsy.probes.teacher_student_nets import open_sources, students_of, teachers_of
from netopsy.probes.teacher_student_result import TeacherStudentResult, winners
from netopsy.probes.teacher_student_run import train

Ticket: TypeAlias = Literal["winners", "winners redrawn", "others"]
"""The winners from their initial values; the winners, drawn anew; as many units that do not win, from theirs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LotteryResult:
    """Four runs of one population: all units, and each `Ticket`.

    Attributes:
        runs: "all", then by ticket.
        kept: hidden layer -> how many units each seed's tickets have.
        provenance: config, versions, seconds.
    """

    runs: Mapping[str, TeacherStudentResult] = field(repr=False)
    kept: Mapping[int, tuple[int, ...]] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: `ticket` ("all" among them), then as `TeacherStudentResult.to_frame`."""
        parts = [run.to_frame().assign(ticket=name) for name, run in self.runs.items()]
        frame = pd.concat(parts, ignore_index=True)
        return frame[["ticket", *frame.columns.drop("ticket")]]

    def __str__(self) -> str:
        frame = self.to_frame()
        last = frame[(frame.epoch == frame.epoch.max()) & (frame.layer == 0)]
        table = last.groupby("ticket", sort=False).loss.mean().reset_index()
        return str(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


def lottery(
    config: TeacherStudentConfig,
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> LotteryResult:
    """Train students; then again with their winners alone: reset to where they began, and drawn anew.

    A unit wins that has the highest ρ of a unit of the teacher at the end. The others are pruned: their incoming and
    outgoing weights, and biases, are zero, and no gradient reaches them. Outgoing weights of winners to winners stay;
    the outputs' biases too. Drawn anew are the winners' incoming and outgoing weights and their biases.

    Args:
        config: of all runs; inputs and teachers are the same in each.
        folder: of the runs, a folder each; see `teacher_student`.
        resume: go on with them.
        progress: called with the run, its epochs done and their total.

    Raises:
        NetopsyError: as `teacher_student`; for a `start` of Theorem 5; or for a student that diverged, which has no
            winners.
    """
    started = time.perf_counter()
    if config.start is not None:
        raise NetopsyError(f"lottery: expected students that are drawn at random; got start={config.start}")
    sources = open_sources(config)
    teachers = teachers_of(config, sources)
    students = students_of(config, sources, teachers)
    config = replace(config, h_star=())
    runs: dict[str, TeacherStudentResult] = {}

    def run(name: str, starts: Sequence[nn.Sequential]) -> TeacherStudentResult:
        found = train(
            config,
            sources,
            teachers,
            starts,
            origin=name,
            folder=None if folder is None else Path(folder) / name.replace(" ", "-"),
            resume=resume,
            progress=None if progress is None else lambda done, total: progress(name, done, total),
        )
        stamp = {"probe": "teacher_student", "netopsy": __version__, "config": canonical(config), "start": name}
        return TeacherStudentResult(seeds=config.seeds, records=found.records, final=found.final, provenance=stamp)

    runs["all"] = run("all", students)
    masks = [winners(runs["all"].rho(layer)[-1]) for layer in range(runs["all"].layers)]
    if any(not bool(mask.any(1).all()) for mask in masks):
        raise NetopsyError("lottery: expected students with winners in every layer; one diverged; lower lr")
    for ticket in get_args(Ticket):
        starts = []
        for place, (seed, student) in enumerate(zip(config.seeds, students, strict=True)):
            own = [mask[place] for mask in masks]
            start = copy.deepcopy(student)
            if ticket == "winners redrawn":
                other = replace(config, seeds=(derive(seed, "redrawn") & 0x7FFFFFFF,))
                start = students_of(other, sources, [teachers[place]])[0]
            elif ticket == "others":
                own = [_as_many_others(mask, derive(seed, "others", layer)) for layer, mask in enumerate(own)]
            prune(start, own)
            starts.append(start)
        runs[ticket] = run(ticket, starts)
    return LotteryResult(
        runs=runs,
        kept={layer: tuple(mask.sum(1).tolist()) for layer, mask in enumerate(masks)},
        provenance={
            "probe": "lottery",
            "netopsy": __version__,
            "torch": torch.__version__,
            "config": canonical(config),
            "seconds": time.perf_counter() - started,
        },
    )


@torch.no_grad()
def prune(student: nn.Sequential, kept: Sequence[Tensor]) -> None:
    """Set all other units' incoming and outgoing weights and biases to zero; plain SGD then leaves them there.

    Args:
        student: a `netopsy.models.teachers.layered_net`, with the scales and shifts it was drawn with.
        kept: of each hidden layer, (units,): whether a unit stays.
    """
    maps = [module for module in student.children() if isinstance(module, nn.Linear | nn.Conv2d)]
    for layer, mask in enumerate(kept):
        own, following = maps[layer], maps[layer + 1]
        own.weight[~mask] = 0
        if own.bias is not None:
            own.bias[~mask] = 0
        # After a convolution, the output's weights have a unit's positions side by side.
        following.weight.view(len(following.weight), len(mask), -1)[:, ~mask] = 0


def _as_many_others(mask: Bool[Tensor, " units"], seed: int) -> Bool[Tensor, " units"]:
    """As many units that are not in the mask, or all of these."""
    others = (~mask).nonzero().flatten()
    order = torch.randperm(len(others), generator=generator(seed))
    found = torch.zeros_like(mask)
    found[others[order[: int(mask.sum())]]] = True
    return found
