"""Run a model batch by batch and read what enters or leaves its layers, without a trace on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.functional import Inputs, bind, written
from netopsy.network.addresses import evaluation_mode, named_state
from netopsy.network.units import UnitLayer

Take = Callable[[int, Tensor], object]
"""Called with a layer's place in the list and its value, which a later operation may write to."""


@contextmanager
def reading(
    model: nn.Module, layers: Sequence[UnitLayer], take: Take, *, always: bool = True
) -> Iterator[Callable[[Inputs], None]]:
    """Inside the block: a function that runs the plain model, in eval mode, on one batch's inputs.

    Every layer's value is given to `take` at once, and again at every call that its address speaks of. The model is
    bit-identical afterwards, also after an exception.

    Raises:
        NetopsyError: when the model has no such module, or, if `always`, does not compute one of the layers.
    """
    state = {name: value.detach() for name, value in named_state(model).items()}
    call, changing = bind(model), written(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[str, int] = {}
    seen: set[int] = set()
    handles: list[RemovableHandle] = []

    def give(place: int, value: Tensor) -> None:
        seen.add(place)
        take(place, value)

    def run(inputs: Inputs) -> None:
        calls.clear()
        seen.clear()
        call({**state, **{name: state[name].clone() for name in changing}}, inputs)
        for place, layer in enumerate(layers):
            if always and place not in seen:
                raise NetopsyError(f"site {layer.name!r}: the model computes no {layer.address} on these data")

    try:
        for name, layer in {layer.address.name: layer for layer in reversed(layers)}.items():
            if name not in modules:
                raise NetopsyError(f"site {layer.name!r}: the model has no module {name!r}")
            handles += _watch(modules[name], name, layers, give, calls)
        with evaluation_mode(model), torch.no_grad(), forked(0):
            yield run
    finally:
        for handle in handles:
            handle.remove()


def _watch(
    module: nn.Module, name: str, layers: Sequence[UnitLayer], give: Take, calls: dict[str, int]
) -> list[RemovableHandle]:
    running: list[int] = []

    def read(kind: str, held: Any) -> None:
        for place, layer in enumerate(layers):
            address = layer.address
            if address.name != name or address.kind != kind or address.call not in (None, running[-1]):
                continue
            leaves = [x for x in pytree.tree_leaves(held) if isinstance(x, Tensor) and x.is_floating_point()]
            if address.item >= len(leaves):
                raise NetopsyError(
                    f"site {layer.name!r}: expected floating tensors, of which item {address.item} is read; "
                    f"{address} holds {len(leaves)}"
                )
            give(place, address.select(leaves[address.item].detach()))

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls[name] = calls.get(name, -1) + 1
        running.append(calls[name])
        read("input", (args, kwargs))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        read("output", output)
        running.pop()

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, with_kwargs=True),
    ]
