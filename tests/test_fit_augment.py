"""Pad, crop and flip against every outcome written out by loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from netopsy.training.augment import pad_crop_flip
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
