"""Singular values of convolutions beside numpy's fft2 recipe and the SVD of the dense matrix."""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from _common import interleaved, ratio, write
from torch import Tensor

from netopsy.probes.singular_values import conv_singular_values

FFT = ((64, 64, 16), (64, 128, 16), (128, 128, 8), (16, 16, 32))
"""Inputs, outputs, positions along both axes; 3 x 3 kernels, circular padding, stride 1."""

DENSE = ((8, 8, 8, "circular", 1), (8, 16, 8, "circular", 2), (16, 32, 8, "circular", 2))


def recipe(kernel: Tensor, n: int) -> np.ndarray:
    """The code of Sedghi, Gupta, Long (2019)."""
    transfer = np.fft.fft2(kernel.permute(2, 3, 1, 0).numpy(), (n, n), axes=(0, 1))
    return np.sort(np.linalg.svd(transfer, compute_uv=False).ravel())[::-1]


def dense(kernel: Tensor, n: int, padding: str, stride: int) -> np.ndarray:
    """The matrix column by column, and its singular values."""
    basis = torch.eye(kernel.shape[1] * n * n, dtype=kernel.dtype).view(-1, kernel.shape[1], n, n)
    basis = F.pad(basis, (1, 1, 1, 1), mode="circular" if padding == "circular" else "constant")
    return np.linalg.svd(F.conv2d(basis, kernel, stride=stride).flatten(1).numpy(), compute_uv=False)


def row(kernel: Tensor, n: int, padding: str, stride: int, repeats: int, beside: str, **options: int) -> str:
    ways = {
        "fft2 recipe": lambda: recipe(kernel, n),
        "dense SVD": lambda: dense(kernel, n, padding, stride),
        "ours": lambda: conv_singular_values(kernel, n, padding=padding, stride=stride, **options),
    }
    mine, theirs = ways["ours"](), ways[beside]()
    difference = np.abs(mine - theirs[: len(mine)]).max() / theirs[0]
    assert difference < 1e-6
    seconds = interleaved(repeats, **{name: ways[name] for name in (beside, "ours")})
    c_out, c_in = kernel.shape[:2]
    kept = "all" if not options else f"top {options['top']}"
    count = min(c_in * n**2, c_out * n**2 // stride**2)
    return (
        f"| {c_in} → {c_out} | {n} × {n} | {stride} | {padding} | {kept} of {count} | "
        f"{beside} | {difference:.0e} | {ratio(seconds, beside, 'ours'):.1f} |"
    )


def main(repeats: int = 3) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "3 × 3 kernels in float64. `difference` is the largest one over the largest value; `ratio` the time of the",
        f"other way over ours within a round, the median of {repeats} rounds. The machine is shared and noisy.",
        "",
        "| channels | input | stride | padding | values | beside | difference | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c_in, c_out, n in FFT:
        lines.append(row(torch.randn(c_out, c_in, 3, 3).double(), n, "circular", 1, repeats, "fft2 recipe"))
    for c_in, c_out, n, padding, stride in DENSE:
        lines.append(row(torch.randn(c_out, c_in, 3, 3).double(), n, padding, stride, repeats, "dense SVD"))
    lines.append(row(torch.randn(8, 8, 3, 3).double(), 8, "zeros", 1, repeats, "dense SVD"))
    lines.append(row(torch.randn(16, 16, 3, 3).double(), 8, "zeros", 1, repeats, "dense SVD", top=1))
    write("singular_values", "OMP_NUM_THREADS=1 python benchmarks/bench_singular_values.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
