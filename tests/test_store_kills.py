"""Processes killed at random moments: what they leave is completed to the bits of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from netopsy.store.keyed import keyed_map
from tests.sweeps_for_tests import Point, train

KILLS = int(os.environ.get("NETOPSY_TEST_KILLS", "2"))
"""Half of them hit the driver, half a worker."""

DRIVER = """
import sys
from pathlib import Path
from tests.sweeps_for_tests import Point, train
from netopsy.store.keyed import keyed_map

if __name__ == "__main__":
    configs = [Point(number=n, seed=n) for n in range(int(sys.argv[2]))]
    keyed_map(train, configs, folder=Path(sys.argv[1]), jobs=2, attempts=5)
"""


def start(folder: Path, tasks: int) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, folder, str(tasks)],
        env={**os.environ, "PYTHONPATH": root},
        cwd=root,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def workers(driver: int) -> list[int]:
    """Children that run tasks: those that load torch, unlike the tracker of resources."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            loaded = int(parent) == driver and state != "Z" and "libtorch" in path.with_name("maps").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if loaded:
            found.append(int(path.parent.name))
    return sorted(found)


def progress_of(folder: Path) -> tuple[int, int]:
    """Runs begun and results written."""
    return len(list(folder.glob("runs/*/manifest.json"))), len(list(folder.glob("*/*.parquet")))


def checkpoints(folder: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Header and tensors of every file; the order of a header's metadata is a hash map's, another in each process."""
    found = {}
    for path in sorted((folder / "runs").glob("*/checkpoints/*")):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        found[path.relative_to(folder).as_posix()] = json.loads(content[8:start]), content[start:]
    return found


def test_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    tasks = 6 + 5 * KILLS
    configs = [Point(number=number, seed=number) for number in range(tasks)]
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    expected = keyed_map(train, configs, folder=undisturbed).drop(columns="seconds")
    source = random.Random(0)
    targets = ["driver", "worker"] * (KILLS // 2)
    source.shuffle(targets)
    hits = {"driver": 0, "worker": 0}
    driver = start(disturbed, tasks)
    try:
        for target in targets:
            if driver.poll() is not None:
                driver = start(disturbed, tasks)
            before = progress_of(disturbed)
            while progress_of(disturbed) == before or not workers(driver.pid):
                assert driver.poll() is None, f"the sweep ended after {hits}; give it more tasks"
                time.sleep(0.02)
            time.sleep(source.uniform(0.0, 0.5))
            victims = [driver.pid] if target == "driver" else workers(driver.pid)
            while not victims:  # a new pool is on its way
                assert driver.poll() is None, f"the sweep ended after {hits}; give it more tasks"
                victims = workers(driver.pid)
            os.kill(source.choice(victims), signal.SIGKILL)
            hits[target] += 1
            if target == "driver":
                driver.wait()
        assert (driver if driver.poll() is None else start(disturbed, tasks)).wait(600) == 0
    finally:
        driver.kill()
        driver.wait()
    assert hits == {"driver": KILLS // 2, "worker": KILLS // 2}
    print(f"{hits} of {KILLS} kills in {tasks} tasks")
    found = keyed_map(train, configs, folder=disturbed).drop(columns="seconds")
    assert found.status.tolist() == ["ok"] * tasks
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert checkpoints(disturbed) == checkpoints(undisturbed)
    assert len(checkpoints(disturbed)) == 4 * tasks
    assert [path for path in disturbed.glob("[rp]*/.*") if path.suffix != ".lock"] == []
