"""The report in a real browser: what it shows is what was measured, by pointer, keyboard, on a phone and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.run import write_report
from netopsy.training.fit import fit
from netopsy.training.recipes import demo
from tests.browser import browser, opened
from tests.made import deep, made

CONTRAST = """(selector) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (text, under) => {
    canvas.fillStyle = `rgb(${under.join(" ")})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const white = [255, 255, 255], own = (part) => getComputedStyle(part).backgroundColor;
  const ground = (part) => part ? rgb(own(part), ground(part.parentElement)) : white;
  const luminance = (color) => color.map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return [...document.querySelectorAll(selector)].map((part) => {
    const under = ground(part), over = rgb(getComputedStyle(part).color, under);
    const [a, b] = [luminance(over), luminance(under)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}"""
"""Contrast of text with what lies under it (WCAG 2), of every element that a selector finds."""

BROKEN = r"""([selector, piece]) => [...document.querySelectorAll(selector)].flatMap((part) => {
  const letters = [], walker = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) for (let at = 0; at < walker.currentNode.length; at++) {
    const range = document.createRange();
    range.setStart(walker.currentNode, at); range.setEnd(walker.currentNode, at + 1);
    letters.push(range.getBoundingClientRect());
  }
  return [...part.textContent.matchAll(new RegExp(piece, "g"))]
    .filter((found) => Math.abs(letters[found.index].top - letters[found.index + found[0].length - 1].top) > 3)
    .map((found) => found[0]);
})"""
"""Of the text of every element that a selector finds, the matches of a pattern that start and end on two lines."""

SOFT = (
    ".question, figcaption, .scale span, footer p, .walk th, .facts dt, .facts dd, .verdict p, #theme, pre, summary"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def result() -> RobustnessResult:
    """Of a net that was really trained, for a moment."""
    data = standardize(digits())
    run = fit(
        partial(fcn, inputs=64, classes=10, depth=2, width=16), data.train, replace(demo(), epochs=3, lr_drops=())
    )
    groups = {"both": ["hidden.*"]}
    return robustness(run.trajectory, data.test, checkpoints="all", draws=2, groups=groups, full_model=True)


@pytest.fixture(scope="module")
def report(result: RobustnessResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(result, tmp_path_factory.mktemp("report") / "report.html", title="digits")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(deep(60), tmp_path_factory.mktemp("large") / "report.html")


def cell_at(page: Any, site: str, column: str) -> Any:
    heads = [head.inner_text() for head in page.query_selector_all(".heat thead th")]
    row = next(r for r in page.query_selector_all(".heat tbody tr") if r.query_selector("th").inner_text() == site)
    return row.query_selector_all("th, td")[heads.index(column)]


def row_of(result: RobustnessResult, site: str, key: int) -> Any:
    frame = result.frame
    return frame[(frame.site == site) & (frame.checkpoint == key).fillna(False)].iloc[0]


def names(page: Any) -> list[str]:
    rows = "[...document.querySelectorAll('.sheet tbody tr:not([hidden])')]"
    return page.evaluate(f"{rows}.map((row) => row.cells[0].textContent)")


def test_cells_hold_the_measured_numbers(chromium: Any, report: Path, result: RobustnessResult) -> None:
    with opened(chromium, report) as page:
        assert page.title() == "digits · netopsy"
        for site in ("hidden.0", "classifier", "both", "full model"):
            for key in (0, 1):
                expected = f"{100 * row_of(result, site, key).error:.1f}"
                assert cell_at(page, site, str(key)).inner_text() == expected
        drawn = result.frame[(result.frame.site == "hidden.1") & (result.frame.operation == "re-randomize")]
        assert cell_at(page, "hidden.1", "drawn anew").inner_text() == f"{100 * drawn.error.mean():.1f}"


def test_pointing_at_a_cell_says_all_of_it(chromium: Any, report: Path, result: RobustnessResult) -> None:
    row = row_of(result, "hidden.0", 0)
    with opened(chromium, report) as page:
        assert not page.is_visible("#tip")
        cell_at(page, "hidden.0", "0").hover()
        text = page.inner_text("#tip").replace("−", "-").replace("±", "+")
        for part in (
            "hidden.0",
            f"{100 * row.error:.1f}".removesuffix(".0"),
            f"{row.n:,} examples",
            str(row.verdict),
        ):
            assert part in text
        for number in (row.delta_error_low, row.delta_error_high, row.delta_error):
            assert f"{100 * number:+.1f}".removesuffix(".0") in text
        page.mouse.move(2, 2)
        assert not page.is_visible("#tip")


def test_words_stay_after_a_scroll_that_is_over_and_go_with_the_next(chromium: Any, report: Path) -> None:
    settled = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    with opened(chromium, report) as page:
        page.evaluate("""() => {
          scrollTo({ top: 60, behavior: "instant" });  // its event comes with the next frame, after the pointer's
          document.querySelector(".heat td").dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
        }""")
        page.evaluate(settled)
        assert page.is_visible("#tip")
        page.evaluate("scrollTo({ top: 90, behavior: 'instant' })")
        page.evaluate(settled)
        assert not page.is_visible("#tip")


def test_arrow_keys_walk_over_the_heatmap(chromium: Any, report: Path) -> None:
    with opened(chromium, report) as page:
        page.focus(".heat [tabindex='0']")
        assert page.inner_text("#tip strong").startswith("hidden.0\u2002·\u2002drawn anew")
        for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft"):
            page.keyboard.press(key)
        assert page.inner_text("#tip strong") == "hidden.1\u2002·\u20020"
        assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
        assert page.evaluate("document.querySelectorAll('.heat [tabindex=\"0\"]').length") == 1
        page.keyboard.press("End")
        assert page.inner_text("#tip strong").startswith("hidden.1\u2002·\u20023")
        for _ in range(9):
            page.keyboard.press("ArrowUp")
        assert page.inner_text("#tip strong").startswith("hidden.0")
        page.keyboard.press("Escape")
        assert not page.is_visible("#tip")


def test_tables_sort_by_number_by_rank_and_empty_last(chromium: Any, large: Path) -> None:
    with opened(chromium, large) as page:
        original = names(page)
        heads = [head.inner_text().strip() for head in page.query_selector_all(".sheet thead th")]

        def sort(part: str) -> tuple[int, str]:
            column = next(at for at, head in enumerate(heads) if head.startswith(part))
            head = page.query_selector_all(".sheet thead th")[column]
            head.query_selector("button").click()
            return column, head.get_attribute("aria-sort")

        def texts(column: int) -> list[str]:
            rows = "[...document.querySelectorAll('.sheet tbody tr')]"
            return page.evaluate(f"{rows}.map((row) => row.cells[{column}].textContent)")

        for direction in ("ascending", "descending"):
            column, state = sort("error")
            values = [float(text.split()[0].replace("−", "-").replace("±", "")) for text in texts(column)]
            assert state == direction
            assert values == sorted(values, reverse=direction == "descending")
            assert values[0] != values[-1]
        column, _ = sort("verdict")
        kinds = list(dict.fromkeys(texts(column)))
        assert kinds == [kind for kind in ("critical", "between", "undecided", "robust") if kind in kinds]
        assert len(kinds) > 2
        for direction in (1, -1):
            column, _ = sort("parameters")
            values, empty = [text for text in texts(column) if text], [text for text in texts(column) if not text]
            assert texts(column) == values + empty
            assert empty
            assert values == sorted(values, key=lambda text: direction * int(text.replace(",", "")))
        column, _ = sort("layer")
        assert names(page) == original
        assert len(page.query_selector_all("[aria-sort=ascending], [aria-sort=descending]")) == 1


def test_the_filter_keeps_rows_by_name(chromium: Any, large: Path) -> None:
    with opened(chromium, large) as page:
        everything = names(page)
        page.fill("input[type=search]", "UNIT1")
        assert names(page) == [name for name in everything if "unit1" in name]
        page.focus(".sheet td[tabindex='0']")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.closest('tr').cells[0].textContent") == names(page)[1]
        page.fill("input[type=search]", "")
        assert names(page) == everything


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_follows_the_system_until_told(chromium: Any, report: Path, system: str) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    with opened(chromium, report, color_scheme=system) as page:
        colors = {}
        for theme in ("auto", "light", "dark"):
            assert page.inner_text("#theme b") == theme
            cell = page.evaluate("getComputedStyle(document.querySelector('.k31, .k30, .k29')).backgroundColor")
            colors[theme] = (page.evaluate(ground), cell)
            page.click("#theme")
        assert page.inner_text("#theme b") == "auto"
        assert colors["auto"] == colors[system]
        assert colors["light"][0] == "rgb(255, 255, 255)"
        assert all(day != night for day, night in zip(colors["light"], colors["dark"], strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_can_be_read_in_both_themes(chromium: Any, report: Path, theme: str) -> None:
    with opened(chromium, report, color_scheme=theme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        page.evaluate("""() => {
          const probe = document.createElement("p");
          for (const kind of [...Array(32).keys()].map((step) => `level k${step}`)) {
            const part = document.createElement("span"); part.className = kind; probe.append(part);
          }
          for (const kind of "robust between critical undecided differ non-finite no-op neutral".split(" ")) {
            const part = document.createElement("span"); part.className = `badge ${kind}`; probe.append(part);
          }
          document.querySelector(".verdict").append(probe.cloneNode(true));
          document.querySelector("main").append(probe);
        }""")
        for selector, least in ((".level", 64), (".badge", 16), (SOFT, 20)):
            ratios = page.evaluate(CONTRAST, selector)
            assert len(ratios) >= least
            assert min(ratios) >= 4.5, selector


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(chromium: Any, report: Path, large: Path, width: int) -> None:
    for path in (report, large):
        with opened(chromium, path, width=width, has_touch=True) as page:
            page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            lines = "[...document.querySelectorAll('.walk th')].map((head) => head.getBoundingClientRect().height)"
            assert max(page.evaluate(lines)) < 80  # a name does not stand on its end
            assert (
                min(page.evaluate("[...document.querySelectorAll('.heat tbody th')].map((e) => e.clientWidth)")) > 60
            )


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_breaks_names_between_their_parts(chromium: Any, tmp_path: Path, width: int) -> None:
    short, long = ("hidden.0", "classifier", "stage1.block1"), "encoder.layer_12/attention.output_dense"
    path = write_report(made([*short, long, "x" * 300], keys=range(31), final=31), tmp_path / "report.html")
    with opened(chromium, path, width=width, has_touch=True) as page:
        for table in (".heat", ".sheet"):
            heads = f"{table} tbody th"
            tall = page.evaluate(f"[...document.querySelectorAll('{heads} span')].map((e) => e.clientHeight)")
            assert tall[: len(short)] == [min(tall)] * len(short)
            assert tall[len(short)] > min(tall)  # or else nothing had to break
            assert max(tall) <= 3 * min(tall) + 2
            assert page.evaluate(BROKEN, [heads, "[a-z]{2,12}(?![a-z])(?<!x)"]) == []
            assert page.locator(f"{heads} span").nth(len(short)).text_content() == long


@pytest.mark.parametrize("width", [390, 1200])
def test_heads_never_break_inside_a_word(chromium: Any, tmp_path: Path, width: int) -> None:
    path = write_report(made(["hidden.0", "classifier"], keys=range(31), final=31), tmp_path / "report.html")
    with opened(chromium, path, width=width) as page:
        assert "drawn anew" in page.inner_text(".heat thead")
        assert page.evaluate(BROKEN, ["thead th", r"\S{2,14}"]) == []
        cut = "e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 2"
        assert not page.evaluate(f"[...document.querySelectorAll('thead :is(span, button)')].some({cut})")
        first = page.evaluate("[...document.querySelectorAll('tbody tr > :first-child')].map((e) => e.offsetWidth)")
        assert width > 640 or min(first) >= 7 * 15  # rem of a phone


def test_code_wraps_on_a_phone_and_scrolls_elsewhere(chromium: Any, report: Path) -> None:
    for width, wraps in ((390, True), (1200, False)):
        with opened(chromium, report, width=width) as page:
            page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
            page.evaluate("document.querySelector('pre').append(' 12,'.repeat(99))")
            fits = page.evaluate(
                "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.querySelector('pre'))"
            )
            assert fits is wraps


def test_paper_is_light_and_everything_open(chromium: Any, report: Path) -> None:
    with opened(chromium, report, color_scheme="dark") as page:
        while page.inner_text("#theme b") != "dark":
            page.click("#theme")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert min(page.evaluate(CONTRAST, ".heat td:not(.empty), .badge, p")) >= 4.5
        assert not page.is_visible("#theme")
        page.evaluate(
            "addEventListener('beforeprint', () => "
            "{ document.title = document.querySelectorAll('details:not([open])').length; })"
        )
        assert page.pdf().startswith(b"%PDF")
        assert page.title() == "0"  # as the printer saw it
        assert page.query_selector_all("details[open]") == []


def test_without_a_script_every_number_is_there(chromium: Any, report: Path, result: RobustnessResult) -> None:
    with opened(chromium, report, java_script_enabled=False) as page:
        assert cell_at(page, "hidden.0", "0").inner_text() == f"{100 * row_of(result, 'hidden.0', 0).error:.1f}"
        assert page.is_visible(".sheet tbody td")
        page.click("summary >> nth=0")
        assert page.is_visible("svg.drawn")
        assert not page.is_visible("#theme")
        assert not page.is_visible(".copy")


def test_the_call_is_copied(chromium: Any, report: Path) -> None:
    with opened(chromium, report, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.click("summary >> nth=-1")
        page.click(".copy")
        page.wait_for_selector(".copy:text-is('Copied')")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.text_content(".code pre")
        assert copied.startswith("netopsy.robustness(")


def test_headings_and_tables_are_for_screen_readers_too(chromium: Any, report: Path) -> None:
    with opened(chromium, report) as page:
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((head) => +head.tagName[1])")
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert page.evaluate("[...document.querySelectorAll('th')].every((head) => head.scope)")
        assert page.evaluate("[...document.querySelectorAll('[role=img]')].every((part) => part.ariaLabel)")
        assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map((part) => part.id)).size") == len(
            page.query_selector_all("[id]")
        )


def test_a_map_that_goes_on_fades_until_its_end(chromium: Any, report: Path) -> None:
    with opened(chromium, report, width=320) as page:
        box = page.locator(".heat .wide").first
        fades = "box => getComputedStyle(box).maskImage !== 'none'"
        page.wait_for_selector(".heat .wide.more")  # a function to wait for would need eval, which the page forbids
        assert box.evaluate(fades)
        box.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
        page.wait_for_selector(".heat .wide:not(.more)")
        assert not box.evaluate(fades)
    with opened(chromium, report, width=1200) as page:
        page.wait_for_timeout(100)
        assert not page.locator(".heat .wide").first.evaluate(fades)
