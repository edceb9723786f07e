"""The criticality study: its statistics in closed form, its nets, and what is measured of tiny ones."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset, subset
from netopsy.data.digits import digits
from netopsy.probes.joint_criticality import joint_criticality
from netopsy.studies import criticality, criticality_settings, criticality_sweeps
from netopsy.studies.claims import judge, measured
from netopsy.studies.criticality_claims import CLAIMS, SWEEPS
from netopsy.studies.criticality_settings import CORRUPTED, NETS, Net
from netopsy.studies.criticality_statistics import (
    FLOOR,
    ahead,
    covered,
    critical_count,
    fall,
    largest_bound,
    least_shrinking,
    log_ratio,
    robust_share,
    same_pattern,
)
from netopsy.studies.criticality_sweeps import (
    EPSILONS,
    Point,
    lines,
    measure_bounds,
    measure_criticality,
    measure_paths,
    measure_rewinding,
)
from netopsy.training.config import FitConfig

TINY = Net(
    model="fcn",
    data="fashion-mnist",
    train=200,
    test=100,
    width=1 / 16,
    measured=150,
    draws=2,
    fit=FitConfig(epochs=30, batch_size=20, lr=0.05, keep=(), target_error=0.05),
)
TWO = (0.05, 0.1)
"""Of the errors that criticality is measured at; each costs a search a module."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits in place of Fashion-MNIST."""

    def load(**_: Any) -> Dataset:
        return subset(digits(), train=1000, test=300)

    monkeypatch.setattr(criticality_settings, "fashion_mnist", load)


def rows(**columns: Any) -> pd.DataFrame:
    """Rows of two seeds of one line that are alike."""
    one = pd.DataFrame(columns).assign(line="net", status="ok")
    return pd.concat([one.assign(seed=0), one.assign(seed=1)], ignore_index=True).sample(frac=1, random_state=0)


def rewinding(train: list[float], test: list[float], loss: list[float]) -> pd.DataFrame:
    sites = [f"m{i}" for i in range(len(train))]
    return rows(
        site=[*sites, *sites],
        split=["train"] * len(sites) + ["test"] * len(sites),
        delta_error=[*train, *test],
        delta_loss=[*loss, *loss],
    )


def test_shares_and_counts_of_modules_are_those_of_the_increase_of_the_test_error() -> None:
    table = rewinding([0.9, 0.0, 0.0, 0.0], [0.8, 0.05, 0.06, -0.01], [5.0, 0.2, 0.3, 0.0])
    assert robust_share(table, "net").tolist() == [0.5, 0.5]
    assert critical_count(table, "net").tolist() == [1.0, 1.0]
    assert same_pattern(table, "net", "delta_loss").tolist() == pytest.approx([1.0, 1.0])
    assert same_pattern(table, "net", "delta_error").iloc[0] == pytest.approx(0.998, abs=2e-3)
    turned = rewinding([0.0, 0.8], [0.8, 0.0], [0.0, 1.0])
    assert same_pattern(turned, "net", "delta_error").tolist() == pytest.approx([-1.0, -1.0])
    assert same_pattern(rewinding([0.1, 0.1], [0.8, 0.0], [0.0, 1.0]), "net", "delta_error").isna().all()


def test_a_failed_network_leaves_no_value_for_its_seed() -> None:
    table = rewinding([0.9, 0.0], [0.8, 0.0], [5.0, 0.2])
    table.loc[table.seed == 1, "status"] = "failed"
    assert robust_share(table, "net").tolist()[0] == 0.5
    assert math.isnan(robust_share(table, "net").tolist()[1])


def paths(full: list[float], one: list[float], other: list[float]) -> pd.DataFrame:
    """Curves from alpha 1 to 0; `one` ends above `other`."""
    alphas = [1 - i / (len(full) - 1) for i in range(len(full))]
    parts = [
        pd.DataFrame({"site": site, "split": split, "alpha": alphas, "error": curve, "loss": [10 * e for e in curve]})
        for site, curve in (("full network", full), ("m1", one), ("m0", other))
        for split in ("train", "test")
    ]
    return rows(**{str(name): column.tolist() for name, column in pd.concat(parts).items()})


def test_curves_fall_by_their_deepest_fall_and_lie_above_each_other_on_average() -> None:
    table = paths([0.0, 0.5, 0.4, 0.9], [0.0, 0.1, 0.6, 0.5], [0.0, 0.0, 0.0, 0.0])
    assert fall(table, "net", "full network", "train", "error").tolist() == pytest.approx([0.1, 0.1])
    assert fall(table, "net", "critical", "test", "loss").tolist() == pytest.approx([1 / 6, 1 / 6])
    assert fall(table, "net", "spare", "test", "loss").tolist() == [0.0, 0.0]
    assert ahead(table, "net", "full network", "critical", "test", "error").tolist() == pytest.approx([0.2, 0.2])
    assert ahead(table, "net", "critical", "spare", "test", "loss").tolist() == pytest.approx([4.0, 4.0])


def test_criticality_is_compared_by_the_logarithm_of_its_sum() -> None:
    table = rows(site=["a", "b", "a", "b"], epsilon=[0.1, 0.1, 0.05, 0.05], mu=[2.0, 6.0, 0.0, 0.0])
    both = pd.concat([table, table.assign(line="other", mu=table.mu * 2)])
    assert log_ratio(both, "other", "net", 0.1).tolist() == pytest.approx([math.log(2)] * 2)
    assert log_ratio(both, "other", "net", 0.05).tolist() == [0.0, 0.0]  # both below the floor
    assert math.isnan(log_ratio(both.assign(mu=both.mu.where(both.site == "a")), "other", "net", 0.1).iloc[0])
    assert 0 < FLOOR < 0.1


def test_bounds_are_held_against_the_error_on_held_out_data() -> None:
    table = rows(m=[100, 200, 400], bound=[0.9, 0.6, 0.5], held_out_error=[0.55, 0.55, 0.55])
    assert covered(table, "net").tolist() == pytest.approx([2 / 3, 2 / 3])
    assert largest_bound(table, "net").tolist() == [0.5, 0.5]
    assert least_shrinking(table, "net").tolist() == pytest.approx([0.1, 0.1])
    assert (least_shrinking(table.assign(bound=1 / table.bound), "net") < 0).all()


def test_every_claim_has_its_lines_and_statistics() -> None:
    for preset in ("laptop", "paper"):
        known = lines(preset)
        for name, claim in CLAIMS.items():
            sweep = SWEEPS[name](preset=preset, seeds=range(claim.seeds))
            assert len(sweep.configs) == claim.seeds * len({config.line for config in sweep.configs})
            assert {config.line for config in sweep.configs} <= set(known)
            assert len({part.name for part in claim.parts}) == len(claim.parts)


def test_the_settings_stop_at_one_target_for_both_kinds_of_labels() -> None:
    for nets in NETS.values():
        for net in nets.values():
            assert net.fit.target_error is not None
            assert net.fit.target_error < min(EPSILONS)
            assert net.recipe(7).seed == 7


def test_a_fifth_of_the_labels_is_drawn_again_by_the_seed(small: None) -> None:
    wrong = replace(TINY, labels="corrupted")
    true, first, again, other = TINY.load(0), wrong.load(0), wrong.load(0), wrong.load(1)
    assert torch.equal(first.train[0], true.train[0])
    assert torch.equal(first.test[1], true.test[1])
    assert torch.equal(first.train[1], again.train[1])
    assert not torch.equal(first.train[1], other.train[1])
    changed = int((first.train[1] != true.train[1]).sum())
    assert 0.7 * CORRUPTED * 200 <= changed <= CORRUPTED * 200  # one in ten is drawn as it was


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny net is, once it is trained."""
    return tmp_path_factory.mktemp("runs")


def test_the_measures_of_a_tiny_net(small: None, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criticality_sweeps, "EPSILONS", TWO)
    config = Point(line="fcn", net=TINY)
    rewound, walked = measure_rewinding(config, runs), measure_paths(config, runs)
    assert sorted(set(rewound.site)) == ["classifier", "hidden.0", "hidden.1", "hidden.2"]
    ends = walked[(walked.alpha == 0) & (walked.split == "test")].set_index("site").error
    reset = rewound[rewound.split == "test"].set_index("site").error
    assert ends[reset.index].tolist() == pytest.approx(reset.tolist())  # rewinding is the path's end
    mu = measure_criticality(config, runs)
    assert sorted(set(mu.epsilon)) == list(TWO)
    assert list((runs / "criticality").glob("*/results.parquet"))


def test_the_bounds_of_a_tiny_net(small: None, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criticality_sweeps, "BOUND_DRAWS", 40)
    monkeypatch.setattr(criticality_sweeps, "BOUND_SAMPLES", 2)
    quick = partial(joint_criticality, evaluations=12)
    monkeypatch.setattr(criticality_sweeps, "joint_criticality", quick)
    found = measure_bounds(Point(line="fcn", net=TINY), runs)
    assert found.m.tolist() == [50, 100, 200]
    assert found.complexity.is_monotonic_increasing
    assert found.held_out_error.nunique() == 1
    assert (found.bound_kl <= found.bound).all()
    assert (found.bound > found.train_error).all()


def test_a_study_of_tiny_nets_is_judged_and_found_again(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(TINY, train=60, test=60, fit=replace(TINY.fit, epochs=2))
    monkeypatch.setattr(
        "netopsy.studies.criticality_sweeps.lines",
        lambda preset: {"fcn": short, "resnet18": replace(short, train=50)},
    )
    study = criticality.run(tmp_path, claims=("F2",), seeds=range(5))
    assert study.verdicts["F2"].claim == CLAIMS["F2"]
    assert study.verdicts["F2"].outcome == judge(CLAIMS["F2"], measured(CLAIMS["F2"], study.tables["F2"])).outcome
    assert (tmp_path / "verdicts" / "F2.parquet").is_file()
    names: list[str] = []
    again = criticality.run(
        tmp_path, claims=("F2",), seeds=range(5), report=lambda name, progress: names.append(str(progress))
    )
    pd.testing.assert_frame_equal(again.tables["F2"], study.tables["F2"])


def test_too_few_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match="at least 5 different ones for F4"):
        criticality.run(tmp_path, claims=("F4",), seeds=(0, 1))
    with pytest.raises(NetopsyError, match="claim"):
        criticality.run(tmp_path, claims=("F99",))
