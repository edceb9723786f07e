"""A map whose work is never done twice: rows, failures, processes, locks, full disks, interruptions."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from netopsy import _storage
from netopsy._checks import NetopsyError
from netopsy.store import keyed, worker
from netopsy.store.keyed import Progress, flat, keyed_map, tasks_of
from netopsy.store.results import load_results, statuses
from netopsy.store.worker import DiskFull, Work
from tests.sweeps_for_tests import Inner, Point, big, calls, failing, measure, shapes, slow, suicidal


def points(count: int, **fields: Any) -> list[Point]:
    return [Point(number=number, **fields) for number in range(count)]


def test_rows_come_in_the_order_of_the_configurations_and_work_is_done_once(tmp_path: Path) -> None:
    seen: list[Progress] = []
    first = keyed_map(measure, points(3), folder=tmp_path, progress=seen.append)
    assert first.number.tolist() == [0, 1, 2]
    assert [(step.done, step.failed, step.total) for step in seen] == [(0, 0, 3), (1, 0, 3), (2, 0, 3), (3, 0, 3)]
    assert seen[0].left is None
    assert seen[-1].left == 0
    again = keyed_map(measure, [*points(5)[::-1], Point(number=3)], folder=tmp_path)
    assert again.number.tolist() == [4, 3, 2, 1, 0]
    assert calls(tmp_path) == 5
    pd.testing.assert_frame_equal(again.iloc[:1:-1].reset_index(drop=True), first)
    expected = [float(torch.randn(20_000, generator=torch.Generator().manual_seed(n)).mean()) for n in range(3)]
    assert first["mean"].tolist() == expected
    assert set(first) == {
        *("key", "point", "status", "seconds", "code", "netopsy", "torch"),
        *("number", "kind", "seed", "inner.lr", "inner.depth", "mean", "threads"),
    }


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    one = keyed_map(measure, points(40), folder=tmp_path / "one", threads=2)
    assert torch.get_num_threads() == threads
    two = keyed_map(measure, points(40), folder=tmp_path / "two", threads=2, jobs=2)
    assert set(one.threads) == {2}
    assert calls(tmp_path / "two") == 40
    lines = [path.read_text().split("\0") for path in Path("/proc/self/task").glob("*/children")]
    children = [Path(f"/proc/{pid}/cmdline") for line in lines for pid in " ".join(line).split()]
    assert not [path for path in children if path.exists() and "popen_loky" in path.read_text()]
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), check_exact=True)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("none", [{}]),
        ("mapping", [{"error": 0.5, "steps": 3}]),
        ("list", [{"unit": 0, "error": 0.5}, {"unit": 1, "error": None}]),
        ("frame", [{"unit": 0, "error": 0.5}, {"unit": 1, "error": 0.25}, {"unit": 2, "error": None}]),
        ("empty", [{}]),
    ],
)
def test_what_a_measurement_may_return(tmp_path: Path, kind: str, rows: list[dict[str, object]]) -> None:
    keyed_map(shapes, [Point(kind=kind)], folder=tmp_path)
    table = pq.read_table(tmp_path / "results").to_pylist()
    names = {name for row in rows for name in row}
    assert [{name: row[name] for name in names} for row in table] == rows
    assert {row["status"] for row in table} == {"ok"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("number", "measure: expected a mapping, a list of mappings or a DataFrame; it returned float"),
        ("clash", "measure: the name 'inner.lr' is taken by a column that every row has; rename it"),
        ("mixed", "measure: expected columns of one type each"),
    ],
)
def test_a_measurement_that_is_no_row_is_a_failure(tmp_path: Path, kind: str, reason: str) -> None:
    row = keyed_map(shapes, [Point(kind=kind)], folder=tmp_path).iloc[0]
    assert row.status == "exception"
    assert row.reason.startswith(f"NetopsyError: {reason}")


def test_failures_are_rows_and_stop_nothing(tmp_path: Path) -> None:
    configs = [Point(kind=kind) for kind in ("diverged", "memory", "allocate", "key", "plain")]
    frame = keyed_map(failing, configs, folder=tmp_path)
    assert frame.status.tolist() == ["diverged", "out of memory", "out of memory", "exception", "ok"]
    assert frame.reason[0].startswith("Diverged: the loss is not finite (sweeps_for_tests.py:")
    assert frame.reason[3].startswith("KeyError: 'no such layer' (sweeps_for_tests.py:")
    assert "failing)" in frame.reason[3]
    assert frame.error.tolist()[4] == 0.5
    (tmp_path / "runs" / "mended").touch()
    keyed_map(failing, configs, folder=tmp_path)
    assert calls(tmp_path) == 5
    mended = keyed_map(failing, configs, folder=tmp_path, retry=True)
    assert calls(tmp_path) == 9
    assert mended.status.tolist() == ["ok"] * 5
    assert "reason" not in mended


def test_a_task_that_kills_its_process_takes_nothing_with_it(tmp_path: Path) -> None:
    configs = [Point(number=number, kind="dies" if number == 1 else "plain") for number in range(3)]
    seen: list[Progress] = []
    frame = keyed_map(suicidal, configs, folder=tmp_path, jobs=2, attempts=1, progress=seen.append)
    assert frame.status.tolist() == ["ok", "killed", "ok"]
    assert frame.reason[1] == "its process died 2 times, 1 of them with no other task beside it"
    assert frame.square.dropna().tolist() == [0, 4]
    assert (seen[-1].done, seen[-1].failed) == (3, 1)


def test_results_are_found_under_the_same_code_and_replaced_by_those_of_other_code(tmp_path: Path) -> None:
    keyed_map(measure, points(2), folder=tmp_path, code="1")
    keyed_map(measure, points(2), folder=tmp_path, code="1")
    assert calls(tmp_path) == 2
    keyed_map(measure, points(2), folder=tmp_path, code="2")
    assert calls(tmp_path) == 4
    assert load_results(tmp_path).code.tolist() == ["2", "2"]


def test_a_process_that_has_loaded_other_code_does_no_work_under_the_old_key(tmp_path: Path) -> None:
    tasks = tasks_of(measure, points(1))
    stale = Work(measure, tmp_path, tmp_path / "runs", 1, {"code": "0" * 16}, True)
    with pytest.raises(NetopsyError, match="the code has changed since this work was started; what is finished"):
        stale.run(tasks)
    assert not (tmp_path / "pending").exists()
    named = Work(measure, tmp_path, tmp_path / "runs", 1, {"code": "mine"}, False)
    assert named.run(tasks) == [(tasks[0].key, "ok")]


def test_functions_in_a_configuration_count_by_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"factory": slow}
    before = [task.key for task in tasks_of(measure, [config])]
    named = [task.key for task in tasks_of(measure, [config], code="1")]
    monkeypatch.setattr(keyed, "code_version", lambda function: "new" if function is slow else "old")
    one = [task.key for task in tasks_of(measure, [config])]
    monkeypatch.setattr(keyed, "code_version", lambda function: "old")
    assert len({*before, *named, *one, *(task.key for task in tasks_of(measure, [config]))}) == 4
    assert [task.key for task in tasks_of(measure, [config], code="1")] == named


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"jobs": 0}, "jobs: expected an integer >= 1; got 0"),
        ({"threads": 0}, "threads: expected an integer >= 1; got 0"),
        ({"attempts": 0}, "attempts: expected an integer >= 1; got 0"),
        ({"configs": []}, "configs: expected at least one configuration; got none"),
        ({"function": lambda config, runs: None}, "that a module holds under its name"),
        ({"configs": [object()]}, "got object, which cannot be told from another"),
        ({"configs": [{"status": 1}]}, "column 'status' of .*: the name is taken by another column"),
        ({"labels": lambda config: {"number": 1}}, "column 'number' of Point.*: the name is taken by another column"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(tmp_path: Path, kwargs: dict[str, Any], match: str) -> None:
    function = kwargs.pop("function", measure)
    with pytest.raises(NetopsyError, match=match):
        keyed_map(function, kwargs.pop("configs", points(1)), folder=tmp_path / "new", **kwargs)
    assert not (tmp_path / "new").exists()


def test_a_configuration_as_columns() -> None:
    found = flat(
        {"point": Point(inner=Inner(lr=0.5)), "call": measure, "path": Path("x"), "keep": (0, 1), "no": None}
    )
    assert found["point.inner.lr"] == 0.5
    assert found["call"] == "tests.sweeps_for_tests:measure"
    assert (found["path"], found["keep"], found["no"]) == ("x", "[0, 1]", None)
    assert flat(3) == {"config": 3}


DRIVER = """
import signal, sys, time
from pathlib import Path
import tests.sweeps_for_tests as sweeps
from netopsy.store.keyed import keyed_map

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it to be ignored
    function, count, jobs = getattr(sweeps, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    try:
        keyed_map(function, [sweeps.Point(number=n) for n in range(count)], folder=Path(sys.argv[1]), jobs=jobs)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a map in a process with a session of its own, which is ended after the test whatever happened."""
    (tmp_path / "driver.py").write_text(DRIVER)
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, function: str, count: int, jobs: int) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, tmp_path / "driver.py", folder, function, str(count), str(jobs)],
            env={**os.environ, "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_a_folder_has_one_writer(tmp_path: Path, driver: Callable[..., Any]) -> None:
    folder = tmp_path / "results"
    driver(folder, "sleep_at_two", 3, 1)
    wait_for(lambda: calls(folder) == 3)
    with pytest.raises(
        NetopsyError, match="another process is writing results there; wait for it, or choose another"
    ):
        keyed_map(measure, points(1), folder=folder)


@pytest.mark.parametrize(("whole_group", "jobs"), [(True, 1), (True, 2), (False, 2)])  # one process is its group
def test_an_interruption_ends_it_at_once_and_leaves_what_is_done(
    tmp_path: Path, driver: Callable[..., Any], jobs: int, whole_group: bool
) -> None:
    folder = tmp_path / "results"
    process = driver(folder, "sleep_at_two", 5, jobs)
    wait_for(lambda: calls(folder) >= 2 + jobs)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    wait_for(lambda: not session(process.pid), 5)
    assert sorted(load_results(folder).square) == [0, 1]
    assert not list((folder / "pending").iterdir())


class Full:
    """A disk that is full from the n-th write on."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, path: Path, write: Callable[[Path], object]) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        _storage.write_atomic(path, write)


@pytest.mark.parametrize("after", range(6))
def test_a_full_disk_stops_the_map_and_more_room_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(worker, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(keyed, "MERGE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("netopsy.store.results.write_atomic", Full(after))
        with pytest.raises(DiskFull, match=r"no room left .*; free some space and run again"):
            keyed_map(measure, points(4), folder=tmp_path)
    done = len(statuses(tmp_path))
    assert (after + 1) // 2 <= done <= after + 1
    frame = keyed_map(measure, points(4), folder=tmp_path)
    assert frame.number.tolist() == [0, 1, 2, 3]
    assert not frame.key.duplicated().any()
    assert calls(tmp_path) <= 5  # what was measured but not written is measured again


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount command")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_really_full_disk_is_told_and_more_room_completes_the_map(
    tmp_path: Path, small_disk: Path, driver: Callable[..., Any], jobs: int
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    process = driver(small_disk / "map", "big", 3, jobs)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "DiskFull" in errors
    assert "free some space and run again" in errors
    ballast.unlink()
    found = keyed_map(big, points(3), folder=small_disk / "map")
    expected = keyed_map(big, points(3), folder=tmp_path / "undisturbed")
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)
