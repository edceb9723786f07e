"""Speed of `evaluate` against the naive loop, beside the bound that the FLOPs set.

The bound: FLOPs of all full forwards over FLOPs of one baseline plus what each edit reaches. Rewinding to the final
checkpoint changes nothing and is not run; it does not count in either.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from _common import interleaved, naive, ratio, write
from torch.utils.flop_counter import FlopCounterMode

from netopsy.engine.edits import FromCheckpoint, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.graph import Program, export
from netopsy.engine.stream import Stream
from netopsy.engine.values import Values
from netopsy.models.fcn import fcn
from netopsy.models.resnet import resnet
from netopsy.network.addresses import canonical_names, named_state
from netopsy.network.sites import Site, find_sites
from netopsy.network.task import default_logits
from netopsy.network.trajectory import Trajectory


def trajectory_of(factory: object, keys: range) -> Trajectory:
    """Random weights under each key: speed does not depend on their values."""
    states = {}
    for key in keys:
        torch.manual_seed(key)
        states[key] = {n: v.detach().clone() for n, v in factory().state_dict().items()}  # type: ignore[operator]
    return Trajectory.from_states(factory, states)  # type: ignore[arg-type]


def flops(program: Program, stream: Stream, state: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[int, int]:
    """FLOPs of one full forward, and of the baseline with every variant's own steps."""
    per_step = []
    slots = program.load(state, ((x,), {}))
    for step in program.steps:
        with FlopCounterMode(display=False) as counter:
            slots[step.writes] = step.run(slots)
        per_step.append(counter.get_total_flops())
    plans = [plan for cut in stream.plans.values() for plan in cut]
    reached = sum(len(plan.rows) * sum(per_step[replay.step] for replay in plan.steps) for plan in plans)
    return sum(per_step), sum(per_step) + reached


@torch.no_grad()
def bench(name: str, factory: object, shape: tuple[int, ...], keys: range, sites: str, batch: int, examples: int,
          repeats: int) -> str:  # fmt: skip
    trajectory = trajectory_of(factory, range(keys.start, keys.stop + 1))
    model = trajectory.model()
    found = find_sites(model, sites)
    edits: list[tuple[Site, int]] = [(site, key) for site in found for key in keys]
    variants = [edit_site(f"{site} {key}", site, FromCheckpoint(trajectory, key)) for site, key in edits]
    images, labels = torch.randn(examples, *shape), torch.randint(0, 10, (examples,))

    state = {n: v.detach() for n, v in named_state(model).items()}
    program = export(model, ((images[:batch],), {}), default_logits)
    stream = Stream.of(program, Values(state, canonical_names(model), variants), range(len(variants)))
    full, ours = flops(program, stream, state, images[:batch])
    bound = full * (1 + len(variants)) / ours

    slow = partial(naive, model, trajectory, edits, images, labels, batch)
    fast = partial(evaluate, model, (images, labels), variants, batch_size=batch)
    mine, theirs = fast(), slow()
    errors = [mine.baseline["error"], *mine.metrics["error"]]
    agree = max(abs(a - b[0]) for a, b in zip(errors, theirs, strict=True))
    seconds = interleaved(repeats, naive=slow, netopsy=fast)
    speed = ratio(seconds, "naive", "netopsy")
    return (
        f"| {name} | {len(variants)} | {examples} | {batch} | {min(seconds['naive']):.2f} | "
        f"{min(seconds['netopsy']):.2f} | {speed:.2f} | {bound:.2f} | {speed / bound:.2f} | {agree:.1e} |"
    )


def main(repeats: int = 7) -> None:
    torch.set_num_threads(1)
    lines = [
        "| network | variants | examples | batch | naive s | ours s | ratio | FLOP bound | share of it | largest "
        "difference of error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    small = partial(resnet, 18, classes=10, channels=1, width=0.25)
    cases = [
        ("FCN 3x256, 8 checkpoints x layers", partial(fcn, inputs=784, classes=10), (784,), range(8), "modules", 1000,
         10000),
        ("FCN 3x256, batch 256", partial(fcn, inputs=784, classes=10), (784,), range(8), "modules", 256, 10000),
        ("ResNet-18 V2 width 16, modules", small, (1, 28, 28), range(1), "modules", 100, 400),
        ("ResNet-18 V2 width 16, blocks x 2", small, (1, 28, 28), range(2), "blocks", 100, 400),
    ]  # fmt: skip
    for case in cases:
        lines.append(bench(*case, repeats))  # type: ignore[arg-type]
        print(lines[-1], flush=True)
    write("engine", "python benchmarks/bench_engine.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
