"""Re-initialization and re-randomization robustness.

Zhang, Bengio, Singer: Are All Layers Created Equal? JMLR 23 (2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy._random import derive
from netopsy._typing import Key
from netopsy.engine.calibrate import recompute_statistics
from netopsy.engine.edits import FromCheckpoint, Redraw, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Estimand, Evaluation, Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.engine.reducers import Metric
from netopsy.engine.values import Values
from netopsy.network.addresses import canonical_names, named_state, unwrap
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import Site, SiteSpec, find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import (
    Groups,
    check_apart,
    members,
    read_checkpoints,
    read_groups,
    read_metrics,
    read_splits,
)
from netopsy.probes.distances import checkpoint_distances
from netopsy.probes.key_column import key_column
from netopsy.probes.robustness_result import RobustnessResult

MEASURED = ("delta_error", "delta_error_low", "delta_error_high", "n", "status")
FULL_MODEL = "full model"
"""The site of the whole network, loaded from a checkpoint."""

COLUMNS = ("site", "operation", "checkpoint", "draw", "split", *MEASURED, "verdict")
"""Of the result's table, but for those of the metrics."""

BatchNorm = Literal["keep", "reset", "recompute"]


@dataclass(frozen=True)
class _Operation:
    """One row of the result: what is done to which site."""

    site: Site
    name: Literal["re-initialize", "re-randomize"]
    checkpoint: Key | None = None
    draw: int | None = None

    @property
    def label(self) -> str:
        """For messages."""
        what = f"checkpoint {self.checkpoint!r}" if self.name == "re-initialize" else f"draw {self.draw}"
        return f"{self.name} {self.site} ({what})"


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
) -> RobustnessResult:
    """Reset each site of a trained network to a checkpoint, or draw it anew, and measure what that costs.

    Re-initialization of site d to checkpoint tau sets theta_d to its value there; re-randomization sets it to a fresh
    draw from the distribution it was first drawn from. All other sites keep their trained values; nothing is trained.

    Args:
        trajectory: the checkpoints of a training run, the last one trained; or a trained module alone, which can
            only be re-randomized (`checkpoints=()`), by its modules' `reset_parameters`.
        data: examples in any form that `netopsy.evaluate` takes; or a mapping from a split's name to such data.
        sites: what is reset, one at a time: `"modules"`, `"blocks"`, `"parameters"`, globs, slices, or named groups.
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

    Returns:
        A result with a row for every site, operation, checkpoint or draw, and split.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    rule = Stopping(rule=stop, precision=precision, tolerance=tolerance, confidence=confidence, estimand=estimand)
    at_least("draws", draws, 0)
    inside("critical", critical, 0, 1)
    one_of("batch_norm", batch_norm, ("keep", "reset", "recompute"))
    if batch_norm == "recompute" and calibration is None:
        raise NetopsyError("batch_norm='recompute': needs calibration=, examples of the training set")
    names = read_metrics(metrics, COLUMNS)
    splits = read_splits(data)
    keys = read_checkpoints(trajectory, checkpoints)
    model = trajectory.model() if isinstance(trajectory, Trajectory) else unwrap(trajectory)
    single = find_sites(model, sites)
    joint = read_groups(model, single, groups)
    check_apart([site.name for site in single + joint] + [FULL_MODEL] * full_model)
    whole = (Site(FULL_MODEL, find_sites(model, {FULL_MODEL: "*"})[0].addresses),) if full_model else ()
    operations = list(_operations(single + joint, whole, keys, draws))
    if not operations:
        raise NetopsyError("checkpoints=() and draws=0: nothing to measure; pass checkpoints, draws or both")
    redrawer = Redrawer.of(trajectory)
    if draws:
        redrawer.check({address.name for site in single + joint for address in site.addresses})
    variants = []
    for operation in operations:
        variant = _variant(operation, trajectory, redrawer, seed, batch_norm)
        if batch_norm == "recompute" and operation.site.name != FULL_MODEL and not _is_no_op(model, variant):
            variant = recompute_statistics(model, calibration, variant, task=task)
        variants.append(variant)

    rule = replace(rule, confidence=1 - (1 - confidence) / len(splits))
    frames, evaluations = [], {}
    for split, part in splits.items():
        evaluation = evaluate(
            model,
            part,
            variants,
            task=task,
            metrics=metrics,
            stop=rule,
            seed=seed,
            engine=engine,
            batch_size=batch_size,
            progress=progress,
        )
        evaluations[split] = evaluation
        frames.append(_frame(split, operations, evaluation, names))
    for frame, evaluation in zip(frames, evaluations.values(), strict=True):
        frame["verdict"] = [_verdict(row, evaluation, tolerance, critical) for row in frame.to_dict("records")]
    joined = pd.concat(frames, ignore_index=True)
    return RobustnessResult(
        frame=_typed(joined),
        distances=checkpoint_distances(trajectory, single + joint, keys),
        groups={site.name: members(site, single) for site in joint},
        provenance={
            "probe": "robustness",
            "netopsy": __version__,
            "splits": {split: dict(evaluation.provenance) for split, evaluation in evaluations.items()},
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


def _operations(
    sites: Sequence[Site], whole: Sequence[Site], keys: Sequence[Key], draws: int
) -> Iterator[_Operation]:
    for site in sites:
        yield from (_Operation(site, "re-initialize", checkpoint=key) for key in keys)
        yield from (_Operation(site, "re-randomize", draw=draw) for draw in range(draws))
    for site in whole:
        yield from (_Operation(site, "re-initialize", checkpoint=key) for key in keys)


def _variant(
    operation: _Operation,
    trajectory: Trajectory | nn.Module,
    redrawer: Redrawer,
    seed: int,
    batch_norm: BatchNorm,
) -> Variant:
    # the full model is the network as it was, its statistics included
    buffers = batch_norm == "reset" or operation.site.name == FULL_MODEL
    if operation.name == "re-initialize":
        assert isinstance(trajectory, Trajectory)
        assert operation.checkpoint is not None
        return edit_site(
            operation.label, operation.site, FromCheckpoint(trajectory, operation.checkpoint), buffers=buffers
        )
    # one draw is one network: all its sites come from the same seed
    rule = Redraw(redrawer, derive(seed, "draw", operation.draw))
    return edit_site(operation.label, operation.site, rule, buffers=buffers)


def _is_no_op(model: nn.Module, variant: Variant) -> bool:
    return Values(named_state(model), canonical_names(model), (variant,)).is_no_op(0)


def _frame(split: str, operations: Sequence[_Operation], evaluation: Evaluation, metrics: list[str]) -> pd.DataFrame:
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
