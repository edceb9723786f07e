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


@torch.no_grad()
def plain(model: nn.Module, images: Tensor, batch: int) -> None:
    """What anybody would write to run the model over the data."""
    for first in range(0, len(images), batch):
        model(images[first : first + batch])


def bench(width: float, examples: int, batch: int, repeats: int) -> str:
    torch.manual_seed(0)
    model = vgg("vgg11", classes=10, width=width, init="he-normal").eval()
    images, labels = torch.randn(examples, 3, 32, 32), torch.zeros(examples, dtype=torch.long)
    source = open_data((images, labels), batch_size=batch)
    layers = find_units(model, ((images[:2],), {}))
    readings = [Reading(layer) for layer in layers]
    plain(model, images[: 2 * batch], batch)
    seconds = interleaved(
        repeats,
        forward=lambda: plain(model, images, batch),
        read=lambda: unit_moments(model, source, readings),
        whole=lambda: redundancy(model, (images, labels), batch_size=batch),
    )
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return (
        f"| {width:g} | {', '.join(str(layer.units) for layer in layers)} | {examples} | {middle['forward']:.2f} | "
        f"{middle['read']:.2f} | {middle['whole']:.2f} | {ratio(seconds, 'read', 'forward'):.2f} | "
        f"{ratio(seconds, 'whole', 'forward'):.2f} |"
    )


def main(repeats: int = 2) -> None:
    torch.set_num_threads(1)
    lines = [
        "VGG-11 for 32x32 images, batch 256. `moments` is the pass alone, `redundancy` the probe with its spectra",
        "and inverses, whose cost does not grow with the examples (with fewer examples than units, no inverse).",
        f"Medians of {repeats} rounds; ratios are taken within a round. The machine is shared and noisy.",
        "",
        "| width | units | examples | forward s | moments s | redundancy s | moments/forward | redundancy/forward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for width, examples in ((0.25, 4000), (0.5, 2500)):
        start = time.perf_counter()
        lines.append(bench(width, examples, 256, repeats))
        print(lines[-1], f"({time.perf_counter() - start:.0f} s)", flush=True)
    write("redundancy", "python benchmarks/bench_redundancy.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
