"""Task: how a batch becomes inputs, targets, logits and loss; everything above sees only this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Task:
    """Adapts any model and batch to classification of one or more positions an example.

    The default covers `(x, y)` tensors and Hugging Face style dicts and outputs.

    Attributes:
        inputs: batch -> `(args, kwargs)` the model is called with; every tensor's first axis is the example.
        targets: batch -> integer labels, `(n,)` or `(n, positions...)`.
        logits: model output -> logits, `(n, classes)` or `(n, positions..., classes)`.
        loss: logits `(m, classes)` and targets `(m,)` -> the loss of each position `(m,)`.
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
        """Logits by example, position and class, aligned with `labels`; raises where the shapes do not fit."""
        expected = "(n, classes) or (n, positions..., classes)"
        if logits.ndim < 2 or len(logits) != len(labels):
            raise NetopsyError(
                f"logits: expected shape {expected} with n = {len(labels)}; got {tuple(logits.shape)}; "
                "pass task=netopsy.Task(logits=...) to bring them into this form"
            )
        scores = logits.reshape(len(logits), -1, logits.shape[-1])
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
