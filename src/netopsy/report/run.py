"""A run's folder as a chapter of a report; and reports of results as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from netopsy._checks import NetopsyError
from netopsy.report.blocks import Chapter, Section
from netopsy.report.found import Found, names
from netopsy.report.page import write_page
from netopsy.report.sections import section_of
from netopsy.report.training import training_section


def chapter(name: str, found: Found) -> Chapter:
    """All that a folder holds, under a name: its results, probe by probe, then how the network was trained.

    Raises:
        NetopsyError: when it holds no result.
    """
    if not found.results:
        raise NetopsyError(
            f"{found.path}: expected results of a probe in it; there are none; measure some first: "
            f"netopsy inspect {found.path}"
        )
    sections = _told_apart([section_of(result) for result in found.results.values()], names([*found.results]))
    if found.manifest:
        sections.append(training_section(found.manifest, found.history))
    return Chapter(title=name, sections=tuple(sections))


def _told_apart(sections: Sequence[Section], known: Sequence[str]) -> list[Section]:
    """With the names of their results, where a probe has several: of several networks, or asked in several ways."""
    titles = Counter(section.title for section in sections)

    def named(section: Section, name: str) -> Section:
        if titles[section.title] == 1:
            return section
        first, *others = section.verdict or ("",)
        return replace(section, title=f"{section.title}: {name}", verdict=(f"{name}: {first}", *others))

    return [named(section, name) for section, name in zip(sections, known, strict=True)]


def write_report(
    results: Any | Sequence[Any] | Mapping[str, Any], path: Path | str, *, title: str = "Biopsy"
) -> Path:
    """Write results as one self-contained HTML page: verdicts first, heatmaps, tables, and how to repeat them.

    Args:
        results: one result of a probe, several of one network, or a mapping from names of networks to either.
        path: of the file; replaced if it exists.
        title: of the page.

    Returns:
        The path.

    Raises:
        NetopsyError: for something that is no result, or none at all.
    """
    named = results if isinstance(results, Mapping) else {title: results}
    chapters = []
    for name, part in named.items():
        several = part if isinstance(part, list | tuple) else [part]
        if not several:
            raise NetopsyError(f"report: expected at least one result of {name}; got none; measure one first")
        numbered = [f"result {place}" for place, _ in enumerate(several, 1)]
        sections = _told_apart([section_of(result) for result in several], numbered)
        chapters.append(Chapter(title=str(name), sections=tuple(sections)))
    if not chapters:
        raise NetopsyError("report: expected at least one result; got none; measure one first")
    return write_page(Path(path), title, chapters)
