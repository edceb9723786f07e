"""The catalogue of runs: each is trained once, whoever wants it, and found ever after."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from netopsy._checks import NetopsyError
from netopsy.data.digits import digits
from netopsy.models.fcn import fcn
from netopsy.store.runs import list_runs, trained
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult

FACTORY = partial(fcn, inputs=(1, 8, 8), classes=10, depth=1, width=8)


def run(catalogue: Path, epochs: int = 3, stop: int | None = None, **config: Any) -> FitResult:
    """Train; a file is left for every epoch."""
    images, labels = digits().train

    def note(epoch: int, *_: object) -> None:
        catalogue.mkdir(exist_ok=True)
        (catalogue / f"epoch-{epoch}-{os.getpid()}").touch()
        if epoch == stop:
            raise KeyboardInterrupt

    recipe = FitConfig(epochs=epochs, lr=0.1, keep="all", **config)
    return trained(FACTORY, (images[:200], labels[:200]), recipe, catalogue=catalogue, progress=note)


def epochs(catalogue: Path) -> int:
    return len(list(catalogue.glob("epoch-*")))


def states(result: FitResult) -> dict[int, bytes]:
    """The tensors' bytes; a header's metadata is written in another order each time."""
    contents = {key: path.read_bytes() for key, path in result.states.items() if isinstance(path, Path)}
    return {key: text[8 + int.from_bytes(text[:8], "little") :] for key, text in contents.items()}


def test_a_run_is_trained_once(tmp_path: Path) -> None:
    one = run(tmp_path)
    assert epochs(tmp_path) == 3
    two = run(tmp_path)
    assert epochs(tmp_path) == 3
    assert states(one) == states(two)
    assert sorted(states(one)) == [0, 1, 2, 3]
    run(tmp_path, seed=1)
    assert len(list_runs(tmp_path)) == 2


def test_other_data_is_another_run(tmp_path: Path) -> None:
    images, labels = digits().train
    config = FitConfig(epochs=1, lr=0.1)
    first = trained(FACTORY, (images[:100], labels[:100]), config, catalogue=tmp_path)
    other = trained(FACTORY, (images[100:200], labels[100:200]), config, catalogue=tmp_path)
    both = trained(
        FACTORY, (images[:100], labels[:100]), config, catalogue=tmp_path, validation=(images[:9], labels[:9])
    )
    assert len({result.states[0] for result in (first, other, both)}) == 3


def _in_another_process(catalogue: Path) -> None:
    torch.set_num_threads(1)
    run(catalogue, epochs=6)


def test_two_processes_that_want_one_run_train_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_in_another_process, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    assert epochs(tmp_path) == 6


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netopsy.training.resume.SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "catalogue", epochs=5, stop=3)
    row = list_runs(tmp_path / "catalogue").iloc[0]
    assert not row.finished
    for path in (tmp_path / "catalogue").glob("epoch-*"):
        path.unlink()
    result = run(tmp_path / "catalogue", epochs=5)
    assert 2 <= epochs(tmp_path / "catalogue") <= 3
    assert states(result) == states(run(tmp_path / "undisturbed", epochs=5))


def test_the_list_of_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nowhere").empty
    (tmp_path / "deep").mkdir()
    run(tmp_path / "deep" / "one", epochs=2, seed=4)
    row = list_runs(tmp_path).iloc[0]
    assert row.path.startswith("deep/one/")
    assert (row.finished, row.epochs_done, row.seed, row.lr) == (True, 2, 4, 0.1)
    assert row.megabytes > 0
    assert row.model.endswith("FCN") or "." in row.model


def test_a_factory_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match="that a module holds under its name"):
        trained(lambda: FACTORY(), digits().train, FitConfig(epochs=1, lr=0.1), catalogue=tmp_path)
    assert not list(tmp_path.iterdir())
