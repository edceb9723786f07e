"""Singular values of a convolution as the linear operator that it is.

Sedghi, Gupta, Long: The Singular Values of Convolutional Layers (ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from netopsy._checks import at_least
from netopsy._typing import FloatArray
from netopsy.engine.convolution import Convolution, Padding


def conv_singular_values(
    kernel: Float[Tensor, "c_out c_in *k"],
    input_shape: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "circular",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    top: int | None = None,
) -> FloatArray:
    """Singular values of a convolution over inputs of one size, largest first, in float64.

    Circular padding, the stride dividing the input: exact, one small matrix a frequency. With the kernel's transfer
    function K(f) (c_out x c_in), stride s in d dimensions and m outputs an axis, output frequency g sees the inputs'
    frequencies g + j m, so the values are those of the blocks [K(g + j m)]_j / s^(d/2), c_out x c_in s^d, for all g;
    stride 1 gives Sedghi, Gupta, Long (2019), Theorem 6. The kernel is real: half of the frequencies are enough.

    Otherwise the values are those of the operator's matrix, exact where its smaller side is at most 4096 (of one
    group). Beyond that only the `top` largest can be had, by Lanczos on products with the operator and its transpose
    (`scipy.sparse.linalg.eigsh`), to 1e-10 of the largest.

    >>> import torch
    >>> conv_singular_values(torch.ones(1, 1, 3), 4, padding="circular").round(6)
    array([3., 1., 1., 1.])

    Args:
        kernel: `weight` of a convolution with one, two or three axes: (c_out, c_in / groups, ...).
        input_shape: positions along each axis of the input; one number for all of them.
        stride: as the convolution's.
        padding: `"circular"` or `"zeros"`: so much, (k - 1) dilation an axis in all, that n positions give
            ceil(n / stride) outputs; a number, or one an axis: so many zeros at both sides, 0 for none.
        dilation: as the convolution's.
        groups: as the convolution's.
        top: only so many of the largest.

    Returns:
        min(c_out outputs, c_in inputs) values, or the `top` of them.

    Raises:
        NetopsyError: for a kernel, an input or options that do not fit together, values that are not finite, a
            matrix too large without `top`, and where Lanczos does not converge.
    """
    if top is not None:
        at_least("top", top, 1)
    conv = Convolution.read(kernel, input_shape, stride, padding, dilation, groups)
    return conv.singular_values(top)
