"""`stop="precision"` and `stop="verdict"` against the naive loop over all examples, on a trained FCN.

Needs the runs of `netopsy study layers --claims F1a` (checkpoints 0, 1, 2, 3, 8, 40, 90, 100 of FCN 3x256 on
Fashion-MNIST) and the data set. The naive loop copies the state and runs the whole network for each edit and example.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _common import naive, write

from netopsy.data.dataset import standardize
from netopsy.data.idx import fashion_mnist
from netopsy.engine.edits import FromCheckpoint, Redraw, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Stopping
from netopsy.models.fcn import fcn
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory

RUN = Path("runs/layers/fcn-3x256-fashion-mnist-0")


def main(repeats: int = 3) -> None:
    if not RUN.is_dir():
        print(f"{RUN} is not there: run `netopsy study layers --claims F1a` first")
        return
    torch.set_num_threads(1)
    trajectory = Trajectory.from_folder(partial(fcn, inputs=(1, 28, 28), classes=10), RUN)
    model, data = trajectory.model(), standardize(fashion_mnist())
    sites = find_sites(model)
    keys = [key for key in trajectory.keys if key != trajectory.final]
    edits = [(site, key) for site in sites for key in keys]
    variants = [edit_site(f"{s} to {k}", s, FromCheckpoint(trajectory, k)) for s, k in edits]
    redrawer = Redrawer.of(trajectory)
    variants += [edit_site(f"{s} redrawn", s, Redraw(redrawer, 1)) for s in sites]
    for site in sites:  # the naive loop's copy of a redrawn layer costs what any other copy costs
        edits.append((site, trajectory.keys[0]))
    lines = [
        f"{len(variants)} variants: 4 layers x (checkpoints {', '.join(map(str, keys))} and one fresh draw).",
        "Confidence 0.99 for all rows at once, precision 0.02, tolerance 0.05, batches of 256; `examples` is the",
        "mean over rows; a miss is an interval without the full data set's value.",
        "",
        "| data | estimand | stop | naive s | ours s | ratio | examples | undecided at the end | misses |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, split in (("test, 10,000", data.test), ("train, 60,000", data.train)):
        exact = evaluate(model, split, variants, metrics=("error",), batch_size=1000)
        for estimand in ("dataset", "population"):
            for rule in ("precision", "verdict"):
                stop = Stopping(rule=rule, estimand=estimand)  # type: ignore[arg-type]
                ratios, slow, fast = [], [], []
                for _ in range(repeats):
                    start = time.perf_counter()
                    naive(model, trajectory, edits, *split, 1000)
                    slow.append(time.perf_counter() - start)
                    start = time.perf_counter()
                    result = evaluate(model, split, variants, metrics=("error",), stop=stop)
                    fast.append(time.perf_counter() - start)
                    ratios.append(slow[-1] / fast[-1])
                low, high = result.delta_error_low, result.delta_error_high
                undecided = {
                    "precision": (high - low) / 2 > 0.02,
                    "verdict": (low <= 0.05) & (high > 0.05),
                }[rule]
                missed = int(((exact.delta_error < low) | (exact.delta_error > high)).sum())
                lines.append(
                    f"| {name} | {estimand} | {rule} | {min(slow):.2f} | {min(fast):.2f} | "
                    f"{statistics.median(ratios):.1f} | {np.mean(result.n):.0f} | {undecided.sum()} | {missed} |"
                )
                print(lines[-1], flush=True)
    write("early_stopping", "python benchmarks/bench_early_stopping.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
