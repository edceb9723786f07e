"""Peak memory of `evaluate` on ResNet-50 for 32x32 images against one plain forward, each in a process of its own.

Peak is of the tensors alone: what the allocator holds, counted by torch's profiler of allocations, model included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import torch
from _common import write

from netopsy.engine.edits import FromCheckpoint, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.models.resnet import resnet
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory

BATCH = 100


def peak(way: str, sites: int) -> float:
    """MB that tensors take at most while the way runs, beyond what was there before."""
    torch.set_num_threads(2)
    factory = partial(resnet, 50, classes=10, channels=3, version=2)
    states = {key: factory().state_dict() for key in (0, 1)}
    trajectory = Trajectory.from_states(factory, states)
    model = trajectory.model()
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    found = find_sites(model, "modules")
    every = max(1, len(found) // sites)
    variants = [edit_site(str(s), s, FromCheckpoint(trajectory, 0)) for s in found[::every]]

    def run() -> None:
        if way == "plain":
            with torch.no_grad():
                model(images)
        else:
            evaluate(model, (images, labels), variants, batch_size=BATCH)

    run()  # export and warm up
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    level, top = 0, 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        level += event.nbytes()
        top = max(top, level)
    weights = sum(value.nbytes for value in model.state_dict().values())
    return (top + weights) / 1e6


def main(sites: int = 12) -> None:
    found = {}
    for way in ("plain", "netopsy"):
        command = [sys.executable, __file__, "--one", way, str(sites)]
        found[way] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    lines = [
        f"ResNet-50 V2, 32x32 images, batch {BATCH}, {sites} of its modules reset one at a time; weights included.",
        "",
        "| plain forward MB | evaluate MB | ratio |",
        "|---|---|---|",
        f"| {found['plain']:.0f} | {found['netopsy']:.0f} | {found['netopsy'] / found['plain']:.2f} |",
    ]
    write("memory", "python benchmarks/bench_memory.py", lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(peak(sys.argv[2], int(sys.argv[3]))))
    else:
        main(*map(int, sys.argv[1:]))
