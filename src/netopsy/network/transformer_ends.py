"""What the parameters of a transformer outside its blocks are: embeddings, final norm, pooler, head."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from netopsy.network.transformer_words import is_dense, is_norm, module_of, words

HEAD = {"head", "heads", "classifier", "cls", "score", "predictions", "generator", "logits", "outputs", "unembed"}
_KINDS = (
    ("types", {"type", "segment", "segments"}),
    ("positions", {"position", "positions", "positional", "pos", "rel", "relative", "wpe"}),
    ("mask token", {"mask"}),
    ("distillation token", {"dist", "distillation"}),
    ("register tokens", {"register", "registers"}),
    ("class token", {"class", "cls"}),
    ("patches", {"patch", "patches"}),
    ("tokens", {"word", "words", "tokens", "wte"}),
)
"""What is embedded -> the words that say so; the first that is said counts."""


def end_labels(model: nn.Module, outside: Sequence[str], before: frozenset[str]) -> dict[str, str]:
    """What is known of the parameters outside the blocks.

    Args:
        model: the whole model.
        outside: the parameters' names, in order.
        before: those that the model holds before its first block.
    """
    modules = dict(model.named_modules())
    owners = {name: modules[name.rpartition(".")[0]] for name in outside}
    behind = [name for name in outside if name not in before and is_dense(owners[name])]
    last = module_of(behind[-1]) if behind else None
    found: dict[str, str] = {}
    for name in outside:
        label = _label(name, owners[name], early=name in before)
        if label is None and last is not None and module_of(name) == last:
            label = "head"
        if label is not None:
            found[name] = label
    return found


def _label(name: str, owner: nn.Module, *, early: bool) -> str | None:
    said = frozenset().union(*map(words, name.split(".")))
    embeds = any(word.startswith("embed") for word in said) and not said & {"out", "unembed"}
    if "pooler" in said:
        return "pooler"
    if is_norm(owner):
        if embeds or (early and not said & {"final", "f"}):
            return "embedding / norm"
        if said & HEAD:
            return "head"
        return None if re.search(r"\.\d+\..*\.", name) else "final norm"  # one between the stages of blocks
    kind = _kind(name, owner)
    if isinstance(owner, nn.Embedding) and not said & {"head"}:
        return f"embedding / {kind or 'tokens'}"
    table = not is_dense(owner) and kind is not None  # a parameter of its own: a class token, positions
    if table and said & (HEAD - {"cls"}):
        return "head"
    if table or (early and _is_convolution(owner)):
        return f"embedding / {kind or 'patches'}"
    if embeds and is_dense(owner):
        projects = {"project", "projection", "proj", "mapping"} & words(name.split(".")[-2]) and not kind
        return f"embedding / {kind or ('projection' if projects else 'patches')}"
    if said & HEAD:
        return "head"
    last = words(name.split(".")[-2]) if is_dense(owner) else frozenset()
    if {"project", "out"} <= last:  # OPT holds it before its blocks, and uses it behind
        return "head"
    return "embedding / projection" if early and last & {"project", "projection"} else None


def _kind(name: str, owner: nn.Module) -> str | None:
    """What is embedded, by the innermost part of the name that says it, or the class of a table's module."""
    for part in [*reversed(name.split(".")), type(owner).__name__]:
        said = words(part)
        for kind, wanted in _KINDS:
            if said & wanted and not (kind == "class token" and said <= {"cls", "class"} and is_dense(owner)):
                return kind
    return None


def _is_convolution(owner: nn.Module) -> bool:
    return isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Conv3d)
