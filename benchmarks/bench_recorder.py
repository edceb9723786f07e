"""What recording costs the training thread: Recorder against writing each checkpoint before training goes on."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _common import write
from torch.nn.functional import cross_entropy

from netopsy._storage import write_state
from netopsy.models.resnet import resnet
from netopsy.training.recorder import Recorder


def main(checkpoints: int = 12, steps: int = 4) -> None:
    torch.set_num_threads(1)
    model = resnet(18, classes=10)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images, labels = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    seconds: dict[str, list[float]] = {"recorder": [], "direct": []}
    try:
        with Recorder(model, folder / "recorded") as recorder:
            for key in range(1, checkpoints + 1):
                for way in ("recorder", "direct"):
                    for _ in range(steps):
                        optimizer.zero_grad()
                        cross_entropy(model(images), labels).backward()
                        optimizer.step()
                    start = time.perf_counter()
                    if way == "recorder":
                        recorder.record(key)
                    else:
                        write_state(folder / "direct" / f"{key}.safetensors", model.state_dict())
                    seconds[way].append(time.perf_counter() - start)
    finally:
        shutil.rmtree(folder)
    middle = {way: 1000 * statistics.median(times) for way, times in seconds.items()}
    size = sum(value.nbytes for value in model.state_dict().values()) / 1e6
    lines = [
        f"ResNet-18, {size:.0f} MB, a checkpoint every {steps} steps: median of {checkpoints}, taken in turns.",
        "",
        "| Recorder.record ms | written before training goes on ms | ratio |",
        "|---|---|---|",
        f"| {middle['recorder']:.0f} | {middle['direct']:.0f} | {middle['direct'] / middle['recorder']:.1f} |",
    ]
    write("recorder", "python benchmarks/bench_recorder.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
