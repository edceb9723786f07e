"""The probes that `netopsy inspect` knows: what each asks, whether it applies, what it costs, and how it is run.

A further probe is one more entry in `PROBES`.
"""

from __future__ import annotations

from netopsy.commands.criticality_probe import CRITICALITY_PROBES
from netopsy.commands.fine_tuning_probe import FINE_TUNING_PROBES
from netopsy.commands.probing import Cost, Finding, OneModel, Options, Probe, Progress, Subject, plain_rows
from netopsy.commands.sensitivity_probes import SENSITIVITY_PROBES
from netopsy.commands.unit_probes import UNIT_PROBES
from netopsy.plots.style import save
from netopsy.probes.plan import plan
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.robustness_words import sentences
from netopsy.store.probed import find, probed

__all__ = ["PROBES", "Cost", "Finding", "OneModel", "Options", "Probe", "Progress", "Subject", "plain_rows"]

ROBUSTNESS = ("sites", "checkpoints", "draws", "stop", "precision", "tolerance", "seed")


def _without_parameters(subject: Subject) -> str | None:
    has = any(True for _ in subject.trajectory.model().parameters())
    return None if has else "the network has no parameters to reset"


def _plan_robustness(subject: Subject, options: Options) -> Cost:
    asked = {name: options[name] for name in ROBUSTNESS}
    found = find(subject.trajectory, subject.data, folder=subject.folder, **asked)
    if found is not None:
        return Cost(rows=len(RobustnessResult.load(found).frame), seconds=0.0, low=0.0, high=0.0, found=found)
    cost = plan(subject.trajectory, subject.data, **asked)
    rows = (sum(cost.rows.values()) - cost.rows["no-op"] + 1) * len(cost.examples)
    return Cost(rows=rows, seconds=cost.seconds, low=cost.seconds_low, high=cost.seconds_high, plan=cost)


def _run_robustness(subject: Subject, options: Options, progress: Progress) -> Finding:
    asked = {name: options[name] for name in ROBUSTNESS}
    result, folder = probed(subject.trajectory, subject.data, folder=subject.folder, progress=progress, **asked)
    pictures = {"heatmap": folder / "heatmap.png", "curves": folder / "curves.png"}
    for kind, path in pictures.items():
        if not path.is_file():
            save(result.plot(kind=kind), path)  # type: ignore[arg-type]
    return Finding(result=result, sentences=sentences(result), files={"result": folder, **pictures})


PROBES: tuple[Probe, ...] = (
    UNIT_PROBES["redundancy"],
    SENSITIVITY_PROBES["jacobian"],
    SENSITIVITY_PROBES["transitions"],
    CRITICALITY_PROBES["path"],
    Probe(
        name="robustness",
        question="which parts can go back to where they started, or be drawn anew",
        applies=_without_parameters,
        plan=_plan_robustness,
        run=_run_robustness,
    ),
    UNIT_PROBES["ablation"],
    UNIT_PROBES["units"],
    CRITICALITY_PROBES["criticality"],
    FINE_TUNING_PROBES["fine-tuning"],
)
"""Cheapest first, as a rule (a plan tells for a network); but each `after` those whose results it adds to its own."""
