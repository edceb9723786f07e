"""One epoch of training, and what is measured after it."""

from __future__ import annotations

import time
from typing import TypeAlias

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked, generator
from netopsy.training.augment import augmented
from netopsy.training.config import FitConfig
from netopsy.training.losses import Loss, counted, errors_of, loss_of
from netopsy.training.sam import ascended

Row: TypeAlias = dict[str, int | float]
"""One epoch's line of the history."""

LBFGS_STEPS = 20
"""Iterations of L-BFGS in an epoch, each of a few passes over the data."""

LBFGS_MEMORY = 20
"""Updates that L-BFGS keeps: all of an epoch's."""

EVALUATION_BATCH = 1000
"""Labels measured at once; fixed, so that a validation error does not depend on the training batch size."""


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, config: FitConfig, epoch: int
) -> Row:
    """One pass in random order. Every epoch has its own seeds, so that none depends on those before."""
    started = time.perf_counter()
    device, lr = device_of(model), config.lr_at(epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    order = torch.randperm(len(images), generator=generator(derive(config.seed, "order", epoch)))
    sizes = [part.sum() for part in torch.split(counted(labels).cpu()[order], config.batch_size)]
    source = generator(derive(config.seed, "augment", epoch))
    losses, errors = [], []
    model.train()
    with forked(derive(config.seed, "epoch", epoch)):
        for batch in torch.split(order.to(images.device), config.batch_size):
            inputs, targets = images[batch].to(device), labels[batch].to(device)
            if config.augment != "none":
                inputs = augmented(inputs, config.augment, config.pad, source)
            loss, logits = _step(model, optimizer, inputs, targets, config)
            losses.append(loss.detach())
            errors.append(errors_of(logits.detach(), targets))
    # Collected on the device and read once: reading every loss would wait for every step.
    weights = torch.stack(sizes).double()
    total, count = torch.stack(losses).cpu().double() @ weights, int(weights.sum())
    return {
        "epoch": epoch,
        "lr": lr,
        "train_loss": total.item() / count,
        "train_error": int(torch.stack(errors).sum()) / count,
        "seconds": time.perf_counter() - started,
    }


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, config: FitConfig
) -> tuple[Tensor, Tensor]:
    """Step on a batch; its loss and logits before that."""
    met: list[tuple[Tensor, Tensor]] = []

    def descent() -> Tensor:
        logits = model(inputs)
        value = loss_of(config.loss, logits, targets)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        if not met:
            met.append((value, logits))
        return value

    if isinstance(optimizer, torch.optim.LBFGS):  # asks for the loss where its line search looks
        optimizer.step(descent)  # type: ignore[no-untyped-call]
        optimizer.state.clear()  # the next epoch, of images augmented anew, depends on nothing but the weights
    else:
        descent()
        if config.sam_rho is not None:
            with ascended(model, config.sam_rho):
                descent()
        optimizer.step()
    return met[0]


@torch.no_grad()
def mean_loss_and_error(model: nn.Module, images: Tensor, labels: Tensor, loss: Loss) -> tuple[float, float]:
    """Mean loss and share of errors in eval mode, of all labels that count."""
    device, total, errors, count = device_of(model), 0.0, 0, int(counted(labels).sum())
    size = max(1, EVALUATION_BATCH // labels[0].numel())
    model.eval()
    for inputs, targets in zip(*(torch.split(part, size) for part in (images, labels)), strict=True):
        logits, wanted = model(inputs.to(device)), targets.to(device)
        total += loss_of(loss, logits, wanted, reduction="sum").item()
        errors += int(errors_of(logits, wanted))
    return total / count, errors / count


def check_batch_size(config: FitConfig, examples: int) -> None:
    """Refuse L-BFGS on a part of the examples: its memory and its line search are of one loss."""
    if config.optimizer == "lbfgs" and config.batch_size < examples:
        raise NetopsyError(
            f"batch_size: expected all examples with optimizer='lbfgs', {examples} or more; got {config.batch_size}; "
            f"pass batch_size={examples}, or take another optimizer"
        )


def make_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters; it passes over those without a gradient."""
    parameters, decay = model.parameters(), config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, config.lr, betas=(config.momentum, 0.999), weight_decay=decay, fused=True)
    if config.optimizer == "lbfgs":
        return torch.optim.LBFGS(
            [value for value in parameters if value.requires_grad],
            config.lr,
            max_iter=LBFGS_STEPS,
            history_size=LBFGS_MEMORY,
            line_search_fn="strong_wolfe",
        )
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters, config.lr, alpha=0.9, eps=1.0, momentum=config.momentum, weight_decay=decay
        )
    return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=decay, fused=True)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next(model.parameters()).device
