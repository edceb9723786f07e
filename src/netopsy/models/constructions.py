"""The constructions of Casper et al. 2019, section 2: wider networks that compute what a small one computes.

Each takes a fully connected network S (`netopsy.models.fcn.fcn`: ReLU layers of one width, with or without biases)
and returns a wider one, L, of the same depth, the same function in eval mode but for rounding, and another robustness
or redundancy. S is not changed; L shares no tensor with it. In every hidden layer of L the units of S come first, in
their order. L has S's dtype, device and dropout; no draw touches torch's global generator.

What the paper says of L beside S, when the same share of the units of both is ablated:

- `duplicated`: redundant functional units (i); robustness, compressibility and similar units go up.
- `counterweighted`: redundant functional units (i); robustness falls as eta grows, the other two go up.
- `with_silent_units`: silent units (iv); robustness is equal or less, compressibility goes up, similar units stay.
- `with_blocked_units`: non-redundant blocked units (iii); none of the three goes up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, inside
from netopsy._random import derive, generator
from netopsy.models.fcn import FCN


def duplicated(small: FCN) -> FCN:
    """Give every hidden unit a twin and halve the weights that leave it.

    Unit j of a layer of n has its twin at n + j: the same incoming weights and bias, and the same outgoing weights,
    W/2 each. Ablating one of the two takes away half of what ablating j in S takes away from each value of the next
    layer; ablating both takes away the whole.

    Raises:
        NetopsyError: `small` is no `FCN`.

    >>> from netopsy.models.fcn import fcn
    >>> duplicated(fcn(inputs=4, classes=2, depth=2, width=8)).hidden[1]
    Linear(in_features=16, out_features=16, bias=True)
    """
    return _doubled(small, 0.0)


def counterweighted(small: FCN, *, eta: float) -> FCN:
    """As `duplicated`, then add eta to the outgoing weights of each unit and subtract it from its twin's.

    The pair's contributions W/2 + eta and W/2 - eta still sum to W, but neither unit can go alone: each takes eta
    times its activation along. The sign of eta alternates over what reads the unit, +, -, +, …: the units of the next
    layer or the classes. One sign for all, as the paper's text reads, would in the last hidden layer move all logits
    by the same amount, and no ablation would change another label than with eta 0. Rounding errors grow with eta.

    Args:
        small: S.
        eta: added to the halved weights; 0 is `duplicated`.

    Raises:
        NetopsyError: `small` is no `FCN`, or `eta` is not finite.
    """
    inside("eta", eta, -math.inf, math.inf, open_low=True, open_high=True)
    return _doubled(small, eta)


def with_silent_units(small: FCN, *, count: int, seed: int = 0) -> FCN:
    """Add units to every hidden layer that no input activates.

    Their incoming weights are 0 and their biases, where S has biases, -1. Their outgoing weights are drawn from a
    normal distribution as large as that of the weights of S beside them: they are silent, not blocked.

    Args:
        small: S.
        count: units added to each hidden layer.
        seed: of the outgoing weights.

    Raises:
        NetopsyError: `small` is no `FCN`, or `count` is below 1.
    """
    at_least("count", count, 1)
    normal = partial(_normal, seed=derive(seed, "silent units"))
    return _extended(small, count, incoming=_zeros, biases=_minus_one, outgoing=normal)


def with_blocked_units(small: FCN, *, count: int, seed: int = 0, inputs: Tensor | None = None) -> FCN:
    """Add units to every hidden layer that are active, each in its own way, and that nothing reads.

    They read the inputs or the units of S below; their outgoing weights are 0. Without `inputs` their incoming
    weights and biases are drawn from a normal distribution as large as that of the layer's own. On correlated inputs,
    images say, such units are correlated too, and not what the paper calls non-redundant. With `inputs` they are
    chosen, one after another, from 16 times as many: each is the one whose largest `abs(r)` with the units that
    the layer has by then is smallest on these inputs. Their thresholds are drawn so that they are active on 10 to
    60 % of them (where S has biases), and their variance is made the mean variance of the layer's own.

    Args:
        small: S.
        count: units added to each hidden layer.
        seed: of the incoming weights.
        inputs: examples (n, ...), at least two; None to draw without a look at any.

    Raises:
        NetopsyError: `small` is no `FCN`, `count` is below 1, or `inputs` do not fit S.
    """
    at_least("count", count, 1)
    if inputs is None:
        incoming = partial(_normal, seed=derive(seed, "blocked units"))
        biases = partial(_normal, seed=derive(seed, "blocked units, biases"))
        return _extended(small, count, incoming=incoming, biases=biases, outgoing=_zeros)
    units = _uncorrelated(_layers(small)[:-1], inputs, count, seed)
    return _extended(
        small,
        count,
        incoming=lambda beside, shape, number: units[number][0],
        biases=lambda beside, shape, number: units[number][1],
        outgoing=_zeros,
    )


POOL = 16
"""Units drawn for each one that is chosen."""

ACTIVE = (0.1, 0.6)
"""Share of the inputs on which a drawn unit is active: between these."""


def _uncorrelated(layers: Sequence[Layer], inputs: Tensor, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Weights (count, inputs) and biases (count,) of added units for each hidden layer, in S's dtype."""
    below = inputs.detach().flatten(1).double()
    if len(below) < 2 or below.shape[1] != layers[0][0].shape[1]:
        raise NetopsyError(
            f"inputs: expected at least two examples of {layers[0][0].shape[1]} values for this network; got shape "
            f"{tuple(inputs.shape)}"
        )
    found = []
    for number, (weight, bias) in enumerate(layers):
        own = _relu(below, weight.double(), None if bias is None else bias.double())
        drawn = _normal(weight, (POOL * count, weight.shape[1]), number, seed=derive(seed, "blocked units")).double()
        threshold = drawn.new_zeros(len(drawn))
        if bias is not None:
            low, high = (1 - share for share in ACTIVE)
            source = generator(derive(seed, "blocked units, thresholds", number))
            share = torch.rand(len(drawn), generator=source, dtype=torch.float64) * (low - high) + high
            place = (share.to(below.device) * (len(below) - 1)).round().long()
            threshold = (below @ drawn.T).sort(0).values.gather(0, place[None])[0]
        active = _relu(below, drawn, -threshold)
        chosen = _least_correlated(own, active, count)
        spread = active[:, chosen].std(0)
        scale = own.var(0).mean().sqrt() / spread.clamp(min=torch.finfo(torch.float64).tiny)
        found.append(((drawn[chosen] * scale[:, None]).to(weight), (-threshold[chosen] * scale).to(weight)))
        below = own
    return found


def _least_correlated(own: Float[Tensor, "n o"], drawn: Float[Tensor, "n d"], count: int) -> list[int]:
    """Greedily, by the largest |r| with any unit there is by then; units that do not vary are left out of both."""
    own, drawn = (part - part.mean(0) for part in (own, drawn))
    own, drawn = (torch.nan_to_num(part / part.norm(dim=0)) for part in (own, drawn))
    worst = (own.T @ drawn).abs().amax(0)
    worst[drawn.square().sum(0) < 0.5] = torch.inf  # of norm 1, but for units that do not vary
    chosen: list[int] = []
    for _ in range(count):
        best = int(worst.argmin())
        chosen.append(best)
        worst = torch.maximum(worst, (drawn[:, best] @ drawn).abs())
        worst[best] = torch.inf
    return chosen


def _relu(x: Float[Tensor, "n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias).clamp(min=0)


Fill: TypeAlias = Callable[[Tensor, tuple[int, ...], int], Tensor]
"""New entries beside a tensor of S: that tensor, the shape of the new ones, the layer's number."""

Layer: TypeAlias = tuple[Tensor, Tensor | None]
"""Weight (outputs, inputs) and bias (outputs,)."""


def _zeros(beside: Tensor, shape: tuple[int, ...], number: int) -> Tensor:
    return beside.new_zeros(shape)


def _minus_one(beside: Tensor, shape: tuple[int, ...], number: int) -> Tensor:
    return beside.new_full(shape, -1.0)


def _normal(beside: Tensor, shape: tuple[int, ...], number: int, *, seed: int) -> Tensor:
    """Draws with mean 0 and the root mean square of the tensor beside."""
    drawn = torch.randn(shape, dtype=torch.float64, generator=generator(derive(seed, number)))
    return drawn.to(beside) * beside.square().mean().sqrt()


def _doubled(small: FCN, eta: float) -> FCN:
    layers = _layers(small)
    wide: list[Layer] = []
    for number, (weight, bias) in enumerate(layers):
        if number > 0:
            signs = weight.new_ones(len(weight), 1)
            signs[1::2] = -1.0
            weight = torch.cat([weight / 2 + eta * signs, weight / 2 - eta * signs], dim=1)
        if number < len(layers) - 1:
            weight = torch.cat([weight, weight])
            bias = None if bias is None else torch.cat([bias, bias])
        wide.append((weight, bias))
    return _network(small, wide)


def _extended(small: FCN, count: int, *, incoming: Fill, biases: Fill, outgoing: Fill) -> FCN:
    """Add units to every hidden layer that read S and not each other."""
    layers = _layers(small)
    wide: list[Layer] = []
    for number, (weight, bias) in enumerate(layers):
        rows, columns = weight.shape
        if number > 0:
            weight = torch.cat([weight, outgoing(weight, (rows, count), number)], dim=1)
        if number < len(layers) - 1:
            added = incoming(weight[:, :columns], (count, columns), number)
            if number > 0:
                added = torch.cat([added, added.new_zeros(count, count)], dim=1)
            weight = torch.cat([weight, added])
            bias = None if bias is None else torch.cat([bias, biases(bias, (count,), number)])
        wide.append((weight, bias))
    return _network(small, wide)


def _layers(small: FCN) -> list[Layer]:
    if not isinstance(small, FCN):
        raise NetopsyError(
            f"construction: expected a network of netopsy.models.fcn.fcn; got {type(small).__name__}; copy its "
            "weights into one"
        )
    linear = [*small.hidden, small.classifier]
    return [(layer.weight.detach(), None if layer.bias is None else layer.bias.detach()) for layer in linear]


def _network(small: FCN, layers: Sequence[Layer]) -> FCN:
    """S with other linear layers."""
    large = copy.deepcopy(small)
    *hidden, classifier = [_linear(weight, bias).train(small.training) for weight, bias in layers]
    for number, layer in enumerate(hidden):
        large.hidden[number] = layer
    large.classifier = classifier
    return large


def _linear(weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")  # draws nothing
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer
