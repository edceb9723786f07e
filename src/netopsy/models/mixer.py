"""MLP-Mixer (Tolstikhin et al. 2021): MLPs across patches and MLPs across channels, in turns."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import at_least
from netopsy.models.attention import EPSILON, MLP
from netopsy.models.inits import Init, check_init, initialize
from netopsy.models.vit import check_images, patches


class MixerBlock(nn.Module):
    """x ← x + token_mixing(norm0(x)ᵀ)ᵀ; x ← x + channel_mixing(norm1(x))."""

    def __init__(self, *, positions: int, width: int, token_units: int, channel_units: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width, eps=EPSILON)
        self.token_mixing = MLP(positions, token_units, "gelu")
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.channel_mixing = MLP(width, channel_units, "gelu")

    def forward(self, x: Float[Tensor, "n l w"]) -> Float[Tensor, "n l w"]:
        """Return the next block's input."""
        x = x + self.token_mixing(self.norm0(x).transpose(1, 2)).transpose(1, 2)
        result: Tensor = x + self.channel_mixing(self.norm1(x))
        return result


class Mixer(nn.Module):
    """What `mixer` builds: `embedding`, `blocks.i`, `norm` and `head`, from bottom to top."""

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        size: int,
        patch: int,
        depth: int,
        width: int,
        token_units: int,
        channel_units: int,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embedding = nn.Linear(channels * patch**2, width)
        positions = (size // patch) ** 2
        self.blocks = nn.ModuleList(
            MixerBlock(positions=positions, width=width, token_units=token_units, channel_units=channel_units)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "n c h h"]) -> Float[Tensor, "n classes"]:
        """Return the logits, of the mean over patches."""
        x = self.embedding(patches(x, self.patch))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


def mixer(
    *,
    classes: int,
    channels: int = 3,
    size: int = 32,
    patch: int = 4,
    depth: int = 6,
    width: int = 64,
    token_units: int | None = None,
    channel_units: int | None = None,
    init: Init = "lecun-normal",
) -> Mixer:
    """Build an MLP-Mixer: images (n, channels, size, size) to logits (n, classes).

    `blocks.i` is `norm0`, `token_mixing` (`dense0`, `dense1`), `norm1`, `channel_mixing` (`dense0`, `dense1`): the
    parts of Zhang et al. 2022, Figure 9, which calls them layernorm0, tkmix, layernorm1 and chmix. The initial
    values are those of the authors' code, but for the head's weights: there 0, here drawn like all linear layers.

    Args:
        classes: logits of one example.
        channels: channels of an image.
        size: height and width of an image in pixels.
        patch: height and width of a patch; a divisor of `size`.
        depth: blocks.
        width: values of a patch between blocks.
        token_units: units of the MLPs across patches; width/2 if not told, rounded, at least one.
        channel_units: units of the MLPs across channels; 4·width if not told.
        init: of linear layers, see `netopsy.models.inits.initialize`; draws come from torch's global generator.

    Raises:
        NetopsyError: a size below 1, patches that do not divide the image, or an unknown `init`.

    >>> model = mixer(classes=10, channels=1, size=8, patch=2, depth=1, width=8)
    >>> [name for name, _ in model.blocks[0].named_children()]
    ['norm0', 'token_mixing', 'norm1', 'channel_mixing']
    """
    check_images(classes=classes, channels=channels, size=size, patch=patch)
    at_least("depth", depth, 1)
    at_least("width", width, 1)
    tokens = max(1, width // 2) if token_units is None else token_units
    units = 4 * width if channel_units is None else channel_units
    at_least("token_units", tokens, 1)
    at_least("channel_units", units, 1)
    check_init(init)
    model = Mixer(
        classes=classes, channels=channels, size=size, patch=patch, depth=depth, width=width, token_units=tokens,
        channel_units=units,
    )  # fmt: skip
    initialize(model, init)
    return model


def mixer_b16(*, classes: int = 1000, channels: int = 3, size: int = 224) -> Mixer:
    """Build Mixer-B/16 (Tolstikhin et al. 2021, Table 1): 59,880,472 parameters on ImageNet."""
    return mixer(classes=classes, channels=channels, size=size, patch=16, depth=12, width=768)


def mixer_l16(*, classes: int = 1000, channels: int = 3, size: int = 224) -> Mixer:
    """Build Mixer-L/16 (Tolstikhin et al. 2021, Table 1): 208,196,168 parameters on ImageNet."""
    return mixer(classes=classes, channels=channels, size=size, patch=16, depth=24, width=1024)
