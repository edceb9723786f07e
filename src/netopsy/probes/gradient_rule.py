"""The gradient that reaches a student's hidden units, as its teacher's units and its own pull and push it.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019),
Theorem 1. With the constant node of the biases it holds for any depth, widths and biases, example by example.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy.probes.relu_chain import ReluChain, Run, check_depths, relu_chain


@dataclass(frozen=True, eq=False)
class Betas:
    """How strongly a layer's units are tied through the layers above, for each example.

    Attributes:
        across: β*, a student's unit j with a teacher's t.
        within: β, a student's unit j with another k.
    """

    across: Float[Tensor, "n j t"]
    within: Float[Tensor, "n j k"]


def recursive_gradients(
    student: nn.Module, teacher: nn.Module, inputs: Float[Tensor, "n ..."]
) -> tuple[Float[Tensor, "n _"], ...]:
    """The negative gradient of ½‖student(x) - teacher(x)‖² at every pre-activation, by the recursive rule.

    g_j(x) = f'_j(x) [Σ_t β*_jt(x) f_t(x) - Σ_k β_jk(x) f_k(x)], with β* and β the identity at the top and, from a
    layer with units k, t' down to one with units j, t, β*_jt = Σ_kt' w_jk f'_k β*_kt' f'_t' w*_tt'; β alike. f are
    activations, f' gates of the ReLU; the constant node behind the biases (f = f' = 1) is one of the units that are
    summed over. Memory is 8 bytes times examples, the student's width and the sum of both widths.

    Args:
        student: linear maps with a ReLU between each two (`nn.Sequential`, `netopsy.models.fcn.fcn`);
            float32 ones are computed in float64.
        teacher: of the same depth, inputs and outputs; hidden layers may be of other widths.
        inputs: examples.

    Returns:
        For each layer from the first hidden one to the outputs, (n, units), in float64.

    Raises:
        NetopsyError: for networks that are no such chains, or do not fit together.

    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    >>> [tuple(g.shape) for g in recursive_gradients(net, net, torch.randn(4, 3))]
    [(4, 5), (4, 2)]
    """
    a, b = read_pair(student, teacher, inputs)
    flat = inputs.detach().flatten(1).double().cpu()
    mine, theirs = a.run(flat), b.run(flat)
    layers = [
        layer_gradient(mine, theirs, layer, betas)[:, : a.widths[layer + 1]]
        for layer, betas in descend(a, b, mine, theirs)
    ]
    return tuple(reversed(layers))


def read_pair(student: nn.Module, teacher: nn.Module, inputs: Float[Tensor, "n ..."]) -> tuple[ReluChain, ReluChain]:
    """Both as chains that fit together."""
    chains = relu_chain("student", student, inputs), relu_chain("teacher", teacher, inputs)
    check_depths(*chains)
    return chains


def descend(student: ReluChain, teacher: ReluChain, mine: Run, theirs: Run) -> Iterator[tuple[int, Betas]]:
    """β* and β of every layer, from the outputs (the last map's place) down to the first hidden layer (0)."""
    n, top = mine.values[-1].shape
    identity = torch.eye(top, dtype=torch.float64).expand(n, top, top)
    across, within = identity, identity
    for layer in reversed(range(len(student.maps))):
        yield layer, Betas(across, within)
        up, gates = student.maps[layer], mine.gates[layer]
        other, other_gates = teacher.maps[layer], theirs.gates[layer]
        across = up.T @ (gates[:, :, None] * across * other_gates[:, None]) @ other
        within = up.T @ (gates[:, :, None] * within * gates[:, None]) @ up


def layer_gradient(mine: Run, theirs: Run, layer: int, betas: Betas) -> Float[Tensor, "n units"]:
    """g of a layer's units, the constant node included (where it means nothing)."""
    pull = (betas.across @ theirs.values[layer + 1][:, :, None]).squeeze(2)
    push = (betas.within @ mine.values[layer + 1][:, :, None]).squeeze(2)
    return mine.gates[layer] * (pull - push)
