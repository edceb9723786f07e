"""What the robustness probe asks: which operations on which sites, as variants of the trained network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy._random import derive
from netopsy._typing import Key
from netopsy.engine.calibrate import recompute_statistics
from netopsy.engine.edits import FromCheckpoint, Redraw, Variant, edit_site
from netopsy.engine.evaluation import Stopping
from netopsy.engine.reducers import Metric
from netopsy.engine.values import Values
from netopsy.network.addresses import canonical_names, named_state, unwrap
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import Site, SiteSpec, find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import Groups, check_apart, read_checkpoints, read_groups, read_metrics, read_splits

MEASURED = ("delta_error", "delta_error_low", "delta_error_high", "n", "status")
FULL_MODEL = "full model"
"""The site of the whole network, loaded from a checkpoint."""

COLUMNS = ("site", "operation", "checkpoint", "draw", "split", *MEASURED, "verdict")
"""Of the result's table, but for those of the metrics."""

BatchNorm = Literal["keep", "reset", "recompute"]


@dataclass(frozen=True)
class Operation:
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """A robustness probe's arguments, read.

    Attributes:
        model: the trained network.
        splits: data by the split's name.
        names: columns of the metrics.
        rule: when to stop within one split; the confidence is shared out over the splits.
        single, joint: the sites, and the groups of them.
        keys: checkpoints.
        operations, variants: the rows, in order.
        stale: rows under whose edits batch norm's statistics are to be recomputed.
    """

    model: nn.Module
    splits: Mapping[str, Any]
    names: list[str]
    rule: Stopping
    single: tuple[Site, ...]
    joint: tuple[Site, ...]
    keys: tuple[Key, ...]
    operations: tuple[Operation, ...]
    variants: tuple[Variant, ...]
    stale: frozenset[int]

    def calibrated(self, calibration: Any, task: Task | None) -> Question:
        """With the statistics of batch norm recomputed, where that was asked for."""
        variants = list(self.variants)
        for row in sorted(self.stale):
            variants[row] = recompute_statistics(self.model, calibration, variants[row], task=task)
        return replace(self, variants=tuple(variants))


def prepare(
    trajectory: Trajectory | nn.Module,
    data: Any,
    *,
    sites: SiteSpec,
    checkpoints: Sequence[Key] | Literal["all"],
    draws: int,
    groups: Groups,
    metrics: Sequence[Metric],
    rule: Stopping,
    seed: int,
    critical: float,
    full_model: bool,
    batch_norm: BatchNorm,
    calibration: Any,
) -> Question:
    """Read the arguments of `netopsy.robustness`; refuses what it cannot work with."""
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
    operations = tuple(_operations(single + joint, whole, keys, draws))
    if not operations:
        raise NetopsyError("checkpoints=() and draws=0: nothing to measure; pass checkpoints, draws or both")
    redrawer = Redrawer.of(trajectory)
    if draws:
        redrawer.check({address.name for site in single + joint for address in site.addresses})
    variants = tuple(_variant(operation, trajectory, redrawer, seed, batch_norm) for operation in operations)
    stale = [
        row
        for row, (operation, variant) in enumerate(zip(operations, variants, strict=True))
        if batch_norm == "recompute" and operation.site.name != FULL_MODEL and not _is_no_op(model, variant)
    ]
    return Question(
        model=model,
        splits=splits,
        names=names,
        rule=replace(rule, confidence=1 - (1 - rule.confidence) / len(splits)),
        single=single,
        joint=joint,
        keys=keys,
        operations=operations,
        variants=variants,
        stale=frozenset(stale),
    )


def _operations(sites: Sequence[Site], whole: Sequence[Site], keys: Sequence[Key], draws: int) -> Iterator[Operation]:
    for site in sites:
        yield from (Operation(site, "re-initialize", checkpoint=key) for key in keys)
        yield from (Operation(site, "re-randomize", draw=draw) for draw in range(draws))
    for site in whole:
        yield from (Operation(site, "re-initialize", checkpoint=key) for key in keys)


def _variant(
    operation: Operation,
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
