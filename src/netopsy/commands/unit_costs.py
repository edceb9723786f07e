"""What probes of units will cost, said before they run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from netopsy._amounts import duration
from netopsy.engine.batches import grid
from netopsy.engine.edits import Edit, Mask, Variant
from netopsy.engine.evaluation import Stopping
from netopsy.engine.reducers import MOVED
from netopsy.engine.trial import Trial, try_out
from netopsy.network.units import UnitLayer
from netopsy.probes.ablation import FRACTIONS
from netopsy.probes.plan import MARGIN
from netopsy.probes.redundancy import redundancy
from netopsy.probes.units import KEPT
from netopsy.probes.units_off import Question

ORDERS = 3
"""Random orders of an ablation curve."""

FEW = 8
"""Examples of a pass whose time is all but that of the examples."""

PEERS = 0.75
"""Sets of similar units to a unit, about: at most one, and the fewer the more units share theirs."""

clock = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """Costs of a probe of units.

    Attributes:
        rows: of the result.
        layers, units: that are looked at.
        variants: networks with units set to zero, for all that is known before; None where none is.
        variants_high: as many at most, where only the measurement tells.
        examples, batches: of the data, at most.
        stop: when a variant is known well enough; None where there is no variant.
        engine: that runs them.
        seconds: of the probe, with its range.
    """

    rows: int
    layers: int
    units: int
    variants: int | None = None
    variants_high: int | None = None
    examples: int
    batches: int
    stop: str | None = None
    engine: str | None = None
    seconds: float
    seconds_low: float
    seconds_high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = {"units": f"{self.units:,} in {self.layers:,} layers"}
        if self.variants is not None:
            most = f" to {self.variants_high:,}" if self.variants_high != self.variants else ""
            lines["variants"] = f"{self.variants:,}{most} networks with units at zero"
        lines["data"] = f"{self.examples:,} examples, {self.batches:,} batches"
        if self.stop not in (None, "exact"):
            lines["stopping"] = f"{self.stop}: no more examples than that takes"
        if self.engine:
            lines["engine"] = self.engine
        lines["time"] = f"{duration(self.seconds)} ({duration(self.seconds_low)} to {duration(self.seconds_high)})"
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def plan_redundancy(question: Question, asked: Mapping[str, Any]) -> UnitPlan:
    """Of one pass: a few examples tell what does not grow with the data, a batch what does."""
    batch = question.source.first()
    size = len(question.task.labels(batch))
    few = min(FEW, size)

    def seconds(count: int) -> float:
        part = pytree.tree_map(lambda leaf: leaf[:count] if isinstance(leaf, Tensor) else leaf, batch)
        before = clock()
        redundancy(question.model, [part], sites=question.layers, task=question.task, **asked)
        return clock() - before

    seconds(few)  # warms the caches
    fixed, whole = seconds(few), seconds(size)
    examples, batches = _extent(question)
    each = max(whole - fixed, 0.0) / max(size - few, 1)
    middle = fixed + each * max(examples - few, 0)
    return UnitPlan(
        rows=len(question.layers),
        **_looked_at(question),
        examples=examples,
        batches=batches,
        seconds=middle,
        seconds_low=middle / MARGIN,
        seconds_high=middle * MARGIN,
    )


def plan_ablation(question: Question, asked: Mapping[str, Any]) -> UnitPlan:
    """Of curves over the share of units at zero: sets as large as those will be, and at most as many.

    Random orders of a few units may have sets in common.
    """
    sizes: list[tuple[tuple[UnitLayer, ...], tuple[int, ...], int]] = []
    for layers in (*((layer,) for layer in question.layers), question.layers):
        for share in FRACTIONS[1:]:
            counts = tuple(int(share * layer.units + 0.5) for layer in layers)
            whole = all(count in (0, layer.units) for layer, count in zip(layers, counts, strict=True))
            sizes.append((layers, counts, 1 if whole else ORDERS))  # of all units there is one set
    chosen = dict.fromkeys(
        tuple((layer.name, _some(layer, count, order)) for layer, count in zip(layers, counts, strict=True) if count)
        for layers, counts, orders in sizes
        for order in range(orders)
    )
    named = {layer.name: layer for layer in question.layers}
    variants = [_variant({named[name]: units for name, units in sets}) for sets in chosen if sets]
    trial = _tried(question, variants, asked)
    return UnitPlan(
        rows=(len(question.layers) + 1) * ORDERS * len(FRACTIONS),
        **_looked_at(question),
        variants=len(variants),
        variants_high=len(variants),
        **_found(trial, asked),
        **_seconds(trial, 1.0, 1.0, 1.0),
    )


def plan_units(question: Question, asked: Mapping[str, Any]) -> UnitPlan:
    """Of every unit at zero, alone and with those similar to it; which these are is not known yet."""
    variants = [_variant({layer: (unit,)}) for layer in question.layers for unit in range(layer.units)]
    labels = question.task.labels(question.source.first())
    most = max(2, KEPT // (16 * len(variants) * question.check() * labels.shape[1]))
    trial = _tried(question, variants, asked, moved=True, batch_size=most if most < len(labels) else None)
    return UnitPlan(
        rows=len(variants),
        **_looked_at(question),
        variants=len(variants),
        variants_high=2 * len(variants),
        **_found(trial, asked),
        **_seconds(trial, 1.0, 1.0 + PEERS, 2.0),
    )


def _some(layer: UnitLayer, count: int, order: int) -> tuple[int, ...]:
    """So many units, others in each order."""
    if count == layer.units:
        return tuple(range(count))
    return tuple(sorted((order + place) % layer.units for place in range(count)))


def _variant(units: Mapping[UnitLayer, Iterable[int]]) -> Variant:
    edits = [Edit(layer.address, Mask(layer.entries(some), layer.axis)) for layer, some in units.items()]
    return Variant("units off", tuple(edits))


def _tried(
    question: Question,
    variants: list[Variant],
    asked: Mapping[str, Any],
    *,
    moved: bool = False,
    batch_size: int | None = None,
) -> Trial:
    rule = Stopping(rule=asked["stop"], precision=asked["precision"], tolerance=asked["tolerance"])
    return try_out(
        question.model,
        question.data,
        variants,
        task=question.task,
        metrics=("error", "unchanged", MOVED) if moved else ("error", "unchanged"),
        stop=rule,
        seed=asked["seed"],
        batch_size=batch_size,
    )


def _looked_at(question: Question) -> dict[str, Any]:
    return {"layers": len(question.layers), "units": sum(layer.units for layer in question.layers)}


def _found(trial: Trial, asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"examples": trial.examples, "batches": trial.batches, "stop": asked["stop"], "engine": trial.engine}


def _seconds(trial: Trial, low: float, middle: float, high: float) -> dict[str, Any]:
    """With so many times the variants that were tried: the baseline's part is small."""
    mean = sum(trial.batch) / len(trial.batch)
    return {
        "seconds": trial.setup + middle * trial.batches * mean,
        "seconds_low": trial.setup + low * trial.fewest * min(trial.batch) / MARGIN,
        "seconds_high": trial.setup + high * trial.batches * max(trial.batch) * MARGIN,
    }


def _extent(question: Question) -> tuple[int, int]:
    """Examples and batches; counted in a pass where only that tells."""
    if question.source.total is not None:
        first = len(question.task.labels(question.source.first()))
        return question.source.total, len(grid(question.source.total, first))
    sizes = [len(order) for order, _ in question.source.batches()]
    return sum(sizes), len(sizes)
