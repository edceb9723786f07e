"""The map of units in a real browser: by pointer, keyboard, finger, on paper, and without a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netopsy.plots.units import ordered_units
from netopsy.probes.ablation_result import ALL
from netopsy.probes.units_result import UnitTableResult
from netopsy.report.run import write_report
from netopsy.report.unit_map import notes
from tests.browser import browser, opened
from tests.unit_tables import compressed, curves, table

TIP = "#tip strong"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def result() -> UnitTableResult:
    return table({"activation.0": 200, "<b>activation</b>.1": 9})


@pytest.fixture(scope="module")
def report(result: UnitTableResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ablation = curves({"a": [[1, 0.5, 0.1]], ALL: [[1, 0.5, 0.1]]}, (0, 0.5, 1))
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report([result, ablation, compressed({"a": {}, "b": {}})], path)


def first_of(result: UnitTableResult, place: int) -> Any:
    return ordered_units(result.frame).to_dict("records")[place]


def lines_of(page: Any) -> list[int]:
    return page.evaluate("[...document.querySelectorAll('.tiles i')].map((tile) => tile.getBoundingClientRect().top)")


def test_pointing_at_a_unit_shows_its_row(chromium: Any, report: Path, result: UnitTableResult) -> None:
    with opened(chromium, report) as page:
        assert page.locator(".tiles i").count() == len(result.frame)
        for place in (0, 150, 200):
            row = first_of(result, place)
            page.locator(".tiles i").nth(place).hover()
            assert page.inner_text(TIP) == f"{row['site']}\u2002·\u2002unit {row['unit']}, {row['kind']}"
            assert page.inner_text("#tip").split("\n")[-len(notes(row)) :] == list(notes(row))
        page.mouse.move(2, 2)
        assert not page.is_visible("#tip")


def test_a_tap_shows_it_too(chromium: Any, report: Path, result: UnitTableResult) -> None:
    with opened(chromium, report, width=390, has_touch=True) as page:
        page.locator(".tiles i").nth(30).tap()
        assert f"unit {first_of(result, 30)['unit']}," in page.inner_text(TIP)
        box = page.locator(".tiles i").first.bounding_box()
        assert min(box["width"], box["height"]) >= 16


def test_arrow_keys_walk_along_lines_and_between_them(chromium: Any, report: Path) -> None:
    at = "[...document.querySelectorAll('.tiles i')].indexOf(document.activeElement)"
    with opened(chromium, report) as page:
        tops = lines_of(page)
        wide = tops.index(tops[-10] if tops[0] == tops[-10] else next(top for top in tops if top != tops[0]))
        assert 20 < wide < 200
        page.focus(".tiles [tabindex='0']")
        assert page.is_visible("#tip")
        for key, there in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowUp", 1)):
            page.keyboard.press(key)
            assert page.evaluate(at) == there
        page.keyboard.press("ArrowDown")
        below = page.evaluate(at)
        assert tops[below] == tops[wide]
        assert below - wide <= 2
        page.keyboard.press("ArrowUp")
        assert abs(page.evaluate(at) - 1) <= 1
        for key, there in (
            ("End", 199),
            ("ArrowDown", None),
            ("Home", 200),
            ("Control+End", 208),
            ("Control+Home", 0),
        ):
            page.keyboard.press(key)
            assert page.evaluate(at) == there or (there is None and page.evaluate(at) >= 200)
        assert page.evaluate("document.querySelectorAll('.tiles [tabindex=\"0\"]').length") == 1
        assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
        page.keyboard.press("Escape")
        assert not page.is_visible("#tip")


def test_the_key_has_each_kind_s_color_and_number(chromium: Any, report: Path, result: UnitTableResult) -> None:
    counts = result.frame.kind.value_counts()
    for scheme in ("light", "dark"):
        with opened(chromium, report, color_scheme=scheme) as page:
            keys = page.locator(".key li").all_inner_texts()
            assert [" ".join(text.split()) for text in keys] == [f"{name} {counts[name]}" for name in result.counts()]
            color = "(part) => getComputedStyle(part).backgroundColor"
            key = [part.evaluate(color) for part in page.locator(".key i").all()]
            assert len(set(key)) == len(key)
            ordered = ordered_units(result.frame).kind.tolist()
            tiles = page.evaluate(f"[...document.querySelectorAll('.tiles i')].map({color})")
            assert tiles == [key[[*result.counts()].index(kind)] for kind in ordered]


def test_no_color_is_lost_against_the_page(chromium: Any, report: Path) -> None:
    edge = "getComputedStyle(document.querySelector('.tiles i')).boxShadow"
    with opened(chromium, report) as page:
        assert "inset" in page.evaluate(edge)


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_a_map_never_scrolls_sideways(chromium: Any, report: Path, width: int) -> None:
    with opened(chromium, report, width=width, has_touch=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert max(page.evaluate("[...document.querySelectorAll('.tiles i')].map((t) => t.offsetLeft)")) < width


def test_on_paper_and_without_a_script_colors_and_numbers_are_there(chromium: Any, report: Path) -> None:
    with opened(chromium, report, java_script_enabled=False, color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.is_visible(".mosaic .key")
        tile = page.locator(".tiles i").first
        assert tile.is_visible()
        assert tile.evaluate("(part) => getComputedStyle(part).printColorAdjust") == "exact"
        assert tile.evaluate("(part) => getComputedStyle(part).backgroundColor") == "rgb(26, 92, 213)"
        assert page.locator(".sheet tbody td").first.is_visible()
        assert page.pdf().startswith(b"%PDF")


def test_names_are_not_read_as_markup(chromium: Any, report: Path) -> None:
    with opened(chromium, report) as page:
        assert page.locator(".layer b").count() == 0
        assert page.locator(".layer p span").nth(1).text_content() == "<b>activation</b>.1"
