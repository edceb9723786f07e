"""The sensitivity study: statistics on rows made by hand, measurements at a toy's size, runs with their pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset, subset
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.probes.paths import translations
from netopsy.probes.plane import Plane
from netopsy.probes.transitions import transitions
from netopsy.studies import (
    sensitivity,
    sensitivity_pictures,
    sensitivity_population,
    sensitivity_settings,
    sensitivity_sweeps,
)
from netopsy.studies.claims import measured
from netopsy.studies.running import Paper
from netopsy.studies.sensitivity import judged
from netopsy.studies.sensitivity_claims import within
from netopsy.studies.sensitivity_population import (
    AUGMENTED,
    DESIGNS,
    FULL_BATCH,
    RANDOM_LABELS,
    TRUE,
    Design,
    Population,
    mean_transitions,
    paired_sweep,
    random_sweep,
)
from netopsy.studies.sensitivity_settings import Images, Net, Optimizer, Range, epochs_of, momentum_fit, until_fitted
from netopsy.studies.sensitivity_statistics import (
    anchor_ratio,
    better,
    correlation,
    counted,
    coupled,
    explained,
    fitted,
    log_level,
    paired,
    pooled,
    rise,
    spearman,
    tiniest,
    top_errors,
)

IMAGES = Images(name="fashion-mnist", train=40, test=60)
FIT = until_fitted(momentum_fit(60, batch_size=8, lr=0.05))
SMALL = Range(
    images=IMAGES,
    widths=(24,),
    depths=(2,),
    activations=("relu",),
    optimizers=(Optimizer(name="adam", momentum=0.9, rates=(0.01, 0.005)),),
    fit=replace(FIT, epochs=200),
)
TOY = Design(
    range=SMALL, batches=(8,), scales=(1.0, 1.5), populations=1, base=Net(images=IMAGES, depth=1, width=24, fit=FIT),
    sizes=((1, 24),), pad=1, rounds=20, points=20,
)  # fmt: skip


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits in the place of Fashion-MNIST, and networks that train in a moment."""
    small: Dataset = subset(digits(), train=200, test=200)
    monkeypatch.setattr(sensitivity_settings, "_SOURCES", {"fashion-mnist": lambda: small})
    net = Net(images=IMAGES, depth=2, width=24, fit=replace(FIT, epochs=200))
    monkeypatch.setattr(sensitivity_sweeps, "ANGLES", 24)
    monkeypatch.setattr(sensitivity_sweeps, "ELLIPSES", {"laptop": net})
    slices = replace(net, activation="relu6", fit=replace(momentum_fit(3, batch_size=8), augment="wrap-flip-turn"))
    monkeypatch.setattr(sensitivity_sweeps, "SLICES", {"laptop": slices})
    monkeypatch.setattr(sensitivity_sweeps, "LINES", 3)
    monkeypatch.setattr(sensitivity_sweeps, "BY_POINT", {"laptop": SMALL})
    monkeypatch.setattr(sensitivity_sweeps, "BOUNDED", {"laptop": SMALL})
    monkeypatch.setattr(sensitivity_population, "DESIGNS", {"laptop": TOY})


# Statistics, on rows made by hand -------------------------------------------------------------------------------


def nets(columns: Mapping[str, list[Any]], seed: int = 0, **more: Any) -> pd.DataFrame:
    """Networks of one seed."""
    rows = pd.DataFrame(columns)
    return rows.assign(**{"seed": seed, "status": "ok", "fitted": True, "line": "random", "key": "k", **more})


def test_a_correlation_is_over_a_seeds_networks_that_fit() -> None:
    first = nets({"jacobian": [1.0, 2, 3, 4, 5, 6, 7, 8, 0], "gap": [1.0, 2, 3, 4, 5, 6, 7, 8, 99]}, 0)
    first.loc[8, "fitted"] = False  # with it ρ would not be 1
    second = nets({"jacobian": [1.0, 2], "gap": [1.0, 2]}, 1)
    third = nets({"jacobian": list(range(8)), "gap": list(range(8, 0, -1))}, 2)
    failed = pd.DataFrame([{"status": "exception"}])
    rows = pd.concat([first, second, third, failed], ignore_index=True)
    assert correlation(rows, "jacobian", "gap").tolist() == pytest.approx([1.0, math.nan, -1.0], nan_ok=True)
    assert len(fitted(rows)) == 18
    assert counted(rows).startswith("18 of 20 networks have")


def test_networks_of_one_population_are_drawn_together() -> None:
    """Two populations that disagree: one alone gives ρ = 1 or -1, the interval holds both."""
    up = nets({"x": list(range(8)), "gap": list(range(8))}, key="a")
    down = nets({"x": list(range(8)), "gap": list(range(8, 0, -1))}, key="b")
    rho, low, high = pooled(pd.concat([up, down], ignore_index=True), "x", "gap", resamples=50)
    assert (low, high) == pytest.approx((-1.0, 1.0))
    assert -0.5 < rho < 0.5
    assert all(map(math.isnan, pooled(up.assign(fitted=False), "x", "gap", resamples=3)))
    assert math.isnan(spearman(up.assign(x=1.0), "x", "gap"))


def pairs() -> pd.DataFrame:
    """Random labels: gap +0.2 at both sizes; the Jacobian norm twice at one, half at the other."""
    sizes: dict[str, list[Any]] = {"net.depth": [1, 1, 1], "net.width": [8, 16, 32], "transitions": [10.0, 20, 5]}
    true = nets({**sizes, "gap": [0.1, 0.1, 0.1], "jacobian": [1.0, 1, 1], "test_error": [0.1, 0.1, 0.1]}, line=TRUE)
    other = nets({**sizes, "gap": [0.3, 0.3, 0.9], "jacobian": [2.0, 0.5, 9], "test_error": [0.05, 0.3, 0.9]})
    other.loc[2, "fitted"] = False  # its pair does not count
    return pd.concat([true, other.assign(line=RANDOM_LABELS), other.assign(line=AUGMENTED)], ignore_index=True)


def test_pairs_share_seed_and_size() -> None:
    rows = pairs()
    assert len(paired(rows, RANDOM_LABELS)) == 2
    assert rise(rows, RANDOM_LABELS, "gap").tolist() == pytest.approx([0.2])
    assert rise(rows, RANDOM_LABELS, "jacobian", log=True).tolist() == pytest.approx([0.0])
    assert coupled(rows, RANDOM_LABELS, "jacobian").tolist() == [0.5]
    assert better(rows, RANDOM_LABELS).tolist() == [0.5]


def test_augmented_networks_need_not_fit() -> None:
    assert len(paired(pairs(), AUGMENTED)) == 3
    assert counted(pairs()).startswith("5 of 6 networks have")


def test_a_ratio_is_near_the_anchors_over_between_them() -> None:
    angles = [2 * math.pi * step / 24 for step in range(24)]
    near = [any(abs(a - b) < 0.3 for b in (math.pi / 3, math.pi, 5 * math.pi / 3)) for a in angles]
    rows = pd.DataFrame({"angle": angles, "value": [1.0 if n else 4.0 for n in near]})
    rows = rows.assign(seed=3, kind="same class", quantity="jacobian", status="ok", fitted=True)
    assert anchor_ratio(rows, "jacobian", "same class").to_dict() == pytest.approx({3: 0.25})
    mean = sum(1.0 if n else 4.0 for n in near) / 24
    assert log_level(rows, "jacobian", "same class").to_dict() == pytest.approx({3: math.log(mean)})


def points(norm: list[float], correct: list[bool], loss: list[float] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"norm": norm, "correct": correct, "point_loss": loss or [0.0] * len(norm)})


def test_what_is_said_of_points() -> None:
    norms = [float(number) for number in range(200)]
    assert top_errors(points(norms, [number != 199 for number in range(200)])) == 0.5  # the top 2 of 200
    assert tiniest(points([10.0, 1000.0, 10.0, 0.1], [True, True, True, False])) == pytest.approx(2.0)
    assert math.isnan(tiniest(points([1.0, 2.0], [True, True])))
    losses = [float(number) for number in range(200)]
    steps = points([math.exp(number // 10) for number in range(200)], [True] * 200, losses)
    assert explained(steps) == pytest.approx(1.0)
    alike = points([math.exp(number % 10) for number in range(200)], [True] * 200, losses)
    assert explained(alike) == pytest.approx(0.0)


def test_a_share_within_bounds_has_its_slack() -> None:
    table = pd.DataFrame({"low": [1.0, 1.0, 1.0, 1.0], "x": [1.0, 1.5, 2.5, 0.4], "high": [2.0, 2.0, 2.0, 2.0]})
    assert within(table, "low", "x", "high", 1.0) == 0.5
    assert within(table, "low", "x", "high", 2.0) == 0.75
    assert within(table, "low", "x", None, 1.0) == 0.75


# Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_every_claim_has_a_sweep(preset: str) -> None:
    assert sensitivity.SWEEPS.keys() == sensitivity.CLAIMS.keys()
    assert set(sensitivity.USUAL) <= sensitivity.CLAIMS.keys()
    for name, claim in sensitivity.CLAIMS.items():
        assert claim.id == f"sensitivity/{name}"
        assert len({part.name for part in claim.parts}) == len(claim.parts)
        sweep = sensitivity.SWEEPS[name](preset=preset, seeds=(3, 5))
        seeds = {getattr(config, "seed", None) for config in sweep.configs if not isinstance(config, Population)}
        seeds |= {m.seed for config in sweep.configs if isinstance(config, Population) for m in config.members}
        assert seeds == {3, 5}


def test_a_map_marks_where_codes_differ() -> None:
    """u = 0 is the only boundary: one pixel of each row lies to its left, none elsewhere."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.ReLU(), torch.nn.Linear(1, 2)).double()
    torch.nn.init.constant_(net[0].weight, 1.0)
    with torch.no_grad():
        net[0].weight[0, 1] = 0.0
    axes = torch.eye(2, dtype=torch.float64)
    plane = Plane(torch.zeros(2, dtype=torch.float64), axes[0], axes[1], torch.zeros(2, 2, dtype=torch.float64))
    found = sensitivity_sweeps.boundary_map(net, plane, 10)
    assert found.shape == (9, 9)
    assert found.sum(0).tolist() == [0, 0, 0, 0, 9, 0, 0, 0, 0]


def test_the_papers_own_sizes() -> None:
    ellipses, slices = sensitivity_settings.ELLIPSES["paper"], sensitivity_settings.SLICES["paper"]
    assert (ellipses.depth, ellipses.width, ellipses.activation, ellipses.images.name) == (20, 200, "relu", "mnist")
    assert (slices.depth, slices.width, slices.activation, slices.fit.augment) == (15, 300, "relu6", "wrap-flip-turn")
    assert (slices.fit.lr, slices.fit.momentum, slices.fit.batch_size) == (0.005, 0.9, 256)
    assert (slices.fit.lr_drops, slices.fit.lr_factor) == ((500, 1000), 0.1)
    assert epochs_of(2**18, 60_000, 256) * 235 >= 2**18 > (epochs_of(2**18, 60_000, 256) - 1) * 235
    small = DESIGNS["paper"].range
    assert len(small.widths) * len(small.depths) * len(small.activations) == DESIGNS["paper"].populations == 144


def test_there_are_two_hundred_networks_or_more_in_a_population_study() -> None:
    drawn = random_sweep(preset="laptop", seeds=range(sensitivity.CLAIMS["F5"].seeds))
    assert sum(len(config.members) for config in drawn.configs) == 320
    assert len({config.net for config in drawn.configs}) > 60
    more = random_sweep(preset="laptop", seeds=(0,)).configs
    assert drawn.configs[: len(more)] == more  # a seed's networks do not depend on the others


def test_pairs_differ_in_one_setting() -> None:
    found = paired_sweep(RANDOM_LABELS, AUGMENTED, FULL_BATCH, preset="laptop", seeds=(0, 1)).configs
    for size in DESIGNS["laptop"].sizes:
        own = {config.line: config for config in found if (config.net.depth, config.net.width) == size}
        base = own[TRUE].net
        assert own[RANDOM_LABELS].net == replace(base, fit=replace(base.fit, label_noise=1.0))
        assert own[AUGMENTED].net == replace(base, fit=replace(base.fit, augment="wrap-flip", pad=2))
        full = own[FULL_BATCH].net
        assert (full.fit.optimizer, full.fit.batch_size, full.depth, full.width) == ("lbfgs", 1000, *size)


def test_a_crop_is_the_center(toy: None) -> None:
    whole, cropped = Images(name="fashion-mnist").load(), Images(name="fashion-mnist", crop=4).load()
    assert cropped.train[0].shape[1:] == (1, 4, 4)
    center = whole.train[0][..., 2:6, 2:6].flatten(1).double()
    center = (center - center.mean(1, keepdim=True)) / center.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(cropped.train[0].flatten(1).double(), center, rtol=1e-5, atol=1e-5)


# Measurements ---------------------------------------------------------------------------------------------------


def test_transitions_are_those_of_the_probe() -> None:
    torch.manual_seed(0)
    model = fcn(inputs=(1, 5, 5), classes=3, depth=2, width=7, bias=False, init="he-normal").double()
    images = torch.randn(4, 1, 5, 5, dtype=torch.float64)
    counts = [transitions(model, translations(image)).total for image in images]
    assert mean_transitions(model, images) == sum(counts) / 4


def test_a_network_is_drawn_again_until_one_fits(toy: None, tmp_path: Path) -> None:
    hopeless = replace(SMALL, fit=replace(FIT, epochs=1, lr=1e-6), optimizers=(Optimizer(name="sgd", momentum=0.0,
                       rates=(1e-6,)),))  # fmt: skip
    with pytest.raises(NetopsyError, match=r"bounds, seed 0: expected one of 8 .* none had"):
        sensitivity_sweeps.measure_bounds(sensitivity_sweeps.Points(line="bounds", range=hopeless), tmp_path)


def test_random_labels_are_what_a_networks_error_is_of(toy: None, tmp_path: Path) -> None:
    """They are drawn once a seed: a network that fits them has a train error of 0 and a test error by chance."""
    wide = replace(TOY, sizes=((1, 64),), base=replace(TOY.base, fit=replace(FIT, epochs=200)))
    (config,) = [sensitivity_population._arm(wide, RANDOM_LABELS, (1, 64), (0,))]
    row = sensitivity_population.measure_population(config, tmp_path).iloc[0]
    assert row.fitted
    assert row.train_error == 0
    assert row.test_error > 0.6


# Runs -----------------------------------------------------------------------------------------------------------


def drawn(study: Any, folder: Path, *names: str) -> None:
    written = sensitivity_pictures.draw(study, folder)
    assert [path.name for path in written] == [f"{name}.png" for name in names]
    assert all(path.stat().st_size > 5_000 for path in written)


def small_paper() -> Paper:
    """The study, with two seeds a claim."""
    claims = {name: replace(claim, seeds=2) for name, claim in sensitivity.CLAIMS.items()}
    return Paper(claims=claims, sweeps=sensitivity.SWEEPS, usual=sensitivity.USUAL, verdict=judged)


def test_the_usual_claims_with_their_pictures(toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_paper().run(tmp_path)
    assert list(study.verdicts) == ["F2", "F3", "A11", "F6"]
    assert {verdict.outcome for verdict in study.verdicts.values()} <= {
        "reproduced", "not reproduced", "inconclusive", "not run",
    }  # fmt: skip
    assert study.verdicts["F2"].reason.startswith("2 of 2 networks have the whole train split right")
    assert set(study.tables["F2"].kind) == {"random", "different classes", "same class"}
    assert len(study.tables["F6"]) == 2 * 2 * 60
    assert study.tables["F3"].groupby("seed").size().tolist() == [6, 6]
    drawn(study, tmp_path / "pictures", "F2", "F3", "A11", "F6")


def norm_of_weights(model: nn.Module, images: Tensor) -> float:
    """In the place of transitions, which are tested above and take an export a network."""
    return float(torch.cat([value.detach().flatten() for value in model.parameters()]).norm())


def test_populations_with_their_pictures(toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity_population, "mean_transitions", norm_of_weights)
    study = small_paper().run(tmp_path, claims=["F5", "F1", "F4d"])
    rows = study.tables["F5"]
    assert len(rows) == 2 * 4
    assert sorted(rows.seed.unique()) == [0, 1]
    assert "bootstrap over populations" in str(study.verdicts["F5"])
    assert set(study.tables["F4d"].line) == {TRUE, FULL_BATCH}
    gap = study.verdicts["F4d"].table.set_index("part").loc["larger gap"]
    own = paired(study.tables["F4d"], FULL_BATCH)
    assert gap["mean"] == pytest.approx((own.gap - own.gap_true).groupby(own.seed).mean().mean())
    drawn(study, tmp_path / "pictures", "F5", "F1", "F4d")


def test_without_enough_networks_that_fit_there_is_no_verdict() -> None:
    claim = sensitivity.CLAIMS["F4a"]
    rows = pairs()
    verdict = judged(claim, rows)
    assert verdict.outcome == "not run"
    assert "Expected 4 seeds with such networks; got 1. 5 of 6 networks" in verdict.reason
    none = judged(claim, rows.assign(fitted=False))
    assert none.outcome == "not run"
    assert none.reason.startswith("No network has the whole train split right. 0 of 6")


def test_a_seed_without_networks_that_fit_is_left_out() -> None:
    rows = pd.concat([pairs().assign(seed=seed, fitted=seed != 4) for seed in range(5)])
    verdict = judged(sensitivity.CLAIMS["F4a"], rows)
    assert set(verdict.table.n) == {4}
    assert verdict.claim.seeds == 5
    assert [len(values) for values in measured(sensitivity.CLAIMS["F4a"], rows).values()] == [5] * 5
