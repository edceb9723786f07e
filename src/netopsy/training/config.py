"""What decides a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from netopsy._checks import NetopsyError, at_least, inside, one_of, shorten


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything that decides what a training run gives, but for the data and the architecture.

    Attributes:
        epochs: passes over the train split.
        batch_size: examples a step; an epoch's last batch is smaller where the number does not divide.
        optimizer: "sgd" or "adam".
        lr: learning rate of the first epoch.
        momentum: of SGD; Adam's β₁ (its β₂ is 0.999, its ε 1e-8).
        weight_decay: added to the gradient as weight_decay · θ, of all parameters, in SGD and Adam alike.
        lr_drops: epochs after which the lr is multiplied by `lr_factor`: with 30, epochs 1 to 30 still have the old.
        lr_factor: in (0, 1].
        augment: "none" or "pad-crop-flip", see `augment.pad_crop_flip`.
        pad: its padding, in pixels.
        label_noise: share of the train labels replaced by uniformly random ones before the first epoch, see
            `data.dataset.corrupt_labels`.
        seed: decides the initial weights, the order of the data, augmentation, label noise and what the model draws
            in training (dropout), each by a generator of its own.
        keep: epochs whose checkpoints are kept, or "all"; 0 (before any step) and the last one always are.

    Raises:
        NetopsyError: a value is out of its range.
    """

    epochs: int
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr_drops: tuple[int, ...] = ()
    lr_factor: float = 0.2
    augment: Literal["none", "pad-crop-flip"] = "none"
    pad: int = 4
    label_noise: float = 0.0
    seed: int = 0
    keep: tuple[int, ...] | Literal["all"] = "all"

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        one_of("optimizer", self.optimizer, ("sgd", "adam"))
        inside("lr", self.lr, 0.0, float("inf"), open_low=True, open_high=True)
        inside("momentum", self.momentum, 0.0, 1.0, open_high=True)
        inside("weight_decay", self.weight_decay, 0.0, float("inf"), open_high=True)
        inside("lr_factor", self.lr_factor, 0.0, 1.0, open_low=True)
        one_of("augment", self.augment, ("none", "pad-crop-flip"))
        at_least("pad", self.pad, 0)
        inside("label_noise", self.label_noise, 0.0, 1.0)
        at_least("seed", self.seed, 0)
        strange = [drop for drop in self.lr_drops if not 1 <= drop < self.epochs]
        if strange or list(self.lr_drops) != sorted(set(self.lr_drops)):
            raise NetopsyError(
                f"lr_drops: expected ascending epochs from 1 to {self.epochs - 1} (epochs - 1); got {self.lr_drops}"
            )
        if isinstance(self.keep, str):
            if self.keep != "all":
                raise NetopsyError(f"keep: expected 'all' or epochs; got {self.keep!r}")
        elif late := [epoch for epoch in self.keep if not 0 <= epoch <= self.epochs]:
            raise NetopsyError(f"keep: expected epochs from 0 to {self.epochs}; got also {shorten(late)}")

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1.

        >>> config = FitConfig(epochs=4, lr=1.0, lr_drops=(2, 3), lr_factor=0.5)
        >>> [config.lr_at(epoch) for epoch in (1, 2, 3, 4)]
        [1.0, 1.0, 0.5, 0.25]
        """
        return self.lr * self.lr_factor ** sum(epoch > drop for drop in self.lr_drops)

    @property
    def keys(self) -> tuple[int, ...]:
        """Epochs whose checkpoints are kept, ascending.

        >>> FitConfig(epochs=5, lr=0.1, keep=(2,)).keys
        (0, 2, 5)
        """
        kept = range(self.epochs + 1) if self.keep == "all" else self.keep
        return tuple(sorted({0, *kept, self.epochs}))
