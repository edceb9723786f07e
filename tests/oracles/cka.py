"""CKA by its definitions, on full stored activations in float64, one layer pair at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def hsic1(k: Array, m: Array) -> float:
    """The unbiased estimator of Song et al. (2012), as printed in Nguyen, Raghu, Kornblith (2021), Eq. 3."""
    n = len(k)
    k, m = k.copy(), m.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    trace = np.trace(k @ m)
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    both = 2 / (n - 2) * (one @ k @ m @ one)
    return float((trace + sums - both) / (n * (n - 3)))


def minibatch(x: Array, y: Array, batches: Sequence[Array]) -> float:
    """Eq. 4: sums over the batches (indices of examples), here weighted by their examples."""
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    cross, own_x, own_y = 0.0, 0.0, 0.0
    for batch in batches:
        if len(batch) < 4:
            continue
        k, m = x[batch] @ x[batch].T, y[batch] @ y[batch].T
        cross += len(batch) * hsic1(k, m)
        own_x += len(batch) * hsic1(k, k)
        own_y += len(batch) * hsic1(m, m)
    return cross / np.sqrt(own_x * own_y)


def exact(x: Array, y: Array) -> float:
    """Kornblith et al. (2019), linear CKA: centered Gram matrices of all examples, their normalized inner product."""
    n = len(x)
    x, y = x.reshape(n, -1), y.reshape(n, -1)
    center = np.eye(n) - 1 / n
    k, m = center @ x @ x.T @ center, center @ y @ y.T @ center
    return float((k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m))
