"""Parts that are frozen, and modules that are removed, while the rest is trained."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked
from netopsy.models.fcn import fcn
from netopsy.models.resnet import resnet
from netopsy.network.trajectory import Trajectory
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, fit

CLASSES = 3
net = functools.partial(resnet, 18, classes=CLASSES, channels=1, width=1 / 16, stages=(2, 2), batch_norm=True)
CONFIG = FitConfig(epochs=2, batch_size=8, lr=0.05, weight_decay=0.1, seed=4)


def data(n: int = 16) -> tuple[Tensor, Tensor]:
    images = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(n) % CLASSES


def train(factory: Callable[[], nn.Module] = net, **changes: Any) -> FitResult:
    return fit(factory, data(), replace(CONFIG, **changes))


def changed(result: FitResult) -> set[str]:
    first, last = result.states[0], result.states[2]
    assert not isinstance(first, Path)
    assert not isinstance(last, Path)
    return {name for name in first if not torch.equal(first[name], last[name])}


@pytest.mark.parametrize("frozen", [("stage1.block2",), ("stage*.block1", "stem"), ("classifier.bias",), ("norm",)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_frozen_parameters_stay_and_all_others_and_the_statistics_move(
    frozen: tuple[str, ...], optimizer: Any
) -> None:
    parameters = {name for name, _ in net().named_parameters()}
    stay = {
        name
        for name in parameters
        for glob in frozen
        if name == glob or name.startswith(tuple(glob.replace("*", stage) + "." for stage in "12"))
    }
    assert 0 < len(stay) < len(parameters)
    result = train(frozen=frozen, optimizer=optimizer)
    assert changed(result) == set(net().state_dict()) - stay


def test_frozen_layers_are_those_of_a_loop_by_hand() -> None:
    factory = functools.partial(fcn, inputs=(1, 6, 6), classes=CLASSES, depth=2, width=5)
    config = replace(CONFIG, epochs=1, batch_size=16, frozen=("hidden.0",))
    result = fit(factory, data(), config)
    model = factory()
    model.load_state_dict(result.states[0])  # type: ignore[arg-type]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    nn.functional.cross_entropy(model(data()[0]), data()[1]).backward()
    for name, value in model.named_parameters():
        assert value.grad is not None
        step = 0.0 if name.startswith("hidden.0.") else 0.05 * (value.grad + 0.1 * before[name])
        torch.testing.assert_close(result.states[1][name], before[name] - step)  # type: ignore[index]


@pytest.mark.parametrize(
    "removed", [("stage1.block2",), ("stage*.block2",), ("stage2.block2", "stage1.block2.conv1")]
)
def test_a_removed_block_is_gone_and_the_rest_starts_as_in_the_full_network(removed: tuple[str, ...]) -> None:
    whole, result = train(), train(removed=removed)
    start: Any = whole.states[0]
    gone = {"stage1.block2": "stage1.block2.", "stage*.block2": ("stage1.block2.", "stage2.block2.")}.get(
        removed[0], ("stage2.block2.", "stage1.block2.conv1.")
    )
    left = [name for name in start if not name.startswith(gone)]
    assert list(result.states[0]) == left
    assert all(torch.equal(result.states[0][name], start[name]) for name in left)  # type: ignore[index]
    assert changed(result) == set(left)


def test_removal_is_the_network_without_the_block(tmp_path: Path) -> None:
    def shorter() -> nn.Module:
        model = net()
        del model.stage1.block2
        return model

    by_hand = train(shorter)
    result = fit(net, data(), replace(CONFIG, removed=("stage1.block2",)), folder=tmp_path)
    trajectory = Trajectory.from_folder(pickle.loads(pickle.dumps(result.factory)), tmp_path)
    assert set(trajectory.state()) == set(by_hand.states[2])
    assert all(torch.equal(trajectory.state()[name], value) for name, value in by_hand.states[2].items())  # type: ignore[union-attr]
    with forked(derive(4, "init")):
        again = result.factory().state_dict()
    assert all(torch.equal(again[name], value) for name, value in by_hand.states[0].items())  # type: ignore[union-attr]


def test_one_can_freeze_what_is_left() -> None:
    result = train(removed=("stage1.block2",), frozen=("stage1",))
    assert not any(
        name.startswith("stage1") and "running" not in name and "num_" not in name for name in changed(result)
    )


class Odd(nn.Module):
    """Modules that an identity cannot stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.wide = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 37)
        self.one = nn.Linear(36, 36)
        self.other = self.one
        self.two = nn.Bilinear(36, 36, 36)
        self.hidden = nn.Linear(36, 36)
        self.kept = [self.hidden]
        self.statistics = nn.BatchNorm1d(36, affine=False)
        self.recurrent = nn.RNN(36, 36)
        self.narrow = nn.Linear(37, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.other(self.twice(self.twice(x.flatten(1)))))
        x = self.recurrent(self.statistics(self.two(x, x)))[0]
        out: Tensor = self.narrow(self.wide(self.kept[0](x)))
        return out


@pytest.mark.parametrize(
    ("factory", "changes", "message"),
    [
        (
            net,
            {"frozen": ("stage1.blok2",)},
            r"site 'stage1.blok2': matches no module .*did you mean .*stage1.block2",
        ),
        (net, {"frozen": ("*",)}, r"frozen: expected at least one parameter left to train; '\*' is all of ResNet"),
        (net, {"frozen": ("classifier.weight[0]",)}, r"each whole; got 'classifier.weight\[0\]'; name its module"),
        (
            Odd,
            {"frozen": ("statistics",)},
            "frozen: expected parts that have parameters, each whole; got 'statistics'",
        ),
        (
            net,
            {"removed": ("stage1.blok2",)},
            "removed: 'stage1.blok2' matches no module inside ResNet; did you mean",
        ),
        (net, {"removed": ("zzz",)}, r"'zzz' matches no module inside ResNet; it has stem, .* more"),
        (net, {"removed": ("classifier",)}, r"'classifier' takes torch.float32 \(2, 8\) and returns .*\(2, 3\); the"),
        (net, {"removed": ("stage2.block1",)}, r"return its shape; 'stage2.block1' takes .*leave it out"),
        (Odd, {"removed": ("twice",)}, "'twice' is called 2 times in a forward pass; the identity cannot"),
        (Odd, {"removed": ("never",)}, "'never' is called 0 times in a forward pass; the identity cannot"),
        (Odd, {"removed": ("two",)}, "'two' takes other arguments than one tensor"),
        (Odd, {"removed": ("recurrent",)}, "'recurrent' returns tuple; the identity"),
        (Odd, {"removed": ("one",)}, r"expected modules with one name; 'one' is 'other' too; the identity"),
        (Odd, {"removed": ("hidden",)}, "expected the model to call 'hidden' by its name; it holds on to the module"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 36)),
            {"removed": ("1",)},
            "removed: expected at least one parameter left to train; without '1' Sequential has none; remove less",
        ),
    ],
)
def test_what_cannot_be_frozen_or_removed_is_refused(
    tmp_path: Path, factory: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NetopsyError, match=message):
        fit(factory, data(), replace(CONFIG, **changes), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
