"""Pictures inside a page: valid, alone with their ids, in the colors of both themes, of any name."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from netopsy.plots.style import elide, luminance, shades
from netopsy.report.palette import LEVELS, level, variables
from netopsy.report.vector import dark, drawn
from tests.made import made

NAMES = ("$x^2$", "$", "\\frac{$}{", "<b>", "two\nlines", "nul\x00", "\u202egpj", "🧠", "_hidden", "", "x" * 5000)


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(to_rgb(one)), luminance(to_rgb(other))))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("kind", ["curves", "distances"])
def test_any_name_is_drawn_as_it_is(kind: str) -> None:
    picture = made(NAMES, keys=NAMES[:9], splits=("$s_{",)).plot(kind=kind)
    texts = [part.text or "" for part in ElementTree.fromstring(drawn(picture)).iter() if part.tag.endswith("text")]
    for shown in ("$x^2$", "\\frac{$}{", "<b>", "two␊lines", "nul␀", "�gpj", "🧠"):
        assert shown in texts
    assert any("$s_{" in text for text in texts) or kind == "distances"
    assert max(map(len, texts)) < 60
    assert any("_hidden" in text for text in texts)


def test_ids_are_a_pictures_own() -> None:
    one, other = drawn(made(["a", "b"]).plot(kind="curves")), drawn(made(["a", "c"]).plot(kind="curves"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, other), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= own
        assert set(re.findall(r'href="#([^"]+)"', svg)) <= own


def test_the_same_picture_gives_the_same_markup_and_is_left_as_it_was() -> None:
    picture = made(["a", "b"]).plot(kind="distances")
    dots, engine = picture.figure.dpi, picture.figure.get_layout_engine()
    assert drawn(picture) == drawn(made(["a", "b"]).plot(kind="distances"))
    assert (picture.figure.dpi, picture.figure.get_layout_engine()) == (dots, engine)


def test_no_color_is_of_one_theme_only() -> None:
    for kind in ("curves", "distances"):
        svg = drawn(made(["a", "b"]).plot(kind=kind))
        for name, color in re.findall(r"\b(fill|stroke): (#[0-9a-f]{6})", svg):
            assert f"{name}: light-dark({color}, " in svg
        for part in ElementTree.fromstring(svg).iter():
            if part.tag.endswith("text"):
                assert "light-dark" in part.get("style", "")
        assert "<style" not in svg
        assert "<image" not in svg


def test_dark_colors_stand_out_from_a_dark_page() -> None:
    for color in ("#0072b2", "#d55e00", "#e69f00", "#767676", "#222222", "#000000", "#440154", "#1f9e89"):
        assert contrast(dark(color), dark("#ffffff")) >= 3
    viridis = [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in np.linspace(0, 0.88, 8)]
    assert all(contrast(dark(color), dark("#ffffff")) >= 3 for color in viridis)
    scale = shades()(np.linspace(0, 1, 9)).tolist()
    assert all(np.diff([luminance(color) for color in scale]) < 0)
    assert all(np.diff([luminance(to_rgb(dark(mpl.colors.to_hex(color)))) for color in scale]) > 0)


def test_what_is_printed_on_any_level_can_be_read() -> None:
    for night in (False, True):
        named = dict(part.split(":") for part in variables(dark=night).replace("--", "").split(";"))
        assert all(contrast(named[f"c{step}"], named[f"i{step}"]) >= 4.5 for step in range(LEVELS))
        assert contrast(named["page"], named["ink"]) >= 7
        assert contrast(named["page"], named["soft"]) >= 4.5
        assert contrast(named["panel"], named["accent"]) >= 4.5


def test_levels_are_even_and_cover_the_scale() -> None:
    steps = [level(place) for place in np.linspace(0, 1, 3201).tolist()]
    assert steps == sorted(steps)
    assert set(steps) == set(range(LEVELS))
    assert [level(place) for place in (-1.0, float("inf"))] == [0, LEVELS - 1]


def test_labels_of_names_alike_over_a_long_way_are_counted() -> None:
    names = [f"{'a' * 2500}{number}{'b' * 2500}" for number in range(300)]
    labels = elide(names)
    assert len(set(labels)) == 300
    assert max(map(len, labels)) <= 28
    assert labels[6].endswith(" #7")
