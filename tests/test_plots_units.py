"""The pictures of kinds of units."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from netopsy._checks import NetopsyError
from netopsy.plots.style import render, root
from netopsy.plots.units import KIND_COLORS, count_kinds, kind_counts, ordered_units, unit_map
from netopsy.probes.kinds import KINDS
from netopsy.report.palette import TONES
from tests.unit_tables import table

FRAME = pd.DataFrame(
    {
        "site": ["b", "b", "b", "b", "a", "a"],
        "unit": [0, 1, 2, 3, 0, 1],
        "kind": ["unique", "silent", "unique", "unique", "constant", "redundant functional"],
        "effect": [0.1, 0.0, 0.3, np.nan, 0.0, 0.2],
    }
)

BLINDNESS = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
"""On linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)."""


def perceived(color: str, blindness: str) -> np.ndarray:
    """OKLab (Ottosson 2020) of a color as it is seen."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    cones = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ seen
    )
    return (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ cones
    )


def test_kinds_are_those_of_the_probe() -> None:
    assert (*KIND_COLORS,) == KINDS


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("dark", [False, True])
def test_colors_can_be_told_apart_by_everybody(blindness: str, dark: bool) -> None:
    colors = [perceived(pair[dark], blindness) for pair in TONES]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > 0.1


def test_units_come_by_layer_by_kind_and_by_effect() -> None:
    ordered = ordered_units(FRAME)
    assert list(zip(ordered.site, ordered.unit, strict=True)) == [
        ("b", 1), ("b", 2), ("b", 0), ("b", 3), ("a", 1), ("a", 0),
    ]  # fmt: skip
    counts = count_kinds(FRAME)
    assert [*counts.index] == ["b", "a"]
    assert [*counts.columns] == [*KINDS]
    assert counts.loc["b", ["silent", "unique"]].tolist() == [1, 3]


def test_a_cell_a_unit_and_the_kinds_that_occur_in_the_legend() -> None:
    ax = unit_map(FRAME)
    cells = [mesh.get_array() for mesh in ax.collections]
    assert [np.ma.compressed(part).tolist() for part in cells] == [[3, 6, 6, 6], [0, 4]]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "redundant functional: 1", "silent: 1", "constant: 1", "unique: 3",
    ]  # fmt: skip
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]


def test_a_wide_layer_goes_on_below_and_loses_no_unit() -> None:
    frame = table({"one": 1, "wide": 1000, "few": 7}).frame
    ax = unit_map(frame)
    shown = [np.ma.count(mesh.get_array()) for mesh in ax.collections]
    assert shown == [1, 1000, 7]
    assert np.asarray(ax.collections[1].get_array()).shape[0] > 5
    assert render(root(ax), "png", 50)
    width, height = root(ax).get_size_inches()
    assert width < 11
    assert height < 6


def test_names_are_no_formulas() -> None:
    ax = unit_map(FRAME.assign(site="$x^$ and a name that goes on and on and on and on"))
    assert render(root(ax), "svg", 50)


def test_shares_of_kinds_add_up() -> None:
    ax = kind_counts(FRAME)
    bars = {str(bars.get_label()): [bar.get_height() for bar in bars] for bars in ax.containers}  # type: ignore[attr-defined]
    assert bars == {
        "redundant functional": [0, 0.5], "silent": [0.25, 0], "constant": [0, 0.5], "unique": [0.75, 0],
    }  # fmt: skip
    tops = [bar.get_y() + bar.get_height() for bar in ax.patches]
    assert max(tops) == pytest.approx(1)


def test_axes_of_the_caller_are_drawn_on() -> None:
    ax = unit_map(FRAME)
    assert unit_map(FRAME, ax=ax) is ax
    assert kind_counts(FRAME, ax=ax) is ax


@pytest.mark.parametrize("draw", [unit_map, kind_counts])
def test_refusals(draw: object) -> None:
    assert callable(draw)
    with pytest.raises(NetopsyError, match=r"expected the columns of netopsy.unit_table.*missing kind"):
        draw(FRAME.drop(columns="kind"))
    with pytest.raises(NetopsyError, match=r"expected at least one row of netopsy.unit_table"):
        draw(FRAME[:0])
    with pytest.raises(NetopsyError, match=r"expected kinds of units: .*; got 'uniqe'; did you mean unique\?"):
        draw(FRAME.assign(kind="uniqe"))
