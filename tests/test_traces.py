"""The tests' own store of traces: what is shared, what is not, and that a shared one computes the right thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy.engine import graph
from netopsy.models.fcn import fcn
from netopsy.network.task import default_logits
from tests.traces import shared

X = torch.arange(24.0).reshape(4, 6) / 24


def net(*middle: nn.Module, width: int = 5, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width, bias=bias), *middle, nn.Linear(width, 3)).eval()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    model[2].weight = model[0].weight
    return model


def untied() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()


class Mine(nn.Linear):
    pass


class Counting:
    """In place of a trace: which call it was."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: Any) -> tuple[Any, list[str], set[str]]:
        self.calls += 1
        return self.calls, ["a"], {"b"}


def other(x: Any) -> Tensor:
    return default_logits(x)


def hooked() -> nn.Module:
    model = net(nn.ReLU())
    model[0].register_forward_hook(lambda *_: None)
    return model


def closed(scale: float = 2.0) -> nn.Module:
    model = net(nn.ReLU())
    model.extra = lambda x: scale * x  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("make", [lambda: net(nn.ReLU()), tied, lambda: fcn(inputs=6, classes=3, width=4)])
def test_networks_that_are_alike_share_a_trace(make: Callable[[], nn.Module]) -> None:
    trace = Counting()
    found = shared(trace)
    first = found(make(), ((X,), {}), default_logits, frozenset())
    first[1].clear()  # what a caller does to it stays with the caller
    assert found(make(), ((X + 1,), {}), default_logits, frozenset()) == (1, ["a"], {"b"})
    assert trace.calls == 1


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (net(nn.ReLU()), net(nn.Tanh())),
        (net(nn.ReLU()), net(nn.ReLU(inplace=True))),
        (net(nn.LeakyReLU(0.1)), net(nn.LeakyReLU(0.2))),
        (net(nn.Dropout(0.5)), net(nn.Dropout(0.5)).train()),
        (net(nn.BatchNorm1d(5)), net(nn.BatchNorm1d(5, eps=0.1))),
        (net(nn.ReLU()), net(nn.ReLU(), width=4)),
        (net(nn.ReLU()), net(nn.ReLU(), bias=False)),
        (net(nn.ReLU()), net(nn.ReLU()).double()),
        (tied(), untied()),
    ],
)
def test_networks_that_differ_do_not(one: nn.Module, another: nn.Module) -> None:
    trace = Counting()
    found = shared(trace)
    for model in (one, another, one):
        found(model, ((X,), {}), default_logits, frozenset())
    assert trace.calls == 2


def test_nor_do_other_inputs_readers_and_places() -> None:
    trace, model = Counting(), net(nn.ReLU())
    found = shared(trace)
    for inputs in (((X,), {}), ((X[:3],), {}), ((X.double(),), {}), ((), {"input": X})):
        found(model, inputs, default_logits, frozenset())
    found(model, ((X,), {}), other, frozenset())
    found(model, ((X,), {}), lambda x: x, frozenset())
    found(model, ((X,), {}), default_logits, frozenset({"1"}))
    found(model, ((X,), {}), lambda x: x, frozenset())  # another of that name
    assert trace.calls == 8


@pytest.mark.parametrize("make", [lambda: Mine(6, 3), hooked, closed], ids=["mine", "hooked", "closed"])
def test_what_cannot_be_compared_is_traced_each_time(make: Callable[[], nn.Module]) -> None:
    trace = Counting()
    found = shared(trace)
    for _ in range(2):
        found(make(), ((X,), {}), default_logits, frozenset())
    assert trace.calls == 2


def test_a_program_of_another_network_s_trace_is_right() -> None:
    assert graph._trace.__wrapped__ is not None  # the tests' own is in place
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = net(nn.BatchNorm1d(5), nn.Tanh())
        program = graph.export(model, ((X,), {}), default_logits)
        slots = program.load(model.state_dict(), ((X[:3],), {}))
        with torch.no_grad():
            for step in program.steps:
                slots[step.writes] = step.run(slots)
            torch.testing.assert_close(slots[program.output], model(X[:3]))
