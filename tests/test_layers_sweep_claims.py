"""Figure 2 and Table 1 over tables where every statistic is known by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from netopsy._checks import NetopsyError
from netopsy.network.groups import residual_groups
from netopsy.studies.claims import Verdict, judge
from netopsy.studies.layers_sweep_claims import (
    ALL_BUT_FIRST,
    DEPTHS,
    EASY,
    F2,
    HARD,
    LEARNED,
    T1,
    WIDTHS,
    layer_increases,
    measure_f2,
    measure_t1,
)
from netopsy.studies.layers_sweep_pictures import draw_f2, draw_t1

Increase = Callable[[str, int, int, int], float]
BASE = {EASY: 0.05, HARD: 0.15}
TYPES = {"site": "string", "operation": "string", "status": "string", "checkpoint": "Int64"}


def sites(depth: int) -> list[str]:
    return [*(f"hidden.{i}" for i in range(depth)), "classifier"]


def f2_table(increase: Increase, seeds: int = 5) -> pd.DataFrame:
    """Layers beyond the first cost `increase(data, depth, place of the width, seed)`, in the mean; the first 0.7."""
    rows: list[tuple[Any, ...]] = []
    for data, depth, (place, width), seed in itertools.product((EASY, HARD), DEPTHS, enumerate(WIDTHS), range(seeds)):
        mean = increase(data, depth, place, seed)
        run, base = (data, depth, width, seed), BASE[data]
        rows.append((*run, None, "baseline", None, base, 0.0, "ok"))
        # The second costs 0.01 more than the mean, the last 0.01 less.
        costs = [0.7, mean + 0.01, *[mean] * (depth - 2), mean - 0.01]
        for site, cost in zip(sites(depth), costs, strict=True):
            rows.append((*run, site, "re-initialize", 0, base + cost, cost, "ok"))
            rows.append((*run, site, "re-initialize", 9, base + 0.9, 0.9, "ok"))
    names = ["data", "depth", "width", "seed", "site", "operation", "checkpoint", "error", "delta_error", "status"]
    return pd.DataFrame(rows, columns=names).astype(TYPES)


def falling(data: str, depth: int, place: int, seed: int) -> float:
    """From 0.5 (easy) or 0.3 (hard) by 0.08 or 0.04 a width; seeds and depths differ by constants."""
    start, step = {EASY: (0.5, 0.08), HARD: (0.3, 0.04)}[data]
    return start - step * place + 0.001 * seed + 0.01 * depth


def pick(frame: pd.DataFrame, **where: Any) -> pd.Series[bool]:
    """Rows with these values."""
    mask = pd.Series(True, index=frame.index)
    for name, value in where.items():
        mask &= frame[name].isin([value])
    return mask


def outcomes(verdict: Verdict) -> dict[str, str]:
    return dict(zip(verdict.table.part, verdict.table.outcome, strict=True))


def test_f2_by_hand() -> None:
    values = measure_f2(f2_table(falling))
    assert list(values) == [part.name for part in F2.parts]
    for depth in DEPTHS:
        assert values[f"fall, digits, {depth}xH"] == pytest.approx([0.4] * 5)
        assert values[f"fall, fashion-mnist, {depth}xH"] == pytest.approx([0.2] * 5)
        assert values[f"smaller on the harder set, {depth}xH"] == pytest.approx([0.2] * 5)
    assert (
        values["rank correlation, digits"] == values["rank correlation, fashion-mnist"] == pytest.approx([-1.0] * 5)
    )
    verdict = judge(F2, values)
    assert verdict.outcome == "reproduced"
    assert verdict.table.n.tolist() == [5] * 8


def test_a_run_s_increase_leaves_out_the_first_layer_and_later_checkpoints() -> None:
    runs = layer_increases(f2_table(falling)).set_index(["data", "depth", "width", "seed"]).increase
    assert len(runs) == 2 * 2 * 6 * 5
    assert runs[EASY, 3, 16, 0] == pytest.approx(0.53)
    assert runs[EASY, 5, 512, 4] == pytest.approx(0.5 - 0.4 + 0.004 + 0.05)
    assert runs[HARD, 5, 64, 1] == pytest.approx(0.3 - 0.08 + 0.001 + 0.05)


def test_the_rank_correlation_by_hand() -> None:
    # 3xH: the two widest nets trade places: 1 - 6 (1 + 1) / (6 · 35) = 0.943; 5xH: in order.
    def swapped(data: str, depth: int, place: int, seed: int) -> float:
        return falling(data, depth, {4: 5, 5: 4}.get(place, place) if depth == 3 else place, seed)

    values = measure_f2(f2_table(swapped))
    assert values["rank correlation, digits"] == pytest.approx([-(1 - 12 / 210 + 1) / 2] * 5)
    assert values["fall, digits, 3xH"] == pytest.approx([0.32] * 5)


def test_f2_flips() -> None:
    grows = judge(F2, measure_f2(f2_table(lambda d, n, place, s: falling(d, n, 5 - place, s))))
    assert grows.outcome == "not reproduced"
    assert set(outcomes(grows).values()) == {"not reproduced"}
    other = {EASY: HARD, HARD: EASY}  # the easy set falls as the hard one should
    sets = judge(F2, measure_f2(f2_table(lambda d, n, place, s: falling(other[d], n, place, s))))
    refused = [part for part, outcome in outcomes(sets).items() if outcome != "reproduced"]
    assert refused == ["smaller on the harder set, 3xH", "smaller on the harder set, 5xH"]
    wiggles = judge(F2, measure_f2(f2_table(lambda d, n, place, s: falling(d, n, (0, 4, 3, 2, 1, 5)[place], s))))
    refused = [part for part, outcome in outcomes(wiggles).items() if outcome != "reproduced"]
    assert refused == ["rank correlation, digits", "rank correlation, fashion-mnist"]


def test_a_net_without_an_effect_of_width_is_no_fall() -> None:
    values = measure_f2(f2_table(lambda d, n, place, s: 0.25))
    assert all(map(math.isnan, values["rank correlation, digits"]))
    verdict = outcomes(judge(F2, values))
    assert verdict["fall, digits, 3xH"] == "not reproduced"
    assert verdict["rank correlation, digits"] == "inconclusive"


def failed(frame: pd.DataFrame, **run: Any) -> pd.DataFrame:
    """The table with one run's rows replaced by a failure's."""
    row = {**run, "operation": "baseline", "status": "diverged"}
    lost = pd.DataFrame([row]).astype({"operation": "string", "status": "string"})
    return pd.concat([frame[~pick(frame, **run)], lost], ignore_index=True)


def unlearned(frame: pd.DataFrame, **run: Any) -> pd.DataFrame:
    return frame.assign(error=frame["error"].mask(pick(frame, **run), frame["error"] + LEARNED))


def without_a_layer(frame: pd.DataFrame, **run: Any) -> pd.DataFrame:
    return frame[~pick(frame, site="classifier", **run)]


def half_failed(frame: pd.DataFrame, **run: Any) -> pd.DataFrame:
    return frame.assign(status=frame["status"].mask(pick(frame, site="hidden.1", **run), "non-finite"))


def nameless(frame: pd.DataFrame, **run: Any) -> pd.DataFrame:
    return frame.assign(status=frame["status"].mask(pick(frame, **run), None))


def unmeasured(frame: pd.DataFrame, **run: Any) -> pd.DataFrame:
    return frame.assign(delta_error=frame["delta_error"].mask(pick(frame, site="hidden.1", **run)))


def gone(frame: pd.DataFrame, **run: Any) -> pd.DataFrame:
    return frame[~pick(frame, **run)]


@pytest.mark.parametrize(
    "lose", [failed, unlearned, without_a_layer, half_failed, nameless, unmeasured, gone], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("width", [16, 128])
def test_a_lost_run_is_a_nan_of_its_seed(lose: Callable[..., pd.DataFrame], width: int) -> None:
    values = measure_f2(lose(f2_table(falling), data=EASY, depth=3, width=width, seed=2))
    ends = ["fall, digits, 3xH", "smaller on the harder set, 3xH"] if width == 16 else []
    hit = [*ends, "rank correlation, digits"]
    for name, column in values.items():
        assert [math.isnan(x) for x in column] == [name in hit and seed == 2 for seed in range(5)]
    verdict = judge(F2, values)
    assert verdict.outcome == "inconclusive"
    assert [part for part, outcome in outcomes(verdict).items() if outcome == "inconclusive"] == [
        part.name for part in F2.parts if part.name in hit
    ]


def test_a_seed_of_which_every_run_failed_is_counted() -> None:
    frame = f2_table(falling, seeds=4)
    every = itertools.product((EASY, HARD), DEPTHS, WIDTHS)
    lost = pd.DataFrame(
        [(*run, 4, "diverged") for run in every], columns=["data", "depth", "width", "seed", "status"]
    )
    values = measure_f2(pd.concat([frame, lost], ignore_index=True))
    assert all(len(column) == 5 and math.isnan(column[4]) for column in values.values())
    assert judge(F2, values).outcome == "inconclusive"
    with pytest.raises(
        NetopsyError, match="layers/F2, fall, digits, 3xH: expected values of at least 5 seeds; got 4"
    ):
        judge(F2, measure_f2(frame))


def t1_table(easy: dict[str, float], hard: dict[str, float], seeds: int = 3) -> pd.DataFrame:
    """Errors by treatment, seed s 0.001 s higher in all of them; another group is there to be left out."""
    rows: list[tuple[Any, ...]] = []
    for (data, errors), seed in itertools.product(((EASY, easy), (HARD, hard)), range(seeds)):
        for treatment, error in errors.items():
            if treatment == "normal":
                rows.append((data, seed, "none", treatment, error + 0.001 * seed, "ok"))
            else:
                rows.append((data, seed, ALL_BUT_FIRST, treatment, error + 0.001 * seed, "ok"))
                rows.append((data, seed, "all but the first block, stages 2 and 3", treatment, 0.5, "ok"))
    frame = pd.DataFrame(rows, columns=["data", "seed", "groups", "treatment", "error", "status"])
    return frame.astype({"groups": "string", "treatment": "string", "status": "string"})


EASY_ERRORS = {"normal": 0.04, "individual": 0.06, "joint": 0.6, "frozen": 0.08, "removed": 0.05}
HARD_ERRORS = {"normal": 0.15, "individual": 0.20, "joint": 0.7, "frozen": 0.25, "removed": 0.22}


def test_the_group_is_that_of_residual_groups() -> None:
    assert ALL_BUT_FIRST in residual_groups([f"stage{i}.block{j}" for i in (1, 2, 3, 4) for j in (1, 2)])


def test_t1_by_hand() -> None:
    values = measure_t1(t1_table(EASY_ERRORS, HARD_ERRORS))
    assert list(values) == [part.name for part in T1.parts]
    expected = [0.02, 0.05, 0.52, 0.45, 0.01, 0.06]
    for (name, column), value in zip(values.items(), expected, strict=True):
        assert column == pytest.approx([value] * 3), name
    assert judge(T1, values).outcome == "reproduced"


@pytest.mark.parametrize(
    ("easy", "hard", "refused"),
    [
        ({"frozen": 0.06}, {}, "frozen against individual, digits"),  # a tie
        ({}, {"frozen": 0.19}, "frozen against individual, fashion-mnist"),
        ({"joint": 0.17}, {}, "joint reset against frozen, digits"),
        ({}, {"joint": 0.34}, "joint reset against frozen, fashion-mnist"),
        ({"removed": 0.061}, {"removed": 0.25}, "removed, digits"),
        ({}, {"removed": 0.17}, "removed, harder minus easier"),
    ],
)
def test_each_part_of_t1_flips(easy: dict[str, float], hard: dict[str, float], refused: str) -> None:
    verdict = judge(T1, measure_t1(t1_table(EASY_ERRORS | easy, HARD_ERRORS | hard)))
    assert verdict.outcome == "not reproduced"
    assert [part for part, outcome in outcomes(verdict).items() if outcome != "reproduced"] == [refused]


@pytest.mark.parametrize("how", ["status", "null", "absent"])
def test_a_lost_measurement_of_t1_is_a_nan_of_its_seed(how: str) -> None:
    frame = t1_table(EASY_ERRORS, HARD_ERRORS)
    lost = pick(frame, data=HARD, seed=1, groups=ALL_BUT_FIRST, treatment="removed")
    frame = {
        "status": frame.assign(status=frame["status"].mask(lost, "diverged")),
        "null": frame.assign(error=frame["error"].mask(lost)),
        "absent": frame[~lost],
    }[how]
    values = measure_t1(frame)
    for name, column in values.items():
        assert [math.isnan(x) for x in column] == [False, name == "removed, harder minus easier", False]
    assert judge(T1, values).outcome == "inconclusive"


def test_beside_a_normal_net_that_has_not_learned_nothing_is_compared() -> None:
    frame = t1_table(EASY_ERRORS, HARD_ERRORS)
    lost = pick(frame, data=EASY, seed=0, treatment="normal")
    values = measure_t1(frame.assign(error=frame["error"].mask(lost, LEARNED + 0.01)))
    hard_only = ["frozen against individual, fashion-mnist", "joint reset against frozen, fashion-mnist"]
    for name, column in values.items():
        assert [math.isnan(x) for x in column] == [name not in hard_only, False, False]
    # One that was frozen and learned nothing is the finding, not a failure.
    frozen = measure_t1(t1_table(EASY_ERRORS | {"frozen": 0.9}, HARD_ERRORS))
    assert frozen["frozen against individual, digits"] == pytest.approx([0.84] * 3)


@pytest.mark.parametrize(
    ("measure", "frame"),
    [(measure_f2, f2_table(falling)), (measure_t1, t1_table(EASY_ERRORS, HARD_ERRORS))],
    ids=["F2", "T1"],
)
def test_the_order_of_rows_does_not_matter(
    measure: Callable[[pd.DataFrame], dict[str, list[float]]], frame: pd.DataFrame
) -> None:
    before = frame.copy(deep=True)
    values = measure(frame)
    for seed in (0, 1):
        assert measure(frame.sample(frac=1, random_state=seed)) == values
    pd.testing.assert_frame_equal(frame, before)


def test_a_bad_table_of_f2_is_refused() -> None:
    frame = f2_table(falling)
    with pytest.raises(NetopsyError, match="frame: expected a sweep's table; missing width, status; got data, depth"):
        measure_f2(frame.drop(columns=["width", "status"]))
    with pytest.raises(NetopsyError, match="frame: expected at least one run; got an empty table; run the sweep"):
        measure_f2(frame.iloc[:0])
    with pytest.raises(NetopsyError, match="frame: data: expected one of 'digits', 'fashion-mnist'; got 'mnist'"):
        measure_f2(frame.assign(data="mnist"))
    with pytest.raises(NetopsyError, match=r"frame: width: expected one of 16, .*; got 24"):
        measure_f2(frame.assign(width=24))
    with pytest.raises(NetopsyError, match="frame: depth: expected one of 3, 5; got 4"):
        measure_f2(frame.assign(depth=4))
    with pytest.raises(NetopsyError, match="frame: expected seed in every row, failed runs included; some are null"):
        measure_f2(frame.assign(seed=frame["seed"].astype("Int64").mask(frame["width"] == 16)))
    with pytest.raises(NetopsyError, match=r"site of digits, FCN 3x16, seed 0: expected one of .*; got 'hidden.3'"):
        measure_f2(frame.assign(site=frame["site"].mask(frame["site"] == "hidden.2", "hidden.3")))
    with pytest.raises(
        NetopsyError, match="expected one row a layer of a run; got several of digits, FCN 3x16, seed 0, for"
    ):
        measure_f2(pd.concat([frame, frame]))


def test_a_bad_table_of_t1_is_refused() -> None:
    frame = t1_table(EASY_ERRORS, HARD_ERRORS)
    with pytest.raises(NetopsyError, match="frame: expected a sweep's table; missing error; got data, seed"):
        measure_t1(frame.drop(columns="error"))
    with pytest.raises(NetopsyError, match=r"frame: treatment: expected one of .*; got 'reset'"):
        measure_t1(frame.assign(treatment="reset"))
    with pytest.raises(NetopsyError, match=r"frame: data: expected one of .*; got 'cifar'"):
        measure_t1(frame.assign(data="cifar"))
    with pytest.raises(
        NetopsyError, match="T1: expected the group 'all but the first block of each stage'; got none"
    ):
        measure_t1(frame[frame["groups"] == "none"])
    with pytest.raises(NetopsyError, match="T1: expected one row a measurement; got several for digits, 0, none"):
        measure_t1(pd.concat([frame, frame]))


def test_the_pictures_are_written(tmp_path: Path) -> None:
    lost = failed(f2_table(falling), data=EASY, depth=3, width=16, seed=2)
    assert draw_f2(lost, tmp_path / "f2.png").stat().st_size > 0
    table = t1_table(EASY_ERRORS, HARD_ERRORS)
    first, second = (draw_t1(table.sample(frac=1, random_state=i), tmp_path / f"t1-{i}.png") for i in (0, 1))
    assert first.read_bytes() == second.read_bytes()
