"""A convolution as the linear operator that it is, and its singular values.

With circular padding the Fourier transform makes it block diagonal (Sedghi, Gupta, Long: The Singular Values of
Convolutional Layers, ICLR 2019); with a stride, frequencies alias in blocks. Zero padding has no such structure:
there the operator itself is decomposed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from netopsy._checks import NetopsyError, at_least
from netopsy._typing import FloatArray

Padding: TypeAlias = Literal["circular", "zeros"] | int | Sequence[int]
"""Around the edge, or zeros, so that every stride-th position has an output; or so many zeros at each side."""

DENSE = 4096
"""The smaller side of the largest matrix that is decomposed whole: some minutes on one core."""

ENTRIES = 2**27
"""Of the largest such matrix: 1 GB."""

LANCZOS = 500
"""The smaller side from which on a few values are cheaper by Lanczos than all."""

TOLERANCE = 1e-10
"""Of Lanczos: the relative error of the squared values."""

CHUNK = 2**22
"""Entries of the blocks of frequencies that are in memory together: 64 MB."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution over inputs of one size.

    Attributes:
        kernel: in float64, (c_out, c_in / groups, ...).
        size: positions of the input along each axis.
        stride, dilation, groups: as usual.
        before, after: padding along each axis.
        wraps: whether it wraps around; else zeros.
    """

    kernel: Float[Tensor, "c_out c_in *k"]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    wraps: bool

    @classmethod
    def read(
        cls,
        kernel: Float[Tensor, "c_out c_in *k"],
        input_shape: int | Sequence[int],
        stride: int | Sequence[int],
        padding: Padding,
        dilation: int | Sequence[int],
        groups: int,
    ) -> Convolution:
        """From the arguments of `conv_singular_values`, which are checked here."""
        if not isinstance(kernel, Tensor) or not kernel.is_floating_point() or kernel.ndim not in (3, 4, 5):
            shape = tuple(kernel.shape) if isinstance(kernel, Tensor) else type(kernel).__name__
            raise NetopsyError(
                f"kernel: expected a real floating tensor (c_out, c_in / groups, ...) with one, two or three axes of "
                f"positions; got {shape}; of a linear layer take torch.linalg.svdvals(weight)"
            )
        if not kernel.numel():
            raise NetopsyError(f"kernel: expected at least one entry; got shape {tuple(kernel.shape)}")
        if not torch.isfinite(kernel).all():
            raise NetopsyError("kernel: expected finite values; it has NaN or infinite ones")
        axes = kernel.ndim - 2
        size = _each("input_shape", input_shape, axes, 1)
        steps, gaps = _each("stride", stride, axes, 1), _each("dilation", dilation, axes, 1)
        at_least("groups", groups, 1)
        if kernel.shape[0] % groups:
            raise NetopsyError(f"groups={groups}: expected a divisor of the kernel's {kernel.shape[0]} outputs")
        if isinstance(padding, str):
            if padding not in ("circular", "zeros"):
                raise NetopsyError(f"padding: expected 'circular', 'zeros', or numbers of zeros; got {padding!r}")
            reach = [gap * (k - 1) for gap, k in zip(gaps, kernel.shape[2:], strict=True)]
            before = tuple(r // 2 for r in reach)
            after = tuple(r - b for r, b in zip(reach, before, strict=True))
        else:
            before = after = _each("padding", padding, axes, 0)
        conv = cls(
            kernel=kernel.detach().cpu().double(),
            size=size,
            stride=steps,
            dilation=gaps,
            groups=groups,
            before=before,
            after=after,
            wraps=padding == "circular",
        )
        if min(conv.outputs) < 1:
            raise NetopsyError(
                f"input_shape: expected an input at least as large as the kernel with its dilation; got {size} for a "
                f"kernel of {tuple(kernel.shape[2:])} and padding={padding!r}"
            )
        return conv

    @property
    def outputs(self) -> tuple[int, ...]:
        """Positions of the output along each axis."""
        every = zip(
            self.size, self.before, self.after, self.dilation, self.kernel.shape[2:], self.stride, strict=True
        )
        return tuple((n + b + a - d * (k - 1) - 1) // s + 1 for n, b, a, d, k, s in every)

    @property
    def shape(self) -> tuple[int, int]:
        """Of its matrix."""
        return (
            self.kernel.shape[0] * math.prod(self.outputs),
            self.kernel.shape[1] * self.groups * math.prod(self.size),
        )

    def __call__(self, x: Float[Tensor, "n c_in *positions"]) -> Float[Tensor, "n c_out *outputs"]:
        """Apply it."""
        if self.wraps:
            for axis, (n, before, after) in enumerate(zip(self.size, self.before, self.after, strict=True), start=2):
                x = x.index_select(axis, torch.arange(-before, n + after) % n)
        else:
            pairs = zip(reversed(self.before), reversed(self.after), strict=True)
            x = F.pad(x, [amount for pair in pairs for amount in pair])
        convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[len(self.size) - 1]
        return convolve(x, self.kernel, stride=self.stride, dilation=self.dilation, groups=self.groups)

    def singular_values(self, top: int | None = None) -> FloatArray:
        """All, or the largest."""
        if self.wraps and all(n == s * m for n, s, m in zip(self.size, self.stride, self.outputs, strict=True)):
            values = torch.cat([torch.linalg.svdvals(blocks).flatten() for blocks in self._frequencies()]).numpy()
        else:
            rows, columns = (side // self.groups for side in self.shape)
            small = min(rows, columns) <= DENSE and rows * columns <= ENTRIES
            smaller = min(self.shape)
            few = top is not None and top < smaller and smaller > LANCZOS and 10 * top <= smaller
            if small and not few:
                values = np.concatenate([torch.linalg.svdvals(part._matrix()).numpy() for part in self._parts()])
            elif top is not None and top < smaller:
                values = self._largest(top)
            else:
                raise NetopsyError(
                    f"top={top}: this convolution is a matrix of {self.shape[0]} x {self.shape[1]}, too large for "
                    "all of its singular values; pass a small top=, for the largest, or padding='circular'"
                )
        found: FloatArray = np.sort(values)[::-1][:top].copy()
        return found

    def _frequencies(self) -> Iterator[Complex[Tensor, "frequencies c_out aliases"]]:
        """One block for every frequency of the output: with its conjugate, of equal singular values, it comes twice.

        Frequencies of the last axis are those from 0 to half of them; some at a time.
        """
        axes, groups = len(self.size), self.groups
        c_out, c_in = self.kernel.shape[:2]
        transfer = self.kernel.view(groups, c_out // groups, c_in, *self.kernel.shape[2:]).to(torch.complex128)
        for axis in range(axes - 1):  # the axis of the kernel in front goes, those of frequencies come behind
            transfer = torch.tensordot(transfer, self._waves(axis, range(self.outputs[axis])), dims=([3], [0]))
        last = self.outputs[-1]
        entries = transfer.numel() // transfer.shape[3] * self.stride[-1]
        step = max(1, CHUNK // entries)
        whole = [frequency for frequency in {0, last // 2} if 2 * frequency % last == 0]
        paired = [frequency for frequency in range(last // 2 + 1) if frequency not in whole]
        folded = math.prod(self.stride)
        for times, frequencies in ((1, whole), (2, paired)):
            for first in range(0, len(frequencies), step):
                waves = self._waves(axes - 1, frequencies[first : first + step])
                part = torch.tensordot(transfer, waves, dims=([3], [0])) / folded**0.5
                # group, c_out, c_in, then of each axis its aliases and its frequencies
                aliases, outer = [3 + 2 * axis for axis in range(axes)], [4 + 2 * axis for axis in range(axes)]
                blocks = part.permute(0, *outer, 1, 2, *aliases).reshape(-1, c_out // groups, c_in * folded)
                for _ in range(times):
                    yield blocks

    def _waves(self, axis: int, frequencies: Sequence[int]) -> Complex[Tensor, "k aliases frequencies"]:
        """exp(-2πi f x / n) at the places x of the kernel's entries, for the input's frequencies f = g + j m."""
        n, m = self.size[axis], self.outputs[axis]
        places = torch.arange(self.kernel.shape[2 + axis]) * self.dilation[axis]
        aliased = torch.arange(self.stride[axis])[:, None] * m + torch.tensor(list(frequencies))
        turns = (places[:, None, None] * aliased % n).double() / n  # exact before the division
        return torch.polar(torch.ones_like(turns), -2 * math.pi * turns)

    def _parts(self) -> Iterator[Convolution]:
        """One convolution for each group: together they are block diagonal."""
        for kernel in self.kernel.chunk(self.groups):
            yield Convolution(
                kernel=kernel,
                size=self.size,
                stride=self.stride,
                dilation=self.dilation,
                groups=1,
                before=self.before,
                after=self.after,
                wraps=self.wraps,
            )

    def _matrix(self) -> Float[Tensor, "columns rows"]:
        """Transposed: what becomes of each basis vector, some at a time."""
        rows, columns = self.shape
        matrix = torch.empty(columns, rows, dtype=torch.float64)
        step = max(1, CHUNK // columns)
        for first in range(0, columns, step):
            chunk = torch.arange(first, min(first + step, columns))
            basis = F.one_hot(chunk, columns).double().view(len(chunk), -1, *self.size)
            matrix[chunk] = self(basis).flatten(1)
        return matrix

    def _largest(self, top: int) -> FloatArray:
        """Square roots of the largest eigenvalues of A'A or AA', whichever is smaller, by Lanczos.

        Lanczos meets one vector only of those that share an eigenvalue, so it is started again in the orthogonal
        complement of what it found, until that holds nothing larger. Two runs agree to rounding, not bit for bit:
        where few values differ, ARPACK goes on from a random vector of its own, which only newer SciPy lets one seed.
        """
        if not self.kernel.any():
            return np.zeros(top)
        forward, backward = self._products()
        first, second = (forward, backward) if self.shape[1] <= self.shape[0] else (backward, forward)
        side = min(self.shape)
        source = np.random.default_rng(0)
        squares, found = np.zeros(0), np.zeros((side, 0))
        while True:

            def gram(x: FloatArray, found: FloatArray = found) -> FloatArray:
                x = x.ravel()
                y = second(first(x - found @ (found.T @ x)))
                rest: FloatArray = y - found @ (found.T @ y)
                return rest

            operator = LinearOperator((side, side), matvec=gram, dtype=np.float64)
            begin, few = source.standard_normal(side), 1 if len(squares) else top
            try:
                values, vectors = eigsh(operator, k=few, which="LA", v0=begin, tol=TOLERANCE)
            except ArpackNoConvergence as error:
                raise NetopsyError(
                    f"top={top}: Lanczos did not converge for the {self.shape[0]} x {self.shape[1]} operator "
                    f"({error}); pass another top=, or padding='circular'"
                ) from error
            done = len(squares) and float(values.max()) <= np.sort(squares)[-top] + TOLERANCE * squares.max()
            squares, found = np.concatenate([squares, values]), np.hstack([found, vectors])
            if done or top == 1:
                return np.sqrt(np.maximum(squares, 0))

    def _products(self) -> tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray], FloatArray]]:
        """The operator and its transpose on flat vectors."""
        channels = self.kernel.shape[1] * self.groups
        anywhere = torch.zeros(1, channels, *self.size, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            output = self(anywhere)

        def forward(x: FloatArray) -> FloatArray:
            value: FloatArray = self(torch.from_numpy(x).view(anywhere.shape)).numpy().ravel()
            return value

        def backward(y: FloatArray) -> FloatArray:
            weights = torch.from_numpy(y).view(output.shape)  # the gradient of <y, A x> is A'y, wherever x is
            (gradient,) = torch.autograd.grad(output, anywhere, weights, retain_graph=True)
            value: FloatArray = gradient.numpy().ravel()
            return value

        return forward, backward


def _each(name: str, given: int | Sequence[int], axes: int, low: int) -> tuple[int, ...]:
    """One number an axis."""
    values = (given,) * axes if isinstance(given, int) else tuple(given)
    if len(values) != axes:
        raise NetopsyError(f"{name}: expected one number, or {axes}, one an axis; got {given!r}")
    for value in values:
        at_least(name, value, low)
    return values
