"""Every unit of a network ablated alone: `unit_effects` against the plainest hook loop, in one process, same numbers.

The bound: FLOPs of all full forwards over FLOPs of one baseline plus what each ablation reaches.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from _common import interleaved, ratio, write
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from netopsy.engine.edits import Edit, Mask, Variant
from netopsy.engine.graph import export
from netopsy.engine.stream import Stream
from netopsy.engine.values import Values
from netopsy.models.fcn import fcn
from netopsy.network.addresses import canonical_names, named_state
from netopsy.network.task import default_logits
from netopsy.network.units import find_units
from netopsy.probes.ablation import unit_effects


def conv_net(*channels: int) -> nn.Sequential:
    """Three 3x3 convolutions with ReLU and 2x2 max pooling, then a linear classifier, on 3x32x32 images."""
    layers: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * 16, 10))


@torch.no_grad()
def hooked(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> list[tuple[float, float]]:
    """The loop anybody writes: a hook that zeroes one unit, the whole network, for each; unchanged and accuracy."""
    parts = list(zip(images.split(batch), labels.split(batch), strict=True))
    before = [model(x).argmax(1) for x, _ in parts]
    results = []
    for module in [module for module in model.modules() if isinstance(module, nn.ReLU)]:
        sizes: list[int] = []
        probe = module.register_forward_hook(lambda m, args, out, sizes=sizes: sizes.append(out.shape[1]))
        model(images[:2])
        probe.remove()
        for unit in range(sizes[0]):

            def zero(module: nn.Module, args: object, out: Tensor, unit: int = unit) -> Tensor:
                out[:, unit] = 0
                return out

            hook = module.register_forward_hook(zero)
            same, right = 0, 0
            for (x, y), old in zip(parts, before, strict=True):
                predicted = model(x).argmax(1)
                same += int((predicted == old).sum())
                right += int((predicted == y).sum())
            hook.remove()
            results.append((same / len(labels), right / len(labels)))
    return results


def bound(model: nn.Module, images: Tensor) -> float:
    """How much less arithmetic there is."""
    layers = find_units(model, ((images,), {}))
    variants = [
        Variant(f"{layer} {unit}", (Edit(layer.address, Mask((unit,), layer.axis)),))
        for layer in layers
        for unit in range(layer.units)
    ]
    state = {name: value.detach() for name, value in named_state(model).items()}
    program = export(model, ((images,), {}), default_logits, frozenset(layer.address.name for layer in layers))
    stream = Stream.of(program, Values(state, canonical_names(model), variants), range(len(variants)))
    slots, steps = program.load(state, ((images,), {})), []
    for step in program.steps:
        with FlopCounterMode(display=False) as counter:
            slots[step.writes] = step.run(slots)
        steps.append(counter.get_total_flops())
    plans = [plan for cut in stream.plans.values() for plan in cut]
    reached = sum(len(plan.rows) * sum(steps[replay.step] for replay in plan.steps) for plan in plans)
    return sum(steps) * (1 + len(variants)) / (sum(steps) + reached)


@torch.no_grad()
def bench(name: str, model: nn.Module, shape: tuple[int, ...], batch: int, examples: int, repeats: int) -> str:
    torch.manual_seed(0)
    images = torch.randn(examples, *shape)
    labels = model(images).argmax(1)
    unit_effects(
        model, (images[: 2 * batch], labels[: 2 * batch]), batch_size=batch
    )  # exported before the clock runs
    found: dict[str, np.ndarray] = {}

    def naive() -> None:
        found["naive"] = np.array(hooked(model, images, labels, batch))

    def netopsy() -> None:
        frame = unit_effects(model, (images, labels), batch_size=batch)
        found["netopsy"] = frame[["unchanged", "accuracy"]].to_numpy()

    seconds = interleaved(repeats, naive=naive, netopsy=netopsy)
    apart = np.abs(found["naive"] - found["netopsy"]).max()
    columns = [name, len(found["naive"]), examples, batch, f"{min(seconds['naive']):.2f}",
               f"{min(seconds['netopsy']):.2f}", f"{ratio(seconds, 'naive', 'netopsy'):.2f}",
               f"{bound(model, images[:batch]):.2f}", f"{apart:.1e}"]  # fmt: skip
    return f"| {' | '.join(map(str, columns))} |"


def main(repeats: int = 1) -> None:
    torch.set_num_threads(1)
    lines = [
        "| network | units | images | batch | hook loop s | ours s | ratio | FLOP bound | largest difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    torch.manual_seed(0)
    cases = [
        ("FCN 3x64 on 784", fcn(inputs=784, classes=10, width=64), (784,), 250),
        ("conv 8-8-8 on 3x32x32", conv_net(8, 8, 8), (3, 32, 32), 50),
        ("conv 16-32-64 on 3x32x32", conv_net(16, 32, 64), (3, 32, 32), 50),
    ]
    for name, model, shape, batch in cases:
        lines.append(bench(name, model.eval(), shape, batch, 1000, repeats))
        print(lines[-1], flush=True)
    write("ablation", "python benchmarks/bench_ablation.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
