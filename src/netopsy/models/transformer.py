"""A decoder-only transformer that predicts the next token (Vaswani et al. 2017; Liu et al. 2018)."""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor, nn

from netopsy._checks import at_least, one_of
from netopsy.models.attention import EPSILON, NonLinearity, Position, TransformerBlock, check_sizes
from netopsy.models.inits import Init, check_init, initialize


class TransformerLM(nn.Module):
    """What `transformer` builds: `embedding`, `position`, `blocks.i`, `norm` and `head`, from bottom to top."""

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        depth: int,
        width: int,
        hidden: int,
        heads: int,
        bias: bool,
        activation: NonLinearity,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = Position(length, width, sigma=math.sqrt(0.5))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, hidden=hidden, heads=heads, bias=bias, causal=True, activation=activation)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Int[Tensor, "n l"]) -> Float[Tensor, "n l vocabulary"]:
        """Return logits: those at position i predict token i + 1, from tokens 0 to i."""
        x = self.position(self.embedding(ids))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def transformer(
    *,
    vocabulary: int,
    length: int,
    depth: int = 4,
    width: int = 128,
    hidden: int | None = None,
    heads: int = 4,
    bias: bool = False,
    activation: NonLinearity = "relu",
    init: Init = "glorot-uniform",
) -> TransformerLM:
    """Build a language model: token ids, integers of shape (n, l), l ≤ length, to logits (n, l, vocabulary).

    Blocks normalize first: `blocks.i` is `norm0`, `attention` (`query`, `key`, `value`, `out`), `norm1` and `mlp`
    (`dense0`, `dense1`), the parts of Zhang et al. 2022, Figure 7. Embedding and head are not tied: the figure tells
    them apart. There is no dropout.

    The paper's model has "T5-Base" sizes: `depth=12, width=768, hidden=3072, heads=12`, of which it prints no code.
    Its 112,242,480 parameters are those of this layout with fixed positions and 17,712 tokens (it says 30,000); the
    defaults for biases, non-linearity and initial values are those of Flax's example on the same corpus, LM1B. There
    positions are sinusoids; here they are learned, and drawn with the sinusoids' mean square of 1/2.

    Args:
        vocabulary: number of tokens.
        length: most tokens of a sequence.
        depth: blocks.
        width: values of a position between blocks.
        hidden: units of each MLP; 4·width if not told.
        heads: of each attention; a divisor of the width.
        bias: whether the attention's four linear maps have biases; those of MLPs and the head do.
        activation: of the MLPs' units.
        init: of linear layers, see `netopsy.models.inits.initialize`; draws come from torch's global generator.
            Tokens are drawn from N(0, 1), normalizations are 1 and 0.

    Raises:
        NetopsyError: a size below 1, heads that do not divide the width, an unknown `activation` or `init`.

    >>> model = transformer(vocabulary=50, length=16, depth=1, width=8, heads=2)
    >>> [name.removesuffix(".weight") for name, _ in model.blocks.named_parameters() if name.endswith("weight")]
    ['0.norm0', '0.attention.query', '0.attention.key', '0.attention.value', '0.attention.out', '0.norm1',
     '0.mlp.dense0', '0.mlp.dense1']
    """
    at_least("vocabulary", vocabulary, 1)
    at_least("length", length, 1)
    units = check_sizes(depth=depth, width=width, hidden=hidden, heads=heads)
    one_of("activation", activation, ("relu", "gelu"))
    check_init(init)
    model = TransformerLM(
        vocabulary=vocabulary, length=length, depth=depth, width=width, hidden=units, heads=heads, bias=bias,
        activation=activation,
    )  # fmt: skip
    initialize(model, init)
    return model
