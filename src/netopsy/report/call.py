"""The call that measures a result again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netopsy.engine.reducers import BUILT_IN
from netopsy.plots.frames import key
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.robustness_words import REINITIALIZE, single_sites, whole_network

OPTIONS = (
    "draws",
    "stop",
    "precision",
    "tolerance",
    "confidence",
    "seed",
    "estimand",
    "critical",
    "batch_norm",
)


def call(result: RobustnessResult) -> str:
    """The call of `netopsy.robustness` that gives this result again, of the same network and data.

    What the result does not know stands as a name, or in a comment.
    """
    p = result.provenance
    single = single_sites(result)
    sites = p.get("sites", single)
    reset = result.frame[result.frame.operation == REINITIALIZE]
    keys = tuple(dict.fromkeys(key(item) for item in reset.checkpoint))
    arguments = [f"sites={sites!r}", f"checkpoints={keys!r}"]
    if "metrics" in p:
        named = ", ".join(repr(name) if name in BUILT_IN else _named(name) for name in p["metrics"])
        arguments.append(f"metrics=({named},)")
    arguments += [f"{name}={p[name]!r}" for name in OPTIONS if name in p]
    if p.get("batch_norm") == "recompute":
        arguments.append("calibration=calibration")
    if whole_network(result):
        arguments.append("full_model=True")
    lines = [f"{argument}," for argument in arguments]
    if result.groups:
        # the result knows which sites are in a group, not whether it holds more than these
        known = {name: _globs(inside, sites) for name, inside in result.groups.items() if inside}
        unknown = [name for name in result.groups if name not in known]
        others = f"; without {unknown!r}, which hold none" if unknown else ""
        lines.append(f"groups={known!r},  # by the sites in them{others}")
    network = "model" if p.get("final") is None else "trajectory"
    body = "".join(f"    {line}\n" for line in (network + ",", "data,", *lines))
    return f"netopsy.robustness(\n{body})"


def _named(metric: str) -> str:
    """A function of the user's, by its own name; a lambda has none."""
    return metric if metric.isidentifier() else "..."


def _globs(inside: Sequence[str], sites: Any) -> list[str]:
    """Sites as `groups=` takes them: by the names of modules, not by the user's own."""
    if not isinstance(sites, Mapping):
        return list(inside)
    return [glob for site in inside for glob in ([sites[site]] if isinstance(sites[site], str) else sites[site])]
