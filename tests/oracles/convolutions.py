"""A convolution as a dense matrix in float64: entry by entry from its definition, and `conv2d` of the identity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


def matrix(
    kernel: Tensor,
    size: Sequence[int],
    *,
    stride: Sequence[int],
    before: Sequence[int],
    outputs: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    wraps: bool = False,
) -> npt.NDArray[np.float64]:
    """y[o, p] = Σ_iq kernel[o, i, q] x[i, stride p + dilation q - before], which is 0 beyond the edge, or wraps."""
    c_out, per_group = kernel.shape[:2]
    rows = list(product(range(c_out), *map(range, outputs)))
    columns = {place: i for i, place in enumerate(product(range(per_group * groups), *map(range, size)))}
    dense = np.zeros((len(rows), len(columns)))
    for row, (o, *p) in enumerate(rows):
        for i in range(per_group):
            for q in product(*map(range, kernel.shape[2:])):
                place = [s * a + d * b - c for s, a, d, b, c in zip(stride, p, dilation, q, before, strict=True)]
                if wraps:
                    place = [a % n for a, n in zip(place, size, strict=True)]
                at = ((o // (c_out // groups)) * per_group + i, *place)
                if at in columns:
                    dense[row, columns[at]] += float(kernel[(o, i, *q)])
    return dense


def conv2d_of_the_identity(kernel: Tensor, size: Sequence[int], **options: int) -> npt.NDArray[np.float64]:
    """What torch makes of every basis vector; zeros around."""
    count = kernel.shape[1] * options.get("groups", 1) * size[0] * size[1]
    basis = torch.eye(count, dtype=torch.float64).reshape(count, -1, *size)
    dense: npt.NDArray[np.float64] = F.conv2d(basis, kernel.double(), **options).flatten(1).T.numpy()
    return dense


def fft2_recipe(kernel: Tensor, size: Sequence[int]) -> npt.NDArray[np.float64]:
    """The code of Sedghi, Gupta, Long (2019), for circular padding and stride 1."""
    transfer = np.fft.fft2(kernel.double().permute(2, 3, 1, 0).numpy(), size, axes=(0, 1))
    return np.sort(np.linalg.svd(transfer, compute_uv=False).ravel())[::-1]
