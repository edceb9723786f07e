"""Criticality, convex paths and complexity on the command line: on which data, at which error, measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from netopsy._checks import NetopsyError
from netopsy._random import derive
from netopsy._storage import write_json
from netopsy.cli import main
from netopsy.commands import criticality_probe, measuring, probes, unit_probes
from netopsy.commands.criticality_probe import CRITICALITY_PROBES, PATH_EXAMPLES, _some, allowed
from netopsy.commands.inspect import chosen, subject
from netopsy.commands.measuring import measures
from netopsy.commands.probing import OneModel, Subject
from netopsy.commands.train_data import NONE, trained_on
from netopsy.data.dataset import corrupt_labels, fingerprint, subset
from netopsy.data.digits import digits
from netopsy.probes.criticality import criticality
from netopsy.report.found import find
from netopsy.report.run import chapter
from netopsy.training.inputs import hold_out
from tests.test_criticality import data as examples
from tests.test_criticality import net
from tests.test_criticality import trained as trained_trajectory

ASKED: dict[str, Any] = {"sites": "modules", "epsilon": 0.04, "seed": 0}
PAIR = (torch.arange(40.0).reshape(20, 2), torch.arange(20) % 4)


def opened(folder: Path, train: Any = None) -> Subject:
    known = trained_trajectory()
    states = {key: known.state(key) for key in known.keys}
    x, y = examples()
    return Subject(
        trajectory=OneModel.from_states(net, states),
        data={"test": (x[:100] + 0.1, y[:100])},
        folder=folder,
        home=folder,
        train=(x, y) if train is None else train,
    )


@pytest.fixture(autouse=True)
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (criticality_probe, probes, unit_probes):
        monkeypatch.setattr(module, "save", lambda picture, path: path.touch())


# what a run was trained on


def manifest(data: Any = PAIR, **config: Any) -> dict[str, Any]:
    return {"data": fingerprint(*data), "config": {"seed": 5, **config}}


def same(found: Any, wanted: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_train_split_of_every_form_of_data() -> None:
    small = subset(digits(), train=60, test=20)
    assert trained_on(small, {}) == (small.train, "")
    other = (PAIR[0] + 1, PAIR[1])
    assert trained_on((PAIR, other), {}) == (PAIR, "")
    assert trained_on({"train": PAIR, "test": other}, manifest()) == (PAIR, "")
    assert trained_on({"test": other}, {}) == (None, NONE)
    assert trained_on(PAIR, {}) == (None, NONE)  # it may be any data
    assert trained_on(PAIR, manifest()) == (PAIR, "")  # the run knows it
    assert trained_on(PAIR, manifest(other))[0] is None


def test_held_out_examples_and_corrupted_labels_are_those_of_the_training() -> None:
    held, _ = trained_on((PAIR, PAIR), manifest(validation_share=0.2))
    assert same(held, hold_out(PAIR, 0.2, 5)[0])
    noisy, _ = trained_on((PAIR, PAIR), manifest(validation_share=0.2, label_noise=0.5))
    labels = corrupt_labels(hold_out(PAIR, 0.2, 5)[0][1], 0.5, 4, derive(5, "labels"))
    assert same(noisy, (held[0], labels))
    assert not torch.equal(labels, held[1])


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (manifest((PAIR[0] + 1, PAIR[1])), r"not the one that the run was trained on \(its fingerprint is another\)"),
        (
            manifest(label_noise="much"),
            "does not say what it was trained on: label_noise: expected a number; got 'much'",
        ),
        (manifest(validation_share=0.99), "does not say what it was trained on: validation_share=0.99"),
    ],
)
def test_train_data_that_are_not_known_say_why(known: Mapping[str, Any], why: str) -> None:
    found, reason = trained_on((PAIR, PAIR), known)
    assert found is None
    with pytest.raises(NetopsyError, match=why):
        raise NetopsyError(reason)


# the probes


@pytest.mark.parametrize("name", ["path", "criticality"])
def test_each_is_planned_measured_once_and_reported(name: str, tmp_path: Path) -> None:
    probe, at = CRITICALITY_PROBES[name], opened(tmp_path)
    cost = probe.plan(at, ASKED)
    assert list(tmp_path.iterdir()) == []
    assert 0 < cost.low <= cost.seconds <= cost.high
    assert cost.to_dict()["plan"]["engine"] == "exported"
    assert ("3 sites" if name == "criticality" else "4 sites") in str(cost.plan)
    heard: list[tuple[int, int | None]] = []
    finding = probe.run(at, ASKED, lambda done, total: heard.append((done, total)))
    assert heard[-1] == ((3, 3) if name == "criticality" else (8, 8))
    assert cost.rows == len(finding.result.to_frame())
    assert finding.sentences
    assert all(path.exists() for path in finding.files.values())
    again = probe.plan(at, ASKED)
    assert (again.found, again.rows, again.seconds) == (finding.files["result"], cost.rows, 0.0)
    before = finding.files["result"].joinpath("manifest.json").stat().st_mtime_ns
    assert probe.run(at, ASKED, lambda done, total: None).files == finding.files
    assert finding.files["result"].joinpath("manifest.json").stat().st_mtime_ns == before
    assert probe.plan(at, {**ASKED, "seed": 1}).found is None
    titles = [section.title for section in chapter("run", find(tmp_path)).sections]
    assert titles == ["Module criticality" if name == "criticality" else "The way back"]


def test_what_was_interrupted_goes_on_to_the_numbers_of_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, at = CRITICALITY_PROBES["criticality"], opened(tmp_path)
    measured: list[str] = []

    def measure(*args: Any, sites: Any, **options: Any) -> Any:
        measured.append(sites[0].name)
        return criticality(*args, sites=sites, **options)

    monkeypatch.setattr(criticality_probe, "place", lambda *args: tmp_path / "found")
    monkeypatch.setattr(criticality_probe, "criticality", measure)

    def interrupt(done: int, total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe.run(at, ASKED, interrupt)
    result = probe.run(at, ASKED, lambda done, total: None).result
    assert measured == ["0", "2", "4"]
    assert not (tmp_path / "found" / "unfinished").exists()
    whole = criticality(at.trajectory, at.train, epsilon=0.04)
    columns = ["site", "mu", "mu_low", "mu_high", "alpha", "sigma", "error", "status"]
    assert result.frame[columns].to_dict("list") == whole.frame[columns].to_dict("list")
    assert result.provenance["tests"].keys() == whole.provenance["tests"].keys()
    assert result.provenance["sites"] == "modules"


def test_the_allowed_error_is_that_of_the_paper_or_a_little_above_the_network_s_own(tmp_path: Path) -> None:
    assert [allowed(error) for error in (0.0, 0.1, 0.101, 0.1731, 0.97)] == [0.1, 0.1, 0.15, 0.22, 0.99]
    x, y = examples()
    wrong = (x, torch.where(torch.arange(len(y)) % 4 == 0, (y + 1) % 3, y))
    at = opened(tmp_path, wrong)
    error = float((at.trajectory.model()(x).argmax(1) != wrong[1]).float().mean())
    asked = criticality_probe._asked(at, {**ASKED, "epsilon": None})
    assert asked["train_error"] == pytest.approx(error)
    assert asked["epsilon"] == round(error + 0.05, 2) > 0.2
    found = CRITICALITY_PROBES["criticality"].run(at, {**ASKED, "epsilon": None, "sites": ["4"]}, lambda *_: None)
    assert "the usual 10 % is less than the trained network's own" in found.sentences[-1]


def test_an_allowed_error_that_is_none_is_refused(tmp_path: Path) -> None:
    probe, options = CRITICALITY_PROBES["criticality"], {**ASKED, "epsilon": 2.0}
    with pytest.raises(NetopsyError, match=r"epsilon: expected a number in \[0, 1\); got 2"):
        probe.plan(opened(tmp_path), options)
    with pytest.raises(NetopsyError, match=r"epsilon: expected a number in \[0, 1\); got 2"):
        probe.run(opened(tmp_path), options, lambda done, total: None)


def test_they_apply_where_there_are_initial_weights_and_train_data(tmp_path: Path) -> None:
    at, path, critical = opened(tmp_path), CRITICALITY_PROBES["path"], CRITICALITY_PROBES["criticality"]
    assert path.applies(at) is critical.applies(at) is None
    unknown = replace(at, train=None, no_train=NONE)
    assert path.applies(unknown) is None
    assert critical.applies(unknown) == NONE
    assert "--data name a netopsy Dataset, a tuple (train, test), or a mapping with 'train'" in NONE
    late = OneModel.from_states(net, {3: at.trajectory.state(1)}, initial=None)
    assert str(path.applies(replace(at, trajectory=late))).startswith("the weights that training started from")
    with pytest.raises(NetopsyError, match="probes that apply to this network; criticality: the data have no train"):
        chosen(unknown, ("criticality",))


def test_a_path_is_measured_on_some_examples_of_each_split(tmp_path: Path) -> None:
    few = (torch.zeros(PATH_EXAMPLES, 2), torch.zeros(PATH_EXAMPLES))
    assert _some(few, 0) is few
    assert _some([few], 0)[0] is few
    many = (torch.arange(3 * PATH_EXAMPLES), torch.arange(3 * PATH_EXAMPLES))
    x, y = _some(many, 0)
    assert torch.equal(x, y)
    assert len(x.unique()) == PATH_EXAMPLES
    assert not torch.equal(x, _some(many, 1)[0])
    splits = criticality_probe._path_splits(opened(tmp_path), 0)
    assert list(splits) == ["train", "test"]


# measures of runs

SMALL = ["--width", "4", "--depth", "1", "--epochs", "1", "--batch-size", "256"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    for seed, name in enumerate("abc"):
        assert main(["train", str(folder / name), *SMALL, "--seed", str(seed)]) == 0
    return folder


def criticality_of(folder: Path, epsilon: float) -> None:
    at = subject(folder, model=None, init=None, final=None, data=None, out=None)
    probe = CRITICALITY_PROBES["criticality"]
    assert probe.applies(at) is None
    at = replace(at, train=tuple(part[:200] for part in at.train))
    probe.run(at, {**ASKED, "epsilon": epsilon}, lambda done, total: None)


def test_measures_of_runs_are_ranked_and_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name: find(runs / name) for name in "abc"}
    found = measures(named, split="test", sharpness=False)
    assert found.ranking is not None
    assert set(found.ranking.n) == {3}
    assert found.cautions == (
        "a, b, c were not inspected for criticality, which is left blank: netopsy inspect RUN --probes criticality.",
    )
    assert found.table.criticality.isna().all()
    assert found.table.sharpness.isna().all()
    assert (found.table.gap - found.table.test_error + found.table.train_error).abs().max() < 1e-12
    monkeypatch.setattr(measuring, "kept", lambda home, load, measure: load(home))  # which is there
    again = measures(named, split="test", sharpness=False)
    assert again.table.equals(found.table)


def test_criticality_is_taken_at_an_error_that_all_runs_have(runs: Path) -> None:
    criticality_of(runs / "a", 0.95)
    criticality_of(runs / "b", 0.95)
    found = measures({name: find(runs / name) for name in "abc"}, split=None, sharpness=True)
    assert found.epsilon == 0.95
    assert found.table.criticality.notna().tolist() == [True, True, False]
    assert found.cautions[0].startswith("c was not inspected for criticality, which is left blank")
    assert found.table.sharpness.notna().any()
    criticality_of(runs / "c", 0.96)
    other = measures({name: find(runs / name) for name in "abc"}, split=None, sharpness=False)
    assert other.epsilon is None
    assert other.table.criticality.isna().all()
    assert other.cautions[0].startswith(
        "Criticality was measured at different train errors (a 95 %, b 95 %, c 96 %), and is left blank"
    )


def test_runs_that_cannot_be_opened_are_told(runs: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {})
    named = {"a": find(runs / "a"), "gone": replace(find(runs / "b"), path=tmp_path)}
    found = measures(named, split=None, sharpness=False)
    assert found.table.network.tolist() == ["a"]
    assert found.cautions[-1].startswith(f"No complexity measures of gone: {tmp_path}: only netopsy's own models")
    wrong = measures({"a": named["a"]}, split="nosuch", sharpness=False)
    assert wrong.cautions[-1] == "No complexity measures of a: split: expected one of test; got 'nosuch'."


def test_compare_writes_the_measures_below_the_parts(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        assert main(["inspect", str(runs / name), "--probes", "robustness"]) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main(["compare", str(runs / "a"), str(runs / "b"), "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "change of error, in points" in shown
    assert "Two networks cannot tell whether a measure ranks networks" in shown
    assert page.read_text().index("Side by side") < page.read_text().index("Complexity measures")
