"""Wider networks of the same function: exactly, and under ablation as the units paper (section 2) says of each."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.constructions import counterweighted, duplicated, with_blocked_units, with_silent_units
from netopsy.models.fcn import FCN, fcn

Array = npt.NDArray[np.float64]
Build = Callable[[FCN], FCN]

BUILDS: dict[str, Build] = {
    "duplicated": duplicated,
    "counterweighted": lambda small: counterweighted(small, eta=3.0),
    "silent": lambda small: with_silent_units(small, count=3),
    "blocked": lambda small: with_blocked_units(small, count=3),
    "blocked, chosen": lambda small: with_blocked_units(small, count=3, inputs=examples()),
}


def network(*, depth: int = 2, width: int = 4, inputs: int = 6, classes: int = 3, bias: bool = True) -> FCN:
    """A net whose biases are not zero, in float64."""
    with forked(depth):
        model = fcn(inputs=inputs, classes=classes, depth=depth, width=width, bias=bias, init="he-normal").double()
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("bias"):
                    value.copy_(0.2 * torch.randn(value.shape))
    return model.eval()


def examples(n: int = 200, inputs: int = 6) -> Tensor:
    return torch.randn(n, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def forward(model: FCN, x: Tensor, ablated: Iterable[tuple[int, int]] = ()) -> list[Array]:
    """Activations of every hidden layer and, last, the logits, with single units (layer, unit) at 0: a plain loop."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    off, values, found = set(ablated), x.numpy(), []
    depth = len(model.hidden)
    for i in range(depth + 1):
        name = f"hidden.{i}" if i < depth else "classifier"
        values = values @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)
        if i < depth:
            values = np.maximum(values, 0.0)
            for layer, unit in off:
                if layer == i:
                    values[:, unit] = 0.0
        found.append(values)
    return found


def logits(model: FCN, x: Tensor, ablated: Iterable[tuple[int, int]] = ()) -> Array:
    return forward(model, x, ablated)[-1]


def unchanged(model: FCN, x: Tensor, layer: int, units: Iterable[int]) -> float:
    """Share of the examples whose predicted label survives the ablation."""
    before = logits(model, x).argmax(1)
    return float((logits(model, x, [(layer, unit) for unit in units]).argmax(1) == before).mean())


def robustness(model: FCN, x: Tensor, layer: int, size: int) -> float:
    """Mean share of unchanged labels over all choices of `size` units of a layer."""
    choices = list(itertools.combinations(range(model.hidden[layer].out_features), size))
    return sum(unchanged(model, x, layer, units) for units in choices) / len(choices)


# All four -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("name", BUILDS)
def test_the_function_is_the_same(name: str, depth: int, bias: bool) -> None:
    small = network(depth=depth, bias=bias)
    large = BUILDS[name](small)
    x = examples()
    with torch.no_grad():
        expected, found = small(x), large(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits(large, x), logits(small, x), rtol=0, atol=1e-12)
    for i, (before, after) in enumerate(zip(forward(small, x)[:-1], forward(large, x)[:-1], strict=True)):
        np.testing.assert_allclose(after[:, : before.shape[1]], before, atol=1e-12, err_msg=f"layer {i}")


@pytest.mark.parametrize("name", BUILDS)
def test_sizes_dtype_modes_and_the_argument(name: str) -> None:
    small = fcn(inputs=(2, 3), classes=3, depth=2, width=4, dropout=0.25)
    before = copy.deepcopy(small.state_dict())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    large = BUILDS[name](small)
    assert torch.equal(torch.get_rng_state(), state)
    width = 8 if name in ("duplicated", "counterweighted") else 7
    shapes = [tuple(value.shape) for key, value in large.named_parameters() if key.endswith("weight")]
    assert shapes == [(width, 6), (width, width), (3, width)]
    assert (large.hidden[1].in_features, large.classifier.out_features) == (width, 3)
    assert all(value.dtype == torch.float32 and value.requires_grad for value in large.parameters())
    assert large.dropout is not None
    assert large.dropout[0].p == 0.25
    assert all(module.training for module in large.modules())
    assert not any(module.training for module in BUILDS[name](small.eval()).modules())
    with torch.no_grad():
        for value in large.parameters():
            value.zero_()
    assert all(torch.equal(before[key], value) for key, value in small.state_dict().items())


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.usefixtures("unchecked")
def test_only_fully_connected_networks(name: str) -> None:
    with pytest.raises(NetopsyError, match=r"expected a network of netopsy\.models\.fcn\.fcn; got Linear; copy its"):
        BUILDS[name](torch.nn.Linear(3, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [with_silent_units, with_blocked_units])
def test_at_least_one_unit_is_added(build: Callable[..., FCN]) -> None:
    with pytest.raises(NetopsyError, match="count: expected an integer >= 1; got 0"):
        build(network(), count=0)


@pytest.mark.parametrize("eta", [math.nan, math.inf, -math.inf])
def test_eta_is_finite(eta: float) -> None:
    with pytest.raises(NetopsyError, match="eta: expected a number in"):
        counterweighted(network(), eta=eta)


@pytest.mark.parametrize("build", [with_silent_units, with_blocked_units])
def test_one_seed_is_one_network(build: Callable[..., FCN]) -> None:
    small = network()
    first, same, other = (build(small, count=2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], value) for key, value in same.items())
    assert not all(torch.equal(first[key], value) for key, value in other.items())


# (a) Duplicated -------------------------------------------------------------------------------------------------


def test_twins_are_alike_and_each_carries_half() -> None:
    """Ablating one of a pair changes what each unit above reads half as much as ablating the original does."""
    small = network(depth=3)
    large, x = duplicated(small), examples()
    before, after = forward(small, x), forward(large, x)
    above = [(small.hidden[1], large.hidden[1]), (small.hidden[2], large.hidden[2])]
    above.append((small.classifier, large.classifier))
    moved = []
    for layer, unit in itertools.product(range(3), range(4)):
        np.testing.assert_allclose(after[layer][:, unit], after[layer][:, unit + 4], atol=1e-13)
        weight, wide = (linear.weight.detach().numpy() for linear in above[layer])
        whole = -np.outer(before[layer][:, unit], weight[:, unit])
        moved.append(abs(whole).max())
        for twin in (unit, unit + 4):
            ablated = forward(large, x, [(layer, twin)])[layer] - after[layer]
            np.testing.assert_allclose((ablated @ wide.T)[:, : len(weight)], whole / 2, atol=1e-12)
    assert max(moved) > 0.1


def test_one_of_a_pair_in_the_last_layer_is_half_of_the_original_in_the_logits() -> None:
    small = network(depth=3)
    large, x = duplicated(small), examples()
    moved = []
    for unit in range(4):
        whole = logits(small, x, [(2, unit)]) - logits(small, x)
        moved.append(abs(whole).max())
        for twin in (unit, unit + 4):
            np.testing.assert_allclose(logits(large, x, [(2, twin)]) - logits(large, x), whole / 2, atol=1e-12)
    assert max(moved) > 0.1


def test_pairs_ablated_together_are_the_original_ablated() -> None:
    small = network(depth=3)
    large, x = duplicated(small), examples()
    for layer, unit in itertools.product(range(3), range(4)):
        pair = [(layer, unit), (layer, unit + 4)]
        np.testing.assert_allclose(logits(large, x, pair), logits(small, x, [(layer, unit)]), atol=1e-12)


def test_half_of_the_lower_layer_halves_what_the_next_one_reads() -> None:
    small = network(depth=2, bias=False)
    large, x = duplicated(small), examples()
    halved = forward(large, x, [(0, unit) for unit in range(4)])
    np.testing.assert_allclose(halved[1][:, :4], forward(small, x)[1] / 2, atol=1e-12)


def test_duplicated_is_more_robust_at_every_fraction_of_the_last_layer() -> None:
    small = network()
    large, x = duplicated(small), examples()
    for size in (1, 2, 3):
        assert robustness(large, x, 1, 2 * size) > robustness(small, x, 1, size) + 0.01


# (b) Counterweighted --------------------------------------------------------------------------------------------


def test_twins_of_unequal_weight() -> None:
    """Closed form: without unit j the logit of class c loses (w_cj/2 + (-1)^c eta) a_j; its twin takes -eta along."""
    small, eta = network(), 5.0
    large, x = counterweighted(small, eta=eta), examples()
    weight, activation = small.classifier.weight.detach().numpy(), forward(small, x)[1]
    signs = np.array([1.0, -1.0, 1.0])
    for unit in range(4):
        for twin, eta_here in ((unit, eta), (unit + 4, -eta)):
            change = logits(large, x, [(1, twin)]) - logits(large, x)
            expected = -np.outer(activation[:, unit], weight[:, unit] / 2 + eta_here * signs)
            np.testing.assert_allclose(change, expected, atol=1e-11)
        both = logits(large, x, [(1, unit), (1, unit + 4)])
        np.testing.assert_allclose(both, logits(small, x, [(1, unit)]), atol=1e-11)


def test_eta_zero_is_duplicated() -> None:
    small = network()
    expected = duplicated(small).state_dict()
    assert all(
        torch.equal(expected[key], value) for key, value in counterweighted(small, eta=0.0).state_dict().items()
    )


def test_robustness_falls_with_eta_below_that_of_the_small_net() -> None:
    small, x = network(classes=10), examples()
    for layer in (0, 1):
        found = [robustness(counterweighted(small, eta=eta), x, layer, 2) for eta in (0.0, 0.5, 2.0, 10.0)]
        assert found == sorted(found, reverse=True)
        assert found[0] > robustness(small, x, layer, 1) > found[-1] + 0.1


def test_one_sign_for_all_classes_would_leave_every_label() -> None:
    """Why eta's sign alternates: with the same eta for all logits, no ablation differs in its labels from eta = 0."""
    small, x = network(classes=10), examples()
    plain, shifted = duplicated(small), duplicated(small)
    with torch.no_grad():
        shifted.classifier.weight[:, :4] += 10.0
        shifted.classifier.weight[:, 4:] -= 10.0
    for units in itertools.combinations(range(8), 3):
        off = [(1, unit) for unit in units]
        assert np.array_equal(logits(plain, x, off).argmax(1), logits(shifted, x, off).argmax(1))


# (c) Silent and (d) blocked -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["silent", "blocked", "blocked, chosen"])
def test_added_units_do_nothing_and_the_others_what_they_did(name: str) -> None:
    small = network(depth=3)
    large, x = BUILDS[name](small), examples()
    for layer in range(3):
        for unit in range(4):
            expected = logits(small, x, [(layer, unit)])
            np.testing.assert_allclose(logits(large, x, [(layer, unit)]), expected, atol=1e-12)
        for unit in range(4, 7):
            assert np.array_equal(logits(large, x, [(layer, unit)]), logits(large, x))


@pytest.mark.parametrize("build", [with_silent_units, with_blocked_units])
def test_a_share_of_the_units_takes_the_same_share_of_the_small_net(build: Callable[..., FCN]) -> None:
    """Exact: of m units of 4 + 4, the number k that are S's is hypergeometric, and S says what k of them do."""
    small = network()
    large, x = build(small, count=4), examples()
    for layer, size in itertools.product((0, 1), (2, 4, 6)):
        expected = sum(
            math.comb(4, k) * math.comb(4, size - k) / math.comb(8, size) * robustness(small, x, layer, k)
            for k in range(max(0, size - 4), min(4, size) + 1)
        )
        assert robustness(large, x, layer, size) == pytest.approx(expected, abs=1e-12)
        assert robustness(large, x, layer, size) < robustness(duplicated(small), x, layer, size)


@pytest.mark.parametrize("bias", [True, False])
def test_silent_units_are_silent_and_not_blocked(bias: bool) -> None:
    small = network(depth=3, bias=bias)
    large = with_silent_units(small, count=2)
    for activation in forward(large, 100 * examples())[:-1]:
        assert not activation[:, 4:].any()
        assert activation[:, :4].any(axis=0).sum() >= 3
    for layer in (*large.hidden[1:], large.classifier):
        outgoing, own = layer.weight.detach()[: layer.out_features, 4:], layer.weight.detach()[:, :4]
        rows = outgoing[:4] if layer is not large.classifier else outgoing
        assert rows.abs().min() > 0
        assert 0.2 < rows.square().mean() / own[: len(rows)].square().mean() < 5


def test_blocked_units_are_active_and_not_redundant() -> None:
    """With many inputs: no pair is similar (|r| < 0.5), and no added unit is linear in all the others."""
    small = network(depth=1, width=6, inputs=60)
    activation = forward(with_blocked_units(small, count=6), examples(4000, 60))[0]
    assert (activation[:, 6:] > 0).mean() == pytest.approx(0.5, abs=0.2)
    correlation = np.corrcoef(activation.T)
    assert abs(correlation - np.eye(12)).max() < 0.5
    for unit in range(6, 12):
        others = np.column_stack([np.delete(activation, unit, axis=1), np.ones(len(activation))])
        residual = activation[:, unit] - others @ np.linalg.lstsq(others, activation[:, unit], rcond=None)[0]
        assert 1 - residual.var() / activation[:, unit].var() < 0.5


@pytest.mark.parametrize("bias", [True, False])
def test_blocked_units_chosen_on_inputs_are_not_redundant_where_drawn_ones_are(bias: bool) -> None:
    """Inputs of rank three, as correlated as images are: by the largest |r| of the added units on other examples."""
    small = network(depth=2, width=4, inputs=12, bias=bias)
    map_to = torch.randn(3, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    train, test = examples(2000, 3) @ map_to, examples(4000, 3)[2000:] @ map_to
    drawn = with_blocked_units(small, count=8)
    chosen = with_blocked_units(small, count=8, inputs=train)
    for layer, (some, others) in enumerate(zip(forward(chosen, test)[:-1], forward(drawn, test)[:-1], strict=True)):
        assert _largest(some) < 0.8 * _largest(others), layer
        if bias:  # without, nothing sets how often a unit is active
            active = (some[:, 4:] > 0).mean(axis=0)
            assert ((active > 0.05) & (active < 0.65)).all()
            np.testing.assert_allclose(some[:, 4:].var(axis=0), some[:, :4].var(axis=0).mean(), rtol=0.35)


def _largest(activation: Array) -> float:
    """Mean over the added units of the largest |r| with any other."""
    kept = activation[:, activation.std(axis=0) > 0]
    r = abs(np.corrcoef(kept.T)) - np.eye(kept.shape[1])
    return float(r[-8:].max(axis=1).mean())


def test_inputs_must_fit_the_network() -> None:
    with pytest.raises(NetopsyError, match=r"inputs: expected at least two examples of 6 values.*got shape \(5, 7\)"):
        with_blocked_units(network(), count=2, inputs=torch.zeros(5, 7))
    with pytest.raises(NetopsyError, match=r"got shape \(1, 6\)"):
        with_blocked_units(network(), count=2, inputs=torch.zeros(1, 6))


def test_twins_add_no_principal_component_and_a_similar_unit_each() -> None:
    small = network(depth=1, width=6, inputs=60)
    x = examples(1000, 60)
    for large in (duplicated(small), counterweighted(small, eta=4.0)):
        activation = forward(large, x)[0]
        assert np.linalg.matrix_rank(activation - activation.mean(0), tol=1e-9) == 6
        similar = abs(np.corrcoef(activation.T)) >= 0.5
        assert (similar.sum(1) == 2).all()
