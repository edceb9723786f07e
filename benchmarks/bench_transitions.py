"""Exact transitions on an ellipse beside counting between 2^20 float32 samples (Novak et al. 2018, A.5.2)."""

from __future__ import annotations

import math
import sys

import torch
from _common import interleaved, ratio, write
from torch import nn

from netopsy._random import forked
from netopsy.probes.paths import Path, random_ellipse
from netopsy.probes.transitions import transitions

NETS = ((20, 200), (3, 256))
"""Hidden layers and their width; ReLU without biases, weights N(0, 2 / n_in), 784 inputs, 10 outputs."""

BATCH = 2**13


def network(depth: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    with forked(0):
        for n_in in (784, *[width] * (depth - 1)):
            linear = nn.Linear(n_in, width, bias=False)
            nn.init.normal_(linear.weight, std=math.sqrt(2 / n_in))
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 10, bias=False))


@torch.no_grad()
def sampled(model: nn.Sequential, path: Path, points: int) -> int:
    """The loop anybody writes: the signs of all pre-activations, compared from each point to the next."""
    _, u, v = path.coefficients[0].float()
    total, first, before = 0, None, None
    for angle in (torch.arange(points) * (2 * math.pi / points)).split(BATCH):
        h, signs = torch.cos(angle)[:, None] * u + torch.sin(angle)[:, None] * v, []
        for layer in model[:-1]:
            if isinstance(layer, nn.ReLU):
                signs.append(h > 0)
            h = layer(h)
        code = torch.cat(signs, 1)
        total += int((code[1:] != code[:-1]).sum())
        if first is None or before is None:
            first = code[:1]
        else:
            total += int((code[:1] != before).sum())
        before = code[-1:]
    return total + int((first != before).sum())


def main(repeats: int = 3, log_points: int = 20) -> None:
    torch.set_num_threads(1)
    lines = [
        f"One random ellipse, random bias-free ReLU networks on 784 inputs; naive: 2^{log_points} float32 samples.",
        f"`ratio` is naive time over ours within a round, the median of {repeats} rounds. The machine is shared.",
        "",
        "| layers | exact count | naive count | over-count | ratio |",
        "|---|---|---|---|---|",
    ]
    for depth, width in NETS:
        model, path = network(depth, width), random_ellipse((784,), 0)
        exact, naive = transitions(model, path).total, sampled(model, path, 2**log_points)
        seconds = interleaved(
            repeats,
            naive=lambda m=model, p=path: sampled(m, p, 2**log_points),  # type: ignore[misc]
            ours=lambda m=model, p=path: transitions(m, p),  # type: ignore[misc]
        )
        times = ratio(seconds, "naive", "ours")
        lines.append(f"| {depth} × {width} | {exact} | {naive} | {naive - exact:+d} | {times:.1f} |")
    write("transitions", "OMP_NUM_THREADS=1 python benchmarks/bench_transitions.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
