"""Vision transformers (Dosovitskiy et al. 2021): an image as a sequence of patches."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from netopsy._checks import NetopsyError, at_least, one_of
from netopsy.models.attention import EPSILON, Position, TransformerBlock, check_sizes
from netopsy.models.inits import Init, check_init, initialize

Pool: TypeAlias = Literal["token", "mean"]
"""What the head reads: a token of its own in front of the patches, or the mean over them."""


class ClassToken(nn.Module):
    """Puts a learned vector, 0 at first, in front of the positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Set the vector to 0."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Float[Tensor, "n l w"]) -> Float[Tensor, "n l2 w"]:
        """Return one position more."""
        return torch.cat([self.weight.expand(x.shape[0], 1, -1), x], 1)


class ViT(nn.Module):
    """What `vit` builds: `embedding`, `token` if there is one, `position`, `blocks.i`, `norm` and `head`."""

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: int,
        patch: int,
        depth: int,
        width: int,
        hidden: int,
        heads: int,
        pool: Pool,
    ) -> None:
        super().__init__()
        self.patch = patch
        positions = (size // patch) ** 2
        self.embedding = nn.Linear(channels * patch**2, width)
        self.token = ClassToken(width) if pool == "token" else None
        self.position = Position(positions + (pool == "token"), width, sigma=0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, hidden=hidden, heads=heads, bias=True, causal=False, activation="gelu")
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "n c h h"]) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        x = self.embedding(patches(x, self.patch))
        if self.token is not None:
            x = self.token(x)
        x = self.position(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits: Tensor = self.head(x.mean(1) if self.token is None else x[:, 0])
        return logits


def vit(
    *,
    classes: int,
    channels: int = 3,
    size: int = 32,
    patch: int = 4,
    depth: int = 6,
    width: int = 64,
    hidden: int | None = None,
    heads: int = 4,
    pool: Pool = "token",
    init: Init = "glorot-uniform",
) -> ViT:
    """Build a vision transformer: images (n, channels, size, size) to logits (n, classes).

    Each patch is mapped by `embedding`, learned positions are added, and blocks follow as in
    `netopsy.models.transformer.transformer`, with biases everywhere, GELU and attention to all positions: the parts
    of Zhang et al. 2022, Figure 8. Position vectors are drawn from N(0, 0.02²), the class token is 0 at first, as in
    the authors' code; there the head is too, here it is drawn like all linear layers. There is no dropout.

    Args:
        classes: logits of one example.
        channels: channels of an image.
        size: height and width of an image in pixels.
        patch: height and width of a patch; a divisor of `size`.
        depth: blocks.
        width: values of a position between blocks.
        hidden: units of each MLP; 4·width if not told.
        heads: of each attention; a divisor of the width.
        pool: see `Pool`.
        init: of linear layers, see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: a size below 1, patches that do not divide the image or heads that do not divide the width, an
            unknown `pool` or `init`.

    >>> model = vit(classes=10, channels=1, size=8, patch=2, depth=1, width=8, heads=2)
    >>> [name for name, _ in model.named_children()]
    ['embedding', 'token', 'position', 'blocks', 'norm', 'head']
    """
    check_images(classes=classes, channels=channels, size=size, patch=patch)
    units = check_sizes(depth=depth, width=width, hidden=hidden, heads=heads)
    one_of("pool", pool, get_args(Pool))
    check_init(init)
    model = ViT(
        classes=classes, channels=channels, size=size, patch=patch, depth=depth, width=width, hidden=units,
        heads=heads, pool=pool,
    )  # fmt: skip
    initialize(model, init)
    return model


def vit_b16(*, classes: int = 1000, channels: int = 3, size: int = 224) -> ViT:
    """Build ViT-B/16 (Dosovitskiy et al. 2021, Table 1): 86,567,656 parameters on ImageNet."""
    return vit(classes=classes, channels=channels, size=size, patch=16, depth=12, width=768, heads=12)


def vit_l16(*, classes: int = 1000, channels: int = 3, size: int = 224) -> ViT:
    """Build ViT-L/16 (Dosovitskiy et al. 2021, Table 1): 304,326,632 parameters on ImageNet."""
    return vit(classes=classes, channels=channels, size=size, patch=16, depth=24, width=1024, heads=16)


def patches(x: Float[Tensor, "n c h w"], patch: int) -> Float[Tensor, "n l values"]:
    """Cut images into patches, row by row; the values of one are channel by channel, in it row by row.

    >>> patches(torch.arange(8.0).view(1, 1, 2, 4), 2).tolist()
    [[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]
    """
    return pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def check_images(*, classes: int, channels: int, size: int, patch: int) -> None:
    """Refuse sizes below 1 and patches that do not divide the image."""
    at_least("classes", classes, 1)
    at_least("channels", channels, 1)
    at_least("size", size, 1)
    at_least("patch", patch, 1)
    if size % patch:
        raise NetopsyError(f"patch: expected a divisor of the image's size, {size}; got {patch}")
