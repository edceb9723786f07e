"""Where the blocks of a transformer are, and attention in them: found by the shape of the tree of modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from netopsy.network.transformer_words import (
    QKV,
    attends,
    attention_role,
    is_norm,
    module_of,
    positional,
    projected,
    words,
    written,
)


@dataclass(frozen=True)
class Attention:
    """A module that attends.

    Attributes:
        area: the module that holds it with its output projection and norm, and nothing else.
        holder: the module that holds query, key and value.
        flat: whether it holds other matrices too (a block that has its projections itself).
    """

    area: str
    holder: str
    flat: bool = False


@dataclass(frozen=True)
class Block:
    """A transformer block.

    Attributes:
        name: of the module.
        number: of the block in its stack, from 0.
        stack: what tells its stack from others, such as `"decoder"`; empty where there is one.
        attentions: the modules that attend in it, by what they are called: `"attention"`, `"cross-attention"`.
    """

    name: str
    number: int
    stack: str
    attentions: Mapping[str, Attention]

    @property
    def label(self) -> str:
        """`"block 3"`, or `"decoder block 3"`."""
        return f"{self.stack} block {self.number}".strip()


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, in the order in which the model holds them: a tied one under the name of each module's.

    A module that is registered twice has one name.
    """
    return {
        name: value
        for prefix, module in model.named_modules()
        for name, value in module.named_parameters(prefix, recurse=False, remove_duplicate=False)
    }


def find_blocks(model: nn.Module) -> tuple[Block, ...]:
    """The smallest modules that hold attention and an MLP, in the order in which the model holds them.

    Attention is a module with a query, a key and a value, or all of them in one, by their names; an MLP is any other
    matrix beside it. What stands behind the lists of layers is a block only if they have one of its class: the head
    of SigLIP's vision model attends, too. Empty for a model that has no such module, or only as a whole.
    """
    named = parameters_of(model)
    matrices = _matrices(model, named)
    found: dict[str, dict[Attention, None]] = {}
    holders = _holders(model, matrices)
    for holder in holders:
        attention, name = _attention(holder, holders, matrices)
        if name:
            found.setdefault(_callable(model, name, named), {})[attention] = None
    names = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    names = [name for name in names if _has_more(name, found[name], matrices)]
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    names = _stacked(model, sorted(names, key=order.__getitem__))
    counts: dict[str, int] = {}
    blocks = []
    for name, stack in zip(names, _stacks(names), strict=True):
        counts[stack] = counts.get(stack, -1) + 1
        blocks.append(Block(name, counts[stack], stack, _called(name, list(found[name]))))
    return tuple(blocks)


def inside(name: str, module: str) -> bool:
    """Whether a name is that of a module or of something in it.

    >>> inside("a.b", "a"), inside("ab", "a")
    (True, False)
    """
    return f"{name}.".startswith(f"{module}.")


def _matrices(model: nn.Module, named: Mapping[str, Tensor]) -> list[str]:
    """Names of weights that map features: no norm, no table of embeddings or positions."""
    modules = dict(model.named_modules())
    kept = []
    for name, value in named.items():
        owner = modules[name.rpartition(".")[0]]
        table = isinstance(owner, nn.Embedding) or {"relative", "position"} & words(name.rpartition(".")[2])
        if value.ndim >= 2 and not table and not is_norm(owner):
            kept.append(name)
    return kept


def _holders(model: nn.Module, matrices: Iterable[str]) -> list[str]:
    """Modules in which query, key and value are."""
    roles: dict[str, set[str]] = {}
    for name in matrices:
        parts = written(name).split(".")
        for i in range(len(parts) - 1, 0, -1):
            holder = ".".join(parts[:i])
            if role := projected(parts[i]):
                kind = f"{parts[i - 1]} {type(model.get_submodule(holder)).__name__}".lower()
                if "in" not in words(parts[i]) or "att" in kind:  # other modules have an in_proj, too
                    roles.setdefault(holder, set()).update(role)
                break
    return [holder for holder in roles if roles[holder] >= set(QKV)]


def _attention(holder: str, holders: Sequence[str], matrices: Sequence[str]) -> tuple[Attention, str]:
    """How far around query, key and value there is but one matrix more; and the module around that.

    Matrices about positions do not count. A module that is called attention, and nothing else, may hold more of them
    and is no block; one around it that is called so belongs to it with its output projection.
    """
    depth = len(holder.split("."))
    counted = [
        name for name in matrices if not (inside(name, holder) and positional(written(name).split(".")[depth:]))
    ]
    if _others(holder, counted, flat=True) > 1 and not attends(holder.rpartition(".")[2]):
        return Attention(holder, holder, flat=True), holder
    area = holder
    while "." in area:
        above = area.rpartition(".")[0]
        others = _others(above, counted, flat=False)
        alone = not any(inside(other, above) for other in holders if other != holder)
        still = alone and attends(above.rpartition(".")[2]) and others <= _others(area, counted, flat=False) + 1
        if others > 1 and not still:
            break
        area = above
    return Attention(area, holder), area.rpartition(".")[0]


def _others(module: str, matrices: Iterable[str], *, flat: bool) -> int:
    """Matrices in a module that are none of query, key and value (with `flat`, nor an output projection)."""
    known = {"query", "key", "value"} | ({"out"} if flat else set())
    depth = len(module.split("."))
    return len(
        {
            module_of(name)
            for name in matrices
            if inside(name, module) and not known & set(attention_role(written(name).split(".")[depth:], flat=flat))
        }
    )


def _callable(model: nn.Module, name: str, parameters: Iterable[str]) -> str:
    """The module that is called where a block's parts stand in a list inside it (as in T5's)."""
    above = name.rpartition(".")[0]
    if not isinstance(model.get_submodule(name), nn.ModuleList | nn.ModuleDict) or not above:
        return name
    if isinstance(model.get_submodule(above), nn.ModuleList | nn.ModuleDict | nn.Sequential):
        return name
    more = any(inside(parameter, above) and not inside(parameter, name) for parameter in parameters)
    return name if more else above


def _stacked(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Without what stands behind the lists of layers and is of another class: a head."""
    modules = dict(model.named_modules())
    lists = [name for name, module in modules.items() if isinstance(module, nn.ModuleList | nn.Sequential)]
    listed = [name for name in names if any(inside(name, above) for above in lists)]
    kinds = {type(modules[name]) for name in listed}
    first = names.index(listed[0]) if listed else len(names)
    return [name for i, name in enumerate(names) if i < first or name in listed or type(modules[name]) in kinds]


def _has_more(block: str, attentions: Iterable[Attention], matrices: Iterable[str]) -> bool:
    areas = [attention.area for attention in attentions if not attention.flat]
    return any(inside(name, block) and not any(inside(name, area) for area in areas) for name in matrices)


def _called(block: str, attentions: Sequence[Attention]) -> dict[str, Attention]:
    """What to call each; several of a kind are numbered."""
    kinds: dict[str, list[Attention]] = {}
    for attention in attentions:
        said = frozenset().union(*map(words, attention.holder[len(block) :].split(".")))
        crossed = len(attentions) > 1 and said & {"cross", "crossattention", "enc", "encoder", "multihead"}
        kinds.setdefault("cross-attention" if crossed else "attention", []).append(attention)
    called = {}
    for kind, members in kinds.items():
        for i, attention in enumerate(members):
            called[kind if len(members) == 1 else f"{kind} {i}"] = attention
    return called


def _stacks(names: Sequence[str]) -> list[str]:
    """What tells the stacks of an encoder and a decoder apart: the first part of the names where they differ.

    >>> _stacks(["encoder.block.0", "encoder.block.1", "decoder.block.0"])
    ['encoder', 'encoder', 'decoder']
    >>> _stacks(["layers.0.blocks.0", "layers.1.blocks.0"])
    ['', '']
    """
    parents = [name.split(".")[:-1] for name in names]
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            return list(parts) if not any(part.isdigit() for part in parts) else [""] * len(names)
    return [""] * len(names)
