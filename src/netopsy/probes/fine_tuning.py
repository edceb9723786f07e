"""What fine-tuning changed: each part put back to its pretrained weights, beside what is read off weights and states.

Robustness: Zhang, Bengio, Singer (JMLR 2022), with the pretrained checkpoint in the place of the initialization.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from netopsy._checks import NetopsyError, inside
from netopsy._typing import Key
from netopsy.engine.evaluate import evaluate, opened
from netopsy.engine.evaluation import Estimand, Stop, Stopping
from netopsy.engine.execution import Engine
from netopsy.network.pretrained_folders import BaseState
from netopsy.network.sites import Site, SiteSpec, find_sites, group, parameter_count
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.network.transformer_blocks import find_blocks
from netopsy.probes.arguments import described, read_splits
from netopsy.probes.block_influence import block_influence
from netopsy.probes.criticality import criticality as measure_criticality
from netopsy.probes.fine_tuning_result import FineTuningResult
from netopsy.probes.robustness import robustness

ROBUST = ("delta_error", "delta_error_low", "delta_error_high", "n", "status", "verdict")


def fine_tuning(
    trajectory: Trajectory,
    data: Any,
    *,
    sites: SiteSpec = "transformer",
    criticality: bool = False,
    train_data: Any = None,
    epsilon: float | None = None,
    stop: Stop = "exact",
    precision: float = 0.02,
    tolerance: float = 0.05,
    confidence: float = 0.99,
    seed: int = 0,
    engine: Engine = "auto",
    estimand: Estimand = "population",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    resume: Path | str | None = None,
) -> FineTuningResult:
    """Say of each part of a fine-tuned network how far it moved, and what it costs to undo that.

    Args:
        trajectory: its initial checkpoint the pretrained network (`netopsy.network.pretrained_folders` reads two
            folders of Hugging Face's), its last one the fine-tuned network.
        data: held-out examples in any form that `netopsy.evaluate` takes; or a mapping from a split's name to such.
        sites: `"transformer"`: every part of every block, and each block whole; or as `netopsy.robustness` takes.
        criticality: also measure each site's criticality, with the pretrained weights as the start (slow).
        train_data: for criticality: examples that the network was fine-tuned on.
        epsilon: for criticality: the error allowed on these; by default `tolerance` above the fine-tuned network's.
        stop, precision, tolerance, confidence, seed, engine, estimand, resume: see `netopsy.robustness`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the examples done and their total, while sites are put back.

    Returns:
        A result with a row for every site and split.

    Raises:
        NetopsyError: for input that cannot be worked with; a trajectory without an initial checkpoint.
    """
    started = time.perf_counter()
    if not isinstance(trajectory, Trajectory) or trajectory.initial is None:
        raise NetopsyError(
            "trajectory: expected a netopsy.Trajectory that starts from the pretrained weights (key 0); without them "
            "nothing can be put back; see Trajectory.from_files"
        )
    if criticality != (train_data is not None):
        raise NetopsyError(
            "criticality: expected train_data with criticality=True, and only then; it is of the error on the "
            "examples that the network was fine-tuned on"
        )
    if epsilon is not None:
        inside("epsilon", epsilon, 0, 1, open_high=True)
    rule = Stopping(rule=stop, precision=precision, tolerance=tolerance, confidence=confidence, estimand=estimand)
    model, base = trajectory.model(), trajectory.initial
    found = asked_sites(model, sites)
    blocks = _whole_blocks(model, found)
    splits = read_splits(data)
    for part in splits.values():
        _check(model, part, task=task, rule=rule, seed=seed, batch_size=batch_size)
    influences = {}
    for split, part in splits.items():
        if blocks:  # first, for it refuses what it cannot read
            influences[split] = block_influence(model, part, task=task, batch_size=batch_size)
    result = robustness(
        trajectory,
        data,
        sites=found,
        checkpoints=(base,),
        draws=0,
        stop=rule.rule,
        precision=precision,
        tolerance=tolerance,
        confidence=confidence,
        seed=seed,
        engine=engine,
        estimand=estimand,
        task=task,
        batch_size=batch_size,
        progress=progress,
        resume=resume,
    )
    baseline = result.frame[result.frame.operation == "baseline"].set_index("split").error
    rows = result.frame[result.frame.operation != "baseline"].reset_index(drop=True)
    moved = _moved(trajectory, base, found, result.distances)
    frame = pd.DataFrame({"site": rows.site, "split": rows.split, "block": rows.site.map(blocks).astype("string")})
    frame = frame.join(moved, on="site").assign(error=rows.error, **{name: rows[name] for name in ROBUST})
    columns = ["split", "block", "block_influence", "angular_distance"]
    turned = [part.frame.assign(split=split)[columns] for split, part in influences.items()]
    none = pd.DataFrame({name: pd.Series(dtype="string" if name in columns[:2] else "float64") for name in columns})
    frame = frame.merge(pd.concat(turned).astype(none.dtypes) if turned else none, how="left", on=columns[:2])
    frame = frame.astype(dict.fromkeys(["site", "split", "block"], "string"))
    state = trajectory.state(base)
    lost = {name for part in influences.values() for name in part.provenance["reshaping"]}
    drawn = list(state.drawn) if isinstance(state, BaseState) else []
    provenance = {
        **result.provenance,
        "probe": "fine_tuning",
        "sites": described(sites),
        "base": base,
        "baseline": {str(split): float(error) for split, error in baseline.items()},
        "drawn": drawn,
        "drawn_sites": [site.name for site in found if any(address.name in drawn for address in site.addresses)],
        "reshaping": [name for name in dict.fromkeys(blocks.values()) if name in lost],
        "criticality": None,
        "seconds": time.perf_counter() - started,
    }
    angles = [part.angles.assign(split=split) for split, part in influences.items()]
    empty = pd.DataFrame({"block": [], "blocks": [], "angular_distance": [], "split": []})
    back = FineTuningResult(frame, pd.concat(angles, ignore_index=True) if angles else empty, provenance)
    if not criticality:
        return back
    if epsilon is None:
        error = evaluate(model, train_data, task=task, metrics=("error",), engine=engine).baseline_error
        epsilon = min(error + tolerance, 0.99)
    options: dict[str, Any] = {"epsilon": epsilon, "seed": seed, "engine": engine, "task": task}
    way = measure_criticality(trajectory, train_data, sites=found, batch_size=batch_size, **options)
    return back.with_criticality(way)


def asked_sites(model: nn.Module, sites: SiteSpec) -> list[Site]:
    """The sites; to the parts of a transformer, each block whole."""
    found = list(find_sites(model, sites))
    if sites == "transformer":
        found += [group(model, block.label, block.name) for block in find_blocks(model)]
    return found


def _check(
    model: nn.Module, data: Any, *, task: Task | None, rule: Stopping, seed: int, batch_size: int | None
) -> None:
    """Refuse what `netopsy.evaluate` refuses of data before its first batch: block influence takes what comes."""
    with opened(
        model,
        data,
        (),
        task=task,
        metrics=("error",),
        stop=rule,
        examples=(),
        seed=seed,
        engine="eager",
        batch_size=batch_size,
    ):
        pass


def _whole_blocks(model: nn.Module, sites: Sequence[Site]) -> dict[str, str]:
    """Site -> the block that it is the whole of."""
    known = {}
    for block in find_blocks(model):
        whole = group(model, block.label, block.name)
        names, size = {address.name for address in whole.addresses}, parameter_count(model, whole)
        for site in sites:
            if {address.name for address in site.addresses} == names and parameter_count(model, site) == size:
                known[site.name] = block.label
    return known


def _moved(trajectory: Trajectory, base: Key, sites: Sequence[Site], distances: pd.DataFrame) -> pd.DataFrame:
    """Parameters and how far they moved, by site."""
    model = trajectory.model()
    at_end = distances[distances.checkpoint == trajectory.final].set_index("site")
    sizes = pd.Series({site.name: parameter_count(model, site) for site in sites}, dtype="int64")
    start = np.array([_norm(trajectory, base, site) for site in sites])
    way = at_end.l2[sizes.index].to_numpy() * np.sqrt(sizes.to_numpy())
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(way == 0, 0.0, way / start)  # what started at 0 and moved has moved infinitely far
    columns = {"l2": at_end.l2[sizes.index].to_numpy(), "linf": at_end["linf"][sizes.index].to_numpy()}
    return pd.DataFrame({"parameters": sizes, "relative_change": relative, **columns}, index=sizes.index)


def _norm(trajectory: Trajectory, key: Key, site: Site) -> float:
    own = [address for address in site.addresses if address.kind == "parameter"]
    values = [address.select(trajectory.tensor(key, address.name)) for address in own]
    return math.hypot(*(float(value.double().norm()) for value in values))
