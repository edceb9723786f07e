"""One epoch of training, and what is measured after it."""

from __future__ import annotations

import time
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from netopsy._random import derive, forked, generator
from netopsy.training.augment import pad_crop_flip
from netopsy.training.config import FitConfig

Row: TypeAlias = dict[str, int | float]
"""One epoch's line of the history."""

EVALUATION_BATCH = 1000  # fixed, so that a validation error does not depend on the training batch size


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, config: FitConfig, epoch: int
) -> Row:
    """One pass in random order. Every epoch has its own seeds, so that none depends on those before."""
    started = time.perf_counter()
    device, lr = device_of(model), config.lr_at(epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    order = torch.randperm(len(images), generator=generator(derive(config.seed, "order", epoch)))
    source = generator(derive(config.seed, "augment", epoch))
    losses, errors, sizes = [], [], []
    model.train()
    with forked(derive(config.seed, "epoch", epoch)):
        for batch in torch.split(order.to(images.device), config.batch_size):
            inputs, targets = images[batch].to(device), labels[batch].to(device)
            if config.augment == "pad-crop-flip":
                inputs = pad_crop_flip(inputs, config.pad, source)
            logits = model(inputs)
            loss = cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
            errors.append((logits.detach().argmax(1) != targets).sum())
            sizes.append(len(batch))
    # Collected on the device and read once: reading every loss would wait for every step.
    total = torch.stack(losses).cpu().double() @ torch.tensor(sizes, dtype=torch.float64)
    return {
        "epoch": epoch,
        "lr": lr,
        "train_loss": total.item() / len(images),
        "train_error": int(torch.stack(errors).sum()) / len(images),
        "seconds": time.perf_counter() - started,
    }


@torch.no_grad()
def mean_loss_and_error(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy, in nats, and share of errors in eval mode."""
    device, loss, errors = device_of(model), 0.0, 0
    model.eval()
    for inputs, targets in zip(*(torch.split(part, EVALUATION_BATCH) for part in (images, labels)), strict=True):
        logits, wanted = model(inputs.to(device)), targets.to(device)
        loss += cross_entropy(logits, wanted, reduction="sum").item()
        errors += int((logits.argmax(1) != wanted).sum())
    return loss / len(images), errors / len(images)


def make_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters; it passes over those without a gradient."""
    parameters, decay = model.parameters(), config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, config.lr, betas=(config.momentum, 0.999), weight_decay=decay, fused=True)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters, config.lr, alpha=0.9, eps=1.0, momentum=config.momentum, weight_decay=decay
        )
    return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=decay, fused=True)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next(model.parameters()).device
