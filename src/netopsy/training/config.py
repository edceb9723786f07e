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
        loss: "cross-entropy", in nats, or "l2": the squared error to the one-hot label, summed over classes. Its mean
            over a batch, of labels by position over those that count, is descended on, and all losses that are
            reported are of this kind.
        optimizer: "sgd", "adam", "rmsprop" or "lbfgs". L-BFGS takes all examples at once (`batch_size` at least as
            many), and an epoch is `epoch.LBFGS_STEPS` of its iterations, with a strong Wolfe line search, from an
            empty memory; it has no use for `momentum`.
        lr: learning rate of the first epoch; of L-BFGS the first length that a line search tries, 1 as a rule.
        momentum: of SGD and RMSprop; Adam's β₁ (its β₂ is 0.999, its ε 1e-8). RMSprop's decay is 0.9 and its ε 1, as
            for Inception (Szegedy et al.: Rethinking the Inception Architecture, 2016, section 8), but PyTorch adds ε
            to the root of the mean square, TensorFlow to the mean square: v ← 0.9 v + 0.1 g²,
            b ← momentum · b + g / (√v + 1), θ ← θ - lr · b, from v = b = 0.
        weight_decay: added to the gradient as weight_decay · θ, of all parameters, by every optimizer.
        sam_rho: radius ρ > 0 of sharpness-aware minimization (see `sam.ascended`), for any optimizer but "lbfgs": its
            step from θ takes the loss's gradient at θ + ρ g/‖g‖, g being the one at θ. Each step costs two. Losses,
            errors and the statistics of batch normalization are those of θ, of the first pass; dropout draws anew
            for the second; weight decay is no part of g. None: the optimizer's own step.
        lr_drops: epochs after which the lr is multiplied by `lr_factor`: with 30, epochs 1 to 30 still have the old.
        lr_factor: in (0, 1].
        augment: "none", "pad-crop-flip", see `augment.pad_crop_flip`, or "wrap-flip" and "wrap-flip-turn", see
            `augment.wrap_flip`.
        pad: the pixels that it pads or shifts by.
        label_noise: share of the train labels replaced by uniformly random ones before the first epoch, see
            `data.dataset.corrupt_labels`.
        seed: decides the initial weights, the order of the data, augmentation, label noise and what the model draws
            in training (dropout), each by a generator of its own.
        keep: epochs whose checkpoints are kept, or "all"; 0 (before any step) and the last one always are.
        frozen: parts of the model that training leaves at their initial values, as `network.sites.find_sites` takes
            them; see `removal.freeze`.
        removed: modules replaced by the identity before training, by name or glob; see `removal.remove`. All others
            start from the weights that they have in the full network with the same seed.
        validation_share: share of every class of the train data that is held out, drawn by the seed, as validation
            data; label noise does not reach it.
        patience: epochs without a new best `monitor` after which training stops; None trains all epochs. With it the
            trajectory ends at the best epoch, whether training stopped before `epochs` or not. Needs validation data.
        monitor: what patience looks at: "validation_loss" or "validation_error"; the lowest is best, of equals the
            first.
        target_loss: training stops after the first epoch at which the mean loss on the train split, in eval mode,
            without augmentation, with the labels that are trained on, is at most this. None: no target.
        target_error: the same for the share of errors; with both, both must hold.

    Raises:
        NetopsyError: a value is out of its range; or both patience and a target are given.
    """

    epochs: int
    batch_size: int = 128
    loss: Literal["cross-entropy", "l2"] = "cross-entropy"
    optimizer: Literal["sgd", "adam", "rmsprop", "lbfgs"] = "sgd"
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    sam_rho: float | None = None
    lr_drops: tuple[int, ...] = ()
    lr_factor: float = 0.2
    augment: Literal["none", "pad-crop-flip", "wrap-flip", "wrap-flip-turn"] = "none"
    pad: int = 4
    label_noise: float = 0.0
    seed: int = 0
    keep: tuple[int, ...] | Literal["all"] = "all"
    frozen: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    validation_share: float = 0.0
    patience: int | None = None
    monitor: Literal["validation_loss", "validation_error"] = "validation_loss"
    target_loss: float | None = None
    target_error: float | None = None

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        one_of("loss", self.loss, ("cross-entropy", "l2"))
        one_of("optimizer", self.optimizer, ("sgd", "adam", "rmsprop", "lbfgs"))
        inside("lr", self.lr, 0.0, float("inf"), open_low=True, open_high=True)
        inside("momentum", self.momentum, 0.0, 1.0, open_high=True)
        inside("weight_decay", self.weight_decay, 0.0, float("inf"), open_high=True)
        inside("lr_factor", self.lr_factor, 0.0, 1.0, open_low=True)
        if self.optimizer == "lbfgs" and self.weight_decay:
            raise NetopsyError(
                f"weight_decay: expected 0 with optimizer='lbfgs', whose line search looks at the loss alone; got "
                f"{self.weight_decay:g}; leave it out, or take another optimizer"
            )
        if self.sam_rho is not None:
            inside("sam_rho", self.sam_rho, 0.0, float("inf"), open_low=True, open_high=True)
            if self.optimizer == "lbfgs":
                raise NetopsyError(
                    f"sam_rho: expected None with optimizer='lbfgs', whose line search looks at the loss where it "
                    f"steps; got {self.sam_rho:g}; leave it out, or take another optimizer"
                )
        one_of("augment", self.augment, ("none", "pad-crop-flip", "wrap-flip", "wrap-flip-turn"))
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
        for field, names in (("frozen", self.frozen), ("removed", self.removed)):
            if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
                raise NetopsyError(f"{field}: expected a tuple of names or globs, as ('stage1.*',); got {names!r}")
        inside("validation_share", self.validation_share, 0.0, 1.0, open_high=True)
        if self.patience is not None:
            at_least("patience", self.patience, 1)
        one_of("monitor", self.monitor, ("validation_loss", "validation_error"))
        if self.target_loss is not None:
            inside("target_loss", self.target_loss, 0.0, float("inf"), open_high=True)
        if self.target_error is not None:
            inside("target_error", self.target_error, 0.0, 1.0)
        if self.patience is not None and self.has_target:
            raise NetopsyError(
                "patience: expected None with target_loss or target_error: one ends the trajectory at the best "
                f"epoch, the other at the first good enough; got {self.patience}; choose one"
            )

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1.

        >>> config = FitConfig(epochs=4, lr=1.0, lr_drops=(2, 3), lr_factor=0.5)
        >>> [config.lr_at(epoch) for epoch in (1, 2, 3, 4)]
        [1.0, 1.0, 0.5, 0.25]
        """
        return self.lr * self.lr_factor ** sum(epoch > drop for drop in self.lr_drops)

    @property
    def has_target(self) -> bool:
        """Whether training stops once the train split is fitted."""
        return self.target_loss is not None or self.target_error is not None

    @property
    def keys(self) -> tuple[int, ...]:
        """Epochs whose checkpoints are kept if training takes all epochs, ascending; if not, also the last one is.

        >>> FitConfig(epochs=5, lr=0.1, keep=(2,)).keys
        (0, 2, 5)
        """
        kept = range(self.epochs + 1) if self.keep == "all" else self.keep
        return tuple(sorted({0, *kept, self.epochs}))
