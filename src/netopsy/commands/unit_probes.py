"""The probes of units: how redundant they are, how many can go, and what kind each of them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from netopsy._checks import NetopsyError
from netopsy._identity import canonical, code_version, digest
from netopsy.commands.probing import Cost, Finding, Options, Probe, Progress, Subject
from netopsy.commands.unit_costs import UnitPlan, plan_ablation, plan_redundancy, plan_units
from netopsy.data.dataset import fingerprint
from netopsy.engine.evaluation import Stopping
from netopsy.plots.style import save
from netopsy.plots.units import kind_counts, unit_map
from netopsy.probes.ablation import ablation_curve
from netopsy.probes.ablation_result import AblationResult
from netopsy.probes.arguments import read_splits
from netopsy.probes.redundancy import redundancy
from netopsy.probes.redundancy_result import RedundancyResult
from netopsy.probes.units import unit_table
from netopsy.probes.units_off import Question, ask
from netopsy.probes.units_result import UnitTableResult
from netopsy.report.ablation import ablation_sentences
from netopsy.report.redundancy import redundancy_sentences
from netopsy.report.robustness_words import MAIN
from netopsy.report.units import unit_sentences

MANY = 2_000
"""Units above which the effects of single ones are measured until they are known to ± precision."""

MOST = 20_000
"""Units of which each is set to zero, at most."""

MEMORY = 4 * 10**9
"""Bytes that the products of units with units may take; 12 for each pair in a layer."""


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """What is particular about a probe of units.

    Attributes:
        function: that measures.
        load: reads a result.
        options: the function's, of those that were asked for and this network.
        plan: what they will cost.
        sentences: what a result says.
        pictures: what is drawn of it, by the names of the files.
    """

    function: Callable[..., Any]
    load: Callable[[Path], Any]
    options: Callable[[Question, Options], Mapping[str, Any]]
    plan: Callable[[Question, Mapping[str, Any]], UnitPlan]
    sentences: Callable[[Any], tuple[str, ...]]
    pictures: Mapping[str, Callable[[Any], Any]]


def _question(subject: Subject, seed: int = 0) -> Question:
    """The trained network, and the split that a reader asks about first."""
    splits = read_splits(subject.data)
    split = next((name for name in MAIN if name in splits), next(iter(splits)))
    options = {"seed": seed, "engine": "auto", "batch_size": None, "progress": None}
    return ask(subject.trajectory.model(), splits[split], None, None, Stopping(rule="exact"), options)


def _without_units(subject: Subject, *, effects: bool, single: bool) -> str | None:
    """Why units cannot be read, or set to zero, or not one by one."""
    try:
        question = _question(subject)
        if effects:
            question.check()
    except NetopsyError as error:
        return f"no units to look at: {error}"
    units = sum(layer.units for layer in question.layers)
    if single and units > MOST:
        return f"it has {units:,} units, more than {MOST:,}; choose layers with netopsy.unit_table(sites=...)"
    bytes_needed = sum(12 * layer.units**2 for layer in question.layers)
    if (single or not effects) and bytes_needed > MEMORY:
        return (
            f"comparing its units takes {bytes_needed / 1e9:.1f} GB, more than {MEMORY / 1e9:g}; choose layers with "
            "sites= from Python"
        )
    return None


def _seed(question: Question, options: Options) -> Mapping[str, Any]:
    return {"seed": options["seed"]}


def _stopping(question: Question, options: Options) -> Mapping[str, Any]:
    return {name: options[name] for name in ("stop", "precision", "tolerance", "seed")}


def _bounded(question: Question, options: Options) -> Mapping[str, Any]:
    """Of a network of many units, no more examples than needed, where they come in random order."""
    asked = _stopping(question, options)
    many = sum(layer.units for layer in question.layers) > MANY
    early = many and asked["stop"] == "exact" and question.source.drawn
    return {**asked, "stop": "precision"} if early else asked


MEASURES: Mapping[str, _Measure] = {
    "redundancy": _Measure(
        function=redundancy,
        load=RedundancyResult.load,
        options=_seed,
        plan=plan_redundancy,
        sentences=redundancy_sentences,
        pictures={"bars": lambda result: result.plot()},
    ),
    "ablation": _Measure(
        function=ablation_curve,
        load=AblationResult.load,
        options=_stopping,
        plan=plan_ablation,
        sentences=ablation_sentences,
        pictures={"curves": lambda result: result.plot(), "areas": lambda result: result.plot(kind="areas")},
    ),
    "units": _Measure(
        function=unit_table,
        load=UnitTableResult.load,
        options=_bounded,
        plan=plan_units,
        sentences=unit_sentences,
        pictures={
            "map": lambda result: unit_map(result.frame),
            "kinds": lambda result: kind_counts(result.frame),
        },
    ),
}


def _home(subject: Subject, name: str, question: Question, asked: Mapping[str, Any]) -> Path:
    """Where a result lies, whether it is there or not: known by network, data, options and code."""
    trajectory = subject.trajectory
    factory = [trajectory.factory] if trajectory.factory else []
    known = {
        "data": question.source.fingerprint,
        "state": {key: fingerprint(value) for key, value in trajectory.state(trajectory.final).items()},
        "model": [canonical(each) for each in factory],
        "options": dict(asked),
        "code": code_version(MEASURES[name].function, *factory),
    }
    return subject.folder / f"{name}-{digest(known)[:16]}"


def _plan(name: str, subject: Subject, options: Options) -> Cost:
    measure, question = MEASURES[name], _question(subject, options["seed"])
    asked = measure.options(question, options)
    home = _home(subject, name, question, asked)
    if (home / "manifest.json").is_file():
        return Cost(rows=len(measure.load(home).frame), seconds=0.0, low=0.0, high=0.0, found=home)
    cost = measure.plan(question, asked)
    return Cost(rows=cost.rows, seconds=cost.seconds, low=cost.seconds_low, high=cost.seconds_high, plan=cost)


def _run(name: str, subject: Subject, options: Options, progress: Progress) -> Finding:
    measure, question = MEASURES[name], _question(subject, options["seed"])
    asked = measure.options(question, options)
    home = _home(subject, name, question, asked)
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f".{home.name}.lock")):
        if (home / "manifest.json").is_file():
            result = measure.load(home)
        else:
            result = measure.function(question.model, question.data, progress=progress, **asked)
            result.save(home, overwrite=True)
    pictures = {what: home / f"{what}.png" for what in measure.pictures}
    for what, path in pictures.items():
        if not path.is_file():
            save(measure.pictures[what](result), path)
    return Finding(result=result, sentences=measure.sentences(result), files={"result": home, **pictures})


def _probe(name: str, asks: str, *, effects: bool, single: bool) -> Probe:
    return Probe(
        name=name,
        question=asks,
        applies=partial(_without_units, effects=effects, single=single),
        plan=partial(_plan, name),
        run=partial(_run, name),
    )


UNIT_PROBES: Mapping[str, Probe] = {
    "redundancy": _probe(
        "redundancy", "how many of a layer's units say what others say", effects=False, single=False
    ),
    "ablation": _probe("ablation", "how many units can be set to zero", effects=True, single=False),
    "units": _probe(
        "units", "which units the function needs, and what kind of spare the others are", effects=True, single=True
    ),
}
"""By name."""
