"""Networks ranked by complexity: statistics in closed form, the line-ups, and one tiny network measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from netopsy.data.dataset import Dataset, subset
from netopsy.data.digits import digits
from netopsy.engine.evaluate import evaluate
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.store.runs import trained
from netopsy.studies import criticality_ranking
from netopsy.studies.claims import judge, measured
from netopsy.studies.criticality_ranking import (
    EPSILON,
    EPSILONS,
    LAPTOP_WIDTHS,
    NORMS,
    PAPER_NETWORKS,
    Ranked,
    RankedPoint,
    laptop_net,
    measure_network,
    paper_net,
    ranked,
    widths,
)
from netopsy.studies.criticality_ranking_claims import (
    CLAIMS,
    CURVES,
    MEASURES,
    PAPER,
    SWEEPS,
    Rival,
    confirmed,
    far_above,
    kept_order,
    pooled,
    tau,
    tau_ahead,
)

SEEDS = (0, 1, 2)


def table(values: dict[str, Any], *, architectures: int = 10) -> pd.DataFrame:
    """Rows of `architectures` x 3 networks and three seeds; a measure is a function of (gap, network), else noise."""
    source = np.random.default_rng(0)
    rows = []
    for seed in SEEDS:
        for network in range(3 * architectures):
            gap = (7 * network + 3 * seed) % (3 * architectures) / 100
            known = {
                name: values[name](gap, network) if name in values else float(source.normal()) for name in MEASURES
            }
            rows += [
                {"line": f"n{network}", "seed": seed, "status": "ok", "epsilon": epsilon, "reached": True, "gap": gap,
                 "architecture": f"a{network // 3}", "batch": 32 - network % 3, "rate": 0.1, **known}
                for epsilon in EPSILONS
            ]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)


def test_a_tau_is_that_of_a_seed_s_networks() -> None:
    rows = table({"criticality": lambda gap, network: gap**3, "psn": lambda gap, network: -gap})
    assert tau(rows, "criticality").tolist() == [1.0] * 3
    assert tau(rows, "psn").tolist() == [-1.0] * 3
    assert tau_ahead(rows, "psn").tolist() == [2.0] * 3
    assert tau(rows, "nop").abs().max() < 0.4


def test_a_tie_counts_0() -> None:
    halves = table({"critical_modules": lambda gap, network: float(gap >= 0.15)})
    assert tau(halves, "critical_modules").tolist() == pytest.approx([15 * 15 / (30 * 29 / 2)] * 3)


def test_networks_that_cannot_be_compared_are_left_out_and_too_many_leave_no_value() -> None:
    rows = table({"criticality": lambda gap, network: gap})
    some = rows.line.isin([f"n{i}" for i in range(6)]) & (rows.seed == 1)
    assert tau(rows.assign(reached=~some), "criticality").tolist() == [1.0] * 3
    more = some | (rows.line == "n6") & (rows.seed == 1)
    assert tau(rows.assign(reached=~more), "criticality").isna().tolist() == [False, True, False]
    without = rows.assign(criticality=rows.criticality.mask(more))
    assert tau(without, "nop").isna().tolist() == [False, True, False]  # all on the same networks
    failed = rows.assign(status=rows.status.mask(more, "diverged"), reached=rows.reached.astype("object").mask(more))
    assert tau(failed, "criticality").isna().tolist() == [False, True, False]


def noisy(gap: float, network: int) -> float:
    """Much the gap's order."""
    return gap + 0.02 * math.sin(5 * network)


def test_the_verdict_needs_seeds_and_architectures() -> None:
    claim = CLAIMS["T2"]
    rows = table({"criticality": noisy})
    verdict = judge(claim, measured(claim, rows))
    assert verdict.outcome == "reproduced"
    ranking = pooled(rows, resamples=200)
    assert ranking.measure.tolist() == list(MEASURES)
    assert ranking.n.tolist() == [90] * len(MEASURES)
    assert {"by architecture", "by batch", "granulated", "difference_low"} <= set(ranking)
    assert confirmed(verdict, ranking) is verdict

    wide = ranking.assign(difference_low=ranking.difference_low.mask(ranking.measure == "sosp", -0.1))
    doubt = confirmed(verdict, wide)
    assert doubt.outcome == "inconclusive"
    assert "better than sosp" in doubt.reason
    assert doubt.table.set_index("part").outcome["better than sosp"] == "inconclusive"
    assert doubt.table.set_index("part").outcome["better than psn"] == "reproduced"


def test_a_measure_that_is_better_refutes_the_claim() -> None:
    claim = CLAIMS["T2"]
    rows = table({"criticality": lambda gap, network: -gap, "pfn": noisy})
    verdict = judge(claim, measured(claim, rows))
    ranking = pooled(rows, resamples=200)
    assert verdict.outcome == "not reproduced"
    assert confirmed(verdict, ranking).outcome == "not reproduced"
    unsure = ranking.assign(difference_high=0.1, high=0.3)
    assert confirmed(verdict, unsure).outcome == "inconclusive"


def test_the_number_of_critical_modules_is_a_rival_as_the_others() -> None:
    claim = CLAIMS["N"]
    good = table({"criticality": noisy, "critical_modules": lambda gap, network: float(network % 4)})
    assert judge(claim, measured(claim, good)).outcome == "reproduced"
    same = table({"criticality": noisy, "critical_modules": noisy})
    assert judge(claim, measured(claim, same)).table.set_index("part")["mean"]["better than critical_modules"] == 0.0
    better = table({"criticality": noisy, "critical_modules": lambda gap, network: gap})
    assert judge(claim, measured(claim, better)).outcome == "not reproduced"


def test_widths_are_ranked_against_the_gap() -> None:
    claim = CLAIMS["T4"]
    rows = table({name: lambda gap, network: -gap for name in MEASURES}, architectures=2)
    rows = rows[rows.line.isin([f"n{i}" for i in range(4)])]
    verdict = judge(claim, measured(claim, rows))
    assert verdict.table["mean"].tolist() == [-1.0] * (1 + len(PAPER))
    assert verdict.outcome == "reproduced"
    one = rows.assign(psn=-rows.psn)
    assert judge(claim, measured(claim, one)).outcome == "not reproduced"


def curves(height: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {"line": line, "seed": seed, "status": "ok", "reached": True, "epsilon": epsilon, "criticality": mu}
        for seed in SEEDS
        for line, values in height.items()
        for epsilon, mu in zip(EPSILONS, values, strict=True)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_curves_that_keep_their_order_and_one_far_above() -> None:
    apart = {line: [9.0 - place, 8.0 - place, 7.0 - place] for place, line in enumerate(CURVES)}
    rows = curves(apart | {CURVES[0]: [100.0, 90.0, 28.0], "another": [1e6, 1e6, 1e6]})
    assert kept_order(rows).tolist() == [1.0] * 3
    assert far_above(rows).tolist() == pytest.approx([28 / 6] * 3)
    crossed = curves(apart | {CURVES[0]: [100.0, 90.0, 0.1]})
    assert kept_order(crossed).tolist() == pytest.approx([1 - 3 / 12] * 3)
    assert far_above(crossed).tolist() == pytest.approx([0.1 / 6] * 3)
    missing = rows.assign(criticality=rows.criticality.mask((rows.epsilon == EPSILONS[0]) & (rows.line == CURVES[2])))
    assert far_above(missing).tolist() == pytest.approx([28 / 6] * 3)
    assert kept_order(missing).tolist() == [1.0] * 3
    here = rows.assign(criticality=rows.criticality.mask((rows.epsilon == EPSILON) & (rows.line == CURVES[2])))
    assert kept_order(here).isna().all()
    late = rows.assign(reached=(rows.line != CURVES[1]) | (rows.seed != 1))
    assert kept_order(late).isna().tolist() == far_above(late).isna().tolist() == [False, True, False]


def images(size: int, channels: int) -> Dataset:
    small = subset(digits(), train=40, test=20)
    pair = [(x[:, :, :1, :1].expand(-1, channels, size, size).contiguous(), y) for x, y in (small.train, small.test)]
    return Dataset(name="images", train=pair[0], test=pair[1], classes=10)


def test_the_laptop_ranks_thirty_networks_and_the_paper_nine() -> None:
    assert len(ranked("laptop", 2)) == 30 == len({*ranked("laptop", 2).values()})
    assert tuple(ranked("paper", 2)) == PAPER_NETWORKS
    assert {net.data for net in ranked("paper", 3).values()} == {"cifar-100"}
    assert len(widths("laptop")) == len(widths("paper")) == 4
    assert set(CURVES) <= set(ranked("laptop", 2)) & set(ranked("paper", 2))
    for net in ranked("laptop", 2).values():
        assert net.fit.target_error is not None
        assert net.fit.target_error < min(EPSILONS)
        assert net.recipe(5).seed == 5
    for preset in ("laptop", "paper"):
        for name, claim in CLAIMS.items():
            sweep = SWEEPS[name](preset=preset, seeds=range(claim.seeds))
            assert len({*sweep.configs}) == len(sweep.configs)
            assert len({part.name for part in claim.parts}) == len(claim.parts)
    assert all(isinstance(part, Rival) for part in (*CLAIMS["T2"].parts, *CLAIMS["N"].parts))


@pytest.mark.parametrize("architecture", [*LAPTOP_WIDTHS, "resnet50", "densenet121"])
def test_every_architecture_can_be_built(architecture: Any) -> None:
    width = LAPTOP_WIDTHS.get(architecture, 1 / 16)
    for net, data in (
        (laptop_net(architecture, "fashion-mnist", width=width), images(14, 1)),
        (replace(paper_net(architecture, "cifar-10"), width=width), images(32, 3)),
    ):
        model = net.factory(data)()
        assert model.eval()(data.train[0][:2]).shape == (2, 10)


def test_of_digits_the_splits_are_exchanged() -> None:
    data = laptop_net("fcn-3x64", "digits", width=1.0).load()
    assert (len(data.train[1]), len(data.test[1])) == (360, 1437)


def test_one_network_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criticality_ranking, "EPSILONS", (EPSILON, 0.15))
    base = laptop_net("fcn-3x64", "digits", width=1 / 2)
    fit = replace(base.fit, epochs=60, lr=0.05, batch_size=20, lr_drops=())
    net: Ranked = replace(base, test=300, noise_samples=2, fit=fit)
    point = RankedPoint(line="fcn-3x64", net=net, seed=2)
    found = measure_network(point, tmp_path)
    assert found.epsilon.tolist() == [EPSILON, 0.15]
    assert found.criticality.is_monotonic_decreasing
    assert found.criticality.notna().all()
    assert found.reached.all()
    data = net.load()
    model = trained(net.factory(data), data.train, net.recipe(2), catalogue=tmp_path).trajectory.model()
    error = float(evaluate(model, data.test, (), metrics=("error",)).baseline["error"])
    assert found.gap.tolist() == pytest.approx([error - found.train_error[0]] * 2)
    assert found.nop.tolist() == [sum(value.numel() for value in model.parameters())] * 2
    assert found[list(NORMS)].notna().all(axis=None)
    (folder,) = (tmp_path / "criticality").iterdir()
    assert CriticalityResult.load(folder).total(EPSILON) == found.criticality[0]
