"""Addresses, index slices, first names of tied tensors, wrappers, and eval mode that leaves no trace."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.network.addresses import (
    Address,
    canonical_names,
    evaluation_mode,
    named_state,
    parse_index,
    unwrap,
)


class Tied(nn.Module):
    """An embedding and a head with one weight, a module registered twice, and a buffer with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.one = nn.Linear(3, 3)
        self.other = self.one
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("again", self.scale)


# Index slices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0,)),
        ("-1", (-1,)),
        (":", (slice(None),)),
        ("::2", (slice(None, None, 2),)),
        (" 1 : -1 : 3 , 4", (slice(1, -1, 3), 4)),
        (":, 0:768", (slice(None), slice(0, 768))),
        ("2:", (slice(2, None),)),
        ("1:2:", (slice(1, 2),)),
    ],
)
def test_an_index_reads_as_numpy_does(text: str, expected: tuple[int | slice, ...]) -> None:
    assert parse_index(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "1,", ",1", "1.5", "1 2", "...", "-", "-:", ":-", "::0", "::-1", "1:2:3:4"]
)
def test_another_index_is_refused(text: str) -> None:
    with pytest.raises(
        NetopsyError, match=rf"index \[{re.escape(text)}\]: expected integers and slices with pos.*read"
    ):
        parse_index(text)
    with pytest.raises(NetopsyError, match="index"):
        Address("parameter", "weight", text)


def test_an_address_selects_and_replaces_its_part_and_only_it() -> None:
    value = torch.arange(12.0).reshape(3, 4)
    before = value.clone()
    address = Address("parameter", "w", ":, 1:3")
    assert torch.equal(address.select(value), value[:, 1:3])
    new = address.replace(value, torch.zeros(3, 2))
    assert torch.equal(new[:, 1:3], torch.zeros(3, 2))
    assert torch.equal(new[:, [0, 3]], value[:, [0, 3]])
    assert torch.equal(value, before)
    whole = Address("parameter", "w")
    assert whole.select(value) is value
    part = torch.ones(3, 4)
    assert whole.replace(value, part) is part


def test_replacing_the_selected_part_changes_nothing() -> None:
    value = torch.randn(3, 4)
    for index in (None, "0", "1, 2", "::2", ":, -1"):
        address = Address("parameter", "w", index)
        assert torch.equal(address.replace(value, address.select(value)), value)


def test_an_address_says_what_it_is() -> None:
    assert str(Address("parameter", "conv.weight", ":, 0")) == "conv.weight[:, 0]"
    assert str(Address("output", "relu", call=1)) == "output of relu, call 1"
    assert [Address(kind, "a").is_state for kind in ("parameter", "buffer", "input", "output")] == [
        True,
        True,
        False,
        False,
    ]


# First names ----------------------------------------------------------------------------------------------------


def test_a_tied_tensor_has_one_first_name() -> None:
    model = Tied()
    assert list(named_state(model)) == ["embedding.weight", "one.weight", "one.bias", "scale"]
    assert canonical_names(model) == {
        "embedding.weight": "embedding.weight",
        "one.weight": "one.weight",
        "one.bias": "one.bias",
        "other.weight": "one.weight",
        "other.bias": "one.bias",
        "head.weight": "embedding.weight",
        "scale": "scale",
        "again": "scale",
    }


def test_every_saved_name_has_a_first_name() -> None:
    model = nn.Sequential(Tied(), nn.BatchNorm1d(5), nn.LSTM(3, 2))
    assert set(model.state_dict()) <= set(canonical_names(model))
    assert set(canonical_names(model).values()) == set(named_state(model))


# Wrappers -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # where torch imports dynamo
def test_wrappers_are_looked_through() -> None:
    model = nn.Linear(2, 2)
    assert unwrap(model) is model
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(torch.compile(model)) is model
    assert unwrap(torch.compile(nn.DataParallel(model))) is model


def test_a_child_called_module_is_no_wrapper() -> None:
    model = nn.Module()
    model.module = nn.Linear(2, 2)
    assert unwrap(model) is model


# Eval mode ------------------------------------------------------------------------------------------------------


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


class Cached(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.inner = nn.Dropout()


@pytest.mark.parametrize("wrapped", [True, False])
def test_eval_mode_ends_as_it_began_also_after_an_exception(wrapped: bool) -> None:
    config = SimpleNamespace(use_cache=True)
    model: nn.Module = Cached(config)
    if wrapped:
        model = nn.Sequential(nn.Dropout(), model)
    model.train()
    list(model.modules())[-1].eval()
    before = modes(model)

    def work() -> None:
        with evaluation_mode(model):
            assert not any(modes(model))
            assert config.use_cache is False
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        work()
    assert modes(model) == before
    assert config.use_cache is True


@pytest.mark.parametrize("config", [None, {"use_cache": True}, SimpleNamespace(use_cache=False), SimpleNamespace()])
def test_eval_mode_touches_no_other_config(config: Any) -> None:
    before = vars(config).copy() if isinstance(config, SimpleNamespace) else config
    with evaluation_mode(Cached(config)):
        pass
    assert (vars(config) if isinstance(config, SimpleNamespace) else config) == before


def test_eval_mode_does_not_call_the_modules_own_train() -> None:
    class Loud(nn.Linear):
        def train(self, mode: bool = True) -> Loud:
            raise AssertionError("its side effects would be a trace")

    def output(model: nn.Module, x: Tensor) -> Tensor:
        with evaluation_mode(model):
            return model(x)

    assert output(Loud(2, 2), torch.zeros(1, 2)).shape == (1, 2)
