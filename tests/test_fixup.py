"""Fixup: exact scales, zero branches, a signal and an update that do not grow with depth."""

from __future__ import annotations

import inspect
import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._identity import canonical
from netopsy._random import forked
from netopsy.commands.inputs import recorded_factory
from netopsy.models.fcn import fcn
from netopsy.models.fixup import fixup, with_fixup
from netopsy.models.inits import initialize
from netopsy.models.resnet import ResNet, resnet


def built(depth: int = 18, *, seed: int = 0, how: str = "fixup", **options: Any) -> ResNet:
    """A small net, initialized with this seed alone."""
    model = resnet(depth, **{"classes": 5, "width": 1 / 8, **options})
    with forked(seed):
        if how == "fixup":
            fixup(model)
        else:
            initialize(model, how)
    return model


def is_branch(name: str) -> bool:
    return ".block" in name and "shortcut" not in name


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("shortcut", ["projection", "padding"])
@pytest.mark.parametrize(
    ("depth", "stages", "branches", "factor"),  # L^(-1/(2m-2)), of m = 2 and m = 3 layers
    [(18, (1, 3), 4, 1 / 2), (50, (8, 8), 16, 1 / 2), (18, None, 8, 8**-0.5), (50, (3, 3), 6, 6**-0.25)],
)
def test_scales_are_exact(
    depth: int, stages: tuple[int, ...] | None, branches: int, factor: float, version: int, shortcut: str
) -> None:
    options = {"width": 1 / 16, "stages": stages, "version": version, "shortcut": shortcut}
    model, he = built(depth, **options), built(depth, how="he-normal", **options)
    last = f"conv{2 if depth == 18 else 3}.weight"
    values, drawn = model.state_dict(), he.state_dict()
    assert sum(is_branch(name) and name.endswith(last) for name in values) == branches
    for name, value in values.items():
        if name.endswith("bias") or name == "classifier.weight" or (is_branch(name) and name.endswith(last)):
            assert not value.any(), name
        elif is_branch(name):
            torch.testing.assert_close(value, factor * drawn[name], rtol=1e-6, atol=0.0)
        else:
            assert torch.equal(value, drawn[name]), name
    assert drawn["classifier.weight"].any()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("depth", [18, 50])
def test_branches_are_zero_and_logits_are_zero(depth: int, version: int) -> None:
    model = built(depth, version=version, stages=(3, 1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 8, 8, generator=generator)
    with torch.no_grad():
        for block in list(model.stage1)[1:]:  # those whose skip is the identity
            start = torch.randn(2, model.stage2[0].conv1.in_channels, 4, 4, generator=generator)
            assert torch.equal(block(start), start if version == 2 else start.clamp(min=0))
        assert not model(x).any()


def last_value(model: nn.Sequential, x: Tensor) -> Tensor:
    """What enters the classifier."""
    for name, part in model.named_children():
        if name == "classifier":
            return x
        x = part(x)
    raise AssertionError


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("depth", [18, 50])
def test_the_signal_is_that_of_the_skips_and_does_not_grow_with_depth(depth: int, version: int) -> None:
    """Blocks behind the first of a stage change nothing; by He's rule alone each adds about what is there."""
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    values = {}
    for how in ("fixup", "he-normal"):
        shallow = built(depth, how=how, stages=(1, 1, 1), version=version)
        deep = built(depth, how=how, stages=(1, 4, 4), version=version)
        kept = {name: v for name, v in shallow.state_dict().items() if not is_branch(name)}
        deep.load_state_dict(deep.state_dict() | kept)  # the stem and the projections
        with torch.no_grad():
            values[how] = [last_value(model, x) for model in (shallow, deep)]
    assert torch.equal(*values["fixup"])
    shallow_square, deep_square = (value.square().mean() for value in values["he-normal"])
    assert deep_square > 2 * shallow_square
    assert 0.1 < values["fixup"][0].square().mean() < 10


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("depth", "short", "long"), [(18, 4, 64), (50, 4, 64)])
def test_the_first_update_of_all_branches_together_does_not_grow_with_depth(
    depth: int, short: int, long: int, version: int
) -> None:
    """Σ ‖∂ logit / ∂ W_last‖² over the branches, with some classifier that is not zero: what one step changes.

    L terms, each L^-1 of what it would be with He's scale: (L^(-1/(2m-2)))² for each of the m - 1 inner layers.
    """
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = {}
    for how in ("fixup", "unscaled"):
        for count in (short, long):
            model = built(depth, stages=(count,), width=1 / 16, version=version)
            with torch.no_grad(), forked(1):
                nn.init.normal_(model.classifier.weight)
                for name, value in model.named_parameters():
                    if how == "unscaled" and is_branch(name):
                        value.mul_(count ** (1 / (2 if depth == 18 else 4)))
            model(x).sum().backward()
            last = f"conv{2 if depth == 18 else 3}.weight"
            gradients = [p.grad for name, p in model.named_parameters() if is_branch(name) and name.endswith(last)]
            assert len(gradients) == count
            found[how, count] = sum(g.square().sum().item() for g in gradients if g is not None)
    assert 0.5 < found["fixup", long] / found["fixup", short] < 2
    assert found["unscaled", long] / found["unscaled", short] > 0.5 * long / short


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("depth", [18, 50])
def test_what_is_zero_at_first_starts_to_move(depth: int, version: int) -> None:
    """Behind a zero nothing has a gradient: first the classifier moves, then the last convolutions, then the rest."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, 4, 4, generator=generator), torch.arange(8) % 5
    model = built(depth, stages=(2, 2), width=1 / 16, version=version)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    last = f"conv{2 if depth == 18 else 3}.weight"
    weights = [name for name in start if name.endswith("weight")]
    skips = {name for name in weights if not is_branch(name) and name != "classifier.weight"}
    lasts = {name for name in weights if is_branch(name) and name.endswith(last)}
    expected = [{"classifier.weight"}, {"classifier.weight"} | skips | lasts, set(weights)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for moved in expected:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        assert {name for name in weights if not torch.equal(model.state_dict()[name], start[name])} == moved


def test_draws_follow_the_seed_and_leave_the_rest_alone() -> None:
    one, same, other = (built(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], value) for name, value in same.items())
    assert not torch.equal(one["stem.conv.weight"], other["stem.conv.weight"])
    model = resnet(18, classes=2, width=1 / 16)
    model.stem.conv.weight.requires_grad_(False)
    fixup(model)
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["stem.conv.weight"]
    assert all(value.grad_fn is None for value in model.parameters())


def test_the_factory_can_be_written_down_and_restored() -> None:
    factory = partial(with_fixup, partial(resnet, 18, classes=3, version=1, width=1 / 16, stages=(1, 1)))
    restored = recorded_factory({"factory": json.loads(json.dumps(canonical(factory)))})
    assert restored is not None
    states = []
    for build in (factory, restored):
        with forked(7):
            states.append(build().state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not states[0]["stage1.block1.conv2.weight"].any()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: fcn(inputs=4, classes=2), r"model: expected a ResNet of netopsy\.models\.resnet.*; got FCN"),
        (
            lambda: resnet(18, classes=2, width=1 / 16, batch_norm=True),
            r"model: expected a ResNet without batch normalization.*; build it with batch_norm=False",
        ),
    ],
)
def test_it_refuses_other_models_and_changes_nothing(model: Any, message: str) -> None:
    given = model()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(fixup)(given)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    with pytest.raises(NetopsyError, match=message):
        inspect.unwrap(with_fixup)(model)
