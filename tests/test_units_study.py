"""The units study: its statistics in closed form, its nets, and a whole run on tiny ones."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset, subset
from netopsy.data.digits import digits
from netopsy.studies import units, units_pictures, units_sweeps
from netopsy.studies.claims import Measured, judge, lines_of, measured
from netopsy.studies.units_claims import HE, LOW, any_grows, flat, grows
from netopsy.studies.units_constructions import ETAS, S2, Construction, measure_constructions
from netopsy.studies.units_constructions import measure as measure_s2
from netopsy.studies.units_settings import MLP, Preset
from netopsy.studies.units_statistics import (
    agreement,
    depth_correlation,
    ends_over_middle,
    level,
    shift,
    trend,
    turn,
)
from netopsy.studies.units_sweeps import INITIAL, TRAINED, Line, Point, lines, measure_point

SITES = ("a", "b", "c")


def table(value: Any, *, names: tuple[str, ...] = ("one", "two"), seeds: int = 3) -> pd.DataFrame:
    """Rows of nets of widths 1 and 2 whose `area` is `value(line, checkpoint, width, site, seed)`."""
    rows = [
        {"line": line, "checkpoint": checkpoint, "width": width, "site": site, "seed": seed, "status": "ok",
         "area": value(line, checkpoint, width, site, seed)}
        for line in names for seed in range(seeds) for width in (1.0, 2.0)
        for checkpoint in (INITIAL, TRAINED) for site in SITES
    ]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # their order says nothing


def test_a_trend_is_the_widest_net_minus_the_narrowest_mean_over_layers() -> None:
    slopes = {"one": 0.5, "two": 0.1}

    def value(line: str, checkpoint: str, width: float, site: str, seed: int) -> float:
        return (checkpoint == TRAINED) * width * slopes[line] + SITES.index(site) + 0.01 * seed * width

    rows = table(value)
    assert level(rows, "one", "robustness").loc[2].tolist() == pytest.approx([1.52, 2.04])
    assert trend(rows, "one", "robustness").tolist() == pytest.approx([0.5, 0.51, 0.52])
    assert trend(rows, "one", "robustness", checkpoint=INITIAL).tolist() == pytest.approx([0.0, 0.01, 0.02])
    assert trend(rows, "one", "robustness", sites=["c"]).tolist() == pytest.approx([0.5, 0.51, 0.52])
    assert turn(rows, "one", "two", "robustness").tolist() == pytest.approx([0.4] * 3)
    assert shift(rows, "one", "two", "robustness").tolist() == pytest.approx([0.6] * 3)  # 0.4 · (1 + 2) / 2


def test_statistics_of_layers() -> None:
    heights = {"a": 3.0, "b": 1.0, "c": 5.0}
    signs = {"a": 1.0, "b": 1.0, "c": -0.5}

    def value(line: str, checkpoint: str, width: float, site: str, seed: int) -> float:
        return heights[site] + 0.1 * signs[site] * width

    rows = table(value).sort_values("site", kind="stable")
    assert agreement(rows, "one", "robustness").tolist() == pytest.approx([2 / 3] * 3)
    assert ends_over_middle(rows, "one", "robustness").tolist() == pytest.approx([3 - 0.075 * 1.5] * 3)
    assert depth_correlation(rows, "one", "robustness").tolist() == pytest.approx([0.5] * 3)


def test_a_net_that_failed_leaves_nan_in_its_seed_s_place() -> None:
    rows = table(lambda line, checkpoint, width, site, seed: width)
    lost = (rows.line == "one") & (rows.seed == 1) & (rows.width == 2)
    failed = rows[lost].head(1).assign(checkpoint=None, site=None, area=None, status="diverged")
    rows = pd.concat([rows[~lost], failed])
    values = trend(rows, "one", "robustness")
    assert values.index.tolist() == [0, 1, 2]
    assert [math.isnan(value) for value in values] == [False, True, False]
    assert shift(rows, "two", "one", "robustness").isna().tolist() == [False, True, False]
    claim = replace(units.CLAIMS["F2"], parts=(replace(grows(HE, "robustness"), lines=("one",)),))
    part = claim.parts[0]
    assert judge(claim, {part.name: values.tolist()}).outcome == "inconclusive"


@pytest.mark.parametrize(("heights", "outcome"), [
    ((0.2, 0.0), "reproduced"), ((0.0, 0.3), "reproduced"), ((0.0, 0.0), "not reproduced"),
    ((0.06, 0.0), "inconclusive"),
])  # fmt: skip
def test_of_a_group_one_part_is_enough(heights: tuple[float, float], outcome: str) -> None:
    parts = any_grows("one", ("robustness", "compressibility"))
    claim = replace(units.CLAIMS["F2"], parts=parts)
    noise = (-0.01, 0.0, 0.01)
    values = {part.name: [height + x for x in noise] for part, height in zip(parts, heights, strict=True)}
    assert judge(claim, values).outcome == outcome


def test_every_claim_is_measured_on_lines_that_there_are() -> None:
    for preset in ("laptop", "paper"):
        known = lines(preset)
        for name, claim in units.CLAIMS.items():
            names = [part.name for part in claim.parts]
            assert len(set(names)) == len(names), name
            assert name == "S2" or all(isinstance(part, Measured) for part in claim.parts)
            assert set(lines_of(claim)) <= set(known), name
            sweep = units_sweeps.width_sweep(lines_of(claim) or list(known), preset=preset, seeds=(0, 1, 2))
            assert len({*sweep.configs}) == len(sweep.configs)


def fake(name: str, size: int = 28, channels: int = 1) -> Dataset:
    """Images of a size by repeating those of digits."""
    small = subset(digits(), train=40, test=20)
    pair = [(x[:, :, :1, :1].expand(-1, channels, size, size).contiguous(), y) for x, y in (small.train, small.test)]
    return Dataset(name=name, train=pair[0], test=pair[1], classes=10)


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_every_line_s_net_is_what_its_name_says(preset: Preset) -> None:
    images = fake("cifar-10", 32, 3) if preset == "paper" else fake("fashion-mnist")
    for name, line in lines(preset).items():
        data = images if line.net.model != "mlp" else line.net.load(0) if line.net.data == "gaussian-10" else None
        recipe = line.net.recipe(3)
        assert recipe.seed == 3
        assert line.widths == tuple(sorted(line.widths))
        assert ("random labels" in name) == (recipe.label_noise == 1.0)
        assert ("dropout" in name or "all three" in name) == (line.net.dropout > 0)
        assert not (recipe.label_noise and recipe.patience)
        if "x0.25" in name or "x4" in name:
            factor = 0.25 if "x0.25" in name else 4.0
            plain = lines(preset)[name.split(",")[0]].net.fit
            assert (recipe.lr, recipe.batch_size) == (plain.lr * factor, plain.batch_size * factor)
        if data is not None:
            model = line.net.factory(data, 0.25)()
            assert model(data.train[0][:2]).shape == (2, data.classes)


def test_a_single_layer_s_width_is_refused_where_there_is_none() -> None:
    with pytest.raises(NetopsyError, match="layer: expected '' for mlp, which has no single widths; got 'conv1'"):
        replace(MLP, layer="conv1").factory(MLP.load(0), 1.0)


TINY = replace(MLP, train=60, test=60, ablated=30, fit=replace(MLP.fit, epochs=2))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: Line(net=replace(TINY, init=lines("laptop")[name].net.init), widths=(0.25, 0.5)) for name in LOW}
    monkeypatch.setattr(units_sweeps, "lines", lambda preset: few)


def test_what_is_measured_of_a_net(tmp_path: Path) -> None:
    point = Point(line="x", net=TINY, width=0.25, seed=4)
    rows = measure_point(point, tmp_path)
    assert rows.checkpoint.tolist() == [INITIAL, TRAINED]
    assert rows.site.tolist() == ["activation.0"] * 2
    assert rows.units.tolist() == [32, 32]
    assert rows.area.tolist() == pytest.approx(rows.area_all.tolist())  # of one layer, the same
    assert rows.area[0] != rows.area[1]
    assert ((rows.r99 > 0) & (rows.r99 <= 1)).all()
    assert rows.train_accuracy.notna().tolist() == [False, True]
    data = TINY.load(4)
    assert rows.accuracy[1] * len(data.test[1]) == pytest.approx(round(rows.accuracy[1] * len(data.test[1])))
    pd.testing.assert_frame_equal(measure_point(point, tmp_path).drop(columns="result"), rows.drop(columns="result"))


@pytest.mark.usefixtures("tiny")
def test_a_whole_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = units.run(tmp_path, claims=["C6"], seeds=(0, 1, 2, 3, 4))
    verdict = study.verdicts["C6"]
    assert set(verdict.table.n) == {5}
    assert (tmp_path / "verdicts" / "C6.parquet").is_file()
    rows = study.tables["C6"]
    part = verdict.table[verdict.table.part == f"accuracy does not grow, {LOW[0]}"].iloc[0]
    of = rows[(rows.line == LOW[0]) & (rows.checkpoint == TRAINED)].pivot(
        index="seed", columns="width", values="accuracy"
    )
    assert part["values"] == pytest.approx((of[0.5] - of[0.25]).tolist())
    assert measured(units.CLAIMS["C6"], rows)[part.part] == part["values"]

    drawn = {path.name for path in units_pictures.draw(study, tmp_path / "pictures")}
    assert drawn == {"C6-width.png", "C6-shares.png", "C6-curves.png", "C6-pairs.png"}

    def trained(*args: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(units_sweeps, "trained", trained)
    again = units.run(tmp_path, claims=["C6"], seeds=(0, 1, 2, 3, 4))
    assert again.verdicts["C6"].outcome == verdict.outcome


def test_the_constructions(tmp_path: Path) -> None:
    rows = measure_constructions(Construction(width=8, epochs=1, orders=1), tmp_path)
    assert len(rows) == 4 + len(ETAS)
    table = rows.set_index("network")
    assert table.loc["duplicated", "similar units"] >= table.loc["small", "similar units"] + 0.9
    assert table.loc["silent units", "similar units"] == table.loc["small", "similar units"]


def test_the_constructions_statistics() -> None:
    small = {"robustness": 0.5, "compressibility": 0.5, "similar units": 1.0}
    twins = {"robustness": 0.6, "compressibility": 0.7, "similar units": 3.0}
    wide = {
        "small": small,
        "duplicated": twins,
        **{f"counterweighted, eta {eta:g}": {**twins, "robustness": 0.6 - 0.1 * eta} for eta in ETAS},
        "silent units": {"robustness": 0.5, "compressibility": 0.7, "similar units": 1.0},
        "blocked units": {"robustness": 0.5, "compressibility": 0.4, "similar units": 0.5},
    }
    rows = pd.DataFrame([{"seed": seed, "network": name} | row for seed in range(5) for name, row in wide.items()])
    values = measure_s2(rows)
    assert values["counterweights, robustness falls"] == pytest.approx([-0.05] * 5)
    assert values["blocked units, similar units not more"] == [-0.5] * 5
    assert judge(S2, values).outcome == "reproduced"
    worse = rows.assign(robustness=rows.robustness.where(rows.network != "silent units", 0.7))
    assert judge(S2, measure_s2(worse)).outcome == "not reproduced"


@pytest.mark.usefixtures("unchecked")
def test_input_that_cannot_give_a_verdict(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"claim: expected one of 'F1'.*got 'F99'"):
        units.run(tmp_path, claims=["F99"])
    with pytest.raises(NetopsyError, match="seeds: expected at least 5 different ones for C6; got 0, 1, 2"):
        units.run(tmp_path, claims=["C6"], seeds=(0, 1, 2))
    with pytest.raises(NetopsyError, match="preset: expected one of 'laptop', 'paper'; got 'cloud'"):
        units.run(tmp_path, preset="cloud")  # type: ignore[arg-type]


@pytest.mark.usefixtures("tiny")
def test_where_all_nets_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {name: Line(net=replace(TINY, fit=replace(TINY.fit, lr=1e30)), widths=(0.25,)) for name in LOW}
    monkeypatch.setattr(units_sweeps, "lines", lambda preset: bad)
    with pytest.raises(NetopsyError, match=r"all of its networks failed.*diverged.*pass retry=True \(--retry\)"):
        units.run(tmp_path, claims=["C6"])


def test_flat_is_both_sides() -> None:
    assert [(part.direction, part.margin) for part in flat("x", "robustness")] == [("below", 0.05), ("above", -0.05)]


def test_every_claim_has_its_statistics() -> None:
    """Rows of every line, with the same trend everywhere: what grows is found to grow, lines do not differ."""
    sites = ("relu1", "relu2", "relu3", "relu4")
    names = [line for claim in units.CLAIMS.values() for line in lines_of(claim)]
    rows = pd.DataFrame(
        [
            {"line": line, "seed": seed, "width": width, "checkpoint": TRAINED, "site": site, "status": "ok",
             "area": 0.5 + 0.05 * width, "compressibility": 0.4 + 0.1 * width, "similar_per_unit": 4 * width,
             "similar_share": 0.3 if site in ("relu1", "relu4") else 0.1, "r99": 0.4 + 0.1 * width, "accuracy": 0.9}
            for line in dict.fromkeys(names) for seed in range(5) for width in (0.25, 2.0) for site in sites
        ]
    )  # fmt: skip
    for name, claim in units.CLAIMS.items():
        if name == "S2":
            continue
        values = measured(claim, rows)
        verdict = judge(claim, values)
        assert all(len(each) == 5 for each in values.values()), name
        assert verdict.table[~verdict.table.part.str.contains("depth")]["mean"].notna().all(), name
    assert judge(units.CLAIMS["F1"], measured(units.CLAIMS["F1"], rows)).outcome == "reproduced"
    assert judge(units.CLAIMS["C3"], measured(units.CLAIMS["C3"], rows)).outcome == "reproduced"
    assert judge(units.CLAIMS["C6"], measured(units.CLAIMS["C6"], rows)).outcome == "not reproduced"
    found = judge(units.CLAIMS["B2"], measured(units.CLAIMS["B2"], rows)).table.set_index("part")["mean"]
    assert found["ends above the middle"] == pytest.approx(0.2)
