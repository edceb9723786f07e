"""Put runs side by side: as a table, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netopsy._checks import NetopsyError
from netopsy.commands.measuring import measures
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.blocks import Chapter
from netopsy.report.comparison import Comparison, comparison
from netopsy.report.comparison_section import comparison_section
from netopsy.report.complexity import Measures, measures_section
from netopsy.report.found import Found, find, names
from netopsy.report.page import write_page


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was found and written.

    Attributes:
        comparison: the table of parts.
        measures: the table of complexity measures.
        path: of the page.
    """

    comparison: Comparison
    measures: Measures
    path: Path


def compare(
    runs: Sequence[Path], *, split: str | None = None, sharpness: bool = False, out: Path | None = None
) -> Compared:
    """Hold the newest robustness results of runs against each other, and their complexity against their errors.

    Args:
        runs: folders of runs, of results, or of single ones; measures are of runs on netopsy's own models and data.
        split: of the data.
        sharpness: also measure the sharpness of the minima.
        out: of the page; by default `runs/comparison.html`.

    Raises:
        NetopsyError: for fewer than two runs, one without a result, or results that cannot be compared.
    """
    if len(runs) < 2:
        raise NetopsyError(f"compare: expected at least two runs; got {len(runs)}; name another")
    found = [find(run) for run in runs]
    named = dict(zip(names(runs), found, strict=True))
    if len(named) < len(found):
        raise NetopsyError(f"compare: expected different runs; got {', '.join(map(str, runs))}")
    result = comparison({name: _robustness(one) for name, one in named.items()}, split=split)
    measured = measures(named, split=result.split, sharpness=sharpness)
    sections = [comparison_section(result, [one.manifest for one in found]), measures_section(measured)]
    path = out or Path("runs") / "comparison.html"
    write_page(
        path,
        " and ".join(named) if len(named) == 2 else f"{len(named)} networks",
        [Chapter(title="", sections=sections)],
    )
    return Compared(comparison=result, measures=measured, path=path)


def _robustness(found: Found) -> RobustnessResult:
    for result in found.results.values():
        if isinstance(result, RobustnessResult):
            return result
    command = f"netopsy inspect {found.path}" if found.manifest else "the netopsy inspect that wrote the folder, with"
    raise NetopsyError(
        f"{found.path}: expected a robustness result in it; there is none; measure one first: {command} "
        "--probes robustness"
    )
