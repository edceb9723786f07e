"""Task: how a batch becomes inputs, targets, logits and loss; everything above sees only this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from netopsy._checks import NetopsyError, one_of
from netopsy._typing import Batch

LABELS = ("labels", "label", "targets", "target")
"""Where targets are looked for in a dict batch, in this order."""


def default_inputs(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(x, ..., y)` is called as `model(x, ...)`, a dict as `model(**batch)` without its labels."""
    if isinstance(batch, Mapping):
        return (), {name: value for name, value in batch.items() if name not in LABELS}
    if isinstance(batch, Sequence) and len(batch) >= 2:
        return tuple(batch[:-1]), {}
    raise NetopsyError(
        f"batch: expected a tuple (inputs, ..., targets) or a dict with one of {', '.join(LABELS)}; got "
        f"{type(batch).__name__}; pass task=netopsy.Task(inputs=..., targets=...) to say how yours is read"
    )


def labeled_inputs(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A dict is called as `model(**batch)`, its labels included: the model makes its loss of them."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    raise NetopsyError(
        f"loss=model_loss: expected dict batches with what the model takes, labels included; got "
        f"{type(batch).__name__}; pass task=netopsy.Task(inputs=...) too"
    )


def default_targets(batch: Batch) -> Tensor:
    """The last entry of a tuple; the labels of a dict."""
    if isinstance(batch, Mapping):
        for name in LABELS:
            if name in batch:
                return torch.as_tensor(batch[name])
        raise NetopsyError(
            f"batch: expected a dict with one of {', '.join(LABELS)}; got the keys {', '.join(map(str, batch))}; "
            "pass task=netopsy.Task(targets=...) to say where the targets are"
        )
    return torch.as_tensor(batch[-1])


def default_logits(output: Any) -> Tensor:
    """A tensor as it is; else its `.logits` or `["logits"]`; else the first tensor of a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return torch.as_tensor(output["logits"])
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, Sequence) and output and isinstance(output[0], Tensor):
        return output[0]
    raise NetopsyError(
        f"model output: expected a tensor, an object with .logits or a tuple that starts with the logits; got "
        f"{type(output).__name__}; pass task=netopsy.Task(logits=...) to say where the logits are"
    )


def cross_entropy(logits: Float[Tensor, "m c"], targets: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Cross-entropy of each position, in nats."""
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def model_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """For `Task(loss=model_loss)`: the loss is the one the model gives out, `output.loss` or `output["loss"]`.

    A dict batch is then given to the model with its labels. The model's loss is one number a batch: it stands for
    each position of the batch that counts. The mean over the data is therefore exact where the model averages over
    those positions, as those of Hugging Face do; else it depends on how the data are cut into batches. It has no
    value of each example. Errors, their intervals and verdicts are of the logits, and are as ever.

    Raises:
        NetopsyError: always. It is never called where the model's loss will do; a probe that needs a loss of each
            position calls it.
    """
    raise NetopsyError(
        "loss=model_loss: expected a loss of each position here; a model gives one number a batch; pass "
        "task=netopsy.Task(loss=...) with a function of logits (m, classes) and targets (m,), or leave it out"
    )


@dataclass(frozen=True, eq=False)
class _WithLoss:
    """A reader of the model's output: its loss beside the logits, as one more entry along their last axis."""

    logits: Callable[[Any], Tensor]

    def __call__(self, output: Any) -> Tensor:
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise NetopsyError(
                f"loss=model_loss: expected the model's output to have a .loss of one number; got {got}; see that "
                "the labels are among the inputs, under the name by which the model takes them"
            )
        logits = self.logits(output)
        beside = loss.reshape([1] * logits.ndim).expand(*logits.shape[:-1], 1)
        return torch.cat([logits, beside.to(logits.dtype)], -1)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Adapts any model and batch to classification of one or more positions an example.

    The default covers `(x, y)` tensors and Hugging Face style dicts and outputs.

    Attributes:
        inputs: batch -> `(args, kwargs)` the model is called with; every tensor's first axis is the example.
        targets: batch -> integer labels, `(n,)` or `(n, positions...)`.
        logits: model output -> logits, `(n, classes)` or `(n, positions..., classes)`.
        loss: logits `(m, classes)` and targets `(m,)` -> the loss of each position `(m,)`; or `model_loss`: the
            one number a batch that the model itself gives.
        ignore_index: targets with this value take part in no metric.
        positions: `"all"`: position i of the logits predicts target i; `"next"`: it predicts target i + 1, as a
            causal language model does.
    """

    inputs: Callable[[Batch], tuple[tuple[Any, ...], dict[str, Any]]] = default_inputs
    targets: Callable[[Batch], Tensor] = default_targets
    logits: Callable[[Any], Tensor] = default_logits
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    ignore_index: int = -100
    positions: Literal["all", "next"] = "all"

    def __post_init__(self) -> None:
        one_of("positions", self.positions, ("all", "next"))
        if self.loss is model_loss and self.inputs is default_inputs:
            object.__setattr__(self, "inputs", labeled_inputs)

    @cached_property
    def read(self) -> Callable[[Any], Tensor]:
        """Model output -> logits, with the model's loss beside them where that is the loss; `split` parts them."""
        return _WithLoss(self.logits) if self.loss is model_loss else self.logits

    def split(self, read: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and the model's loss (a number) where that is the loss."""
        return (read[..., :-1], read[..., -1].flatten()[0]) if self.loss is model_loss else (read, None)

    def labels(self, batch: Batch) -> Int[Tensor, "n p"]:
        """Targets of a batch by example and position (one position for plain classification)."""
        targets = self.targets(batch)
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool or targets.ndim == 0:
            raise NetopsyError(
                f"targets: expected integer class labels of shape (n,) or (n, positions); got {targets.dtype} of "
                f"shape {tuple(targets.shape)}; convert them with .long(), or pass task=netopsy.Task(targets=...)"
            )
        targets = targets.reshape(len(targets), -1)
        return (targets[:, 1:] if self.positions == "next" else targets).long()

    def scores(self, logits: Tensor, labels: Int[Tensor, "n p"]) -> Float[Tensor, "n p c"]:
        """Logits by example, position and class, aligned with `labels`; raises where the shapes do not fit.

        They are where the labels are, and at least in single precision: a loss in half precision has no digits left.
        """
        expected = "(n, classes) or (n, positions..., classes)"
        if logits.ndim < 2 or len(logits) != len(labels):
            raise NetopsyError(
                f"logits: expected shape {expected} with n = {len(labels)}; got {tuple(logits.shape)}; "
                "pass task=netopsy.Task(logits=...) to bring them into this form"
            )
        scores = logits.to(labels.device).reshape(len(logits), -1, logits.shape[-1])
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        if self.positions == "next":
            scores = scores[:, :-1]
        if scores.shape[1] != labels.shape[1]:
            raise NetopsyError(
                f"logits: {scores.shape[1]} positions an example, but the targets have {labels.shape[1]}; expected "
                f"logits of shape {expected} for targets of shape (n, positions...)"
            )
        return scores

    def valid(self, labels: Int[Tensor, "n p"]) -> Bool[Tensor, "n p"]:
        """Positions that take part in the metrics."""
        return labels != self.ignore_index
