"""The parts of a transformer by the names that its users have for them: `block 3 / attention query`, `final norm`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from netopsy._checks import NetopsyError, shorten
from netopsy.network.addresses import canonical_names
from netopsy.network.transformer_blocks import Block, find_blocks, inside, parameters_of
from netopsy.network.transformer_ends import end_labels
from netopsy.network.transformer_inner import block_labels
from netopsy.network.transformer_words import module_of


@dataclass(frozen=True)
class Piece:
    """A parameter, or some of it, and what it is part of.

    Attributes:
        label: what the user calls that.
        parameter: its name in the model; a tied one has several, and a piece under each.
        index: of a part of a fused weight, as `Address` takes it.
        place: before, in or behind the blocks.
    """

    label: str
    parameter: str
    index: str | None
    place: Literal[0, 1, 2]


def transformer_blocks(model: nn.Module) -> dict[str, str]:
    """The blocks of a transformer: `"block 3"` -> the module's name, in the order in which the model holds them.

    Raises:
        NetopsyError: when the model has no blocks of attention and an MLP.
    """
    return {block.label: block.name for block in _blocks(model)}


def transformer_parts(model: nn.Module) -> dict[str, tuple[tuple[str, str | None], ...]]:
    """Every parameter of a transformer, or slice of a fused one, in exactly one part.

    Returns:
        label -> (first name of a parameter, index or None): embeddings, blocks, the rest, each in the order in which
        the model holds them. What is not recognized keeps its module's name. A tied parameter is in the part that
        comes first in the model; that part's label has the other's too: `"embedding / tokens + head"`.

    Raises:
        NetopsyError: when the model has no blocks of attention and an MLP, or fused weights of an unknown layout.
    """
    canonical = canonical_names(model)
    parts: dict[str, list[tuple[str, str | None]]] = {}
    users: dict[str, dict[str, None]] = {}
    home: dict[str, str] = {}
    for piece in sorted(pieces_of(model), key=lambda piece: piece.place):
        first = canonical[piece.parameter]
        if home.setdefault(first, piece.parameter) == piece.parameter:
            parts.setdefault(piece.label, []).append((first, piece.index))
        users.setdefault(first, {})[piece.label] = None
    return {_with_tied(label, pieces, users): tuple(pieces) for label, pieces in parts.items()}


def modules_called(model: nn.Module, role: str) -> list[str]:
    """The modules that are, in some block, the whole of a part whose name there the pattern matches.

    Raises:
        NetopsyError: as `transformer_parts`.
    """
    pieces = [piece for piece in pieces_of(model) if piece.place == 1 and piece.index is None]
    fitting = [piece for piece in pieces if re.fullmatch(role, piece.label.rpartition(" / ")[2])]
    return list(dict.fromkeys(module_of(piece.parameter) for piece in fitting))


def pieces_of(model: nn.Module) -> list[Piece]:
    """What each parameter is part of, in the order in which the model holds them.

    Raises:
        NetopsyError: as `transformer_parts`.
    """
    blocks = _blocks(model)
    named = list(parameters_of(model))
    inner = {block.label: block_labels(model, block) for block in blocks}
    home = {name: block for name in named for block in blocks if inside(name, block.name)}
    first = min(i for i, name in enumerate(named) if name in home)
    outer = end_labels(model, [name for name in named if name not in home], frozenset(named[:first]))
    stacks = {block.stack: block.name for block in blocks}
    pieces: list[Piece] = []
    for i, name in enumerate(named):
        if name in home:
            known = inner[home[name].label].get(name)
            if known is None:
                pieces.append(Piece(_own_name(model, name), name, None, 1))
            else:
                label = home[name].label
                pieces += [Piece(f"{label} / {role}", name, index, 1) for role in known for index in known[role]]
        elif name in outer:
            label = _in_stack(outer[name], name, stacks)
            pieces.append(Piece(label, name, None, 0 if outer[name].startswith("embedding") else 2))
        else:
            pieces.append(Piece(_own_name(model, name), name, None, 0 if i < first else 2))
    return _norms_apart(pieces)


def _blocks(model: nn.Module) -> tuple[Block, ...]:
    blocks = find_blocks(model)
    if not blocks:
        kinds = sorted({type(module).__name__ for module in model.children()})
        raise NetopsyError(
            "transformer: expected blocks that have a query, a key, a value and an MLP, by their names; "
            f"{type(model).__name__} (of {shorten(kinds)}) has none; sites='blocks' takes its repeated parts whole, "
            "'modules' every module with parameters"
        )
    return blocks


def _own_name(model: nn.Module, parameter: str) -> str:
    """What an unrecognized parameter is called: its module, or by itself where that holds more modules."""
    owner = parameter.rpartition(".")[0]
    below = list(model.get_submodule(owner).parameters())
    own = list(model.get_submodule(owner).parameters(recurse=False))
    return owner if owner and len(below) == len(own) else parameter


def _in_stack(label: str, parameter: str, stacks: Mapping[str, str]) -> str:
    """With the stack that it is in, where there are several: an encoder's final norm, and a decoder's."""
    for stack, block in stacks.items():
        around = block.split(".")
        if stack and inside(parameter, ".".join(around[: around.index(stack) + 1])):
            return f"{stack} {label}"
    return label


def _norms_apart(pieces: list[Piece]) -> list[Piece]:
    """Two norms behind the blocks are not one part."""
    owners: dict[str, dict[str, None]] = {}
    for piece in pieces:
        if piece.label.endswith("final norm"):
            owners.setdefault(piece.label, {})[module_of(piece.parameter)] = None
    several = {label: list(modules) for label, modules in owners.items() if len(modules) > 1}
    return [
        replace(piece, label=f"{piece.label} {several[piece.label].index(module_of(piece.parameter))}")
        if piece.label in several
        else piece
        for piece in pieces
    ]


def _with_tied(label: str, pieces: Iterable[tuple[str, str | None]], users: Mapping[str, Mapping[str, None]]) -> str:
    """With what else uses its parameters; the slices of one fused weight are no users of each other."""
    whole = dict.fromkeys(name for name, index in pieces if index is None)
    others = dict.fromkeys(other for name in whole for other in users[name] if other != label)
    if not others:
        return label
    return f"{label} + {next(iter(others))}" if len(others) == 1 else f"{label} + {len(others)} tied to it"
