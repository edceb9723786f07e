"""The table of units and their kinds: closed forms, slow oracles, the paper's constructions, edges, files."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy._storage import write_json
from netopsy.models.constructions import counterweighted, duplicated, with_blocked_units, with_silent_units
from netopsy.models.fcn import FCN, fcn
from netopsy.network.addresses import Address
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer, attention_heads
from netopsy.probes.ablation import ablation_curve, unit_effects
from netopsy.probes.kinds import KINDS, UnitCriteria, classify
from netopsy.probes.redundancy import redundancy
from netopsy.probes.units import unit_table
from netopsy.probes.units_result import COLUMNS, UnitTableResult
from tests import zoo
from tests.oracles import units as oracle
from tests.oracles.ablation import measured
from tests.oracles.moments import explained, similar

INPUTS, WIDTH = 30, 12


@cache
def small() -> tuple[FCN, Tensor, Tensor]:
    """A network in which every unit is active, now and then; its own labels."""
    with forked(8):
        model = fcn(inputs=INPUTS, classes=3, depth=2, width=WIDTH).double().eval()
        for layer in model.hidden:
            nn.init.normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        x = torch.randn(300, INPUTS, dtype=torch.float64)
    return model, x, model(x).argmax(1)


@cache
def table() -> UnitTableResult:
    model, x, y = small()
    return unit_table(model, (x, y), engine="eager")


class Flat(nn.Module):
    """Units are the inputs themselves; logits are a linear function of them."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.act, self.head = nn.Identity(), nn.Linear(weight.shape[1], len(weight), bias=False).to(weight.dtype)
        with torch.no_grad():
            self.head.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(x))


def of(x: Tensor, y: Tensor, weight: Tensor | None = None, **options: Any) -> pd.DataFrame:
    model = Flat(torch.eye(2, x.shape[1], dtype=x.dtype) if weight is None else weight)
    return unit_table(model, (x, y), sites="act", engine="eager", **options).frame


def test_the_columns() -> None:
    frame = table().to_frame()
    assert tuple(frame.columns) == COLUMNS
    assert {str(frame[name].dtype) for name in ("unit", "similar", "n")} == {"Int64"}
    assert {str(frame[name].dtype) for name in ("site", "kind", "status")} == {"string"}
    assert all(frame[name].dtype == np.float64 for name in COLUMNS if frame[name].dtype.kind == "f")
    assert frame.site.tolist() == ["activation.0"] * WIDTH + ["activation.1"] * WIDTH
    assert frame.unit.tolist() == [*range(WIDTH)] * 2


def test_a_unit_that_says_the_class_and_one_that_says_nothing_of_it() -> None:
    y = torch.arange(40) % 2
    noise = torch.arange(40) // 2 % 2  # as often in each class
    x = torch.stack([y, noise, y + noise], 1).double()
    frame = of(x, y, torch.tensor([[0.0, 0, 0], [1, 0, 0]], dtype=torch.float64) * 2 - 0.5)
    assert frame.selectivity.tolist() == pytest.approx([1, 0, 0.5])
    assert frame.r2.tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    assert frame.activity.tolist() == [0.5, 0.5, 0.75]
    assert frame.similar.tolist() == [1, 1, 2]  # r = 1/sqrt(2) with the sum


def test_how_far_the_logits_move() -> None:
    """Logits are two uncorrelated units of mean 0 and variances 1 and 4: without one, its own variance is moved."""
    a, b = torch.tensor([1.0, -1]).repeat(20), torch.tensor([2.0, 2, -2, -2]).repeat(10)
    frame = of(torch.stack([a, b, a * b], 1).double(), torch.zeros(40, dtype=torch.long))
    np.testing.assert_allclose(frame.logit_change, [0.2**0.5, 0.8**0.5, 0])
    assert frame.logit_change.iloc[2] == 0
    assert frame.kind.tolist() == ["unique", "unique", "non-redundant blocked"]
    assert frame.selectivity.isna().all()  # one class only


def test_logits_that_never_vary_and_move_all_the_same() -> None:
    frame = of(torch.full((10, 3), 2.0).double(), torch.zeros(10, dtype=torch.long))
    assert frame.logit_change.tolist() == [np.inf, np.inf, 0.0]
    assert frame.kind.tolist() == ["constant"] * 3


@pytest.mark.parametrize("engine", ["eager", "exported"])
def test_every_number_by_whole_forwards_and_plain_loops(engine: Any) -> None:
    with forked(2):
        x, y = torch.randn(30, 2, 6, 6, dtype=torch.float64), torch.randint(0, 3, (30,))
        y[:4] = -100
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.GELU(), nn.Flatten(),
            nn.Linear(12, 3),
        ).double().eval()  # fmt: skip
        nn.init.normal_(model[1].running_mean, std=0.3)
        nn.init.uniform_(model[1].weight, 0.5, 1.5)
    frame = unit_table(model, (x, y), engine=engine, batch_size=7, similar=0.2, ridge=1e-12).frame
    assert len(frame) == 7
    counted = y >= 0
    for site, part in frame.groupby("site"):
        rows, classes = oracle.samples(model, x, y, str(site))
        columns = list(zip(*rows, strict=True))
        near = [{j for j in range(len(columns)) if abs(np.corrcoef(columns[i], columns[j])[0, 1]) >= 0.2}
                for i in range(len(columns))]  # fmt: skip
        np.testing.assert_allclose(part.r2, explained(rows), atol=1e-6)
        assert part.similar.tolist() == similar(rows, 0.2) == [len(peers) - 1 for peers in near]
        np.testing.assert_allclose(part["mean"], np.mean(rows, axis=0))
        np.testing.assert_allclose(part.variance, np.var(rows, axis=0))
        np.testing.assert_allclose(part.activity, (np.array(rows) > 0).mean(0))
        np.testing.assert_allclose(part.selectivity, [oracle.eta_squared(c, classes) for c in columns])
        for unit, row in enumerate(part.itertuples()):
            unchanged, accuracy = measured(model, x[counted], y[counted], {str(site): [unit]})
            before = measured(model, x[counted], y[counted], {})[1]
            assert row.effect == pytest.approx(1 - unchanged)
            assert row.accuracy_change == pytest.approx(accuracy - before)
            change = oracle.logit_change(model, x[counted], {str(site): [unit]})
            assert row.logit_change == pytest.approx(change, rel=1e-9)
            both = measured(model, x[counted], y[counted], {str(site): sorted(near[unit])})
            assert row.effect_similar == pytest.approx(1 - both[0])
            assert row.accuracy_change_similar == pytest.approx(both[1] - before)
    assert frame.effect.max() > 0.05
    assert (frame.effect_similar != frame.effect).any()
    assert frame.similar.min() < frame.similar.max()


def test_it_says_what_the_probes_beside_it_say() -> None:
    model, x, y = small()
    frame = table().frame
    effects = unit_effects(model, (x, y), engine="eager")
    np.testing.assert_allclose(frame.effect, 1 - effects.unchanged, atol=1e-12)
    assert frame.accuracy_change.tolist() == effects.accuracy_change.tolist()
    units = redundancy(model, (x, y)).units
    for name in ("activity", "mean", "variance", "r2", "similar"):
        pd.testing.assert_series_equal(frame[name], units[name], check_dtype=False)


def test_everything_in_s_is_active_and_unlike_the_others() -> None:
    """What the tests of the constructions rest on."""
    frame = table().frame
    assert frame.activity.min() > 0.05
    assert frame.logit_change.min() > 1e-3
    assert frame.r2.max() < 0.85
    assert set(frame.kind) <= {"unique", "semantically redundant"}


def test_duplicated_units_are_redundant_and_functional() -> None:
    model, x, y = small()
    engines: list[Any] = ["exported", "eager"]
    for large, engine in zip((duplicated(model), counterweighted(model, eta=3.0)), engines, strict=True):
        frame = unit_table(large, (x, y), engine=engine, similar=0.999).frame
        assert frame.kind.tolist() == ["redundant functional"] * 4 * WIDTH
        assert set(frame.similar) == {1}
        # a unit and its twin together are the unit of S
        of_s = [table().frame.effect[i : i + WIDTH] for i in (0, 0, WIDTH, WIDTH)]
        np.testing.assert_allclose(frame.effect_similar, pd.concat(of_s), atol=1e-12)
        last = frame[frame.site == "activation.1"].logit_change.to_numpy()
        if engine == "exported":  # of W/2 and W/2 each moves the logits half as far
            np.testing.assert_allclose(2 * last, np.tile(table().frame.logit_change[WIDTH:], 2))
            assert frame.effect.sum() < frame.effect_similar.sum()
        else:
            assert frame.effect.sum() > frame.effect_similar.sum()


def test_silent_and_blocked_units_are_that() -> None:
    model, x, y = small()
    for large, kind in [
        (with_silent_units(model, count=3), "silent"),
        (with_blocked_units(model, count=3), "non-redundant blocked"),
    ]:
        result = unit_table(large, (x, y), engine="eager")
        added = result.frame.unit >= WIDTH
        assert result.frame.kind[added].tolist() == [kind] * 6
        assert (result.frame.logit_change[added] == 0).all()
        assert (result.frame.effect[added] == 0).all()
        assert not result.frame.kind[~added].isin([kind]).any()
        assert result.counts()[kind].tolist() == [3, 3]


def test_units_that_copy_others_and_are_not_read_are_redundant_and_blocked() -> None:
    model, x, y = small()
    twins = duplicated(model)
    with torch.no_grad():
        for reader in (twins.hidden[1], twins.classifier):
            reader.weight[:, :WIDTH] *= 2
            reader.weight[:, WIDTH:] = 0
    frame = unit_table(twins, (x, y), engine="eager").frame
    assert frame.kind.tolist() == (["redundant functional"] * WIDTH + ["redundant blocked"] * WIDTH) * 2


def test_a_crowd_of_weak_votes_is_semantically_redundant() -> None:
    """Forty noisy reports of the class: each selective, none determined by the others, none needed."""
    with forked(3):
        y = torch.arange(200) % 2
        x = (2.0 * y[:, None] - 1 + torch.randn(200, 40)).double()
    frame = of(x, y, torch.stack([-torch.ones(40), torch.ones(40)]).double())
    assert frame.kind.value_counts().to_dict() == {"semantically redundant": 40}
    alone = of(x[:, :1], y, torch.tensor([[-1.0], [1.0]]).double())
    assert alone.kind.tolist() == ["unique"]
    assert alone.selectivity.tolist() == pytest.approx(frame.selectivity.tolist()[:1], rel=1e-12)


ROW = {"activity": 0.5, "mean": 1.0, "variance": 1.0, "r2": 0.5, "selectivity": 0.05, "effect": 0.1,
       "logit_change": 0.5, "status": "ok"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "unique"),
        ({"activity": 0.01}, "silent"),
        ({"activity": 0.011}, "unique"),
        ({"activity": 0.0, "mean": -0.5}, "unique"),
        ({"activity": 0.0, "mean": 0.0, "variance": 0.0, "r2": None, "logit_change": 0.0}, "silent"),
        ({"mean": -3.0, "variance": 0.0, "activity": 0.0, "r2": None}, "constant"),
        ({"variance": 0.0025}, "constant"),
        ({"variance": 0.0026}, "unique"),
        ({"variance": 0.001, "r2": 0.99, "logit_change": 0.0}, "constant"),
        ({"activity": 0.0, "variance": 0.0}, "silent"),
        ({"r2": 0.9}, "redundant functional"),
        ({"r2": 0.9, "logit_change": 1e-4}, "redundant blocked"),
        ({"logit_change": 1e-4}, "non-redundant blocked"),
        ({"logit_change": 1.1e-4}, "unique"),
        ({"logit_change": np.inf}, "unique"),
        ({"r2": None, "logit_change": 0.0}, "non-redundant blocked"),
        ({"r2": None}, "unique"),
        ({"effect": 0.005, "selectivity": 0.1}, "semantically redundant"),
        ({"effect": 0.006, "selectivity": 0.1}, "unique"),
        ({"effect": 0.005, "selectivity": 0.09}, "unique"),
        ({"effect": 0.0, "selectivity": None}, "unique"),
        ({"effect": 0.0, "selectivity": 1.0, "r2": 0.95}, "redundant functional"),
        (
            {"activity": None, "mean": None, "variance": None, "r2": None, "logit_change": 0.0},
            "non-redundant blocked",
        ),
        ({"status": "non-finite", "activity": 0.0}, "unknown"),
        ({"logit_change": None}, "unknown"),
        ({"status": "no-op", "effect": 0.0, "logit_change": 0.0}, "non-redundant blocked"),
    ],
)
def test_kinds_by_the_table(changes: dict[str, Any], kind: str) -> None:
    frame = pd.DataFrame([ROW | changes], index=[7])
    assert classify(frame).to_dict() == {7: kind}
    assert kind in KINDS


def test_other_criteria_other_kinds(unchecked: None) -> None:
    result = table()
    all_silent = result.reclassified(UnitCriteria(silent=1.0))
    assert set(all_silent.frame.kind) == {"silent"}
    assert set(result.frame.kind) != {"silent"}
    assert result.reclassified(UnitCriteria(redundant=0.0)).counts()["redundant functional"].tolist() == [
        WIDTH,
        WIDTH,
    ]
    assert "active in <= 1 of the samples" in str(all_silent)
    again = unit_table(*small()[:1], small()[1:], engine="eager", criteria=UnitCriteria(silent=1.0))
    pd.testing.assert_frame_equal(again.frame, all_silent.frame)
    for name, value in [("silent", 1.1), ("constant", -1.0), ("redundant", -0.1), ("blocked", np.inf),
                        ("harmless", np.nan), ("selective", 2)]:  # fmt: skip
        with pytest.raises(NetopsyError, match=rf"^{name}: expected a number in \[0, "):
            UnitCriteria(**{name: value})
    with pytest.raises(NetopsyError, match="expected the columns of a unit table; it has no r2, status"):
        classify(result.frame.drop(columns=["r2", "status"]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.criteria.silent = 0.5  # type: ignore[misc]


class Dead(nn.Module):
    """Two layers that nothing reads, one a copy of what is read; a layer of one unit; a module with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.dead, self.two = nn.Linear(6, 4), nn.Tanh(), nn.Sigmoid(), Two()
        self.one, self.b = nn.Linear(4, 1), nn.Linear(5, 3)
        self.act1 = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.a(x))
        self.dead(x)
        left, _ = self.two(hidden)
        return self.b(torch.cat([left, self.act1(self.one(hidden))], 1))


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x * 3


@pytest.mark.parametrize("engine", ["eager", "exported"])
def test_layers_that_are_not_read_or_have_one_unit_and_modules_with_two_outputs(engine: Any) -> None:
    with forked(4):
        model, x, y = Dead(), torch.randn(40, 6), torch.randint(0, 3, (40,))
    sites = ["act", "dead", "act1"]
    sites += [UnitLayer(f"two {item}", Address("output", "two", item=item), 1, 4, shape=(4,)) for item in (0, 1)]
    result = unit_table(model, (x, y), sites=sites, engine=engine)
    frame = result.frame.set_index("site")
    for site in ("dead", "two 1"):
        assert set(frame.loc[site].kind) == {"non-redundant blocked"}, site
        assert set(frame.loc[site].status) == {"no-op"}
        assert (frame.loc[site][["effect", "effect_low", "effect_high", "logit_change"]] == 0).all().all()
    one = frame.loc["act1"]
    assert pd.isna(one.r2)
    assert pd.isna(one.similar)
    assert one.effect_similar == one.effect
    assert one.selectivity > 0
    assert (frame.loc["two 0"].logit_change > 0).all()
    assert frame.loc["two 0"].selectivity.tolist() == pytest.approx(frame.loc["act"].selectivity.tolist(), rel=1e-4)
    assert result.provenance["statistics"]["act1"] == "one unit"


def test_dead_constant_and_duplicate_units_in_one_layer() -> None:
    """Units: x0, the same again, x1, zero, 5, x2 (not read)."""
    with forked(6):
        x = torch.rand(60, 3) + 0.1
        x = torch.stack([x[:, 0], x[:, 0], x[:, 1], torch.zeros(60), torch.full((60,), 5.0), x[:, 2]], 1)
    weight = torch.tensor([[1.0, 1, 0, 1, 1, 0], [0, 0, 2, 1, 0, 0]])
    frame = of(x, torch.arange(60) % 2, weight)
    assert frame.kind.tolist() == ["redundant functional", "redundant functional", "unique", "silent", "constant",
                                   "non-redundant blocked"]  # fmt: skip
    assert frame.r2.isna().tolist() == frame.similar.isna().tolist() == frame.selectivity.isna().tolist()
    assert frame.r2.isna().tolist() == [False, False, False, True, True, False]
    assert frame.similar.dropna().tolist() == [1, 1, 0, 0]
    assert frame.effect_similar[3:].tolist() == frame.effect[3:].tolist()
    assert frame.effect[4] > 0  # constant, and the output needs it all the same


def test_values_that_are_not_finite_are_unknown() -> None:
    class Capped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.head = nn.Identity(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            big = self.act(torch.cat([x, 1 / torch.zeros_like(x[:, :1])], 1))
            return self.head(big.clamp(-3, 3))

    with forked(5):
        model, x, y = Capped(), torch.randn(40, 2), torch.randint(0, 2, (40,))
    result = unit_table(model, (x, y), sites="act", engine="eager")
    frame = result.frame
    assert (frame.kind == "unknown").tolist() == [False, False, True]
    assert (frame.status == "non-finite").tolist() == [False, False, True]
    assert frame[["mean", "variance", "r2", "selectivity"]].isna().all(axis=1).tolist() == [False, False, True]
    assert frame.r2[:2].notna().all()
    assert "1 units are unknown" in str(result)


def test_outputs_that_are_not_finite_without_a_unit() -> None:
    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            units = self.act(x)
            return torch.stack([units[:, 0], units[:, 1]], 1) / units[:, 2:]

    with forked(5):
        x = torch.rand(40, 3) + 0.5
    frame = unit_table(Divided(), (x, (x[:, 1] > x[:, 0]).long()), sites="act", engine="eager").frame
    assert frame.kind.tolist() == ["unique", "unique", "unknown"]
    assert frame.status.tolist() == ["ok", "ok", "non-finite"]
    assert frame.logit_change.isna().tolist() == [False, False, True]
    assert frame.effect[2] == 1
    assert frame.accuracy_change[2] == -1


def test_units_of_several_numbers_have_an_effect_alone() -> None:
    case = zoo.case("gpt2")
    heads = attention_heads(case.model, case.inputs, "transformer.h.0.attn.c_proj", heads=2)
    result = unit_table(case.model, case.data, sites=heads, task=case.task, engine="eager")
    frame = result.frame
    assert frame[["activity", "mean", "variance", "r2", "similar", "selectivity"]].isna().all().all()
    effects = unit_effects(case.model, case.data, sites=heads, task=case.task, engine="eager")
    np.testing.assert_allclose(frame.effect, 1 - effects.unchanged)
    assert (frame.logit_change > 0).all()
    assert set(frame.kind) == {"unique"}
    assert frame.effect_low.isna().all()  # several predictions an example
    assert "their kind is by their effect alone" in str(result)


def test_positions_with_targets_of_their_own() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.act, self.head = nn.Embedding(7, 3), nn.Identity(), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.embed(x)))

    with forked(9):
        model, x = Tagger(), torch.randint(0, 7, (20, 5))
        y = torch.randint(0, 4, (20, 5))
        y[3:9, 2] = -100
    values = model.embed(x).detach()
    for task, kept, labels in [(Task(), values, y), (Task(positions="next"), values[:, :-1], y[:, 1:])]:
        frame = unit_table(model, (x, y), sites="act", task=task, engine="eager", batch_size=8).frame
        expected = [oracle.eta_squared(kept[:, :, i].flatten().tolist(), labels.flatten().tolist()) for i in range(3)]
        np.testing.assert_allclose(frame.selectivity, expected, rtol=1e-5)
    other = unit_table(model, (x, y), sites=[UnitLayer("positions", Address("output", "act"), 1, 5)], engine="eager")
    assert other.frame.selectivity.isna().all()  # three positions, five targets


def test_few_samples_have_no_r2_and_say_so() -> None:
    model, x, y = small()
    result = unit_table(model, (x[:5], y[:5]), engine="eager")
    assert result.frame.r2.isna().all()
    assert not result.frame.kind.str.startswith("redundant").any()
    assert "few samples: not more than units in activation.0, activation.1" in str(result)


def test_precision_and_order_of_the_examples_change_nothing_but_rounding() -> None:
    model, x, y = small()
    plain = unit_table(fcn_like(model), (x.float(), y), engine="eager", batch_size=64, seed=3).frame
    pd.testing.assert_frame_equal(plain, table().frame, check_exact=False, rtol=1e-3, atol=1e-4)


def fcn_like(model: FCN) -> FCN:
    twin = fcn(inputs=INPUTS, classes=3, depth=2, width=WIDTH)
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def test_batches_are_cut_where_the_logits_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = small()
    sizes: list[int] = []
    options: Any = {"sites": "activation.1", "engine": "eager", "similar": 1.0}
    whole = unit_table(model, (x[:60], y[:60]), **options)
    monkeypatch.setattr("netopsy.probes.units.KEPT", 8 * WIDTH * 3 * 25)
    hook = model.classifier.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    cut = unit_table(model, (x[:60], y[:60]), **options)
    hook.remove()
    assert sizes[-3 * (WIDTH + 1) :] == [25] * 2 * (WIDTH + 1) + [10] * (WIDTH + 1)
    assert 60 in sizes  # what comes before, whose logits are not kept
    pd.testing.assert_frame_equal(cut.frame, whole.frame)


def test_intervals_hold_the_estimate_and_it_stops_early() -> None:
    frame = table().frame
    for name in ("effect", "accuracy_change"):
        assert (frame[f"{name}_low"] <= frame[name]).all()
        assert (frame[name] <= frame[f"{name}_high"]).all()
    assert (frame.effect_high - frame.effect_low > 0.03).all()
    model, x, y = small()
    exact = unit_table(model, (x, y), engine="eager", estimand="dataset").frame
    assert exact.effect_low.tolist() == exact.effect.tolist() == exact.effect_high.tolist()
    with forked(8):
        x = torch.randn(3000, INPUTS, dtype=torch.float64)
    early = unit_table(model, (x, model(x).argmax(1)), engine="eager", stop="verdict", tolerance=0.4, batch_size=100)
    assert early.frame.n.min() < 3000
    assert (early.frame.effect_low <= early.frame.effect).all()
    assert "kinds follow the estimates" in str(early)


def test_the_model_and_its_data_are_as_they_were() -> None:
    model, x, y = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept, mode = x.clone(), model.train().training
    unit_table(model, (x, y), engine="eager")
    assert model.training == mode
    model.eval()
    assert torch.equal(x, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.activation[0]._forward_hooks


def test_arguments_that_cannot_be_worked_with(unchecked: None) -> None:
    model, x, y = small()
    call: Any = unit_table
    passes: list[int] = []
    without_labels = Task(inputs=lambda batch: ((batch["x"],), {}))
    for net, data, options, message in [
        (model, (x, y), {"similar": 0.0}, r"similar: expected a number in \(0, 1\]; got 0.0"),
        (model, (x, y), {"ridge": 0.0}, r"ridge: expected a number in \(0, 1\]; got 0.0"),
        (model, (x, y), {"engine": "fast"}, "engine: expected one of 'auto', 'exported', 'eager'; got 'fast'"),
        (model, (x, y), {"sites": "activaton.0"}, r"matches no module of FCN; did you mean activation\.0"),
        (model, (x, y + 3), {}, "targets: expected labels from 0 to 2"),
        (model, (x * torch.nan, y), {}, "its own outputs on the first batch are not finite; check its weights and"),
        (
            model,
            {"x": x},
            {"task": without_labels},
            "expected a dict with one of labels",
        ),
        (model, (x, y - 1000), {"task": Task(ignore_index=-1)}, "targets: expected labels from 0 to 2"),
        (model, (x, torch.full_like(y, -100)), {}, "targets: expected some to count; all are the ignore_index"),
        ("model", (x, y), {}, r"model: expected a torch module; got str; of a trajectory pass \.model\(key\)"),
        (zoo.mlp().half(), (x, y), {}, "model: expected float32 or float64 parameters"),
    ]:
        with pytest.raises(NetopsyError, match=message):
            call(net, data, progress=lambda done, total: passes.append(done), **options)
    assert not passes
    late = [(x[:9], y[:9]), (x[:8, :, None], y[:8] + 3)]  # shapes that differ: only a pass tells
    with pytest.raises(NetopsyError, match="batch 1 has labels"):
        call(nn.Sequential(nn.Flatten(), model), late, engine="eager")


def test_saved_and_read_it_is_the_same(tmp_path: Path) -> None:
    result = table()
    again = UnitTableResult.load(result.save(tmp_path / "result"))
    pd.testing.assert_frame_equal(again.frame, result.frame, check_exact=True)
    assert again.criteria == result.criteria
    assert again.provenance == result.provenance
    assert str(again) == str(result)
    with pytest.raises(NetopsyError, match="exists and is not empty"):
        result.save(tmp_path / "result")
    write_json(tmp_path / "result" / "manifest.json", {"provenance": {"probe": "units"}})
    with pytest.raises(NetopsyError, match="its criteria cannot be read"):
        UnitTableResult.load(tmp_path / "result")
    with pytest.raises(NetopsyError, match=r"expected a saved UnitTableResult; it has no results\.parquet"):
        UnitTableResult.load(tmp_path)


def test_counts_and_print() -> None:
    result = table()
    counts = result.counts()
    assert counts.columns.tolist() == list(KINDS)
    assert counts.index.tolist() == ["activation.0", "activation.1"]
    assert counts.sum(axis=1).tolist() == [WIDTH, WIDTH]
    lines = str(result).splitlines()
    assert lines[0] == "units by kind; n = 300"
    assert lines[2].split()[:2] == ["activation.0", "12"]
    assert "silent: active in <= 0.01 of the samples" in lines[4]


def test_orders_by_activations() -> None:
    """Of a layer of six: x0, x0 again, x1, zero, 5, and x2 below zero but for a few samples."""
    with forked(6):
        x = torch.rand(60, 3) + 0.1
        low = x[:, 2] * torch.where(torch.arange(60) < 6, 1.0, -1.0)
        x = torch.stack([x[:, 0], x[:, 0] * 2, x[:, 1], torch.zeros(60), torch.full((60,), 5.0), low], 1)
    model, y = Flat(torch.tensor([[1.0, 1, 0, 1, 1, 0], [0, 0, 2, 1, 0, 1]])), torch.arange(60) % 2
    fractions = (0, 0.5, 1)
    for order, expected in [("most-redundant", (3, 4, 0, 1, 2, 5)), ("least-active", (3, 5, 0, 1, 2, 4))]:
        named: Any = order
        options: Any = {"sites": "act", "fractions": fractions, "engine": "eager"}
        mine = ablation_curve(model, (x, y), order=named, **options)
        if order == "most-redundant":  # which of the last two is nearer to the others is chance
            r2 = unit_table(model, (x, y), sites="act", engine="eager").frame.r2
            expected = (*expected[:4], *sorted((2, 5), key=lambda unit: -r2[unit]))
        given = ablation_curve(
            model, (x, y), sites="act", order={"act": expected}, fractions=fractions, engine="eager"
        )
        pd.testing.assert_frame_equal(mine.frame, given.frame)
        assert f"one order, {order}" in str(mine)
        other = ablation_curve(model, (x, y), order={"act": expected[::-1]}, **options)
        assert other.frame.unchanged.tolist() != mine.frame.unchanged.tolist()


def test_orders_by_activations_that_cannot_be_had() -> None:
    model, x, y = small()
    with pytest.raises(NetopsyError, match=r"'activation\.0' has 12 units that vary, and not more samples: no R²"):
        ablation_curve(model, (x[:12], y[:12]), order="most-redundant", engine="eager")
    ablation_curve(model, (x[:12], y[:12]), order="least-active", engine="eager", fractions=(0, 1))
    case = zoo.case("gpt2")
    heads = attention_heads(case.model, case.inputs, "transformer.h.0.attn.c_proj", heads=2)
    for order in ("most-redundant", "least-active"):
        named: Any = order
        with pytest.raises(NetopsyError, match=r"c_proj' hold 4 numbers each, which have no one activity"):
            ablation_curve(case.model, case.data, sites=heads, task=case.task, order=named)


def test_pictures(unchecked: None) -> None:
    counts = table().plot(kind="counts")
    assert len(counts.patches) >= len(table().frame.kind.unique())
    assert table().plot().figure is not counts.figure
    with pytest.raises(NetopsyError, match="kind: expected one of 'map', 'counts'; got 'pie'"):
        table().plot(kind="pie")  # type: ignore[arg-type]
