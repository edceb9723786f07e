"""Networks with sets of their units at zero: what ablation curves and the table of units share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy.engine.batches import Source, open_data
from netopsy.engine.edits import Edit, Mask, Variant
from netopsy.engine.evaluate import evaluate, opened
from netopsy.engine.evaluation import Evaluation, Stopping
from netopsy.engine.reducers import MOVED
from netopsy.engine.sequential import ConfidenceSequence
from netopsy.network.addresses import unwrap
from netopsy.network.states import check_parameters
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer, UnitSpec, find_units

Chosen: TypeAlias = frozenset[tuple[str, frozenset[int]]]
"""Units ablated together, by layer: what tells one variant from another."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the probes of units read from their arguments."""

    model: nn.Module
    data: Any
    source: Source
    layers: tuple[UnitLayer, ...]
    task: Task
    options: Mapping[str, Any]
    stopping: Stopping

    def check(self) -> int:
        """Refuse what `run` would of the model and the data's beginning: for passes that come before it.

        Returns:
            The classes of the logits.
        """
        one_of("engine", self.options["engine"], ("auto", "exported", "eager"))
        eager = {**self.options, "engine": "eager"}  # nothing is run, so nothing is to be exported
        with opened(
            self.model, self.data, (), task=self.task, metrics=("error",), stop=self.stopping, examples=(), **eager
        ) as run:
            run.start()  # looks whether any target counts
            return run.classes

    def run(self, chosen: Sequence[Chosen], *, moved: bool = False) -> tuple[Evaluation, pd.DataFrame]:
        """Ablate each set of units; a row for each, then one for the unedited network.

        Columns: `unchanged`, `unchanged_low`, `unchanged_high`, `accuracy`, `accuracy_change`, `accuracy_change_low`,
        `accuracy_change_high`, `n`, `status`; with `moved` also that metric's mean (see `netopsy.engine.reducers`).
        """
        layers = {layer.name: layer for layer in self.layers}
        metrics = ("error", "unchanged", MOVED) if moved else ("error", "unchanged")
        evaluation = evaluate(
            self.model,
            self.data,
            [_variant(layers, units) for units in chosen],
            task=self.task,
            metrics=metrics,
            stop=self.stopping,
            **self.options,
        )
        frame = self._frame(evaluation)
        if moved:
            frame[MOVED] = np.r_[evaluation.metrics[MOVED], 0.0]
        return evaluation, frame

    def _frame(self, evaluation: Evaluation) -> pd.DataFrame:
        unchanged = np.r_[evaluation.metrics["unchanged"], 1.0]
        n = np.r_[evaluation.n, evaluation.baseline_n]
        low, high = self._interval(evaluation)
        columns = {
            "unchanged": unchanged,
            "unchanged_low": np.minimum(np.r_[low, 1.0], unchanged),
            "unchanged_high": np.maximum(np.r_[high, 1.0], unchanged),
            "accuracy": 1 - np.r_[evaluation.metrics["error"], evaluation.baseline_error],
            "accuracy_change": np.r_[-evaluation.delta_error, 0.0] + 0.0,
            "accuracy_change_low": np.r_[-evaluation.delta_error_high, 0.0] + 0.0,
            "accuracy_change_high": np.r_[-evaluation.delta_error_low, 0.0] + 0.0,
            "n": n,
            "status": pd.array([*evaluation.status, "no-op"], dtype="string"),
        }
        return pd.DataFrame(columns)

    def _interval(self, evaluation: Evaluation) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Simultaneous bounds of the share unchanged, valid at whatever time each row stopped.

        NaN where an example has several predictions, or none that counts: they are not independent draws.
        """
        rows = len(evaluation.n)
        batch = self.source.whole if self.source.whole is not None else self.source.first()
        labels = self.task.labels(batch)
        if labels.shape[1] != 1 or not self.task.valid(labels).all():
            return np.full(rows, np.nan), np.full(rows, np.nan)
        total = int(evaluation.provenance["examples"]) if self.stopping.estimand == "dataset" else None
        confidence = self.stopping.confidence
        sequence = ConfidenceSequence(max(1, rows), confidence=confidence, total=total, support=(0.0, 1.0))
        same = np.rint(evaluation.metrics["unchanged"] * evaluation.n)
        sequence.update(np.arange(rows), np.stack([evaluation.n - same, same], axis=1))
        low, high = sequence.low[:rows], sequence.high[:rows]
        silent = np.array([status == "no-op" for status in evaluation.status], dtype=bool)
        low[silent] = high[silent] = 1.0
        return low, high


def ask(
    model: nn.Module, data: Any, sites: UnitSpec, task: Task | None, stopping: Stopping, options: Mapping[str, Any]
) -> Question:
    """Open the data and find the layers; `options` are `evaluate`'s seed, engine, batch_size and progress."""
    if not isinstance(model, nn.Module):
        raise NetopsyError(
            f"model: expected a torch module; got {type(model).__name__}; of a trajectory pass .model(key)"
        )
    model, task = unwrap(model), task or Task()
    check_parameters(model)
    source = open_data(data, batch_size=options["batch_size"], seed=options["seed"])
    layers = find_units(model, task.inputs(source.first()), sites, task=task)
    return Question(
        model=model, data=data, source=source, layers=layers, task=task, options=options, stopping=stopping
    )


def places(question: Question) -> pd.DataFrame:
    """A row a unit of every layer: `site`, `unit`."""
    rows = [(layer.name, unit) for layer in question.layers for unit in range(layer.units)]
    return pd.DataFrame(rows, columns=["site", "unit"]).astype({"site": "string"})


def alone(site: str, unit: int) -> Chosen:
    """One unit and no other."""
    return frozenset({(site, frozenset({unit}))})


def effects(question: Question) -> pd.DataFrame:
    """A row a unit, ablated alone; the columns of `netopsy.probes.ablation.unit_effects`."""
    frame = places(question)
    _, measured = question.run([alone(*place) for place in zip(frame.site, frame.unit, strict=True)])
    return pd.concat([frame, measured.iloc[:-1]], axis=1)


def _variant(layers: Mapping[str, UnitLayer], chosen: Chosen) -> Variant:
    units = dict(chosen)
    edits = [
        Edit(layer.address, Mask(layer.entries(sorted(units[name])), layer.axis))
        for name, layer in layers.items()
        if name in units
    ]
    parts = [f"{name}: {shorten(sorted(units[name]), 3)}" for name in layers if name in units]
    return Variant(f"units {'; '.join(parts)} off", tuple(edits))
