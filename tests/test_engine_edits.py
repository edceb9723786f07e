"""Rules by hand, their composition, and the values of variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.engine import values as values_module
from netopsy.engine.edits import (
    AddNoise,
    Bypass,
    Edit,
    FromCheckpoint,
    Interpolate,
    LowRank,
    Mask,
    Quantize,
    Redraw,
    Rule,
    Variant,
    apply_edits,
    edit_site,
    joined,
    touched_modules,
)
from netopsy.engine.values import Values
from netopsy.network.addresses import Address, canonical_names, named_state
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory
from tests import zoo

WEIGHT = Address("parameter", "0.weight")


def line() -> nn.Sequential:
    """One linear map with the weight [[1, 2, 3], [4, 5, 6]] and the bias [1, -1]."""
    model = nn.Sequential(nn.Linear(3, 2))
    model.load_state_dict({"0.weight": torch.arange(1.0, 7).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])})
    return model


def start() -> Trajectory:
    """Checkpoint 0 has the weight 10 everywhere and the bias 20."""
    model = line()
    zero = {"0.weight": torch.full((2, 3), 10.0), "0.bias": torch.full((2,), 20.0)}
    return Trajectory.from_states(model, {0: zero, "final": model.state_dict()})


def apply(rule: Rule, value: Tensor, address: Address = WEIGHT) -> Tensor:
    return apply_edits("v", value, [Edit(address, rule)])


def values_of(model: nn.Module, *variants: Variant) -> Values:
    state = {name: value.detach() for name, value in named_state(model).items()}
    return Values(state, canonical_names(model), variants)


def test_from_checkpoint_takes_the_recorded_value() -> None:
    found = apply(FromCheckpoint(start(), 0), line()[0].weight.detach())
    assert torch.equal(found, torch.full((2, 3), 10.0))


def test_interpolate_is_the_criticality_papers_definition() -> None:
    found = apply(Interpolate(start(), 0, 0.25), line()[0].weight.detach())
    expected = torch.tensor([[7.75, 8.0, 8.25], [8.5, 8.75, 9.0]])  # 0.75 * 10 + 0.25 * value
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("alpha", "end"), [(0.0, 10.0), (1.0, None)])
def test_interpolate_ends_exactly_at_the_ends(alpha: float, end: float | None) -> None:
    value = line()[0].weight.detach()
    expected = value if end is None else torch.full((2, 3), end)
    assert torch.equal(apply(Interpolate(start(), 0, alpha), value), expected)


def test_redraw_takes_the_redrawers_value_of_this_seed() -> None:
    redrawer = Redrawer.of(line())
    value = line()[0].weight.detach()
    one, again, other = (apply(Redraw(redrawer, seed), value) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(one, redrawer.tensor(1, "0.weight"))
    assert (one.abs() <= 3**-0.5).all()  # the distribution that nn.Linear(3, 2) draws from


def test_noise_has_the_asked_for_size_and_keeps_its_direction() -> None:
    zero = torch.zeros(100, 100)
    one, two = apply(AddNoise(0.5, 7), zero), apply(AddNoise(1.0, 7), zero)
    torch.testing.assert_close(2 * one, two)
    assert one.std().item() == pytest.approx(0.5, rel=0.03)
    assert one.mean().abs().item() < 0.02
    assert torch.equal(apply(AddNoise(0.5, 7), zero + 3), one + 3)


@pytest.mark.parametrize(
    "other",
    [
        (AddNoise(1, 8), WEIGHT),
        (AddNoise(1, 7), Address("parameter", "1.weight")),
        (AddNoise(1, 7), Address("output", "0", call=1)),
    ],
)
def test_noise_differs_between_seeds_and_addresses(other: tuple[AddNoise, Address]) -> None:
    zero = torch.zeros(50)
    reference = apply(AddNoise(1, 7), zero, Address("output", "0", call=0) if other[1].call else WEIGHT)
    assert (apply(other[0], zero, other[1]) - reference).abs().min() > 0


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Mask((0, 2)), [[0, 2, 0], [0, 5, 0]]),
        (Mask((1,), axis=0), [[1, 2, 3], [0, 0, 0]]),
        (Mask((0,), axis=-1), [[0, 2, 3], [0, 5, 6]]),
        (Mask((-1,)), [[1, 2, 0], [4, 5, 0]]),
        (Mask(()), [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_mask_zeroes_units_along_an_axis(mask: Mask, expected: list[list[int]]) -> None:
    assert apply(mask, line()[0].weight.detach()).tolist() == expected


def test_quantize_rounds_to_evenly_spaced_levels_around_zero() -> None:
    value = torch.tensor([-7.0, -3.4, -0.4, 0.0, 0.6, 7.0])
    assert apply(Quantize(4), value).tolist() == [-7, -3, 0, 0, 1, 7]  # 15 levels, step 1
    assert apply(Quantize(2), value).tolist() == [-7, 0, 0, 0, 0, 7]  # 3 levels, step 7
    found = apply(Quantize(3), torch.randn(1000))
    assert len(found.unique()) <= 2**3 - 1
    assert torch.equal(apply(Quantize(2), torch.zeros(3)), torch.zeros(3))


def test_low_rank_is_the_nearest_matrix() -> None:
    u, _ = torch.linalg.qr(torch.randn(5, 4, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64))
    singular = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    value = (u * singular) @ v.T
    found = apply(LowRank(2), value)
    torch.testing.assert_close(found, (u[:, :2] * singular[:2]) @ v[:, :2].T)
    assert (value - found).norm().item() == pytest.approx(5**0.5)  # Eckart-Young
    torch.testing.assert_close(apply(LowRank(9), value), value)
    assert torch.equal(apply(LowRank(1), value[0]), value[0])
    kernel = apply(LowRank(1), torch.randn(4, 2, 3, 3))
    assert torch.linalg.matrix_rank(kernel.reshape(4, -1)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantize(1), "bits: expected an integer >= 2; got 1"),
        (lambda: LowRank(0), "k: expected an integer >= 1"),
    ],
)
def test_rules_refuse_bad_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        make()


def test_edits_of_one_address_apply_in_order() -> None:
    value = torch.tensor([1.0, 2.0])
    twice, plus = (lambda v, _: 2 * v), (lambda v, _: v + 1)
    assert apply_edits("v", value, [Edit(WEIGHT, twice), Edit(WEIGHT, plus)]).tolist() == [3, 5]
    assert apply_edits("v", value, [Edit(WEIGHT, plus), Edit(WEIGHT, twice)]).tolist() == [4, 6]


def test_a_slice_changes_alone() -> None:
    value = line()[0].weight.detach()
    found = apply(lambda v, _: -v, value, Address("parameter", "0.weight", index="1, 0:2"))
    assert found.tolist() == [[1, 2, 3], [-4, -5, 6]]
    found = apply(FromCheckpoint(start(), 0), value, Address("parameter", "0.weight", index=":, 2"))
    assert found.tolist() == [[1, 2, 10], [4, 5, 10]]
    assert value.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("index", [None, "0"])
def test_a_rule_that_writes_in_place_does_no_harm(index: str | None) -> None:
    value = line()[0].weight.detach()
    found = apply(lambda v, _: v.zero_(), value, Address("parameter", "0.weight", index=index))
    assert found[0].tolist() == [0, 0, 0]
    assert value.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_integers_are_never_edited() -> None:
    counter = torch.tensor([3])
    assert apply(lambda v, _: v + 1, counter) is counter


@pytest.mark.parametrize(
    ("rule", "index", "message"),
    [
        (
            lambda v, _: v[:1],
            None,
            r"gives torch.float32 of shape \(1, 3\); expected torch.float32 of shape \(2, 3\)",
        ),
        (lambda v, _: v.mean(), "0", r"gives torch.float32 of shape \(\); expected torch.float32 of shape \(3,\)"),
        (lambda v, _: v.double(), None, "gives torch.float64 .* a rule keeps shape and type"),
        (lambda v, _: None, None, "gives NoneType"),
        (Mask((5,)), None, r"variant 'v': the edit of 0.weight, shape \(2, 3\): index 5 is out of bounds"),
        (Mask((0,), axis=4), None, "the edit of 0.weight"),
        (lambda v, _: v, "7", r"the edit of 0.weight\[7\], shape \(2, 3\): index 7 is out of bounds"),
        (lambda v, _: v @ v, None, "cannot be multiplied"),
    ],
)
def test_what_does_not_fit_is_refused(rule: Rule, index: str | None, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        apply(rule, line()[0].weight.detach(), Address("parameter", "0.weight", index=index))


def test_variants_compose() -> None:
    site = find_sites(line())[0]
    one, two = edit_site("a", site, Quantize(2)), edit_site("b", site, Mask((0,), axis=0))
    assert (one + two).label == "a + b"
    assert (one + two).edits == one.edits + two.edits == joined("both", [one, two]).edits
    assert joined("both", [one, two]).label == "both"
    assert [edit.address.name for edit in one.edits if isinstance(edit, Edit)] == ["0.weight", "0.bias"]


def test_a_sites_buffers_can_be_left_out() -> None:
    site = find_sites(nn.Sequential(nn.BatchNorm1d(2)))[0]
    names = {edit.address.name for edit in edit_site("all", site, Quantize(2)).edits if isinstance(edit, Edit)}
    fewer = edit_site("fewer", site, Quantize(2), buffers=False)
    assert names - {e.address.name for e in fewer.edits if isinstance(e, Edit)} >= {"0.running_mean", "0.running_var"}
    assert len(fewer.edits) == 2


def test_touched_modules() -> None:
    edits = (Edit(Address("input", "a"), Quantize(2)), Edit(Address("output", "b"), Quantize(2)), Bypass("c"))
    assert touched_modules([Variant("v", (*edits, Edit(WEIGHT, Quantize(2))))]) == {"a", "b", "c"}


def test_rules_hold_no_tensors_and_can_be_compared() -> None:
    assert AddNoise(0.1, 3) == AddNoise(0.1, 3) != AddNoise(0.2, 3)
    trajectory = start()
    assert FromCheckpoint(trajectory, 0) == FromCheckpoint(trajectory, 0)
    assert len({Mask((0,)), Mask((0,)), Mask((1,))}) == 2


def test_values_are_grouped_under_first_names() -> None:
    model = zoo.Registered()
    alias = Variant("alias", (Edit(Address("parameter", "b.weight"), AddNoise(1, 1)),))
    first = Variant("first", (Edit(Address("parameter", "a.weight"), AddNoise(1, 1)),))
    values = values_of(model, alias, first)
    assert list(values.edits(0)) == list(values.edits(1)) == ["a.weight"]
    assert torch.equal(values.get(0, "a.weight"), values.get(1, "a.weight"))


def test_values_compose_edits_under_two_names_of_one_tensor() -> None:
    model = zoo.Registered()
    twice, plus = (lambda v, _: 2 * v), (lambda v, _: v + 1)
    edits = (Edit(Address("parameter", "b.weight"), twice), Edit(Address("parameter", "a.weight"), plus))
    values = values_of(model, Variant("v", edits))
    torch.testing.assert_close(values.get(0, "a.weight"), 2 * model.a.weight.detach() + 1)


def test_values_know_what_changes_nothing() -> None:
    def rewind(key: int | str) -> Variant:
        return edit_site("rewind", find_sites(line())[0], FromCheckpoint(start(), key))

    norm = nn.Sequential(nn.BatchNorm1d(2))
    assert values_of(line(), rewind("final")).is_no_op(0)
    assert not values_of(line(), rewind(0)).is_no_op(0)
    assert values_of(line(), Variant("nothing", ())).is_no_op(0)
    counter = Variant("counter", (Edit(Address("buffer", "0.num_batches_tracked"), lambda v, _: v + 1),))
    assert values_of(norm, counter).is_no_op(0)
    assert not values_of(line(), Variant("activation", (Bypass("0"),))).is_no_op(0)


def test_values_refuse_unknown_names() -> None:
    wrong = Variant("wrong", (Edit(Address("parameter", "0.wieght"), Quantize(2)),))
    with pytest.raises(NetopsyError, match=r"variant 'wrong': the model has no .* '0.wieght'; did you mean 0.weight"):
        values_of(line(), wrong).is_no_op(0)


def test_values_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def rule(value: Tensor, address: Address) -> Tensor:
        calls.append(address.name)
        return value + 1

    variant = edit_site("v", find_sites(line())[0], rule)
    monkeypatch.setattr(values_module, "KEPT_BYTES", 6 * 4 + 1)  # room for the weight alone
    values = values_of(line(), variant)
    for _ in range(3):
        for name in ("0.weight", "0.bias"):
            values.get(0, name)
    assert calls.count("0.weight") == 1
    assert calls.count("0.bias") == 3
