"""A pass that is broken off goes on as if nothing had happened; a file of other work is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine import saved as saved_module
from netopsy.engine.edits import AddNoise, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Evaluation, Stopping
from netopsy.engine.saved import delete_saved, read_saved, write_saved
from netopsy.engine.sequential import ConfidenceSequence
from netopsy.network.sites import find_sites
from tests.test_engine_evaluate import LEVELS, METRICS, Tagger, linear, separable

X, Y = separable(230)
BATCH = 40
BATCHES = 6


def same(a: Any, b: Any) -> None:
    """Equal in every bit, but for the seconds."""
    for field in fields(Evaluation):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if field.name == "provenance":
            mine, other = dict(mine, seconds=0), dict(other, seconds=0)
            assert mine == other
        elif isinstance(mine, dict):
            assert mine.keys() == other.keys()
            for name in mine:
                np.testing.assert_array_equal(mine[name], other[name])
        else:
            np.testing.assert_array_equal(mine, other)


class Interruption(BaseException):
    pass


def at(batches: int, kind: type[BaseException] = KeyboardInterrupt) -> Callable[[int, int | None], None]:
    """Interrupts after so many calls."""
    calls = [0]

    def progress(done: int, total: int | None) -> None:
        calls[0] += 1
        if calls[0] == batches:
            raise kind

    return progress


class InOrder:
    """Batches of several lengths that are read as they come."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def sentences() -> tuple[nn.Module, Any, list[Variant]]:
    """Some positions do not count; the lengths differ from batch to batch."""
    with forked(3):
        model = Tagger().eval()
        data = [(torch.randint(0, 12, (20, n)), torch.randint(0, 4, (20, n))) for n in (6, 4, 6, 5, 6)]
    for _, y in data:
        y[::4, 3:] = -100
    site = next(s for s in find_sites(model) if s.name == "f")
    return model, InOrder([*data, (data[0][0][:1], data[0][1][:1])]), [edit_site("v", site, AddNoise(1.0, 4))]


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Any, list[Variant]]], dict[str, Any]]] = {
    f"{rule}, {estimand}, {engine}": (
        lambda: (linear(), (X, Y), LEVELS),
        {
            "stop": Stopping(rule=rule, estimand=estimand, precision=0.25, tolerance=0.2),
            "engine": engine,
            "batch_size": BATCH,
            "examples": METRICS,
        },
    )
    for rule in ("exact", "precision", "verdict")
    for estimand in ("population", "dataset")
    for engine in ("eager", "exported")
}  # type: ignore[misc]
CASES["positions, eager"] = (sentences, {"engine": "eager", "examples": ("loss",)})
CASES["positions, auto"] = (sentences, {"engine": "auto", "examples": ("loss",)})
CASES["positions, dataset"] = (sentences, {"engine": "eager", "stop": Stopping(estimand="dataset")})


@pytest.mark.parametrize("case", CASES)
def test_a_pass_that_is_broken_off_at_every_batch_goes_on_bit_for_bit(case: str, tmp_path: Path) -> None:
    make, options = CASES[case]
    model, data, variants = make()
    run = {"metrics": METRICS, **options}
    told: list[int] = []
    whole = evaluate(model, data, variants, progress=lambda done, _: told.append(done), **run)
    if options.get("stop") and options["stop"].rule != "exact":
        assert len(set(whole.n.tolist())) > 1, "rows should stop at different times"
    for batch in range(1, len(told) + 1):
        path = tmp_path / f"{batch}.npz"
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, data, variants, saved=path, progress=at(batch), **run)
        assert read_saved(path)[0]["sizes"].sum() == told[batch - 1]
        again = []
        same(evaluate(model, data, variants, saved=path, progress=lambda *done: again.append(done[0]), **run), whole)  # noqa: B023
        assert again == told[batch - 1 :]
    assert not list(tmp_path.iterdir())


def test_a_pass_may_be_broken_off_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "pass.npz"
    run: dict[str, Any] = {"engine": "eager", "batch_size": BATCH, "stop": "precision"}
    whole = evaluate(linear(), (X, Y), LEVELS, **run)
    with pytest.raises(Interruption):
        evaluate(linear(), (X, Y), LEVELS, saved=path, progress=at(1, Interruption), **run)
    for _ in range(BATCHES - 1):
        with pytest.raises(Interruption):
            evaluate(linear(), (X, Y), LEVELS, saved=path, progress=at(2, Interruption), **run)
    same(evaluate(linear(), (X, Y), LEVELS, saved=path, **run), whole)


def test_an_interruption_within_a_batch_keeps_what_was_whole(tmp_path: Path) -> None:
    path, calls = tmp_path / "pass.npz", [0]

    def metric(logits: Tensor, targets: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 11:  # four of them in each batch: within the third
            raise KeyboardInterrupt
        return targets.float()

    run: dict[str, Any] = {"engine": "eager", "batch_size": BATCH, "metrics": ("error", metric)}
    with pytest.raises(KeyboardInterrupt):
        evaluate(linear(), (X, Y), LEVELS, saved=path, **run)
    assert read_saved(path)[0]["sizes"].tolist() == [BATCH, BATCH]
    same(evaluate(linear(), (X, Y), LEVELS, saved=path, **run), evaluate(linear(), (X, Y), LEVELS, **run))


def test_decided_rows_are_not_run_again(tmp_path: Path) -> None:
    path, seen = tmp_path / "pass.npz", []
    stop = Stopping(rule="precision", precision=0.25)

    def metric(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(targets))
        return targets.float()

    run: dict[str, Any] = {"engine": "eager", "batch_size": 20, "metrics": (metric,), "stop": stop}
    whole = evaluate(linear(), (X, Y), LEVELS, **run)
    undisturbed, batches = len(seen), whole.n[[0, 1, 3]] // 20
    last = max(batches) - 1
    assert min(batches) < last, "a row should be decided before the interruption"
    with pytest.raises(KeyboardInterrupt):
        evaluate(linear(), (X, Y), LEVELS, saved=path, progress=at(last), **run)
    seen.clear()
    same(evaluate(linear(), (X, Y), LEVELS, saved=path, **run), whole)
    before = last + sum(min(last, n) for n in batches)  # the baseline and the rows; then the first batch again
    assert len(seen) == undisturbed - before + 4


def test_it_is_written_between_batches_no_more_often_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, there = tmp_path / "pass.npz", []
    run: dict[str, Any] = {"engine": "eager", "batch_size": BATCH, "saved": path}
    evaluate(linear(), (X, Y), LEVELS, progress=lambda *_: there.append(path.exists()), **run)
    assert there == [False] * BATCHES
    monkeypatch.setattr(saved_module, "SECONDS", 0)
    there.clear()
    evaluate(linear(), (X, Y), LEVELS, progress=lambda *_: there.append(path.exists()), **run)
    assert there == [False, *[True] * (BATCHES - 1)]
    assert not path.exists()


def test_a_finished_pass_can_be_kept(tmp_path: Path) -> None:
    path, told = tmp_path / "pass.npz", []
    model, data, variants = sentences()
    run: dict[str, Any] = {"engine": "auto", "saved": path, "keep_saved": True, "examples": ("loss",)}
    whole = evaluate(model, data, variants, **run)
    before = path.read_bytes()
    same(evaluate(model, data, variants, progress=lambda done, _: told.append(done), **run), whole)
    assert told == [101]
    assert path.read_bytes() == before


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from netopsy.engine import saved
from netopsy.engine.evaluate import evaluate
from tests.test_engine_evaluate import LEVELS, linear, separable
saved.SECONDS = 0
def kill(done, total):
    if done >= 160:
        os.kill(os.getpid(), signal.SIGKILL)
evaluate(linear(), separable(230), LEVELS, engine="eager", batch_size=40, saved=Path(sys.argv[1]), progress=kill)
"""


def test_a_process_that_is_killed_goes_on_in_another(tmp_path: Path) -> None:
    path = tmp_path / "pass.npz"
    command = [sys.executable, "-c", KILLED, str(path)]
    root = Path(__file__).parent.parent
    assert subprocess.run(command, cwd=root, check=False).returncode == -9
    assert read_saved(path)[0]["sizes"].tolist() == [40, 40, 40]
    (tmp_path / f".{path.name}.{'0' * 16}").touch()  # as if it had been killed while writing
    run: dict[str, Any] = {"engine": "eager", "batch_size": BATCH}
    same(evaluate(linear(), (X, Y), LEVELS, saved=path, **run), evaluate(linear(), (X, Y), LEVELS, **run))
    assert not list(tmp_path.iterdir())


def scaled(factor: float) -> nn.Module:
    model = linear()
    with torch.no_grad():
        model[0].weight.mul_(factor)
    return model


OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": ("results on the first batch", {"model": scaled(1.0000002)}),
    "labels": ("labels, silent rows differ", {"variants": LEVELS[::-1]}),
    "edits": ("results on the first batch", {"variants": [Variant(LEVELS[0].label, LEVELS[1].edits), *LEVELS[1:]]}),
    "data": ("data differ", {"data": (X, (Y + 1) % 3)}),
    "number of examples": ("data, total differ", {"data": (X[:-1], Y[:-1])}),
    "rule": ("stopping rule differ", {"stop": "verdict"}),
    "metrics": ("metrics differ", {"metrics": ("error",)}),
    "examples": ("examples differ", {"examples": ("loss",)}),
    "seed": ("seed differ", {"seed": 1}),
    "batch size": ("batch sizes differ", {"batch_size": 39}),
    "engine": ("engine differ", {"engine": "exported"}),
}


@pytest.mark.parametrize("what", OTHER)
def test_a_file_of_other_work_is_refused_and_left(what: str, tmp_path: Path) -> None:
    path = tmp_path / "pass.npz"
    asked: dict[str, Any] = {"engine": "eager", "batch_size": BATCH, "saved": path}
    with pytest.raises(KeyboardInterrupt):
        evaluate(linear(), (X, Y), LEVELS, progress=at(2), **asked)
    before = path.read_bytes()
    message, change = OTHER[what]
    full = {"model": linear(), "data": (X, Y), "variants": LEVELS, **asked, **change}
    with pytest.raises(NetopsyError, match=rf"other work has come: .*{message}.*delete .*pass\.npz to start again"):
        evaluate(**full)
    assert path.read_bytes() == before


def test_later_batches_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pass.npz"
    run: dict[str, Any] = {"engine": "eager", "saved": path}
    parts = [slice(0, 80), slice(80, 150), slice(150, 230)]
    with pytest.raises(KeyboardInterrupt):
        evaluate(linear(), InOrder([(X[p], Y[p]) for p in parts]), LEVELS, progress=at(2), **run)
    for other, message in ([parts[0], slice(80, 140)], "in batch 1"), ([parts[0]], "the number of batches"):
        with pytest.raises(NetopsyError, match=message):
            evaluate(linear(), InOrder([(X[p], Y[p]) for p in other]), LEVELS, **run)


def test_damaged_and_newer_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pass.npz"
    run: dict[str, Any] = {"engine": "eager", "batch_size": BATCH, "saved": path}
    with pytest.raises(KeyboardInterrupt):
        evaluate(linear(), (X, Y), LEVELS, progress=at(2), **run)
    arrays, header = read_saved(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(NetopsyError, match=r"cannot be read .*; delete .*pass\.npz to start again"):
            evaluate(linear(), (X, Y), LEVELS, **run)
    lost = {name: value for name, value in arrays.items() if name != "paired"}
    for part in (lost, {**arrays, "active": arrays["active"][:-1]}, {**arrays, "sequence.n": arrays["positions"]}):
        write_saved(path, part, header)
        with pytest.raises(NetopsyError, match=r"cannot be read .*; delete .*pass\.npz to start again"):
            evaluate(linear(), (X, Y), LEVELS, **run)
    write_saved(path, arrays, {**header, "schema": 99})
    with pytest.raises(NetopsyError, match="written with schema 99, this netopsy reads up to 1; upgrade netopsy"):
        evaluate(linear(), (X, Y), LEVELS, **run)
    np.savez(path, header=np.array(json.dumps({})))
    with pytest.raises(NetopsyError, match="it has no schema version"):
        read_saved(path)
    np.savez(path, header=np.array([object()], dtype=object))  # a pickle is never opened
    with pytest.raises(NetopsyError, match=r"cannot be read \(ValueError: Object arrays cannot be loaded"):
        read_saved(path)
    delete_saved(path)
    delete_saved(path)


def test_a_confidence_sequence_goes_on_from_its_arrays() -> None:
    batches = np.random.default_rng(0).multinomial(20, (0.1, 0.7, 0.2), size=(6, 2))
    rows = np.arange(2)
    for total in (None, 200):
        whole = ConfidenceSequence(2, confidence=0.9, total=total)
        part = ConfidenceSequence(2, confidence=0.9, total=total)
        for i, counts in enumerate(batches):
            whole.update(rows, counts)
            if i < 3:
                part.update(rows, counts)
        half = part.arrays()
        other = ConfidenceSequence(2, confidence=0.9, total=total).restored(half)
        for counts in batches[3:]:
            other.update(rows, counts)
        for name, value in whole.arrays().items():
            np.testing.assert_array_equal(other.arrays()[name], value)
            np.testing.assert_array_equal(part.arrays()[name], half[name])
        with pytest.raises(ValueError, match="n: expected int64 of shape"):
            ConfidenceSequence(3, confidence=0.9).restored(half)
