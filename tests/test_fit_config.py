"""Training configurations: what they accept, the learning rate's schedule, the recipes."""

from __future__ import annotations

from typing import Any

import pytest

from netopsy._checks import NetopsyError
from netopsy.training.config import FitConfig
from netopsy.training.recipes import demo, layers_conv, layers_fcn, layers_lm


def test_the_lr_drops_after_the_named_epochs() -> None:
    config = layers_fcn()
    by_hand = [0.01] * 30 + [0.002] * 30 + [0.0004] * 30 + [0.00008] * 10
    assert [config.lr_at(epoch) for epoch in range(1, 101)] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("keep", "keys"), [("all", (0, 1, 2, 3)), ((), (0, 3)), ((2, 1, 2), (0, 1, 2, 3)), ((0, 3), (0, 3))]
)
def test_the_first_and_the_last_checkpoint_are_always_kept(keep: Any, keys: tuple[int, ...]) -> None:
    assert FitConfig(epochs=3, lr=0.1, keep=keep).keys == keys


def test_the_recipes_are_the_papers() -> None:
    fcn, conv = layers_fcn(seed=3), layers_conv(seed=3)
    assert (fcn.epochs, fcn.batch_size, fcn.optimizer, fcn.lr, fcn.momentum) == (100, 128, "sgd", 0.01, 0.9)
    assert (fcn.lr_drops, fcn.lr_factor, fcn.weight_decay, fcn.augment) == ((30, 60, 90), 0.2, 0.0, "none")
    assert (fcn.keys, fcn.seed) == ((0, 1, 2, 3, 8, 40, 90, 100), 3)
    changed = {name for name in vars(fcn) if getattr(fcn, name) != getattr(conv, name)}
    assert (changed, conv.augment, conv.pad) == ({"augment"}, "pad-crop-flip", 4)


def test_the_language_model_is_trained_as_the_paper_says() -> None:
    config = layers_lm(seed=2)
    assert (config.epochs, config.optimizer, config.lr_drops, config.seed) == (20, "adam", (), 2)
    assert config.keys == (0, 1, 2, 5, 10, 15, 20)
    assert layers_lm(epochs=3).keys == (0, 1, 2, 3)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 8, 50])
def test_the_recipes_keep_their_shape_in_fewer_epochs(epochs: int) -> None:
    for recipe in (layers_fcn(epochs=epochs), layers_conv(epochs=epochs)):
        assert len(recipe.lr_drops) == min(3, epochs - 1)
        assert recipe.keys[-1] == epochs


def test_the_demo_keeps_every_epoch() -> None:
    assert demo().keys == tuple(range(demo().epochs + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: expected an integer >= 1; got 0"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1; got 0"),
        ({"loss": "hinge"}, "loss: expected one of 'cross-entropy', 'l2'; got 'hinge'"),
        ({"optimizer": "lion"}, "optimizer: expected one of 'sgd', 'adam', 'rmsprop', 'lbfgs'; got 'lion'"),
        ({"lr": 0.0}, r"lr: expected a number in \(0, inf\); got 0.0"),
        ({"lr": float("nan")}, r"lr: expected a number in \(0, inf\); got nan"),
        ({"momentum": 1.0}, r"momentum: expected a number in \[0, 1\); got 1.0"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a number in \[0, inf\); got -1.0"),
        ({"sam_rho": 0.0}, r"sam_rho: expected a number in \(0, inf\); got 0.0"),
        ({"sam_rho": float("nan")}, r"sam_rho: expected a number in \(0, inf\); got nan"),
        ({"optimizer": "lbfgs", "sam_rho": 0.1}, "sam_rho: expected None with optimizer='lbfgs', .* got 0.1"),
        ({"lr_factor": 0.0}, r"lr_factor: expected a number in \(0, 1\]; got 0.0"),
        ({"augment": "mixup"}, "augment: expected one of 'none', 'pad-crop-flip', .*; got 'mixup'"),
        ({"optimizer": "lbfgs", "weight_decay": 0.1}, "weight_decay: expected 0 with optimizer='lbfgs', .* got 0.1"),
        ({"pad": -1}, "pad: expected an integer >= 0; got -1"),
        ({"label_noise": 1.5}, r"label_noise: expected a number in \[0, 1\]; got 1.5"),
        ({"seed": -1}, "seed: expected an integer >= 0; got -1"),
        ({"lr_drops": (0,)}, r"lr_drops: expected ascending epochs from 1 to 9 \(epochs - 1\); got \(0,\)"),
        ({"lr_drops": (4, 10)}, r"lr_drops: expected ascending epochs from 1 to 9 .* got \(4, 10\)"),
        ({"lr_drops": (5, 4)}, r"lr_drops: expected ascending epochs .* got \(5, 4\)"),
        ({"lr_drops": (4, 4)}, r"lr_drops: expected ascending epochs .* got \(4, 4\)"),
        ({"keep": (3, 11, -1)}, "keep: expected epochs from 0 to 10; got also 11, -1"),
        ({"keep": "some"}, "keep: expected 'all' or epochs; got 'some'"),
        ({"frozen": "hidden.0"}, r"frozen: expected a tuple of names or globs, .*; got 'hidden.0'"),
        ({"removed": ("",)}, r"removed: expected a tuple of names or globs, .*; got \('',\)"),
        ({"validation_share": 1.0}, r"validation_share: expected a number in \[0, 1\); got 1.0"),
        ({"patience": 0}, "patience: expected an integer >= 1; got 0"),
        ({"monitor": "loss"}, "monitor: expected one of 'validation_loss', 'validation_error'; got 'loss'"),
        ({"target_loss": -0.1}, r"target_loss: expected a number in \[0, inf\); got -0.1"),
        ({"target_error": 1.1}, r"target_error: expected a number in \[0, 1\]; got 1.1"),
        ({"patience": 3, "target_loss": 0.1}, "patience: expected None with target_loss or target_error: .* got 3"),
        ({"patience": 3, "target_error": 0.1}, "patience: expected None with target_loss or target_error"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_config_says_what_is_wrong_with_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        FitConfig(**{"epochs": 10, "lr": 0.1, **changes})
