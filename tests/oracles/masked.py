"""Logits of a network with units at zero, by hooks that zero a copy of what leaves (or enters) a module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Off = Mapping[tuple[str, str, int], Sequence[int]]
"""(kind, module, axis) -> entries at zero, at every call."""


def logits(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], off: Off, read: Callable[[Any], Tensor]
) -> Tensor:
    twin = copy.deepcopy(model).double().eval()
    for (kind, name, axis), entries in off.items():

        def zero(value: Tensor, entries: Sequence[int] = entries, axis: int = axis) -> Tensor:
            changed = value.clone()
            for entry in entries:
                changed.select(axis, entry).fill_(0.0)
            return changed

        module = twin.get_submodule(name)
        if kind == "output":
            module.register_forward_hook(lambda m, into, out, zero=zero: zero(out))
        else:
            module.register_forward_pre_hook(lambda m, into, zero=zero: (zero(into[0]), *into[1:]))
    with torch.no_grad():
        return read(twin(*args, **kwargs))
