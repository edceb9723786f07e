"""The same contract as the streaming engine through `functional_call` and hooks, for what can't be exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from netopsy._checks import NetopsyError, near
from netopsy.engine.edits import Bypass, Edit, apply_edits, check_bypass
from netopsy.engine.graph import Inputs
from netopsy.engine.stream import BASELINE
from netopsy.engine.values import Values


@dataclass(frozen=True, eq=False)
class Eager:
    """A model run whole for each variant.

    Attributes:
        model: in eval mode; every trace of a run is removed after it.
        values: the variants' edited parameters.
        logits: the model's output -> logits.
    """

    model: nn.Module
    values: Values
    logits: Callable[[Any], Tensor]

    def run(self, state: Mapping[str, Tensor], inputs: Inputs, rows: Set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield `(row, logits)` of each of `rows`, then of the baseline."""
        for row in sorted(rows):
            edited = {name: self.values.get(row, name) for name in self.values.edits(row)}
            yield row, self.forward({**state, **edited}, inputs, row)
        yield BASELINE, self.forward(state, inputs)

    def forward(self, state: Mapping[str, Tensor], inputs: Inputs, row: int = BASELINE) -> Tensor:
        """Logits under a full state, with the activation edits of a row."""
        # a module may count its calls in a buffer: it gets copies to write to
        own = {**state, **{name: state[name].clone() for name, _ in self.model.named_buffers()}}
        handles: list[RemovableHandle] = []
        try:
            if row != BASELINE:
                for edit in self.values.activation_edits(row):
                    handles += _hook(self.model, edit, self.values.variants[row].label)
            output: Any = functional_call(self.model, own, *inputs)
            return self.logits(output).detach()
        finally:
            for handle in handles:
                handle.remove()


def _hook(model: nn.Module, edit: Edit | Bypass, label: str) -> list[RemovableHandle]:
    """Hooks on a module that apply one activation edit at the right call."""
    name = edit.module if isinstance(edit, Bypass) else edit.address.name
    call = edit.call if isinstance(edit, Bypass) else edit.address.call
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        raise NetopsyError(f"variant {label!r}: the model has no module {name!r}{near(name, modules)}")
    calls = [-1]

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        calls[0] += 1
        if isinstance(edit, Edit) and edit.address.kind == "input" and call in (None, calls[0]):
            return _replace_item((args, kwargs), edit.address.item, lambda value: apply_edits(value, [edit]))
        return None

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if call not in (None, calls[0]):
            return None
        if isinstance(edit, Bypass):
            entering: Tensor = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if _floating(leaf))

            def bypass(value: Tensor) -> Tensor:
                check_bypass(label, name, entering.shape, value.shape)
                return entering

            return _replace_item(output, 0, bypass)
        if edit.address.kind == "output":
            return _replace_item(output, edit.address.item, lambda value: apply_edits(value, [edit]))
        return None

    module = modules[name]
    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, with_kwargs=True),
    ]


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _replace_item(values: Any, item: int, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the `item`-th floating tensor of a structure."""
    leaves, spec = pytree.tree_flatten(values)
    places = [i for i, leaf in enumerate(leaves) if _floating(leaf)]
    leaves[places[item]] = change(leaves[places[item]])
    return pytree.tree_unflatten(leaves, spec)
