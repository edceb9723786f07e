"""Stacked networks against the same networks one by one: outputs, gradients, statistics, optimizers' steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from netopsy._checks import NetopsyError
from netopsy.models.fcn import fcn
from netopsy.models.normalized_fcn import normalized_fcn
from netopsy.training.population_step import Steps
from netopsy.training.together import Together, find_chain

CLASSES = 3


def mlp() -> nn.Module:
    return fcn(inputs=(2, 3), classes=CLASSES, depth=2, width=5)


def no_bias() -> nn.Module:
    return fcn(inputs=(2, 3), classes=CLASSES, depth=1, width=4, bias=False)


def normalized() -> nn.Module:
    return normalized_fcn(inputs=(2, 3), classes=CLASSES, hidden=(5, 4))


def plain_norms() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False, momentum=0.3), nn.Tanh(),
        nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(inplace=True), nn.Linear(4, CLASSES),
    )  # fmt: skip


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(8, CLASSES)
    )


class Residual(nn.Module):
    """Something happens between the modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        out: Tensor = self.head(x + self.second(self.first(x).relu()))
        return out


class Tied(nn.Module):
    """A parameter with two names, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.first, self.second = nn.Flatten(), nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.rand(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(self.flatten(x))) * self.scale
        return out


CHAINS = (mlp, no_bias, normalized, plain_norms)
OTHERS = (conv, Residual, Tied)


def made(factory: Callable[[], nn.Module], count: int = 3, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    torch.manual_seed(0)
    models = [factory().to(dtype) for _ in range(count)]
    with torch.no_grad():
        for model in models:
            for name, value in model.named_buffers():
                if "running" in name:
                    value.copy_(torch.rand_like(value) + 0.5)
    return models


def batches(count: int = 3, size: int = 7) -> Tensor:
    return torch.randn(count, size, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("factory", "way"), [(f, w) for f in CHAINS for w in ("matmul", "vmap")] + [(f, "vmap") for f in OTHERS]
)
def test_outputs_gradients_and_statistics_are_each_members_own(
    factory: Callable[[], nn.Module], way: Any, own: bool, train: bool
) -> None:
    models, given = made(factory), batches()
    labels = torch.arange(21).view(3, 7) % CLASSES
    stack = Together.of(models, given[0], way=way)
    assert (stack.way, len(stack)) == (way, 3)
    outputs = stack.forward(given if own else given[0], train=train)
    loss = sum(cross_entropy(out, target) for out, target in zip(outputs, labels, strict=True))
    assert isinstance(loss, Tensor)
    loss.backward()
    for number, model in enumerate(models):
        expected = model.train(train)(given[number if own else 0])
        torch.testing.assert_close(outputs[number], expected, rtol=1e-11, atol=1e-12)
        cross_entropy(expected, labels[number]).backward()
        for name, value in model.named_parameters():
            grad = stack.values[name].grad
            assert grad is not None
            torch.testing.assert_close(grad[number], value.grad, rtol=1e-9, atol=1e-11)
        for name, value in model.named_buffers():
            torch.testing.assert_close(stack.values[name][number], value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("factory", CHAINS)
def test_chains_are_found_and_run_by_matrix_products(factory: Callable[[], nn.Module]) -> None:
    assert Together.of(made(factory), batches()[0]).way == "matmul"


class Reversed(nn.Module):
    """Called in another order than registered: what counts is what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.act, self.first, self.flatten = (
            nn.Linear(4, CLASSES),
            nn.ReLU(),
            nn.Linear(6, 4),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.first(self.flatten(x))))
        return out


def test_a_chain_is_in_the_order_of_calls() -> None:
    chain = find_chain(made(Reversed)[0], batches()[0])
    assert chain is not None
    assert [name for name, _ in chain] == ["flatten", "first", "act", "head"]


class Scaled(nn.Linear):
    """A Linear that is none."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "factory",
    [
        *OTHERS,
        lambda: nn.Sequential(nn.Flatten(), Scaled(6, 3)),
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Flatten()),  # on positions
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 6)), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Flatten(), nn.Softmax(1), nn.Linear(6, 3)),
        nn.Flatten,
    ],
)
def test_what_is_no_chain_is_not_taken_for_one(factory: Callable[[], nn.Module]) -> None:
    assert find_chain(made(factory)[0], batches()[0]) is None


def test_float32_agrees_as_far_as_float32_goes() -> None:
    models, given = made(normalized, dtype=torch.float32), batches().float()
    outputs = Together.of(models, given[0]).forward(given, train=True)
    assert outputs.dtype == torch.float32
    for number, model in enumerate(models):
        torch.testing.assert_close(outputs[number], model.train()(given[number]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factory", [normalized, conv, Tied])
def test_a_member_is_a_state_dict_of_its_network(factory: Callable[[], nn.Module]) -> None:
    models = made(factory)
    stack = Together.of(models, batches()[0])
    for number, model in enumerate(models):
        state = stack.member(number)
        assert list(state) == list(model.state_dict())
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert not any(value.requires_grad for value in state.values())


def test_fewer_members_have_values_of_their_own() -> None:
    stack = Together.of(made(normalized), batches()[0])
    few = stack.only([2, 0])
    assert (len(few), few.trained) == (2, stack.trained)
    given = batches()
    torch.testing.assert_close(few.forward(given[0]), stack.forward(given[0])[[2, 0]])
    before = stack.values["norm.0.running_mean"].clone()
    few.forward(given[0], train=True)
    assert torch.equal(stack.values["norm.0.running_mean"], before)


def test_stacking_changes_no_network() -> None:
    models = made(normalized)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    stack = Together.of(models, batches()[0])
    stack.forward(batches(), train=True)
    for model, state in zip(models, before, strict=True):
        assert model.training
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert stack.values["norm.0.num_batches_tracked"].tolist() == [1, 1, 1]


def test_frozen_parameters_stay_frozen() -> None:
    models = made(mlp)
    for model in models:
        model.get_parameter("hidden.0.weight").requires_grad_(False)
    stack = Together.of(models, batches()[0])
    assert "hidden.0.weight" not in stack.trained
    stack.forward(batches()).sum().backward()
    assert stack.values["hidden.0.weight"].grad is None


# Steps -----------------------------------------------------------------------------------------------------------


def torchs(kind: str, model: nn.Module, lr: float, momentum: float, decay: float) -> torch.optim.Optimizer:
    """PyTorch's own, in its plainest implementation."""
    plain: dict[str, Any] = {"lr": lr, "weight_decay": decay, "foreach": False}
    if kind == "adam":
        return torch.optim.Adam(model.parameters(), betas=(momentum, 0.999), **plain)
    if kind == "rmsprop":
        return torch.optim.RMSprop(model.parameters(), alpha=0.9, eps=1.0, momentum=momentum, **plain)
    return torch.optim.SGD(model.parameters(), momentum=momentum, **plain)


def own_steps(models: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], given: Tensor) -> None:
    for model, optimizer, own in zip(models, optimizers, given, strict=True):
        optimizer.zero_grad()
        cross_entropy(model(own), torch.arange(len(own)) % CLASSES).backward()
        optimizer.step()


def stacked_steps(stack: Together, steps: Steps, given: Tensor, lr: Sequence[float]) -> None:
    out = stack.forward(given, train=True)
    sum(cross_entropy(own, torch.arange(len(own)) % CLASSES) for own in out).backward()  # type: ignore[union-attr]
    steps.step(stack, torch.tensor(lr, dtype=torch.float64))


@pytest.mark.parametrize("decays", [(0.0, 0.0, 0.0), (0.0, 0.1, 0.02)])
@pytest.mark.parametrize("momenta", [(0.0, 0.0, 0.0), (0.9, 0.9, 0.9), (0.0, 0.5, 0.9)])
@pytest.mark.parametrize("kind", ["sgd", "adam", "rmsprop"])
def test_steps_are_pytorchs_with_each_members_rates(
    kind: Any, momenta: tuple[float, ...], decays: tuple[float, ...]
) -> None:
    models, lrs = made(mlp), [0.1, 0.03, 0.01]
    rates = list(zip(models, lrs, momenta, decays, strict=True))
    optimizers = [torchs(kind, model, lr, momentum, decay) for model, lr, momentum, decay in rates]
    stack = Together.of(models, batches()[0])
    steps = Steps.of(stack, momentum=momenta, weight_decay=decays, optimizer=kind)
    for _ in range(5):
        own_steps(models, optimizers, batches())
        stacked_steps(stack, steps, batches(), lrs)
    for number, model in enumerate(models):
        for name, value in model.named_parameters():
            torch.testing.assert_close(stack.values[name][number], value, rtol=1e-10, atol=1e-12)
    assert all(value.grad is None for value in stack.values.values())


@pytest.mark.parametrize("kind", ["sgd", "adam", "rmsprop"])
def test_fewer_members_go_on_where_they_were_and_so_do_pytorchs_optimizers(kind: Any) -> None:
    models, lrs = made(mlp), [0.1, 0.03, 0.01]
    optimizers = [torchs(kind, model, lr, 0.9, 0.01) for model, lr in zip(models, lrs, strict=True)]
    stack = Together.of(models, batches()[0])
    steps = Steps.of(stack, momentum=0.9, weight_decay=0.01, optimizer=kind)
    for _ in range(2):
        own_steps(models, optimizers, batches())
        stacked_steps(stack, steps, batches(), lrs)
    few = [2, 0]
    again = Together.of([models[number] for number in few], batches()[0])
    memory = Steps.of(
        again, momentum=0.9, weight_decay=0.01, optimizer=kind, resumed=[optimizers[number] for number in few]
    )
    stack, steps = stack.only(few), steps.only(few)
    for _ in range(2):
        own_steps(models, optimizers, batches())
        stacked_steps(stack, steps, batches()[few], [lrs[number] for number in few])
        stacked_steps(again, memory, batches()[few], [lrs[number] for number in few])
    for place, number in enumerate(few):
        for name, value in models[number].named_parameters():
            for values in (stack.values, again.values):
                torch.testing.assert_close(values[name][place], value, rtol=1e-10, atol=1e-12)


# Refused ---------------------------------------------------------------------------------------------------------


class NumpyNoise(nn.Module):
    """Draws that no stack can give each member."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        noise = float(np.random.standard_normal()) if self.training else 0.0  # noqa: NPY002
        out: Tensor = self.linear(x.flatten(1)) + noise
        return out


class InPlace(nn.Module):
    """Looks like a chain, but for an addition into the tensor that is handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.first, self.act, self.head = (
            nn.Flatten(),
            nn.Linear(6, 6),
            nn.ReLU(),
            nn.Linear(6, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(self.flatten(x))
        hidden += x.flatten(1)
        out: Tensor = self.head(self.act(hidden))
        return out


@pytest.mark.parametrize(
    ("factory", "way", "message"),
    [
        (
            conv,
            "matmul",
            r"way='matmul': expected a network that calls Flatten.*; Sequential is none; pass way='vmap'",
        ),
        (lambda: fcn(inputs=6, classes=3, dropout=0.5), "auto", r"way='vmap': .*; FCN cannot run stacked: .*random"),
        (NumpyNoise, "auto", "NumpyNoise gives other numbers stacked than alone in train mode"),
        (InPlace, "matmul", "InPlace gives other numbers stacked than alone in eval mode; networks that draw"),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3)), "auto", "item"),
    ],
)
def test_networks_that_cannot_be_stacked_are_refused(factory: Any, way: Any, message: str) -> None:
    sample = batches()[0]
    models = made(factory)
    with pytest.raises(NetopsyError, match=message):
        Together.of(models, sample.flatten(1) if hasattr(models[0], "dropout") else sample, way=way)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("models", "way", "message"),
    [
        ([], "auto", "models: expected an integer >= 1; got 0"),
        (
            [mlp(), no_bias()],
            "auto",
            r"one architecture; member 1 \(FCN\) differs from member 0 \(FCN\) in hidden.0.w",
        ),
        ([mlp(), mlp().double()], "auto", "member 1 .* differs .* and 1 more; train networks of another"),
        ([nn.Linear(6, 3), Scaled(6, 3)], "auto", r"member 1 \(Scaled\) differs from member 0 \(Linear\); train"),
        ([mlp()], "loop", "way: expected one of 'auto', 'matmul', 'vmap'; got 'loop'"),
    ],
)
def test_what_is_no_stack_is_refused(models: Any, way: Any, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        Together.of(models, torch.randn(4, 6), way=way)


@pytest.mark.usefixtures("unchecked")
def test_inputs_and_rates_that_do_not_fit_are_refused() -> None:
    stack = Together.of(made(mlp), batches()[0])
    with pytest.raises(
        NetopsyError, match=r"inputs: expected 3 axes, .* or 4, .* the 3 members; got the shape \(2, 7"
    ):
        stack.forward(batches()[:2])
    with pytest.raises(NetopsyError, match=r"inputs: expected 3 axes, .*; got the shape \(7, 6\)"):
        stack.forward(torch.randn(7, 6))
    with pytest.raises(NetopsyError, match="members: expected an integer >= 1; got 0"):
        stack.only([])
    with pytest.raises(
        NetopsyError, match="momentum: expected one number, or one for each of 3 members; got 2; pass"
    ):
        Steps.of(stack, momentum=[0.1, 0.2])
    with pytest.raises(NetopsyError, match="weight_decay: expected one number, or one for each of 3 members; got 4"):
        Steps.of(stack, weight_decay=[0.1] * 4)
    with pytest.raises(NetopsyError, match="optimizer: expected one of 'sgd', 'adam', 'rmsprop'; got 'lion'"):
        Steps.of(stack, optimizer="lion")  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("factory", CHAINS)
def test_a_step_within_the_backward_pass_is_sgds(factory: Callable[[], nn.Module], own: bool) -> None:
    given, rates = batches(), torch.tensor([0.1, 0.0, 0.3], dtype=torch.float64)
    after, before = Together.of(made(factory), given[0]), Together.of(made(factory), given[0])
    steps = Steps.of(after)
    for stack, descend in ((before, None), (after, steps.within(rates))):
        for _ in range(3):
            stack.forward(given if own else given[0], train=True, descend=descend).square().sum().backward()
            linear = [name for name in stack.trained if name.endswith("weight") and stack.values[name].ndim == 3]
            assert all((stack.values[name].grad is None) == (descend is not None) for name in linear)
            steps.step(stack, rates)
    for name, value in before.values.items():
        torch.testing.assert_close(after.values[name], value, rtol=1e-11, atol=1e-12)
    assert not torch.equal(made(factory)[0].state_dict()[linear[0]], after.values[linear[0]][0])


@pytest.mark.parametrize("given", [{"momentum": 0.9}, {"weight_decay": [0.0, 0.1, 0.0]}, {"optimizer": "adam"}])
def test_only_plain_sgd_steps_within_the_backward_pass(given: dict[str, Any]) -> None:
    assert Steps.of(Together.of(made(mlp), batches()[0]), **given).within(torch.ones(3)) is None


def test_a_frozen_map_does_not_step() -> None:
    models = made(mlp)
    for model in models:
        next(model.parameters()).requires_grad_(False)
    stack = Together.of(models, batches()[0])
    frozen = next(name for name, _ in models[0].named_parameters())
    before = stack.values[frozen].clone()
    stack.forward(batches(), train=True, descend=torch.ones(3)).square().sum().backward()
    assert torch.equal(stack.values[frozen], before)


class Twice(nn.Module):
    """A map that is called more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.act, self.inner = nn.Flatten(), nn.Tanh(), nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(self.act(self.inner(self.act(self.inner(self.flatten(x)))))))
        return out


def test_a_map_that_is_called_twice_steps_after_the_backward_pass() -> None:
    given, rates = batches(), torch.full((3,), 0.3, dtype=torch.float64)
    after, before = Together.of(made(Twice), given[0]), Together.of(made(Twice), given[0])
    assert after.way == "matmul"
    for stack, descend in ((before, None), (after, rates)):
        stack.forward(given, train=True, descend=descend).square().sum().backward()
        Steps.of(stack).step(stack, rates)
    for name, value in before.values.items():
        torch.testing.assert_close(after.values[name], value, rtol=1e-11, atol=1e-12)
