"""Every unit of a network ablated alone: `unit_effects` against the plainest hook loop, in one process, same numbers.

Arithmetic: FLOPs of all full forwards over FLOPs of what runs. Captum's `LayerFeatureAblation` is timed beside, where
it is installed; it gives changes of one logit, not of predictions, by as many forward passes.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable

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


def arithmetic(model: nn.Module, images: Tensor) -> float:
    """How much less arithmetic there is than in a full forward pass for each unit."""
    layers = find_units(model, ((images,), {}))
    variants = [
        Variant(f"{layer} {unit}", (Edit(layer.address, Mask((unit,), layer.axis)),))
        for layer in layers
        for unit in range(layer.units)
    ]
    state = {name: value.detach() for name, value in named_state(model).items()}
    program = export(model, ((images,), {}), default_logits, frozenset(layer.address.name for layer in layers))
    stream = Stream.of(program, Values(state, canonical_names(model), variants), range(len(variants)))
    with FlopCounterMode(display=False) as whole:
        model(images)
    with FlopCounterMode(display=False) as ours:
        for _ in stream.run(state, ((images,), {}), set(range(len(variants)))):
            pass
    return whole.get_total_flops() * (1 + len(variants)) / ours.get_total_flops()


def by_captum(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> None:
    """Captum's ablation of the same units: the change of the predicted class's logit."""
    from captum.attr import LayerFeatureAblation

    for module in [module for module in model.modules() if isinstance(module, nn.ReLU)]:
        ablation, units = LayerFeatureAblation(model, module), None
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            if units is None:
                shapes: list[tuple[int, ...]] = []
                probe = module.register_forward_hook(lambda m, args, out, shapes=shapes: shapes.append(out.shape[1:]))
                model(x[:2])
                probe.remove()
                (shape,) = shapes
                units = torch.arange(shape[0]).reshape(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape)
            ablation.attribute(x, target=y, layer_mask=units)


@torch.no_grad()
def bench(name: str, model: nn.Module, shape: tuple[int, ...], batch: int, examples: int, rounds: int) -> str:
    torch.manual_seed(0)
    images = torch.randn(examples, *shape)
    labels = model(images).argmax(1)
    two = 2 * min(batch, examples // 2)
    unit_effects(model, (images[:two], labels[:two]), batch_size=two // 2)  # exported before the clock runs
    found: dict[str, np.ndarray] = {}

    def naive() -> None:
        found["naive"] = np.array(hooked(model, images, labels, batch))

    def netopsy() -> None:
        frame = unit_effects(model, (images, labels), batch_size=batch)
        found["netopsy"] = frame[["unchanged", "accuracy"]].to_numpy()

    ways: dict[str, Callable[[], None]] = {"naive": naive, "netopsy": netopsy}
    if importlib.util.find_spec("captum") is not None and examples <= 200:
        ways["captum"] = lambda: by_captum(model, images, labels, batch)
    spent: dict[str, list[float]] = {way: [] for way in ways}

    def clocked(way: str) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            ways[way]()
            spent[way].append(time.process_time() - start)

        return run

    seconds = interleaved(rounds, **{way: clocked(way) for way in ways})
    ratios = sorted(a / b for a, b in zip(spent["naive"], spent["netopsy"], strict=True))
    apart = int(np.rint(np.abs(found["naive"] - found["netopsy"]) * examples).sum())
    captum = f"{np.median(spent['captum']):.2f}" if "captum" in spent else ""
    columns = [name, len(found["naive"]), examples, batch, f"{np.median(spent['naive']):.2f}", captum,
               f"{np.median(spent['netopsy']):.2f}", f"**{ratio(spent, 'naive', 'netopsy'):.1f}**",
               f"{ratios[0]:.1f} to {ratios[-1]:.1f}", f"{ratio(seconds, 'naive', 'netopsy'):.1f}",
               f"{arithmetic(model, images[:batch]):.1f}",
               f"{apart} of {found['naive'].size * examples}"]  # fmt: skip
    return f"| {' | '.join(map(str, columns))} |"


def main(rounds: int = 7) -> None:
    torch.set_num_threads(1)
    lines = [
        "| network | units | images | batch | hooks | Captum | ours | ratio | range | wall | arithmetic | apart |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    torch.manual_seed(0)
    image, conv = (3, 32, 32), conv_net(16, 32, 64)
    cases = [
        ("conv 16-32-64 on 3x32x32", conv, image, 100, 1000),  # the one that counts; its batch was set beforehand
        ("conv 16-32-64 on 3x32x32", conv, image, 50, 100),
        ("conv 16-32-64 on 3x32x32", conv, image, 100, 100),
        ("conv 16-32-64 on 3x32x32", conv, image, 250, 250),
        ("conv 16-32-64 on 3x32x32", conv, image, 1000, 1000),
        ("conv 8-8-8 on 3x32x32", conv_net(8, 8, 8), image, 100, 200),
        ("FCN 3x64 on 784", fcn(inputs=784, classes=10, width=64), (784,), 100, 1000),
        ("FCN 3x512 on 784", fcn(inputs=784, classes=10, width=512), (784,), 100, 200),
    ]
    for name, model, shape, batch, examples in cases:
        lines.append(bench(name, model.eval(), shape, batch, examples, rounds))
        print(lines[-1], flush=True)
    lines += [
        "",
        f"Processor seconds (the machine is shared), medians of {rounds} rounds, in which the ways take turns.",
        "Ratio: the median of the rounds' ratios, with the smallest and the largest, and the median by wall time.",
        "Arithmetic: FLOPs of a full forward pass for each unit over FLOPs of what runs. Apart: predictions counted",
        "otherwise than by the hook loop, of all (unchanged, and right); see docs/engine.md, masked units.",
    ]
    write("ablation", "python benchmarks/bench_ablation.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
