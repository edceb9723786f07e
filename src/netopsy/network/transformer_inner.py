"""What the parameters of one transformer block are: attention, MLP, norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from netopsy.network.transformer_blocks import Block, inside, parameters_of
from netopsy.network.transformer_fused import fused, halves, width_of
from netopsy.network.transformer_words import (
    attention_role,
    dense_of,
    gated_roles,
    is_norm,
    module_of,
    words,
    written,
)

Labels = dict[str, dict[str, tuple[str | None, ...]]]
"""Parameter -> what it is -> the indices that are so; None for all of it. What is not recognized is not there."""


def block_labels(model: nn.Module, block: Block) -> Labels:
    """What is known of the parameters of a block.

    Raises:
        NetopsyError: for a fused weight of an unknown layout.
    """
    modules = dict(model.named_modules())
    named = {name: value for name, value in parameters_of(model).items() if inside(name, block.name)}
    found = _attention(model, block, modules, named)
    left = [name for name in named if name not in found]
    found |= _mlp(modules, named, [name for name in left if dense_of(modules, name)])
    norms = dict.fromkeys(module_of(name) for name in left if is_norm(modules[module_of(name)]))
    number = {norm: i for i, norm in enumerate(norms)}
    found |= {name: {f"norm {number[module_of(name)]}": (None,)} for name in left if module_of(name) in number}
    return found


def _attention(
    model: nn.Module, block: Block, modules: Mapping[str, nn.Module], named: Mapping[str, Tensor]
) -> Labels:
    found: Labels = {}
    for kind, attention in block.attentions.items():
        depth = len(attention.area.split("."))
        roles: dict[str, tuple[str, ...]] = {}
        for name in named:
            if not inside(name, attention.area) or name in found:
                continue
            module = modules[name.rpartition(".")[0]]
            parts = written(name).split(".")[depth:]
            role = attention_role(parts, flat=attention.flat or is_norm(module))
            if isinstance(module, nn.Embedding) or {"relative", "position", "pos"} & words(parts[-1]):
                found[name] = {f"{kind} positions": (None,)}
            elif is_norm(module):
                if role and role != ("out",):
                    found[name] = {f"{kind} {' and '.join(role)} norm": (None,)}
            elif role:
                roles[name] = role
        single = {role for role in roles.values() if len(role) == 1}
        outs = [dense_of(modules, name) for name, role in roles.items() if role == ("out",)]
        width = next((width_of(module) for module in outs if module), None)
        for name, role in roles.items():
            apart = tuple(one for one in role if (one,) not in single)  # a fused weight beside a query of its own
            if len(role) == 1:
                found[name] = {f"{kind} {role[0]}": (None,)}
            else:
                slices = fused(model, attention.holder, name, named[name], apart, width)
                found[name] = {f"{kind} {one}": slices[one] for one in apart}
    return found


def _mlp(modules: Mapping[str, nn.Module], named: Mapping[str, Tensor], dense: Sequence[str]) -> Labels:
    """The dense layers: gate, up and down where they are called so, else by number."""
    layers = list(dict.fromkeys(module_of(name) for name in dense))
    gated = gated_roles([layer.rpartition(".")[2] for layer in layers])
    found: Labels = {}
    for name in dense:
        layer = module_of(name)
        roles = gated.get(layer.rpartition(".")[2])
        if roles is None:
            found[name] = {f"MLP dense {layers.index(layer)}": (None,)}
        elif len(roles) == 1:
            found[name] = {f"MLP {roles[0]}": (None,)}
        else:
            slices = halves(modules[layer], name, named[name], roles)
            found[name] = {f"MLP {role}": slices[role] for role in roles}
    return found
