"""What training descends on: the cross-entropy of the labels, or the squared distance to them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

Loss: TypeAlias = Literal["cross-entropy", "l2"]
"""Cross-entropy in nats, or the squared distance to the one-hot label (as in Novak et al. 2018, Figure 6)."""

IGNORED = -100
"""The label of a position that does not count, as in PyTorch's losses and `Task`."""


def loss_of(
    loss: Loss,
    logits: Float[Tensor, "n *p c"],
    targets: Int64[Tensor, " n *p"],
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Float[Tensor, "*n"]:
    """The loss of examples, or of their positions: the mean, the sum, or each one's, in the shape of the targets.

    A position whose target is `IGNORED` has the loss 0 and no part in the mean, which is 0 where none counts.

    >>> import torch
    >>> logits, targets = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([0, 1])
    >>> loss_of("l2", logits, targets, reduction="none").tolist()
    [0.0, 9.0]
    >>> loss_of("l2", logits[None], torch.tensor([[IGNORED, 1]])).item()
    9.0
    """
    if loss == "cross-entropy":
        if targets.ndim == 1:
            return cross_entropy(logits, targets, reduction=reduction)
        each = cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none")
        each = each.view(targets.shape)
    else:
        goals = one_hot(targets.clamp(min=0), logits.shape[-1])
        each = (logits - goals).square().sum(-1).masked_fill(targets == IGNORED, 0.0)
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else each.sum() / counted(targets).sum().clamp(min=1)


def errors_of(logits: Float[Tensor, "n *p c"], targets: Int64[Tensor, " n *p"]) -> Int64[Tensor, ""]:
    """How many predictions are wrong, of those that count."""
    wrong = logits.argmax(-1) != targets
    return (wrong if targets.ndim == 1 else wrong & (targets != IGNORED)).sum()


def counted(targets: Int64[Tensor, " n *p"]) -> Int64[Tensor, " n"]:
    """How many labels of each example count."""
    return (targets != IGNORED).view(len(targets), -1).sum(1)
