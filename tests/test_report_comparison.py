"""Several networks side by side, against plain arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from netopsy._checks import NetopsyError
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.blocks import Facts, Fold, Heatmap, Table, Text
from netopsy.report.comparison import comparison
from netopsy.report.comparison_section import comparison_section
from tests.test_report_words import A, B, C, draw, made, reset

ERRORS = "Error of the trained networks: x 10 %, y 10 %."


def same_but(result: RobustnessResult, **provenance: Any) -> RobustnessResult:
    return replace(result, provenance={**result.provenance, **provenance})


def test_differences_are_those_of_the_two_runs_and_their_ends_what_the_intervals_allow() -> None:
    random = np.random.default_rng(1)
    results = {}
    for run in "xyz":
        rows = [reset(f"s{i}", "between", float(random.uniform(0, 0.6))) for i in range(5)]
        results[run] = made(rows, half=float(random.uniform(0, 0.1)))
    found = comparison(results)
    frame = found.to_frame()
    assert [*frame.columns] == [
        "site",
        "run",
        "checkpoint",
        "delta_error",
        "delta_error_low",
        "delta_error_high",
        "n",
        "status",
        "verdict",
        "difference",
        "difference_low",
        "difference_high",
    ]
    assert len(frame) == 15
    rows = {(row["site"], row["run"]): row for row in frame.to_dict("records")}
    for (site, run), row in rows.items():
        if run == "x":
            assert np.isnan([row["difference"], row["difference_low"], row["difference_high"]]).all()
            continue
        one, two = (results[name].frame.set_index("site").loc[site] for name in ("x", run))
        assert row["difference"] == pytest.approx(two.delta_error - one.delta_error)
        # every pair of true changes inside the two intervals has a difference inside this one, and the ends are met
        pairs = [
            b - a
            for a in np.linspace(one.delta_error_low, one.delta_error_high, 5)
            for b in np.linspace(two.delta_error_low, two.delta_error_high, 5)
        ]
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((min(pairs), max(pairs)))
    frame.loc[0, "site"] = "changed"
    assert "changed" not in set(found.frame.site)


def test_what_differs_comes_first_then_the_cautions_then_the_errors() -> None:
    other = made([reset("a", "robust", 0.01), reset("b", "critical", 0.5), reset("c", "robust", 0.02)])
    assert comparison({"x": made([A, B, C]), "y": other}).sentences() == (
        "2 of 3 parts differ between x and y: set back, they cost y more (+) or less (−) by a (−59 points) and b "
        "(+49 points).",
        "Robust in one, but not in another: a and b.",
        ERRORS,
    )
    splits = {"data": {"data": "another"}}
    assert comparison({"x": made([A]), "y": same_but(made([A]), splits=splits, tolerance=0.1)}).sentences() == (
        "No part costs y more or less than x by more than these examples can tell.",
        "They were measured on different examples.",
        "They were measured with another tolerance: x 0.05, y 0.1.",
        ERRORS,
    )


def test_one_part() -> None:
    assert comparison({"x": made([A]), "y": made([reset("a", "between", 0.2)])}).sentences()[0] == (
        "1 of 1 part differs between x and y: set back, it costs y more (+) or less (−) by a (−40 points)."
    )
    drawn = {run: made([draw("a", "critical", change), B]) for run, change in (("x", 0.6), ("y", 0.2))}
    fresh = {run: made([draw("a", "critical", change)], initial=None) for run, change in (("x", 0.6), ("y", 0.2))}
    assert comparison(fresh).sentences()[0].startswith("1 of 1 part differs between x and y: drawn anew, it costs y")
    assert comparison(drawn).operation == "re-initialize"


def test_the_same_run_twice_does_not_differ_from_itself() -> None:
    found = comparison({"x": made([A, B]), "y": made([A, B])})
    assert (found.to_frame().difference.dropna() == 0).all()
    assert found.same_data
    assert found.sentences()[0].startswith("No part costs y more or less than x")


def test_sites_of_one_run_alone_are_told() -> None:
    found = comparison({"x": made([A, B]), "y": made([B, C])})
    assert found.missing == {"a": ("y",), "c": ("x",)}
    assert [*found.to_frame().difference.isna()] == [True, True, False, True]
    assert "no a in y, no c in x" in str(found)
    assert comparison({"x": made([A]), "y": made([B])}).sentences() == ("x and y have no part in common.", ERRORS)


def test_other_checkpoints_are_told() -> None:
    late = made([reset("a", "robust", 0.01, 3)])
    found = comparison({"x": made([A]), "y": late})
    assert "They were set back to different checkpoints: x to 0, y to 3." in found.sentences()
    assert found.to_frame().checkpoint.tolist() == [0, 3]
    begin = made([reset("a", "critical", 0.6, "begin")], initial="begin")
    told = comparison({"x": made([A]), "y": begin}).sentences()
    assert not any("checkpoints" in sentence for sentence in told)  # both are where training started


def test_draws_are_averaged_where_runs_have_nothing_else_in_common() -> None:
    both = made([A, draw("a", "critical", 0.4, 0), draw("a", "robust", 0.0, 1)])
    alone = made([draw("a", "critical", 0.7)], initial=None, final=None)
    found = comparison({"x": both, "y": alone})
    assert found.operation == "re-randomize"
    assert found.to_frame().delta_error.tolist() == pytest.approx([0.2, 0.7])
    assert "+20.0≠" in str(found)


def test_without_an_error_metric_none_is_told() -> None:
    found = comparison({"x": made([A], metrics=("loss",)), "y": made([A], metrics=("loss",))})
    assert len(found.sentences()) == 1
    assert "nan" not in " ".join(found.sentences()) + str(found)
    one = comparison({"x": made([A]), "y": made([A], metrics=("loss",))})
    assert one.sentences()[-1] == "Error of the trained networks: x 10 %."


def test_it_prints_as_a_table() -> None:
    other = made([reset("a", "no-op", 0.0), reset("b", "undecided", 0.05)])
    text = str(comparison({"x": made([A, B]), "y": other}))
    lines = text.splitlines()
    assert (
        lines[0] == "data: change of error, in points, after a reset to the earliest measured checkpoint of one part"
    )
    assert lines[1].split() == ["x", "y", "difference"]
    assert lines[2].split() == ["a", "+60.0!", "±0.0=", "−60.0", "[−61.0,", "−59.0]*"]
    assert lines[3].split() == ["b", "+1.0", "+5.0?", "+4.0", "[+2.0,", "+6.0]*"]
    three = str(comparison({run: made([A, B]) for run in "xyz"}))
    assert three.splitlines()[1].split() == ["x", "y", "z", "mean", "±", "sd"]
    assert three.splitlines()[2].split() == ["a", "+60.0!", "+60.0!", "+60.0!", "+60.0", "±", "0.0"]


def test_several_runs_are_averaged() -> None:
    rows = {"x": 0.1, "y": 0.2, "z": 0.6}
    found = comparison({run: made([reset("a", "between", cost), B]) for run, cost in rows.items()})
    spread = found.spread()
    assert spread.index.tolist() == ["a", "b"]
    assert spread["mean"].tolist() == pytest.approx([0.3, 0.01])
    assert spread["sd"].tolist() == pytest.approx([np.std([0.1, 0.2, 0.6], ddof=1), 0.0], abs=1e-12)
    assert spread["n"].tolist() == [3, 3]
    assert found.sentences()[0] == (
        "On average over 3 runs, a costs most when it is set back alone: +30 points of error, standard deviation "
        "26.5."
    )
    table = next(block for block in comparison_section(found).blocks if isinstance(block, Table))
    assert [entry.text for entry in table.rows[0]] == ["a", "+30.0", "26.5", "3"]
    assert table.rows[0][1].bar == pytest.approx((0.3 - 0.264575, 0.3, 0.3 + 0.264575), abs=1e-5)
    apart = comparison({"x": made([A]), "y": made([A, B]), "z": made([A])})
    assert str(apart).splitlines()[3].split() == ["b", "+1.0", "+1.0"]  # in one run: no spread


def test_three_alike_are_told_in_one_sentence() -> None:
    found = comparison({run: made([A, B]) for run in "xyz"})
    assert "No part costs any of the others more or less than x by more than these examples can tell." in (
        found.sentences()
    )


def test_the_split_asked_for() -> None:
    two = {run: made([A], splits=("train", "test")) for run in "xy"}
    assert comparison(two).split == "test"
    assert comparison(two, split="train").split == "train"
    with pytest.raises(NetopsyError, match="x: split: expected one of 'train', 'test'; got 'valid'"):
        comparison(two, split="valid")
    with pytest.raises(NetopsyError, match="on a split that all have; got x on train, test; y on data; measure one"):
        comparison({"x": two["x"], "y": made([A])})
    half = made([A], splits=("train",))
    assert comparison({"x": two["x"], "y": half}).split == "train"  # the first that both have


def test_refusals() -> None:
    with pytest.raises(NetopsyError, match="compare: expected at least two results; got x"):
        comparison({"x": made([A])})
    with pytest.raises(NetopsyError, match="compare: expected at least two results; got none"):
        comparison({})
    with pytest.raises(
        NetopsyError, match="expected results that all re-initialize, or all re-randomize; these have"
    ):
        comparison({"x": made([A]), "y": made([draw("a", "critical", 0.5)])})


def test_the_whole_network_is_left_out() -> None:
    result = made([A, reset("full model", "critical", 0.8)])
    assert set(comparison({"x": result, "y": result}).to_frame().site) == {"a"}


def test_the_section() -> None:
    x, y = made([A, B]), made([reset("a", "×critical", 0.2), C])
    manifests = [{"config": {"lr": 0.1, "epochs": 3}, "data": "d", "model": "M"} for _ in "xy"]
    manifests[1] = {"config": {"lr": 0.2, "epochs": 3, "new": 1}, "data": "d", "model": "M"}
    section = comparison_section(comparison({"x": x, "y": y}), manifests)
    heat, table, fold = section.blocks
    assert isinstance(heat, Heatmap)
    assert isinstance(table, Table)
    assert isinstance(fold, Fold)
    assert heat.caption == "! critical, × not finite, no sign: robust."
    assert [[cell.text for cell in row] for row in heat.cells] == [["+60.0", "+20.0"], ["+1.0", ""], ["", "+2.0"]]
    assert [[cell.mark for cell in row] for row in heat.cells] == [["!", "×"], ["", ""], ["", ""]]
    [row] = table.rows
    assert [entry.text for entry in row] == ["a", "differs", "−40.0", "+60.0", "+20.0"]
    assert row[2].bar == pytest.approx((-0.42, -0.4, -0.38))
    assert fold.blocks == (Facts(rows=(("lr", "x: 0.1, y: 0.2"), ("new", "x: None, y: 1"))),)
    for known in ([], [{}, {}], [manifests[0], {}]):
        assert len(comparison_section(comparison({"x": x, "y": y}), known).blocks) == 2
    assert len(comparison_section(comparison({"x": made([A]), "y": made([B])})).blocks) == 1


def test_of_many_parts_those_that_differ_most_are_shown() -> None:
    def many(step: float) -> RobustnessResult:
        return made([reset(f"s{i}", "between", 0.1 + i * step) for i in range(310)])

    section = comparison_section(comparison({"x": many(0.0), "y": many(0.001)}))
    heat, text = (next(b for b in section.blocks if isinstance(b, kind)) for kind in (Heatmap, Text))
    assert isinstance(heat, Heatmap)
    assert heat.rows == tuple(f"s{i}" for i in range(10, 310))
    assert text == Text(paragraphs=("Of 310 parts, the 300 that differ most are shown.",))
    assert pd.notna(section.question)
