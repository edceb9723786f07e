"""Which measure ranks networks as their generalization gap does: all measures on all of them, and Kendall's τ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from netopsy._checks import NetopsyError, shorten
from netopsy.engine.evaluate import evaluate
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.complexity import MEASURES, Framed, complexity
from netopsy.probes.complexity_result import ComplexityResult
from netopsy.probes.ranking import rank_measures


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasureComparison:
    """Measures of several networks, and how they rank them.

    Attributes:
        table: a row a network: `network, train_error, test_error, gap`, the hyperparameters, and each measure in its
            scale (NaN where it has no value).
        ranking: a row a measure; see `netopsy.rank_measures`.
        results: the networks' own results.
    """

    table: pd.DataFrame = field(repr=False)
    ranking: pd.DataFrame = field(repr=False)
    results: Mapping[str, ComplexityResult] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """The table of measures."""
        return self.table.copy()

    def __str__(self) -> str:
        shown = self.ranking.drop(columns=["pairs", "concordant", "discordant", "tied"])
        return shown.to_string(index=False, float_format=lambda value: f"{value:.2f}", na_rep="–")


def compare(
    trajectories: Mapping[str, Trajectory],
    train_data: Any,
    test_data: Any,
    *,
    criticality: Mapping[str, Framed | pd.DataFrame] | None = None,
    hyperparameters: Mapping[str, Mapping[str, Any]] | None = None,
    unit: str | None = None,
    against: str | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    task: Task | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> MeasureComparison:
    """Hold complexity measures of networks against their generalization gap, test error less training error.

    Args:
        trajectories: by the networks' names; two or more, trained on the same data.
        train_data: what they were trained on.
        test_data: what they were not.
        criticality: of each network, a result or frame of `netopsy.criticality`.
        hyperparameters: network -> name -> value, the same names for all: for the granulated τ.
        unit: one of these; the bootstrap draws its values with all their networks.
        against: a measure, such as `"criticality"`, from which the others' difference in τ is given.
        resamples: of the bootstrap.
        confidence: of the intervals.
        task: how batches are read.
        batch_size: examples a batch.
        seed: of the order of the examples, of vectors to start from and of the resamples.
        options: more of `netopsy.complexity`, such as `hessian_examples=0`.

    Returns:
        The measures of each network, and a row a measure; one that no network has is left out of the ranking.

    Raises:
        NetopsyError: for fewer than two networks, names that differ between the arguments, and all that
            `netopsy.complexity` refuses.
    """
    if len(trajectories) < 2:
        raise NetopsyError(f"trajectories: expected at least two networks; got {len(trajectories)}")
    _same_names("criticality", criticality, trajectories)
    _same_names("hyperparameters", hyperparameters, trajectories)
    names = _names(hyperparameters)
    if unit is not None and unit not in names:
        raise NetopsyError(
            f"unit: expected one of the hyperparameters, {shorten(names) or 'none given'}; got {unit!r}"
        )
    if against is not None and against not in MEASURES:
        raise NetopsyError(f"against: expected one of {shorten(MEASURES, 12)}; got {against!r}")
    results, rows = {}, []
    for name, trajectory in trajectories.items():
        result = results[name] = complexity(
            trajectory,
            train_data,
            criticality=None if criticality is None else criticality[name],
            seed=seed,
            task=task,
            batch_size=batch_size,
            **options,
        )
        tested = evaluate(trajectory.model(), test_data, task=task, metrics=("error",), batch_size=batch_size)
        train, test = float(result.provenance["train_error"]), tested.baseline_error
        known = {} if hyperparameters is None else dict(hyperparameters[name])
        values = dict(zip(result.frame.measure, result.frame.value.where(result.frame.status == "ok"), strict=True))
        rows.append(
            {"network": name, "train_error": train, "test_error": test, "gap": test - train, **known, **values}
        )
    table = pd.DataFrame(rows).astype({"network": "string"})
    measured = [name for name in MEASURES if table[name].notna().any()]
    if against is not None and against not in measured:
        raise NetopsyError(f"against={against!r}: no network has a value of it; measured are {shorten(measured, 12)}")
    ranking = rank_measures(
        table,
        measured,
        hyperparameters=names,
        unit=unit,
        against=against,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    return MeasureComparison(table=table, ranking=ranking, results=results)


def _same_names(argument: str, given: Mapping[str, Any] | None, trajectories: Mapping[str, Trajectory]) -> None:
    if given is not None and set(given) != set(trajectories):
        raise NetopsyError(
            f"{argument}: expected one of each network, {shorten(trajectories)}; got {shorten(given) or 'none'}"
        )


def _names(hyperparameters: Mapping[str, Mapping[str, Any]] | None) -> Sequence[str]:
    if hyperparameters is None:
        return ()
    kinds = {tuple(sorted(values)) for values in hyperparameters.values()}
    if len(kinds) > 1:
        raise NetopsyError("hyperparameters: expected the same names for each network; they differ")
    names = tuple(next(iter(hyperparameters.values())))
    taken = {"network", "train_error", "test_error", "gap", *MEASURES} & set(names)
    if taken:
        raise NetopsyError(f"hyperparameters: {', '.join(sorted(taken))} is a column of the table; take another name")
    return names
