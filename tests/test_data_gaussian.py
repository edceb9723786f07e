"""Gaussian inputs with the labels of a random teacher: balanced, seeded, and what no teacher can balance."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import derive, generator
from netopsy.data.dataset import corrupt_labels, standardize
from netopsy.data.gaussian import gaussian_teacher


def labels_by_hand(inputs: Tensor, first: Tensor, second: Tensor) -> list[int]:
    """One example and one unit at a time."""
    found = []
    for example in inputs.double().tolist():
        hidden = [max(0.0, sum(w * x for w, x in zip(row, example, strict=True))) for row in first.double().tolist()]
        logits = [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in second.double().tolist()]
        found.append(int(logits[1] > logits[0]))
    return found


@pytest.mark.parametrize("dimensions", [1, 10, 500])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_each_label_has_40_to_60_percent_of_each_split(dimensions: int, seed: int) -> None:
    data = gaussian_teacher(dimensions=dimensions, train=200, test=100, seed=seed)
    assert (data.name, data.classes) == (f"gaussian-{dimensions}", 2)
    for (inputs, labels), size in ((data.train, 200), (data.test, 100)):
        assert inputs.shape == (size, 1, 1, dimensions)
        assert 0.4 <= labels.double().mean() <= 0.6


def test_labels_are_those_of_the_first_balanced_teacher() -> None:
    """The oracle draws the same teachers and labels them by a plain loop."""
    data = gaussian_teacher(dimensions=4, train=60, test=40, hidden=5, seed=3)
    inputs = [split[0].flatten(1) for split in (data.train, data.test)]
    for number in range(100):
        source = generator(derive(3, "gaussian", "teacher", number))
        first, second = torch.randn(5, 4, generator=source), torch.randn(2, 5, generator=source)
        train, test = (labels_by_hand(split, first, second) for split in inputs)
        if 24 <= sum(train) <= 36 and 16 <= sum(test) <= 24:
            break
    assert number > 0, "a case whose first teacher is balanced tests no second draw"
    assert (data.train[1].tolist(), data.test[1].tolist()) == (train, test)


def test_inputs_are_standard_normal_and_the_splits_are_different() -> None:
    """Mean, variance and correlations within 5 standard errors."""
    data = gaussian_teacher(dimensions=20, train=4000, test=4000)
    for inputs, _ in (data.train, data.test):
        x = inputs.flatten(1).double()
        assert x.mean(0).abs().max() < 5 / math.sqrt(4000)
        covariance = x.T @ x / 4000
        assert (covariance - torch.eye(20)).abs().max() < 5 * math.sqrt(2 / 4000)
        assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / x.numel())
    assert not torch.equal(data.train[0], data.test[0])


def test_one_seed_is_one_data_set_and_leaves_the_global_generator() -> None:
    state = torch.get_rng_state()
    first, same, other = (gaussian_teacher(train=40, test=40, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_the_size_of_one_split_does_not_move_the_inputs_of_the_other() -> None:
    first, second = gaussian_teacher(train=40, test=40), gaussian_teacher(train=40, test=80)
    assert torch.equal(first.train[0], second.train[0])


def test_it_can_be_standardized_and_its_labels_corrupted() -> None:
    data = standardize(gaussian_teacher(train=100, test=20))
    assert abs(float(data.train[0].mean())) < 1e-6
    assert set(corrupt_labels(data.train[1], 1.0, data.classes, seed=0).tolist()) == {0, 1}


@pytest.mark.parametrize("sizes", [{"train": 1, "test": 10}, {"train": 10, "test": 1}, {"train": 3, "test": 10}])
def test_no_teacher_balances_too_few_examples(sizes: dict[str, int]) -> None:
    message = (
        rf"expected one that gives each label to at least 40% of {sizes['train']} train and of {sizes['test']} test "
        r"inputs; none of 100 does; ask for more examples, more hidden units or another seed"
    )
    with pytest.raises(NetopsyError, match=message):
        gaussian_teacher(**sizes)


@pytest.mark.parametrize("name", ["dimensions", "train", "test", "hidden"])
def test_sizes_are_at_least_one(name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(NetopsyError, match=rf"{name}: expected an integer >= 1; got 0"):
        inspect.unwrap(gaussian_teacher)(**options)
