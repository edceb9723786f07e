"""Random changes of train images that keep their labels."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad as padded

Augment: TypeAlias = Literal["none", "pad-crop-flip", "wrap-flip", "wrap-flip-turn"]
"""Ways to change images; "wrap-flip-turn" needs square ones."""


def augmented(
    images: Float[Tensor, " n *shape"], how: Augment, pad: int, generator: torch.Generator
) -> Float[Tensor, " n *shape"]:
    """Change images in one way; "none" gives them as they are, of any shape.

    Args:
        images: (n, c, h, w); not changed.
        how: see `pad_crop_flip` and `wrap_flip`.
        pad: the pixels to pad or shift by.
        generator: a CPU generator; it advances.
    """
    if how == "none":
        return images
    if how == "pad-crop-flip":
        return pad_crop_flip(images, pad, generator)
    return wrap_flip(images, pad, generator, turn=how == "wrap-flip-turn")


def pad_crop_flip(images: Float[Tensor, "n c h w"], pad: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Pad with zeros, crop back at a random place, and mirror left to right with probability 1/2 (CIFAR's custom).

    Each image draws its own place, uniformly from the (2·pad + 1)² possible ones, and its own flip. Zero is the mean
    gray of standardized images.

    Args:
        images: not changed.
        pad: zeros added on each of the four sides, in pixels.
        generator: a CPU generator; it advances.
    """
    count, height, width = len(images), images.shape[2], images.shape[3]
    top, left = torch.randint(2 * pad + 1, (2, count), generator=generator).to(images.device)
    flip = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    # A view of the window at every place; one is copied for each image: 3.5 times faster than gathering pixels.
    windows = padded(images, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(count, device=images.device), :, top, left]
    return torch.where(flip[:, None, None, None], crops.flip(-1), crops)


def wrap_flip(
    images: Float[Tensor, "n c h w"], shift: int, generator: torch.Generator, *, turn: bool = False
) -> Float[Tensor, "n c h w"]:
    """Shift with wrap-around and mirror left to right with probability 1/2 (Novak et al. 2018, A.5.4).

    Each image draws its own two shifts, uniform from -shift to shift, and its own flips; no pixel is lost.

    Args:
        images: not changed.
        shift: the most pixels, of both directions.
        generator: a CPU generator; it advances.
        turn: also mirror upside down with probability 1/2, and turn by -90°, 0° or 90°, each as likely (A.5.3);
            images must be square.
    """
    count, device = len(images), images.device
    height, width = images.shape[2:]
    down, right = torch.randint(-shift, shift + 1, (2, count), generator=generator).to(device)
    rows = (torch.arange(height, device=device) - down[:, None]) % height
    columns = (torch.arange(width, device=device) - right[:, None]) % width
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    quarter = torch.zeros(count, dtype=torch.int64, device=device)
    if turn:
        upside = (torch.rand(count, generator=generator) < 0.5).to(device)
        rows = torch.where(upside[:, None], rows.flip(1), rows)
        quarter = torch.randint(-1, 2, (count,), generator=generator).to(device)
    every = torch.arange(count, device=device)[:, None, None]
    changed = images[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    for turns in (-1, 1) if turn else ():
        changed = torch.where((quarter == turns)[:, None, None, None], changed.rot90(turns, (2, 3)), changed)
    return changed.contiguous()
