"""What is known of the probes' results: how to read one from its folder, and what to say of it.

A new probe adds itself with one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from netopsy._checks import NetopsyError
from netopsy.probes.ablation_result import AblationResult
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.probes.fine_tuning_result import FineTuningResult
from netopsy.probes.jacobian_norm_result import JacobianNorms
from netopsy.probes.matching_result import UnitMatch
from netopsy.probes.path_transitions import PathTransitions
from netopsy.probes.redundancy_result import RedundancyResult
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.probes.units_result import UnitTableResult
from netopsy.probes.valley_result import ValleyResult
from netopsy.probes.winner_ranks import WinnerRanks
from netopsy.report.ablation import ablation_section
from netopsy.report.blocks import Section
from netopsy.report.criticality import criticality_section
from netopsy.report.fine_tuning import fine_tuning_section
from netopsy.report.matching import match_section, ranks_section
from netopsy.report.redundancy import redundancy_section
from netopsy.report.robustness import robustness_section
from netopsy.report.sensitivity import jacobian_section
from netopsy.report.sensitivity_transitions import transitions_section
from netopsy.report.units import unit_table_section
from netopsy.report.valley import valley_section


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A kind of result.

    Attributes:
        kind: its class.
        load: reads one from the folder that its `save` wrote.
        section: says what it found.
        known_by: what tells its network from another: all its numbers, or some that only depend on the network.
    """

    kind: type[Any]
    load: Callable[[Path], Any]
    section: Callable[[Any], Section]
    known_by: Callable[[Any], Sequence[pd.DataFrame]] = lambda result: [result.frame]


def _moved(result: RobustnessResult) -> Sequence[pd.DataFrame]:
    """How far the network's parts have moved, where that is known; the groups that were asked about."""
    groups = pd.DataFrame([(name, site) for name, sites in result.groups.items() for site in sites])
    return [result.distances if len(result.distances) else result.frame, groups]


SECTIONS: Mapping[str, Reported] = {
    "robustness": Reported(
        kind=RobustnessResult, load=RobustnessResult.load, section=robustness_section, known_by=_moved
    ),
    "fine_tuning": Reported(kind=FineTuningResult, load=FineTuningResult.load, section=fine_tuning_section),
    "criticality": Reported(kind=CriticalityResult, load=CriticalityResult.load, section=criticality_section),
    "valley": Reported(kind=ValleyResult, load=ValleyResult.load, section=valley_section),
    "ablation": Reported(kind=AblationResult, load=AblationResult.load, section=ablation_section),
    "units": Reported(kind=UnitTableResult, load=UnitTableResult.load, section=unit_table_section),
    "redundancy": Reported(kind=RedundancyResult, load=RedundancyResult.load, section=redundancy_section),
    "jacobian_norm": Reported(kind=JacobianNorms, load=JacobianNorms.load, section=jacobian_section),
    "path_transitions": Reported(kind=PathTransitions, load=PathTransitions.load, section=transitions_section),
    "match_units": Reported(kind=UnitMatch, load=UnitMatch.load, section=match_section),
    "winner_ranks": Reported(kind=WinnerRanks, load=WinnerRanks.load, section=ranks_section),
}
"""By the name that a result's provenance gives its probe, in the order of the page."""


def section_of(result: object) -> Section:
    """The section of a result.

    Raises:
        NetopsyError: for anything that is no result of a probe.
    """
    for reported in SECTIONS.values():
        if isinstance(result, reported.kind):
            return reported.section(result)
    known = ", ".join(reported.kind.__name__ for reported in SECTIONS.values())
    raise NetopsyError(
        f"report: expected a result of a probe ({known}); got {type(result).__name__}; pass what "
        "netopsy.robustness or another probe returned"
    )
