"""Pad, crop and flip against every outcome written out by loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from netopsy.training.augment import augmented, pad_crop_flip, wrap_flip
from tests.oracles.training import crops


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outcomes(images: Tensor, changed: Tensor, pad: int) -> list[tuple[int, int, bool]]:
    """The (top, left, flip) of every image; fails where none, or more than one, explains it."""
    found = []
    for image, after in zip(images.numpy(), changed.numpy(), strict=True):
        (match,) = [draw for draw, out in crops(image, pad) if np.array_equal(out, after)]
        found.append(match)
    return found


def test_each_image_becomes_one_of_the_possible_ones() -> None:
    images = torch.rand(40, 2, 4, 5, generator=source()) + 1
    before = images.clone()
    draws = outcomes(images, pad_crop_flip(images, 1, source(1)), 1)
    assert torch.equal(images, before)
    assert len(set(draws)) > 9  # every image draws its own


def test_places_and_flips_are_uniform_and_independent() -> None:
    image = torch.rand(1, 1, 3, 4, generator=source()) + 1
    changed = pad_crop_flip(image.expand(9_000, 1, 3, 4), 1, source(2))
    counts = {draw: 0 for draw, _ in crops(image[0].numpy(), 1)}
    bytes_of = {out.tobytes(): draw for draw, out in crops(image[0].numpy(), 1)}
    for after in changed.numpy():
        counts[bytes_of[after.tobytes()]] += 1
    assert len(counts) == 18
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 60  # χ², 17 degrees of freedom: p = 1e-6


def test_without_padding_images_are_only_mirrored() -> None:
    images = torch.rand(30, 1, 3, 4, generator=source())
    changed = pad_crop_flip(images, 0, source(3))
    flipped = [not torch.equal(a, b) for a, b in zip(images, changed, strict=True)]
    assert 0 < sum(flipped) < 30
    for image, after, mirrored in zip(images, changed, flipped, strict=True):
        assert torch.equal(after, image.flip(-1) if mirrored else image)


def test_the_generator_decides() -> None:
    images = torch.rand(8, 3, 6, 6, generator=source())
    assert torch.equal(pad_crop_flip(images, 2, source(4)), pad_crop_flip(images, 2, source(4)))
    assert not torch.equal(pad_crop_flip(images, 2, source(4)), pad_crop_flip(images, 2, source(5)))


def wrapped(image: np.ndarray, shift: int, turn: bool) -> dict[bytes, int]:
    """Every outcome of `wrap_flip` of one image, by its bytes, and how many draws lead to it."""
    found: dict[bytes, int] = {}
    shifts, mirrors = range(-shift, shift + 1), (1, -1)
    draws = itertools.product(shifts, shifts, mirrors, mirrors if turn else (1,), (-1, 0, 1) if turn else (0,))
    for down, right, mirrored, upside, turns in draws:
        out = np.roll(image, (down, right), (1, 2))[:, ::upside, ::mirrored]
        key = np.ascontiguousarray(np.rot90(out, turns, (1, 2))).tobytes()
        found[key] = found.get(key, 0) + 1
    return found


@pytest.mark.parametrize("turn", [False, True])
def test_shifts_wrap_around_and_all_draws_are_as_likely(turn: bool) -> None:
    image = torch.rand(1, 2, 4, 4, generator=source())
    known = wrapped(image[0].numpy(), 1, turn)
    assert (len(known), sum(known.values())) == ((72, 108) if turn else (18, 18))
    draws = 40 * sum(known.values())
    changed = wrap_flip(image.expand(draws, 2, 4, 4), 1, source(1), turn=turn)
    counts = dict.fromkeys(known, 0)
    for after in changed.numpy():
        counts[after.tobytes()] += 1  # a KeyError where it is none of them
    chi = sum((counts[key] - 40 * ways) ** 2 / (40 * ways) for key, ways in known.items())
    assert chi < (len(known) - 1) + 6 * (2 * len(known)) ** 0.5


def test_wrap_flip_leaves_the_images_and_follows_its_generator() -> None:
    images = torch.rand(5, 1, 3, 4, generator=source())
    before = images.clone()
    first = wrap_flip(images, 2, source(4))
    assert torch.equal(images, before)
    assert torch.equal(first, wrap_flip(images, 2, source(4)))
    assert torch.equal(first.flatten(1).sort(1).values, images.flatten(1).sort(1).values)


def test_every_way_has_its_name() -> None:
    images = torch.rand(20, 1, 4, 4, generator=source())
    assert augmented(images, "none", 1, source(9)) is images
    for how, expected in {
        "pad-crop-flip": pad_crop_flip(images, 1, source(9)),
        "wrap-flip": wrap_flip(images, 1, source(9)),
        "wrap-flip-turn": wrap_flip(images, 1, source(9), turn=True),
    }.items():
        assert torch.equal(augmented(images, how, 1, source(9)), expected)  # type: ignore[arg-type]
    assert not torch.equal(augmented(images, "wrap-flip", 1, source(9)), augmented(images, "wrap-flip", 2, source(9)))
