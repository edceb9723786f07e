"""The same contract as the streaming engine through `functional_call` and hooks, for what can't be exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from netopsy._checks import NetopsyError
from netopsy.engine.edits import Bypass, Edit, apply_edits, check_bypass
from netopsy.engine.functional import Inputs, bind, written
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

    @cached_property
    def _call(self) -> Callable[[Mapping[str, Tensor], Inputs], Any]:
        return bind(self.model)

    @cached_property
    def _written(self) -> set[str]:
        return written(self.model)

    def run(self, state: Mapping[str, Tensor], inputs: Inputs, rows: Set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield `(row, logits)` of each of `rows` whose logits differ from the baseline's, then of the baseline."""
        baseline = self.forward(state, inputs)
        for row in sorted(rows):
            edited = {name: self.values.get(row, name) for name in self.values.edits(row)}
            logits = self.forward({**state, **edited}, inputs, row)
            if not torch.equal(logits, baseline):
                yield row, logits
        yield BASELINE, baseline

    def forward(self, state: Mapping[str, Tensor], inputs: Inputs, row: int = BASELINE) -> Tensor:
        """Logits under a full state, with the activation edits of a row."""
        own = {**state, **{name: state[name].clone() for name in self._written}}
        handles: list[RemovableHandle] = []
        try:
            if row != BASELINE:
                for edit in self.values.activation_edits(row):
                    handles += _hook(self.model, edit, self.values.variants[row].label)
            return self.logits(self._call(own, inputs)).detach()
        finally:
            for handle in handles:
                handle.remove()


def _hook(model: nn.Module, edit: Edit | Bypass, label: str) -> list[RemovableHandle]:
    """Hooks on a module that apply one activation edit at the right call."""
    name = edit.module if isinstance(edit, Bypass) else edit.address.name
    call = edit.call if isinstance(edit, Bypass) else edit.address.call
    calls = [-1]

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        calls[0] += 1
        if isinstance(edit, Edit) and edit.address.kind == "input" and call in (None, calls[0]):
            change = partial(apply_edits, label, edits=[edit])
            return _replace_item(f"variant {label!r}: {edit.address}", (args, kwargs), edit.address.item, change)
        return None

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if call not in (None, calls[0]):
            return None
        if isinstance(edit, Bypass):
            entering: Tensor | None = next(filter(_floating, pytree.tree_leaves((args, kwargs))), None)
            if entering is None:
                raise NetopsyError(f"variant {label!r}: {name!r} cannot be bypassed: it takes no floating tensor")

            def bypass(value: Tensor) -> Tensor:
                check_bypass(label, name, entering.shape, value.shape)
                return entering

            return _replace_item(f"variant {label!r}: output of {name}", output, 0, bypass)
        if edit.address.kind == "output":
            change = partial(apply_edits, label, edits=[edit])
            return _replace_item(f"variant {label!r}: {edit.address}", output, edit.address.item, change)
        return None

    module = dict(model.named_modules(remove_duplicate=False))[name]
    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, with_kwargs=True),
    ]


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _replace_item(what: str, values: Any, item: int, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the `item`-th floating tensor of a structure."""
    leaves, spec = pytree.tree_flatten(values)
    places = [i for i, leaf in enumerate(leaves) if _floating(leaf)]
    if item >= len(places):
        raise NetopsyError(f"{what}: expected floating tensors, of which item {item} is edited; got {len(places)}")
    leaves[places[item]] = change(leaves[places[item]])
    return pytree.tree_unflatten(leaves, spec)
