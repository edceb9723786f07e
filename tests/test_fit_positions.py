"""Training on labels by position: against a plain loop, its means, padding, resuming and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.models.transformer import transformer
from netopsy.probes.robustness import robustness
from netopsy.training import epoch as epochs
from netopsy.training import resume as resuming
from netopsy.training.config import FitConfig
from netopsy.training.fit import FitResult, fit
from netopsy.training.inputs import hold_out
from netopsy.training.losses import IGNORED, counted, errors_of, loss_of
from netopsy.training.population import fit_population
from tests.oracles import positions as oracle
from tests.oracles import training

CLASSES, LENGTH, FEATURES = 3, 5, 4


def data(n: int = 14, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences of 0 to 5 labels, padded; the first has none."""
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, LENGTH, FEATURES, generator=source, dtype=torch.float64)
    labels = torch.randint(CLASSES, (n, LENGTH), generator=source)
    lengths = torch.arange(n) % (LENGTH + 1)
    labels[torch.arange(LENGTH) >= lengths[:, None]] = IGNORED
    return inputs, labels


class Linear(nn.Module):
    """A linear classifier of every position, in float64; it remembers the batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES, dtype=torch.float64)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.clone())
        out: Tensor = self.linear(x)
        return out


def arrays(state: Any) -> tuple[np.ndarray, np.ndarray]:
    return state["linear.weight"].numpy(), state["linear.bias"].numpy()


def recorded(config: FitConfig, given: tuple[Tensor, Tensor], **options: Any) -> tuple[FitResult, list[Any]]:
    """A run, and its batches of inputs and labels."""
    models: list[Linear] = []

    def factory() -> nn.Module:
        models.append(Linear())
        return models[-1]

    result = fit(factory, given, config, **options)
    inputs, labels = given
    batches = []
    for batch in models[0].seen:
        rows = [int((inputs == one).flatten(1).all(1).nonzero().item()) for one in batch]
        batches.append((batch.numpy(), labels[rows].numpy()))
    return result, batches


# Arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross-entropy", "l2"])
@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_sgd_agrees_with_a_plain_loop(loss: Any, batch_size: int) -> None:
    """Every position that counts has the same weight in its batch's mean, and in the history's."""
    slope = training.softmax_regression_gradient if loss == "cross-entropy" else training.one_hot_regression_gradient
    config = FitConfig(epochs=3, batch_size=batch_size, lr=0.05, momentum=0.8, loss=loss)
    result, batches = recorded(config, data())
    steps = len(batches) // 3
    weight, bias, *_ = oracle.sgd(*arrays(result.states[0]), batches, 0.05, 0.8, slope)
    np.testing.assert_allclose(arrays(result.states[3])[0], weight, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(arrays(result.states[3])[1], bias, rtol=1e-9, atol=1e-12)
    *_, mean, error = oracle.sgd(*arrays(result.states[0]), batches[:steps], 0.05, 0.8, slope)
    assert result.history.train_loss[0] == pytest.approx(mean)
    assert result.history.train_error[0] == pytest.approx(error)


def test_a_batch_of_padding_alone_has_no_gradient_and_no_nan() -> None:
    inputs, labels = data()
    labels[3:] = IGNORED
    result, batches = recorded(FitConfig(epochs=2, batch_size=2, lr=0.1, momentum=0.0), (inputs, labels))
    assert any((own == IGNORED).all() for _, own in batches)
    weight, bias, *_ = oracle.sgd(*arrays(result.states[0]), batches, 0.1, 0.0)
    np.testing.assert_allclose(arrays(result.states[2])[0], weight, rtol=1e-9)
    np.testing.assert_allclose(arrays(result.states[2])[1], bias, rtol=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_other_optimizers_descend_on_the_same_mean(optimizer: Any) -> None:
    """The positions that count as examples of their own, in one batch, are the same training."""
    inputs, labels = data()
    flat = inputs[labels != IGNORED], labels[labels != IGNORED]
    config = FitConfig(epochs=3, batch_size=100, lr=0.05, optimizer=optimizer)
    by_position, by_example = fit(Linear, (inputs, labels), config), fit(Linear, flat, config)
    for one, other in zip(arrays(by_position.states[3]), arrays(by_example.states[3]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert by_position.history.train_error.tolist() == pytest.approx(by_example.history.train_error.tolist())


def test_validation_and_fit_are_means_over_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "EVALUATION_BATCH", 12)  # two sequences at once
    given, held = data(), data(9, seed=1)
    config = FitConfig(epochs=2, batch_size=5, lr=0.1, target_error=0.0)
    result = fit(Linear, given, config, validation=held)
    for epoch, row in result.history.set_index("epoch").iterrows():
        for name, (inputs, labels) in (("fitted", given), ("validation", held)):
            own = oracle.counted(inputs.numpy(), labels.numpy())
            loss, error = training.mean_loss_and_error(*arrays(result.states[epoch]), *own)
            assert row[f"{name}_loss"] == pytest.approx(loss)
            assert row[f"{name}_error"] == pytest.approx(error)


def test_losses_and_errors_of_positions() -> None:
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [5.0, 0.0]]], requires_grad=True)
    targets = torch.tensor([[0, 0], [IGNORED, 1]])
    each = loss_of("cross-entropy", logits, targets, reduction="none")
    by_hand = torch.tensor([[np.log1p(np.exp(-2.0)), np.log1p(np.exp(1.0))], [0.0, np.log1p(np.exp(5.0))]])
    torch.testing.assert_close(each, by_hand.float())
    torch.testing.assert_close(loss_of("cross-entropy", logits, targets), by_hand.float().sum() / 3)
    torch.testing.assert_close(loss_of("cross-entropy", logits, targets, reduction="sum"), by_hand.float().sum())
    squared = loss_of("l2", logits, targets, reduction="none")
    assert squared.tolist() == [[1.0, 2.0], [0.0, 26.0]]
    assert int(errors_of(logits, targets)) == 2
    assert counted(targets).tolist() == [2, 1]
    for loss in ("cross-entropy", "l2"):
        nothing = loss_of(loss, logits, torch.full((2, 2), IGNORED))
        [slope] = torch.autograd.grad(nothing, logits)
        assert nothing.item() == 0.0
        assert not slope.any()


def test_a_language_model_learns_what_follows() -> None:
    """Token t is followed by 3t + 1 modulo 7: the error over all positions but padding comes to 0."""
    tokens = [torch.arange(7)]
    for _ in range(6):
        tokens.append((3 * tokens[-1] + 1) % 7)
    ids = torch.stack(tokens, 1).repeat(6, 1)
    inputs, labels = ids[:, :-1], ids[:, 1:].clone()
    labels[::3, 4:] = IGNORED

    def factory() -> nn.Module:
        return transformer(vocabulary=7, length=6, depth=1, width=16, heads=2)

    config = FitConfig(epochs=40, batch_size=14, optimizer="adam", lr=0.01, keep=(), target_error=0.0)
    result = fit(factory, (inputs, labels), config)
    assert result.stopped == "target"
    found = robustness(result.trajectory, (inputs, labels), draws=0, sites="blocks", engine="eager").frame
    assert found.error[0] == 0.0
    assert found.set_index("site").error["blocks.0"] > 0.3


# Data -----------------------------------------------------------------------------------------------------------


def test_a_share_is_held_out_of_all_examples() -> None:
    given = data(30)
    (train, _), (held, labels) = hold_out(given, 0.2, seed=3)
    assert (len(train), len(held)) == (24, 6)
    rows = [int((given[0] == one).flatten(1).all(1).nonzero().item()) for one in held]
    assert rows == sorted(rows)
    assert torch.equal(labels, given[1][rows])
    result = fit(Linear, given, FitConfig(epochs=6, batch_size=8, lr=0.1, validation_share=0.2, patience=2))
    assert result.history.validation_error.between(0, 1).all()


class Stop(BaseException):
    """Like KeyboardInterrupt, which would end the test run if it came through."""


def test_a_resumed_run_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    config = FitConfig(epochs=4, batch_size=4, lr=0.02, optimizer="adam", sam_rho=0.05)
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(9, (10, 6), generator=source)
    labels = torch.randint(9, (10, 6), generator=source)
    labels[::2, 3:] = IGNORED

    def train(name: str, **options: Any) -> FitResult:
        return fit(
            lambda: transformer(vocabulary=9, length=6, depth=1, width=8, heads=2),
            (ids, labels),
            config,
            folder=tmp_path / name,
            validation=(ids[:4], labels[:4]),
            **options,
        )

    def stop(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train("broken", progress=stop)
    resumed, whole = train("broken", resume=True), train("whole")
    for key in range(5):
        ours, theirs = load_file(resumed.states[key]), load_file(whole.states[key])
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert resumed.history.drop(columns="seconds").equals(whole.history.drop(columns="seconds"))


# Refusals -------------------------------------------------------------------------------------------------------


X, Y = data()
NOTHING = torch.full_like(Y, IGNORED)
SHORT = {"validation": (X[:, :3], Y[:, :3])}


class OnePerExample(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


@pytest.mark.parametrize(
    ("factory", "given", "changes", "options", "message"),
    [
        (Linear, (X, Y), {"label_noise": 0.1}, {}, r"one label an example with label_noise=0.1 .* got .* \(14, 5\)"),
        (Linear, (X[..., None], Y), {"augment": "wrap-flip"}, {}, "one label an example with .* augment='wrap-flip'"),
        (Linear, (X, NOTHING), {}, {}, "data: expected at least one label that counts; all are -100"),
        (Linear, (X, Y), {}, {"validation": (X, NOTHING)}, "validation: expected at least one label that counts"),
        (
            Linear,
            (X, Y),
            {},
            SHORT,
            r"validation: expected labels for as many positions as in data, \(5,\); got \(3,\)",
        ),
        (Linear, (X, Y), {}, {"validation": (X, Y[:, 0].abs())}, r"as many positions as in data, \(5,\); got \(\)"),
        (Linear, (X, Y.where(Y == IGNORED, Y - 1)), {}, {}, "from 0; got -1; .* positions that do not count by -100"),
        (Linear, (X, Y[..., None]), {}, {}, r"int64 labels \(n,\) or \(n, positions\), .* \(14, 5, 1\)"),
        (Linear, (X, Y[:, :0]), {}, {}, "at least one"),
        (
            Linear,
            (X, Y.where(Y == IGNORED, Y + 1)),
            {},
            {},
            r"logits \(n, 5, classes\) with classes > 3, .*\(2, 5, 3\)",
        ),
        (OnePerExample, (X, Y), {}, {}, r"returns logits \(n, 5, classes\) .* got \(2, 3\)"),
        (Linear, (X, Y[:, 0].abs() % 3), {}, {}, r"returns logits \(n, classes\) .* got \(2, 5, 3\)"),
        (
            Linear,
            (X[:2], Y[:2]),
            {"validation_share": 0.5},
            {},
            "validation_share=0.5: expected examples to hold out",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(
    factory: Callable[[], nn.Module], given: Any, changes: Any, options: Any, message: str
) -> None:
    with pytest.raises(NetopsyError, match=message):
        fit(factory, given, replace(FitConfig(epochs=1, lr=0.1), **changes), **options)


def test_a_population_is_refused() -> None:
    message = r"data: expected one label an example, of shape \(n,\); got \(14, 5\); .* one at a time, by fit"
    with pytest.raises(NetopsyError, match=message):
        fit_population(Linear, data(), [FitConfig(epochs=1, lr=0.1)])
