"""Ablation curves and the effect of every unit: closed forms, a slow oracle, invariants, refusals, files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy._storage import write_json
from netopsy.models.constructions import counterweighted, duplicated, with_blocked_units, with_silent_units
from netopsy.models.fcn import FCN, fcn
from netopsy.network.addresses import Address
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer, attention_heads
from netopsy.plots.ablation import ablation_areas, ablation_curves
from netopsy.probes.ablation import ablation_curve, unit_effects
from netopsy.probes.ablation_result import AblationResult, falls_below
from tests import zoo
from tests.oracles.ablation import area, measured

FEW = (0.0, 0.3, 0.7, 1.0)


@cache
def small() -> tuple[FCN, Tensor, Tensor]:
    with forked(5):
        model = fcn(inputs=6, classes=3, depth=2, width=5).double().eval()
        return model, torch.randn(60, 6, dtype=torch.float64), torch.randint(0, 3, (60,))


@cache
def curves(**options: Any) -> AblationResult:
    model, x, y = small()
    return ablation_curve(model, (x, y), fractions=FEW, engine="eager", **options)


def one_unit(units: int = 4) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network whose label is 1 where unit 2 is above one half, else 0; the other units feed nothing."""
    first, last = nn.Linear(units, units, bias=False), nn.Linear(units, 2)
    model = nn.Sequential(first, nn.ReLU(), last).requires_grad_(False)
    first.weight.copy_(torch.eye(units))
    last.weight.zero_()
    last.weight[1, 2] = 1.0
    last.bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.rand(40, units)
    x[:, 2] = torch.arange(40) % 4 / 3  # above one half in half of the examples
    return model, x, model(x).argmax(1)


def test_nothing_ablated_nothing_changed() -> None:
    model, x, y = small()
    frame = curves().to_frame()
    start = frame[frame.fraction == 0]
    assert set(start.site) == {"activation.0", "activation.1", "all"}
    assert (start[["unchanged", "unchanged_low", "unchanged_high"]] == 1).all().all()
    assert (start.ablated == 0).all()
    assert (start.status == "no-op").all()
    assert (start.accuracy_change == 0).all()
    np.testing.assert_allclose(start.accuracy, measured(model, x, y, {})[1])


@pytest.mark.parametrize("engine", ["eager", "exported"])
def test_a_network_that_depends_on_one_unit(engine: Any) -> None:
    model, x, y = one_unit()
    frame = unit_effects(model, (x, y), engine=engine)
    assert frame.unchanged.tolist() == [1.0, 1.0, 0.5, 1.0]
    assert frame.accuracy_change.tolist() == [0.0, 0.0, -0.5, 0.0]
    assert frame.unit.tolist() == [0, 1, 2, 3]
    quarter = (0, 0.25, 0.5, 0.75, 1)
    last = ablation_curve(model, (x, y), order={"1": (0, 3, 1, 2)}, fractions=quarter, engine=engine)
    assert last.frame[last.frame.site == "1"].unchanged.tolist() == [1, 1, 1, 1, 0.5]
    assert last.areas().area.tolist() == [1 - 0.25 * 0.25] * 2
    assert last.areas().crossing.tolist() == pytest.approx([0.75 + 0.25 * 0.4] * 2)
    first = ablation_curve(model, (x, y), order={"1": (2, 0, 1, 3)}, fractions=quarter, engine=engine)
    assert first.frame[first.frame.site == "1"].unchanged.tolist() == [1, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("engine", ["eager", "exported"])
def test_every_unit_as_by_a_hook_on_the_whole_network(engine: Any) -> None:
    with forked(2):
        images, labels = torch.randn(20, 2, 6, 6, dtype=torch.float64), torch.randint(0, 3, (20,))
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.GELU(), nn.Flatten(),
            nn.Linear(12, 3),
        ).double().eval()  # fmt: skip
    frame = unit_effects(model, (images, labels), engine=engine, batch_size=7)
    assert len(frame) == 7
    for row in frame.itertuples():
        expected = measured(model, images, labels, {str(row.site): [int(str(row.unit))]})
        assert (row.unchanged, row.accuracy) == pytest.approx(expected, abs=1e-12)
    assert frame.unchanged.min() < 1  # some unit matters, else this shows nothing


def test_a_curve_as_by_hooks() -> None:
    model, x, y = small()
    order = {"activation.0": (3, 1, 4, 0, 2), "activation.1": (2, 0, 1, 4, 3)}
    result = ablation_curve(model, (x, y), order=order, fractions=FEW, batch_size=13)
    for row in result.frame.itertuples():
        count = int(float(str(row.fraction)) * 5 + 0.5)
        sites = order if row.site == "all" else [str(row.site)]
        off = {site: order[site][:count] for site in sites}
        expected = measured(model, x, y, off)
        assert (row.unchanged, row.accuracy) == pytest.approx(expected, abs=1e-12)
        assert row.ablated == count * len(sites)
    for row in result.areas().itertuples():
        values = result.frame[result.frame.site == row.site].unchanged
        assert row.area == pytest.approx(area(FEW, values.tolist()), abs=1e-12)


def test_orders_are_nested_seeded_and_meet_at_the_end() -> None:
    frame = curves().frame
    assert frame.order.unique().tolist() == [0, 1, 2]
    assert frame.groupby("site").unchanged.apply(lambda part: part.iloc[3::4].nunique()).eq(1).all()
    assert curves(seed=1).frame.unchanged.tolist() != frame.unchanged.tolist()
    model, x, y = small()
    again = ablation_curve(model, (x, y), fractions=FEW, engine="eager")
    pd.testing.assert_frame_equal(again.frame, frame, check_exact=True)
    # a layer's orders are its own: the same asked for alone
    alone = ablation_curve(model, (x, y), sites="activation.1", fractions=FEW, engine="eager")
    one, of_all = alone.frame[alone.frame.site == "activation.1"], frame[frame.site == "activation.1"]
    assert one.unchanged.tolist() == of_all.unchanged.tolist()
    joint = alone.frame[alone.frame.site == "all"]
    assert joint.unchanged.tolist() == one.unchanged.tolist()  # all of one layer is that layer


def test_orders_by_effect() -> None:
    model, x, y = one_unit()
    least = ablation_curve(model, (x, y), order="least-effect", fractions=(0, 0.5, 1), engine="eager")
    most = ablation_curve(model, (x, y), order="most-effect", fractions=(0, 0.5, 1), engine="eager")
    assert least.frame[least.frame.site == "1"].unchanged.tolist() == [1, 1, 0.5]
    assert most.frame[most.frame.site == "1"].unchanged.tolist() == [1, 0.5, 0.5]
    assert "one order, least-effect" in str(least)


def test_duplicates_are_more_robust_and_counterweights_less() -> None:
    model, x, _ = small()
    labels = model(x).argmax(1)
    effect = {
        name: 1 - unit_effects(net, (x, labels), engine="eager").unchanged.mean()
        for name, net in [("S", model), ("twins", duplicated(model)), ("eta", counterweighted(model, eta=8.0))]
    }
    assert effect["twins"] < effect["S"] < effect["eta"]


def test_silent_and_blocked_units_have_no_effect() -> None:
    model, x, y = small()
    for large in (with_silent_units(model, count=3), with_blocked_units(model, count=3)):
        frame = unit_effects(large, (x, y), engine="eager")
        added = frame[frame.unit >= 5]
        assert len(added) == 6
        assert (added.unchanged == 1).all()
        assert (added.accuracy_change == 0).all()
        own = frame[frame.unit < 5].unchanged.tolist()
        assert own == unit_effects(model, (x, y), engine="eager").unchanged.tolist()


def test_intervals_hold_the_estimate_and_the_dataset_s_are_exact() -> None:
    frame = curves().frame
    for name in ("unchanged", "accuracy_change"):
        assert (frame[f"{name}_low"] <= frame[name]).all()
        assert (frame[name] <= frame[f"{name}_high"]).all()
    ok = frame[frame.status == "ok"]
    assert (ok.unchanged_high - ok.unchanged_low > 0.05).all()
    exact = curves(estimand="dataset").frame
    assert (exact.unchanged_low == exact.unchanged).all()
    assert (exact.unchanged_high == exact.unchanged).all()


def test_it_stops_early() -> None:
    with forked(1):
        x = torch.randn(3000, 6)
        model = zoo.mlp()
        labels = model(x).argmax(1)
    result = ablation_curve(model, (x, labels), stop="verdict", tolerance=0.3, batch_size=100, engine="eager")
    ablated = result.frame[result.frame.ablated > 0]
    assert ablated.n.min() < 3000
    assert (ablated.unchanged_low <= ablated.unchanged_high).all()
    assert result.provenance["stop"] == "verdict"


def test_a_layer_that_the_output_does_not_depend_on() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.dead, self.b = nn.Linear(6, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.dead(x)
            return self.b(self.act(self.a(x)))

    model = Dead()
    x, y = torch.randn(30, 6), torch.randint(0, 3, (30,))
    result = ablation_curve(model, (x, y), fractions=(0, 1))
    dead = result.frame[result.frame.site == "dead"]
    assert (dead.unchanged == 1).all()
    assert (dead.status == "no-op").all()
    assert "the output does not depend on dead." in str(result)


def test_one_unit_layers_and_attention_heads() -> None:
    model = nn.Sequential(nn.Linear(6, 1), nn.Tanh(), nn.Linear(1, 3))
    result = ablation_curve(model, (torch.randn(9, 6), torch.randint(0, 3, (9,))), fractions=FEW, engine="eager")
    assert result.frame[result.frame.site == "1"].ablated.tolist() == [0, 0, 1, 1] * 3
    case = zoo.case("gpt2")
    heads = attention_heads(case.model, case.inputs, "transformer.h.0.attn.c_proj", heads=2)
    frame = unit_effects(case.model, case.data, sites=heads, task=case.task, engine="eager")
    assert frame.unit.tolist() == [0, 1]
    assert frame.unchanged.between(0, 0.999).any()
    assert frame.unchanged_low.isna().all()  # several predictions an example
    features = unit_effects(case.model, case.data, task=case.task, engine="exported")
    assert len(features) == 32


def test_arguments_that_cannot_be_worked_with(unchecked: None) -> None:
    model, x, y = small()
    call: Any = ablation_curve
    for options, message in [
        ({"fractions": (0, 0.5)}, r"fractions: expected ascending numbers from 0 to 1, both included; got 0.0, 0.5"),
        ({"fractions": (0, 0.5, 0.5, 1)}, "fractions: expected ascending numbers"),
        ({"orders": 0}, "orders: expected an integer >= 1; got 0"),
        (
            {"order": "any"},
            "expected one of 'random', 'least-effect', 'most-effect', 'most-redundant', .*; got 'any'",
        ),
        ({"metric": "loss"}, "metric: expected one of 'unchanged', 'accuracy'; got 'loss'"),
        (
            {"order": {"activation.7": (0,)}},
            r"order: expected names of the layers; got 'activation\.7'; did you mean",
        ),
        ({"order": {"activation.0": range(5)}}, r"expected an order of the units of 'activation\.1'; choose sites="),
        ({"order": {"activation.0": (0, 1, 1, 2, 3), "activation.1": range(5)}}, "each unit from 0 to 4 once; got 5"),
        ({"sites": [UnitLayer("all", Address("output", "hidden.0"), 1, 5)]}, "'all' is the name of the row of all"),
    ]:
        with pytest.raises(NetopsyError, match=message):
            call(model, (x, y), **options)


def test_areas_and_crossings() -> None:
    result = curves()
    table = result.areas()
    assert table.columns.tolist() == ["site", "units", "area", "area_sd", "crossing", "orders"]
    assert table.units.tolist() == [5, 5, 10]
    values = result.frame[result.frame.site == "all"].unchanged.to_numpy().reshape(3, 4)
    areas = [area(FEW, row.tolist()) for row in values]
    assert table.area.iloc[2] == pytest.approx(np.mean(areas))
    assert table.area_sd.iloc[2] == pytest.approx(np.std(areas, ddof=1))
    assert result.areas("accuracy").area.tolist() != table.area.tolist()
    assert result.areas(level=0.0).crossing.isna().all()
    assert ablation_curve(*small()[:1], small()[1:], orders=1, engine="eager").areas().area_sd.isna().all()
    with pytest.raises(NetopsyError, match=r"level: expected a number in \[0, 1\]; got 1.5"):
        result.areas(level=1.5)


def test_where_a_curve_falls_below_a_level() -> None:
    at = np.array([0.0, 0.25, 0.5, 1.0])
    assert falls_below(at, np.array([1.0, 0.8, 0.8, 0.4]), 0.8) == 0.5
    assert falls_below(at, np.array([0.5, 0.9, 0.9, 0.9]), 0.8) == 0.0
    assert falls_below(at, np.array([1.0, 0.6, 0.9, 0.1]), 0.8) == pytest.approx(0.125)
    assert np.isnan(falls_below(at, np.array([1.0, 0.9, 0.9, 0.8]), 0.8))


def test_saved_and_read_it_is_the_same(tmp_path: Path) -> None:
    result = curves()
    again = AblationResult.load(result.save(tmp_path / "result"))
    pd.testing.assert_frame_equal(again.frame, result.frame, check_exact=True)
    assert again.units == result.units
    assert again.provenance == result.provenance
    assert str(again) == str(result)
    with pytest.raises(NetopsyError, match="exists and is not empty"):
        result.save(tmp_path / "result")


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match=r"it has no results\.parquet, manifest\.json"):
        AblationResult.load(tmp_path)
    folder = curves().save(tmp_path / "result")
    write_json(folder / "manifest.json", {"provenance": {"probe": "robustness"}})
    with pytest.raises(NetopsyError, match="its manifest is of something else"):
        AblationResult.load(folder)


def test_it_prints_a_row_a_site() -> None:
    lines = str(curves()).splitlines()
    assert lines[0].startswith(
        "predictions unchanged with a share of the units at zero; mean ± sd of 3 random orders"
    )
    assert lines[0].endswith("n = 60")
    assert lines[1].split()[:5] == ["0%", "30%", "70%", "100%", "area"]
    assert [line.split()[0] for line in lines[2:]] == ["activation.0", "activation.1", "all"]
    assert lines[2].split()[1] == "100.0%"


def test_it_draws(unchecked: None) -> None:
    result = curves()
    ax = result.plot()
    assert isinstance(ax, Axes)
    assert [line.get_label() for line in ax.lines] == ["activation.0", "activation.1", "all"]
    np.testing.assert_allclose(ax.lines[2].get_xdata(), FEW)
    bars = result.plot(kind="areas", metric="accuracy")
    heights = [bar.get_height() for bar in bars.containers[0]]
    np.testing.assert_allclose(heights, result.areas("accuracy").area)
    call: Any = result.plot
    with pytest.raises(NetopsyError, match="metric: expected one of"):
        call(metric="unchanged_low")


def test_pictures_refuse_other_frames() -> None:
    with pytest.raises(NetopsyError, match="expected the columns of AblationResult"):
        ablation_curves(pd.DataFrame({"site": ["a"]}))
    with pytest.raises(NetopsyError, match="expected the columns of AblationResult"):
        ablation_areas(pd.DataFrame({"site": ["a"]}))


def test_the_task_reads_the_batches() -> None:
    model, x, y = small()
    task = Task(inputs=lambda batch: ((batch["x"],), {}), targets=lambda batch: batch["y"])
    frame = unit_effects(model, {"x": x, "y": y}, task=task, engine="eager")
    pd.testing.assert_frame_equal(frame, unit_effects(model, (x, y), engine="eager"))
