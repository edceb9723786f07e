"""Complexity measures of runs: each opened with its own model and data, as `netopsy inspect` does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from netopsy._checks import NetopsyError
from netopsy._identity import digest
from netopsy.commands.inspect import subject
from netopsy.commands.kept import kept, place
from netopsy.commands.probing import Subject
from netopsy.engine.evaluate import evaluate
from netopsy.probes.arguments import read_splits
from netopsy.probes.complexity import complexity
from netopsy.probes.complexity_result import ComplexityResult
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.report.complexity import Measures, rank
from netopsy.report.found import Found
from netopsy.report.robustness_words import MAIN
from netopsy.report.words import names, percent

HESSIAN_EXAMPLES = 512

EVERY = ("modules", "transformer")
"""Sites that have every parameter once."""

USUAL = 0.1
"""The train error at which criticality is taken, if it was measured at several."""


def measures(runs: Mapping[str, Found], *, split: str | None, sharpness: bool) -> Measures:
    """Measure runs, or find what was measured; those that cannot be opened are told, and left out.

    Args:
        runs: by their names.
        split: whose error is the test error; by default the first of test, validation, … that a run has.
        sharpness: also measure the Hessian's top eigenvalue, which takes longest.
    """
    known = {name: _criticalities(found) for name, found in runs.items()}
    epsilon, cautions = _common_epsilon(known)
    rows = []
    for name, found in runs.items():
        critical = None if epsilon is None else known[name].get(epsilon)
        try:
            rows.append({"network": name, **_measured(found, critical, epsilon, split, sharpness)})
        except NetopsyError as error:
            cautions.append(f"No complexity measures of {name}: {error}.")
    return rank(rows, epsilon=epsilon, cautions=cautions)


def _criticalities(found: Found) -> dict[float, CriticalityResult]:
    """The newest result of all modules, or all parts of a transformer, for each epsilon."""
    results: dict[float, CriticalityResult] = {}
    for result in found.results.values():
        if isinstance(result, CriticalityResult) and result.provenance["sites"] in EVERY:
            for epsilon in result.frame.epsilon.unique():
                results.setdefault(float(epsilon), result)
    return results


def _common_epsilon(known: Mapping[str, Mapping[float, Any]]) -> tuple[float | None, list[str]]:
    """The train error at which criticality of all runs that have it can be compared; what is left blank."""
    without = [name for name, levels in known.items() if not levels]
    has = {name: levels for name, levels in known.items() if levels}
    cautions = []
    if without:
        verb = "was not inspected" if len(without) == 1 else "were not inspected"
        cautions.append(
            f"{names(without)} {verb} for criticality, which is left blank: netopsy inspect RUN --probes criticality."
        )
    common = set.intersection(*(set(levels) for levels in has.values())) if has else set()
    if has and not common:
        told = ", ".join(f"{name} {' and '.join(map(percent, sorted(levels)))}" for name, levels in has.items())
        cautions.append(
            f"Criticality was measured at different train errors ({told}), and is left blank: measure it at the same "
            "one, netopsy inspect RUN --probes criticality --epsilon …"
        )
    return min(common, key=lambda level: abs(level - USUAL), default=None), cautions


def _measured(
    found: Found, critical: CriticalityResult | None, epsilon: float | None, split: str | None, sharpness: bool
) -> dict[str, Any]:
    """A row: errors and measures, in their scale."""
    opened = _opened(found)
    frame = None if critical is None else critical.to_frame()
    asked: dict[str, Any] = {
        "epsilon": USUAL if epsilon is None else epsilon,
        "hessian_examples": HESSIAN_EXAMPLES if sharpness else 0,
    }
    used = None if frame is None else digest(frame.to_csv(index=False))
    home = place(opened, "complexity", {"train": opened.train}, {**asked, "criticality": used}, complexity)
    measure = partial(complexity, opened.trajectory, opened.train, criticality=frame, **asked)
    result = kept(home, ComplexityResult.load, measure)
    train, test = float(result.provenance["train_error"]), _test_error(opened, split)
    values = result.frame.value.where(result.frame.status == "ok")
    return {
        "train_error": train,
        "test_error": test,
        "gap": test - train,
        **dict(zip(result.frame.measure, values, strict=True)),
    }


def _opened(found: Found) -> Subject:
    """The run with its train data."""
    inner = found.path / "run"
    run = inner if (inner / "manifest.json").is_file() else found.path
    opened = subject(run, model=None, init=None, final=None, data=None, out=None)
    if opened.train is None:
        raise NetopsyError(opened.no_train)
    if opened.trajectory.initial is None:
        raise NetopsyError("the weights that training started from were not kept")
    return opened


def _test_error(opened: Subject, split: str | None) -> float:
    """Of the split that was asked for, or the one that a reader asks about first."""
    splits = read_splits(opened.data)
    if split is not None and split not in splits:
        raise NetopsyError(f"split: expected one of {', '.join(splits)}; got {split!r}")
    chosen = split or next((name for name in MAIN if name in splits), next(iter(splits)))
    if splits[chosen] is opened.train:
        return float("nan")
    return evaluate(opened.trajectory.model(), splits[chosen], metrics=("error",)).baseline_error
