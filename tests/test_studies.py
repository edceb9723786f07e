"""The layers study on tiny nets: what is trained, found again, refused and judged; and every preset's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._storage import read_json, read_table
from netopsy.data.dataset import Dataset, standardize, subset
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.network.groups import fcn_groups
from netopsy.network.sites import find_sites
from netopsy.store.keyed import Progress
from netopsy.store.runs import list_runs
from netopsy.store.sweep import Sweep
from netopsy.studies import layers, layers_pictures, layers_settings, layers_sweeps
from netopsy.studies.layers import NEEDS
from netopsy.studies.layers_claims import ALL_BUT_FIRST, CLAIMS
from netopsy.studies.layers_settings import PAPER, PRESETS, Setting
from netopsy.studies.layers_sweep_claims import WIDTHS, layer_increases
from netopsy.studies.layers_sweeps import (
    NONE,
    Treated,
    Width,
    measure_treated,
    measure_width,
    treated_table,
    treatment_sweep,
    width_sweep,
)
from netopsy.training.config import FitConfig
from tests.test_layers_sweep_claims import f2_table, falling, t1_table


def small() -> Dataset:
    return subset(standardize(digits()), train=200, test=60)


def tiny(epochs: int = 1, lr: float = 0.05) -> Setting:
    def factory(data: Dataset) -> Callable[[], nn.Module]:
        return partial(fcn, inputs=(1, 8, 8), classes=data.classes, depth=3, width=8)

    def config(seed: int) -> FitConfig:
        return FitConfig(epochs=epochs, lr=lr, seed=seed, keep=(0,))

    return Setting(
        name="tiny", data=small, factory=factory, config=config, sites="modules", groups=fcn_groups, draws=1
    )


@pytest.fixture
def tiny_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "laptop", {"fcn3": tiny()})


@pytest.mark.usefixtures("tiny_laptop")
def test_a_claim_about_single_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []

    def report(name: str, progress: Progress) -> None:
        told.append((name, progress.done, progress.total))

    study = layers.run(tmp_path, claims=["F1a"], seeds=(7, 5, 6), report=report)
    assert told == [("layers-laptop", done, 3) for done in range(4)]
    assert list(study.verdicts) == ["F1a"]
    assert set(study.verdicts["F1a"].table.n) == {3}
    assert study.tables == {}
    assert [result.provenance["seed"] for result in study.results["fcn3"]] == [7, 5, 6]
    for result in study.results["fcn3"]:
        frame = result.to_frame()
        assert {*fcn_groups(["hidden.0", "hidden.1", "hidden.2", "classifier"]), "full model"} < set(frame.site)
        assert set(frame.checkpoint.dropna()) == {0, 1}
        assert frame.n.unique().tolist() == [60]  # the test split
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "verdicts" / "F1a.parquet")[["part", "mean", "outcome"]],
        study.verdicts["F1a"].table[["part", "mean", "outcome"]],
    )
    assert len(list_runs(tmp_path / "trained")) == 3

    def trained(*args: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(layers_settings, "trained", trained)
    again = layers.run(tmp_path, claims=["F1a"], seeds=(7, 5, 6), jobs=2)
    for one, other in zip(study.results["fcn3"], again.results["fcn3"], strict=True):
        pd.testing.assert_frame_equal(one.frame, other.frame, check_exact=True)


def test_a_network_that_fails_is_named_and_not_tried_again_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "laptop", {"fcn3": tiny(lr=1e30)})
    message = (
        "laptop: 3 of the networks failed, and there is no verdict without them; fcn3, seed 0: diverged: Diverged"
    )
    with pytest.raises(NetopsyError, match=message):
        layers.run(tmp_path, claims=["F1a"])
    monkeypatch.setitem(PRESETS, "laptop", {"fcn3": tiny()})
    with pytest.raises(NetopsyError, match=r"mend that, and pass retry=True \(--retry\)"):
        layers.run(tmp_path, claims=["F1a"])
    assert not (tmp_path / "verdicts").exists()


def test_the_claims_with_sweeps_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = {"normal": 0.15, "individual": 0.16, "frozen": 0.2, "removed": 0.25, "joint": 0.8}
    easy = {"normal": 0.03, "individual": 0.04, "frozen": 0.06, "removed": 0.035, "joint": 0.8}
    t1 = t1_table(easy, hard).assign(training="normal")
    given: list[tuple[Any, ...]] = []

    def run_sweep(sweep: Sweep, folder: Path, **options: Any) -> pd.DataFrame:
        given.append((sweep.name, sweep.seeds, folder, options["runs"], options["jobs"], options["retry"]))
        options["progress"](Progress(done=1, failed=0, total=1, rate=1.0, left=0.0))
        return f2_table(falling) if sweep.name == "layers-f2" else t1

    monkeypatch.setattr(layers, "run_sweep", run_sweep)
    names: list[str] = []
    study = layers.run(
        tmp_path, claims=["T1", "F2"], jobs=2, retry=True, report=lambda name, progress: names.append(name)
    )
    assert given == [
        ("layers-t1", range(3), tmp_path / "layers-t1", tmp_path / "trained", 2, True),
        ("layers-f2", range(5), tmp_path / "layers-f2", tmp_path / "trained", 2, True),
    ]
    assert names == ["layers-t1", "layers-f2"]
    assert {claim: verdict.outcome for claim, verdict in study.verdicts.items()} == {
        "F2": "reproduced", "T1": "reproduced",
    }  # fmt: skip
    assert study.results == {}
    assert {path.name for path in (tmp_path / "verdicts").iterdir()} == {"F2.parquet", "T1.parquet"}
    drawn = layers_pictures.draw(study, tmp_path / "pictures")
    assert [path.name for path in drawn] == ["T1.png", "F2.png"]
    assert all(path.stat().st_size > 5000 for path in drawn)
    given.clear()
    layers.run(tmp_path, claims=["F2"], seeds=range(10, 16))
    assert given == [("layers-f2", range(10, 16), tmp_path / "layers-f2", tmp_path / "trained", 1, False)]


def test_the_sweeps_are_the_paper_s(monkeypatch: pytest.MonkeyPatch) -> None:
    width, treated = width_sweep(), treatment_sweep()
    assert len(width.configs) == 2 * 2 * 6 * 5
    assert {(c.data, c.epochs) for c in width.configs} == {("digits", 400), ("fashion-mnist", 60)}
    assert {c.width for c in width.configs} == set(WIDTHS)
    assert len(treated.configs) == 3 * 2 * 3
    assert {(c.training, c.data, c.seed) for c in treated.configs} == {
        (training, data, seed)
        for training in ("normal", "frozen", "removed")
        for data in ("digits", "fashion-mnist")
        for seed in range(3)
    }


def test_rows_of_the_sweeps_on_tiny_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_sweeps, "load", lambda data, **options: small())
    rows = measure_width(Width(width=8, epochs=1), tmp_path)
    assert set(rows.operation) == {"baseline", "re-initialize"}
    increases = layer_increases(rows.assign(data="digits", depth=3, width=16, seed=0, status="ok"))
    assert len(increases) == 1
    tables = []
    base = Treated(width=1 / 16, epochs=1)
    for config in (base, replace(base, training="frozen"), replace(base, training="removed")):
        table = measure_treated(config, tmp_path)
        tables.append(table.assign(data="digits", seed=0, training=config.training, status="ok"))
    whole = treated_table(pd.concat(tables, ignore_index=True))
    asked = whole[whole.groups.isin([ALL_BUT_FIRST, NONE])]
    assert sorted(asked.treatment) == ["frozen", "individual", "joint", "normal", "removed"]
    normal = float(whole[whole.treatment == "normal"].error.iloc[0])
    assert whole.delta_error.tolist() == [error - normal for error in whole.error]
    manifests = [read_json(path) for path in tmp_path.glob("*/manifest.json")]
    configs = [manifest["config"] for manifest in manifests if manifest["model"].endswith("ResNet")]
    frozen = sorted(config["frozen"] for config in configs)
    assert frozen[:2] == [[], []]
    assert frozen[2]
    assert not [name for name in frozen[2] if name.endswith("block1")]
    assert frozen[2] == max(config["removed"] for config in configs)
    assert len(frozen[2]) == 6  # two of three blocks in each of three stages


def test_failed_runs_keep_their_place_in_table_1() -> None:
    frame = pd.DataFrame(
        {
            "data": ["digits", "digits", "fashion-mnist"],
            "seed": [0, 0, 0],
            "training": ["normal", "frozen", "removed"],
            "status": ["ok", "diverged", "ok"],
            "treatment": ["normal", None, "removed"],
            "groups": ["none", None, ALL_BUT_FIRST],
            "error": [0.25, None, 0.5],
        }
    )
    table = treated_table(frame)
    assert table.treatment.tolist() == ["normal", "frozen", "removed"]
    assert table.groups.tolist() == ["none", ALL_BUT_FIRST, ALL_BUT_FIRST]
    assert table.delta_error.iloc[0] == 0.0
    assert table.delta_error.iloc[1:].isna().all()  # no error; no normal net to compare with
    lost = treated_table(frame.drop(columns=["treatment", "groups", "error"]).assign(status="diverged"))
    assert lost.treatment.tolist() == ["normal", "frozen", "removed"]
    assert lost.error.isna().all()
    with pytest.raises(NetopsyError, match="table 1: expected one normal net of each data set and seed; got several"):
        treated_table(pd.concat([frame, frame], ignore_index=True))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "cluster"}, "preset: expected one of 'laptop', 'paper'; got 'cluster'"),
        ({"claims": ["F99"]}, "claim: expected one of 'F1a', 'F4', 'F6', 'F2', 'T1', 'T2', 'F7', .*; got 'F99'"),
        ({"seeds": (0, 1)}, "seeds: expected at least 3 different ones for F1a; got 0, 1"),
        ({"claims": ["F2"], "seeds": (0, 1, 2)}, "seeds: expected at least 5 different ones for F2; got 0, 1, 2"),
        ({"claims": ["F1a", "T1"], "preset": "paper"}, "claim T1: expected the laptop preset, the only one it has"),
        ({"seeds": ()}, "seeds: expected at least 3 different ones for F1a; got "),
        ({"seeds": (0, 1, 1)}, "seeds: expected at least 3 different ones for F1a; got 0, 1, 1"),
    ],
)
def test_a_study_refuses_bad_options_before_any_work(
    options: Mapping[str, str | Sequence[int]],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(NetopsyError, match=message):
        layers.run(tmp_path / "study", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_claim_has_its_settings(preset: str) -> None:
    assert set(NEEDS) == set(CLAIMS)
    for needed in NEEDS.values():
        assert set(needed) <= set(PRESETS[preset])
    names = [setting.name for preset in PRESETS.values() for setting in preset.values()]
    assert len(set(names)) == len(names)  # run folders of two settings never meet


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_settings_are_complete(name: str) -> None:
    setting = PAPER[name]
    shape = (3, 32, 32) if name == "resnet" else (1, 28, 28)
    part = (torch.zeros(2, *shape), torch.tensor([0, 9]))
    model = setting.factory(Dataset(name="stand-in", train=part, test=part, classes=10))()
    config = setting.config(4)
    assert (config.epochs, config.batch_size, config.momentum, config.weight_decay) == (100, 128, 0.9, 0.0)
    assert (config.optimizer, config.lr_drops, config.lr_factor, config.seed) == ("sgd", (30, 60, 90), 0.2, 4)
    assert config.keys == (0, 1, 2, 3, 8, 40, 90, 100)
    assert config.augment == ("pad-crop-flip" if name == "resnet" else "none")
    assert replace(config, seed=0) == setting.config(0)
    sites = [site.name for site in find_sites(model, setting.sites)]
    groups = setting.groups(sites)
    if name == "resnet":
        assert sum("block" in site for site in sites) == 3 + 4 + 6 + 3  # ResNet-50
        assert sites[-1] == "classifier"
        assert len(groups[ALL_BUT_FIRST]) == 12
        assert sum(value.numel() for value in model.parameters()) > 23e6
    else:
        depth = int(name.removeprefix("fcn"))
        assert sites == [*(f"hidden.{i}" for i in range(depth)), "classifier"]
        assert model.hidden[1].weight.shape == (256, 256)  # type: ignore[union-attr, index]
        if depth == 5:
            assert {"layers 2, 3, 4, 5, 6", "layers 2, 4, 6"} <= set(groups)


def test_a_result_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"status": "ok", "setting": "fcn3", "seed": [0, 1, 2], "result": "probed/robustness-0"})
    monkeypatch.setattr(layers, "run_sweep", lambda *args, **options: rows)
    with pytest.raises(NetopsyError, match=r"fcn3: expected its result in .*robustness-0; it is gone, while"):
        layers.run(tmp_path, claims=("F1a",))
