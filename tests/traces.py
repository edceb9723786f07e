"""One trace of each architecture for all tests of a process: it takes a second, and most tests ask for no new one.

A trace knows shapes and settings of a network, not its weights. The engine holds every program against eager
execution before it trusts it, whichever network it was traced from: a wrong one would be found out and reported.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Trace = Callable[[nn.Module, Any, Callable[[Any], Tensor], frozenset[str]], tuple[Any, list[str], set[str]]]
OURS = ("torch.nn.", "netopsy.models.")
"""Where modules are from that do nothing but compute; those of tests may count their calls, or fail on purpose."""
USUAL = set(vars(nn.Module()))


class Unknown(Exception):
    """It cannot be told whether two networks are alike."""


def architecture(model: nn.Module) -> Hashable:
    """What two networks have in common that compute the same function of their state."""
    places: dict[int, int] = {}
    found: list[Hashable] = []
    for name, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        if not kind.__module__.startswith(OURS) or module._forward_hooks or module._forward_pre_hooks:
            raise Unknown
        settings = sorted((key, setting(value)) for key, value in vars(module).items() if key not in USUAL)
        found.append((name, kind, module.training, places.setdefault(id(module), len(places)), tuple(settings)))
    for tensors in (model.named_parameters, model.named_buffers):
        for name, value in tensors(remove_duplicate=False):
            place = places.setdefault(id(value), len(places))  # tied ones have one
            found.append((name, type(value), value.requires_grad, place, *layout(value)))
    return tuple(found)


def setting(value: Any) -> Hashable:
    """An attribute of a module, with its type: 1, 1.0 and True are not alike."""
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(setting, value))
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType) and value.__module__.startswith("torch."):
        return f"{value.__module__}:{value.__qualname__}"
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return f"{type(value).__name__} {value!r}"
    raise Unknown


def layout(value: Tensor) -> tuple[Hashable, ...]:
    return value.shape, value.stride(), value.dtype, value.device


def signature(inputs: Any) -> Hashable:
    leaves, spec = pytree.tree_flatten(inputs)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise Unknown
    return str(spec), tuple(layout(leaf) for leaf in leaves)


def reader(logits: Any) -> Hashable:
    """A module's own function; another one may hold a network, which would be kept alive."""
    if not isinstance(logits, types.FunctionType) or not logits.__qualname__.isidentifier():
        raise Unknown
    return logits


def shared(trace: Trace) -> Trace:
    """The same, but networks that are alike get the trace of the first of them."""
    known: dict[Hashable, Any] = {}

    @functools.wraps(trace)
    def found(model: nn.Module, inputs: Any, logits: Callable[[Any], Tensor], marked: frozenset[str]) -> Any:
        try:
            key = (architecture(model), signature(inputs), reader(logits), marked, torch.get_default_dtype())
        except Unknown:
            return trace(model, inputs, logits, marked)
        if key not in known:
            known[key] = trace(model, inputs, logits, marked)
        exported, state, places = known[key]
        return exported, list(state), set(places)

    return found
