"""A slice's exact polygons beside a grid of float32 samples of the same square."""

from __future__ import annotations

import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence

import torch
from _common import write
from torch import Tensor, nn

from netopsy.engine.affine import affine_network
from netopsy.engine.planes import PlanePartition
from netopsy.probes.plane import Plane, plane_through
from netopsy.probes.region_slice import region_slice

NETS = ((3, 50, nn.ReLU), (5, 50, nn.ReLU), (3, 100, nn.ReLU6))
"""Layers, units, activation; 784 inputs, no biases, N(0, 2/n) weights."""

DEEP = (15, 300)
"""The paper's own net, of ReLU6: only on small squares around the center, for the time and memory a polygon."""

SIDES = (0.02, 0.05)

SIDE = 4096


def net(depth: int, width: int, activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [784] + [width] * depth
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        modules += [nn.Linear(before, after, bias=False), activation()]
    model = nn.Sequential(*modules, nn.Linear(width, 10, bias=False))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, math.sqrt(2 / module.in_features))
    return model.eval()


def plane() -> Plane:
    """Through three inputs of mean 0 and variance 1."""
    points = torch.randn(3, 784, generator=torch.Generator().manual_seed(1))
    return plane_through(*(points - points.mean(1, keepdim=True)) / points.std(1, keepdim=True))


@torch.no_grad()
def sampled(model: nn.Sequential, at: Plane, side: int, rows: int) -> tuple[int, int]:
    """Codes of `rows` rows of a grid: distinct ones, and changes of the last layer's code between neighbors."""
    ticks = torch.linspace(-1, 1, side)
    seen: set[bytes] = set()
    changes = 0
    thresholds = (0.0, 6.0) if isinstance(model[1], nn.ReLU6) else (0.0,)
    for row in torch.linspace(0, side - 1, rows).round().long().tolist():
        x = at.at(torch.stack([ticks, ticks[row].expand(side)], 1)).float()
        codes: list[Tensor] = []
        for module in model:
            if not isinstance(module, nn.Linear):
                codes.append(sum((x > t).to(torch.int8) for t in thresholds))
            x = module(x)
        changes += int((codes[-1][1:] != codes[-1][:-1]).sum())
        seen.update(code.tobytes() for code in torch.cat(codes, 1).numpy())
    return len(seen), changes


def seconds(way: Callable[[], object]) -> tuple[float, object]:
    """Processor time: the machine is shared."""
    start = time.process_time()
    result = way()
    return time.process_time() - start, result


def within(model: nn.Module, at: Plane, sides: Sequence[float]) -> list[str]:
    """Polygons, seconds and peak memory on small squares."""
    network = affine_network(model, at.at(at.anchors))
    coefficients = torch.stack([at.center, at.across, at.up])[None]
    lines = []
    for side in sides:
        partition = PlanePartition.of((-side, -side, side, side), layers=[], most=10**6)
        took, _ = seconds(lambda p=partition: network.run(coefficients, p, budget=2**27))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        count = partition.record.polygons
        lines.append(f"| {2 * side:g} | {count:,} | {took:.1f} | {1000 * took / count:.2f} | {peak:,.0f} |")
    return lines


def main(rows: int = 16) -> None:
    torch.set_num_threads(1)
    at = plane()
    lines = [
        f"Random nets without biases, 784 inputs. The grid has {SIDE} × {SIDE} points in float32; {rows} of its rows",
        "were run and the time scaled. `distinct codes` are those that the rows met: regions that lie between the",
        "samples are missed, and the grid has no boundaries but pixels. Processor seconds.",
        "",
        "| net | regions | segments of the last layer | exact | grid | ratio | distinct codes in the rows |",
        "|---|---|---|---|---|---|---|",
    ]
    for depth, width, activation in NETS:
        model = net(depth, width, activation)
        affine_network(model, at.at(at.anchors))  # exported once, as the grid needs no such thing
        own, result = seconds(lambda m=model: region_slice(m, at))
        grid, (codes, _) = seconds(lambda m=model: sampled(m, at, SIDE, rows))
        grid *= SIDE / rows
        lines.append(
            f"| {depth}×{width} {activation.__name__} | {result.regions:,} | {len(result.segments):,} | {own:.1f} s "
            f"| {grid:.0f} s | {grid / own:.1f} | {codes:,} |"
        )
    lines += [
        "",
        f"A {DEEP[0]}×{DEEP[1]} net of ReLU6 on small squares around the center, with 128 MiB of values a layer:",
        "",
        "| side | polygons | seconds | ms a polygon | peak memory of the process, MiB |",
        "|---|---|---|---|---|",
        *within(net(*DEEP, nn.ReLU6), at, SIDES),
    ]
    write("slices", "OMP_NUM_THREADS=1 python benchmarks/bench_slices.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
