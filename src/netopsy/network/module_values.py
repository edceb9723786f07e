"""What the modules of a network take and give on a few examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.network.addresses import evaluation_mode
from netopsy.network.task import Task

ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Softplus,
    nn.Softsign,
    nn.Softshrink,
    nn.Hardshrink,
    nn.Tanhshrink,
    nn.Threshold,
    nn.GLU,
)
"""Modules whose outputs are units where nothing else is asked for; Hugging Face's own are known by their file."""

FEW = 2
"""Examples of the forward pass by which units are found."""


Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and named arguments of one call of a model."""


@dataclass(frozen=True, eq=False)
class Value:
    """What one call of a module took or gave: the tensor, if it is one floating tensor alone, and its type."""

    module: str
    kind: str
    call: int
    calls: int
    tensor: Tensor | None
    type: str
    logits: bool
    activation: bool

    @property
    def name(self) -> str:
        return self.module if self.calls == 1 else f"{self.module}, call {self.call}"

    def why_not(self) -> str | None:
        """Why it holds no units."""
        if self.tensor is None:
            return f"gives {self.type}, not one floating tensor; pass a UnitLayer whose address has an item"
        if self.tensor.ndim < 2 or not self.tensor.numel():
            return f"gives shape {tuple(self.tensor.shape)}; units need a value of shape (n, units, ...)"
        return "gives the logits themselves" if self.logits else None


def module_values(model: nn.Module, inputs: Inputs, task: Task) -> list[Value]:
    """What every module took and gave in a forward pass, in order of running; the model is bit-identical afterwards.

    Raises:
        NetopsyError: when the model cannot be run on the first examples.
    """
    seen: list[tuple[str, str, int, Any]] = []
    calls: dict[str, int] = {}
    handles = []
    modules = {name: m for name, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)}

    def watch(name: str, module: nn.Module) -> None:
        stack: list[int] = []

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls[name] = calls.get(name, -1) + 1
            stack.append(calls[name])
            seen.append((name, "input", calls[name], (args, kwargs)))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            seen.append((name, "output", stack.pop(), output))

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))

    args, kwargs = _few(inputs)
    with evaluation_mode(model), torch.no_grad(), forked(0), _as_it_was(model):
        for name, module in modules.items():
            watch(name, module)
        try:
            logits = task.logits(model(*args, **kwargs))
        except NetopsyError:
            raise
        except Exception as error:
            shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            raise NetopsyError(
                f"data: {type(model).__name__} cannot be run on the first examples, input shapes {shapes}: {error}; "
                "give the data as the model takes them, or pass task=netopsy.Task(inputs=...)"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    values = []
    for name, kind, call, held in seen:
        leaves = [leaf for leaf in pytree.tree_leaves(held) if isinstance(leaf, Tensor)]
        floating = [leaf for leaf in leaves if leaf.is_floating_point()]
        # what enters a module may come with masks and positions; what leaves it must be the tensor alone
        alone = floating[:1] if kind == "input" else floating if isinstance(held, Tensor) else []
        tensor = alone[0] if alone else None
        is_logits = tensor is not None and tensor.data_ptr() == logits.data_ptr() and tensor.numel() == logits.numel()
        activation = _is_activation(modules[name])
        values.append(Value(name, kind, call, calls[name] + 1, tensor, type(held).__name__, is_logits, activation))
    return values


def _is_activation(module: nn.Module) -> bool:
    return isinstance(module, ACTIVATIONS) or type(module).__module__ == "transformers.activations"


def _few(inputs: Inputs) -> Inputs:
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    n = len(leaves[0]) if leaves else math.nan

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return (leaf[:FEW] if leaf.ndim and len(leaf) == n else leaf).clone()  # the model may write to it

    args, kwargs = pytree.tree_map(cut, inputs)
    return args, kwargs


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Every value and attribute of the model is afterwards what it was, whatever a forward pass writes."""
    tensors = [(value, value.detach().clone()) for value in (*model.parameters(), *model.buffers())]
    plain = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    held = [(module, dict(module.__dict__), dict(module._buffers)) for module in plain]
    try:
        yield
    finally:
        for module, attributes, buffers in held:
            for name in module.__dict__.keys() - attributes.keys():
                del module.__dict__[name]
            module.__dict__.update(attributes)
            module._buffers.update(buffers)
        for value, before in tensors:
            if not torch.equal(value, before):
                value.copy_(before)
