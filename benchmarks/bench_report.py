"""What a page costs: seconds to make it, in a process that has made one and in a new one, and its size."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _common import write

from netopsy.report.run import write_report
from tests.made import deep

NEW = """
import sys, time
start = time.perf_counter()
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.run import write_report
ready = time.perf_counter()
write_report(RobustnessResult.load(sys.argv[1]), sys.argv[2])
print(ready - start, time.perf_counter() - ready)
"""
"""A process that imports, reads a saved result and writes the page: seconds of the first, and of the other two."""


def main(repeats: int = 5) -> None:
    torch.set_num_threads(1)
    lines = [
        "Seconds to write the report of a robustness result of made-up numbers: nine columns, five draws, intervals, "
        f"four groups and the full model. Median of {repeats}; importing counted apart.",
        "",
        "| layers | rows of the result | once more | in a new process, read from disk | its imports | page, MB |",
        "|---|---|---|---|---|---|",
    ]
    for layers in (12, 40, 60, 150, 10_000):
        result = deep(layers)
        with tempfile.TemporaryDirectory() as folder:
            saved, page = result.save(Path(folder) / "result"), Path(folder) / "report.html"
            again, new, imports = [], [], []
            write_report(result, page)
            for _ in range(repeats):
                start = time.perf_counter()
                write_report(result, page)
                again.append(time.perf_counter() - start)
                told = subprocess.run(
                    [sys.executable, "-c", NEW, str(saved), str(page)], check=True, capture_output=True, text=True
                )
                importing, writing = map(float, told.stdout.split())
                imports.append(importing)
                new.append(writing)
            size = page.stat().st_size / 1e6
        seconds = " | ".join(f"{statistics.median(values):.2f}" for values in (again, new, imports))
        lines.append(f"| {layers:,} | {len(result.frame):,} | {seconds} | {size:.2f} |")
    write("report", "python benchmarks/bench_report.py", lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
