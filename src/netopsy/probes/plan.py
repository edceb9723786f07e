"""What a robustness probe will cost, said before it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch.utils._pytree as pytree
from torch import Tensor, nn

from netopsy._amounts import duration, size
from netopsy._typing import Key
from netopsy.engine.batches import open_data
from netopsy.engine.edits import Edit, FromCheckpoint
from netopsy.engine.evaluation import Estimand, Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.engine.reducers import Metric
from netopsy.engine.trial import Trial, try_out
from netopsy.network.addresses import named_state
from netopsy.network.sites import SiteSpec
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import Groups
from netopsy.probes.distances import checkpoint_distances
from netopsy.probes.operations import BatchNorm, Question, prepare

MARGIN = 1.5
"""Factor by which the slower and the faster of the timed batches may be off the mean of all."""

CALIBRATED = 32
"""Calibration examples that a plan runs for each variant."""

clock = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Costs of a robustness probe.

    Attributes:
        rows: operation -> variants; `"no-op"` counts those among them that change nothing and are not run.
        sites: sites and groups, the whole network among them where it is asked for.
        examples: by split.
        batches: by split.
        forwards: whole forward passes over a batch that the naive loop makes: every variant and the baseline.
        share: arithmetic that the engine does, in units of these.
        engine: by split.
        engine_reasons: why it is eager where that was not asked for.
        seconds: of the probe, with its range. Stopping early ends between `seconds_low`, where every variant is
            decided as soon as one can be, and `seconds`, where none is before the end.
        peak_bytes: tensors held at once, but for the data.
        read_bytes: read from checkpoint files, repeated reads counted.
        temporary_bytes: of temporary files for fresh draws and recomputed statistics.
    """

    rows: Mapping[str, int]
    sites: int
    examples: Mapping[str, int]
    batches: Mapping[str, int]
    forwards: int
    share: float
    engine: Mapping[str, str]
    engine_reasons: tuple[str, ...]
    seconds: float
    seconds_low: float
    seconds_high: float
    peak_bytes: int
    read_bytes: int
    temporary_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "engine_reasons": list(self.engine_reasons)}

    def __str__(self) -> str:
        parts = [f"{count:,} {name}" for name, count in self.rows.items()]
        data = [f"{split}: {n:,} examples, {self.batches[split]:,} batches" for split, n in self.examples.items()]
        because = f" ({'; '.join(self.engine_reasons)})" if self.engine_reasons else ""
        lines = {
            "rows": f"{', '.join(parts)} of {self.sites:,} sites",
            "data": "; ".join(data),
            "forwards": f"{self.forwards:,} by the naive loop; {self.share:.0%} of their arithmetic is done",
            "engine": f"{', '.join(dict.fromkeys(self.engine.values()))}{because}",
            "time": f"{duration(self.seconds)} ({duration(self.seconds_low)} to {duration(self.seconds_high)})",
            "memory": size(self.peak_bytes),
            "read from files": size(self.read_bytes),
            "temporary files": size(self.temporary_bytes),
        }
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def plan(
    trajectory: Trajectory | nn.Module,
    data: Any,
    *,
    sites: SiteSpec = "modules",
    checkpoints: Sequence[Key] | Literal["all"] = (0,),
    draws: int = 1,
    groups: Groups = None,
    metrics: Sequence[Metric] = ("error", "loss"),
    stop: Stop = "exact",
    precision: float = 0.02,
    tolerance: float = 0.05,
    confidence: float = 0.99,
    seed: int = 0,
    engine: Engine = "auto",
    estimand: Estimand = "population",
    critical: float = 0.5,
    full_model: bool = False,
    batch_norm: BatchNorm = "reset",
    calibration: Any = None,
    task: Task | None = None,
    batch_size: int | None = None,
) -> Plan:
    """Say what `netopsy.robustness` with the same arguments will cost, in seconds.

    The model is exported and its first two batches, or a part of them, are run for real; the rest is arithmetic. The
    model is bit-identical afterwards.

    Raises:
        NetopsyError: what `netopsy.robustness` would raise before its first batch.
    """
    started = clock()
    rule = Stopping(rule=stop, precision=precision, tolerance=tolerance, confidence=confidence, estimand=estimand)
    question = prepare(
        trajectory,
        data,
        sites=sites,
        checkpoints=checkpoints,
        draws=draws,
        groups=groups,
        metrics=metrics,
        rule=rule,
        seed=seed,
        critical=critical,
        full_model=full_model,
        batch_norm=batch_norm,
        calibration=calibration,
    )
    fixed = clock() - started
    if question.stale:
        question, calibrating = _calibrated(question, calibration, task)
        fixed += calibrating
    trials = {
        split: try_out(
            question.model,
            part,
            question.variants,
            task=task,
            metrics=metrics,
            stop=question.rule,
            seed=seed,
            engine=engine,
            batch_size=batch_size,
        )
        for split, part in question.splits.items()
    }
    before = clock()
    all_sites = question.single + question.joint
    checkpoint_distances(trajectory, all_sites)  # of the final checkpoint; the others take as long
    apart = _compared(trajectory, question)
    fixed += (clock() - before) * max(apart, 1)
    weights = sum(value.nbytes for value in named_state(question.model).values())
    forwards = {split: (len(question.variants) + 1) * trial.batches for split, trial in trials.items()}
    first = next(iter(trials.values()))
    rows = Counter[str](operation.name for operation in question.operations)
    return Plan(
        rows={**rows, "no-op": len(first.silent)},
        sites=len({operation.site.name for operation in question.operations}),
        examples={split: trial.examples for split, trial in trials.items()},
        batches={split: trial.batches for split, trial in trials.items()},
        forwards=sum(forwards.values()),
        share=sum(trials[s].share * n for s, n in forwards.items()) / sum(forwards.values()),
        engine={split: trial.engine for split, trial in trials.items()},
        engine_reasons=tuple(dict.fromkeys(reason for trial in trials.values() for reason in trial.reasons)),
        **_seconds(fixed, trials.values()),
        # the network, the one that redraws, and the trajectory's own: three copies of the weights
        peak_bytes=max(trial.peak for trial in trials.values()) + 2 * weights * isinstance(trajectory, Trajectory),
        read_bytes=_read(trajectory, question, trials.values(), apart),
        temporary_bytes=draws * weights + len(question.stale) * _statistics(question.model),
    )


def _seconds(fixed: float, trials: Iterable[Trial]) -> dict[str, float]:
    """Everything but the batches is taken as measured; the batches within the margin."""
    middle = low = high = fixed
    for trial in trials:
        mean = sum(trial.batch) / len(trial.batch)
        middle += trial.setup + trial.batches * mean
        low += trial.setup + trial.fewest * min(trial.batch) / MARGIN
        high += trial.setup + trial.batches * max(trial.batch) * MARGIN
    return {"seconds": middle, "seconds_low": low, "seconds_high": high}


def _calibrated(question: Question, calibration: Any, task: Task | None) -> tuple[Question, float]:
    """With statistics of a few examples, and the seconds that all examples would take."""
    source = open_data(calibration)
    few = pytree.tree_map(lambda leaf: leaf[:CALIBRATED] if isinstance(leaf, Tensor) else leaf, source.first())
    total = source.total if source.total is not None else sum(len(order) for order, _ in source.batches())
    before = clock()
    calibrated = question.calibrated([few], task)
    return calibrated, (clock() - before) * max(1.0, total / CALIBRATED)


def _statistics(model: nn.Module) -> int:
    """Bytes of batch norm's running statistics."""
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    return sum(value.nbytes for name, value in model.named_buffers() if name.rpartition(".")[2] in kinds)


def _compared(trajectory: Trajectory | nn.Module, question: Question) -> int:
    """Checkpoints whose distance to the initial one is measured."""
    if not isinstance(trajectory, Trajectory) or trajectory.initial is None:
        return 0
    return len({*question.keys, trajectory.final})


def _read(trajectory: Trajectory | nn.Module, question: Question, trials: Iterable[Trial], apart: int) -> int:
    """Bytes of tensors read from files: to build the networks, for each edit, and for the distances."""
    if not isinstance(trajectory, Trajectory):
        return 0
    sizes = {name: value.nbytes for name, value in trajectory.model().state_dict(keep_vars=True).items()}

    def read(key: Key, names: Iterable[str]) -> int:
        in_memory = isinstance(trajectory.state(key), dict)
        return 0 if in_memory else sum(sizes.get(name, 0) for name in names)

    total = 2 * read(trajectory.final, sizes)
    for trial in trials:
        for row, variant in enumerate(question.variants):
            for edit in variant.edits:
                if isinstance(edit, Edit) and isinstance(edit.rule, FromCheckpoint):
                    times = 1 + trial.batches * (edit.address.name in trial.again.get(row, ()))
                    total += times * read(edit.rule.key, [edit.address.name])
    if apart and trajectory.initial is not None:
        for site in question.single + question.joint:
            names = [address.name for address in site.addresses if address.kind == "parameter"]
            keys = dict.fromkeys([*question.keys, trajectory.final])
            total += sum(read(key, names) + read(trajectory.initial, names) for key in keys)
    return total
