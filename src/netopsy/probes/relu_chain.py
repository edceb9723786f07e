"""A network that is a chain of linear maps and ReLUs, as matrices in float64; a bias is one more node."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.network.addresses import evaluation_mode, unwrap

AGREES = 1e-4
"""How far a module's float32 outputs may be from its chain's, relative to the largest of them."""


@dataclass(frozen=True, eq=False)
class ReluChain:
    """Linear, ReLU, linear, ..., linear.

    Attributes:
        maps: one a linear module, (units + 1, inputs + 1): weights, the bias in the last column, and below them a row
            that hands the constant node on (value 1, gate 1, weight 1). The last map has no such row.
    """

    maps: tuple[Float[Tensor, "_ _"], ...] = field(repr=False)

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each layer, the input's first; the constant node is not counted."""
        return (self.maps[0].shape[1] - 1, *(len(each) - 1 for each in self.maps[:-1]), len(self.maps[-1]))

    def run(self, inputs: Float[Tensor, "n d"]) -> Run:
        """All activations and gates on some inputs."""
        values, gates = [_with_constant(inputs.double())], []
        for place, each in enumerate(self.maps):
            before = values[-1] @ each.T
            gate = (before > 0).double()
            if place == len(self.maps) - 1:
                gate = torch.ones_like(before)
            gates.append(gate)
            values.append(before * gate)
        return Run(tuple(values), tuple(gates))


@dataclass(frozen=True, eq=False)
class Run:
    """What a chain computes on n examples.

    Attributes:
        values: of the input and of each layer; all but the last end with the constant node, 1.
        gates: of each layer: ReLU'; 1 for the constant node and for the last layer.
    """

    values: tuple[Float[Tensor, "n _"], ...]
    gates: tuple[Float[Tensor, "n _"], ...]


def relu_chain(name: str, model: nn.Module, inputs: Float[Tensor, "n ..."]) -> ReluChain:
    """Read a network as a chain: all its `nn.Linear` modules in order of registration, held against its outputs.

    Args:
        name: the argument's, for messages.
        model: any module that computes linear maps with a ReLU between each two, on flattened inputs.
        inputs: a few examples, on which the chain must give what the model gives in eval mode.

    Raises:
        NetopsyError: for a model that is not such a chain, as one with batch normalization or a skip.
    """
    if not isinstance(model, nn.Module):
        raise NetopsyError(f"{name}: expected a torch module; got {type(model).__name__}")
    model = unwrap(model)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    maps = [_map(module, last=module is linear[-1]) for module in linear]
    expected = "expected a chain of nn.Linear modules with a ReLU between each two, and nothing else"
    sizes = [(each.shape[1], each.shape[0]) for each in maps]
    if not maps or any(a[1] != b[0] for a, b in itertools.pairwise(sizes)):
        raise NetopsyError(
            f"{name}: {expected}; got {type(model).__name__} with {len(maps)} linear modules of sizes "
            f"{', '.join(f'{module.in_features} to {module.out_features}' for module in linear) or 'none'}"
        )
    few = inputs[:8]
    flat = few.detach().flatten(1).cpu()
    if flat.shape[1] != sizes[0][0] - 1:
        raise NetopsyError(f"{name}: expected inputs of {sizes[0][0] - 1} numbers an example; got {flat.shape[1]}")
    chain = ReluChain(tuple(maps))
    with evaluation_mode(model), torch.no_grad():
        given = model(few.to(linear[0].weight))
    made = chain.run(flat).values[-1]
    same = isinstance(given, Tensor) and given.shape == made.shape
    if not same or not bool((given.double().cpu() - made).abs().max() <= AGREES * made.abs().max().clamp(min=1e-12)):
        raise NetopsyError(
            f"{name}: {expected}; {type(model).__name__} gives other outputs than its {len(maps)} linear modules as "
            "such a chain; networks with batch normalization, skips or other activations have no such rule"
        )
    return chain


def check_depths(student: ReluChain, teacher: ReluChain) -> None:
    """Refuse two chains of different depths, inputs or outputs."""
    a, b = student.widths, teacher.widths
    if len(a) != len(b) or a[0] != b[0] or a[-1] != b[-1]:
        raise NetopsyError(
            f"teacher: expected as many layers, inputs and outputs as the student has, {'-'.join(map(str, a))}; got "
            f"{'-'.join(map(str, b))}; widths of hidden layers alone may differ"
        )


def _map(module: nn.Linear, *, last: bool) -> Float[Tensor, "out in"]:
    weight = module.weight.detach().double().cpu()
    bias = (
        torch.zeros(len(weight), dtype=torch.float64) if module.bias is None else module.bias.detach().double().cpu()
    )
    rows = torch.cat([weight, bias[:, None]], 1)
    if last:
        return rows
    constant = torch.zeros(1, rows.shape[1], dtype=torch.float64)
    constant[0, -1] = 1
    return torch.cat([rows, constant])


def _with_constant(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d_1"]:
    return torch.cat([values, values.new_ones(len(values), 1)], 1)
