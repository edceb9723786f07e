"""Claims of the criticality paper on single modules: statistics in closed form, what is measured of tiny networks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from netopsy.data.dataset import Dataset, subset
from netopsy.data.digits import digits
from netopsy.engine.evaluate import evaluate
from netopsy.network.rewind import rewound
from netopsy.probes.cka_result import CKAResult
from netopsy.probes.spectra_result import SpectraResult
from netopsy.probes.valley_result import ValleyResult
from netopsy.studies import criticality_module_sweeps, criticality_settings
from netopsy.studies.claims import Measured, judge, measured
from netopsy.studies.criticality_module_claims import (
    CLAIMS,
    SWEEPS,
    depth_trend,
    largest_step,
    last_cka,
    least_rise,
    narrowest,
    pattern,
    separation,
    spectral_excess,
)
from netopsy.studies.criticality_module_sweeps import (
    KEPT,
    NOISE_ALPHAS,
    NOISES,
    FixupNet,
    lines,
    measure_cka,
    measure_modules,
    measure_noise,
    measure_spectra,
    measure_valleys,
    rewinding,
    the_critical,
    the_robust,
    valley_width,
)
from netopsy.studies.criticality_settings import Net
from netopsy.studies.criticality_statistics import CRITICAL, ROBUST
from netopsy.studies.criticality_sweeps import Point, prepared
from netopsy.training.config import FitConfig

FIT = FitConfig(epochs=30, batch_size=20, lr=0.05, keep=(), target_error=0.03)
TINY = Net(model="fcn", data="fashion-mnist", train=400, test=200, width=1 / 8, measured=200, draws=2, fit=FIT)
KEPT_TINY = replace(TINY, fit=replace(FIT, keep=(1, 3)))
TINY_RESNET = replace(
    TINY, model="resnet18", train=200, width=1 / 16, init="glorot-uniform", fit=replace(FIT, epochs=3)
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits in place of Fashion-MNIST, and few points and examples."""

    def load(**_: Any) -> Dataset:
        return subset(digits(), train=1000, test=300)

    monkeypatch.setattr(criticality_settings, "fashion_mnist", load)
    monkeypatch.setattr(criticality_module_sweeps, "DRAWS", 2)
    monkeypatch.setattr(criticality_module_sweeps, "EXAMPLES", 60)


def rows(**columns: Any) -> pd.DataFrame:
    """Rows of three seeds of one line that are alike, in no order."""
    one = pd.DataFrame(columns).assign(line="net", status="ok")
    return pd.concat([one.assign(seed=seed) for seed in range(3)]).sample(frac=1, random_state=0, ignore_index=True)


def constant(values: pd.Series) -> float:
    """The value that all three seeds have."""
    assert values.index.tolist() == [0, 1, 2]
    assert values.nunique(dropna=False) == 1
    return float(values.iloc[0])


def test_the_width_of_a_valley_is_where_the_error_first_crosses_epsilon() -> None:
    sigmas = [0.0, 0.1, 0.2, 0.4]
    assert valley_width(sigmas, [0.0, 0.05, 0.15, 0.9], 0.1) == pytest.approx(0.15)
    assert valley_width(sigmas, [0.0, 0.0, 0.1, 0.1], 0.1) == 0.4
    assert valley_width(sigmas, [0.2, 0.0, 0.0, 0.0], 0.1) == 0.0
    assert valley_width(sigmas, [0.0, 0.3, 0.0, 0.0], 0.1) == pytest.approx(0.1 / 3)  # not the second valley behind


def test_a_valley_is_as_wide_as_its_narrowest_place() -> None:
    table = rows(
        role=["robust"] * 3 + ["critical"] * 3, alpha=[0.0, 0.5, 1.0] * 2, relative=[0.7, 0.6, 1.0, 0.0, 0.3, 1.0]
    )
    assert constant(narrowest(table, "net", "robust", at_start=True)) == 0.6
    assert constant(narrowest(table, "net", "critical", at_start=False)) == 0.3
    assert constant(narrowest(table, "net", "critical", at_start=True)) == 0.0
    none = rows(role=["robust", "critical"], alpha=[1.0, None], relative=[1.0, None])
    assert math.isnan(constant(narrowest(none, "net", "critical", at_start=False)))


def test_spectra_are_held_against_what_shapes_alone_make_different() -> None:
    kinds = [("critical-robust", "a", "b"), ("critical-robust", "a", "c"), ("robust-robust", "b", "c")]
    distances = {0: (0.5, 0.3, 0.2), 1: (0.6, 0.5, 0.2), 2: (0.5, 0.3, 0.9)}
    table = rows(
        **{
            name: [kind[place] for _ in distances for kind in kinds]
            for place, name in enumerate(("kind", "site", "other"))
        },
        epoch=[epoch for epoch in distances for _ in kinds],
        ks=[ks for three in distances.values() for ks in three],
    )
    assert constant(spectral_excess(table, "net")) == pytest.approx((0.1 + 0.2) / 2)
    alone = table[table.kind == "critical-robust"]
    assert math.isnan(constant(spectral_excess(alone, "net")))


def test_separation_is_the_share_of_pairs_in_order() -> None:
    rise = [0.9, 0.3, 0.1, 0.0, 0.05]
    assert constant(separation(rows(rise=rise, moved=[3.0, 1.0, 99.0, 2.0, 0.5]), "net")) == 0.75
    assert constant(separation(rows(rise=rise, moved=[1.0] * 5), "net")) == 0.5
    assert constant(separation(rows(rise=rise, moved=[0.1, 0.2, 0.0, 2.0, 0.5]), "net")) == 0.0
    assert math.isnan(constant(separation(rows(rise=[0.9, 0.3], moved=[1.0, 2.0]), "net")))


def test_patterns_are_compared_by_module() -> None:
    plain = rows(site=["a", "b", "c"], rise=[0.8, 0.0, 0.1])
    same = plain.assign(line="same", rise=plain.rise / 2 + 0.1)
    turned = plain.assign(line="turned", rise=-plain.rise)
    flat = plain.assign(line="flat", rise=0.0)
    table = pd.concat([plain, same, turned, flat])
    assert constant(pattern(table, "same", "net")) == pytest.approx(1.0)
    assert constant(pattern(table, "turned", "net")) == pytest.approx(-1.0)
    assert math.isnan(constant(pattern(table, "flat", "net")))
    failed = table.assign(status=table.status.where((table.line != "same") | (table.seed != 1), "diverged"))
    assert pattern(failed, "same", "net").isna().tolist() == [False, True, False]


def ckas(critical: list[float], robust: list[float]) -> pd.DataFrame:
    places = list(range(len(critical)))
    return rows(
        role=["critical"] * len(critical) + ["robust"] * len(robust),
        layer=[f"l{place}" for place in places] * 2,
        place=places * 2,
        cka=[*critical, *robust],
    )


def test_cka_falls_gradually_or_at_once() -> None:
    gradual = ckas([1.0, 0.9, 0.75, 0.6], [1.0, 1.0, 0.99, 0.98])
    assert constant(last_cka(gradual, "net", "robust")) == 0.98
    assert constant(last_cka(gradual, "net", "critical")) == 0.6
    assert constant(depth_trend(gradual, "net")) == -1.0
    assert constant(largest_step(gradual, "net")) == pytest.approx(0.15 / 0.4)
    abrupt = ckas([1.0, 0.3, 0.25, 0.2], [1.0] * 4)
    assert constant(largest_step(abrupt, "net")) == pytest.approx(0.7 / 0.8)
    assert constant(depth_trend(ckas([1.0, 0.5, 0.6, 0.7], [1.0] * 4), "net")) == 1.0
    short = ckas([1.0, 1.0, 0.5, 0.4], [1.0] * 4)
    assert math.isnan(constant(largest_step(short, "net")))
    assert math.isnan(constant(depth_trend(short, "net")))
    missing = ckas([1.0, math.nan, 0.5, 0.4], [1.0] * 4)
    assert math.isnan(constant(last_cka(missing, "net", "critical")))
    assert constant(last_cka(missing, "net", "robust")) == 1.0


def test_noise_helps_where_any_point_is_better() -> None:
    assert constant(least_rise(rows(rise=[0.1, 0.0, 0.4]), "net")) == 0.0
    assert constant(least_rise(rows(rise=[0.1, -0.03, 0.4]), "net")) == -0.03


def test_the_robust_module_is_the_one_that_moved_farthest() -> None:
    modules = pd.DataFrame({"site": list("abcd"), "rise": [0.5, 0.9, 0.0, ROBUST], "distance": [1.0, 2.0, 0.1, 0.5]})
    assert (the_critical(modules), the_robust(modules)) == ("b", "d")
    between = modules.assign(rise=(CRITICAL + ROBUST) / 2)
    assert (the_critical(between), the_robust(between)) == (None, None)


def test_lines_are_what_their_names_say() -> None:
    for preset in ("laptop", "paper"):
        known = lines(preset)
        for name, claim in CLAIMS.items():
            sweep = SWEEPS[name](preset=preset, seeds=range(claim.seeds))
            assert len({*sweep.configs}) == len(sweep.configs) == claim.seeds * len({c.line for c in sweep.configs})
            assert {config.line for config in sweep.configs} <= set(known)
            assert all(isinstance(part, Measured) for part in claim.parts)
            assert len({part.name for part in claim.parts}) == len(claim.parts)
        assert known["resnet18, Adam"].fit.optimizer == "adam"
        kept = known["resnet18, kept"].fit
        assert {*kept.keep} == {epoch for epoch in KEPT if epoch <= kept.epochs}


def test_fixup_starts_with_branches_of_zero() -> None:
    net = lines("laptop")["resnet18, Fixup"]
    assert isinstance(net, FixupNet)
    assert replace(net, width=1 / 16).width == 1 / 16
    data = TINY.load(0)
    model = replace(net, width=1 / 16).factory(data)()
    assert not model(data.train[0][:3]).any()
    assert lines("laptop")["resnet18"].factory(data)()(data.train[0][:3]).any()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests of this file train, so that each network is trained once."""
    return tmp_path_factory.mktemp("runs")


FCN = Point(line="fcn", net=TINY, seed=1)
RESNET = Point(line="resnet18", net=TINY_RESNET, seed=1)


def test_rewinding_is_what_a_rewound_network_gives(runs: Path) -> None:
    trajectory, data = prepared(FCN, runs)
    found = measure_modules(FCN, runs)
    assert found.site.tolist() == ["hidden.0", "hidden.1", "hidden.2", "classifier"]
    before = float(evaluate(trajectory.model(), data.test, (), metrics=("error",)).baseline["error"])
    start = trajectory.model(trajectory.initial)
    for row in found.itertuples():
        after = evaluate(rewound(trajectory, [str(row.site)]), data.test, (), metrics=("error",)).baseline["error"]
        assert row.rise == pytest.approx(float(after) - before, abs=1e-6)
        own, other = (model.get_submodule(str(row.site)) for model in (trajectory.model(), start))
        moved = (own.weight - other.weight).detach().double()
        assert row.moved == pytest.approx(float(torch.linalg.matrix_norm(moved, 2)), rel=1e-4)
        squares = moved.square().sum() + (own.bias - other.bias).detach().double().square().sum()
        assert row.distance == pytest.approx(float(squares.sqrt()))
    assert (found.rise >= CRITICAL).any()


def test_valleys_of_a_tiny_network(runs: Path) -> None:
    found = measure_valleys(FCN, runs)
    trajectory, data = prepared(FCN, runs)
    modules = rewinding(trajectory, data, FCN.seed)
    for role, site in (("critical", the_critical(modules)), ("robust", the_robust(modules))):
        part = found[found.role == role]
        if site is None:
            assert part.site.isna().all()
            continue
        assert set(part.site) == {site}
        assert part[part.alpha == 1].relative.item() == 1.0
        frame = ValleyResult.load(runs / part.result.iloc[0]).to_frame()
        middle = frame[frame.alpha == 0.5].sort_values("sigma")
        expected = valley_width(middle.sigma.tolist(), middle.error.tolist(), 0.1)
        assert part[part.alpha == 0.5].width.item() == pytest.approx(expected)


def test_spectra_of_a_tiny_network(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = replace(FCN, net=KEPT_TINY)
    trajectory, data = prepared(point, runs)
    modules = rewinding(trajectory, data, point.seed).set_index("site").rise.sort_values()
    monkeypatch.setattr(criticality_module_sweeps, "CRITICAL", modules.iloc[2])  # two of four modules
    monkeypatch.setattr(criticality_module_sweeps, "ROBUST", modules.iloc[1])
    found = measure_spectra(point, runs)
    assert set(found.epoch) == {0, 1, 3, trajectory.final}
    assert found[found.epoch == 0].kind.value_counts().to_dict() == {"critical-robust": 4, "robust-robust": 1}
    assert set(found.site[found.kind == "critical-robust"]) == set(modules.index[2:])
    assert set(found.other) == set(modules.index[:2])
    row = found.iloc[-1]
    values = SpectraResult.load(runs / row.result).values
    mine, other = (
        values[(values.site == site) & (values.checkpoint == row.epoch)].value.to_numpy()
        for site in (row.site, row.other)
    )
    grid = sorted([*(mine / mine.max()), *(other / other.max())])
    steps = [abs((mine / mine.max() <= x).mean() - (other / other.max() <= x).mean()) for x in grid]
    assert row.ks == pytest.approx(max(steps))


def test_cka_of_a_tiny_network(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criticality_module_sweeps, "CRITICAL", -1.0)  # whatever this network has learned
    monkeypatch.setattr(criticality_module_sweeps, "ROBUST", 1.0)
    found = measure_cka(RESNET, runs)
    assert set(found.role) == {"critical", "robust"}
    for _, part in found.groupby("role"):
        assert part.place.tolist() == list(range(9))
        assert part.layer.iloc[0] == "stem.relu"
        assert part.layer.iloc[-1] == "stage4.block2.relu2"
        matrix = CKAResult.load(runs / part.result.iloc[0]).matrix
        assert part.cka.iloc[4] == matrix.loc[part.layer.iloc[4], part.layer.iloc[4]]


def test_noise_around_a_tiny_network(runs: Path) -> None:
    found = measure_noise(FCN, runs)
    assert found.site.nunique() == 5
    assert len(found) == 5 * len(NOISE_ALPHAS) * len(NOISES)
    assert (found.sigma > 0).all()
    far = found[(found.site == "full network") & (found.alpha == 0)]
    assert (far.rise > 0.5).all()  # nothing of the trained network is left


def test_a_network_from_fixup_s_weights_is_trained_and_measured(runs: Path) -> None:
    net = lines("laptop")["resnet18, Fixup"]
    fit = replace(net.fit, epochs=1, lr_drops=(), batch_size=50)
    tiny = replace(net, train=200, test=100, shrink=1, width=1 / 16, fit=fit)
    found = measure_modules(Point(line="resnet18, Fixup", net=tiny), runs)
    assert len(found) == 21
    assert found.rise.notna().all()


def test_where_no_module_is_critical_there_is_a_row_without_numbers(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criticality_module_sweeps, "CRITICAL", 2.0)
    monkeypatch.setattr(criticality_module_sweeps, "ROBUST", -2.0)
    assert measure_valleys(FCN, runs).role.tolist() == ["critical", "robust"]
    assert measure_cka(FCN, runs).role.tolist() == ["critical", "robust"]
    assert measure_spectra(FCN, runs).kind.tolist() == ["none"]


def test_a_claim_is_judged_from_rows() -> None:
    table = ckas([1.0, 0.9, 0.75, 0.6], [1.0, 1.0, 0.99, 0.98]).assign(line="resnet18")
    assert judge(CLAIMS["F9"], measured(CLAIMS["F9"], table)).outcome == "reproduced"
    abrupt = ckas([1.0, 0.3, 0.25, 0.2], [1.0] * 4).assign(line="resnet18")
    assert judge(CLAIMS["F9"], measured(CLAIMS["F9"], abrupt)).outcome == "not reproduced"
