"""The largest eigenvalue of a symmetric matrix of which only products are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from netopsy._random import derive
from netopsy._typing import FloatArray

DENSE = 32
"""Rows up to which the matrix is written out: ARPACK needs more of them than eigenvalues."""


def top_eigenvalue(product: Callable[[FloatArray], FloatArray], size: int, *, seed: int, tolerance: float) -> float:
    """The largest (algebraic) eigenvalue by Lanczos iteration, `scipy.sparse.linalg.eigsh`.

    Args:
        product: v (size,) -> A v (size,), A symmetric.
        size: rows of A.
        seed: of the vector to start from.
        tolerance: of the eigenvalue, relative.

    Returns:
        The eigenvalue; NaN where the iteration does not converge or a product is not finite.
    """
    if size <= DENSE:
        matrix = np.stack([product(row) for row in np.eye(size)])
        return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]) if np.isfinite(matrix).all() else math.nan
    start = np.random.default_rng(derive(seed, "lanczos")).standard_normal(size)
    first = product(start)
    if not np.isfinite(first).all():
        return math.nan
    if not first.any():  # ARPACK cannot start from a vector of the kernel; a random one says that the matrix is zero
        return 0.0
    operator = LinearOperator((size, size), matvec=lambda v: product(v.reshape(-1)), dtype=np.float64)
    try:
        found = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    except ArpackNoConvergence:
        return math.nan
    return float(found[0])
