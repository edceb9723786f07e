"""The documentation's pages: what they link to exists, every page is reachable, and the code on them runs."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest

import netopsy

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
API = [path for path in PAGES if path.parent.name == "api"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.DOTALL | re.MULTILINE)
OBJECT = re.compile(r"^\.\. auto\w+:: ([\w.]+)", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)

ASKED = ["Asks", "Definition", "How to read it", "Cost", "Limits"]
"""What a page on a probe says, in this order."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def listed(toctree: str) -> list[str]:
    """What a toctree's lines name: `page`, or `Title <page>`."""
    lines = [line for line in toctree.splitlines() if line and not line.startswith(":")]
    return [re.sub(r".*<(.*)>$", r"\1", line) for line in lines]


def entries(page: str) -> list[str]:
    """Pages that a page's toctrees list, named from docs/ on."""
    names = [name for block in TOCTREE.findall(read(DOCS / f"{page}.md")) for name in listed(block)]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(page), name)) for name in names]


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", FENCED.sub("", text), re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Headings as the parts of links after #."""
    words = re.findall(r"^#{1,3} (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in words}


def test_every_public_name_is_in_the_reference() -> None:
    shown = {name for page in API for name in OBJECT.findall(read(page))}
    missing = [name for name in netopsy.__all__ if f"netopsy.{name}" not in shown]
    assert missing == ["__version__", "paths"]  # a string, a module


def test_every_page_is_reachable_from_the_index() -> None:
    reached: list[str] = []
    waiting = ["index"]
    while waiting:
        page = waiting.pop()
        reached.append(page)
        waiting += entries(page)
    assert sorted(reached) == sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES)


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page: Path) -> None:
    for target in LINK.findall(FENCED.sub("", read(page))):
        if "://" in target:
            continue
        name, _, part = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{target} is not there"
        assert file.is_relative_to(ROOT), f"{target} is outside the project"
        if part:
            assert part in anchors(read(file)), f"{target}: no such heading"


def test_pictures_are_small_and_used() -> None:
    pages = "".join(map(read, [*PAGES, ROOT / "README.md"]))
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".jpg", ".svg", ".gif")]
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 200_000, f"{path.name} is too large"
        assert path.name in pages, f"{path.name} is on no page"


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").splitlines()) < 120


def test_a_page_on_a_probe_answers_the_same_questions() -> None:
    probes = re.search(r":caption: Probes\n(.*?)^```", read(DOCS / "index.md"), re.DOTALL | re.MULTILINE)
    assert probes
    pages = listed(probes[1])
    assert "robustness" in pages
    for page in pages:
        if page != "report":  # not on a probe, but on what all of them come to
            assert headings(read(DOCS / f"{page}.md")) == ASKED, page


@pytest.mark.usefixtures("unchecked")  # as a user runs it
def test_getting_started_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    page = read(DOCS / "getting-started.md")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"getting-started.md, {number}", "exec"), space)
    plt.close("all")
    printed = capsys.readouterr().out
    assert (tmp_path / "heatmap.png").is_file()
    result = space["result"]
    assert result.to_frame().site.dropna().unique().tolist() == ["hidden.0", "hidden.1", "hidden.2", "classifier"]
    shown = [block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if block.startswith("data:")]
    assert len(shown) == 1
    seen = [_verdicts(line) for line in printed.splitlines()]
    for line in shown[0].splitlines()[1:]:
        assert _verdicts(line) in seen, line


def _verdicts(line: str) -> list[str]:
    """Cells without their numbers: another processor may round another digit, or leave another cell undecided."""
    return re.sub(r"[\d.]+%\??", "%", line).split()
