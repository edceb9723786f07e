"""Redundancy of all layers in one pass against a plain float32 forward over the same data, on VGG-11."""

from __future__ import annotations

import statistics
import sys
import time

import torch
from _common import interleaved, ratio, write
from torch import Tensor, nn

from netopsy.engine.batches import open_data
from netopsy.engine.moments import Reading, unit_moments
from netopsy.models.vgg import vgg
from netopsy.network.units import find_units
from netopsy.probes.redundancy import redundancy

CASES = (
    (0.25, (3, 32, 32), 100, 2000),
    (0.25, (3, 32, 32), 250, 2000),
    (0.25, (1, 28, 28), 100, 2000),
    (0.25, (1, 28, 28), 100, 10_000),
    (0.5, (3, 32, 32), 100, 2000),
)
"""Width, images, examples a batch, examples."""


@torch.no_grad()
def plain(model: nn.Module, images: Tensor, batch: int) -> None:
    """What anybody would write to run the model over the data."""
    for first in range(0, len(images), batch):
        model(images[first : first + batch])


def bench(width: float, shape: tuple[int, int, int], batch: int, examples: int, repeats: int) -> str:
    torch.manual_seed(0)
    channels, size, _ = shape
    model = vgg("vgg11", classes=10, channels=channels, size=size, width=width, init="he-normal").eval()
    images, labels = torch.randn(examples, *shape), torch.zeros(examples, dtype=torch.long)
    source = open_data((images, labels), batch_size=batch)
    readings = [Reading(layer) for layer in find_units(model, ((images[:2],), {}))]
    plain(model, images[: 2 * batch], batch)
    seconds = interleaved(
        repeats,
        forward=lambda: plain(model, images, batch),
        read=lambda: unit_moments(model, source, readings),
        whole=lambda: redundancy(model, (images, labels), batch_size=batch),
    )
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    spread = [b / a for a, b in zip(seconds["forward"], seconds["whole"], strict=True)]
    return (
        f"| {width:g} | {'×'.join(map(str, shape))} | {batch} | {examples:,} | {middle['forward']:.2f} | "
        f"{middle['read']:.2f} | {middle['whole']:.2f} | {ratio(seconds, 'read', 'forward'):.2f} | "
        f"{ratio(seconds, 'whole', 'forward'):.2f} ({min(spread):.2f} to {max(spread):.2f}) |"
    )


def main(repeats: int = 7) -> None:
    torch.set_num_threads(1)
    lines = [
        "VGG-11. `moments` is the pass alone, `redundancy` the probe with its spectra and",
        "inverses, whose cost does not grow with the examples. The widest layers have 1024 units at width 0.25, and",
        "2048, more than the examples, at width 0.5, where these have no inverse.",
        f"Medians of {repeats} rounds (the least and the greatest in parentheses); ratios are taken within a round.",
        "The machine is shared and noisy.",
        "",
        "| width | images | batch | examples | forward s | moments s | redundancy s | moments/forward | "
        "redundancy/forward |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        start = time.perf_counter()
        lines.append(bench(*case, repeats))
        print(lines[-1], f"({time.perf_counter() - start:.0f} s)", flush=True)
    write("redundancy", "python benchmarks/bench_redundancy.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
