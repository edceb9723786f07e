"""The probes of the input: how much the outputs change with it, and how often the network bends along paths."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from netopsy._amounts import duration
from netopsy._checks import NetopsyError
from netopsy.commands.kept import is_whole, kept, place
from netopsy.commands.probing import Cost, Finding, Options, Probe, Progress, Subject
from netopsy.commands.sensitivity_sample import Sample, first_of, sample_of
from netopsy.network.addresses import evaluation_mode
from netopsy.plots.style import save
from netopsy.probes.jacobian_norm import jacobian_norm
from netopsy.probes.jacobian_norm_result import JacobianNorms
from netopsy.probes.path_transitions import (
    CORNERS,
    PathTransitions,
    Pool,
    counted_units,
    path_transitions,
    read_pool,
)
from netopsy.probes.paths import segment
from netopsy.probes.plan import MARGIN
from netopsy.probes.transitions import transitions
from netopsy.report.sensitivity import jacobian_sentences
from netopsy.report.sensitivity_transitions import layer_dots, transitions_sentences

CLASSES, PROJECTIONS = 100, 32
"""Classes above which norms are estimated, and from how many directions a point."""

FEW = 8
"""Examples on which a model is tried."""

PATHS = (6, 20)
"""Pairs of paths: with fewer there is no interval of 95 %."""

WORK = 2 * 10**10
"""Units times operations of a forward pass, of all pairs of paths; and, beyond the fewest paths, of a single path.

A path has about as many stretches as units, each of which takes a pass: seconds to a few minutes in all.
"""

STRETCHES = (1 / 16, 1 / 4)
"""Parts of a side on which a path is timed."""

clock = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class SensitivityPlan:
    """Costs of a probe of the input.

    Attributes:
        rows: of the result.
        work: what there is to do, in words.
        seconds: of the probe, with its range.
    """

    rows: int
    work: str
    seconds: float
    seconds_low: float
    seconds_high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        span = f"{duration(self.seconds_low)} to {duration(self.seconds_high)}"
        return f"work  {self.work}\ntime  {duration(self.seconds)} ({span})"


def _said(error: Exception) -> str:
    """What does not fit, in a line."""
    return str(error).strip().split("\n")[0]


def _no_derivative(subject: Subject) -> str | None:
    """Why there is no Jacobian by the input, as a few examples tell."""
    try:
        jacobian_norm(subject.trajectory.model(), first_of(sample_of(subject, 0), FEW))
    except (NetopsyError, RuntimeError) as error:  # torch's own: such as an operation that has no derivative
        return f"no derivative by its input: {_said(error)}"
    return None


def _jacobian_asked(subject: Subject, sample: Sample, seed: int) -> dict[str, Any]:
    """Norms are estimated where there are many classes."""
    classes = jacobian_norm(subject.trajectory.model(), first_of(sample, FEW)).provenance["classes"]
    return {"projections": PROJECTIONS if classes > CLASSES else None, "seed": seed}


def _jacobian_home(subject: Subject, sample: Sample, asked: Mapping[str, Any]) -> Path:
    return place(subject, "jacobian", {sample.split: sample.data}, asked, jacobian_norm)


def _plan_jacobian(subject: Subject, options: Options) -> Cost:
    sample = sample_of(subject, options["seed"])
    asked = _jacobian_asked(subject, sample, options["seed"])
    home, total = _jacobian_home(subject, sample, asked), len(sample.rows)

    def plan() -> SensitivityPlan:
        def seconds(most: int) -> tuple[float, JacobianNorms]:
            few, began = first_of(sample, most), clock()
            result = jacobian_norm(subject.trajectory.model(), few, **asked)
            return clock() - began, result

        seconds(FEW)  # warms the caches
        (fixed, some), (more, many) = seconds(FEW), seconds(4 * FEW)
        each = max(more - fixed, 0.0) / max(len(many.frame) - len(some.frame), 1)
        products = PROJECTIONS if asked["projections"] else some.provenance["classes"] - 1
        return _planned(total, f"{total:,} examples, {products:,} backward passes each", fixed + each * total, MARGIN)

    return _cost(home, JacobianNorms.load, plan)


def _run_jacobian(subject: Subject, options: Options, progress: Progress) -> Finding:
    sample = sample_of(subject, options["seed"])
    asked = _jacobian_asked(subject, sample, options["seed"])

    def measure() -> JacobianNorms:
        found = jacobian_norm(subject.trajectory.model(), sample.data, progress=progress, **asked)
        frame = found.frame.assign(index=sample.rows[found.frame["index"].to_numpy(np.int64)])
        frame = frame.astype({"index": "Int64"}).sort_values("index", ignore_index=True)
        return replace(found, frame=frame, provenance={**found.provenance, **sample.known})

    home = _jacobian_home(subject, sample, asked)
    result = kept(home, JacobianNorms.load, measure)
    files = {"result": home}
    if (np.isfinite(result.norms) & (result.norms > 0)).any():
        files["histogram"] = _drawn(home / "histogram.png", result.plot)
    return Finding(result=result, sentences=jacobian_sentences(result), files=files)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Followed:
    """A network and what it can be followed between.

    Attributes:
        pool: examples.
        units: that have a kink.
        operations: of a forward pass of an example.
    """

    pool: Pool
    units: int
    operations: int

    @property
    def work(self) -> int:
        """Of a path, about."""
        return self.units * self.operations

    @property
    def paths(self) -> int:
        """As many as the work allows."""
        fewest, most = PATHS
        return max(fewest, min(most, WORK // (2 * max(self.work, 1))))


def _followed(subject: Subject, sample: Sample) -> _Followed:
    """
    Raises:
        NetopsyError: for data or a network along whose paths nothing can be counted.
    """
    pool, model = read_pool(sample.data), subject.trajectory.model()
    units = counted_units(model, pool.inputs)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), evaluation_mode(model), counter:
        model(pool.inputs[:1])
    return _Followed(pool=pool, units=sum(units.values()), operations=counter.get_total_flops())


def _no_paths(subject: Subject) -> str | None:
    """Why transitions cannot be counted exactly, or would take too long."""
    try:
        found = _followed(subject, sample_of(subject, 0))
    except (NetopsyError, RuntimeError) as error:
        return f"no paths to follow exactly: {_said(error)}"
    if found.work > WORK:
        return (
            f"{found.units:,} units and {found.operations:,} operations a pass are too many to follow around whole "
            "triangles; netopsy.transitions takes shorter paths, such as netopsy.paths.segment(a, b)"
        )
    return None


def _paths_home(subject: Subject, sample: Sample, asked: Mapping[str, Any]) -> Path:
    return place(subject, "transitions", {sample.split: sample.data}, asked, path_transitions)


def _plan_paths(subject: Subject, options: Options) -> Cost:
    sample = sample_of(subject, options["seed"])
    found = _followed(subject, sample)
    asked = {"paths": found.paths, "seed": options["seed"]}

    def plan() -> SensitivityPlan:
        model, [a, b] = subject.trajectory.model(), found.pool.inputs[found.pool.triangle(0)[1]][:2].double()
        layers = 0

        def seconds(part: float) -> float:
            nonlocal layers
            began = clock()
            layers = len(transitions(model, segment(a, a + part * (b - a))).layers)
            return clock() - began

        short, long = STRETCHES
        seconds(short)  # warms the caches
        fixed, more = seconds(short), seconds(long)
        path = max(more, fixed + max(more - fixed, 0.0) * (CORNERS - short) / (long - short))
        pairs = asked["paths"]
        work = f"{pairs} triangles through {CORNERS} examples and the same turned, {found.units:,} units"
        return _planned(2 * pairs * layers, work, 2 * pairs * path, 2 * MARGIN)

    return _cost(_paths_home(subject, sample, asked), PathTransitions.load, plan)


def _run_paths(subject: Subject, options: Options, progress: Progress) -> Finding:
    sample = sample_of(subject, options["seed"])
    asked = {"paths": _followed(subject, sample).paths, "seed": options["seed"]}

    def measure() -> PathTransitions:
        found = path_transitions(subject.trajectory.model(), sample.data, progress=progress, **asked)
        examples = [" ".join(str(sample.rows[int(x)]) for x in corners.split()) for corners in found.paths.examples]
        paths = found.paths.assign(examples=examples).astype({"examples": "string"})
        return replace(found, paths=paths, provenance={**found.provenance, **sample.known})

    home = _paths_home(subject, sample, asked)
    result = kept(home, PathTransitions.load, measure)
    files = {"result": home, "layers": _drawn(home / "layers.png", partial(layer_dots, result))}
    return Finding(result=result, sentences=transitions_sentences(result), files=files)


def _cost(home: Path, load: Callable[[Path], Any], plan: Callable[[], SensitivityPlan]) -> Cost:
    if is_whole(home):
        return Cost(rows=len(load(home).frame), seconds=0.0, low=0.0, high=0.0, found=home)
    cost = plan()
    return Cost(rows=cost.rows, seconds=cost.seconds, low=cost.seconds_low, high=cost.seconds_high, plan=cost)


def _planned(rows: int, work: str, seconds: float, margin: float) -> SensitivityPlan:
    return SensitivityPlan(
        rows=rows, work=work, seconds=seconds, seconds_low=seconds / margin, seconds_high=seconds * margin
    )


def _drawn(path: Path, draw: Callable[[], Any]) -> Path:
    if not path.is_file():
        save(draw(), path)
    return path


SENSITIVITY_PROBES: Mapping[str, Probe] = {
    "jacobian": Probe(
        name="jacobian",
        question="how much the outputs change with the input, and whether more where they are wrong",
        applies=_no_derivative,
        plan=_plan_jacobian,
        run=_run_jacobian,
    ),
    "transitions": Probe(
        name="transitions",
        question="how often the network bends between examples of a class, and in random directions",
        applies=_no_paths,
        plan=_plan_paths,
        run=_run_paths,
        counts="paths",
    ),
}
"""By name."""
