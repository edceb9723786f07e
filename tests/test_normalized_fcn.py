"""Fully connected nets with batch normalization: size, forward pass by hand, names, sites, and what they refuse."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy import Trajectory, robustness
from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.normalized_fcn import FCN_I, FCN_II, NormalizedFCN, normalized_fcn
from netopsy.network.sites import find_sites
from netopsy.network.units import find_units


@pytest.mark.parametrize(
    ("hidden", "classes", "count", "printed"),
    [
        (FCN_I, 10, 20_382_010, 2.0e7),
        (FCN_II, 10, 50_764_010, 5.0e7),
        (FCN_I, 100, 20_472_100, 2.0e7),
        (FCN_II, 100, 50_944_100, 5.0e7),
    ],
)
def test_counts_are_those_that_chatterji_print(
    hidden: tuple[int, ...], classes: int, count: int, printed: float
) -> None:
    """Chatterji et al. 2020, Tables 2 and 3, column NoP; cut, not rounded."""
    with torch.device("meta"):
        model = normalized_fcn(inputs=(3, 32, 32), classes=classes, hidden=hidden)
    first, second = hidden
    assert sum(p.numel() for p in model.parameters()) == count
    assert count == 3072 * first + first * second + 2 * (first + second) + (second + 1) * classes
    assert math.floor(count / 1e6) * 1e6 == printed


def by_hand(state: dict[str, Tensor], x: Tensor, depth: int, *, train: bool) -> Tensor:
    x = x.reshape(len(x), -1)
    for i in range(depth):
        x = x @ state[f"hidden.{i}.weight"].T
        mean, variance = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
        if not train:
            mean, variance = state[f"norm.{i}.running_mean"], state[f"norm.{i}.running_var"]
        x = (x - mean) / (variance + 1e-5).sqrt() * state[f"norm.{i}.weight"] + state[f"norm.{i}.bias"]
        x = x.clamp(min=0)
    return x @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("hidden", [(5,), (7, 3), (4, 6, 5)])
def test_forward_by_hand(hidden: tuple[int, ...], train: bool) -> None:
    with forked(len(hidden)):
        model = normalized_fcn(inputs=(2, 3), classes=4, hidden=hidden, init="he-normal").double()
        for name, value in model.state_dict().items():
            if "norm" in name and value.is_floating_point():
                value.copy_(0.5 + torch.rand(value.shape))
        x = torch.randn(6, 2, 3, dtype=torch.float64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        found = model.train(train)(x)
    expected = by_hand(state, x, len(hidden), train=train)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_width_scales_the_hidden_layers() -> None:
    model = normalized_fcn(inputs=8, classes=3, hidden=FCN_II, width=1 / 500)
    assert [tuple(layer.weight.shape) for layer in model.hidden] == [(20, 8), (4, 20)]
    assert [norm.num_features for norm in model.norm] == [20, 4]
    assert model.classifier.weight.shape == (3, 4)


def test_names_sites_and_units() -> None:
    model = normalized_fcn(inputs=(2, 2), classes=2, hidden=(6, 4))
    assert isinstance(model, NormalizedFCN)
    names = ["hidden.0", "hidden.1", "norm.0", "norm.1", "classifier"]
    assert [site.name for site in find_sites(model, "modules")] == names
    assert [site.name for site in find_sites(model, "blocks")] == names
    assert [site.name for site in find_sites(model, "hidden.*")] == names[:2]
    units = find_units(model, ((torch.randn(3, 2, 2),), {}))
    assert [(layer.name, layer.units) for layer in units] == [("activation.0", 6), ("activation.1", 4)]
    assert all(layer.bias is None for layer in model.hidden)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_the_exported_engine_runs_it() -> None:
    states = {}
    for key in (0, 1):
        with forked(key):
            model = normalized_fcn(inputs=5, classes=3, hidden=(8, 6), init="he-normal").eval()
        states[key] = model.state_dict()
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 3
    result = robustness(Trajectory.from_states(model, states), (x, labels))
    assert result.provenance["engine"] == "exported"
    frame = result.to_frame()
    row = frame[(frame.site == "hidden.1") & (frame.operation == "re-initialize")]
    with torch.no_grad():
        model.hidden[1].weight.copy_(states[0]["hidden.1.weight"])
        expected = nn.functional.cross_entropy(model(x), labels).item()
    assert row.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 0}, r"inputs: expected an integer >= 1; got 0"),
        ({"inputs": ()}, r"inputs: expected .* the shape of one example; got \(\); pass e\.g\."),
        ({"classes": 0}, r"classes: expected an integer >= 1; got 0"),
        ({"hidden": ()}, r"hidden: expected the units of at least one hidden layer; got none; pass e\.g\."),
        ({"hidden": (4, 0)}, r"hidden: expected an integer >= 1; got 0"),
        ({"width": 0.0009}, r"width: expected a number in \[0\.001, inf\); got 0\.0009"),
        ({"width": math.nan}, r"width: expected a number in .*; got nan"),
        ({"init": "he"}, r"init: expected one of .*; got 'he'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(normalized_fcn)(**{"inputs": 4, "classes": 2, **options})
