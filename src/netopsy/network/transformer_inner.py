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
    positional,
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
    apart = [attention.area for attention in block.attentions.values() if not attention.flat]
    beside = [name for name in left if not any(inside(name, area) for area in apart)]  # else no MLP's
    found |= _mlp(modules, named, [name for name in beside if _maps(dense_of(modules, name))])
    norms = dict.fromkeys(module_of(name) for name in left if is_norm(modules[module_of(name)]))
    number = {norm: i for i, norm in enumerate(norms)}
    found |= {name: {f"norm {number[module_of(name)]}": (None,)} for name in left if module_of(name) in number}
    return found


def _attention(
    model: nn.Module, block: Block, modules: Mapping[str, nn.Module], named: Mapping[str, Tensor]
) -> Labels:
    found: Labels = {}
    for kind, attention in block.attentions.items():
        roles: dict[str, tuple[str, ...]] = {}
        for name in named:
            if not inside(name, attention.area) or name in found:
                continue
            module = modules[name.rpartition(".")[0]]
            role = attention_role(_within(name, attention.area), flat=attention.flat or is_norm(module))
            around = attention.holder if inside(name, attention.holder) else attention.area
            if isinstance(module, nn.Embedding) or positional(_within(name, around)):
                found[name] = {f"{kind} positions": (None,)}
            elif is_norm(module):
                if role and role != ("out",):
                    found[name] = {f"{kind} {' and '.join(role)} norm": (None,)}
            elif role:
                roles[name] = role
        matrices = [name for name in roles if named[name].ndim > 1]
        single = {roles[name] for name in matrices if len(roles[name]) == 1}
        together = {module_of(name) for name in matrices if len(roles[name]) > 1}
        outs = [dense_of(modules, name) for name, role in roles.items() if role == ("out",)]
        width = next((width_of(module) for module in outs if module), None)
        for name, role in roles.items():
            if len(role) == 1:
                found[name] = {f"{kind} {role[0]}": (None,)}
            else:
                beside = single if module_of(name) in together else ()  # a fused weight beside a query of its own
                apart = tuple(one for one in role if (one,) not in beside)
                slices = fused(model, attention.holder, name, named[name], apart, width)
                found[name] = {f"{kind} {one}": slices[one] for one in apart}
    return found


def _within(parameter: str, module: str) -> list[str]:
    return written(parameter).split(".")[len(module.split(".")) :]


def _doubled(modules: Mapping[str, nn.Module], dense: Sequence[str]) -> bool:
    """Whether the first of two layers gives twice what the second takes: the name `Wi` does not say a gate."""
    first, second = dense_of(modules, dense[0]), dense_of(modules, dense[-1])
    assert first is not None
    assert second is not None
    return len(first.get_parameter("weight")) == 2 * width_of(second)


def _maps(layer: nn.Module | None) -> bool:
    """Whether a layer mixes features: a convolution of each channel by itself, as in Segformer's MLP, does not."""
    alone = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == layer.in_channels > 1
    return layer is not None and not alone


def _mlp(modules: Mapping[str, nn.Module], named: Mapping[str, Tensor], dense: Sequence[str]) -> Labels:
    """The dense layers: gate, up and down where they are called so, else by number."""
    layers = list(dict.fromkeys(module_of(name) for name in dense))
    gated = gated_roles([layer.rpartition(".")[2] for layer in layers])
    if set(gated) == {"Wi", "Wo"} and not _doubled(modules, dense):
        gated = {}
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
