"""What training descends on: the cross-entropy of the labels, or the squared distance to them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

Loss: TypeAlias = Literal["cross-entropy", "l2"]
"""Cross-entropy in nats, or the squared distance to the one-hot label (as in Novak et al. 2018, Figure 6)."""


def loss_of(
    loss: Loss,
    logits: Float[Tensor, "n c"],
    targets: Int64[Tensor, " n"],
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Float[Tensor, "*n"]:
    """The loss of examples: their mean, their sum, or each one's, (n,).

    >>> import torch
    >>> logits, targets = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([0, 1])
    >>> loss_of("l2", logits, targets, reduction="none").tolist()
    [0.0, 9.0]
    """
    if loss == "cross-entropy":
        return cross_entropy(logits, targets, reduction=reduction)
    each: Tensor = (logits - one_hot(targets, logits.shape[1])).square().sum(1)
    return each if reduction == "none" else each.mean() if reduction == "mean" else each.sum()
