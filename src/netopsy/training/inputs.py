"""What `fit` is given: checked before training, split by class, described for the manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._identity import canonical
from netopsy._random import derive, generator
from netopsy.data.dataset import fingerprint
from netopsy.training.config import FitConfig
from netopsy.training.epoch import check_batch_size, device_of
from netopsy.training.losses import IGNORED, counted

Split = tuple[Tensor, Tensor]
"""Inputs of shape (n, …), and int64 labels of shape (n,); or by position, (n, p), `IGNORED` where none counts."""


def check_inputs(data: Split, validation: Split | None, config: FitConfig) -> None:
    """Refuse data that cannot be trained on, or that the config does not fit."""
    check_data("data", *data)
    if validation is not None:
        check_data("validation", *validation)
        if validation[1].shape[1:] != data[1].shape[1:]:
            raise NetopsyError(
                f"validation: expected labels for as many positions as in data, {tuple(data[1].shape[1:])}; got "
                f"{tuple(validation[1].shape[1:])}; cut or pad the sequences (with labels {IGNORED}) to one length"
            )
        if config.validation_share:
            raise NetopsyError(
                "validation: expected None with a validation_share, which holds out a part of the train data; got "
                f"both a split and validation_share={config.validation_share:g}; drop one of them"
            )
    elif config.patience is not None and not config.validation_share:
        raise NetopsyError(
            f"patience={config.patience}: expected validation data to watch; got none; pass validation=(inputs, "
            "labels) or set validation_share"
        )
    check_batch_size(config, len(data[0]))
    if config.augment != "none" and data[0].ndim != 4:
        raise NetopsyError(
            f"augment={config.augment!r}: expected images of shape (n, c, h, w); got {tuple(data[0].shape)}; "
            "reshape them or pass augment='none'"
        )
    if data[1].ndim == 2 and (config.label_noise or config.augment != "none"):
        raise NetopsyError(
            f"data: expected one label an example with label_noise={config.label_noise:g} and "
            f"augment={config.augment!r}, neither of which knows labels by position; got labels of shape "
            f"{tuple(data[1].shape)}; leave them at 0 and 'none'"
        )


def check_data(name: str, images: Tensor, labels: Tensor) -> None:
    """Refuse a split that is not as `Split` says, with finite inputs and labels counted from 0."""
    if labels.dtype != torch.int64 or labels.ndim not in (1, 2) or len(labels) != len(images) or not labels.numel():
        raise NetopsyError(
            f"{name}: expected inputs (n, …) and as many int64 labels (n,) or (n, positions), at least one; "
            f"got {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
        )
    known = labels if labels.ndim == 1 else labels[labels != IGNORED]
    if not len(known):
        raise NetopsyError(f"{name}: expected at least one label that counts; all are {IGNORED}; pass others")
    if int(known.min()) < 0:
        raise NetopsyError(
            f"{name}: expected labels counted from 0; got {int(known.min())}; number the classes anew"
            + (f", and mark positions that do not count by {IGNORED}" if labels.ndim == 2 else "")
        )
    if images.is_floating_point() and not bool(images.isfinite().all()):
        raise NetopsyError(f"{name}: expected finite inputs; got NaN or infinity; clean them first")


def check_trainable(model: nn.Module) -> None:
    """Refuse what is no module, or has nothing to train."""
    if not isinstance(model, nn.Module):
        raise NetopsyError(
            f"factory: expected a function that returns a torch.nn.Module; it returned {type(model).__name__}"
        )
    if not any(value.requires_grad for value in model.parameters()):
        raise NetopsyError(
            "factory: expected a model with a parameter that requires a gradient; it has none to train"
        )


def check_logits(model: nn.Module, images: Tensor, labels: Tensor, top: int) -> None:
    """Refuse a model without a logit for every label up to `top`; one forward pass in eval mode changes nothing."""
    places = tuple(labels.shape[1:])
    with torch.no_grad():
        logits = model.eval()(images[:2].to(device_of(model)))
    if not isinstance(logits, Tensor) or logits.shape[1:-1] != places or logits.ndim < 2 or logits.shape[-1] <= top:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        expected = f"(n, {places[0]}, classes)" if places else "(n, classes)"
        raise NetopsyError(
            f"factory: expected a model that returns logits {expected} with classes > {top}, the largest label; "
            f"got {came} for {len(images[:2])} inputs; give it as many outputs as there are classes"
        )


def hold_out(data: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Split off round(share · n) examples of every class of n, at random; both parts stay in the data's own order.

    With labels by position it is that share of all examples.

    Raises:
        NetopsyError: a part is empty, or none of its labels counts.
    """
    known = counted(data[1]).cpu() > 0
    labels = data[1].cpu() if data[1].ndim == 1 else torch.zeros(len(data[1]), dtype=torch.int64)
    order = torch.randperm(len(labels), generator=generator(derive(seed, "validation")))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in set(labels.tolist()):
        rows = order[labels[order] == label]
        held[rows[: round(share * len(rows))]] = True
    if not bool((known & held).any()) or not bool((known & ~held).any()):
        raise NetopsyError(
            f"validation_share={share:g}: expected examples to hold out and others to train on; it holds out "
            f"{int(held.sum())} of {len(labels)} (of every class, rounded); choose another share"
        )
    return _rows(data, ~held), _rows(data, held)


def _rows(data: Split, chosen: Tensor) -> Split:
    return data[0][chosen.to(data[0].device)], data[1][chosen.to(data[1].device)]


def describe(
    factory: Callable[[], nn.Module],
    model: nn.Module,
    data: Split,
    validation: Split | None,
    config: FitConfig,
    about: Mapping[str, object] | None,
) -> dict[str, Any]:
    """Where a run comes from, as JSON; data as given, before any are held out or their labels corrupted."""
    try:
        described = canonical(factory)
    except NetopsyError:  # a lambda, say: it trains as well, but no text tells it from another
        described = None
    return {
        "config": asdict(config),
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "factory": described,
        "data": fingerprint(*data),
        "validation": None if validation is None else fingerprint(*validation),
        "about": None if about is None else dict(about),
    }


def check_about(about: Mapping[str, object] | None) -> None:
    """Refuse what JSON cannot hold."""
    try:
        json.dumps(about if about is None else dict(about))
    except (TypeError, ValueError) as error:
        raise NetopsyError(
            f"about: expected a mapping that JSON can hold; {error}; turn its values into strings and numbers"
        ) from error
