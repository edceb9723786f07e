"""The probes of the way back: modules moved towards where they started, without and with noise."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from netopsy._checks import inside
from netopsy._identity import digest
from netopsy._random import derive, generator
from netopsy.commands.criticality_costs import LinePlan, plan_path, plan_search
from netopsy.commands.kept import is_whole, kept, place
from netopsy.commands.probing import Cost, Finding, Options, Probe, Progress, Subject, parts_asked
from netopsy.network.sites import Site, find_sites
from netopsy.plots.style import save
from netopsy.probes.arguments import described, read_splits
from netopsy.probes.criticality import criticality
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.probes.valley import ALPHAS, FULL_NETWORK, convex_path
from netopsy.probes.valley_result import ValleyResult
from netopsy.report.criticality import bars, criticality_sentences
from netopsy.report.valley import curves, path_sentences

EPSILON = 0.1
"""Train error that is allowed, as in the paper."""

ROOM = 0.05
"""What is allowed above the trained network's train error, where that is above `EPSILON`."""

NOISE_SAMPLES = 10

PATH_EXAMPLES = 2_000
"""Random examples of a split on which a path is measured: it is a picture, and the table beside it has intervals."""


def allowed(train_error: float) -> float:
    """The train error that criticality allows: 0.1; if the trained network makes more, that plus 0.05, rounded.

    >>> allowed(0.02), allowed(0.1), allowed(0.1731)
    (0.1, 0.1, 0.22)
    """
    return EPSILON if train_error <= EPSILON else min(round(train_error + ROOM, 2), 0.99)


def _no_way_back(subject: Subject) -> str | None:
    if subject.trajectory.initial is None:
        return "the weights that training started from were not kept; pass them by --init"
    has = any(True for _ in subject.trajectory.model().parameters())
    return None if has else "the network has no parameters to move"


def _not_critical(subject: Subject) -> str | None:
    return _no_way_back(subject) or (subject.no_train if subject.train is None else None)


def _asked(subject: Subject, options: Options) -> dict[str, Any]:
    """With the error that is allowed, and what it was chosen by."""
    given = options["epsilon"]
    if given is not None:
        inside("epsilon", given, 0, 1, open_high=True)
    return {
        "sites": parts_asked(subject, options),
        "epsilon": allowed(subject.train_error) if given is None else given,
        "noise_samples": NOISE_SAMPLES,
        "seed": options["seed"],
        "train_error": subject.train_error,
    }


def _cost(home: Path, load: Callable[[Path], Any], plan: Callable[[], LinePlan]) -> Cost:
    if is_whole(home):
        return Cost(rows=len(load(home).frame), seconds=0.0, low=0.0, high=0.0, found=home)
    cost = plan()
    return Cost(rows=cost.rows, seconds=cost.seconds, low=cost.seconds_low, high=cost.seconds_high, plan=cost)


def _plan_criticality(subject: Subject, options: Options) -> Cost:
    asked = _asked(subject, options)
    home = place(subject, "criticality", {"train": subject.train}, asked, criticality)

    def plan() -> LinePlan:
        sites = find_sites(subject.trajectory.model(), asked["sites"])
        how = {"epsilon": asked["epsilon"], "draws": NOISE_SAMPLES, "seed": asked["seed"]}
        return plan_search(subject.trajectory, subject.train, sites, **how)

    return _cost(home, CriticalityResult.load, plan)


def _run_criticality(subject: Subject, options: Options, progress: Progress) -> Finding:
    asked = _asked(subject, options)
    home = place(subject, "criticality", {"train": subject.train}, asked, criticality)
    measure = partial(_site_by_site, subject, asked, home / "unfinished", progress)
    result = kept(home, CriticalityResult.load, measure)
    shutil.rmtree(home / "unfinished", ignore_errors=True)  # whose parts the result has now
    picture = home / "bars.png"
    if not picture.is_file():
        save(bars(result), picture)
    return Finding(result=result, sentences=criticality_sentences(result), files={"result": home, "bars": picture})


def measured_criticality(subject: Subject, options: Options) -> CriticalityResult | None:
    """What this probe has found before, with these options; None if it has not been run."""
    if _not_critical(subject) is not None or not any(map(is_whole, subject.folder.glob("criticality-*"))):
        return None  # before the train error is taken for nothing
    home = place(subject, "criticality", {"train": subject.train}, _asked(subject, options), criticality)
    return CriticalityResult.load(home) if is_whole(home) else None


def _site_by_site(
    subject: Subject, asked: Mapping[str, Any], unfinished: Path, progress: Progress
) -> CriticalityResult:
    """Every site as if it were the only one, so that what was interrupted goes on: noise is of the site's name."""
    options = {name: value for name, value in asked.items() if name not in ("sites", "train_error")}
    sites = find_sites(subject.trajectory.model(), asked["sites"])
    parts = []
    for done, site in enumerate(sites, 1):
        folder = unfinished / digest(site.name)[:16]
        if not is_whole(folder):
            found = criticality(subject.trajectory, subject.train, sites=[site], end_sigma=True, **options)
            found.save(folder, overwrite=True)
        parts.append(CriticalityResult.load(folder))
        progress(done, len(sites))
    return _joined(parts, sites=described(asked["sites"]), train_error=asked["train_error"])


def _joined(parts: Sequence[CriticalityResult], **known: Any) -> CriticalityResult:
    """One result of all sites."""
    first = parts[0]
    by_site = {
        name: {key: item for part in parts for key, item in part.provenance[name].items()}
        for name, value in first.provenance.items()
        if isinstance(value, Mapping)
    }
    seconds = sum(part.provenance["seconds"] for part in parts)
    return replace(
        first,
        frame=pd.concat([part.frame for part in parts], ignore_index=True),
        provenance={**first.provenance, **by_site, "seconds": seconds, **known},
    )


def _path_splits(subject: Subject, seed: int) -> dict[str, Any]:
    """A part of the train data, where they are known, and of each split that other probes measure on."""
    splits = {**({} if subject.train is None else {"train": subject.train}), **read_splits(subject.data)}
    return {split: _some(data, derive(seed, "path", split)) for split, data in splits.items()}


def _some(data: Any, seed: int) -> Any:
    """Random examples of a pair of tensors, if it has more; anything else whole."""
    pair = isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data)
    if not pair or len(data[0]) <= PATH_EXAMPLES:
        return data
    rows = torch.randperm(len(data[0]), generator=generator(seed))[:PATH_EXAMPLES].sort().values
    return tuple(part[rows.to(part.device)] for part in data)


def _path_asked(options: Options) -> dict[str, Any]:
    return {"sites": options["sites"], "seed": options["seed"]}


def _plan_path(subject: Subject, options: Options) -> Cost:
    asked, splits = _path_asked(options), _path_splits(subject, options["seed"])
    home = place(subject, "path", splits, asked, convex_path)

    def plan() -> LinePlan:
        model = subject.trajectory.model()
        whole = Site(FULL_NETWORK, find_sites(model, {FULL_NETWORK: "*"})[0].addresses)
        sites = (*find_sites(model, asked["sites"]), whole)
        return plan_path(subject.trajectory, splits, sites, places=len(ALPHAS), seed=asked["seed"])

    return _cost(home, ValleyResult.load, plan)


def _run_path(subject: Subject, options: Options, progress: Progress) -> Finding:
    asked, splits = _path_asked(options), _path_splits(subject, options["seed"])
    home = place(subject, "path", splits, asked, convex_path)
    measure = partial(convex_path, subject.trajectory, splits, progress=progress, **asked)
    result = kept(home, ValleyResult.load, measure)
    picture = home / "curves.png"
    if not picture.is_file():
        save(curves(result), picture)
    return Finding(result=result, sentences=path_sentences(result), files={"result": home, "curves": picture})


CRITICALITY_PROBES: Mapping[str, Probe] = {
    "path": Probe(
        name="path",
        question="what lies between the initial and the trained weights",
        applies=_no_way_back,
        plan=_plan_path,
        run=_run_path,
        counts="paths",
    ),
    "criticality": Probe(
        name="criticality",
        question="which modules hold the network together: how far they can go back, with how much noise",
        applies=_not_critical,
        plan=_plan_criticality,
        run=_run_criticality,
        counts="modules",
    ),
}
"""By name."""
