"""What is known of the probes' results: how to read one from its folder, and what to say of it.

A new probe adds itself with one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netopsy._checks import NetopsyError
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.blocks import Section
from netopsy.report.robustness import robustness_section


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A kind of result.

    Attributes:
        kind: its class.
        load: reads one from the folder that its `save` wrote.
        section: says what it found.
    """

    kind: type[Any]
    load: Callable[[Path], Any]
    section: Callable[[Any], Section]


SECTIONS: Mapping[str, Reported] = {
    "robustness": Reported(kind=RobustnessResult, load=RobustnessResult.load, section=robustness_section),
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
        "netopsy.robustness returned"
    )
