"""Products of vectors with Jacobians of logits and of probabilities: what Jacobian norms are made of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.jacobian_local import Local


def helmert(n: int) -> Float[Tensor, "n k"]:
    """An orthonormal basis (float64) of the vectors of n numbers whose sum is 0, k = n - 1 of them as columns.

    >>> basis = helmert(4)
    >>> bool((basis.T @ basis - torch.eye(3)).abs().max() < 1e-15), bool(basis.sum(0).abs().max() < 1e-15)
    (True, True)
    """
    k = torch.arange(1, n, dtype=torch.float64)
    below = torch.ones(n, n - 1, dtype=torch.float64).triu()
    below[torch.arange(1, n), torch.arange(n - 1)] = -k
    return below / (k * (k + 1)).sqrt()


def through_softmax(p: Float[Tensor, "m c"], vectors: Float[Tensor, "#m c"]) -> Float[Tensor, "m c"]:
    """(diag p - p pᵀ) v, exact to rounding also where a probability is 1 but for 1e-100.

    A constant may be taken from v, so its component at the largest probability is made 0: only small ones are added.
    """
    vectors = vectors.expand(len(p), -1)
    vectors = vectors - vectors.gather(1, p.argmax(1, keepdim=True))
    return p * (vectors - (p * vectors).sum(1, keepdim=True))


def pulled(
    local: Local, vectors: Float[Tensor, "#m c"], *, softmax: bool
) -> tuple[Float[Tensor, "m d"], Float[Tensor, " m"]]:
    """vᵀJ of each example as rows times scales (float64): tiny probabilities do not underflow in float32."""
    logits = local.logits
    own = through_softmax(local.probabilities, vectors) if softmax else vectors.double().expand(len(logits), -1)
    scale = own.abs().amax(1, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return local.pull((own / scale).to(local.graph.dtype)), scale[:, 0]


def squares(local: Local, vectors: Iterator[Float[Tensor, "#m c"]], *, softmax: bool) -> Float[Tensor, "m k"]:
    """‖vᵀJ‖² of each example and each of k vectors, one after another, in float64."""
    found = []
    for vector in vectors:
        rows, scale = pulled(local, vector, softmax=softmax)
        found.append((torch.linalg.vector_norm(rows, dim=1).double() * scale).square())
    return torch.stack(found, 1)


def gram(local: Local, vectors: Iterator[Float[Tensor, "#m c"]], *, softmax: bool) -> Float[Tensor, "m k k"]:
    """V JJᵀ Vᵀ of each example, for k vectors as rows of V, in float64; all the rows are held at once."""
    rows, scales = zip(*(pulled(local, vector, softmax=softmax) for vector in vectors), strict=True)
    both = torch.stack(rows, 1)
    scale = torch.stack(scales, 1)
    return (both @ both.mT).double() * scale[:, :, None] * scale[:, None, :]
