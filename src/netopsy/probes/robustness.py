"""Re-initialization and re-randomization robustness.

Zhang, Bengio, Singer: Are All Layers Created Equal? JMLR 23 (2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, inside, one_of, shorten
from netopsy._random import derive
from netopsy._typing import Key
from netopsy.engine.calibrate import batch_norms, recompute_statistics
from netopsy.engine.edits import FromCheckpoint, Redraw, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Estimand, Evaluation, Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.engine.reducers import Metric, metric_name
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import Site, SiteSpec, find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.distances import checkpoint_distances
from netopsy.probes.robustness_result import RobustnessResult

FULL_MODEL = "full model"
"""The site of the whole network, loaded from a checkpoint."""

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
    groups: Mapping[str, str | Sequence[str]] | Callable[[Sequence[str]], Mapping[str, Sequence[str]]] | None = None,
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
    model = trajectory.model() if isinstance(trajectory, Trajectory) else trajectory
    keys = _checkpoints(trajectory, checkpoints)
    single = find_sites(model, sites)
    joint = _groups(model, single, groups)
    whole = (Site(FULL_MODEL, find_sites(model, {FULL_MODEL: "*"})[0].addresses),) if full_model else ()
    operations = list(_operations(single + joint, whole, keys, draws))
    redrawer = Redrawer.of(trajectory)
    if draws:
        redrawer.check({address.name for site in single + joint for address in site.addresses})
    variants = []
    for operation in operations:
        variant = _variant(operation, trajectory, redrawer, seed, batch_norm)
        if batch_norm == "recompute" and batch_norms(model):
            variant = recompute_statistics(model, calibration, variant, task=task)
        variants.append(variant)

    splits = data if _is_splits(data) else {"data": data}
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
        frames.append(_frame(split, operations, evaluation, [metric_name(metric) for metric in metrics]))
    for frame, evaluation in zip(frames, evaluations.values(), strict=True):
        frame["verdict"] = [_verdict(row, evaluation, tolerance, critical) for row in frame.to_dict("records")]
    joined = pd.concat(frames, ignore_index=True)
    return RobustnessResult(
        frame=_typed(joined),
        distances=checkpoint_distances(trajectory, single + joint, keys),
        groups={
            site.name: tuple(s.name for s in single if set(s.addresses) <= set(site.addresses)) for site in joint
        },
        provenance={
            "probe": "robustness",
            **{split: dict(evaluation.provenance) for split, evaluation in evaluations.items()},
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


def _checkpoints(trajectory: Trajectory | nn.Module, checkpoints: Sequence[Key] | Literal["all"]) -> tuple[Key, ...]:
    if not isinstance(trajectory, Trajectory):
        if checkpoints == "all" or len(checkpoints):
            raise NetopsyError(
                f"checkpoints={checkpoints!r}: a module alone has no checkpoint 0 (the weights before training); "
                "pass a netopsy.Trajectory, or checkpoints=() to re-randomize only"
            )
        return ()
    if checkpoints == "all":
        return trajectory.keys
    return tuple(trajectory.check_key(key) for key in checkpoints)


def _groups(model: nn.Module, single: Sequence[Site], groups: Any) -> tuple[Site, ...]:
    if groups is None:
        return ()
    found = groups([site.name for site in single]) if callable(groups) else groups
    by_name = {site.name: site for site in single}
    clash = set(found) & ({FULL_MODEL} | by_name.keys())
    if clash:
        raise NetopsyError(f"groups: {shorten(sorted(clash))} is the name of a site already; choose another name")
    spec: dict[str, str | Sequence[str]] = dict(found)
    return find_sites(model, spec)


def _members(group: Site, single: Sequence[Site]) -> tuple[str, ...]:
    return tuple(site.name for site in single if set(site.addresses) <= set(group.addresses))


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


def _is_splits(data: Any) -> bool:
    return isinstance(data, Mapping) and not all(isinstance(value, Tensor) for value in data.values())


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
    measured = evaluation.to_frame()[[*metrics, "delta_error", "delta_error_low", "delta_error_high", "n", "status"]]
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
    keys = [key for key in frame["checkpoint"] if key is not None]
    typed["checkpoint"] = frame["checkpoint"].astype("Int64" if all(isinstance(k, int) for k in keys) else "string")
    return typed
