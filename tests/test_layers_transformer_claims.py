"""Figures 7 to 9 and Table 2 over tables where every statistic is known by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from netopsy._storage import read_json
from netopsy.data.dataset import subset
from netopsy.data.digits import digits
from netopsy.data.text import TextDataset
from netopsy.models.mixer import mixer
from netopsy.models.transformer import transformer
from netopsy.models.vit import vit
from netopsy.network.sites import find_sites
from netopsy.probes.operations import FULL_MODEL
from netopsy.store.sweep import Sweep
from netopsy.studies import layers, layers_pictures, layers_randomized, layers_transformers
from netopsy.studies.claims import Measured, judge, measured
from netopsy.studies.layers_randomized import T2, Randomized, gain, level, measure_randomized
from netopsy.studies.layers_transformer_claims import (
    CLAIMS,
    F7,
    F8,
    F9,
    difference,
    mean_share,
    mended_by_one_epoch,
    redrawn_apart,
    shares,
)
from netopsy.studies.layers_transformers import LINES, Line, measure_line

CHANCE, TRAINED = 0.9, 0.4
SITES = {
    "lm": [s.name for s in find_sites(transformer(vocabulary=9, length=4, depth=4, width=4, heads=2), "modules")],
    "vit": [s.name for s in find_sites(vit(classes=3, size=8, patch=4, depth=4, width=4, heads=2), "modules")],
    "mixer": [s.name for s in find_sites(mixer(classes=3, size=8, patch=4, depth=4, width=4), "modules")],
}
Cost = Any


def table(line: str, cost: Cost, seeds: int = 3) -> pd.DataFrame:
    """A network whose layers cost `cost(site, operation, checkpoint, seed)` of the way to chance."""
    rows: list[tuple[Any, ...]] = []
    for seed in range(seeds):
        rows.append((line, seed, None, "baseline", None, None, TRAINED, 0.0, CHANCE, "ok"))
        for site in [*SITES[line.split()[0]], FULL_MODEL]:
            asked = [("re-initialize", 0), ("re-initialize", 1), ("re-randomize", None), ("re-randomize", None)]
            for draw, (operation, checkpoint) in enumerate(asked):
                share = 1.0 if site == FULL_MODEL else cost(site, operation, checkpoint, seed)
                if operation == "re-randomize":
                    share += 0.01 if draw == 2 else -0.01  # the mean over draws is the cost
                delta = share * (CHANCE - TRAINED)
                number = draw - 2 if checkpoint is None else None
                rows.append((line, seed, site, operation, checkpoint, number, TRAINED + delta, delta, CHANCE, "ok"))
    names = ["line", "seed", "site", "operation", "checkpoint", "draw", "error", "delta_error", "chance", "status"]
    frame = pd.DataFrame(rows, columns=names).assign(split="test")
    return frame.astype({"checkpoint": "Int64", "draw": "Int64", "site": "string", "operation": "string"})


def as_the_paper_has_it(site: str, operation: str, checkpoint: int | None, seed: int) -> float:
    """What F7 says: block 0 is worse; the first epoch mends what is not robust; the ends differ."""
    if site in ("embedding", "head"):
        return 0.9 if operation == "re-randomize" else 0.5 if checkpoint == 0 else 0.05
    block = int(site.split(".")[1]) if site.startswith("blocks.") else 0
    cost = 0.3 if "norm" in site or "dense0" in site else 0.4 if block == 0 else 0.04
    cost += 0.05 * (block < 2) + 0.001 * seed
    return cost if checkpoint != 1 else cost / 10


def test_a_kind_and_a_half_for_every_layer_of_a_block() -> None:
    frame = shares(table("lm", as_the_paper_has_it), line="lm", operation="re-randomize")
    assert FULL_MODEL not in set(frame.site)
    one = frame[frame.seed == 0].set_index("site")
    assert list(one[one.block == 1].kind) == ["norm", *["mixing"] * 4, "norm", "first dense", "second dense"]
    assert list(one[one.block < 0].kind) == ["outside"] * 4  # embedding, position, norm, head
    assert dict(one.groupby("block").half.first()) == {
        -1: "", 0: "lower half", 1: "lower half", 2: "upper half", 3: "upper half",
    }  # fmt: skip
    mixed = shares(table("mixer", as_the_paper_has_it), line="mixer", operation="re-randomize")
    assert list(mixed[(mixed.seed == 0) & (mixed.block == 0)].kind) == [
        "norm", "mixing", "mixing", "norm", "first dense", "second dense",
    ]  # fmt: skip


def test_a_share_is_of_the_way_to_chance_and_of_the_mean_over_draws() -> None:
    rows = table("lm", lambda site, operation, checkpoint, seed: 0.25 + 0.5 * seed)
    values = mean_share(rows, line="lm", kinds=("norm",), operation="re-randomize")
    assert list(values) == pytest.approx([0.25, 0.75, 1.25])


def test_blocks_are_chosen() -> None:
    rows = table("lm", lambda site, *rest: float(site.split(".")[1]) if site.startswith("blocks") else 100.0)
    found = {
        blocks: mean_share(rows, line="lm", kinds=("mixing",), operation="re-initialize", blocks=blocks)[0]  # type: ignore[arg-type]
        for blocks in ("all", "lower half", "upper half", "all but the first")
    }
    assert found == pytest.approx({"all": 1.5, "lower half": 0.5, "upper half": 2.5, "all but the first": 2.0})
    side = {"line": "lm", "kinds": ("norm",), "operation": "re-initialize"}
    apart = difference(rows, more={**side, "blocks": "upper half"}, less={**side, "blocks": "lower half"})
    assert list(apart) == pytest.approx([2.0] * 3)


def test_layers_mended_by_one_epoch_are_counted_among_those_that_need_it() -> None:
    def cost(site: str, operation: str, checkpoint: int | None, seed: int) -> float:
        if "norm" not in site:
            return 0.05  # robust from the start: does not count
        return 0.5 if checkpoint == 0 or (seed == 1 and site.startswith("blocks.0")) else 0.1

    values = mended_by_one_epoch(table("lm", cost), line="lm")
    assert list(values) == pytest.approx([1.0, 7 / 9, 1.0])  # two norms in each of four blocks, and the last one


def test_nothing_to_mend_is_no_value() -> None:
    assert all(map(math.isnan, mended_by_one_epoch(table("lm", lambda *rest: 0.0), line="lm")))


def test_ends_are_told_from_all_others() -> None:
    rows = table("lm", as_the_paper_has_it)
    assert list(redrawn_apart(rows, line="lm", sites=("head",))) == pytest.approx([0.4] * 3)
    assert list(redrawn_apart(rows, line="lm")) == pytest.approx([0.0] * 3)
    moved = rows.assign(delta_error=rows.delta_error.where(rows.site != "norm", -0.1))  # on both sides of zero
    assert list(redrawn_apart(moved, line="lm")) == pytest.approx([0.0] * 3)


def test_f7_holds_for_a_network_as_the_paper_describes_it_and_fails_for_its_opposite() -> None:
    verdict = judge(F7, measured(F7, table("lm", as_the_paper_has_it)))
    assert verdict.outcome == "reproduced"
    opposite = judge(F7, measured(F7, table("lm", lambda *rest: 0.05)))
    assert set(opposite.table.outcome) == {"not reproduced", "inconclusive", "reproduced"}
    held = opposite.table.set_index("part").outcome
    assert held["layer norms"] == held["first dense"] == held["embedding, redrawn"] == "not reproduced"
    assert held["attention, second dense"] == "reproduced"
    assert held["after one epoch"] == "inconclusive"  # there is nothing to mend


def test_f8_and_f9_compare_lines() -> None:
    def scaled(factor: float) -> Cost:
        return lambda site, *rest: factor * (0.2 if not site.startswith("blocks") or int(site[7]) < 2 else 0.1)

    rows = pd.concat(
        [table("lm", scaled(2)), table("vit", scaled(0.5)), table("vit sam", scaled(0.3)),
         table("vit large", scaled(0.2)), table("vit large sam", scaled(0.8)),
         table("mixer", scaled(0.5)), table("mixer sam", scaled(0.3)), table("mixer large", scaled(0.2))]
    )  # fmt: skip
    assert judge(F8, measured(F8, rows)).outcome == "reproduced"
    assert judge(F9, measured(F9, rows)).outcome == "reproduced"
    table_of = judge(F8, measured(F8, rows)).table.set_index("part")["mean"]
    assert table_of["first dense, against the language model"] == pytest.approx(0.15 * 1.5)
    assert table_of["SAM, upper norms of the large net"] == pytest.approx(0.1 * 0.6)
    swapped = rows.assign(line=rows.line.replace({"vit": "vit sam", "vit sam": "vit"}))
    assert judge(F8, measured(F8, swapped)).table.set_index("part").outcome["SAM, small net"] == "not reproduced"


def test_a_failed_network_leaves_no_value_in_its_seed() -> None:
    rows = table("lm", as_the_paper_has_it)
    failed = rows.assign(status=rows.status.where(rows.seed != 1, "diverged"))
    values = mean_share(failed, line="lm", kinds=("norm",), operation="re-randomize")
    assert [math.isnan(value) for value in values] == [False, True, False]
    assert judge(F7, measured(F7, failed)).outcome == "inconclusive"


@pytest.mark.parametrize("claim", [*CLAIMS.values(), T2], ids=lambda claim: claim.id)
def test_every_part_says_what_it_needs(claim: Any) -> None:
    known = {*layers_randomized.STAGES, "lm", *(f"{f}{s}" for f in ("vit", "mixer") for s in ("", " sam", " large"))}
    assert all(isinstance(part, Measured) and set(part.lines) <= {*known, "vit large sam"} for part in claim.parts)
    assert len({part.name for part in claim.parts}) == len(claim.parts)


def attacked(values: dict[tuple[str, int], float], seeds: int = 3) -> pd.DataFrame:
    """Both nets of Table 2 with these accuracies by attack and number of stages, in the mean over two repeats."""
    rows = [
        (net, seed, chosen, attack, repeat, value + (0.01 if repeat else -0.01) + 0.001 * seed, "ok")
        for net in layers_randomized.STAGES
        for (attack, chosen), value in values.items()
        for seed in range(seeds)
        for repeat in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["net", "seed", "chosen", "attack", "repeat", "accuracy", "status"])


# Table 2's ResN(4_4), as shares.
PRINTED = {
    ("none", 0): 0.9008, ("none", 1): 0.8964, ("none", 2): 0.8913, ("none", 4): 0.8824,
    ("fgsm", 0): 0.0845, ("fgsm", 1): 0.6276, ("fgsm", 2): 0.6720, ("fgsm", 4): 0.6909,
    ("pgd", 0): 0.0, ("pgd", 1): 0.0260, ("pgd", 2): 0.0356, ("pgd", 4): 0.0560,
}  # fmt: skip


def test_t2_holds_for_the_papers_own_numbers() -> None:
    rows = attacked(PRINTED)
    assert judge(T2, measured(T2, rows)).outcome == "reproduced"
    assert list(gain(rows, net="4_4", attack="fgsm", chosen=4, base=1)) == pytest.approx([0.0633] * 3)
    assert list(level(rows, net="4_2", attack="pgd", chosen=2)) == pytest.approx([0.0356, 0.0366, 0.0376])


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({("none", 1): 0.8}, "clean, ResN(4_2)"),
        ({("fgsm", 1): 0.2}, "FGSM, ResN(4_2)"),
        ({("pgd", 0): 0.02}, "PGD, ResN(4_2)"),
        ({("pgd", 2): 0.5}, "PGD stays low, ResN(4_2)"),
        ({("none", 2): 0.91}, "clean, more stages, ResN(4_2)"),
        ({("fgsm", 2): 0.6}, "FGSM, more stages, ResN(4_2)"),
        ({("pgd", 2): 0.02}, "PGD, more stages, ResN(4_2)"),
    ],
)
def test_each_part_of_t2_can_fail(changed: dict[tuple[str, int], float], part: str) -> None:
    verdict = judge(T2, measured(T2, attacked({**PRINTED, **changed})))
    failed = set(verdict.table.part[verdict.table.outcome == "not reproduced"])
    assert part in failed
    assert verdict.outcome == "not reproduced"


def test_the_claims_of_the_study_are_run_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = pd.concat([table(line, as_the_paper_has_it) for line in LINES])
    given: list[tuple[str, set[object]]] = []

    def run_sweep(sweep: Sweep, folder: Path, **options: Any) -> pd.DataFrame:
        axis = "net" if sweep.name == "layers-t2" else "line"
        asked = {getattr(config, axis) for config in sweep.configs}
        given.append((sweep.name, asked))
        return attacked(PRINTED) if axis == "net" else lines[lines.line.isin(asked)].assign(edit_status="ok")

    monkeypatch.setattr(layers, "run_sweep", run_sweep)
    study = layers.run(tmp_path, claims=["T2", "F7", "F8", "F9"])
    assert given == [
        ("layers-t2", {"4_2", "4_4"}),
        ("layers-transformers", {"lm"}),
        ("layers-transformers", {"lm", "vit", "vit sam", "vit large", "vit large sam"}),
        ("layers-transformers", {"mixer", "mixer sam", "mixer large"}),
    ]
    assert study.verdicts["F7"].outcome == study.verdicts["T2"].outcome == "reproduced"
    drawn = layers_pictures.draw(study, tmp_path / "pictures")
    assert [path.name for path in drawn] == ["T2.png", "F7.png", "F8.png", "F9.png", "F7-heatmap.png"]
    assert all(path.stat().st_size > 5000 for path in drawn)


def few_texts(*args: object, **options: object) -> TextDataset:
    texts = tuple(f"a {kind} of the {place}, {number}" for kind in ("bird", "tree") for place in ("sea", "wood")
                  for number in range(8))  # fmt: skip
    labels = torch.zeros(len(texts), dtype=torch.int64)
    return TextDataset(name="few", train=(texts, labels), test=(texts[:6], labels[:6]), class_names=("any",))


@pytest.mark.parametrize("line", ["lm", "vit sam", "mixer large"])
def test_rows_of_a_tiny_line(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = subset(digits(), train=120, test=40)
    monkeypatch.setattr(layers_transformers, "glosses", few_texts)
    monkeypatch.setattr(layers_transformers, "fashion_mnist", lambda: few)
    monkeypatch.setattr(layers_transformers, "subset", lambda data, **sizes: data)
    monkeypatch.setattr(layers_transformers, "PATCH", 4)
    monkeypatch.setattr(layers_transformers, "SIZES", {name: {"depth": 2, "width": 8} for name in ("small", "large")})
    config = Line(line=line, epochs=2)
    rows = measure_line(config, tmp_path).assign(line=line, seed=0, status="ok")
    for operation in ("re-randomize", "re-initialize"):
        found = shares(rows, line=line, operation=operation)  # type: ignore[arg-type]
        assert set(found.kind) == {"norm", "mixing", "first dense", "second dense", "outside"}
        assert set(found.half) == {"", "lower half", "upper half"}
        assert set(found.site) == set(rows.site.dropna()) - {FULL_MODEL}
        assert found.site.is_unique
    [manifest] = [read_json(path) for path in tmp_path.glob("*/manifest.json") if "config" in read_json(path)]
    assert manifest["config"]["sam_rho"] == (0.05 if "sam" in line else None)
    assert manifest["config"]["epochs"] == 2
    assert "result" in rows


def test_rows_of_a_tiny_net_under_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = subset(digits(), train=60, test=20)
    monkeypatch.setattr(layers_randomized, "fashion_mnist", lambda: few)
    for name, value in (("subset", lambda data, **sizes: data), ("shrink", lambda data, factor: data)):
        monkeypatch.setattr(layers_randomized, name, value)
    for name, count in (("ATTACKED", 10), ("STEPS", 2), ("REPEATS", 2)):
        monkeypatch.setattr(layers_randomized, name, count)
    rows = measure_randomized(Randomized(net="4_2", width=1 / 32, epochs=1), tmp_path)
    assert list(rows.groupby(["chosen", "attack"], sort=False).size().items()) == [
        ((chosen, attack), 2) for chosen in (0, 1, 2) for attack in ("none", "fgsm", "pgd")
    ]
    assert rows.accuracy.between(0, 1).all()
    clean = rows[(rows.chosen == 0) & (rows.attack == "none")]
    assert clean.accuracy.nunique() == 1  # the trained network makes no choices
