"""Softmax-Jacobian norms beside `vmap(jacrev)`, a loop over examples, and plain backward passes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from _common import interleaved, ratio, write
from torch import Tensor, nn

from netopsy.models.fcn import fcn
from netopsy.probes.jacobian_norm import jacobian_norm

CHUNKS = (8, 64, 250)
"""Examples at a time that `vmap(jacrev)` is tried with, beside all at once."""

NEAR = 1e-5
"""Difference of two right norms, over the mean, unless a point lies on a kink."""

FEW = 4
"""Points that the loop takes: its time is counted for all of them."""


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )


def jacrev(model: nn.Module, x: Tensor, chunk: int | None = None) -> Tensor:
    """As torch.func's own tutorial has it, some examples at a time."""

    def probabilities(z: Tensor) -> Tensor:
        return model(z[None])[0].softmax(0)

    jacobians = torch.func.vmap(torch.func.jacrev(probabilities))
    return torch.cat([jacobians(part).flatten(1).norm(dim=1) for part in x.split(chunk or len(x))])


def best_chunk(model: nn.Module, x: Tensor) -> int:
    """Of those tried once to warm up and once in turns, the one with which `jacrev` is fastest."""
    ways = {str(size): partial(jacrev, model, x, size) for size in CHUNKS}
    interleaved(1, **ways)
    seconds = interleaved(1, clock=time.process_time, **ways)
    return int(min(seconds, key=lambda size: seconds[size][0]))


def loop(model: nn.Module, x: Tensor) -> Tensor:
    """An example and a class at a time."""
    found = []
    for z in x:
        z = z[None].clone().requires_grad_()
        p = model(z).softmax(1)[0]
        rows = [torch.autograd.grad(p[k], z, retain_graph=True)[0] for k in range(len(p))]
        found.append(torch.stack(rows).norm())
    return torch.stack(found)


def backward(model: nn.Module, x: Tensor) -> None:
    """n - 1 passes from the logits to the input, of the whole batch."""
    x = x.clone().requires_grad_()
    logits = model(x)
    for k in range(logits.shape[1] - 1):
        torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)


def row(name: str, model: nn.Module, x: Tensor, repeats: int) -> str:
    model = model.eval().requires_grad_(False)  # to the advantage of the others: ours leaves parameters out anyway
    size = best_chunk(model, x)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: jacobian_norm(model, x),
        "jacrev": lambda: jacrev(model, x),
        "chunked": lambda: jacrev(model, x, size),
        "loop": lambda: loop(model, x[:FEW]),
        "backward": lambda: backward(model, x),
    }
    interleaved(1, **ways)  # to warm up
    seconds = interleaved(repeats, clock=time.process_time, **ways)
    seconds["loop"] = [value * len(x) / FEW for value in seconds["loop"]]
    mine = jacobian_norm(model, x)
    apart = (torch.tensor(mine.norms) - jacrev(model, x)).abs() / mine.mean
    on_kinks = int((apart > NEAR).sum())
    assert on_kinks <= len(x) / 1000
    difference = float(apart[apart <= NEAR].max())
    return (
        f"| {name} | {len(x)} | {mine.provenance['chunk']} | {ratio(seconds, 'jacrev', 'ours'):.2f} | "
        f"{ratio(seconds, 'chunked', 'ours'):.2f} ({size}) | "
        f"{ratio(seconds, 'loop', 'ours'):.1f} | {ratio(seconds, 'ours', 'backward'):.2f} | {difference:.0e} "
        f"({on_kinks}) |"
    )


def main(repeats: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "10 classes, float32; ours with all its checks of model and data. Ratios of processor seconds within a",
        f"round, the median of {repeats} rounds; the loop's are those of {FEW} points, scaled to all points.",
        f"`in chunks`: the same with the best of {', '.join(map(str, CHUNKS))} examples at a time (which one).",
        "`over backward`: our time over n - 1 plain backward passes of the batch from the logits to the input.",
        "`difference`: the largest to `vmap(jacrev)`, over the mean norm; without points (how many) one of whose",
        "2,500 pre-activations is 0 to the rounding of float32, where either slope is right.",
        "The machine was shared with other long runs, so that caches were not our own: ratios differ between runs.",
        "",
        "| model | points | chunk | `vmap(jacrev)` / ours | in chunks | loop / ours | over backward | difference |",
        "|---|---|---|---|---|---|---|---|",
        row(
            "FCN 5×500, 784 inputs",
            fcn(inputs=784, classes=10, depth=5, width=500),
            torch.randn(1000, 784),
            repeats,
        ),
        row(
            "FCN 5×500, 784 inputs",
            fcn(inputs=784, classes=10, depth=5, width=500),
            torch.randn(5000, 784),
            repeats,
        ),
        row(
            "FCN 5×500, 3072 inputs",
            fcn(inputs=3072, classes=10, depth=5, width=500),
            torch.randn(1000, 3072),
            repeats,
        ),
        row("conv net, 3×32×32 inputs", conv_net(), torch.randn(256, 3, 32, 32), repeats),
    ]
    write("jacobian", "OMP_NUM_THREADS=1 python benchmarks/bench_jacobian.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
