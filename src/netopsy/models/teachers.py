"""Random deep ReLU teachers, students of the same depth, and starts of two-layer students near their teacher.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019), §4.2, §5.1, and their code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy._random import generator

Norm: TypeAlias = Literal["none", "before", "after"]
"""No batch normalization, or one before or after each ReLU (the paper's is after it)."""

CHOICES = (-0.5, -0.25, 0.0, 0.25, 0.5)
"""Of which a random teacher's weights are drawn, before its rows are normalized."""

KERNEL = 3
"""Of a convolution, without padding."""


def layered_net(
    *,
    inputs: int | tuple[int, ...],
    hidden: Sequence[int],
    outputs: int,
    multi: int = 1,
    conv: bool = False,
    norm: Norm = "none",
    affine: bool = False,
    bias: bool = True,
) -> nn.Sequential:
    """Build a student: linear maps or 3x3 convolutions, each with a ReLU, then a linear map to the outputs.

    Weights are PyTorch's default draw, from its global generator. Modules are `hidden0`, `relu0`, `norm0`, `hidden1`,
    and so on; `flatten` and `output`. `unit_sites` names the layers of units.

    Args:
        inputs: numbers of an example, or its shape; (channels, height, width) for convolutions.
        hidden: units (channels) of each hidden layer of the teacher.
        outputs: units of the last map.
        multi: factor on `hidden`.
        conv: 3x3 convolutions without padding.
        norm: where batch normalization stands.
        affine: whether it has a scale and a shift of its own.
        bias: of all maps.

    Raises:
        NetopsyError: for a size below 1, no hidden layer, an unknown `norm`, or images that are too small.

    >>> net = layered_net(inputs=4, hidden=(3, 5), outputs=2, multi=2, norm="after")
    >>> list(dict(net.named_children()))
    ['flatten', 'hidden0', 'relu0', 'norm0', 'hidden1', 'relu1', 'norm1', 'output']
    """
    shape = inputs if isinstance(inputs, tuple) else (inputs,)
    for name, sizes in (("inputs", shape), ("hidden", hidden), ("outputs", (outputs,)), ("multi", (multi,))):
        if not sizes:
            raise NetopsyError(f"{name}: expected at least one size; got none")
        for size in sizes:
            at_least(name, size, 1)
    one_of("norm", norm, ("none", "before", "after"))
    if conv and (len(shape) != 3 or min(shape[1:]) <= (KERNEL - 1) * len(hidden)):
        raise NetopsyError(
            f"inputs: expected (channels, height, width) of more than {(KERNEL - 1) * len(hidden)} pixels a side, "
            f"which {len(hidden)} 3x3 convolutions without padding take; got {shape}"
        )
    net = nn.Sequential()
    if not conv:
        net.add_module("flatten", nn.Flatten())
    below = shape[0] if conv else math.prod(shape)
    for place, units in enumerate(hidden):
        units *= multi
        linear = nn.Conv2d(below, units, KERNEL, bias=bias) if conv else nn.Linear(below, units, bias=bias)
        scale = (nn.BatchNorm2d if conv else nn.BatchNorm1d)(units, affine=affine) if norm != "none" else None
        net.add_module(f"hidden{place}", linear)
        if scale is not None and norm == "before":
            net.add_module(f"norm{place}", scale)
        net.add_module(f"relu{place}", nn.ReLU())
        if scale is not None and norm == "after":
            net.add_module(f"norm{place}", scale)
        below = units
    if conv:
        net.add_module("flatten", nn.Flatten())
        below *= math.prod(side - (KERNEL - 1) * len(hidden) for side in shape[1:])
    net.add_module("output", nn.Linear(below, outputs, bias=bias))
    return net


def unit_sites(net: nn.Sequential) -> tuple[str, ...]:
    """The modules that give each hidden layer's units: its ReLU, or the normalization after it.

    >>> unit_sites(layered_net(inputs=4, hidden=(3, 5), outputs=2))
    ('relu0', 'relu1')
    """
    names = list(dict(net.named_children()))
    ends = [names[place - 1] for place, name in enumerate(names) if name.startswith("hidden") and place > 1]
    last = [name for name in names if name not in ("flatten", "output")][-1]
    return tuple(name for name in [*ends, last] if name != "flatten")


@torch.no_grad()
def random_teacher(
    *,
    inputs: int | tuple[int, ...],
    hidden: Sequence[int],
    outputs: int,
    conv: bool = False,
    bias: bool = True,
    seed: int = 0,
) -> nn.Sequential:
    """Draw a teacher without batch normalization: §5.1, and the constants of the authors' code.

    Weights are drawn from `CHOICES`, a unit's again until it is neither zero nor another's of its layer; biases from
    U(-0.5, 0.5); then a unit's weights and its bias are divided by the length of its weights. In eval mode.

    Args:
        inputs: see `layered_net`, as the others.
        hidden: units of each hidden layer.
        outputs: units of the last map.
        conv: 3x3 convolutions.
        bias: of all maps.
        seed: of the draw; no other generator is used.

    Raises:
        NetopsyError: as `layered_net`; or for more units than there are different rows of weights.

    >>> teacher = random_teacher(inputs=4, hidden=(3, 5), outputs=2)
    >>> teacher.hidden1.weight.norm(dim=1).round(decimals=4).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    with torch.random.fork_rng():
        net = layered_net(inputs=inputs, hidden=hidden, outputs=outputs, conv=conv, bias=bias)
    source = generator(seed)
    for name, module in net.named_children():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight = module.weight
            rows = _separate_rows(name, len(weight), weight[0].numel(), source)
            length = rows.norm(dim=1)
            weight.copy_((rows / length[:, None]).view_as(weight))
            if module.bias is not None:
                module.bias.copy_((torch.rand(len(weight), generator=source) - 0.5) / length)
    return net.eval()


@torch.no_grad()
def start_near(student: nn.Sequential, teacher: nn.Sequential, *, p_w: float, p_v: float, seed: int) -> None:
    """Set a two-layer student near its teacher (Theorem 5, §4.2): its first units u are the teacher's, with noise.

    W are the units' incoming weights and V their outgoing ones. W_u = normalize(p_w W* + (1 - p_w) noise), W_r noise,
    each unit's weights of length one; V_u = p_v V* + (1 - p_v) noise, V_r noise, where V* and the noise over all
    units have columns (an output's weights) of length one, and so has V in the end. At p_v = 0, the rows of V_u are
    then like the others; at 1 they are longer. (What is normalized together in V is not printed: this reading has the
    initial gap that the paper speaks of.)

    Raises:
        NetopsyError: for networks that are not a student and its teacher of one hidden layer without biases, or a
            mixture outside [0, 1].
    """
    inside("p_w", p_w, 0.0, 1.0)
    inside("p_v", p_v, 0.0, 1.0)
    pairs = [[m for m in net.children() if isinstance(m, nn.Linear)] for net in (student, teacher)]
    mine, theirs = pairs
    if any(len(pair) != 2 or any(m.bias is not None for m in pair) for pair in pairs):
        raise NetopsyError(
            f"start: expected a student and a teacher with one hidden layer and no biases; got {len(mine) - 1} and "
            f"{len(theirs) - 1} hidden layers; set hidden to one size and bias=False"
        )
    source = generator(seed)
    w, v = (module.weight for module in mine)
    w_star, v_star = (module.weight for module in theirs)
    known = len(w_star)
    w_noise = _unit_rows(torch.randn(w.shape, generator=source, dtype=torch.float64))
    v_noise = _unit_rows(torch.randn(v.shape, generator=source, dtype=torch.float64))
    w_noise[:known] = p_w * _unit_rows(w_star.double()) + (1 - p_w) * w_noise[:known]
    v_noise[:, :known] = p_v * _unit_rows(v_star.double()) + (1 - p_v) * v_noise[:, :known]
    w.copy_(_unit_rows(w_noise))
    v.copy_(_unit_rows(v_noise))


def _unit_rows(rows: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.div(rows, length)


def _separate_rows(name: str, count: int, size: int, source: torch.Generator) -> Float[Tensor, "count size"]:
    """Rows of `CHOICES`, none of them zero or like another."""
    if size < 20 and count > len(CHOICES) ** size - 1:
        raise NetopsyError(
            f"teacher, {name}: expected at most {len(CHOICES) ** size - 1} units, for {size} weights make no more "
            f"different rows; got {count}"
        )
    choices = torch.tensor(CHOICES)
    seen = {(0.0,) * size}
    rows: list[Tensor] = []
    while len(rows) < count:
        row = choices[torch.randint(len(CHOICES), (size,), generator=source)]
        key = tuple(row.tolist())
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return torch.stack(rows)
