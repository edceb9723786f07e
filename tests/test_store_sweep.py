"""Sweeps: axes over a configuration, seeds, pairs, and how far one is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from netopsy._checks import NetopsyError
from netopsy.store.axes import changed, grid, log_uniform, sample, uniform
from netopsy.store.keyed import keyed_map
from netopsy.store.results import load_results
from netopsy.store.sweep import Sweep, run_sweep, status_of, sweep_status
from tests.sweeps_for_tests import Inner, Point, calls, failing, measure, sweep_of


def sweep(**fields: Any) -> Sweep:
    return Sweep(**{"name": "numbers", "base": Point(), "measure": measure} | fields)


def test_axes_multiply() -> None:
    plans = sweep(axes=(grid({"number": (1, 2), "inner.lr": (0.1, 0.2)}), [{"kind": "a"}]), seeds=(5, 6))
    expected = [
        Point(number=number, kind="a", seed=seed, inner=Inner(lr=lr))
        for number in (1, 2)
        for lr in (0.1, 0.2)
        for seed in (5, 6)
    ]
    assert list(plans.configs) == expected
    assert sweep().configs == (Point(),)


def test_changes_reach_nested_fields_and_leave_the_base_alone() -> None:
    base = Point()
    assert changed(base, {"inner.lr": 0.5, "inner.depth": 7}) == Point(inner=Inner(lr=0.5, depth=7))
    assert changed(base, {"inner": Inner(lr=0.3), "inner.depth": 7}) == Point(inner=Inner(lr=0.3, depth=7))
    assert base == Point()


def test_fewer_points_and_fields_are_a_part_of_more() -> None:
    few = sample(3, {"inner.lr": log_uniform(1e-3, 1e-1)}, seed=4)
    fields = {
        "kind": ("a", "b"),
        "inner.lr": log_uniform(1e-3, 1e-1),
        "number": lambda source: int(source.integers(9)),
    }
    many = sample(50, fields, seed=4)
    assert [point["inner.lr"] for point in few] == [point["inner.lr"] for point in many[:3]]
    assert len({point["inner.lr"] for point in many}) == 50
    assert {point["kind"] for point in many} == {"a", "b"}
    assert many != sample(50, fields, seed=5)


def test_draws_follow_their_distribution() -> None:
    logs = np.log10([float(point["x"]) for point in sample(2000, {"x": log_uniform(1e-4, 1.0)})])  # type: ignore[arg-type]
    assert logs.min() >= -4
    assert logs.max() <= 0
    assert abs(logs.mean() + 2) < 5 * 4 / np.sqrt(12 * 2000)
    plain = np.array([float(point["x"]) for point in sample(2000, {"x": uniform(-1, 3)})])  # type: ignore[arg-type]
    assert abs(plain.mean() - 1) < 5 * 4 / np.sqrt(12 * 2000)
    assert plain.min() >= -1
    assert plain.max() <= 3


def test_paired_rows_differ_in_one_field(tmp_path: Path) -> None:
    plans = sweep(axes=(grid({"number": (1, 2)}),), paired=("inner.lr", (0.1, 0.2)), seeds=(0, 1))
    frame = run_sweep(plans, tmp_path)
    pairs = frame.groupby("pair")
    assert len(pairs) == 4
    for _, pair in pairs:
        assert sorted(pair["inner.lr"]) == [0.1, 0.2]
        assert pair[["number", "seed"]].drop_duplicates().shape[0] == 1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: sweep(axes=([{"nmuber": 1}],)),
            r"axis 'nmuber': Point has no field 'nmuber'; did you mean number or",
        ),
        (
            lambda: sweep(axes=([{"inner.rl": 1}],)),
            r"axis 'rl': Inner has no field 'rl'; did you mean lr\?; it has lr",
        ),
        (lambda: sweep(axes=([{"kind.x": 1}],)), "base: expected a dataclass to change x of; got str 'plain'"),
        (lambda: sweep(axes=([{"number": -1}],)), "number: expected 0 or more; got -1"),
        (lambda: sweep(axes=([],)), "sweep numbers: expected axes of at least one value; got an empty one"),
        (lambda: sweep(seeds=()), "expected axes of at least one value"),
        (lambda: sweep(axes=([{"seed": 1}],), seeds=(1,)), "expected each field on one axis; 'seed' is on two"),
        (
            lambda: sweep(axes=([{"kind": "a"}, {"number": 1}], [{"number": 2}])),
            "expected each field on one axis; 'number' is on two",
        ),
        (lambda: grid({"number": ()}), "axis 'number': expected a sequence of values"),
        (lambda: grid({"kind": "plain"}), r"axis 'kind': expected a sequence of values, such as \('plain',\)"),
        (lambda: sample(0, {"x": (1,)}), "count: expected an integer >= 1; got 0"),
        (lambda: sample(1, {"x": []}), "axis 'x': expected a sequence of values"),
        (lambda: log_uniform(0.0, 1.0), r"low: expected a number in \(0, 1\); got 0"),
        (lambda: uniform(2.0, 1.0), r"low: expected a number in \(-inf, 1\); got 2"),
        (lambda: changed(3, {"x": 1}), "base: expected a dataclass to change x of; got int 3"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_swept_is_refused(make: Any, match: str) -> None:
    with pytest.raises(NetopsyError, match=match):
        make()


def test_status_before_during_and_after(tmp_path: Path) -> None:
    plans = sweep_of(measure, 3)
    with pytest.raises(NetopsyError, match="expected a folder in which a sweep was started; no sweep was"):
        sweep_status(tmp_path)
    before = status_of(plans, tmp_path)
    assert (before.total, before.left, before.counts, before.seconds, before.running) == (3, 3, {}, None, False)
    seen = []
    run_sweep(plans, tmp_path, progress=lambda _: seen.append(sweep_status(tmp_path)[0]))
    assert [status.running for status in seen] == [True] * 4
    assert seen[0].left == 3
    after = status_of(plans, tmp_path)
    assert (after.left, after.counts, after.running, after.stale) == (0, {"ok": 3}, False, 0)
    assert sweep_status(tmp_path) == [after]
    assert str(after).startswith("numbers: 3 tasks: 3 ok, 0 to do\nmean time of a task ")


def test_status_counts_failures_and_other_work(tmp_path: Path) -> None:
    keyed_map(measure, [Point(number=77)], folder=tmp_path)
    plans = sweep(measure=failing, axes=(grid({"kind": ("plain", "diverged", "key", "key2")}),))
    run_sweep(plans, tmp_path)
    found = status_of(plans, tmp_path)
    assert found.counts == {"ok": 1, "diverged": 1, "exception": 2}
    assert next(iter(found.counts)) == "ok"
    assert next(iter(found.reasons)).startswith("KeyError: 'no such layer'")
    assert (found.stale, found.left) == (1, 0)
    assert "2 failed: KeyError" in str(found)
    assert "1 older results in the folder are of other code or other axes" in str(found)


def test_results_of_other_code_are_stale_until_they_are_replaced(tmp_path: Path) -> None:
    run_sweep(sweep(code="1", seeds=(0, 1, 2)), tmp_path)
    newer = sweep(code="2", seeds=(0, 1))
    assert (status_of(newer, tmp_path).left, status_of(newer, tmp_path).stale) == (2, 3)
    assert len(run_sweep(newer, tmp_path)) == 2
    rows = load_results(tmp_path, columns=["seed", "code"]).sort_values("seed")
    assert rows.to_dict("list") == {"seed": [0, 1, 2], "code": ["2", "2", "1"]}
    assert len(pd.read_parquet(tmp_path / "results")) == 3
    assert status_of(newer, tmp_path).stale == 1


def test_a_larger_sweep_does_only_what_is_new(tmp_path: Path) -> None:
    run_sweep(sweep_of(measure, 2), tmp_path)
    frame = run_sweep(replace(sweep_of(measure, 4), name="more"), tmp_path)
    assert frame.number.tolist() == [0, 1, 2, 3]
    assert calls(tmp_path) == 4
    assert [status.name for status in sweep_status(tmp_path)] == ["more", "numbers"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(NetopsyError, match="sweep name: expected letters, digits and any of"):
        sweep(name=name)
