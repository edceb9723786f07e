"""Complete training configurations of the papers' experiments; change one with `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import replace

from netopsy.training.config import FitConfig


def layers_fcn(*, epochs: int = 100, lr: float = 0.01, seed: int = 0) -> FitConfig:
    """Fully connected networks as the layers paper trains them (Zhang, Bengio, Singer 2022).

    SGD with momentum 0.9, batches of 128, lr ×0.2 after 30, 60 and 90 % of the epochs, no weight decay. The
    checkpoints kept are those of its figures: 0, 1, 2, 3, 8, 40, 90 and the last. The base lr is netopsy's choice:
    with 0.01, FCN 3×256 on Fashion-MNIST shows what the paper describes; with 0.1 its upper layers are critical
    too. Say the lr with every figure.

    >>> layers_fcn().lr_drops, layers_fcn(epochs=10).lr_drops
    ((30, 60, 90), (3, 6, 9))
    """
    drops = {epochs * percent // 100 for percent in (30, 60, 90)}
    return FitConfig(
        epochs=epochs,
        batch_size=128,
        optimizer="sgd",
        lr=lr,
        momentum=0.9,
        weight_decay=0.0,
        lr_drops=tuple(sorted(drops - {0})),
        lr_factor=0.2,
        keep=tuple(epoch for epoch in (0, 1, 2, 3, 8, 40, 90) if epoch < epochs),
        seed=seed,
    )


def layers_conv(*, epochs: int = 100, lr: float = 0.01, seed: int = 0) -> FitConfig:
    """VGG and ResNet on CIFAR as the layers paper trains them: `layers_fcn` with pad 4, crop and flip."""
    return replace(layers_fcn(epochs=epochs, lr=lr, seed=seed), augment="pad-crop-flip", pad=4)


def layers_lm(*, epochs: int = 20, lr: float = 1e-3, seed: int = 0) -> FitConfig:
    """The language model of the layers paper (section 5.1): Adam, 20 epochs.

    The checkpoints kept are those of its Figure 7: 0, 1, 2, 5, 10, 15 and the last. The paper prints no lr, schedule
    or batch size: 0.001 without drops and batches of 64 sequences are netopsy's choice.

    >>> layers_lm().keys
    (0, 1, 2, 5, 10, 15, 20)
    """
    keep = tuple(epoch for epoch in (0, 1, 2, 5, 10, 15) if epoch < epochs)
    return FitConfig(epochs=epochs, batch_size=64, optimizer="adam", lr=lr, momentum=0.9, keep=keep, seed=seed)


def demo(*, seed: int = 0) -> FitConfig:
    """A small network on `digits()` in seconds, every epoch kept."""
    return FitConfig(epochs=30, batch_size=32, optimizer="sgd", lr=0.02, lr_drops=(15, 25), keep="all", seed=seed)
