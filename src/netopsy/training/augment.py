"""Random changes of train images that keep their labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad as padded


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
