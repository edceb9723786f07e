"""One epoch of all members: stacked, or one after the other as `fit` trains them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from netopsy._random import derive, generator
from netopsy._typing import State
from netopsy.training import resume as resuming
from netopsy.training.augment import augmented
from netopsy.training.config import FitConfig
from netopsy.training.epoch import EVALUATION_BATCH, Row, device_of, mean_loss_and_error, train_epoch
from netopsy.training.inputs import Split
from netopsy.training.losses import Loss, loss_of
from netopsy.training.population_step import Steps
from netopsy.training.together import Together


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """What decides one member's training.

    Attributes:
        number: its place in the population, from 0.
        config: of its training.
        order: the seed of the data's order and augmentation: the config's own, or one that all members share.
        train: inputs and labels, corrupted where the config says so; members may share one tensor of inputs.
        held: validation data.
        factory: makes the network that is trained.
    """

    number: int
    config: FitConfig
    order: int
    train: Split = field(repr=False)
    held: Split | None = field(repr=False)
    factory: Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True, eq=False)
class OneByOne:
    """Each member is a module with PyTorch's own optimizer."""

    members: Mapping[int, Member]
    models: Mapping[int, nn.Module]
    optimizers: Mapping[int, torch.optim.Optimizer]

    def epoch(self, epoch: int) -> dict[int, Row]:
        """As `fit` trains each."""
        rows = {}
        for number, member in self.members.items():
            model, (images, labels) = self.models[number], member.train
            config = replace(member.config, seed=member.order)  # it decides nothing but what is drawn in the epoch
            trained = train_epoch(model, self.optimizers[number], images, labels, config, epoch)
            fitted = mean_loss_and_error(model, images, labels, config.loss) if member.config.has_target else None
            held = mean_loss_and_error(model, *member.held, config.loss) if member.held else None
            rows[number] = _row(trained, fitted, held)
        return rows

    def is_finite(self, member: int) -> bool:
        """Whether all of a member's parameters are finite."""
        return all(bool(value.isfinite().all()) for value in self.models[member].parameters())

    def state(self, member: int) -> State:
        """A copy of a member's state dict, on the CPU."""
        return _copied(self.models[member].state_dict())

    def snapshot(self, member: int, rows: Sequence[Row], best: State | None) -> resuming.Snapshot:
        """A copy of all that a member's next epoch depends on."""
        return resuming.take(self.models[member], self.optimizers[member], rows, best)

    def only(self, members: Sequence[int]) -> OneByOne:
        """These members alone."""
        return OneByOne(
            members={number: self.members[number] for number in members},
            models={number: self.models[number] for number in members},
            optimizers={number: self.optimizers[number] for number in members},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Stacked:
    """All members are one stack of tensors, in the order of `members`."""

    members: Mapping[int, Member]
    together: Together
    steps: Steps

    def epoch(self, epoch: int) -> dict[int, Row]:
        """One pass of every member over its data."""
        started = time.perf_counter()
        members = list(self.members.values())
        count, size, device = len(members[0].train[0]), members[0].config.batch_size, self._device
        lr = torch.tensor([member.config.lr_at(epoch) for member in members], dtype=torch.float64, device=device)
        images, labels = self._common([member.train for member in members]), _labels(members)
        seeds = [member.order for member in members]
        if len(set(seeds)) == 1 and isinstance(images, Tensor):
            seeds = seeds[:1]  # one batch for all
        orders = [torch.randperm(count, generator=generator(derive(seed, "order", epoch))) for seed in seeds]
        sources = [generator(derive(seed, "augment", epoch)) for seed in seeds]
        losses, errors, sizes = [], [], []
        for batch in torch.split(torch.stack(orders), size, dim=1):
            inputs = self._augmented(_rows(images, batch), sources).to(device)
            own = batch.to(labels.device).expand(len(members), -1)
            targets = labels.gather(1, own).to(device)
            logits = self.together.forward(inputs, train=True, descend=self.steps.within(lr))
            loss = _losses(self._loss, logits, targets).mean(1)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            self.steps.step(self.together, lr)
            losses.append(loss.detach())
            errors.append((logits.detach().argmax(2) != targets).sum(1))
            sizes.append(batch.shape[1])
        weights = torch.tensor(sizes, dtype=torch.float64)
        totals = (weights @ torch.stack(losses).cpu().double()).tolist()
        wrong = torch.stack(errors).sum(0).tolist()
        seconds = (time.perf_counter() - started) / len(members)
        nothing: list[tuple[float, float] | None] = [None] * len(members)
        fitted = self._measured([member.train for member in members]) if self._has_target else nothing
        held = self._measured([split for member in members if (split := member.held)]) or nothing
        rows = {}
        for place, member in enumerate(members):
            trained: Row = {
                "epoch": epoch,
                "lr": member.config.lr_at(epoch),
                "train_loss": totals[place] / count,
                "train_error": wrong[place] / count,
                "seconds": seconds,
            }
            rows[member.number] = _row(trained, fitted[place] if member.config.has_target else None, held[place])
        return rows

    def is_finite(self, member: int) -> bool:
        """Whether all of a member's parameters are finite."""
        place, names = self._place(member), dict(self.together.template.named_parameters())
        return all(bool(self.together.values[name].detach()[place].isfinite().all()) for name in names)

    def state(self, member: int) -> State:
        """A copy of a member's state dict, on the CPU."""
        return _copied(self.together.member(self._place(member)))

    def snapshot(self, member: int, rows: Sequence[Row], best: State | None) -> resuming.Snapshot:
        """A copy of all that a member's next epoch depends on."""
        place = self._place(member)
        tensors = {f"value.{name}": value.detach()[place] for name, value in self.together.values.items()}
        for number, (name, _) in enumerate(self.together.template.named_parameters()):  # as PyTorch numbers them
            for part, held in self.steps.kept.get(name, {}).items():
                tensors[f"optimizer.{number}.{part}"] = held[place]
        bests = {f"best.{name}": value for name, value in (best or {}).items()}
        return resuming.Snapshot(tensors={**_copied(tensors), **bests}, rows=tuple(rows))

    def only(self, members: Sequence[int]) -> Stacked:
        """These members alone, in a smaller stack."""
        places = [self._place(number) for number in members]
        return Stacked(
            members={number: self.members[number] for number in members},
            together=self.together.only(places),
            steps=self.steps.only(places),
        )

    @property
    def _device(self) -> torch.device:
        return device_of(self.together.template)

    @property
    def _loss(self) -> Loss:
        return next(iter(self.members.values())).config.loss

    @property
    def _has_target(self) -> bool:
        return any(member.config.has_target for member in self.members.values())

    def _place(self, member: int) -> int:
        return list(self.members).index(member)

    def _common(self, splits: Sequence[Split]) -> Tensor | list[Tensor]:
        """The inputs, once if all members have the same."""
        images = [split[0] for split in splits]
        return images[0] if all(given is images[0] for given in images) else images

    def _augmented(self, inputs: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        config = next(iter(self.members.values())).config
        how, pad = config.augment, config.pad
        if how == "none":
            return inputs
        if len(sources) == 1 and inputs.ndim == self.together.dims:
            return augmented(inputs, how, pad, sources[0])
        pairs = zip(inputs, sources, strict=True)
        return torch.stack([augmented(own, how, pad, source) for own, source in pairs])

    @torch.no_grad()
    def _measured(self, splits: Sequence[Split]) -> list[tuple[float, float] | None]:
        """Mean loss and share of errors of every member on its split, in eval mode; empty for no splits."""
        if not splits:
            return []
        images, count = self._common(splits), len(splits[0][0])
        loss = torch.zeros(len(splits), dtype=torch.float64)
        errors = torch.zeros(len(splits), dtype=torch.int64)
        for rows in torch.split(torch.arange(count), EVALUATION_BATCH):
            batch = rows[None].expand(1 if isinstance(images, Tensor) else len(splits), -1)
            logits = self.together.forward(_rows(images, batch).to(self._device))
            targets = torch.stack([labels[rows.to(labels.device)] for _, labels in splits]).to(self._device)
            loss += _losses(self._loss, logits, targets).sum(1).cpu().double()
            errors += (logits.argmax(2) != targets).sum(1).cpu()
        return list(zip((loss / count).tolist(), (errors.double() / count).tolist(), strict=True))


Trainer: TypeAlias = OneByOne | Stacked
"""Networks in training; members are named by their number in the population."""


def _rows(images: Tensor | Sequence[Tensor], batch: Int64[Tensor, "m b"]) -> Tensor:
    """(b, …) for the one batch that all members have, else (m, b, …)."""
    if isinstance(images, Tensor):
        return images[(batch[0] if len(batch) == 1 else batch).to(images.device)]
    pairs = zip(images, batch, strict=True)
    return torch.stack([own[rows.to(own.device)] for own, rows in pairs])


def _labels(members: Sequence[Member]) -> Int64[Tensor, "m n"]:
    return torch.stack([member.train[1] for member in members])


def _losses(loss: Loss, logits: Float[Tensor, "m b c"], targets: Int64[Tensor, "m b"]) -> Float[Tensor, "m b"]:
    """Of every example."""
    return loss_of(loss, logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def _row(trained: Row, fitted: tuple[float, float] | None, held: tuple[float, float] | None) -> Row:
    row = dict(trained)
    if fitted is not None:
        row["fitted_loss"], row["fitted_error"] = fitted
    if held is not None:
        row["validation_loss"], row["validation_error"] = held
    return row


def _copied(state: State) -> State:
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
