"""Batch-norm statistics recomputed under edits, against a plain loop."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.engine.calibrate import batch_norms, recompute_statistics
from netopsy.engine.edits import AddNoise, Bypass, Edit, FromCheckpoint, Mask, Rule, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.network.addresses import Address
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory
from tests import zoo
from tests.oracles import naive


class InOrder:
    """Batches that stay as they are."""

    def __init__(self, x: Tensor, y: Tensor, size: int) -> None:
        self.batches = list(zip(x.split(size), y.split(size), strict=True))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def by_hand(model: nn.Module, variant: Variant) -> dict[str, Tensor]:
    edits = [edit for edit in variant.edits if isinstance(edit, Edit)]
    holders = dict(model.named_parameters()) | dict(model.named_buffers())
    floating = [edit for edit in edits if holders[edit.address.name].is_floating_point()]
    return {e.address.name: e.rule(holders[e.address.name].detach(), e.address) for e in floating}


def noisy(model: nn.Module, rule: Rule = AddNoise(0.4, 3)) -> Variant:  # noqa: B008 (rules are frozen)
    return edit_site("noisy", find_sites(model)[0], rule)


class Shared(nn.Module):
    """One norm that is called twice and registered twice, a norm in one dimension, one that keeps no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=0.3)
        self.same, self.own = self.bn, nn.BatchNorm1d(4, track_running_stats=False)
        self.drop, self.c = nn.Dropout(0.5), nn.Linear(4, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.drop(self.own(torch.tanh(self.bn(self.a(x))))))


@pytest.mark.parametrize("name", ["inplace", "efficient"])
@pytest.mark.parametrize("size", [7, 21])
def test_it_equals_a_plain_loop(name: str, size: int) -> None:
    case = zoo.case(name)
    data = InOrder(*case.data, size)
    variant = noisy(case.model)
    found = recompute_statistics(case.model, data, variant)
    inputs = [((x,), {}) for x, _ in data]
    edits = by_hand(case.model, variant)
    expected = naive.batch_norm_statistics(case.model, edits, inputs)
    values = by_hand(case.model, Variant("added", found.edits[len(variant.edits) :]))
    assert values.keys() == expected.keys()
    for buffer, value in expected.items():
        np.testing.assert_allclose(values[buffer], value, rtol=1e-4, atol=1e-5)
    assert found.label == variant.label
    assert found.edits[: len(variant.edits)] == variant.edits

    result = evaluate(case.model, case.data, [variant, found], engine="eager", examples=("loss",), batch_size=8)
    logits = naive.logits(case.model, {**edits, **expected}, [case.inputs], case.read)
    np.testing.assert_allclose(
        result.examples["loss"][1], naive.metrics(logits, case.labels, logits)["loss"], atol=1e-4
    )
    assert np.abs(result.examples["loss"][1] - result.examples["loss"][0]).max() > 1e-2
    exported = evaluate(case.model, case.data, [variant, found], engine="exported", examples=("loss",), batch_size=8)
    np.testing.assert_allclose(exported.examples["loss"], result.examples["loss"], atol=1e-4)


def test_a_norm_that_is_shared_averages_over_batches() -> None:
    model = Shared().eval()
    model.bn.num_batches_tracked.fill_(7)  # what was seen in training does not count
    model.bn.running_mean.fill_(5)
    x, y = zoo.case("mlp").data
    found = recompute_statistics(model, InOrder(x, y, 7), Variant("nothing", ()))
    values = by_hand(model, found)
    expected = naive.batch_norm_statistics(model, {}, [((part,), {}) for part in x.split(7)])
    assert values.keys() == {"bn.running_mean", "bn.running_var"}
    for buffer in values:
        np.testing.assert_allclose(values[buffer], expected[buffer], rtol=1e-4, atol=1e-6)
    assert list(batch_norms(model)) == ["bn"]


def test_a_model_that_is_a_norm() -> None:
    model = nn.BatchNorm1d(6).eval()
    x, y = zoo.case("mlp").data
    found = by_hand(model, recompute_statistics(model, (x, y), Variant("nothing", ())))
    np.testing.assert_allclose(found["running_mean"], x.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["running_var"], x.var(0), atol=1e-6)


def test_a_rewound_site_with_its_old_statistics_gets_new_ones() -> None:
    case = zoo.case("inplace")
    trajectory = Trajectory.from_states(case.model, {0: zoo.fresh_state(case.model, 4), 1: case.model.state_dict()})
    site = find_sites(case.model, "bn")[0]
    variant = edit_site("rewound", site, FromCheckpoint(trajectory, 0))
    found = by_hand(case.model, recompute_statistics(case.model, case.data, variant))
    assert not torch.equal(found["bn.running_mean"], trajectory.tensor(0, "bn.running_mean"))
    assert torch.equal(found["bn.weight"], trajectory.tensor(0, "bn.weight"))


def test_without_a_norm_the_variant_is_returned() -> None:
    case = zoo.case("mlp")
    variant = noisy(case.model)
    assert recompute_statistics(case.model, case.data, variant) is variant


@pytest.mark.parametrize("edit", [Bypass("relu"), Edit(Address("output", "relu"), Mask((0,)))])
def test_edits_of_activations_are_refused(edit: Edit | Bypass) -> None:
    case = zoo.case("inplace")
    with pytest.raises(NetopsyError, match="variant 'v': batch norms are recomputed under edits of parameters only"):
        recompute_statistics(case.model, case.data, Variant("v", (edit,)))


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            lambda m: Variant("v", (Edit(Address("parameter", "konv.weight"), Mask((0,))),)),
            "did you mean conv.weight",
        ),
        (lambda m: noisy(m, Mask((99,), axis=0)), "index 99 is out of bounds"),
    ],
)
def test_bad_edits_are_refused(variant: Callable[[nn.Module], Variant], message: str) -> None:
    case = zoo.case("inplace")
    with pytest.raises(NetopsyError, match=message):
        recompute_statistics(case.model, case.data, variant(case.model))


def test_the_statistics_live_as_long_as_the_variant() -> None:
    case = zoo.case("inplace")
    before = set(Path(tempfile.gettempdir()).glob("netopsy-statistics-*"))
    found = recompute_statistics(case.model, case.data, noisy(case.model))
    made = set(Path(tempfile.gettempdir()).glob("netopsy-statistics-*")) - before
    assert made
    edit = found.edits[-1]
    del found
    gc.collect()
    assert isinstance(edit, Edit)
    assert edit.rule(torch.zeros(8), edit.address).shape == (8,)
    del edit
    gc.collect()
    assert not any(path.exists() for path in made)


def test_the_same_call_gives_the_same_numbers() -> None:
    case = zoo.case("efficient")
    variant = noisy(case.model)
    one, two = (by_hand(case.model, recompute_statistics(case.model, case.data, variant)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
