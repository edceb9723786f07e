"""The fine-tuning probe: its numbers are those of the probes it joins, of slow computations, and of cases by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from scipy import stats
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.cli import main
from netopsy.commands.fine_tuning_probe import FINE_TUNING_PROBES
from netopsy.commands.probing import Subject
from netopsy.models.fcn import fcn
from netopsy.network.addresses import named_state
from netopsy.network.pretrained_folders import pretrained_states
from netopsy.network.sites import find_sites
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.plots.proxies import proxy_points
from netopsy.probes.block_influence import block_influence
from netopsy.probes.criticality import criticality
from netopsy.probes.distances import checkpoint_distances
from netopsy.probes.fine_tuning import fine_tuning
from netopsy.probes.fine_tuning_result import FineTuningResult
from netopsy.probes.robustness import robustness
from netopsy.report.blocks import Chapter, Picture, Section, Table
from netopsy.report.fine_tuning import fine_tuning_section, fine_tuning_sentences, proxies
from netopsy.report.page import render
from netopsy.report.words import percent
from tests.test_block_influence import Pooled
from tests.test_transformer_sites import LENGTH, WORDS, built

matplotlib.use("Agg")
hf.logging.disable_progress_bar()
N = 40


def tuned(name: str, *, still: tuple[str, ...] = ()) -> Trajectory:
    """A model and itself moved; parameters of some names stay."""
    model = built(name)
    base = {key: value.detach().clone() for key, value in named_state(model).items()}
    with forked(5):
        end = {
            key: value + 0.3 * torch.randn_like(value) if value.is_floating_point() else value
            for key, value in base.items()
        }
    end |= {key: value for key, value in base.items() if key.startswith(still)}
    if name == "bert":  # both classes are answered
        inputs = {key: value for key, value in words().items() if key != "labels"}
        logits = Trajectory.from_states(model, {"final": end}).model()(**inputs).logits.detach()
        end["classifier.bias"] = end["classifier.bias"] - logits.median(0).values
    return Trajectory.from_states(model, {0: base, "final": end})


def words() -> dict[str, Tensor]:
    with forked(3):
        ids, labels = torch.randint(1, WORDS, (N, LENGTH)), torch.randint(0, 2, (N,))
        mask = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (N, 1))).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def splits() -> dict[str, Any]:
    return {"train": words(), "test": words()}


STILL = "bert.encoder.layer.0.attention.self.key"


@cache
def of_bert() -> FineTuningResult:
    return fine_tuning(tuned("bert", still=(STILL,)), words(), engine="eager")


def test_the_rows_are_those_of_the_probes_that_it_joins() -> None:
    trajectory, frame = tuned("bert", still=(STILL,)), of_bert().frame.set_index("site")
    parts = [site.name for site in find_sites(trajectory.model(), "transformer")]
    assert frame.index.tolist() == [*parts, "block 0", "block 1"]
    assert frame.block.dropna().tolist() == ["block 0", "block 1"]
    whole = {f"block {i}": f"bert.encoder.layer.{i}" for i in range(2)}
    one = robustness(trajectory, words(), sites="transformer", draws=0, groups=whole, engine="eager").frame
    one = one.set_index("site").loc[frame.index]
    for name in ("error", "delta_error", "delta_error_low", "delta_error_high", "n", "status", "verdict"):
        pd.testing.assert_series_equal(frame[name], one[name], check_names=False)
    turned = block_influence(trajectory.model(), words()).frame.set_index("block")
    for name in ("block_influence", "angular_distance"):
        pd.testing.assert_series_equal(frame[name].dropna(), turned[name], check_names=False, check_index_type=False)
    distances = checkpoint_distances(trajectory, find_sites(trajectory.model(), "transformer")).set_index("site")
    for name in ("l2", "linf"):
        np.testing.assert_array_equal(frame[name][parts], distances[name][parts])


def test_relative_change_against_plain_sums() -> None:
    trajectory, frame = tuned("bert", still=(STILL,)), of_bert().frame.set_index("site")
    start, end = trajectory.state(0), trajectory.state()
    for site, prefix in (
        ("block 1 / MLP dense 0", "bert.encoder.layer.1.intermediate."),
        ("block 0", "bert.encoder.layer.0."),
    ):
        names = [name for name in start if name.startswith(prefix)]
        way = sum(float(((end[name].double() - start[name].double()) ** 2).sum()) for name in names)
        length = sum(float((start[name].double() ** 2).sum()) for name in names)
        assert frame.relative_change[site] == pytest.approx(math.sqrt(way / length), rel=1e-9)
        assert frame.parameters[site] == sum(start[name].numel() for name in names)
    assert frame.status["block 0 / attention key"] == "no-op"
    assert frame.relative_change["block 0 / attention key"] == 0
    assert pd.isna(frame.verdict["block 0 / attention key"])


def test_what_started_at_zero_has_moved_infinitely_far() -> None:
    trajectory = tuned("bert")
    start = {**trajectory.states[0], "classifier.bias": torch.zeros(2), "bert.pooler.dense.bias": torch.zeros(8)}
    end = {**trajectory.states["final"], "bert.pooler.dense.bias": torch.zeros(8)}
    moved = Trajectory.from_states(built("bert"), {0: start, "final": end})
    sites = ["classifier.bias", "bert.pooler.dense.bias"]
    frame = fine_tuning(moved, words(), sites=sites, engine="eager").frame
    assert frame.relative_change.tolist() == [math.inf, 0.0]


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit", "timm", "ours", "our-vit"])
def test_every_kind_of_transformer(name: str) -> None:
    with forked(4):
        ids, images, labels = torch.randint(1, WORDS, (12, LENGTH)), torch.randn(12, 1, 8, 8), torch.arange(12) % 2
    task = Task(positions="next" if name in ("gpt2", "llama", "ours") else "all")
    data: Any = {"input_ids": ids, "labels": ids} if name in ("gpt2", "llama") else (images, labels)
    data = {"pixel_values": images, "labels": labels} if name == "vit" else (ids, ids) if name == "ours" else data
    frame = fine_tuning(tuned(name), data, task=task, engine="eager").frame
    blocks = frame[frame.block.notna()]
    assert blocks.site.tolist() == ["block 0", "block 1"]
    assert (blocks.block_influence > 0).all()
    assert frame[frame.block.isna()].block_influence.isna().all()
    model = built(name)
    parts = frame[frame.block.isna()].parameters.sum()
    assert parts == sum(value.numel() for value in model.parameters())


def tuned_tied(name: str) -> Trajectory:
    return tuned(name)  # `named_state` has a tied tensor once


def test_blocks_keep_their_names_and_have_their_influence() -> None:
    result = fine_tuning(tuned("gpt2"), gpt2_data(), sites="blocks", task=Task(positions="next"), engine="eager")
    known = result.frame.set_index("site").block.dropna()
    assert known.to_dict() == {"transformer.h.0": "block 0", "transformer.h.1": "block 1"}
    assert sorted(result.angles.blocks) == [1, 1, 2]


def gpt2_data() -> dict[str, Tensor]:
    ids = words()["input_ids"]
    return {"input_ids": ids, "labels": ids}


def test_splits_are_measured_apart() -> None:
    one, two = words(), {name: value[:11] for name, value in words().items()}
    result = fine_tuning(tuned("bert"), {"one": one, "two": two}, sites="blocks", engine="eager")
    for split, data in (("one", one), ("two", two)):
        alone = fine_tuning(tuned("bert"), data, sites="blocks", engine="eager")
        mine = result.frame[result.frame.split == split].reset_index(drop=True)
        apart = ["split", "delta_error_low", "delta_error_high", "verdict"]  # intervals hold for all splits at once
        pd.testing.assert_frame_equal(mine.drop(columns=apart), alone.frame.drop(columns=apart))
        assert result.provenance["baseline"][split] == alone.provenance["baseline"]["data"]
    assert set(result.angles.split) == {"one", "two"}
    assert "\ntwo: what fine-tuning changed" in str(result)


def test_any_network_may_be_fine_tuned() -> None:
    with forked(0):
        model, x, y = fcn(inputs=6, classes=3, depth=2, width=8), torch.randn(30, 6), torch.arange(30) % 3
        base = {name: value.clone() for name, value in model.state_dict().items()}
        end = {name: value + 0.1 * torch.randn_like(value) for name, value in base.items()}
    trajectory = Trajectory.from_states(model, {"base": base, "final": end}, initial="base")
    result = fine_tuning(trajectory, (x, y), sites="modules", engine="eager")
    assert result.frame.site.tolist() == ["hidden.0", "hidden.1", "classifier"]
    assert result.frame.block_influence.isna().all()
    assert result.frame.block.isna().all()
    assert len(result.angles) == 0
    assert "influence" not in str(result)
    with pytest.raises(NetopsyError, match=r"FCN .* has none"):
        fine_tuning(trajectory, (x, y))


def test_a_block_that_changes_the_shape_has_no_influence() -> None:
    with forked(0):
        model, x, y = Pooled("", "pool"), torch.randn(12, 3, 4), torch.arange(12) % 2
        base = {name: value.detach().clone() for name, value in model.state_dict().items()}
        end = {name: value + 0.1 * torch.randn_like(value) for name, value in base.items()}
    result = fine_tuning(Trajectory.from_states(model, {0: base, "final": end}), (x, y), engine="eager")
    for name in ("block_influence", "angular_distance"):
        assert result.frame.set_index("block")[name][["block 0", "block 1"]].isna().tolist() == [False, True]
    assert result.frame.delta_error.notna().all()
    assert "No block influence for block 1: hidden states do not keep their shape there." in result.notes()
    assert "block 1" in str(result)
    fine_tuning_section(result)


def test_criticality_is_that_of_the_way_from_the_base() -> None:
    trajectory, data = tuned("bert"), words()
    sites = ["bert.pooler", "classifier"]
    result = fine_tuning(
        trajectory, data, sites=sites, criticality=True, train_data=data, tolerance=0.1, engine="eager", seed=3
    )
    epsilon = result.provenance["baseline"]["data"] + 0.1
    alone = criticality(trajectory, data, sites=sites, epsilon=epsilon, engine="eager", seed=3).frame
    np.testing.assert_array_equal(result.frame.criticality, alone.mu)
    assert result.frame.criticality_status.tolist() == alone.status.tolist()
    assert result.provenance["criticality"]["epsilon"] == [pytest.approx(epsilon)]
    assert f"criticality: mu with an error of at most {epsilon:.4g} (epsilon) on the train data." in result.notes()
    other = criticality(trajectory, data, sites=sites, epsilon=0.8, engine="eager", noise_samples=2)
    again = result.with_criticality(other)
    assert "criticality: mu with an error of at most 0.8 (epsilon) on the train data." in again.notes()
    without = result.provenance["seconds"] - result.provenance["criticality"]["seconds"]
    for _ in range(2):
        again = again.with_criticality(other)
        assert again.provenance["seconds"] == pytest.approx(without + other.provenance["seconds"])


def test_rank_correlations_are_scipys_and_their_interval_covers_them() -> None:
    result = of_bert()
    found = result.correlations()
    assert found[["proxy", "over"]].to_numpy().tolist() == [[p, "parts"] for p in ("relative_change", "l2", "linf")]
    parts = result.frame[result.frame.block.isna() & (result.frame.status == "ok")]
    for row in found.to_dict("records"):
        assert row["rho"] == pytest.approx(stats.spearmanr(parts[row["proxy"]], parts.delta_error).statistic)
        assert row["low"] < row["rho"] < row["high"]
        assert row["sites"] == len(parts)
    assert found.equals(result.correlations())
    wider = result.correlations(confidence=0.99)
    assert (wider.low <= found.low).all()
    assert (wider.high >= found.high).all()


def made(proxy: list[float], delta: list[float], **columns: Any) -> FineTuningResult:
    n = len(proxy)
    text = {"site": [f"site {i}" for i in range(n)], "split": ["data"] * n, "block": [None] * n}
    strings = {name: pd.Series(values, dtype="string") for name, values in text.items()}
    interval = {"delta_error_low": np.array(delta) - 0.01, "delta_error_high": np.array(delta) + 0.01}
    frame = pd.DataFrame(
        {
            **strings, "parameters": 5, "relative_change": proxy, "l2": 1.0,
            "linf": proxy, "error": 0.1, "delta_error": delta, **interval, "n": 100,
            "status": pd.Series(["ok"] * n, dtype="string"), "verdict": pd.Series(["robust"] * n, dtype="string"),
            "block_influence": np.nan, "angular_distance": np.nan, **columns,
        }
    )  # fmt: skip
    provenance = {**of_bert().provenance, "drawn": ["classifier.weight"]}
    return FineTuningResult(frame, of_bert().angles.iloc[:0], provenance)


def test_rank_correlations_by_hand() -> None:
    same = made([1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.4, 0.5]).correlations().set_index("proxy")
    assert same.loc["relative_change", ["rho", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert math.isnan(same.rho["l2"])  # it is constant
    back = made([1, 2, 3, 4], [0.4, 0.3, 0.2, 0.1]).correlations().set_index("proxy")
    assert back.rho["linf"] == pytest.approx(-1)
    # what is infinite, or drawn anew, would turn the order around
    some = made([1, 2, 3, 4, math.inf, math.inf, 9], [0.1, 0.2, 0.3, 0.4, 0, 0, 0])
    some = replace(some, provenance={**some.provenance, "drawn_sites": ["site 6"]})
    row = some.correlations().iloc[0]
    assert row[["proxy", "sites", "not_finite", "drawn"]].tolist() == ["relative_change", 4, 2, 1]
    assert row[["rho", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    said = (
        "data: relative weight change of 4 parts and change of error: Spearman's ρ = 1.00 [1.00, 1.00]; left out: 2 "
        "without a finite value, 1 drawn anew."
    )
    assert said in some.notes()
    title = some.plot().get_legend().get_title().get_text()
    assert title.splitlines() == [
        "Spearman's ρ = 1.00 [1.00, 1.00], 4 sites",
        "without 1 drawn anew",
        "2 without a finite value",
    ]
    assert len(made([1, 2, 3], [0.1, 0.2, 0.3]).correlations()) == 0  # too few
    ignored = made([1, 2, 3, 4, 9], [0.1, 0.2, 0.3, 0.4, 0], status=["ok"] * 4 + ["no-op"])
    assert ignored.correlations().set_index("proxy").rho["linf"] == pytest.approx(1)
    text = str(made([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]))
    assert "Spearman's ρ = 1.00 [1.00, 1.00]." in text
    assert "The base has no classifier.weight: drawn from the initial distribution." in text


def test_the_picture_shows_what_was_measured() -> None:
    result = made([1, 2, 3, 4, math.inf], [0.1, 0.2, 0.3, 0.4, 0.5])
    ax = result.plot()
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(points.get_xydata(), [[1, 0.1], [2, 0.2], [3, 0.3], [4, 0.4]])
    title = ax.get_legend().get_title().get_text()
    assert "Spearman's ρ = 1.00" in title
    assert "1 without a finite value" in title
    assert ax.get_xlabel() == "relative weight change"
    assert [text.get_text() for text in ax.texts] == ["site 0", "site 1", "site 2", "site 3"]
    assert [text.get_ha() for text in ax.texts] == ["left", "left", "right", "right"]
    blocks = of_bert().plot(proxy="block_influence", over="blocks")
    assert blocks.get_xlabel() == "block influence"
    wide = made([1e-6, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]).plot(proxy="linf")
    assert wide.get_xscale() == "log"
    plt.close("all")


def test_rows_that_stopped_early_are_told_from_others() -> None:
    early = made([1, 2, 3, 4], [0, 0, 0, 0], n=[100, 64, 100, 100])
    head, names, *rows = str(early).splitlines()
    assert head.endswith("n = 64 to 100")
    assert names.split()[-1] == "n"
    assert [line.split()[-1] for line in rows[:4]] == ["100", "64", "100", "100"]
    (table,) = tables(fine_tuning_section(early))
    place = [column.name for column in table.columns].index("examples")
    assert [row[place].text for row in table.rows] == ["100", "64", "100", "100"]
    alike = made([1, 2, 3, 4], [0, 0, 0, 0])
    assert str(alike).splitlines()[0].endswith("n = 100")
    assert str(alike).splitlines()[1].split()[-1] == "back"
    (table,) = tables(fine_tuning_section(alike))
    assert "examples" not in [column.name for column in table.columns]


def test_save_and_load(tmp_path: Path) -> None:
    result = of_bert()
    result.save(tmp_path / "result")
    again = FineTuningResult.load(tmp_path / "result")
    pd.testing.assert_frame_equal(again.to_frame(), result.frame)
    pd.testing.assert_frame_equal(again.angles, result.angles)
    assert str(again) == str(result)


def test_what_the_base_lacks_is_said_once(tmp_path: Path) -> None:
    with forked(1):
        hf.BertModel(built("bert").config).save_pretrained(tmp_path / "base")
    built("bert").save_pretrained(tmp_path / "final")
    trajectory = Trajectory.from_states(*pretrained_states(tmp_path / "base", tmp_path / "final"))
    result = fine_tuning(trajectory, words(), sites=["bert.encoder.layer.*", "classifier"], engine="eager")
    assert result.provenance["drawn"] == ["classifier.weight", "classifier.bias"]
    assert result.drawn_sites == ("classifier",)
    assert str(result).count("The base has no classifier.weight, classifier.bias: drawn") == 1


def test_the_section_of_the_report() -> None:
    section = fine_tuning_section(of_bert())
    error = of_bert().provenance["baseline"]["data"]
    assert section.verdict[0].startswith(f"The fine-tuned network errs on {percent(error)} of 40 examples. ")
    assert "Relative weight change orders 21 parts by that cost with Spearman's ρ = " in section.verdict[-1]
    parts, blocks = tables(section)
    frame = of_bert().frame.set_index("site")
    assert [row[0].text for table in (parts, blocks) for row in table.rows] == frame.index.tolist()
    (key,) = [row for row in parts.rows if row[0].text == "block 0 / attention key"]
    assert key[1].mark == "no-op"
    shared = ["verdict", "going back costs", "relative change", "largest change", "parameters"]
    assert [column.name for column in parts.columns] == ["part", *shared]
    turned = ["influence", "angle"]
    assert [column.name for column in blocks.columns] == ["block", *shared[:3], *turned, *shared[3:]]
    for place, name in ((4, "block_influence"), (5, "angular_distance")):
        assert [row[place].text for row in blocks.rows] == [f"{value:.3f}" for value in frame[name].dropna()]
    assert not parts.caption
    assert "dashed line: the tolerance" in blocks.caption
    html = render("x", [Chapter(title="x", sections=[section])])
    assert "What fine-tuning changed" in html
    drawn = fine_tuning_sentences(
        made([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], verdict=["robust", "undecided", "between", "critical"])
    )
    assert drawn[0] == (
        f"The fine-tuned network errs on {percent(error)} of 100 examples. That is no better than guessing: it has "
        "nothing to lose, and no part can be told from another. Of 4 parts, 1 can each go back to pretrained weights "
        "for at most 5 points; certified to cost more: site "
        "2 and site 3; 1 undecided."
    )
    assert drawn[1] == "The base has no classifier.weight: there, going back is to a fresh draw."


@pytest.mark.parametrize(
    ("shares", "texts"),
    [
        ([2.37, 2.271, 0.51, math.inf], ["237.0 %", "227.1 %", "51.0 %", "∞"]),
        ([0.00042, 0.1, 0.0, 0.02], ["0.04 %", "10.00 %", "0.00 %", "2.00 %"]),
    ],
)
def test_a_column_has_one_number_of_decimals(shares: list[float], texts: list[str]) -> None:
    (table,) = tables(fine_tuning_section(made(shares, [0, 0, 0, 0])))
    place = [column.name for column in table.columns].index("relative change")
    assert [row[place].text for row in table.rows] == texts


def tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


def test_a_network_that_guesses_is_said_to() -> None:
    result = made([1, 2, 3, 4], [0, 0, 0, 0])
    for error, guesses in ((0.39, False), (0.4, True), (0.9, True)):  # chance 0.5 at n = 100: 0.5 - 2 * 0.05
        provenance = {**result.provenance, "baseline": {"data": error}, "chance": 0.5}
        (first, *_) = fine_tuning_sentences(replace(result, provenance=provenance))
        assert first.startswith(f"The fine-tuned network errs on {percent(error)} of 100 examples. ")
        assert ("no better than guessing" in first) == guesses
    (table,) = tables(fine_tuning_section(result))
    assert "99 % for all rows at once" in table.caption
    assert "Robust: at most 5 points for certain" in table.caption


def test_nothing_moved() -> None:
    model = built("bert")
    state = {name: value.detach() for name, value in named_state(model).items()}
    result = fine_tuning(Trajectory.from_states(model, {0: state, "final": state}), words(), engine="eager")
    assert set(result.frame.status) == {"no-op"}
    assert proxies(result) is None
    (said,) = fine_tuning_sentences(result)
    assert said.endswith(" Fine-tuning changed none of these parts.")
    assert not [block for block in fine_tuning_section(result).blocks if isinstance(block, Picture)]
    assert len(result.correlations()) == 0
    away = made([math.inf] * 4, [0.1, 0.2, 0.3, 0.4])  # moved, but nowhere that a picture has room for
    assert proxies(away) is None
    assert "Fine-tuning changed none" not in fine_tuning_sentences(away)[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, whose modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_inspect_of_a_folder_and_itself(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "loading_words.py").write_text("from tests.test_fine_tuning import words")
    built("bert").save_pretrained("tuned")
    command = ["inspect", "--init", "tuned", "--final", "tuned", "--data", "loading_words:words", "--json"]
    assert main([*command, "--probes", "fine-tuning"]) == 0
    told = json.loads(capsys.readouterr().out)["probes"]["fine-tuning"]
    assert told["sentences"][0].endswith("Fine-tuning changed none of these parts.")
    assert set(told["files"]) == {"result"}
    assert [path.suffix for path in Path(told["files"]["result"]).iterdir() if path.suffix == ".png"] == []


def test_inspect_of_two_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "loading.py").write_text("from tests.test_fine_tuning import splits")
    with forked(1):
        hf.BertModel(built("bert").config).save_pretrained("base")
    built("bert").save_pretrained("tuned")
    folders = ["--init", "base", "--final", "tuned"]
    command = ["inspect", *folders, "--data", "loading:splits", "--json", "--probes", "fine-tuning"]
    assert main([*command, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)["probes"]["fine-tuning"]
    assert not (here / "runs").exists() or not list((here / "runs").rglob("*.parquet"))
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)["probes"]["fine-tuning"]
    result = FineTuningResult.load(told["files"]["result"])
    assert len(told["rows"]) == len(result.frame) == planned["rows"]
    assert result.provenance["drawn"] == ["classifier.weight", "classifier.bias"]
    assert result.frame.site.tolist()[-1] == "block 1"
    assert "there, going back is to a fresh draw" in told["sentences"][1]
    assert {path.name for path in Path(told["files"]["result"]).iterdir()} == {
        "results.parquet", "angles.parquet", "manifest.json", "proxies.png",
    }  # fmt: skip
    stamp = (Path(told["files"]["result"]) / "results.parquet").stat().st_mtime_ns
    assert main(command) == 0  # found
    assert json.loads(capsys.readouterr().out)["probes"]["fine-tuning"]["rows"] == told["rows"]
    assert "criticality" not in told["rows"][0]
    assert (Path(told["files"]["result"]) / "results.parquet").stat().st_mtime_ns == stamp
    criticality_joins_the_table(command, capsys)
    assert main(["inspect", *folders]) == 2
    assert "missing --data" in capsys.readouterr().err
    assert main(["inspect", "--init", "base", "--final", "tuned/model.safetensors", "--data", "loading:splits"]) == 2
    assert "missing --model" in capsys.readouterr().err


def criticality_joins_the_table(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Where train data are known and both are asked for."""
    both = [*command, "criticality", "--epsilon", "0.9"]
    assert main(both) == 0
    told = json.loads(capsys.readouterr().out)["probes"]
    mu = {row["site"]: row["mu"] for row in told["criticality"]["rows"]}
    rows = told["fine-tuning"]["rows"]
    assert set(mu) == {row["site"] for row in rows if row["block"] is None}
    assert {row["site"]: row["criticality"] for row in rows if row["block"] is None} == mu
    assert {row["criticality"] for row in rows if row["block"]} == {None}
    result = FineTuningResult.load(told["fine-tuning"]["files"]["result"])
    assert result.provenance["criticality"]["epsilon"] == [0.9]
    parts, blocks = tables(fine_tuning_section(result))
    place = [column.name for column in parts.columns].index("criticality")
    assert all(row[place].text for row in parts.rows)
    assert "criticality" not in [column.name for column in blocks.columns]


def test_the_probe_applies_to_transformers_with_a_start() -> None:
    probe = FINE_TUNING_PROBES["fine-tuning"]

    def of(trajectory: Trajectory) -> str | None:
        return probe.applies(Subject(trajectory=trajectory, data=words(), folder=Path("x"), home=Path("x")))

    assert of(tuned("bert")) is None
    alone = Trajectory.from_states(built("bert"), {"final": tuned("bert").states["final"]})
    assert of(alone) == "the weights that training started from were not kept; pass them by --init"
    plain = fcn(inputs=6, classes=3, depth=2, width=8)
    assert of(Trajectory.from_states(plain, {0: plain.state_dict()})) == "the network has no transformer blocks"


def test_data_that_the_model_does_not_take() -> None:
    trajectory, good = tuned("bert"), words()
    ids = good["input_ids"]
    others = {"ids": ids, "labels": good["labels"]}
    for wrong in (others, {**good, "input_ids": ids + 99}, {**good, "input_ids": ids.float()}):
        with pytest.raises(NetopsyError, match="BertForSequenceClassification cannot be run on the first batch"):
            fine_tuning(trajectory, {"good": good, "wrong": wrong})
    with pytest.raises(NetopsyError, match="labels"):
        fine_tuning(trajectory, {**good, "labels": good["labels"] + 9})


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    trajectory, data = tuned("bert"), words()
    alone = Trajectory.from_states(built("bert"), {"final": trajectory.states["final"]})
    for wrong in (built("bert"), alone):
        with pytest.raises(NetopsyError, match="starts from the pretrained weights"):
            fine_tuning(wrong, data)  # type: ignore[arg-type]
    for options in ({"criticality": True}, {"train_data": data}):
        with pytest.raises(NetopsyError, match="expected train_data with criticality=True, and only then"):
            fine_tuning(trajectory, data, **options)
    with pytest.raises(NetopsyError, match="epsilon: expected a number"):
        fine_tuning(trajectory, data, epsilon=2)
    with pytest.raises(NetopsyError, match="tolerance"):
        fine_tuning(trajectory, data, tolerance=-1)
    result = of_bert()
    with pytest.raises(NetopsyError, match="proxy: expected one of relative_change, l2, linf, of parts; got 'block"):
        result.plot(proxy="block_influence")
    with pytest.raises(NetopsyError, match="over: expected one of"):
        result.plot(over="heads")
    with pytest.raises(NetopsyError, match="split: expected one of 'data'"):
        result.plot(split="test")
    with pytest.raises(NetopsyError, match="resamples"):
        result.correlations(resamples=0)
    with pytest.raises(NetopsyError, match="'l2' has none"):
        proxy_points(result.frame.assign(l2=math.nan), "l2")
