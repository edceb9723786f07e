"""Drawing again: from the distribution of the first draw, by seed, without a trace, or not at all."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.fcn import fcn
from netopsy.network.addresses import canonical_names, named_state
from netopsy.network.initialization import Redrawer, reset_values
from netopsy.network.trajectory import Trajectory

Samples = dict[str, list[float]]


def gathered(draw: Callable[[], dict[str, Tensor]], count: int, seed: int) -> Samples:
    """All entries of many draws, by name."""
    samples: Samples = {}
    with forked(seed):
        for _ in range(count):
            for name, value in draw().items():
                samples.setdefault(name, []).extend(value.flatten().tolist())
    return samples


def built(factory: Callable[[], nn.Module]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: value.detach() for name, value in named_state(factory()).items()}


def differences(one: Samples, other: Samples) -> dict[str, float]:
    """The p-value of the two-sample Kolmogorov-Smirnov test of each parameter; constants must be equal."""
    assert one.keys() == other.keys()
    found = {}
    for name in one:
        constant = len(set(one[name])) == 1
        found[name] = (
            float(set(one[name]) == set(other[name])) if constant else ks_2samp(one[name], other[name]).pvalue
        )
    return found


def spoiled(model: nn.Module) -> nn.Module:
    """The model after training: no value is what any draw would give."""
    with torch.no_grad():
        for value in named_state(model).values():
            value.fill_(7)
    return model


class Custom(nn.Module):
    """A parameter of its own that no method draws again."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3))
        self.linear = nn.Linear(3, 3)


class Partial(nn.Module):
    """A method that draws one of three parameters, and half of another."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn, self.part, self.left = (nn.Parameter(torch.randn(4)) for _ in range(3))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.drawn)
        with torch.no_grad():
            self.part[:2] = 0


class Composite(nn.Module):
    """A module without parameters of its own that draws over what its parts drew."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 20)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.linear.weight, std=5.0)


def pruned() -> nn.Module:
    model = prune.random_unstructured(nn.Linear(3, 3), "weight", 0.5)
    with torch.no_grad():
        model(torch.zeros(1, 3))  # or torch can't copy it
    return model


# The distribution -----------------------------------------------------------------------------------------------

FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(20, 10),
    "Conv2d": lambda: nn.Conv2d(4, 8, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 8, 3),
    "Embedding": lambda: nn.Embedding(20, 8, padding_idx=0),
    "LSTM": lambda: nn.LSTM(6, 8, num_layers=2, bidirectional=True),
    "GRU": lambda: nn.GRU(6, 8),
    "MultiheadAttention": lambda: nn.MultiheadAttention(8, 2, kdim=6, add_bias_kv=True),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "BatchNorm2d": lambda: nn.BatchNorm2d(8),
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "PReLU": lambda: nn.PReLU(3),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "Transformer": lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    "Composite": Composite,
    "Sequential": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 8)),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_resetting_draws_from_the_same_distribution_as_building(name: str) -> None:
    factory = FACTORIES[name]
    model = spoiled(factory())
    p = differences(gathered(built(factory), 30, 1), gathered(lambda: reset_values(model), 30, 2))
    assert p.keys() == named_state(factory()).keys()
    assert min(p.values()) > 1e-3, p


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_draws_from_the_same_distribution_as_building(name: str) -> None:
    factory = FACTORIES[name]
    redrawer = Redrawer(spoiled(factory()), factory)
    drawn: Samples = {}
    for seed in range(10):
        for key in named_state(redrawer.template):
            drawn.setdefault(key, []).extend(redrawer.tensor(seed, key).flatten().tolist())
    p = differences(gathered(built(factory), 30, 1), drawn)
    assert min(p.values()) > 1e-3, p


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (lambda: fcn(inputs=20, classes=10, depth=1, width=10, init="he-normal"), ["hidden.0.weight"]),
        (lambda: fcn(inputs=20, classes=10, depth=1, width=10, init="lecun-uniform"), ["hidden.0.weight"]),
        (lambda: fcn(inputs=20, classes=10, depth=1, width=10, init="glorot-normal"), ["hidden.0.bias"]),
    ],
)
def test_the_comparison_above_tells_another_distribution(wrong: Callable[[], nn.Module], parts: list[str]) -> None:
    model = fcn(inputs=20, classes=10, depth=1, width=10)
    p = differences(gathered(lambda: reset_values(model), 60, 2), gathered(built(wrong), 60, 1))
    assert all(p[part] < 1e-10 for part in parts), p


def test_a_factory_with_an_initialization_of_its_own_is_drawn_from_that() -> None:
    def he() -> nn.Module:
        return fcn(inputs=50, classes=10, depth=1, width=40, init="he-normal")

    state = spoiled(he()).state_dict()
    redrawer = Redrawer.of(Trajectory.from_states(he, {0: state}))
    drawn = torch.cat([redrawer.tensor(seed, "hidden.0.weight").flatten() for seed in range(5)])
    normal = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * math.sqrt(2 / 50)
    assert ks_2samp(drawn.numpy(), normal.numpy()).pvalue > 1e-3
    assert not redrawer.tensor(0, "hidden.0.bias").any()
    default = torch.cat([reset_values(he())["hidden.0.weight"].flatten() for _ in range(5)])
    assert ks_2samp(drawn.numpy(), default.numpy()).pvalue < 1e-10


def test_integers_and_truth_values_stay() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model.register_buffer("mask", torch.tensor([True, False]))
    model.register_buffer("positions", torch.arange(3))
    values = reset_values(model)
    assert values["mask"].tolist() == [True, False]
    assert values["positions"].tolist() == [0, 1, 2]
    assert values.keys() == named_state(model).keys()


# Seeds and traces -----------------------------------------------------------------------------------------------


def model_only() -> Redrawer:
    return Redrawer.of(nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2)))


def with_factory() -> Redrawer:
    def factory() -> nn.Module:  # draws from every generator there is
        model = nn.Linear(3, 4)
        with torch.no_grad():
            model.bias += random.random() + float(np.random.rand())  # noqa: NPY002
        return model

    return Redrawer.of(Trajectory.from_states(factory, {0: nn.Linear(3, 4).state_dict()}))


@pytest.mark.parametrize("make", [model_only, with_factory])
def test_a_seed_is_one_draw_of_the_whole_network(make: Callable[[], Redrawer]) -> None:
    one, again = make(), make()
    for name in named_state(one.template):
        assert torch.equal(one.tensor(3, name), one.tensor(3, name))
        assert torch.equal(one.tensor(3, name), again.tensor(3, name))
        assert not torch.equal(one.tensor(3, name), one.tensor(4, name))


@pytest.mark.parametrize("make", [model_only, with_factory])
def test_drawing_leaves_no_trace(make: Callable[[], Redrawer]) -> None:
    redrawer = make()
    values = {name: value.clone() for name, value in named_state(redrawer.template).items()}
    legacy = np.random.get_state(legacy=True)  # noqa: NPY002
    states = torch.get_rng_state(), random.getstate(), legacy[1].tolist()  # type: ignore[index]
    redrawer.check(set(values))
    for name in values:
        redrawer.tensor(1, name)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state(legacy=True)[1].tolist() == states[2]  # type: ignore[index]  # noqa: NPY002
    assert all(torch.equal(value, values[name]) for name, value in named_state(redrawer.template).items())
    assert all(module.training for module in redrawer.template.modules()) == (make is model_only)


def test_a_draw_is_made_once() -> None:
    calls = []

    def factory() -> nn.Module:
        calls.append(1)
        return nn.Linear(3, 4)

    redrawer = Redrawer(nn.Linear(3, 4), factory)
    for name in ("weight", "bias", "weight"):
        redrawer.tensor(0, name)
    assert len(calls) == 1


def test_a_redrawer_that_went_to_another_process_draws_the_same() -> None:
    redrawer = model_only()
    copy = pickle.loads(pickle.dumps(redrawer))
    assert torch.equal(copy.tensor(5, "0.weight"), redrawer.tensor(5, "0.weight"))


def test_its_files_go_with_it() -> None:
    redrawer = model_only()
    redrawer.tensor(0, "0.weight")
    folder = redrawer._files[0].path.parent
    assert list(folder.iterdir())
    del redrawer
    assert not folder.exists()


def test_a_tied_tensor_is_drawn_under_all_its_names() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embedding"].weight
    assert canonical_names(model)["head.weight"] == "embedding.weight"
    redrawer = Redrawer.of(model)
    redrawer.check({"head.weight", "embedding.weight"})
    assert torch.equal(redrawer.tensor(0, "head.weight"), redrawer.tensor(0, "embedding.weight"))


def test_wrappers_are_looked_through() -> None:
    model = nn.Linear(3, 4)
    one, other = Redrawer.of(nn.DataParallel(model)), Redrawer(model, lambda: nn.DataParallel(nn.Linear(3, 4)))
    assert one.tensor(0, "weight").shape == other.tensor(0, "weight").shape == (4, 3)


# What cannot be drawn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "lost"),
    [
        (Custom(), {"scale"}),
        (Partial(), {"part", "left"}),
        (
            parametrizations.weight_norm(nn.Linear(3, 3)),
            {"parametrizations.weight.original0", "parametrizations.weight.original1"},
        ),
        (pruned(), {"weight_orig", "weight_mask"}),
    ],
    ids=["no method", "a method for some", "weight norm", "pruned"],
)
def test_what_no_method_draws_is_refused(model: nn.Module, lost: set[str]) -> None:
    state = named_state(model)
    redrawer = Redrawer.of(model)
    redrawer.check(set(state) - lost)
    for name in lost:
        message = (
            rf"re-randomization of {name}: the module has no reset_parameters or _reset_parameters; pass a "
            r"Trajectory made with the function that builds the model \(a factory\) instead of a module"
        )
        with pytest.raises(NetopsyError, match=message):
            redrawer.check(set(state) & ({name} | set(state) - lost))
        with pytest.raises(NetopsyError, match=message):
            redrawer.tensor(0, name)


def test_with_a_factory_everything_can_be_drawn() -> None:
    redrawer = Redrawer.of(Trajectory.from_states(Custom, {0: Custom().state_dict()}))
    redrawer.check({"scale", "linear.weight"})
    assert not torch.equal(redrawer.tensor(0, "scale"), redrawer.tensor(1, "scale"))


def test_a_factory_that_builds_another_model_is_refused() -> None:
    sizes = iter([3, 4])
    trajectory = Trajectory.from_states(lambda: nn.Linear(next(sizes), 2), {0: nn.Linear(3, 2).state_dict()})
    with pytest.raises(NetopsyError, match=r"the factory's model: expected the state of Linear .*; weight has shape"):
        Redrawer.of(trajectory).tensor(0, "weight")
