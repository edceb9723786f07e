"""What adding up in float32 costs: the moments of one pass against those of the same activations in float64."""

from __future__ import annotations

import torch
from _common import write
from torch import Tensor, nn

from netopsy.engine.batches import open_data
from netopsy.engine.moments import Moments, Reading, unit_moments
from netopsy.models.vgg import vgg
from netopsy.network.units import find_units
from netopsy.probes.redundancy import components, explained, still

BATCH = 100
RIDGE = 1e-6


def compare(name: str, model: nn.Module, inputs: Tensor) -> list[str]:
    """A line for each layer of activations."""
    layers = find_units(model, ((inputs[:2],), {}))
    source = open_data((inputs, torch.zeros(len(inputs), dtype=torch.long)), batch_size=BATCH)
    read = unit_moments(model, source, [Reading(layer) for layer in layers])
    lines = []
    for layer, moments in zip(layers, read, strict=True):
        stored: list[Tensor] = []
        handle = model.get_submodule(layer.address.name).register_forward_hook(
            lambda module, args, output, stored=stored: stored.append(output.movedim(1, -1).flatten(0, -2).clone())
        )
        with torch.no_grad():
            for order, _ in source.batches():
                model(inputs[order])
        handle.remove()
        lines.append(f"| {name}{layer.name} | {line(moments, torch.cat(stored).double())} |")
        print(lines[-1], flush=True)
    return lines


def line(moments: Moments, samples: Tensor) -> str:
    """Largest errors over all pairs of units that vary, and what follows from them."""
    silent, constant = still(moments)
    varying = ~(silent | constant)
    mean, exact = samples.mean(0), torch.cov(samples.T, correction=0)
    scale = exact.diagonal()[varying].sqrt()
    error = (moments.covariance - exact)[varying][:, varying].abs() / torch.outer(scale, scale)
    r = (exact[varying][:, varying] / torch.outer(scale, scale)).clamp(-1, 1)
    mine = moments.correlation(varying)
    r2 = "" if len(samples) <= len(r) + 1 else f"{abs(explained(mine, RIDGE)[0] - explained(r, RIDGE)[0]).max():.0e}"
    counts = components(moments.covariance, 0.95), components(exact, 0.95)
    far = float((mean[varying].abs() / scale).max())
    return (
        f"{len(mean)} | {len(samples)} | {far:.3g} | {float(error.max()):.0e} | "
        f"{float((mine - r).abs().max()):.0e} | {r2} | {counts[0]}, {counts[1]}"
    )


def shifted(offset: float) -> tuple[nn.Module, Tensor]:
    """Correlated units whose means are that many standard deviations from zero."""
    x = torch.randn(20_000, 40) @ torch.randn(40, 40) / 6
    model = nn.Sequential(nn.Linear(40, 40), nn.PReLU(init=1.0), nn.Linear(40, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(40))
        model[0].bias.fill_(offset)
    return model.eval(), x


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "Activations in float32 (VGG-11, width 0.25, 1,200 images of 3×32×32; then 40 units with given means), read",
        "in one pass; against the same activations, stored and computed with in float64. Errors are the",
        "largest over all pairs of units that vary: of the covariance, in the product of the two standard",
        "deviations; of r; of R².",
        "",
        "| layer | units | samples | largest mean / sd | covariance | r | R² | components: pass, float64 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    model = vgg("vgg11", classes=10, width=0.25, init="he-normal").eval()
    lines += compare("", model, torch.randn(1200, 3, 32, 32))
    for offset in (0.0, 10.0, 100.0, 1000.0):
        lines += compare(f"mean {offset:g}, ", *shifted(offset))
    write("redundancy_precision", "python benchmarks/bench_redundancy_precision.py", lines)


if __name__ == "__main__":
    main()
