"""Call a model under values that are not its own, and leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.func import functional_call

from netopsy.network.addresses import named_state

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""What a model is called with: `(args, kwargs)`."""


HOOKS = (
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""Of a module: what it holds them in."""


def signature(inputs: Inputs) -> tuple[Any, ...]:
    """What a program is specialized on: everything about the inputs but the values and the number of examples."""
    leaves, spec = pytree.tree_flatten(inputs)
    n = examples(inputs)
    kinds: list[object] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            shape = tuple(leaf.shape)
            kinds.append((leaf.dtype, ("batch", *shape[1:]) if shape[:1] == (n,) else shape))
        else:
            kinds.append(repr(leaf))
    return (str(spec), *kinds)


def examples(inputs: Inputs) -> int:
    """The number of examples: the first axis of the first tensor that has one; 0 where none has."""
    return next((len(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim), 0)


def bind(model: nn.Module) -> Callable[[Mapping[str, Tensor], Inputs], Any]:
    """The model as a function of a full state and inputs; a tied tensor is given once, under its first name."""
    held: nn.Module = model
    places = _places(model)
    if isinstance(model, torch.jit.ScriptModule):  # functional_call takes none as the outermost module
        held, places = _Holder(model), {f"held.{place}": first for place, first in places.items()}

    def call(state: Mapping[str, Tensor], inputs: Inputs) -> Any:
        with attributes_kept(model):
            values = {place: state[first] for place, first in places.items()}
            return functional_call(held, values, *inputs, tie_weights=False)

    return call


def written(model: nn.Module) -> set[str]:
    """Names of what a forward pass may write to: buffers, and weights of embeddings renormalized in place."""
    capped = {name for name, module in model.named_modules() if getattr(module, "max_norm", None) is not None}
    buffers = {name for name, _ in model.named_buffers()}
    return buffers | {first for place, first in _places(model).items() if place.rpartition(".")[0] in capped}


def _places(model: nn.Module) -> dict[str, str]:
    """One name for each place that holds a parameter or buffer -> the first name of the tensor there.

    Tied weights have several places. A module registered twice has one: `functional_call` with every name of it
    (as `tie_weights=True` makes them up) would put edited values back in place of the module's own.
    """
    first = {id(value): name for name, value in named_state(model).items()}
    places = {}
    for prefix, module in model.named_modules():
        for own in (module.named_parameters, module.named_buffers):
            for name, value in own(prefix, recurse=False, remove_duplicate=False):
                places[name] = first[id(value)]
    return places


class _Holder(nn.Module):
    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.held(*args, **kwargs)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """What a forward pass sets on its modules, and on a configuration they hold, is afterwards as it was.

    An LSTM's list of flat weights, or a mask made at the first call, would else keep edited values; a classifier of
    transformers notes in its configuration which loss the labels call for, and others hook their layers when first
    called, to collect what these give.
    """
    owners: dict[int, Any] = {}
    hooks: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for module in model.modules():
        config = module.__dict__.get("config")
        owners |= {id(owner): owner for owner in (module, config) if hasattr(owner, "__dict__")}
        hooks += [(module.__dict__[kind], dict(module.__dict__[kind])) for kind in HOOKS if kind in module.__dict__]
    before = [(owner, dict(owner.__dict__)) for owner in owners.values()]
    try:
        yield
    finally:
        for now, then in hooks:
            if len(now) != len(then):
                now.clear()
                now.update(then)
        for owner, attributes in before:
            for name in owner.__dict__.keys() - attributes.keys():
                del owner.__dict__[name]
            owner.__dict__.update(attributes)
