"""Write what is known of runs as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netopsy._checks import NetopsyError
from netopsy.report.found import find, names
from netopsy.report.page import write_page
from netopsy.report.run import chapter


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What was written.

    Attributes:
        path: of the page.
        sentences: its verdicts, each of several runs' after the run's name.
    """

    path: Path
    sentences: tuple[str, ...]


def report(runs: Sequence[Path], *, out: Path | None = None) -> Reported:
    """Write the results in run folders as one self-contained HTML page.

    Args:
        runs: folders of runs, of results, or of single ones.
        out: the file; by default `report.html` in the run, or `runs/report.html` of several.

    Raises:
        NetopsyError: when no folder is named, there is no such folder, or no result in it.
    """
    if not runs:
        raise NetopsyError("report: expected the folder of at least one run; got none")
    chapters = [chapter(name, find(run)) for name, run in zip(names(runs), runs, strict=True)]
    path = out or (runs[0] / "report.html" if len(runs) == 1 else Path("runs") / "report.html")
    title = chapters[0].title if len(chapters) == 1 else f"{len(chapters)} networks"
    write_page(path, title, chapters)
    sentences = [
        f"{part.title}: {sentence}" if len(chapters) > 1 else sentence
        for part in chapters
        for section in part.sections
        for sentence in section.verdict
    ]
    return Reported(path=path, sentences=tuple(sentences))
