"""What the report says of criticality, the way back and complexity: sentences and tables of made-up results."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from netopsy.probes.criticality_result import CriticalityResult
from netopsy.probes.valley import FULL_NETWORK
from netopsy.probes.valley_result import ValleyResult
from netopsy.report import criticality as section_module
from netopsy.report.blocks import Fold, Heatmap, Picture, Section, Table, Text
from netopsy.report.complexity import measures_section, rank
from netopsy.report.criticality import bars, criticality_section, criticality_sentences
from netopsy.report.run import write_report
from netopsy.report.sections import section_of
from netopsy.report.valley import curves, path_sentences, valley_section

NAN = math.nan
KNOWN: dict[str, Any] = {
    "probe": "criticality", "netopsy": "0", "torch": "2", "data": "abc", "examples": 1200, "engine": "exported",
    "engine_reasons": [], "sites": "modules", "initial": 0, "final": 9, "noise_samples": 10, "seed": 3,
    "relative_tolerance": 0.01, "confidence": 0.95, "tests": {}, "seconds": 2.0,
}  # fmt: skip
ROWS: dict[str, tuple[Any, ...]] = {  # mu, low, high, alpha, sigma, status
    "stem": (900.0, 800.0, 1000.0, 0.3, 0.05, "feasible"),
    "mid": (0.0, 0.0, 0.0, 0.0, 0.2, "alpha-zero"),
    "top": (90.0, 60.0, 120.0, 0.1, 0.02, "feasible"),
    "head": (10.0, NAN, NAN, 0.1, 1.0, "feasible"),
    "idle": (0.0, 0.0, 0.0, 0.0, 1.0, "no-op"),
}
LOST = (NAN, NAN, NAN, NAN, NAN, "infeasible")


def made(rows: dict[str, tuple[Any, ...]], epsilon: float = 0.1, **known: Any) -> CriticalityResult:
    columns = ["mu", "mu_low", "mu_high", "alpha", "sigma", "status"]
    frame = pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows.values()])
    frame = frame.assign(site=list(rows), epsilon=epsilon, distance=2.5, error=0.0999, parameters=1234)
    return CriticalityResult(frame.astype({"site": "string", "status": "string"}), None, {**KNOWN, **known})


def tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


def test_what_goes_back_what_is_critical_and_the_sum() -> None:
    assert criticality_sentences(made(ROWS)) == (
        "1 of 5 modules can go back, alone, all the way to where they started: mid. idle never moved, or is not "
        "used.",
        "Critical: stem (μ = 900, 800 to 1,000) carries 90 % of the sum.",
        "Network criticality, the sum of μ over 5 modules: 1,000.",
        "A train error of 10 % was allowed.",
    )
    several = {name: ROWS[name] for name in ("stem", "top", "head")}
    stem = (450.0, 400.0, 500.0, *ROWS["stem"][3:])
    first, critical, *_ = criticality_sentences(made({**several, "stem": stem}))
    assert first == "No module can go back all the way to where it started."
    assert critical == "Critical: stem (μ = 450, 400 to 500) and top (μ = 90, 60 to 120) carry 98.2 % of the sum."


def test_all_or_nothing() -> None:
    both = made({"a": ROWS["mid"], "b": ROWS["mid"]})
    assert criticality_sentences(both)[:2] == (
        "Each of the 2 modules can go back, alone, all the way to where it started.",
        "Network criticality, the sum of μ over 2 modules: 0.",
    )
    assert criticality_sentences(made({"a": ROWS["mid"]}))[0].startswith("The only module can go back")
    nothing = criticality_sentences(made({"a": LOST}, train_error=0.4))
    assert nothing[0].startswith("No module has a μ: nothing is allowed")
    assert nothing[1].endswith("but the trained network's own is 40 %: allow more by epsilon.")
    part = criticality_sentences(made({"a": LOST, "b": ROWS["top"]}))
    assert "The sum is not known: a has no μ." in part
    assert "Critical: b (μ = 90, 60 to 120) carries 100 % of the μ that are known." in part


@pytest.mark.parametrize(
    ("epsilon", "error", "said"),
    [
        (0.1, 0.02, "A train error of 10 % was allowed; the trained network's own is 2 %."),
        (0.22, 0.17, "A train error of 22 % was allowed: the usual 10 % is less than the trained network's own, 17 "
         "%. Criticality can be compared at the same one only."),
    ],
)  # fmt: skip
def test_the_error_that_was_allowed_is_told(epsilon: float, error: float, said: str) -> None:
    assert criticality_sentences(made(ROWS, epsilon, train_error=error))[-1] == said


def test_the_table_has_a_row_a_module_and_bars_of_decades() -> None:
    section = criticality_section(made(ROWS))
    [table] = tables(section)
    assert [[entry.text for entry in row] for row in table.rows] == [
        ["stem", "feasible", "900", "0.3", "0.05", "2.5", "10.0 %", "1,234"],
        ["mid", "alpha-zero", "0", "0", "0.2", "2.5", "10.0 %", "1,234"],
        ["top", "feasible", "90", "0.1", "0.02", "2.5", "10.0 %", "1,234"],
        ["head", "feasible", "10", "0.1", "1", "2.5", "10.0 %", "1,234"],
        ["idle", "no-op", "0", "0", "1", "2.5", "10.0 %", "1,234"],
    ]
    stem, mid, top, head, _ = (row[2] for row in table.rows)
    assert mid.bar is head.bar is None
    assert stem.bar is not None
    assert top.bar is not None
    assert stem.bar[1] - top.bar[1] == pytest.approx(1)  # a decade apart
    assert top.bar == pytest.approx((1 + math.log10(6), 1 + math.log10(9), 1 + math.log10(12)))
    assert table.columns[2].span == pytest.approx((0, 2 + math.log10(90)))
    assert stem.note == ("800 to 1,000 over the draws of noise",)
    assert [row[1].mark for row in table.rows] == ["neutral", "robust", "neutral", "neutral", "no-op"]
    assert section.counts == (("robust", "1 alpha-zero"), ("neutral", "3 feasible"), ("no-op", "1 no-op"))
    [lost] = tables(criticality_section(made({"a": LOST})))
    assert [entry.text for entry in lost.rows[0]][2:5] == ["", "", ""]


def test_several_allowed_errors_are_folded_and_their_sums_told() -> None:
    one, other = made(ROWS), made(ROWS, 0.05)
    both = CriticalityResult(pd.concat([one.frame, other.frame]), None, KNOWN)
    section = criticality_section(both)
    assert "The sum by the train error that is allowed: 10 %: 1,000, 5 %: 1,000." in section.verdict
    folds = [block.title for block in section.blocks if isinstance(block, Fold)]
    assert folds[0] == "With a train error of 5 %"
    assert len(bars(both).patches) == 3


def test_many_modules_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section_module, "MOST_ROWS", 8)
    monkeypatch.setattr(section_module, "MOST_BARS", 4)
    rows = {f"layer{i}": (float(i), i / 2, 2.0 * i, 0.5, 0.1, "feasible") for i in range(1, 13)}
    section = criticality_section(made(rows))
    [table] = tables(section)
    assert [row[0].text for row in table.rows] == [f"layer{i}" for i in range(5, 13)]
    assert "Of 12 modules, the 8 with the largest μ are shown." in table.caption
    [picture] = [block for block in section.blocks if isinstance(block, Picture)]
    assert "Of 12 modules, the 4 with the largest μ." in picture.caption
    assert "layer9" in picture.svg
    assert "layer8" not in picture.svg


# the way back

HEAD = {"netopsy": "0", "torch": "2", "initial": 0, "final": 9, "seed": 0, "seconds": 1.0, "sites": "modules"}


def path(errors: dict[str, list[float]], *, test: bool = False) -> ValleyResult:
    """Errors at equal steps of alpha, from 0 to 1."""
    splits = ("train", "test")[: 1 + test]
    rows = [
        {"site": site, "split": split, "alpha": i / (len(path) - 1), "sigma": 0.0, "error": error, "loss": 1.0,
         "examples": 50}
        for split in splits for site, path in errors.items() for i, error in enumerate(path)
    ]  # fmt: skip
    part = {"data": "abc", "examples": 50, "engine": "exported", "engine_reasons": []}
    known = {**HEAD, "probe": "valley", "noise_samples": 0, "splits": dict.fromkeys(splits, part)}
    return ValleyResult(pd.DataFrame(rows).astype({"site": "string", "split": "string"}), known)


def test_what_can_go_back_and_where_the_network_fails() -> None:
    found = path({"a": [0.4, 0.2, 0.1], "b": [0.14, 0.12, 0.1], FULL_NETWORK: [0.9, 0.3, 0.1]})
    assert path_sentences(found) == (
        "1 of 2 modules (b) can go back alone, step by step, for at most 5 points of train error; a costs most at "
        "the start: +30 points. These are values as measured on 50 train examples, without intervals.",
        "The whole network at once works down to α = 1; at α = 0.5 its train error is 30 %, at the start 90 %.",
    )
    spared = path({"a": [0.12, 0.1, 0.1], FULL_NETWORK: [0.12, 0.11, 0.1]})
    assert path_sentences(spared) == (
        "No module alone costs more than 5 points of train error anywhere on the way back to where it started. "
        "These are values as measured on 50 train examples, without intervals.",
        "The whole network at once costs no more than 5 points of train error on the way back.",
    )
    ridge = path_sentences(path({"a": [0.1, 0.3, 0.1]}))
    assert ridge[0].startswith("No module can go back alone")
    assert ridge[1] == "Between its ends the error is higher than at both, by more than 5 points: a (+20 points)."


def test_the_way_back_is_a_map_of_modules_and_alphas() -> None:
    found = path({"a": [0.4, 0.2, 0.1], FULL_NETWORK: [0.8, 0.3, 0.1]}, test=True)
    section = valley_section(found)
    [heatmap] = [block for block in section.blocks if isinstance(block, Heatmap)]
    assert (heatmap.rows, heatmap.columns) == (("a", FULL_NETWORK), ("0", "0.5", "1"))
    assert [[cell.text for cell in row] for row in heatmap.cells] == [
        ["40.0", "20.0", "10.0"],
        ["80.0", "30.0", "10.0"],
    ]
    assert heatmap.cells[1][0].level == 1
    assert heatmap.row_gaps == (1,)
    assert next(block.title for block in section.blocks if isinstance(block, Fold)) == "The same on test data"
    assert len(curves(found).axes) == 2


def test_a_valley_is_a_map_of_noise_and_alphas() -> None:
    flat = path({"a": [0.4, 0.2, 0.1]}).frame
    rows = pd.concat([flat, flat.assign(sigma=0.25, error=flat.error + 0.1)])
    known = {**path({"a": [0.1, 0.1]}).provenance, "noise_samples": 4, "sites": ["a"]}
    section = section_of(ValleyResult(rows, known))
    assert (section.title, section.verdict) == ("The valley of a", ())
    [heatmap] = [block for block in section.blocks if isinstance(block, Heatmap)]
    assert heatmap.rows == ("0", "0.25")
    assert [cell.text for cell in heatmap.cells[1]] == ["50.0", "30.0", "20.0"]
    assert "mean of 4 draws" in heatmap.caption


def test_a_page_holds_them(tmp_path: Any) -> None:
    results = [made(ROWS), path({"a": [0.4, 0.1], FULL_NETWORK: [0.9, 0.1]})]
    page = write_report(results, tmp_path / "page.html").read_text()
    assert "Module criticality" in page
    assert "netopsy.criticality(\n    trajectory," in page
    assert "netopsy.convex_path(\n    trajectory," in page


# complexity


def network(name: str, gap: float, **measures: float) -> dict[str, Any]:
    return {"network": name, "train_error": 0.01, "test_error": 0.01 + gap, "gap": gap, **measures}


def test_two_networks_are_not_ranked() -> None:
    rows = [network("x", 0.05, nop=1500.0, dti=3.0), network("y", 0.02, nop=2e6, dti=2.0, sharpness=4.0)]
    found = rank(rows, epsilon=None, cautions=["Beware."])
    assert found.ranking is None
    assert found.measured == ["dti", "nop", "sharpness"]
    assert found.sentences() == (
        "The gap between test and train error goes from +2 points (y) to +5 points (x).",
        "Larger for x, as its gap is: dti.",
        "Smaller for it: nop.",
        "Two networks cannot tell whether a measure ranks networks: compare three or more.",
        "Beware.",
    )
    lines = str(found).splitlines()
    assert lines[0].split() == ["x", "y"]
    assert lines[3].split() == ["gap", "+5", "points", "+2", "points"]
    assert lines[5].split() == ["nop", "1,500", "2,000,000"]
    assert lines[6].split() == ["sharpness", "–", "4"]
    [table] = tables(measures_section(found))
    assert [column.name for column in table.columns] == ["measure", "x", "y"]


def test_three_networks_or_more_are_ranked() -> None:
    rows = [network(str(i), 0.01 * i, dti=float(i), nop=-float(i), psn=float(i % 2)) for i in range(1, 7)]
    rows[0]["psn"] = NAN
    found = rank(rows, epsilon=0.1, cautions=[])
    assert found.ranking is not None
    told = found.ranking.set_index("measure")
    assert told.tau_a[["dti", "nop"]].tolist() == [1, -1]
    assert told.n[["dti", "psn"]].tolist() == [6, 5]
    assert found.sentences()[1] == "Measures that rank the 6 networks as their gaps do, beyond chance: dti (+1.00)."
    assert "+1.00 [+1.00, +1.00], n = 6" in str(found)
    section = measures_section(found)
    [table] = tables(section)
    assert [column.name for column in table.columns][-2:] == ["τ with the gap", "n"]
    by_name = {row[0].text: row for row in table.rows}
    assert by_name["dti"][-2].bar == (1, 1, 1)
    assert by_name["nop"][-2].text == "−1.00"
    assert by_name["gap"][-2].text == ""
    assert by_name["psn"][1].text == "–"
    assert any(isinstance(block, Text) and "wide intervals" in block.paragraphs[0] for block in section.blocks)


def test_measures_that_say_nothing() -> None:
    flat = rank([network(str(i), 0.01 * i, dti=1.0) for i in range(1, 4)], epsilon=None, cautions=[])
    assert flat.sentences()[1] == "No measure ranks these 3 networks as their gaps do by more than chance would."
    none = rank([], epsilon=None, cautions=["No complexity measures of a: it is gone."])
    assert str(none) == "No complexity measures of a: it is gone."
    assert measures_section(none).blocks == ()
    blind = rank([network("x", NAN), network("y", NAN)], epsilon=None, cautions=[])
    assert blind.sentences() == ()
