"""Training against loops written by hand, its checkpoints, its determinism and its failures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked
from netopsy.data.dataset import corrupt_labels, fingerprint
from netopsy.training import history as histories
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, fit
from tests.oracles import training as oracle

CLASSES = 3


def data(n: int = 20, shape: tuple[int, ...] = (4,), seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=source, dtype=torch.float64), torch.arange(n) % CLASSES


class Recording(nn.Module):
    """A linear classifier in float64 that remembers the batches it was trained on."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(features, CLASSES, dtype=torch.float64)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.clone())
        out: Tensor = self.linear(x.flatten(1))
        return out


class Noisy(nn.Module):
    """Batch norm, dropout and numpy's own noise: everything that could leak out of, or into, a run."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES)).double()

    def forward(self, x: Tensor) -> Tensor:
        noise = float(np.random.standard_normal()) + random.random() if self.training else 0.0  # noqa: NPY002
        out: Tensor = self.net(x + noise)
        return out


def recorded(config: FitConfig, given: tuple[Tensor, Tensor]) -> tuple[FitResult, list[Tensor]]:
    """A run, and the batches it was trained on."""
    models: list[Recording] = []

    def factory() -> nn.Module:
        models.append(Recording(given[0][0].numel()))
        return models[-1]

    result = fit(factory, given, config)
    assert len(models) == 1
    return result, models[0].seen


def rows_of(batch: Tensor, whole: Tensor) -> list[int]:
    return [int((whole == row).flatten(1).all(1).nonzero().item()) for row in batch]


def arrays(state: Any) -> tuple[np.ndarray, np.ndarray]:
    return state["linear.weight"].numpy(), state["linear.bias"].numpy()


def equal_states(a: FitResult, b: FitResult) -> bool:
    return list(a.states) == list(b.states) and all(
        torch.equal(a.states[key][name], b.states[key][name]) for key in a.states for name in a.states[key]
    )


def traceless(result: FitResult) -> pd.DataFrame:
    """The history without its times."""
    return result.history.drop(columns="seconds")


# Arithmetic -----------------------------------------------------------------------------------------------------


def test_the_first_two_steps_are_sgd_with_momentum_and_weight_decay() -> None:
    inputs, labels = data()
    config = FitConfig(epochs=2, batch_size=20, lr=0.1, momentum=0.9, weight_decay=0.01)
    result = fit(Recording, (inputs, labels), config)
    weight0, bias0 = arrays(result.states[0])
    _, d_weight0, d_bias0 = oracle.softmax_regression_gradient(weight0, bias0, inputs.numpy(), labels.numpy())
    weight1, bias1 = arrays(result.states[1])
    np.testing.assert_allclose(weight1, weight0 - 0.1 * (d_weight0 + 0.01 * weight0), rtol=1e-12)
    np.testing.assert_allclose(bias1, bias0 - 0.1 * (d_bias0 + 0.01 * bias0), rtol=1e-12)
    _, d_weight1, _ = oracle.softmax_regression_gradient(weight1, bias1, inputs.numpy(), labels.numpy())
    velocity = 0.9 * (d_weight0 + 0.01 * weight0) + d_weight1 + 0.01 * weight1
    np.testing.assert_allclose(arrays(result.states[2])[0], weight1 - 0.1 * velocity, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 50])
def test_sgd_in_batches_with_lr_drops_agrees_with_a_plain_loop(batch_size: int) -> None:
    given = inputs, labels = data()
    config = FitConfig(epochs=4, batch_size=batch_size, lr=0.2, lr_drops=(1, 3), lr_factor=0.5, weight_decay=0.03)
    result, seen = recorded(config, given)
    steps = len(seen) // 4
    batches = [(batch.numpy(), labels[rows_of(batch, inputs)].numpy()) for batch in seen]
    lrs = [lr for lr in (0.2, 0.1, 0.1, 0.05) for _ in range(steps)]
    weight, bias, losses = oracle.sgd(*arrays(result.states[0]), batches, lrs, momentum=0.9, weight_decay=0.03)
    for got, expected in zip(arrays(result.states[4]), (weight, bias), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    sizes = [len(batch) for batch in seen[:steps]]
    means = [np.average(losses[k * steps : (k + 1) * steps], weights=sizes) for k in range(4)]
    np.testing.assert_allclose(result.history["train_loss"], means, rtol=1e-6)
    assert result.history["lr"].tolist() == pytest.approx([0.2, 0.1, 0.1, 0.05])


def test_l2_is_the_squared_error_to_the_one_hot_label() -> None:
    """Summed over classes, the mean over examples; train, fitted and validation loss are all of this kind."""
    (inputs, labels), held = data(), data(seed=1)
    config = FitConfig(epochs=2, batch_size=20, lr=0.02, momentum=0.0, loss="l2", target_loss=0.0)
    result = fit(Recording, (inputs, labels), config, validation=held)
    for epoch, row in result.history.set_index("epoch").iterrows():
        weight, bias = arrays(result.states[epoch - 1])
        loss, d_weight, d_bias = oracle.one_hot_regression_gradient(weight, bias, inputs.numpy(), labels.numpy())
        after = arrays(result.states[epoch])
        np.testing.assert_allclose(after[0], weight - 0.02 * d_weight, rtol=1e-12)
        np.testing.assert_allclose(after[1], bias - 0.02 * d_bias, rtol=1e-12)
        assert row.train_loss == pytest.approx(loss)
        for name, split in (("fitted", (inputs, labels)), ("validation", held)):
            expected, *_ = oracle.one_hot_regression_gradient(*after, *(part.numpy() for part in split))
            assert row[f"{name}_loss"] == pytest.approx(expected)
    assert result.history["loss"].tolist() == ["l2"] * 2
    assert result.stopped == "epochs"
    goal = float(result.history.fitted_loss[0])
    early = fit(Recording, (inputs, labels), replace(config, target_loss=goal))
    assert (early.stopped, list(early.states)) == ("target", [0, 1])


def test_a_history_is_read_back_as_its_rows_also_one_that_does_not_say_which_loss() -> None:
    rows: list[dict[str, int | float]] = [
        {"epoch": 1, "lr": 0.1, "train_loss": 0.5, "train_error": 0.25, "seconds": 2.0}
    ]
    table = histories.history_of(rows, "cross-entropy")
    assert histories.rows_of(table) == histories.rows_of(table.drop(columns="loss")) == rows
    assert list(histories.history_of([], "l2"))[:3] == ["epoch", "lr", "loss"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_agrees_with_a_plain_loop(weight_decay: float) -> None:
    given = inputs, labels = data()
    config = FitConfig(epochs=3, batch_size=8, optimizer="adam", lr=0.01, momentum=0.8, weight_decay=weight_decay)
    result, seen = recorded(config, given)
    batches = [(batch.numpy(), labels[rows_of(batch, inputs)].numpy()) for batch in seen]
    expected = oracle.adam(*arrays(result.states[0]), batches, 0.01, beta1=0.8, weight_decay=weight_decay)
    for got, wanted in zip(arrays(result.states[3]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_torchs_own(weight_decay: float) -> None:
    given = inputs, labels = data()
    config = FitConfig(epochs=3, batch_size=8, optimizer="adam", lr=0.01, weight_decay=weight_decay)
    result, seen = recorded(config, given)
    model = Recording()
    model.load_state_dict(result.states[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=weight_decay, foreach=False, fused=False)
    for batch in seen:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels[rows_of(batch, inputs)]).backward()
        optimizer.step()
    torch.testing.assert_close(model.linear.weight.data, result.states[3]["linear.weight"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_agrees_with_a_plain_loop(momentum: float) -> None:
    given = inputs, labels = data()
    config = FitConfig(
        epochs=3, batch_size=8, optimizer="rmsprop", lr=0.045, lr_drops=(2,), momentum=momentum, weight_decay=0.1
    )
    result, seen = recorded(config, given)
    batches = [(batch.numpy(), labels[rows_of(batch, inputs)].numpy()) for batch in seen]
    lrs = [lr for lr in (0.045, 0.045, 0.009) for _ in range(3)]
    expected = oracle.rmsprop(*arrays(result.states[0]), batches, lrs, momentum=momentum, weight_decay=0.1)
    for got, wanted in zip(arrays(result.states[3]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


def test_lbfgs_comes_to_the_least_squares_solution() -> None:
    """In closed form: the linear map closest to the one-hot labels. The history says what was met before the step."""
    images, labels = data()
    config = FitConfig(epochs=3, batch_size=20, loss="l2", optimizer="lbfgs", lr=1.0)
    result = fit(Recording, (images, labels), config)
    columns = torch.cat([images, torch.ones(20, 1, dtype=torch.float64)], 1)
    one_hot = torch.eye(CLASSES, dtype=torch.float64)[labels]
    solution = torch.linalg.lstsq(columns, one_hot).solution.T
    weight, bias = arrays(result.states[3])
    np.testing.assert_allclose(weight, solution[:, :4], atol=1e-5)
    np.testing.assert_allclose(bias, solution[:, 4], atol=1e-5)
    for epoch in (1, 2):
        before, start = (torch.from_numpy(part) for part in arrays(result.states[epoch - 1]))
        loss = (images @ before.T + start - one_hot).square().sum(1).mean()
        assert result.history.train_loss[epoch - 1] == pytest.approx(loss.item(), rel=1e-12)


def test_lbfgs_refuses_a_part_of_the_examples() -> None:
    config = FitConfig(epochs=1, batch_size=19, optimizer="lbfgs", lr=1.0)
    message = "batch_size: expected all examples with optimizer='lbfgs', 20 or more; got 19; pass batch_size=20"
    with pytest.raises(NetopsyError, match=message):
        fit(Recording, data(), config)


def test_every_epoch_meets_every_example_once_in_another_order() -> None:
    given = inputs, _ = data()
    _, seen = recorded(FitConfig(epochs=3, batch_size=6, lr=0.1), given)
    assert [len(batch) for batch in seen] == [6, 6, 6, 2] * 3
    orders = [rows_of(torch.cat(seen[start : start + 4]), inputs) for start in (0, 4, 8)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


def test_history_reports_errors_under_the_weights_that_met_the_examples() -> None:
    given = inputs, labels = data()
    result, _ = recorded(FitConfig(epochs=2, batch_size=20, lr=0.5), given)
    for epoch in (1, 2):
        weight, bias = arrays(result.states[epoch - 1])
        wrong = (inputs.numpy() @ weight.T + bias).argmax(1) != labels.numpy()
        row = result.history.iloc[epoch - 1]
        assert (row["epoch"], row["train_error"]) == (epoch, pytest.approx(wrong.mean()))


def test_validation_is_measured_after_the_epoch_and_changes_nothing() -> None:
    given, held = data(), data(1_005, seed=1)  # more than one batch of evaluation
    config = FitConfig(epochs=2, batch_size=8, lr=0.1)
    result = fit(Recording, given, config, validation=held)
    for epoch in (1, 2):
        weight, bias = arrays(result.states[epoch])
        loss, _, _ = oracle.softmax_regression_gradient(weight, bias, held[0].numpy(), held[1].numpy())
        error = ((held[0].numpy() @ weight.T + bias).argmax(1) != held[1].numpy()).mean()
        row = result.history.iloc[epoch - 1]
        assert (row["validation_loss"], row["validation_error"]) == (pytest.approx(loss), pytest.approx(error))
    assert equal_states(result, fit(Recording, given, config))
    assert equal_states(fit(Noisy, given, config, validation=held), fit(Noisy, given, config))


def test_a_parameter_without_a_gradient_stays() -> None:
    def half_frozen() -> nn.Module:
        model = Recording()
        model.linear.bias.requires_grad_(False)
        return model

    result = fit(half_frozen, data(), FitConfig(epochs=2, lr=0.1, weight_decay=0.1))
    assert torch.equal(result.states[0]["linear.bias"], result.states[2]["linear.bias"])
    assert not torch.equal(result.states[0]["linear.weight"], result.states[2]["linear.weight"])


# Labels and images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_label_noise_is_drawn_once_from_the_seed(share: float) -> None:
    given = inputs, labels = data(200)
    config = FitConfig(epochs=2, batch_size=200, lr=0.1, momentum=0.0, label_noise=share, seed=5)
    before = labels.clone()
    result = fit(Recording, given, config)
    assert torch.equal(labels, before)
    noisy = corrupt_labels(labels, share, CLASSES, derive(5, "labels"))
    assert int((noisy != labels).sum()) <= round(share * 200)
    for epoch in (1, 2):
        weight, bias = arrays(result.states[epoch - 1])
        _, d_weight, _ = oracle.softmax_regression_gradient(weight, bias, inputs.numpy(), noisy.numpy())
        np.testing.assert_allclose(arrays(result.states[epoch])[0], weight - 0.1 * d_weight, rtol=1e-9, atol=1e-12)


def test_augmentation_changes_images_anew_in_every_epoch_and_keeps_their_labels() -> None:
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % CLASSES
    images = torch.rand(30, 1, 3, 4, generator=source, dtype=torch.float64) + 1 + labels.view(-1, 1, 1, 1) * 10
    config = FitConfig(epochs=3, batch_size=30, lr=1e-3, momentum=0.0, augment="pad-crop-flip", pad=1)
    result, seen = recorded(config, (images, labels))
    possible = {
        out.tobytes(): (index, draw) for index in range(30) for draw, out in oracle.crops(images[index].numpy(), 1)
    }
    draws = []
    for epoch, batch in enumerate(seen, start=1):
        found = [possible[image.tobytes()] for image in batch.numpy()]
        assert sorted(index for index, _ in found) == list(range(30))
        draws.append(tuple(draw for _, draw in found))
        # The step is the one of these images with their own labels.
        weight, bias = arrays(result.states[epoch - 1])
        own = labels[[index for index, _ in found]].numpy()
        _, d_weight, _ = oracle.softmax_regression_gradient(weight, bias, batch.flatten(1).numpy(), own)
        np.testing.assert_allclose(arrays(result.states[epoch])[0], weight - 1e-3 * d_weight, rtol=1e-9)
    assert len(set(draws)) == 3


# Seeds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [Recording, Noisy])
def test_checkpoint_0_is_the_seeded_factorys_state(factory: Callable[[], nn.Module]) -> None:
    result = fit(factory, data(), FitConfig(epochs=1, lr=0.1, seed=7))
    with forked(derive(7, "init")):
        expected = factory().state_dict()
    assert list(result.states[0]) == list(expected)
    assert all(torch.equal(result.states[0][name], value) for name, value in expected.items())
    assert not all(torch.equal(result.states[1][name], value) for name, value in expected.items())


def test_a_run_is_repeated_bit_by_bit_whatever_the_global_generators_say() -> None:
    config = FitConfig(epochs=3, batch_size=8, lr=0.1, label_noise=0.2, seed=1)
    first = fit(Noisy, data(), config)
    torch.rand(5), np.random.rand(5), random.random()  # noqa: NPY002
    second = fit(Noisy, data(), config)
    assert equal_states(first, second)
    pd.testing.assert_frame_equal(traceless(first), traceless(second), check_exact=True)
    assert not equal_states(first, fit(Noisy, data(), replace(config, seed=2)))


@pytest.mark.usefixtures("unchecked")  # the type checker draws from `random`
def test_the_global_generators_are_left_as_they_were() -> None:
    def draws() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002

    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    fit(Noisy, data(), FitConfig(epochs=2, lr=0.1))
    assert draws() == expected


def test_what_is_kept_does_not_change_what_is_trained() -> None:
    config = FitConfig(epochs=4, batch_size=8, lr=0.1)
    every, few = (fit(Noisy, data(), replace(config, keep=keep)) for keep in ("all", (2,)))
    assert (list(every.states), list(few.states)) == ([0, 1, 2, 3, 4], [0, 2, 4])
    for key, state in few.states.items():
        assert all(torch.equal(value, every.states[key][name]) for name, value in state.items())


# Folders --------------------------------------------------------------------------------------------------------


def test_a_folder_holds_what_memory_would(tmp_path: Path) -> None:
    given, config = data(), FitConfig(epochs=3, batch_size=8, lr=0.1, lr_drops=(2,), keep=(1,), seed=4)
    memory = fit(Noisy, given, config, validation=data(seed=1))
    disk = fit(Noisy, given, config, validation=data(seed=1), folder=tmp_path / "run")
    assert disk.states == {key: tmp_path / "run" / "checkpoints" / f"{key}.safetensors" for key in (0, 1, 3)}
    for key, path in disk.states.items():
        state = load_file(path)
        assert state.keys() == memory.states[key].keys()
        assert all(torch.equal(value, memory.states[key][name]) for name, value in state.items())
    history = pd.read_parquet(tmp_path / "run" / "history.parquet")
    pd.testing.assert_frame_equal(history, disk.history, check_exact=True)
    pd.testing.assert_frame_equal(traceless(disk), traceless(memory), check_exact=True)
    assert list(history) == [
        "epoch", "lr", "loss", "train_loss", "train_error", "validation_loss", "validation_error", "seconds",
    ]  # fmt: skip
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["keys"], manifest["finished"]) == ([0, 1, 3], True)
    tuples = {"lr_drops": (2,), "keep": (1,), "frozen": (), "removed": ()}
    assert FitConfig(**{**manifest["config"], **tuples}) == config
    assert manifest["data"] == fingerprint(*given)
    assert manifest["model"].endswith("test_fit.Noisy")
    assert manifest["versions"]["torch"] == torch.__version__
    assert disk.seed == 4
    assert disk.factory is Noisy


def test_tied_parameters_survive_a_folder(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.second(self.first(x.float())))
            return out

    memory = fit(Tied, data(), FitConfig(epochs=1, lr=0.1))
    assert torch.equal(memory.states[1]["first.weight"], memory.states[1]["second.weight"])
    disk = fit(Tied, data(), FitConfig(epochs=1, lr=0.1), folder=tmp_path / "run")
    assert torch.equal(load_file(disk.states[1])["first.weight"], memory.states[1]["first.weight"])


class Stop(BaseException):
    """Like KeyboardInterrupt, which would end the test run if it came through."""


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, Stop, RuntimeError])
def test_an_interruption_leaves_what_is_written(tmp_path: Path, interruption: type[BaseException]) -> None:
    def progress(epoch: int, epochs: int, row: Any) -> None:
        if epoch == 3:
            raise interruption

    config = FitConfig(epochs=5, lr=0.1, keep=(1, 2))
    with pytest.raises(interruption):
        fit(Recording, data(), config, folder=tmp_path / "run", progress=progress)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["keys"], manifest["finished"]) == ([0, 1, 2], False)
    assert len(pd.read_parquet(tmp_path / "run" / "history.parquet")) == 3
    whole = fit(Recording, data(), config)
    for key in (0, 1, 2):
        state = load_file(tmp_path / "run" / "checkpoints" / f"{key}.safetensors")
        assert torch.equal(state["linear.weight"], whole.states[key]["linear.weight"])


def test_an_interruption_in_the_first_epoch_leaves_checkpoint_0(tmp_path: Path) -> None:
    class Interrupted(Recording):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted, data(), FitConfig(epochs=2, lr=0.1), folder=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["keys"] == [0]
    assert "linear.weight" in load_file(tmp_path / "run" / "checkpoints" / "0.safetensors")
    assert len(pd.read_parquet(tmp_path / "run" / "history.parquet")) == 0


def test_a_folder_with_files_needs_overwrite(tmp_path: Path) -> None:
    first, second = (FitConfig(epochs=2, lr=0.1, seed=seed) for seed in (0, 1))
    fit(Recording, data(), first, folder=tmp_path)
    with pytest.raises(NetopsyError, match="it exists and is not empty; choose another path or pass overwrite=True"):
        fit(Recording, data(), second, folder=tmp_path)
    result = fit(Recording, data(), second, folder=tmp_path, overwrite=True)
    expected = fit(Recording, data(), second)
    for key, path in result.states.items():
        assert torch.equal(load_file(path)["linear.weight"], expected.states[key]["linear.weight"])


def test_an_interrupted_overwrite_leaves_no_mixture_of_two_runs(tmp_path: Path) -> None:
    def stop(epoch: int, epochs: int, row: Any) -> None:
        raise Stop

    config = FitConfig(epochs=3, lr=0.1)
    fit(Recording, data(), config, folder=tmp_path)
    with pytest.raises(Stop):
        fit(Recording, data(), replace(config, seed=1), folder=tmp_path, overwrite=True, progress=stop)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["0.safetensors", "1.safetensors"]


def test_overwrite_refuses_to_leave_another_runs_checkpoints_between_its_own(tmp_path: Path) -> None:
    fit(Recording, data(), FitConfig(epochs=3, lr=0.1), folder=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NetopsyError, match=r"it has 1.safetensors, 2.safetensors of another run; delete them or"):
        fit(Recording, data(), FitConfig(epochs=3, lr=0.1, keep=()), folder=tmp_path, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_progress_hears_of_every_epoch() -> None:
    heard: list[tuple[int, int, dict[str, float]]] = []
    result = fit(Recording, data(), FitConfig(epochs=3, lr=0.1), progress=lambda *news: heard.append(news))
    assert [(epoch, epochs) for epoch, epochs, _ in heard] == [(1, 3), (2, 3), (3, 3)]
    assert [row["train_loss"] for *_, row in heard] == result.history["train_loss"].tolist()


# Failures -------------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_stops_and_says_what_to_do(tmp_path: Path) -> None:
    inputs, labels = data()
    config = FitConfig(epochs=50, batch_size=4, lr=0.5, momentum=0.0)

    class Square(Recording):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2 * 1e3

    with pytest.raises(NetopsyError, match=r"epoch \d+: expected a finite loss .* lower the lr \(it was 0.5\)"):
        fit(Square, (inputs, labels), config, folder=tmp_path / "run")
    keys = json.loads((tmp_path / "run" / "manifest.json").read_text())["keys"]
    assert keys[0] == 0
    for key in keys:
        assert bool(
            load_file(tmp_path / "run" / "checkpoints" / f"{key}.safetensors")["linear.weight"].isfinite().all()
        )


def test_weights_that_overflow_in_the_last_step_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(NetopsyError, match="epoch 1: expected a finite loss and finite weights"):
        fit(
            lambda: Recording().float(),
            (data()[0].float() * 1e30, data()[1]),
            FitConfig(epochs=1, batch_size=20, lr=1e30),
            folder=tmp_path / "run",
        )
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["keys"] == [0]


class TwoOutputs(Recording):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


X, Y = data()


@pytest.mark.parametrize(
    ("factory", "given", "changes", "message"),
    [
        (Recording, (X, Y[:3]), {}, r"data: expected inputs \(n, …\) and as many int64 labels .*torch.int64 \(3,\)"),
        (Recording, (X, Y.int()), {}, "data: expected inputs .* got .* torch.int32"),
        (Recording, (X[:0], Y[:0]), {}, "data: expected inputs .* at least one"),
        (Recording, (X, Y - 1), {}, "data: expected labels counted from 0; got -1; number the classes anew"),
        (Recording, (X / 0, Y), {}, "data: expected finite inputs; got NaN or infinity"),
        (
            Recording,
            (X, Y + 1),
            {},
            r"expected a model that returns logits \(n, classes\) with classes > 3, .*\(2, 3\)",
        ),
        (
            Recording,
            (X, Y),
            {"augment": "pad-crop-flip"},
            r"augment='pad-crop-flip': expected images .* got \(20, 4\)",
        ),
        (TwoOutputs, (X, Y), {}, "expected a model that returns logits .* got tuple for 2 inputs"),
        (
            lambda: Recording().requires_grad_(False),
            (X, Y),
            {},
            "expected a model with a parameter that requires a gradient; it has none",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path: Path, factory: Callable[[], nn.Module], given: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NetopsyError, match=message):
        fit(factory, given, FitConfig(epochs=1, lr=0.1, **changes), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_validation_split_is_checked_too() -> None:
    config = FitConfig(epochs=1, lr=0.1)
    with pytest.raises(NetopsyError, match="validation: expected labels counted from 0"):
        fit(Recording, data(), config, validation=(X, Y - 1))
    with pytest.raises(NetopsyError, match="classes > 3, the largest label"):
        fit(Recording, data(), config, validation=(X, Y + 1))


@pytest.mark.usefixtures("unchecked")
def test_a_factory_that_makes_no_module_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"expected a function that returns a torch.nn.Module; it returned dict"):
        fit(dict, data(), FitConfig(epochs=1, lr=0.1))  # type: ignore[arg-type]
