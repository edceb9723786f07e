"""Networks trained as one against `fit` of one after the other: the same epochs, in turns, in one process."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from _common import ratio, write
from torch import Tensor, nn

from netopsy.models.fcn import fcn
from netopsy.models.normalized_fcn import normalized_fcn
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit
from netopsy.training.population import fit_population
from netopsy.training.population_ways import operations
from netopsy.training.together import find_chain

STEPS = 8
"""Steps of the epoch that is trained."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Networks to train."""

    name: str
    factory: Callable[[], nn.Module]
    members: int
    batch: int
    shape: tuple[int, ...]
    classes: int = 10


def conv(channels: int, size: int) -> nn.Module:
    """Two 3×3 convolutions with batch norm, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Flatten(), nn.Linear(channels * (size - 4) ** 2, 10),
    )  # fmt: skip


def perceptron(inputs: int, classes: int, depth: int, width: int) -> Callable[[], nn.Module]:
    return functools.partial(fcn, inputs=inputs, classes=classes, depth=depth, width=width)


MLPS = ((64, 2), (64, 8), (128, 8), (256, 2), (256, 8), (512, 4))
"""Width and number of perceptrons of three hidden layers."""
CONVS = ((8, 8, 2), (8, 8, 8), (32, 8, 4), (8, 16, 8), (16, 16, 4), (16, 28, 4))
"""Channels, size of the images, and number of convolutional networks."""

CASES = (
    Case(name="10-40-30", factory=perceptron(10, 30, 1, 40), members=32, batch=64, shape=(10,), classes=30),
    Case(name="FCN 3×64, 64 inputs", factory=perceptron(64, 10, 3, 64), members=16, batch=64, shape=(64,)),
    Case(name="FCN 3×64, 784 inputs", factory=perceptron(784, 10, 3, 64), members=16, batch=64, shape=(784,)),
    *(
        Case(name=f"FCN 3×{w}, 64 inputs", factory=perceptron(64, 10, 3, w), members=m, batch=128, shape=(64,))
        for w, m in MLPS
    ),
    Case(
        name="64-64 with batch norm, 64 inputs",
        factory=functools.partial(normalized_fcn, inputs=64, classes=10, hidden=(64, 64)),
        members=16,
        batch=128,
        shape=(64,),
    ),
    *(
        Case(name=f"conv {c}, {n}×{n}", factory=functools.partial(conv, c, n), members=m, batch=64, shape=(1, n, n))
        for c, n, m in CONVS
    ),
)


def data(case: Case) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    count = STEPS * case.batch
    return torch.randn(count, *case.shape, generator=source), torch.arange(count) % case.classes


def bench(case: Case, repeats: int) -> str:
    given = data(case)
    configs = [
        FitConfig(epochs=1, batch_size=case.batch, lr=0.01, keep=(), seed=seed) for seed in range(case.members)
    ]
    auto = fit_population(case.factory, (given[0][: case.batch], given[1][: case.batch]), configs)  # and a warm-up
    chain = find_chain(case.factory(), given[0][:2]) is not None
    train = functools.partial(fit_population, case.factory, given, configs)
    ways: dict[str, Callable[[], Sequence[float]]] = {
        "alone": lambda: _seconds(fit(case.factory, given, config).history for config in configs),
        "own": lambda: _seconds([train(way="matmul" if chain else "vmap").history]),
        "shared": lambda: _seconds([train(way="matmul" if chain else "vmap", shared_order=True).history]),
    }
    if chain:
        ways["vmap"] = lambda: _seconds([train(way="vmap").history])
    training: dict[str, list[float]] = {name: [] for name in ways}
    extra = []
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            training[name].append(sum(way()))
            if name == "own":
                extra.append(time.perf_counter() - start - training[name][-1])
    step = statistics.median(training["alone"]) / (STEPS * case.members)
    work = operations(case.factory(), given[0][: case.batch])
    ratios = [a / b for a, b in zip(training["alone"], training["own"], strict=True)]
    cells = [
        case.name,
        str(case.members),
        str(case.batch),
        f"{work / 1e6:.3g}",
        f"{1e3 * step:.2f}",
        "matmul" if chain else "vmap",
        f"{ratio(training, 'alone', 'own'):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{ratio(training, 'alone', 'shared'):.2f}",
        f"{ratio(training, 'alone', 'vmap'):.2f}" if chain else "–",
        f"{1e3 * statistics.median(extra) / case.members:.1f}",
        auto.way,
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(histories: Iterable[pd.DataFrame]) -> list[float]:
    """Of training alone, as the histories have them."""
    return [second for history in histories for second in history["seconds"]]


def main(repeats: int = 5) -> None:
    torch.set_num_threads(1)
    lines = [
        "How many times faster N networks are trained as one than by `fit`, one after the other: the histories'",
        f"seconds of an epoch of {STEPS} steps, SGD with momentum. `own`: each member has its own order of the data;",
        "`shared`: one for all; `vmap`: own order, by vmap where the stack is one of matrix products. Set-up is the",
        "rest of the call (networks are made, stacked and checked), in ms a member. Operations are those of one",
        "member's forward pass on one batch, in millions; `auto` decides by them and by N.",
        f"Medians of {repeats} rounds (the least and the greatest in parentheses); ratios are taken within a round.",
        "The machine is shared and noisy.",
        "",
        "| network | N | batch | operations | alone, ms a step | stacked | own | shared | vmap | set-up | auto |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        start = time.perf_counter()
        lines.append(bench(case, repeats))
        print(lines[-1], f"({time.perf_counter() - start:.0f} s)", flush=True)
    write("population", "python benchmarks/bench_population.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
