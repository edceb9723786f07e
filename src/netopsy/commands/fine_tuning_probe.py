"""The probe of what fine-tuning changed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from netopsy.commands.criticality_probe import measured_criticality
from netopsy.commands.kept import is_whole, kept, place
from netopsy.commands.probing import Cost, Finding, Options, Probe, Progress, Subject, parts_asked
from netopsy.network.transformer_blocks import find_blocks
from netopsy.plots.style import save
from netopsy.probes.arguments import read_splits
from netopsy.probes.fine_tuning import asked_sites, fine_tuning
from netopsy.probes.fine_tuning_result import FineTuningResult
from netopsy.probes.plan import plan
from netopsy.report.fine_tuning import fine_tuning_sentences, proxies

ASKED = ("sites", "stop", "precision", "tolerance", "seed")


def _not_fine_tuned(subject: Subject) -> str | None:
    if subject.trajectory.initial is None:
        return "the weights that training started from were not kept; pass them by --init"
    return None if find_blocks(subject.trajectory.model()) else "the network has no transformer blocks"


def _asked(subject: Subject, options: Options) -> dict[str, Any]:
    return {**{name: options[name] for name in ASKED}, "sites": parts_asked(subject, options)}


def _plan_fine_tuning(subject: Subject, options: Options) -> Cost:
    asked = _asked(subject, options)
    home = place(subject, "fine-tuning", read_splits(subject.data), asked, fine_tuning)
    if is_whole(home):
        found = FineTuningResult.load(home)
        return Cost(rows=len(found.frame), seconds=0.0, low=0.0, high=0.0, found=home)
    trajectory = subject.trajectory
    sites = asked_sites(trajectory.model(), asked["sites"])
    start = trajectory.check_key(0 if trajectory.initial is None else trajectory.initial)
    cost = plan(trajectory, subject.data, **{**asked, "sites": sites}, checkpoints=(start,), draws=0)
    rows = len(sites) * len(cost.examples)
    return Cost(rows=rows, seconds=cost.seconds, low=cost.seconds_low, high=cost.seconds_high, plan=cost)


def _run_fine_tuning(subject: Subject, options: Options, progress: Progress) -> Finding:
    asked = _asked(subject, options)
    home = place(subject, "fine-tuning", read_splits(subject.data), asked, fine_tuning)
    how = {**asked, "resume": home / "unfinished", "progress": progress}
    critical = measured_criticality(subject, options)

    def grown(found: FineTuningResult) -> FineTuningResult:
        if critical is None or found.provenance["criticality"] == critical.provenance:
            return found
        return found.with_criticality(critical)

    measure = partial(fine_tuning, subject.trajectory, subject.data, **how)
    result = kept(home, FineTuningResult.load, measure, grown=grown)
    files, picture = {"result": home}, home / "proxies.png"
    if not picture.is_file() and (ax := proxies(result)) is not None:
        save(ax, picture)
    if picture.is_file():
        files["proxies"] = picture
    return Finding(result=result, sentences=fine_tuning_sentences(result), files=files)


FINE_TUNING_PROBES: Mapping[str, Probe] = {
    "fine-tuning": Probe(
        name="fine-tuning",
        question="which parts need what training changed in them, and whether cheap numbers would have told",
        applies=_not_fine_tuned,
        plan=_plan_fine_tuning,
        run=_run_fine_tuning,
        after=("criticality",),
    )
}
"""By name."""
