"""Early stopping on a validation split, training to a target, and the split that is held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive
from netopsy.data.dataset import corrupt_labels
from netopsy.network.trajectory import Trajectory
from netopsy.training.config import FitConfig
from netopsy.training.epoch import Row
from netopsy.training.fit import Diverged, FitResult, fit
from netopsy.training.inputs import hold_out
from netopsy.training.stopping import best_epoch, why_stop
from tests.oracles import training as oracle

CLASSES = 3


class Linear(nn.Module):
    """A linear classifier with dropout in float64, whose training differs from its evaluation."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, CLASSES, dtype=torch.float64)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(nn.functional.dropout(x.flatten(1), self.dropout, self.training))
        return out


def data(n: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=source, dtype=torch.float64), torch.arange(n) % CLASSES


def oracle_of(state: Any, given: tuple[Tensor, Tensor]) -> tuple[float, float]:
    weight, bias = state["linear.weight"].numpy(), state["linear.bias"].numpy()
    return oracle.mean_loss_and_error(weight, bias, given[0].numpy(), given[1].numpy())


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


# When to stop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(8))
def test_the_best_and_the_last_epoch_are_those_of_a_plain_counter(patience: int, seed: int) -> None:
    values = [*np.random.default_rng(seed).integers(0, 5, 12).astype(float)]
    values[seed % 3] = [float("nan"), float("inf"), 4.0][seed % 3]
    config = FitConfig(epochs=len(values), lr=0.1, patience=patience, monitor="validation_error")
    rows: list[Row] = []
    stopped = None
    while stopped is None:
        rows.append({"epoch": len(rows) + 1, "validation_loss": 0.0, "validation_error": values[len(rows)]})
        stopped = why_stop(rows, config)
    best, last = oracle.early_stopping(values, patience)
    assert (best_epoch(rows, "validation_error"), len(rows)) == (best, last)
    assert stopped == ("patience" if last - best >= patience else "epochs")


OVERFIT = FitConfig(epochs=40, batch_size=6, lr=0.3)


def run(config: FitConfig, **options: Any) -> FitResult:
    return fit(Linear, data(), config, validation=data(60, seed=1), **options)


@pytest.mark.parametrize("monitor", ["validation_loss", "validation_error"])
@pytest.mark.parametrize("patience", [1, 3, 40])
def test_the_trajectory_ends_at_the_best_epoch(tmp_path: Path, monitor: Any, patience: int) -> None:
    whole = run(OVERFIT)
    best, last = oracle.early_stopping(whole.history[monitor].tolist(), patience)
    config = replace(OVERFIT, patience=patience, monitor=monitor, keep=(0, 1, 5))
    result, disk = run(config), run(config, folder=tmp_path / "run")
    keys = sorted({0, *(key for key in (1, 5) if key < best), best})
    assert best < last
    assert list(result.states) == list(disk.states) == keys
    assert (len(result.history), result.stopped) == (last, "patience" if patience < 40 else "epochs")
    assert all(same(result.states[key], whole.states[key]) for key in keys)
    trajectory = Trajectory.from_folder(Linear, tmp_path / "run")
    assert trajectory.keys == tuple(keys)
    assert same(trajectory.state(), whole.states[best])


def test_patience_that_never_runs_out_on_a_run_that_gets_better_changes_nothing() -> None:
    config = FitConfig(epochs=5, batch_size=24, lr=0.01)
    plain, patient = (fit(Linear, data(), c, validation=data()) for c in (config, replace(config, patience=2)))
    assert list(plain.states) == list(patient.states)
    assert all(same(plain.states[key], patient.states[key]) for key in plain.states)
    assert (plain.stopped, patient.stopped) == ("epochs", "epochs")


# Targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets", [{"target_loss": 1.05}, {"target_error": 0.45}, {"target_loss": 1.02, "target_error": 0.45}]
)
def test_training_stops_at_the_first_epoch_that_fits(tmp_path: Path, targets: dict[str, float]) -> None:
    def factory() -> nn.Module:
        return Linear(dropout=0.3)

    config = FitConfig(epochs=60, batch_size=8, lr=0.05, label_noise=0.2, keep=(1,))
    labels = corrupt_labels(data()[1], 0.2, CLASSES, derive(0, "labels"))
    whole = fit(factory, data(), replace(config, keep="all"))
    measured = [oracle_of(whole.states[epoch], (data()[0], labels)) for epoch in range(1, 61)]
    wanted = (targets.get("target_loss", 9.0), targets.get("target_error", 1.0))
    first = 1 + [loss <= wanted[0] and error <= wanted[1] for loss, error in measured].index(True)
    result = fit(factory, data(), replace(config, **targets), folder=tmp_path)  # type: ignore[arg-type]
    assert 1 < first < 60
    assert (result.stopped, list(result.states)) == ("target", [0, 1, first])
    assert same(Trajectory.from_folder(result.factory, tmp_path).state(), whole.states[first])
    np.testing.assert_allclose(result.history[["fitted_loss", "fitted_error"]], measured[:first], rtol=1e-6)


def test_a_target_that_is_not_reached_is_no_error() -> None:
    result = fit(Linear, data(), FitConfig(epochs=2, lr=0.01, target_loss=0.0))
    assert (result.stopped, list(result.states), len(result.history)) == ("epochs", [0, 1, 2], 2)


# The held-out split ----------------------------------------------------------------------------------------------


def test_the_same_share_of_every_class_is_held_out() -> None:
    inputs, labels = torch.arange(100), torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    (train, train_labels), (held, held_labels) = hold_out((inputs, labels), 0.2, 3)
    assert held_labels.bincount().tolist() == [10, 6, 4]
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(100))
    assert torch.equal(labels[train], train_labels)
    assert torch.equal(labels[held], held_labels)
    assert train.tolist() == sorted(train.tolist())
    assert torch.equal(hold_out((inputs, labels), 0.2, 3)[1][0], held)
    assert not torch.equal(hold_out((inputs, labels), 0.2, 4)[1][0], held)


def test_what_is_held_out_is_validation_data_with_clean_labels() -> None:
    config = FitConfig(epochs=3, batch_size=8, lr=0.1, validation_share=0.25, label_noise=0.5, seed=2)
    result = fit(Linear, data(), config)
    train, held = hold_out(data(), 0.25, 2)
    for epoch in (1, 2, 3):
        row = result.history.iloc[epoch - 1]
        expected = oracle_of(result.states[epoch], held)
        assert (row["validation_loss"], row["validation_error"]) == (pytest.approx(expected[0]), expected[1])
    alone = fit(Linear, train, replace(config, validation_share=0.0))
    assert same(result.states[3], alone.states[3])


def test_no_validation_data_or_too_much_is_refused(tmp_path: Path) -> None:
    config = FitConfig(epochs=2, lr=0.1)
    with pytest.raises(NetopsyError, match=r"patience=3: expected validation data to watch; got none; pass"):
        fit(Linear, data(), replace(config, patience=3), folder=tmp_path)
    with pytest.raises(NetopsyError, match=r"validation: expected None with a validation_share.*=0.5; drop one"):
        fit(Linear, data(), replace(config, validation_share=0.5), validation=data(), folder=tmp_path)
    with pytest.raises(NetopsyError, match=r"validation_share=0.01: expected examples .* it holds out 0 of 24"):
        fit(Linear, data(), replace(config, validation_share=0.01), folder=tmp_path)
    with pytest.raises(NetopsyError, match=r"validation_share=0.99: expected examples .* it holds out 24 of 24"):
        fit(Linear, data(), replace(config, validation_share=0.99), folder=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_run_that_diverges_says_so_by_its_type() -> None:
    with pytest.raises(Diverged, match=r"epoch 1: expected a finite loss and finite weights; .* lower the lr"):
        fit(Linear, (data()[0] * 1e200, data()[1]), FitConfig(epochs=2, lr=1e200))
