"""The robustness section: heatmap, table and snippet against the frame."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import netopsy
from netopsy._random import forked
from netopsy._typing import Key
from netopsy.network.trajectory import Trajectory
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.blocks import Cell, Entry, Facts, Fold, Heatmap, Picture, Table
from netopsy.report.call import call
from netopsy.report.robustness import counts, heatmap, most_affected, robustness_section
from netopsy.report.robustness_table import settled, site_table
from tests import zoo
from tests.test_report_words import draw, made, reset


def margin(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    top = logits.topk(2).values
    return top[:, 0] - top[:, 1]


@cache
def ran(keys: tuple[Key, ...]) -> tuple[Trajectory, dict[str, Any]]:
    with forked(3):
        states: dict[Key, Any] = {key: zoo.mlp().state_dict() for key in keys}
        x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    return Trajectory.from_states(zoo.mlp, states), {"train": (x, y), "test": (x[:11], y[:11])}


def probe(keys: tuple[Key, ...] = (0, 2, 5), **options: Any) -> RobustnessResult:
    trajectory, data = ran(keys)
    return robustness(trajectory, data, **{"checkpoints": "all", "engine": "eager", **options})


def module(**options: Any) -> RobustnessResult:
    _, data = ran((0, 2, 5))
    return robustness(zoo.mlp(), data["test"], checkpoints=(), engine="eager", **options)


def cells(block: Heatmap) -> dict[tuple[str, str], Cell]:
    return {
        (row, column): block.cells[i][j] for i, row in enumerate(block.rows) for j, column in enumerate(block.columns)
    }


def column(block: Table, name: str) -> dict[str, Entry]:
    at = [column.name for column in block.columns].index(name)
    return {row[0].text: row[at] for row in block.rows}


EVERY: dict[str, Callable[[], RobustnessResult]] = {
    "all": partial(probe, draws=3, full_model=True, groups={"ends": ["0", "4"], "one": "2"}),
    "names out of order": partial(probe, ("epoch_9", "epoch_1", "end"), draws=0),
    "not from 0": partial(probe, (3, 5), draws=1),
    "0 and final": partial(probe, (0, "final")),
    "checkpoints out of order": partial(probe, checkpoints=(2, 0), draws=2, tolerance=0.4),
    "only the trained": partial(probe, checkpoints=(5,), draws=0),
    "draws only": partial(probe, checkpoints=(), draws=2),
    "a module": partial(module, draws=2, groups={"ends": ["0", "4"]}),
    "no error": partial(probe, metrics=("loss",), draws=2, full_model=True),
    "own metric": partial(probe, metrics=(margin,), draws=0),
    "verdict": partial(probe, stop="verdict", draws=2, batch_size=4, tolerance=0.3),
    "data set": partial(probe, estimand="dataset", draws=2, groups={"ends": ["0", "4"]}),
    "one site": partial(probe, sites=["2"]),
    "group of others": partial(probe, sites=["2"], groups={"ends": ["0", "4"]}),
    "parameters": partial(probe, sites="parameters"),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_of_result_is_told_as_its_frame_has_it(name: str) -> None:
    result = EVERY[name]()
    section = robustness_section(result)
    assert section.verdict
    assert not any("nan" in sentence for sentence in section.verdict)
    kinds = [type(block) for block in section.blocks]
    assert kinds.count(Heatmap) == result.frame.split.nunique()
    for split, block in zip(
        result.frame.split.unique(), [b for b in section.blocks if isinstance(b, Heatmap)], strict=True
    ):
        check_heatmap(result, split, block)
    [table] = [block for block in section.blocks if isinstance(block, Table)]
    split = "test" if "test" in set(result.frame.split) else str(result.frame.split.iloc[0])
    check_table(result, split, table)


def check_heatmap(result: RobustnessResult, split: str, block: Heatmap) -> None:
    """Against a plain loop over the frame."""
    frame = result.frame[result.frame.split == split]
    metric = "error" if "error" in frame else "delta_error"
    [base] = frame[frame.operation == "baseline"].to_dict("records")
    places: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    for row in frame[frame.operation != "baseline"].to_dict("records"):
        at = "drawn anew" if row["operation"] == "re-randomize" else str(row["checkpoint"])
        places.setdefault((row["site"], at), []).append(row)
    shown = cells(block)
    assert {*places} <= {*shown}
    signs = set()
    for place, cell in shown.items():
        rows = places.get(place, [])
        if not rows:
            trained = place[1] == block.columns[-1]
            assert (cell.text == f"{100 * base[metric]:.1f}") if trained else (cell.empty and not cell.text)
            assert cell.mark == ""
            continue
        mean = sum(row[metric] for row in rows) / len(rows)
        assert cell.text.replace("−", "-").lstrip("-") == f"{abs(100 * mean):.1f}"
        assert cell.level is not None
        means = [sum(r[metric] for r in several) / len(several) for several in places.values()]
        top = max(*means, base[metric], min(base[metric] + 0.1, 1.0))
        assert cell.level == pytest.approx((mean - base[metric]) / (top - base[metric]))
        verdicts = {str(row["verdict"]) for row in rows}
        expected = {"robust": "", "between": "~", "critical": "!", "undecided": "?"}
        if {row["status"] for row in rows} == {"no-op"}:
            sign = "="
        elif len(verdicts) > 1:
            sign = "≠"
        else:
            sign = expected[verdicts.pop()]
        assert cell.mark == sign, place
        signs.add(sign)
        low, high = (sum(row[f"delta_error_{end}"] for row in rows) / len(rows) for end in ("low", "high"))
        change = sum(row["delta_error"] for row in rows) / len(rows)
        [note] = [line for line in cell.note if line.startswith("change ")]
        numbers = [
            float(word.strip(",").replace("−", "-").replace("±", "")) for word in note.split() if word[0] in "+−±"
        ]
        assert numbers == pytest.approx([100 * change, 100 * low, 100 * high], abs=0.051)
        assert any(line.startswith(f"mean of {len(rows)} draws") for line in cell.note) == (len(rows) > 1)
        assert f"{rows[0]['n']:,} example" in cell.note[-1] or len({row["n"] for row in rows}) > 1
    for sign in "!~?=≠×":
        assert (f"{sign} " in block.caption) == (sign in signs), sign
    assert ("no sign: robust" in block.caption) == ("" in signs)
    assert block.scale[0] == ("trained network: ±0 points" if metric != "error" else block.scale[0])
    assert block.caption[0].isupper()


def check_table(result: RobustnessResult, split: str, block: Table) -> None:
    frame = result.frame[result.frame.split == split]
    final = result.provenance["final"]
    resets = frame[(frame.operation == "re-initialize") & (frame.checkpoint.astype(str) != str(final))]
    draws = frame[frame.operation == "re-randomize"]
    names = [column.name for column in block.columns]
    [asked] = [name for name in names if name.startswith("error, ")]
    if len(resets):
        key = asked.removeprefix("error, reset to ")
        assert key in set(resets.checkpoint.astype(str))
        rows = resets[resets.checkpoint.astype(str) == key]
    elif len(draws):
        assert asked == "error, fresh draw"
        rows = draws
    else:
        rows = frame[frame.operation == "re-initialize"]
    changes, verdicts = column(block, asked), column(block, "verdict")
    spans = [c.span for c in block.columns if c.span]
    for site, part in rows.groupby("site", sort=False):
        entry = changes[str(site)]
        assert entry.sort == pytest.approx(part.delta_error.mean())
        assert entry.bar == pytest.approx(
            (part.delta_error_low.mean(), part.delta_error.mean(), part.delta_error_high.mean())
        )
        assert entry.bar is not None
        assert spans[0][0] <= entry.bar[0] <= entry.bar[2] <= spans[0][1]
        kinds = set(part.verdict.dropna())
        expected = "unchanged" if not kinds else "draws differ" if len(kinds) > 1 else kinds.pop()
        assert verdicts[str(site)].text == expected
    assert [row[0].sort for row in block.rows] == list(range(len(block.rows)))
    assert [row[0].text for row in block.rows] == [*dict.fromkeys(rows.site)]
    if "drawn anew" in names:
        for site, entry in column(block, "drawn anew").items():
            mean = draws[draws.site == site].delta_error.mean()
            assert entry.text == "" if math.isnan(mean) else entry.sort == pytest.approx(mean)
    if "moved" in names:
        at_end = result.distances[result.distances.checkpoint.astype(str) == str(final)].set_index("site").l2
        assert {site: entry.sort for site, entry in column(block, "moved").items()} == {
            s: at_end[s] for s in changes if s in at_end
        } | {s: None for s in changes if s not in at_end}
    if "parameters" in names:
        sizes = {site: entry.sort for site, entry in column(block, "parameters").items() if entry.text}
        assert sizes == dict(result.provenance["parameters"])


def brute(frame: pd.DataFrame, final: object, keys: list[Any]) -> dict[str, tuple[int, Any]]:
    found = {}
    for site in dict.fromkeys(frame.site.dropna()):
        for at, key in enumerate(keys):
            rest = [
                (row["verdict"], row["status"])
                for row in frame.to_dict("records")
                if row["site"] == site and row["checkpoint"] in keys[at:]
            ]
            if all(v == "robust" or s == "no-op" for v, s in rest) and any(
                v == "robust" for v, _ in rest if isinstance(v, str)
            ):
                found[str(site)] = (at, key)
                break
    return found


def test_robust_from_is_what_a_search_finds() -> None:
    random = np.random.default_rng(0)
    kinds = ("robust", "robust", "critical", "no-op", "undecided", "×robust")
    seen = set()
    for _ in range(40):
        keys = sorted(random.choice(20, size=random.integers(2, 5), replace=False).tolist())
        rows = [reset(s, kinds[random.integers(len(kinds))], 0.1, k) for s in "abc" for k in keys]
        rows += [reset(s, "no-op", 0.0, 99) for s in "abc"]
        random.shuffle(rows)  # type: ignore[arg-type]
        frame = made(rows, final=99).frame
        found = settled(frame, 99)
        assert found == brute(frame, 99, keys)
        seen |= {at for at, _ in found.values()}
    assert len(seen) > 2
    assert settled(made([reset("a", "robust", 0.0)]).frame, 9) == {}


def test_of_draws_that_differ_the_legend_names_the_sign_of_the_cell_alone() -> None:
    result = made([draw("a", "critical", 0.6, 0), draw("a", "robust", 0.0, 1), draw("b", "robust", 0.0, 0)])
    block = heatmap(result, "data", ["a", "b"])
    assert cells(block)["a", "drawn anew"].mark == "≠"
    assert "≠ draws differ, no sign: robust." in block.caption
    assert "critical" not in block.caption


def test_non_finite_rows_are_marked_and_explained() -> None:
    result = made([reset("a", "×critical", 0.6), reset("b", "robust", 0.0)])
    block = heatmap(result, "data", ["a", "b"])
    assert cells(block)["a", "0"].mark == "×"
    assert "× not finite, no sign: robust." in block.caption
    assert counts(result, "data") == (("robust", "1 robust"), ("non-finite", "1 not finite"))
    folds = [b for b in robustness_section(result).blocks if isinstance(b, Fold)]
    [facts] = [b for fold in folds if fold.title == "How to read this" for b in fold.blocks if isinstance(b, Facts)]
    assert ("not finite", "some outputs are infinite or not a number; they count as errors") in facts.rows


def test_counts_leave_out_groups_and_the_whole_network() -> None:
    rows = [reset("a", "critical", 0.6), reset("b", "robust", 0.0), reset("g", "critical", 0.7)]
    result = made([*rows, reset("full model", "critical", 0.8)], groups={"g": ("a", "b")})
    assert counts(result, "data") == (("robust", "1 robust"), ("critical", "1 critical"))


@pytest.mark.parametrize("extra", [0, 1, 2, 60])
def test_of_many_sites_those_that_cost_most_are_shown(extra: int) -> None:
    rows = [reset(f"s{i}", "between", 0.3 - i / 5000) for i in range(300 + extra)]
    result = made([*reversed(rows), reset("full model", "critical", 0.8)])
    sites, left = most_affected(result, "data")
    assert {*sites} == {f"s{i}" for i in range(300)} | {"full model"}
    assert sites == [s for s in result.frame.site.dropna() if s in {*sites}]
    if extra:
        assert left.startswith(f"Of {300 + extra} sites, the 300 whose reset costs most are shown here; the result's")
        assert left.endswith("After that reset, none of the others costs more than +24 points.")
    else:
        assert left == ""


def test_ten_thousand_sites() -> None:
    rows = [reset(f"layer.{i}", "robust" if i else "critical", 0.0 if i else 0.5) for i in range(10_000)]
    section = robustness_section(made([*rows, *(draw(f"layer.{i}", "critical", 0.4) for i in range(10_000))]))
    assert "9,999 of 10,000 layers (layer.1, layer.2, layer.3, layer.4 and 9995 more)" in section.verdict[0]
    [table] = [block for block in section.blocks if isinstance(block, Table)]
    assert len(table.rows) == 300
    assert not any(isinstance(block, Picture) for block in section.blocks)


def same(result: RobustnessResult, again: RobustnessResult) -> None:
    pd.testing.assert_frame_equal(again.frame, result.frame, check_exact=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "sites": ["0", "4"],
            "checkpoints": (2, 0),
            "draws": 2,
            "groups": {"ends": ["0", "4"]},
            "metrics": ("loss", margin),
            "stop": "precision",
            "precision": 0.3,
            "tolerance": 0.1,
            "confidence": 0.9,
            "seed": 5,
            "estimand": "dataset",
            "critical": 0.3,
            "full_model": True,
            "batch_norm": "keep",
        },
        {"sites": {"front": "0", "rest": ["2", "4"]}, "groups": {"all": ["0", "2", "4"]}, "checkpoints": ()},
        {"sites": "parameters", "groups": {"biases": "*.bias"}},
        {"sites": ["2.weight[:, 0:3]"], "draws": 0},
    ],
)
def test_the_snippet_gives_the_result_again(options: dict[str, Any]) -> None:
    trajectory, data = ran((0, 2, 5))
    result = robustness(trajectory, data, **options)
    names = {"netopsy": netopsy, "trajectory": trajectory, "data": data, "margin": margin}
    same(result, eval(call(result), names))


def test_the_snippet_of_a_module() -> None:
    model, data = zoo.mlp(), ran((0, 2, 5))[1]["test"]
    result = robustness(model, data, checkpoints=(), draws=2)
    assert "\n    model,\n" in call(result)
    same(result, eval(call(result), {"netopsy": netopsy, "model": model, "data": data}))


def test_the_snippet_names_what_the_result_does_not_hold() -> None:
    result = probe(sites=["2"], groups={"ends": ["0", "4"], "mid": "2"}, metrics=(lambda a, b: a[:, 0],), draws=0)
    told = call(result)
    assert "groups={'mid': ['2']},  # by the sites in them; without ['ends'], which hold none\n" in told
    assert "metrics=(...,)," in told
    seen: dict[str, Any] = {}
    stub = SimpleNamespace(robustness=lambda *args, **options: seen.update(options))
    eval(
        call(replace(result, provenance={**result.provenance, "batch_norm": "recompute"})),
        {"netopsy": stub, "trajectory": 0, "data": 0, "calibration": "c"},
    )
    assert seen["calibration"] == "c"


def test_an_older_result_is_told_too(tmp_path: Path) -> None:
    new = probe(draws=2, full_model=True, groups={"ends": ["0", "4"]})
    left = {"sites", "checkpoints", "metrics", "full_model", "parameters"}
    old = replace(new, provenance={name: value for name, value in new.provenance.items() if name not in left})
    old = RobustnessResult.load(old.save(tmp_path / "old"))
    section = robustness_section(old)
    assert [type(block) for block in section.blocks] == [type(block) for block in robustness_section(new).blocks]
    assert section.verdict[0] == robustness_section(new).verdict[0].replace("layer", "part")
    trajectory, data = ran((0, 2, 5))
    same(
        old,
        eval(
            call(old),
            {
                "netopsy": SimpleNamespace(robustness=partial(robustness, engine="eager")),
                "trajectory": trajectory,
                "data": data,
            },
        ),
    )


def test_the_table_leaves_out_what_it_does_not_know() -> None:
    names = [column.name for column in site_table(EVERY["a module"](), "data", ["0", "2"]).columns]
    assert names == ["layer", "verdict", "error, fresh draw", "parameters"]
