"""Data sets in memory: what they accept, standardizing, subsets, corrupted labels."""

from __future__ import annotations

import hashlib
import itertools
import struct
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset, corrupt_labels, fingerprint, shrink, standardize, subset
from tests.oracles.training import mean_and_deviation


def split(n: int, classes: int = 3, seed: int = 0, shape: tuple[int, int, int] = (2, 4, 5)) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=source) * 3 + 1, torch.arange(n) % classes


def dataset(**changes: object) -> Dataset:
    parts: dict[str, object] = {"name": "toy", "train": split(30), "test": split(12, seed=1), "classes": 3}
    return Dataset(**{**parts, **changes})  # type: ignore[arg-type]


# Standardizing --------------------------------------------------------------------------------------------------


def test_standardize_uses_the_train_split_alone() -> None:
    data = dataset()
    got = standardize(data)
    mean, std = mean_and_deviation(data.train[0].numpy())
    assert got.mean == pytest.approx((mean,), rel=1e-6)
    assert got.std == pytest.approx((std,), rel=1e-6)
    for before, after in ((data.train, got.train), (data.test, got.test)):
        expected = (before[0].double() - mean) / std
        torch.testing.assert_close(after[0], expected.float(), rtol=1e-5, atol=1e-6)
        assert torch.equal(before[1], after[1])
    other = standardize(replace(data, test=(data.test[0] * 100, data.test[1])))
    assert (other.mean, other.std) == (got.mean, got.std)


def test_standardize_by_channel() -> None:
    data = dataset()
    shifted = replace(data, train=(data.train[0] * torch.tensor([1.0, 10.0]).view(2, 1, 1), data.train[1]))
    got = standardize(shifted, per_channel=True)
    by_hand = [mean_and_deviation(shifted.train[0][:, channel].numpy()) for channel in (0, 1)]
    assert got.mean == pytest.approx([mean for mean, _ in by_hand], rel=1e-6)
    assert got.std == pytest.approx([std for _, std in by_hand], rel=1e-6)
    torch.testing.assert_close(got.train[0].mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("orders", [(False,), (True,), (False, True), (True, False), (True, True)])
def test_mean_and_std_always_lead_back_to_the_pixels(orders: tuple[bool, ...]) -> None:
    data = dataset()
    got = data
    for per_channel in orders:
        got = standardize(got, per_channel=per_channel)
    scale, shift = (torch.tensor(values).view(-1, 1, 1) for values in (got.std, got.mean))
    torch.testing.assert_close(got.test[0] * scale + shift, data.test[0], rtol=1e-5, atol=1e-5)


def test_standardize_leaves_its_argument_alone() -> None:
    data = dataset()
    before = data.train[0].clone()
    standardize(data)
    assert torch.equal(data.train[0], before)


@pytest.mark.parametrize(("per_channel", "advice"), [(False, "deviation is 0$"), (True, "pass per_channel=False")])
def test_standardize_refuses_constant_images(per_channel: bool, advice: str) -> None:
    images = split(6)[0]
    images[:, 1] = 7
    if not per_channel:
        images[:] = 7
    with pytest.raises(NetopsyError, match=f"toy: expected train images that differ.*{advice}"):
        standardize(dataset(train=(images, split(6)[1])), per_channel=per_channel)


# Subsets --------------------------------------------------------------------------------------------------------


def test_shrink_averages_squares_and_cuts_what_is_left_over() -> None:
    data = dataset()
    small = shrink(data, 2)
    for (images, labels), (before, known) in ((small.train, data.train), (small.test, data.test)):
        assert images.shape == (len(before), 2, 2, 2)  # of 4 x 5: the last column is cut
        assert torch.equal(labels, known)
        for n, c, y, x in itertools.product(range(len(before)), range(2), range(2), range(2)):
            square = [float(before[n, c, 2 * y + i, 2 * x + j]) for i in (0, 1) for j in (0, 1)]
            assert float(images[n, c, y, x]) == pytest.approx(sum(square) / 4, abs=1e-6)
    assert (small.mean, small.std, small.classes, small.name) == (data.mean, data.std, data.classes, data.name)
    assert torch.equal(shrink(data, 1).train[0], data.train[0])
    assert shrink(data, 4).train[0].shape[2:] == (1, 1)


@pytest.mark.parametrize(
    ("factor", "message"),
    [(0, "factor: expected an integer >= 1; got 0"), (5, "shrink of .*: expected a factor of at most 4; got 5")],
)
def test_shrink_refuses_a_factor_that_leaves_no_pixel(factor: int, message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        shrink(dataset(), factor)


def where(part: Tensor, whole: Tensor) -> list[int]:
    """Rows of `whole` that `part` consists of, in order (the random images are all different)."""
    return [next(i for i, image in enumerate(whole) if torch.equal(image, row)) for row in part]


@pytest.mark.parametrize("balanced", [True, False])
def test_subset_is_a_seeded_draw_without_replacement(balanced: bool) -> None:
    data = dataset()
    got = subset(data, train=11, test=5, seed=3, balanced=balanced)
    for (images, labels), (all_images, all_labels), size in ((got.train, data.train, 11), (got.test, data.test, 5)):
        rows = where(images, all_images)
        assert len(rows) == size
        assert rows == sorted(set(rows))
        assert torch.equal(labels, all_labels[rows])
    again = subset(data, train=11, test=5, seed=3, balanced=balanced)
    assert again.fingerprint == got.fingerprint
    assert subset(data, train=11, test=5, seed=4, balanced=balanced).fingerprint != got.fingerprint


@pytest.mark.parametrize("balanced", [True, False])
def test_a_smaller_subset_is_part_of_a_larger_one(balanced: bool) -> None:
    data = dataset()
    rows = [set(where(subset(data, train=size, balanced=balanced).train[0], data.train[0])) for size in range(1, 31)]
    assert all(small < large for small, large in itertools.pairwise(rows))


def test_a_balanced_subset_has_equal_classes() -> None:
    skewed = torch.tensor([0] * 20 + [1] * 6 + [2] * 4)
    data = dataset(train=(split(30)[0], skewed))
    assert subset(data, train=12).train[1].bincount().tolist() == [4, 4, 4]
    assert sorted(subset(data, train=11).train[1].bincount().tolist()) == [3, 4, 4]
    larger = {tuple(subset(data, train=10, seed=seed).train[1].bincount().tolist()) for seed in range(30)}
    assert larger == {(4, 3, 3), (3, 4, 3), (3, 3, 4)}  # no class is always the larger one


def test_a_plain_subset_follows_the_frequencies() -> None:
    skewed = torch.tensor([0] * 20 + [1] * 6 + [2] * 4)
    data = dataset(train=(split(30)[0], skewed))
    draws = [subset(data, train=15, seed=seed, balanced=False).train[1].bincount(minlength=3) for seed in range(200)]
    mean = torch.stack(draws).double().mean(0)
    torch.testing.assert_close(mean, torch.tensor([10.0, 3.0, 2.0], dtype=torch.float64), rtol=0, atol=0.4)


def test_subset_keeps_what_is_not_asked_for() -> None:
    data = dataset()
    got = subset(data, test=6)
    assert got.train is data.train
    assert len(got.test[1]) == 6


def test_subset_refuses_more_than_there_is() -> None:
    data = dataset(train=(split(30)[0], torch.tensor([0] * 20 + [1] * 6 + [2] * 4)))
    with pytest.raises(NetopsyError, match="subset of toy, train: expected at most 30 examples; got 31; ask for"):
        subset(data, train=31)
    with pytest.raises(NetopsyError, match=r"at least 5 examples of class 2 .* it has 4; .*balanced=False"):
        subset(data, train=15)
    with pytest.raises(NetopsyError, match="subset of toy, test: expected an integer >= 1; got 0"):
        subset(data, test=0)


# Corrupted labels -----------------------------------------------------------------------------------------------


def test_corrupt_labels_draws_exactly_the_share_again() -> None:
    labels = torch.zeros(10_000, dtype=torch.int64)
    for share in (0.0, 0.25, 0.5, 1.0):
        changed = int((corrupt_labels(labels, share, 10, seed=0) != labels).sum())
        expected, deviation = share * 9_000, (share * 10_000 * 0.09) ** 0.5
        assert abs(changed - expected) <= 5 * deviation
    assert set(corrupt_labels(labels, 1.0, 10, seed=0).tolist()) == set(range(10))


def test_fully_corrupted_labels_say_nothing_of_the_true_ones() -> None:
    labels = torch.arange(10_000) % 10
    counts = torch.zeros(10, 10)
    counts.index_put_((labels, corrupt_labels(labels, 1.0, 10, seed=1)), torch.ones(10_000), accumulate=True)
    assert float(((counts - 100) ** 2 / 100).sum()) < 170  # χ² with 90 degrees of freedom: p = 1e-6 at 170


def test_corrupt_labels_is_seeded_and_nested_and_leaves_its_argument_alone() -> None:
    labels = torch.arange(200) % 10
    half, whole = (corrupt_labels(labels, share, 10, seed=2) for share in (0.5, 1.0))
    assert torch.equal(labels, torch.arange(200) % 10)
    assert torch.equal(half, corrupt_labels(labels, 0.5, 10, seed=2))
    assert not torch.equal(half, corrupt_labels(labels, 0.5, 10, seed=3))
    assert bool(((half == labels) | (half == whole)).all())
    assert torch.equal(corrupt_labels(labels, 0.0, 10, seed=2), labels)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_corrupt_labels_refuses_a_share_outside_0_1(share: float) -> None:
    with pytest.raises(NetopsyError, match=r"share of corrupted labels: expected a number in \[0, 1\]"):
        corrupt_labels(torch.zeros(3, dtype=torch.int64), share, 2, seed=0)


# What a data set is ---------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content() -> None:
    data = dataset()
    same = dataset(name="other", train=tuple(part.clone() for part in data.train))
    assert same.fingerprint == data.fingerprint
    images, labels = data.train
    nudged = images.clone()
    nudged[3, 1, 2, 2] += 1e-6
    others = [
        dataset(train=(nudged, labels)),
        dataset(train=(images, labels.roll(1))),
        dataset(classes=4),
        dataset(train=data.test, test=data.train),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_the_fingerprint_does_not_depend_on_memory_layout() -> None:
    values = torch.rand(3, 4)
    assert fingerprint(values) == fingerprint(values.t().contiguous().t())
    assert fingerprint(values) != fingerprint(values.double())


def test_the_fingerprint_is_a_hash_of_types_shapes_and_little_endian_values() -> None:
    by_hand = hashlib.sha256(b"torch.int64 (2, 1);" + struct.pack("<2q", 5, -1) + b"torch.float32 ();")
    by_hand.update(struct.pack("<f", 0.5))
    assert fingerprint(torch.tensor([[5], [-1]]), torch.tensor(0.5)) == by_hand.hexdigest()[:32]


def test_repr_names_no_pixel() -> None:
    assert repr(dataset()) == "Dataset(name='toy', classes=3, mean=(0.0,), std=(1.0,))"


IMAGES, LABELS = split(6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (IMAGES.double(), LABELS)}, r"toy, train split: expected float32 images of shape \(n, c, h, w\)"),
        ({"test": (IMAGES[0], LABELS)}, r"toy, test split: expected float32 .* got torch.float32 \(2, 4, 5\)"),
        ({"train": (IMAGES, LABELS[:5])}, r"one int64 label for each of the 6 images.*got torch.int64 \(5,\)"),
        ({"train": (IMAGES, LABELS.int())}, "one int64 label for each .* got torch.int32"),
        ({"train": (IMAGES[:0], LABELS[:0])}, "at least one image"),
        ({"train": (IMAGES, LABELS + 1)}, r"expected labels in \[0, 3\); got 1 to 3; number the classes from 0"),
        ({"train": (IMAGES, LABELS - 1)}, r"expected labels in \[0, 3\); got -1 to 1"),
        ({"test": split(6, shape=(2, 4, 4))}, r"images of one shape; train has \(2, 4, 5\), test has \(2, 4, 4\)"),
        ({"mean": (0.0, 0.0, 0.0)}, r"expected 1 or 2 \(channels\) values of mean and std; got 3 and 1"),
        ({"classes": 0}, "toy: classes: expected an integer >= 1; got 0"),
    ],
)
def test_a_data_set_says_what_is_wrong_with_it(changes: dict[str, object], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        dataset(**changes)
