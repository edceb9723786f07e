"""What the report says of the units of a network: every sentence and number against the results it is of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from netopsy.plots.units import ordered_units
from netopsy.probes.ablation_result import ALL
from netopsy.probes.kinds import KINDS, UnitCriteria
from netopsy.report.ablation import ablation_section, ablation_sentences
from netopsy.report.blocks import Code, Fold, Mosaic, Section, Table, Text
from netopsy.report.found import find
from netopsy.report.redundancy import redundancy_section, redundancy_sentences
from netopsy.report.run import chapter, write_report
from netopsy.report.sections import section_of
from netopsy.report.unit_map import MOST_LAYERS, MOST_TILES, unit_map
from netopsy.report.units import unit_sentences, unit_table_section
from netopsy.report.words import percent
from tests.made import made
from tests.unit_tables import compressed, curves, table

THIRDS = (0.0, 0.5, 1.0)


def tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


def texts(found: Table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in found.rows]


def said(section: Section) -> str:
    return " ".join(word for block in section.blocks if isinstance(block, Text) for word in block.paragraphs)


def code(section: Section) -> str:
    folds = [block for block in section.blocks if isinstance(block, Fold)]
    return next(block.text for fold in folds for block in fold.blocks if isinstance(block, Code))


# ablation


def test_sentences_of_an_ablation() -> None:
    result = curves(
        {
            "a": [[1, 0.5, 0.1], [1, 0.6, 0.1]],
            "b": [[1, 0.9, 0.1], [1, 0.9, 0.1]],
            ALL: [[1, 0.4, 0.1], [1, 0.2, 0.1]],
        },
        THIRDS,
    )
    assert ablation_sentences(result) == (
        "With a random 50 % of the units of every layer at zero, 30 % of predictions stay as they were (mean of 2 "
        "random orders, 20 % to 40 %); 360 examples.",
        "Alone, b can spare most of its units (area 0.72 ± 0.00 of 1), a the fewest (0.55 ± 0.04).",
        "With all layers together, the curve falls below 80 % at 14.3 % of the units; with all units at zero, 10 % "
        "of predictions stay as they were.",
    )


def test_layers_that_differ_no_more_than_orders_are_not_told_apart() -> None:
    lines = {
        "a": [[1, 0.5, 0.1], [1, 0.9, 0.1]],
        "b": [[1, 0.6, 0.1], [1, 0.9, 0.1]],
        ALL: [[1, 1, 0.9], [1, 1, 0.9]],
    }
    _, alone, together = ablation_sentences(curves(lines, THIRDS))
    assert alone == (
        "Layers alone have areas of 0.62 (a) to 0.65 (b) under their curves, and differ by no more than the orders "
        "of one layer do."
    )
    assert together.startswith("With all layers together, the curve never falls below 80 %; ")


def test_one_layer_one_order_and_only_the_ends() -> None:
    result = curves({"a": [[1, 0.1]], ALL: [[1, 0.1]]}, (0.0, 1.0), order="least-effect")
    assert len(ablation_sentences(result)) == 1
    assert texts(tables(ablation_section(result))[0]) == [
        ["a", "10", "0.550", "22.2 %"],
        [ALL, "10", "0.550", "22.2 %"],
    ]
    middle = curves({"a": [[1, 0.5, 0.1]], ALL: [[1, 0.5, 0.1]]}, THIRDS, order="least-effect")
    assert ablation_sentences(middle)[0].startswith(
        "With 50 % of the units of every layer at zero in one order, least effect, 50 % of predictions stay"
    )


def test_accuracy_is_called_so() -> None:
    result = curves({"a": [[1, 0.5, 0.1]], ALL: [[1, 0.5, 0.1]]}, THIRDS, metric="accuracy")
    first, last = ablation_sentences(result)
    assert "45 % of predictions are right" in first
    assert "9 % of predictions are right" in last


def test_the_table_of_layers_holds_areas_and_spread() -> None:
    result = curves({"a": [[1, 0.5, 0.1], [1, 0.7, 0.1]], ALL: [[1, 0.4, 0.1], [1, 0.2, 0.1]]}, THIRDS)
    [found] = tables(ablation_section(result))
    areas = result.areas()
    assert [row[2].sort for row in found.rows] == pytest.approx(areas.area.tolist())
    low, value, high = found.rows[0][2].bar or (0, 0, 0)
    assert (value - low, high - value) == pytest.approx((areas.area_sd[0],) * 2)
    assert texts(found)[0][3] == "60 %"
    assert found.rows[0][3].note == ("50 % to 70 % in 2 orders",)


def test_a_layer_that_nothing_depends_on_is_not_the_most_robust() -> None:
    result = curves({"idle": [[1, 1, 1]], "a": [[1, 0.5, 0.1]], ALL: [[1, 0.5, 0.1]]}, THIRDS)
    status = result.frame.status.where(result.frame.site != "idle", "no-op")
    idle = replace(result, frame=result.frame.assign(status=status))
    assert not any("Alone" in sentence for sentence in ablation_sentences(idle))
    assert "The output does not depend on idle." in said(ablation_section(idle))


# redundancy


def test_sentences_of_redundancy() -> None:
    result = compressed(
        {
            "a": {},
            "b": {
                "components": 1,
                "compressibility": 0.9,
                "similar_per_unit": 7.25,
                "similar_share": 0.9,
                "silent": 2,
            },
        }
    )
    assert redundancy_sentences(result) == (
        "95 % of the variance is in 1 principal component of b's 10 units, the most compressible layer, and in 5 "
        "principal components of a's 10 units, the least.",
        "Units are most alike in b: there a unit has 7.2 similar others on average (|r| ≥ 0.5), 90 % of those "
        "that vary.",
        "Of 20 units, 2 are silent (zero on all samples).",
    )


def test_layers_without_numbers() -> None:
    nothing = {"components": None, "compressibility": np.nan, "similar_per_unit": np.nan, "similar_share": np.nan}
    bad = compressed({"a": {**nothing, "status": "non-finite"}})
    assert redundancy_sentences(bad)[0].startswith("Nothing can be said of these layers")
    section = redundancy_section(bad)
    assert "Non-finite values in a." in said(section)
    assert texts(tables(section)[0])[0][2:6] == ["", "", "", ""]
    flat = compressed({"a": {**nothing, "constant": 10, "status": "constant"}})
    assert redundancy_sentences(flat) == ("Of 10 units, 10 never vary.",)
    alone = compressed({"a": {"similar_per_unit": 0.0, "similar_share": 0.0}})
    assert redundancy_sentences(alone)[1] == "No two units of a layer are similar (|r| ≥ 0.5)."
    assert redundancy_sentences(alone)[0] == "95 % of the variance is in 5 principal components of a's 10 units."


def test_the_table_of_redundancy() -> None:
    result = compressed({"a": {}, "b": {"constant": 3, "compressibility_sd": 0.1, "components": 5}})
    [found] = tables(redundancy_section(result))
    heads = [column.name for column in found.columns]
    assert heads == [
        "layer", "units", "components", "not needed", "similar units", "share similar", "R² ≥ 0.9", "constant",
    ]  # fmt: skip
    assert texts(found)[0] == ["a", "10", "5", "50 %", "2.0", "22.2 %", "10.0 %", "0"]
    assert found.rows[0][3].bar == (0.0, 0.5, 0.5)
    assert found.rows[1][3].bar == pytest.approx((0.4, 0.5, 0.6))


def test_without_pairs_there_is_no_picture() -> None:
    result = compressed({"a": {}})
    blocks = redundancy_section(replace(result, pairs=result.pairs[:0])).blocks
    assert [block.template for block in blocks] == ["table", "fold", "fold"]


# kinds


def test_sentences_of_a_unit_table() -> None:
    result = table({"a": 16, "b": 9})
    frame = result.frame.assign(effect=0.0, effect_similar=0.0)
    frame.loc[frame.index[10], ["effect", "effect_similar"]] = (0.25, 0.25)
    frame.loc[frame.index[21], "effect_similar"] = 0.4
    assert unit_sentences(replace(result, frame=frame)) == (
        "Of 25 units, 3 (12 %) are unique: none of the six kinds of spare units. Most of the others are redundant "
        "functional (4), then redundant blocked (3).",
        "Set to zero alone, unit 10 of a changes most: 25 % of the predictions; 24 of 25 units change none.",
        "With all that are similar to it, a unit can change more: unit 5 of b alone changes 0 % of the predictions, "
        "and 40 % with the 3 similar to it.",
    )


def test_a_network_of_unique_units_and_one_without_effects() -> None:
    result = table({"a": 1}, kinds=["unique"])
    first, *_ = unit_sentences(result)
    assert first == "Of 1 unit, 1 (100 %) is unique: none of the six kinds of spare units."
    still = result.frame.assign(effect=0.0, effect_similar=0.0)
    assert unit_sentences(replace(result, frame=still))[1:] == (
        "No unit changes any prediction when it alone is set to zero.",
    )
    unknown = table({"a": 2}, kinds=["unknown"]).frame
    unknown = unknown.assign(effect=np.nan, effect_low=np.nan, effect_high=np.nan, effect_similar=np.nan)
    section = unit_table_section(replace(result, frame=unknown))
    assert len(section.verdict) == 1
    assert section.counts == (("neutral", "2 unknown"),)
    assert texts(tables(section)[1])[0][:4] == ["a, unit 0", "unknown", "", ""]


def test_the_map_shows_each_unit_once_in_order_with_its_row() -> None:
    result = table({"a": 20, "b": 3})
    mosaic, left_out = unit_map(result.frame)
    assert left_out == ""
    ordered = ordered_units(result.frame).to_dict("records")
    cells = [cell for row in mosaic.rows for cell in row.cells]
    assert [cell.label for cell in cells] == [f"unit {row['unit']}, {row['kind']}" for row in ordered]
    assert [cell.tone for cell in cells] == [KINDS.index(row["kind"]) for row in ordered]
    assert [(row.name, row.detail) for row in mosaic.rows] == [("a", "20 units"), ("b", "3 units")]
    assert mosaic.key[0] == (0, "redundant functional", "4")
    for cell, row in zip(cells, ordered, strict=True):
        note = " ".join(cell.note)
        assert f"set to zero: {percent(row['effect'])} of predictions change" in note
        assert f"active on {percent(row['activity'])} of samples" in note
        if pd.notna(row["similar"]):
            assert f"with its 3 similar units: {percent(row['effect_similar'])}" in note
            assert f"R² {row['r2']:.2f}" in note
        else:
            assert "similar" not in note
            assert "R²" not in note
    last = [place for place, cell in enumerate(cells) if cell.gap]
    assert last == [
        place
        for place, cell in enumerate(cells)
        if place in (19, 22) or cells[place + 1].tone != cell.tone or place == len(cells) - 1
    ]


def test_a_large_map_is_bounded_and_says_what_it_left_out() -> None:
    kinds = ["unique"] * 500 + ["silent"]
    result = table({"small": 40, "large": 5000, "larger": 9000}, kinds=kinds)
    mosaic, left_out = unit_map(result.frame)
    shown = {row.name: len(row.cells) for row in mosaic.rows}
    assert shown["small"] == 40
    assert sum(shown.values()) <= MOST_TILES + 2 * len(KINDS)
    assert shown["large"] > 1000
    large = mosaic.rows[1].cells
    assert large[0].label.endswith("silent")  # the ten of them come first, and one is shown at least
    order = ordered_units(result.frame[result.frame.site == "large"])
    places = [order.unit.tolist().index(int(cell.label.split()[1].rstrip(","))) for cell in large]
    assert places == sorted(set(places))
    assert places[0] == 0
    assert max(np.diff(places)) <= 4  # evenly
    assert left_out.startswith(
        f"Of 14,040 units, {sum(shown.values()):,} are on the map: of a layer of more than 1,480,"
    )
    assert mosaic.rows[1].detail == f"5,000 units, {shown['large']:,} shown"
    assert {name: number for _, name, number in mosaic.key}["silent"] == f"{9000 // 501 + 5000 // 501:,}"


def test_of_many_layers_the_first_are_on_the_map() -> None:
    mosaic, left_out = unit_map(table({f"layer{place}": 2 for place in range(MOST_LAYERS + 7)}).frame)
    assert len(mosaic.rows) == MOST_LAYERS
    assert left_out == (
        f"Of {2 * MOST_LAYERS + 14} units, {2 * MOST_LAYERS} are on the map; of {MOST_LAYERS + 7} layers, the first "
        f"{MOST_LAYERS}. Numbers beside the kinds are of all units, and the result's to_frame() has each."
    )


def test_counts_and_the_largest_effects() -> None:
    result = table({"a": 30, "b": 16})
    kinds, effects = tables(unit_table_section(result))
    for row, (site, counts) in zip(kinds.rows, result.counts().iterrows(), strict=True):
        assert [entry.text for entry in row] == [site, f"{counts.sum()}", *map(str, counts)]
    largest = result.frame.effect.sort_values(ascending=False)[:20]
    assert [row[2].sort for row in effects.rows] == largest.tolist()
    assert effects.rows[0][2].bar == tuple(
        result.frame.loc[largest.index[0], ["effect_low", "effect", "effect_high"]].tolist()
    )
    assert effects.caption == "The 20 units that change most predictions, of 46."


# all


def test_the_calls_hold_the_options_and_can_be_read() -> None:
    own = replace(table({"a": 4}), criteria=UnitCriteria(redundant=0.8))
    given = curves({"a": [[1, 0.1]], ALL: [[1, 0.1]]}, (0.0, 1.0), order="given")
    for result, words in (
        (own, ["netopsy.unit_table(", "similar=0.5,", "criteria=UnitCriteria(", "redundant=0.8", "stop='exact'"]),
        (table({"a": 4}), ["netopsy.unit_table("]),
        (given, ["netopsy.ablation_curve(", "order={...},", "metric='unchanged',", "orders=1,"]),
        (compressed({"a": {}}), ["netopsy.redundancy(", "convention='channels',", "level=0.95,"]),
    ):
        text = code(section_of(result))
        compile(text, "call", "exec")
        assert all(word in text for word in words)
    assert "criteria" not in code(section_of(table({"a": 4})))


def everything() -> list[Any]:
    ablation = curves({"a": [[1, 0.5, 0.1]], ALL: [[1, 0.5, 0.1]]}, THIRDS)
    return [made(["a", "b"]), ablation, table({"a": 12}), compressed({"a": {}})]


def test_results_are_found_by_probe_and_named_only_where_they_are_several(tmp_path: Path) -> None:
    for place, result in enumerate(everything()):
        result.save(tmp_path / "results" / f"r{place}")
    found = find(tmp_path)
    titles = [section.title for section in chapter("run", found).sections]
    assert titles == [
        "Robustness to re-initialization and re-randomization",
        "Robustness to the ablation of units",
        "Kinds of units",
        "Redundancy of units",
    ]
    table({"a": 12}).save(tmp_path / "results" / "again")  # the same numbers: measured twice
    assert len(find(tmp_path).results) == 4
    table({"a": 13}).save(tmp_path / "results" / "other")
    titles = [section.title for section in chapter("run", find(tmp_path)).sections]
    assert len(titles) == 5
    assert titles[2:4] == ["Kinds of units: other", "Kinds of units: again"] or "Kinds of units: r2" in titles


def test_all_are_written_on_one_page(tmp_path: Path) -> None:
    text = write_report(everything(), tmp_path / "report.html").read_text()
    assert text.count('<figure class="mosaic">') == 1
    assert text.count('role="img" class="t') == 12
    assert isinstance(next(b for b in section_of(table({"a": 2})).blocks if isinstance(b, Mosaic)), Mosaic)
    assert "result 1" not in text


def test_a_page_of_a_hundred_thousand_units_stays_small(tmp_path: Path) -> None:
    path = write_report(table({f"layer{place}": 2500 for place in range(40)}), tmp_path / "report.html")
    assert path.stat().st_size < 1_500_000
