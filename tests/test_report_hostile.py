"""A run whose every name is an attack, or nonsense: nothing of it becomes markup, and the page still opens."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.blocks import Chapter
from netopsy.report.page import write_page
from netopsy.report.run import write_report
from netopsy.report.sections import section_of
from netopsy.report.training import training_section
from tests.browser import browser, opened
from tests.made import deep, made

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</script><script>alert(2)</script>",
    "</style><style>*{display:none}</style>",
    "</title></head><body onload=alert(1)>",
    "<!-- ",
    "]]>",
    "{{7*7}}",
    "{% raw %}",
    "{split}",
    "`backtick` \\ \\u0041",
    "&amp; &lt;b&gt;",
    "$x^2$",
    "$\\frac{$",
    "$",
    "_hidden",
    "%s %(a)s %d",
    "two\nlines\r\nand\ttabs",
    "nul\x00 bell\x07 escape\x1b[31m",
    "\u202egpj.exe",
    "\u2066isolate",
    "🧠🔥 e\u0301 网络 ฿",
    "\ufffe\uffff",
    "",
    " ",
    "\u200b",
    "javascript:alert(1)",
    "x" * 5000,
    "a" * 2500 + "1" + "b" * 2500,
    "a" * 2500 + "2" + "b" * 2500,
    "full model ",
)

MARKUP = {
    *("html", "head", "meta", "title", "style", "body", "header", "a", "button", "b", "main", "h1", "h2", "h3"),
    *("section", "div", "p", "span", "article", "figure", "figcaption", "table", "thead", "tbody", "tr", "th", "td"),
    *("i", "label", "input", "details", "summary", "dl", "dt", "dd", "pre", "footer", "script"),
    *("svg", "g", "path", "rect", "defs", "use", "text", "tspan", "clippath", "image"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "href", "id", "type", "hidden", "aria-label"),
    *("aria-hidden", "aria-sort", "role", "tabindex", "scope", "data-tip", "data-mark", "data-sort", "placeholder"),
    *("viewbox", "preserveaspectratio", "d", "x", "y", "width", "height", "rx", "fill", "stroke", "stroke-width"),
    *("style", "transform", "clip-path", "xmlns"),
}


class Markup(HTMLParser):
    """Every element and attribute of a page, and the scripts in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def hostile(names: tuple[str, ...] = HOSTILE) -> RobustnessResult:
    """Every name there is, everywhere a result has one."""
    groups = {f"joint {name}": (name, names[0]) for name in names[1:]}
    parts = {"<u>data</u>": "<u>", "examples": 7, "torch": "<u>2</u>", "engine_reasons": list(names[:9])}
    result = made(
        names,
        keys=names[:9],
        final=names[9],
        draws=2,
        groups=groups,
        full_model=True,
        splits=names[:2],
        netopsy=names[0],
        engine=names[1],
        stop=names[2],
        batch_norm=names[3],
    )
    splits = {split: {**parts, "data": names[4]} for split in names[:2]}
    return RobustnessResult(result.frame, result.distances, result.groups, {**result.provenance, "splits": splits})


def manifest() -> dict[str, Any]:
    config = {f"{name}": name for name in HOSTILE}
    numbers = {"optimizer": HOSTILE[0], "lr": 0.1, "batch_size": 2}
    versions = dict(zip(HOSTILE, HOSTILE, strict=True))
    about = {"data": HOSTILE[1]}
    known = {"keys": [0, 1], "data": HOSTILE[1], "versions": versions, "finished": True, "about": about}
    return {"config": {**config, **numbers}, "model": HOSTILE[0], **known}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    history = pd.DataFrame({"epoch": [1, 2], "train_error": [0.5, 0.4], "validation_error": [0.5, 0.4]})
    sections = [section_of(hostile()), section_of(hostile(HOSTILE[10:22])), training_section(manifest(), history)]
    chapters = [
        Chapter(title=name, sections=sections if at == 0 else sections[-1:]) for at, name in enumerate(HOSTILE)
    ]
    return write_page(tmp_path_factory.mktemp("hostile") / "report.html", HOSTILE[0], chapters, HOSTILE)


def test_no_name_becomes_markup(page_file: Path) -> None:
    found = Markup(page_file.read_text(encoding="utf-8"))
    assert found.elements <= MARKUP
    assert {name for name, _ in found.attributes} <= ATTRIBUTES
    assert {value for name, value in found.attributes if name == "href"} >= {"#top"}
    assert all(value.startswith("#") for name, value in found.attributes if name == "href")
    assert len(found.scripts) == 1
    assert "alert" not in found.scripts[0]


def test_the_browser_shows_every_name_as_text(chromium: Any, page_file: Path) -> None:
    with opened(chromium, page_file) as page:
        elements = page.evaluate(
            "[...new Set([...document.querySelectorAll('*')].map((e) => e.localName.toLowerCase()))]"
        )
        assert set(elements) <= MARKUP
        events = (
            "[...document.querySelectorAll('*')].flatMap((e) => [...e.attributes]).filter((a) => /^on/i.test(a.name))"
        )
        assert page.evaluate(f"{events}.length") == 0
        assert page.evaluate("document.scripts.length") == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        heads = set(page.evaluate("[...document.querySelectorAll('.heat tbody th span')].map((e) => e.textContent)"))
        assert {"<script>alert(1)</script>", "{{7*7}}", "&amp; &lt;b&gt;", "$x^2$", "“ ”", "x" * 5000} <= heads
        assert "nul␀ bell␇ escape␛[31m" in heads
        assert "�gpj.exe" in heads
        page.hover(".heat tbody tr:nth-child(30) td >> nth=1")
        assert page.is_visible("#tip")
        assert page.evaluate("document.getElementById('tip').getBoundingClientRect().height") < 800


@pytest.mark.parametrize(
    "attack",
    [
        "<script>document.title = 'broken'</script>",
        "<img src=x onerror=\"document.title = 'broken'\">",
        "<style>h1 { display: none }</style>",
        "<iframe srcdoc=\"<script>parent.document.title = 'broken'</script>\"></iframe>",
        "<link rel=stylesheet href='https://example.invalid/x.css'>",
        "<base href='https://example.invalid/'>",
    ],
)
def test_what_got_in_nevertheless_is_dead(chromium: Any, tmp_path: Path, attack: str) -> None:
    path = write_report(made(["a", "b"]), tmp_path / "report.html", title="whole")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<main>", f"<main>{attack}", 1), encoding="utf-8")
    with opened(chromium, path, clean=False) as page:
        assert page.title() == "whole · netopsy"
        assert page.is_visible("h1")
        assert any("Content Security Policy" in line for line in page.trouble)
        assert page.evaluate("document.baseURI") == path.as_uri()


def test_half_characters_are_replaced(tmp_path: Path) -> None:
    path = write_report(made(["a", "b"]), tmp_path / "report.html", title="t\udc80")  # of a folder's name, say
    assert "<h1>t�</h1>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["full model", "baseline", "re-rand", "final", "__proto__", "constructor"])
def test_names_that_mean_something_elsewhere(chromium: Any, tmp_path: Path, name: str) -> None:
    path = write_report(made([name, "b"], keys=(name, "1"), splits=(name,)), tmp_path / "report.html", title=name)
    with opened(chromium, path) as page:
        assert page.inner_text("h1") == name
        assert name in page.inner_text(".heat")


def test_ten_thousand_sites_stay_a_small_page(chromium: Any, tmp_path: Path) -> None:
    sites = [f"{number} {name[:40]}{name[2500:2510]}" for number in range(313) for name in HOSTILE][:10_000]
    path = write_report(made(sites, draws=1), tmp_path / "report.html")
    assert path.stat().st_size < 5e6
    with opened(chromium, path) as page:
        assert len(page.query_selector_all(".heat tbody tr")) == 300
        assert "Of 10,000 " in page.inner_text("main")


def test_150_layers_stay_a_small_page(tmp_path: Path) -> None:
    assert write_report(deep(150), tmp_path / "report.html").stat().st_size < 5e6
