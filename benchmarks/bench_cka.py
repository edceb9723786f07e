"""CKA of all pairs of layers in one pass beside its definition on stored activations: the same, in less time."""

from __future__ import annotations

import sys

import numpy as np
import torch
from _common import interleaved, ratio, write
from torch import Tensor, nn

from netopsy.engine.batches import open_data
from netopsy.models.fcn import fcn
from netopsy.models.vgg import vgg
from netopsy.probes.cka import cka

BATCH = 100


def network(kind: str) -> nn.Module:
    if kind == "fcn 3x256":
        return fcn(inputs=784, classes=10, depth=3, width=256).eval()
    return vgg("vgg11", classes=10, channels=1, size=28, width=0.125, init="he-normal").eval()


@torch.no_grad()
def stored(model: nn.Module, x: Tensor) -> list[np.ndarray]:
    """Activations of all activation modules on all examples."""
    found: list[list[Tensor]] = []
    for batch in x.split(BATCH):
        seen: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda _, args, out, seen=seen: seen.append(out.clone()))
            for module in model.modules()
            if isinstance(module, nn.ReLU)
        ]
        model(batch)
        for hook in hooks:
            hook.remove()
        found.append(seen)
    return [torch.cat(parts).flatten(1).double().numpy() for parts in zip(*found, strict=True)]


def hsic1(k: np.ndarray, m: np.ndarray) -> float:
    """Eq. 3 of Nguyen, Raghu, Kornblith (2021), of matrices with zero diagonals."""
    n = len(k)
    rows, columns = k.sum(0), m.sum(0)
    both = (k * m).sum() + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ columns
    return both / (n * (n - 3))


def definition(one: nn.Module, two: nn.Module, x: Tensor) -> np.ndarray:
    """Eq. 4, pair by pair, as it is written."""
    a, b = stored(one, x), stored(two, x)

    def gram(rows: np.ndarray) -> np.ndarray:
        product = rows @ rows.T
        np.fill_diagonal(product, 0)
        return product

    def total(u: np.ndarray, v: np.ndarray) -> float:
        starts = range(0, len(x), BATCH)
        return sum(hsic1(gram(u[at : at + BATCH]), gram(v[at : at + BATCH])) for at in starts)

    return np.array([[total(u, v) / np.sqrt(total(u, u) * total(v, v)) for v in b] for u in a])


def bench(kind: str, examples: int, repeats: int) -> str:
    torch.manual_seed(0)
    one, two = network(kind), network(kind)
    x = torch.randn(examples, 784) if kind.startswith("fcn") else torch.randn(examples, 1, 28, 28)
    data = [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(BATCH)]
    order = np.concatenate([rows for rows, _ in open_data(data).batches()])
    mine = cka(one, two, data).matrix.to_numpy()
    theirs = definition(one, two, x[order])
    difference = np.abs(mine - theirs).max()
    assert difference < 1e-6
    with torch.no_grad():
        seconds = interleaved(
            repeats,
            definition=lambda: definition(one, two, x),
            forward=lambda: [model(part) for model in (one, two) for part in x.split(BATCH)],
            ours=lambda: cka(one, two, data),
        )
    return (
        f"| {kind} | {mine.shape[0]} × {mine.shape[1]} | {examples} | {difference:.0e} | "
        f"{ratio(seconds, 'definition', 'ours'):.1f} | {ratio(seconds, 'ours', 'forward'):.1f} |"
    )


def main(repeats: int = 3) -> None:
    torch.set_num_threads(1)
    lines = [
        f"Two networks with other weights, all activation modules, batches of {BATCH}. `definition` stores all",
        "activations in float64 and takes Eq. 3 and 4 of Nguyen, Raghu, Kornblith (2021) pair by pair;",
        f"`forward` runs both networks and nothing else. Ratios of times within a round, medians of {repeats}",
        "rounds. The machine is shared and noisy.",
        "",
        "| network | layers | examples | largest difference | definition/ours | ours/forward |",
        "|---|---|---|---|---|---|",
        bench("fcn 3x256", 2000, repeats),
        bench("vgg11, width 1/8", 500, repeats),
    ]
    write("cka", "OMP_NUM_THREADS=1 python benchmarks/bench_cka.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
