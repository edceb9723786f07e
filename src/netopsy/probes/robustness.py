"""Re-initialization and re-randomization robustness.

Zhang, Bengio, Singer: Are All Layers Created Equal? JMLR 23 (2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError
from netopsy._typing import Key
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Estimand, Evaluation, Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.engine.reducers import Metric
from netopsy.engine.saved import delete_saved
from netopsy.network.sites import SiteSpec, parameter_count
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import Groups, described, members
from netopsy.probes.distances import checkpoint_distances
from netopsy.probes.key_column import key_column
from netopsy.probes.operations import MEASURED, BatchNorm, Operation, prepare
from netopsy.probes.robustness_result import RobustnessResult


def robustness(
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
    progress: Callable[[int, int | None], object] | None = None,
    resume: Path | str | None = None,
) -> RobustnessResult:
    """Reset each site of a trained network to a checkpoint, or draw it anew, and measure what that costs.

    Re-initialization of site d to checkpoint tau sets theta_d to its value there; re-randomization sets it to a fresh
    draw from the distribution it was first drawn from. All other sites keep their trained values; nothing is trained.

    Args:
        trajectory: the checkpoints of a training run, the last one trained; or a trained module alone, which can
            only be re-randomized (`checkpoints=()`), by its modules' `reset_parameters`.
        data: examples in any form that `netopsy.evaluate` takes; or a mapping from a split's name to such data.
        sites: what is reset, one at a time: `"modules"`, `"blocks"`, `"transformer"`, `"parameters"`, globs, slices,
            or named groups.
        checkpoints: the user's own keys, or `"all"`; `()` for none.
        draws: fresh draws of each site; 0 for none.
        groups: more sites, each of several together (joint robustness): name -> globs; or a function from the
            sites' names to that, such as `netopsy.network.groups.residual_groups`.
        metrics: of `"error"`, `"loss"`, `"unchanged"`, and functions `(logits, targets) -> values`.
        stop: `"exact"`: every example; `"precision"`: until each paired change of error is known to ± `precision`;
            `"verdict"`: until it is known to lie above, or at or below, `tolerance`.
        precision: half-width asked for by `stop="precision"`.
        tolerance: a change of error up to which a site is robust.
        confidence: that all intervals of the result hold at once.
        seed: of the draws and of the order of the examples.
        engine: `"auto"`, `"exported"` or `"eager"`.
        estimand: what the intervals speak of: the `"population"` the examples come from, or this `"dataset"`.
        critical: a site that is not robust is critical when its error has gone at least this share of the way from
            the trained network's to chance (guessing every class equally often), else between.
        full_model: add the whole network at each of the checkpoints, as the last row of the paper's figures.
        batch_norm: the running statistics of a reset site: `"reset"` with it, `"keep"` the trained ones, or
            `"recompute"` those of the whole network under the edit, on `calibration`. See docs/robustness.md.
        calibration: training examples for `batch_norm="recompute"`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the examples done and their total.
        resume: a folder that holds how far the probe has come, a file for each split. Broken off and called again
            with the same arguments, it goes on; a finished split is only looked at on its first batch, to see that
            it is the same work. The result is that of a probe never broken off, bit for bit, but for its seconds. The
            files are deleted at the end, and the folder with them when nothing else is in it.

    Returns:
        A result with a row for every site, operation, checkpoint or draw, and split.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
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
    ).calibrated(calibration, task)
    files = {} if resume is None else _files(Path(resume), question.splits)
    frames, evaluations = [], {}
    for split, part in question.splits.items():
        evaluation = evaluate(
            question.model,
            part,
            question.variants,
            task=task,
            metrics=metrics,
            stop=question.rule,
            seed=seed,
            engine=engine,
            batch_size=batch_size,
            progress=progress,
            saved=files.get(split),
            keep_saved=True,
        )
        evaluations[split] = evaluation
        frames.append(_frame(split, question.operations, evaluation, question.names))
    for frame, evaluation in zip(frames, evaluations.values(), strict=True):
        frame["verdict"] = [_verdict(row, evaluation, tolerance, critical) for row in frame.to_dict("records")]
    joined = pd.concat(frames, ignore_index=True)
    result = RobustnessResult(
        frame=_typed(joined),
        distances=checkpoint_distances(trajectory, question.single + question.joint, question.keys),
        groups={site.name: members(site, question.single) for site in question.joint},
        provenance={
            "probe": "robustness",
            "netopsy": __version__,
            "splits": {split: dict(evaluation.provenance) for split, evaluation in evaluations.items()},
            "sites": described(sites),
            "checkpoints": list(question.keys),
            "metrics": question.names,
            "full_model": full_model,
            "parameters": {site.name: parameter_count(question.model, site) for site in question.single},
            "confidence": confidence,
            "tolerance": tolerance,
            "critical": critical,
            "chance": next(iter(evaluations.values())).chance,
            "stop": stop,
            "precision": precision,
            "estimand": estimand,
            "batch_norm": batch_norm,
            "draws": draws,
            "seed": seed,
            "engine": ", ".join(dict.fromkeys(str(e.provenance["engine"]) for e in evaluations.values())),
            "final": trajectory.final if isinstance(trajectory, Trajectory) else None,
            "seconds": time.perf_counter() - started,
        },
    )
    _remove(files.values())
    return result


def _files(folder: Path, splits: Iterable[str]) -> dict[str, Path]:
    """A file for each split; refuses what is not a folder."""
    if folder.exists() and not folder.is_dir():
        raise NetopsyError(f"resume={str(folder)!r}: expected a folder; it is a file; choose another path")
    return {split: folder / f"robustness-{number}.npz" for number, split in enumerate(splits)}


def _remove(files: Iterable[Path]) -> None:
    """Delete the files, then the folder if nothing else is in it."""
    for path in files:
        delete_saved(path)
        with suppress(OSError):  # other files are in it
            path.parent.rmdir()


def _frame(split: str, operations: Sequence[Operation], evaluation: Evaluation, metrics: list[str]) -> pd.DataFrame:
    head = pd.DataFrame(
        {
            "site": [None, *(operation.site.name for operation in operations)],
            "operation": ["baseline", *(operation.name for operation in operations)],
            "checkpoint": [None, *(operation.checkpoint for operation in operations)],
            "draw": [None, *(operation.draw for operation in operations)],
            "split": split,
        },
        dtype=object,
    )
    measured = evaluation.to_frame()[[*metrics, *MEASURED]]
    return pd.concat([head, measured], axis=1)


def _verdict(row: Mapping[Hashable, Any], evaluation: Evaluation, tolerance: float, critical: float) -> str | None:
    """Robust and not robust are certified by the interval; critical and between are told apart by the estimate."""
    if row["operation"] == "baseline" or row["status"] == "no-op":
        return None
    if row["delta_error_high"] <= tolerance:
        return "robust"
    if row["delta_error_low"] > tolerance:
        way = evaluation.chance - evaluation.baseline_error
        return "critical" if row["delta_error"] >= critical * way else "between"
    return "undecided"


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Nullable columns: integer keys stay integers where some rows have none."""
    typed = frame.copy()
    for name in ("site", "operation", "split", "status", "verdict"):
        typed[name] = typed[name].astype("string")
    typed["draw"] = typed["draw"].astype("Int64")
    typed["checkpoint"] = key_column(frame["checkpoint"])
    return typed
