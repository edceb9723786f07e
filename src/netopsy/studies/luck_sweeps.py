"""Runs of the luck paper's students, a population a line, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from netopsy._identity import code_version, digest
from netopsy._random import derive, forked, generator
from netopsy.engine.alignment import best, block, diagonal_ratio
from netopsy.models.teachers import layered_net, random_teacher
from netopsy.probes.gradient_rule import recursive_gradients
from netopsy.probes.lottery import lottery
from netopsy.probes.norm_conservation import norm_drift
from netopsy.probes.teacher_student import teacher_student
from netopsy.probes.teacher_student_config import TeacherStudentConfig
from netopsy.probes.teacher_student_nets import open_sources, students_of, teachers_of
from netopsy.probes.teacher_student_result import TeacherStudentResult
from netopsy.store.keyed import Measure
from netopsy.store.sweep import Sweep
from netopsy.studies.luck_settings import Preset, lines

NETS = 100
"""Of Theorem 1."""

RATES = (0.02, 0.01, 0.005)
"""Step sizes of Theorem 3."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One population.

    Attributes:
        line: its name in `luck_settings.lines`.
        config: of the population; its seeds are the replicates.
    """

    line: str
    config: TeacherStudentConfig


@dataclass(frozen=True, kw_only=True)
class Check:
    """Random networks of a seed, for a theorem."""

    seed: int = 0


def population_sweep(
    name: str, measure: Measure, names: Sequence[str], *, preset: Preset, seeds: Sequence[int]
) -> Sweep:
    """Some lines, each with all seeds as one population, measured in one way."""
    known = lines(preset)
    axis = [{"line": line, "config": replace(known[line], seeds=tuple(seeds))} for line in names]
    base = Point(line=names[0], config=replace(known[names[0]], seeds=tuple(seeds)))
    return Sweep(name=f"luck-{name}-{preset}", base=base, measure=measure, axes=(axis,))


def check_sweep(name: str, measure: Measure, *, seeds: Sequence[int]) -> Sweep:
    """Random networks, a seed each; they have one size."""
    return Sweep(name=f"luck-{name}", base=Check(), measure=measure, seeds=tuple(seeds))


def run_folder(config: Point, runs: Path, measure: Measure) -> Path:
    """Where a population is written as it is trained, and gone on with."""
    return runs / "luck" / digest({"config": config, "code": code_version(measure)})[:16]


def measure_students(config: Point, runs: Path) -> pd.DataFrame:
    """Train a population.

    Returns:
        `TeacherStudentResult.to_frame`, and where there are such: `distance` (of the first units to the teacher's),
        `fan_u` and `fan_r` (mean length of the outgoing weights of the first units, and of the rest), `error`,
        `teacher_error`, `h_ratio` (of H*, its columns by the best ρ at the end: mean diagonal over mean absolute
        off-diagonal entry); `result` (the result's folder, below `runs`).
    """
    result, where = _trained(config, runs, measure_students)
    frame = result.to_frame().set_index(["epoch", "layer", "seed"])
    extra: dict[str, Tensor] = {name: result.records[name] for name in ("error", "teacher_error", "distance")
                                if name in result.records}  # fmt: skip
    if config.config.start is not None:
        known = config.config.hidden[0]
        extra |= {"fan_u": result.records["out.0"][..., :known].mean(-1)}
        extra |= {"fan_r": result.records["out.0"][..., known:].mean(-1)}
    for name, value in extra.items():
        values = {(e, s): float(value[e, n]) for e in range(len(value)) for n, s in enumerate(result.seeds)}
        frame[name] = [values[epoch, seed] for epoch, _, seed in frame.index]
    for place, epoch in enumerate(sorted(set(config.config.h_star))):
        for layer in range(result.layers):
            for number, seed in enumerate(result.seeds):
                square = block(result.records[f"h_star.{layer}"][place, number], best(result.rho(layer)[-1, number]))
                frame.loc[(epoch, layer, seed), "h_ratio"] = diagonal_ratio(square)
    return frame.reset_index().assign(result=where)


def measure_tickets(config: Point, runs: Path) -> pd.DataFrame:
    """Lottery tickets of a population; a row as `LotteryResult.to_frame`."""
    found = lottery(config.config, folder=run_folder(config, runs, measure_tickets), resume=True)
    return found.to_frame()


def measure_flat(config: Point, runs: Path) -> pd.DataFrame:
    """After a run of Theorem 5, draw the incoming weights of the rest anew (§3.3).

    Returns:
        A row a seed: `start` (loss before training), `end`, `redrawn` (W_r anew, each unit's of the length that it
        has), `redrawn_u` (as many weights of W_u in its place).
    """
    result, _ = _trained(config, runs, measure_flat)
    sources = open_sources(config.config)
    teachers = teachers_of(config.config, sources)
    students = students_of(config.config, sources, teachers)
    known, rows = config.config.hidden[0], []
    for place, (seed, teacher, student) in enumerate(zip(result.seeds, teachers, students, strict=True)):
        inputs = sources.evaluation(seed)
        row: dict[str, object] = {"seed": seed, "start": _loss(student, teacher, inputs)}
        units = len(student.get_submodule("hidden0").get_parameter("weight"))
        for name, rows_of in (("end", slice(0, 0)), ("redrawn", slice(known, units)), ("redrawn_u", slice(0, known))):
            student.load_state_dict({key: value[place] for key, value in result.final.items()})
            weight = student.get_submodule("hidden0").get_parameter("weight").detach()
            drawn = torch.randn(weight.shape, generator=generator(derive(seed, "flat")))
            drawn *= weight.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
            weight[rows_of] = drawn[rows_of]
            row[name] = _loss(student, teacher, inputs)
        rows.append(row)
    return pd.DataFrame(rows)


def measure_rule(config: Check, runs: Path) -> pd.DataFrame:
    """Theorem 1 against autograd, on `NETS` random nets of up to four hidden layers.

    Returns:
        One row: `digits`, minus log10 of the largest difference, relative to the largest gradient of its layer.
    """
    worst = 0.0
    source = generator(derive(config.seed, "rule"))

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=source))

    for number in range(NETS):
        depth, outputs, inputs = whole(1, 4), whole(1, 6), whole(1, 6)
        with forked(derive(config.seed, "rule", number)):
            student, teacher = (
                layered_net(inputs=inputs, hidden=[whole(1, 12) for _ in range(depth)], outputs=outputs).double()
                for _ in range(2)
            )
            x = torch.randn(8, inputs, dtype=torch.float64)
        for mine, theirs in zip(
            recursive_gradients(student, teacher, x), _autograd(student, teacher, x), strict=True
        ):
            scale = float(theirs.abs().max())
            worst = max(worst, float((mine - theirs).abs().max()) / scale) if scale else worst
    return pd.DataFrame([{"digits": -math.log10(max(worst, 1e-17))}])


def measure_conservation(config: Check, runs: Path) -> pd.DataFrame:
    """Theorem 3: the drift of the norms of filters, with both placements of batch normalization and without.

    Returns:
        A row a placement: `norm` (`before`, `after`, `none`), `drift` at the smallest step size (of ||w||², with the
        bias for `after`), and `slope`: of log drift over log step size, 1 where it is proportional to it.
    """
    teacher = random_teacher(inputs=20, hidden=(10, 15), outputs=20, seed=derive(config.seed, "teacher"))
    x = torch.randn(256, 20, generator=generator(derive(config.seed, "inputs")))
    rows = []
    with torch.no_grad():
        wanted = teacher(x)
    for norm in ("before", "after", "none"):
        with forked(derive(config.seed, "student")):
            student = layered_net(inputs=20, hidden=(10, 15), outputs=20, multi=2, norm=norm)
        found = norm_drift(student, x, wanted, rates=RATES, filters=["hidden0", "hidden1"])
        column = "drift_with_bias" if norm == "after" else "drift"
        drift = found.groupby("lr")[column].max()
        first, last = float(drift[RATES[-1]]), float(drift[RATES[0]])
        rows.append({"norm": norm, "drift": first, "slope": math.log(last / first) / math.log(RATES[0] / RATES[-1])})
    return pd.DataFrame(rows)


def _trained(config: Point, runs: Path, measure: Measure) -> tuple[TeacherStudentResult, str]:
    """A population, gone on with where it was interrupted, and where its result is."""
    folder = run_folder(config, runs, measure)
    result = teacher_student(config.config, folder=folder / "run", resume=True)
    result.save(folder / "result", overwrite=True)
    return result, (folder / "result").relative_to(runs).as_posix()


@torch.no_grad()
def _loss(student: nn.Sequential, teacher: nn.Sequential, inputs: Tensor) -> float:
    return float((student(inputs) - teacher(inputs)).double().square().mean())


def _autograd(student: nn.Sequential, teacher: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    """Minus the gradient of half the squared difference, at every linear map's output."""
    value, held = inputs, []
    for module in student.children():
        value = module(value)
        if isinstance(module, nn.Linear):
            value.retain_grad()
            held.append(value)
    loss = (value - teacher(inputs).detach()).square().sum() / 2
    loss.backward()
    return [-each.grad for each in held if each.grad is not None]
