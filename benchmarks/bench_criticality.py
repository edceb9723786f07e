"""Criticality of all modules of FCN 3×256 on Fashion-MNIST against the search that is in use, and a fine grid.

The usual search is an 11×11 grid of alpha and sigma, 10 noise samples and a full pass for each: some of its passes
are timed beside ours, and multiplied. The fine grid (alphas a factor of 1.07 apart around ours, to a factor of 2.3 on
either side, and 1.3 apart from 0.003 to 1; sigma to 0.1 %) takes the same noise draws, by plain whole forwards. It
skips an alpha that is not feasible at the best ratio so far.

python benchmarks/bench_criticality.py [examples [epsilon]]
"""

from __future__ import annotations

import copy
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _common import write
from torch import Tensor, nn

import netopsy
from netopsy._random import derive
from netopsy.data.dataset import standardize
from netopsy.data.idx import fashion_mnist
from netopsy.engine.edits import AddNoise
from netopsy.models.fcn import fcn
from netopsy.network.addresses import Address

RUN = Path("runs/layers/fcn-3x256-fashion-mnist-0")
"""Trained by `netopsy study layers`."""

SAMPLES, GRID, BATCH, SEED = 10, 121, 1000, 0
FLOOR = 1e-2
"""mu below this counts as 0: a ratio means nothing there."""


class Naive:
    """Whole forwards of a copy whose module is at theta(alpha, sigma), one draw after the other."""

    def __init__(self, trajectory: netopsy.Trajectory, site: str, images: Tensor, labels: Tensor) -> None:
        self.twin, self.images, self.labels = copy.deepcopy(trajectory.model()), images, labels
        module = self.twin.get_submodule(site)
        self.end = {f"{site}.{name}": value.detach().clone() for name, value in module.named_parameters()}
        self.start = {name: trajectory.tensor(trajectory.keys[0], name) for name in self.end}
        self.noise = []
        for draw in range(SAMPLES):
            rule = AddNoise(1.0, derive(SEED, site, draw))
            zeros = {name: torch.zeros_like(value) for name, value in self.end.items()}
            self.noise.append({name: rule(zero, Address("parameter", name)) for name, zero in zeros.items()})
        self.squares = sum(float((self.end[n] - self.start[n]).double().square().sum()) for n in self.end)

    @torch.no_grad()
    def wrong(self, alpha: float, sigma: float, draw: int) -> int:
        """Wrong predictions under one draw: a full pass."""
        for name, end in self.end.items():
            value = torch.lerp(self.start[name], end, alpha) + sigma * self.noise[draw][name]
            self.twin.get_parameter(name).copy_(value)
        batches = zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True)
        return sum(int((self.twin(x).argmax(1) != y).sum()) for x, y in batches)

    def passes(self, alpha: float, sigma: float, epsilon: float) -> bool:
        most, wrong = epsilon * SAMPLES * len(self.labels) + 1e-6, 0
        for draw in range(SAMPLES):
            wrong += self.wrong(alpha, sigma, draw)
            if wrong > most:
                return False
        return True

    def fine(self, epsilon: float, near: tuple[float, float]) -> float:
        """The least mu on the fine grid; `near` says where it begins, which changes its time alone."""
        best = near[0] / near[1] * 1.1
        alphas = {*np.geomspace(0.003, 1, 23), *(near[0] * 1.07**place for place in range(-12, 13))}
        for alpha in sorted(alphas, key=lambda a: abs(math.log(a / near[0]))):
            if alpha > 1:
                continue
            if alpha / best > 1 or not self.passes(alpha, alpha / best, epsilon):
                continue
            low, high = alpha / best, min(1.0, 2 * alpha / best)
            while high / low > 1.001:
                middle = math.sqrt(low * high)
                low, high = (middle, high) if self.passes(alpha, middle, epsilon) else (low, middle)
            best = alpha / low
        return best**2 * self.squares


def main(examples: int = 60_000, epsilon: float = 0.1) -> None:
    if not RUN.is_dir():
        print(f"{RUN} is not there: run `netopsy study layers --claims F1a` first")
        return
    torch.set_num_threads(1)
    images, labels = standardize(fashion_mnist()).train
    images, labels = images[:examples].float(), labels[:examples]

    def factory() -> nn.Module:
        return fcn(inputs=(1, 28, 28), classes=10, depth=3, width=256)

    trajectory = netopsy.Trajectory.from_folder(factory, RUN)
    sites = [*(f"hidden.{i}" for i in range(3)), "classifier"]
    once = []
    for site in sites:  # before and after ours: a noisy machine slows both alike
        naive, start = Naive(trajectory, site, images, labels), time.perf_counter()
        naive.wrong(0.5, 0.01, 0)
        once.append(time.perf_counter() - start)
    start = time.perf_counter()
    result = netopsy.criticality(trajectory, (images, labels), epsilon=epsilon, noise_samples=SAMPLES, seed=SEED)
    ours = time.perf_counter() - start
    rows = []
    for row in result.to_frame().itertuples():
        naive, start = Naive(trajectory, row.site, images, labels), time.perf_counter()
        naive.wrong(0.5, 0.01, 0)
        once.append(time.perf_counter() - start)
        known = row.status == "feasible"
        fine = naive.fine(epsilon, (row.alpha, row.sigma)) if known else math.nan
        apart = "–" if not known or max(fine, row.mu) < FLOOR else f"{math.log(row.mu / fine):+.4f}"
        points = result.provenance["tests"][row.site]
        rows.append(
            f"| {row.site} | {row.status} | {row.mu:.4g} | {fine:.4g} | {apart} | {row.alpha:.3g} | {points} |"
        )
    usual = float(np.mean(once)) * GRID * SAMPLES * len(sites)
    lines = [
        f"FCN 3×256 on {examples:,} examples of Fashion-MNIST, epsilon = {epsilon:g}, {SAMPLES} noise samples.",
        f"All {len(sites)} modules: {ours:.1f} s. The 11×11 grid with full passes: {usual:.0f} s ({len(once)} of its",
        f"passes timed, {min(once):.2f} to {max(once):.2f} s each). Ratio: {usual / ours:.0f}.",
        "",
        "| module | status | mu | fine grid | log ratio | alpha | points |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]
    write("criticality", f"python benchmarks/bench_criticality.py {examples} {epsilon:g}", lines)


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((int, float), sys.argv[1:], strict=False)))
