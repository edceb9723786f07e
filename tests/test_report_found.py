"""What the report finds in a folder, and what it passes over."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from netopsy._checks import NetopsyError
from netopsy._storage import write_json, write_table
from netopsy.commands.compare import compare
from netopsy.commands.report import report
from netopsy.report.found import find, names
from netopsy.report.run import chapter, write_report
from netopsy.report.sections import section_of
from tests.test_report_words import A, B, made

FIRST = made([A, B])
MANIFEST = {
    "config": {"lr": 0.1, "optimizer": "sgd", "batch_size": 8},
    "keys": [0, 9],
    "model": "x.Net",
    "finished": True,
    "stopped": "epochs",
}
HISTORY = pd.DataFrame({"epoch": [8, 9], "train_error": [0.3, 0.2]})


def train(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "history.parquet", HISTORY)
    write_json(folder / "manifest.json", MANIFEST)
    return folder


def aged(folder: Path, seconds: int) -> Path:
    file = folder / "manifest.json"
    os.utime(file, (file.stat().st_mtime - seconds,) * 2)
    return folder


def test_a_run_with_its_results(tmp_path: Path) -> None:
    run = train(tmp_path / "first")
    new = FIRST.save(run / "results" / "robustness-1")
    old = aged(made([A, B], seed=1).save(run / "results" / "robustness-2"), 100)
    (run / "results" / "robustness-3" / "unfinished").mkdir(parents=True)
    found = find(run)
    assert [*found.results] == [new, old]
    assert found.manifest["config"] == MANIFEST["config"]
    pd.testing.assert_frame_equal(found.history, HISTORY)
    assert [*find(run / "results").results] == [new, old]
    assert find(run / "results").manifest == {}
    assert [*find(new).results] == [new]
    titles = [section.title for section in chapter("first", found).sections]
    assert titles == [
        "Robustness to re-initialization and re-randomization: robustness-1",
        "Robustness to re-initialization and re-randomization: robustness-2",
        "How it was trained",
    ]


def test_the_demo_s_layout(tmp_path: Path) -> None:
    train(tmp_path / "run")
    FIRST.save(tmp_path / "result")
    found = find(tmp_path)
    assert len(found.results) == 1
    assert found.manifest["keys"] == [0, 9]


def test_a_run_nearby_is_not_taken_for_the_one_behind_the_results(tmp_path: Path) -> None:
    train(tmp_path / "first")
    FIRST.save(tmp_path / "other")
    assert find(tmp_path).manifest == {}


def test_a_result_measured_again_replaces_the_older(tmp_path: Path) -> None:
    aged(made([A, B], seconds=3.0, netopsy="0.0.9", engine="eager").save(tmp_path / "old"), 100)
    new = FIRST.save(tmp_path / "new")
    assert [*find(tmp_path).results] == [new]


def test_other_networks_measured_alike_are_kept(tmp_path: Path) -> None:
    other = replace(FIRST, distances=FIRST.distances.assign(l2=FIRST.distances.l2 * 1.1))
    FIRST.save(tmp_path / "seed-0")
    other.save(tmp_path / "seed-1")
    assert len(find(tmp_path).results) == 2
    told = chapter("study", find(tmp_path)).sections
    assert {section.verdict[0].partition(":")[0] for section in told} == {"seed-0", "seed-1"}


def test_modules_without_distances_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    one = made([B], initial=None)
    one.save(tmp_path / "a")
    one.save(tmp_path / "again")
    replace(one, frame=one.frame.assign(loss=2.0)).save(tmp_path / "b")
    assert len(find(tmp_path).results) == 2


@pytest.mark.parametrize(
    "text",
    ['{"name": "app", "version": 3}', '{"schema": "http://x"}', "// no JSON", "[1, 2]", '{"schema": 7}', "\x00"],
)
def test_another_program_s_manifest_breaks_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "manifest.json").write_text(text)
    (tmp_path / "manifest.json").write_text(text)
    FIRST.save(tmp_path / "result")
    assert len(find(tmp_path).results) == 1


def test_a_damaged_or_newer_manifest_of_ours_is_refused(tmp_path: Path) -> None:
    file = FIRST.save(tmp_path / "result") / "manifest.json"
    whole = file.read_text()
    file.write_text(whole[:30])
    with pytest.raises(NetopsyError, match=r"manifest.json: expected JSON written by netopsy; it cannot be read"):
        find(tmp_path)
    file.write_text(json.dumps({**json.loads(whole), "schema": 99}))
    with pytest.raises(NetopsyError, match="written with schema 99, this netopsy reads up to 1; upgrade"):
        find(tmp_path)


def test_results_of_unknown_probes_and_recordings_are_passed_over(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"kind": "recorder", "keys": [0, 1], "versions": {}, "finished": True})
    (tmp_path / "weather").mkdir()
    write_json(tmp_path / "weather" / "manifest.json", {"provenance": {"probe": "weather"}, "groups": {}})
    write_json(tmp_path / "valley2.json", {})
    FIRST.save(tmp_path / "results" / "robustness-1")
    found = find(tmp_path)
    assert len(found.results) == 1
    assert found.manifest == {}
    assert [s.title for s in chapter("x", found).sections] == ["Robustness to re-initialization and re-randomization"]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match="report: expected the folder of a run or of a result; there is no folder"):
        find(tmp_path / "none")
    with pytest.raises(NetopsyError, match="expected results of a probe in it; there are none; measure some first"):
        chapter("x", find(train(tmp_path / "run")))
    with pytest.raises(NetopsyError, match="report: expected the folder of at least one run; got none"):
        report([])
    with pytest.raises(NetopsyError, match="compare: expected at least two runs; got 1; name another"):
        compare([tmp_path])
    with pytest.raises(NetopsyError, match=r"compare: expected different runs; got .*run, .*run"):
        compare([tmp_path / "run", tmp_path / "run"])
    FIRST.save(tmp_path / "result")
    with pytest.raises(
        NetopsyError,
        match=r"run: expected a robustness result in it; .*: netopsy inspect .*run --probes robustness",
    ):
        compare([tmp_path / "result", tmp_path / "run"])
    with pytest.raises(
        NetopsyError, match=r"expected a result of a probe \(RobustnessResult, .*\); got int; pass what"
    ):
        section_of(3)
    with pytest.raises(NetopsyError, match="report: expected at least one result of mine; got none; measure one"):
        write_report({"mine": []}, tmp_path / "x.html")
    with pytest.raises(NetopsyError, match="report: expected at least one result; got none; measure one"):
        write_report({}, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_names(tmp_path: Path) -> None:
    assert names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert names([tmp_path / "run"]) == ["run"]
    assert names([Path("/")]) == ["/"]
    assert names([tmp_path, tmp_path]) == [tmp_path.name] * 2
    assert names([]) == []


def test_the_commands_write_pages_and_say_the_sentences(tmp_path: Path) -> None:
    one, two = train(tmp_path / "one"), train(tmp_path / "two")
    FIRST.save(one / "results" / "r")
    made([A, B], half=0.02).save(two / "results" / "r")
    made_one = report([one])
    assert made_one.path == one / "report.html"
    assert made_one.sentences[0].startswith("The trained network errs on 10 %")
    both = report([one, two], out=tmp_path / "both.html")
    assert [sentence.partition(":")[0] for sentence in both.sentences] == ["one", "one", "two", "two"]
    held = compare([one, two], out=tmp_path / "held.html")
    assert held.comparison.runs == ("one", "two")
    assert "No part costs two more or less" in held.path.read_text()
    page = write_report([FIRST, FIRST], tmp_path / "several.html").read_text()
    assert "result 2" in page
