"""A model around some examples: its logits, and the graph that leads from them to the input."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from netopsy._checks import NetopsyError, near
from netopsy.engine.functional import Inputs, bind, examples, written
from netopsy.engine.jacobian_first import Triangle, entered, pays
from netopsy.network.addresses import named_state
from netopsy.network.task import Task


@dataclass(frozen=True, eq=False)
class Local:
    """A model around some examples.

    Attributes:
        logits: of these examples.
        graph: the same, with the graph that leads to the input.
        leaf: the input, or the output of the first linear map.
        triangle: of that map; None for the input.
    """

    logits: Float[Tensor, "m c"]
    graph: Tensor
    leaf: Tensor
    triangle: Triangle | None

    @cached_property
    def probabilities(self) -> Float[Tensor, "m c"]:
        """In float64."""
        return self.logits.double().softmax(1)

    def pull(self, vectors: Float[Tensor, "m c"]) -> Float[Tensor, "m d"]:
        """vᵀ ∂f/∂x of each example, in an orthonormal basis of a space that holds it."""
        (rows,) = torch.autograd.grad(self.graph, self.leaf, vectors, retain_graph=True)
        return (rows if self.triangle is None else self.triangle.after(rows)).flatten(1)


class Saved:
    """What a graph holds beside the state: counted, and copied where the model would write over it."""

    def __init__(self, state: Mapping[str, Tensor], *, copies: bool) -> None:
        self.copies, self.bytes = copies, 0
        self.state = {value.untyped_storage().data_ptr() for value in state.values()}
        self.seen = set(self.state)

    def keep(self, value: Tensor) -> Tensor:
        """What to hold in the place of a value."""
        storage = value.untyped_storage()
        if self.copies and storage.data_ptr() not in self.state:
            self.bytes += value.numel() * value.element_size()
            return value.detach().clone()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return value.detach()


class Run:
    """The forward pass around some examples, from the input or from a module's output on.

    Attributes:
        saved: what is told of the values that the graph holds; None: they are held as they are.
    """

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor], task: Task, embedding: str | None) -> None:
        self.model, self.state, self.task, self.embedding = model, state, task, embedding
        self.saved: Saved | None = None
        self.call, self.changing = bind(model), written(model)
        self.modules = dict(model.named_modules())
        self.images_last = False
        self.first: str | None = None
        self.triangle: Triangle | None = None
        if embedding is not None and embedding not in self.modules:
            raise NetopsyError(
                f"embedding={embedding!r}: the model has no such module{near(embedding, self.modules)}"
            )

    def __call__(self, inputs: Inputs) -> Local:
        if self.embedding is not None:
            return self._from(self.embedding, inputs)
        leaf, inputs = self._leaf(inputs)
        if self.first is not None:
            local = self._from(self.first, inputs)
            if not reaches(local.graph, leaf):
                return local
            self.first = self.triangle = None
        graph = self._logits(inputs)
        if not reaches(graph, leaf):
            raise NetopsyError(
                f"model: expected logits that depend differentiably on the input; those of "
                f"{type(self.model).__name__} do not; leave detach(), no_grad() and integers out of its forward pass"
            )
        return Local(graph.detach(), graph, leaf, None)

    def look(self, head: Inputs, total: int | None) -> None:
        """Find the linear map that the input enters and that narrows it: by the address of what it takes."""
        if self.embedding is not None:
            return
        leaf, inputs = self._leaf(head)
        inside = next(x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.requires_grad)
        name, logits = entered(self.modules, leaf, inside, lambda: self._logits(inputs))
        if name is None:
            self._prefer_images_last(head, logits.detach())
            return
        weight = self.modules[name].get_parameter("weight")
        if total is None or pays(weight, total * (logits.shape[1] - 1)):
            own = next(own for own, value in named_state(self.model).items() if value is weight)
            self.first, self.triangle = name, Triangle.of(self.state[own])

    def _prefer_images_last(self, head: Inputs, logits: Tensor) -> None:
        """Take the layout in which float32 convolutions go back fastest, unless the model minds it."""
        convolves = any(isinstance(module, nn.Conv2d) for module in self.modules.values())
        if not convolves or logits.dtype != torch.float32:
            return
        plain = self.state
        self.state, self.images_last = {name: _channels_last(value) for name, value in plain.items()}, True
        try:
            found = self._logits(self._leaf(head)[1]).detach()
            same = torch.allclose(found, logits, rtol=0, atol=1e-4 * float(logits.abs().max()))
        except RuntimeError:  # view() of what this layout has scattered
            same = False
        if not same:
            self.state, self.images_last = plain, False

    def _leaf(self, inputs: Inputs) -> tuple[Tensor, Inputs]:
        """The one floating input as a leaf, and inputs with a copy of it, into which the model may write."""
        n = examples(inputs)
        leaves, spec = pytree.tree_flatten(inputs)
        places = [
            i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point() and x.shape[:1] == (n,)
        ]
        if len(places) != 1:
            kinds = [f"{x.dtype} {tuple(x.shape)}" for x in leaves if isinstance(x, Tensor)]
            raise NetopsyError(
                f"data: expected one floating input with the examples as its first axis; got {len(places)} among "
                f"{', '.join(kinds)}; pass embedding=, the name of the module whose output is to be the input"
            )
        given = leaves[places[0]]
        leaf = (_channels_last(given) if self.images_last else given).detach().requires_grad_()
        leaves[places[0]] = leaf.clone()
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return leaf, (args, kwargs)

    def _from(self, name: str, inputs: Inputs) -> Local:
        outputs: list[Any] = []

        def cut(module: nn.Module, given: Any, output: Any) -> Any:
            floating = isinstance(output, Tensor) and output.is_floating_point()
            outputs.append(output.detach().requires_grad_() if floating else output)
            return outputs[-1].clone() if floating else output  # the model may write to it

        handle = self.modules[name].register_forward_hook(cut)
        try:
            graph = self._logits(inputs)
        finally:
            handle.remove()
        n = examples(inputs)
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].shape[:1] != (n,):
            gives = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in outputs]
            kind = f"gives {gives[0]}" if len(gives) == 1 else f"is called {len(gives)} times"
            raise NetopsyError(
                f"embedding={name!r}: expected a module that is called once and gives one floating tensor with the "
                f"{n} examples as its first axis; it {kind}; name another module"
            )
        if self.embedding is not None and not reaches(graph, outputs[0]):
            raise NetopsyError(f"embedding={name!r}: the logits do not depend differentiably on its output")
        return Local(graph.detach(), graph, outputs[0], self.triangle)

    def _logits(self, inputs: Inputs) -> Tensor:
        values = {**self.state, **{name: self.state[name].clone() for name in self.changing}}
        with nullcontext() if self.saved is None else saved_tensors_hooks(self.saved.keep, lambda held: held):
            logits = self.task.logits(self.call(values, inputs))
        n = examples(inputs)
        if logits.ndim != 2 or len(logits) != n or logits.shape[1] < 2:
            raise NetopsyError(
                f"logits: expected shape (n, classes) with n = {n}, at least 2 classes; got {tuple(logits.shape)}; "
                "pass task=netopsy.Task(logits=...) that takes one position, such as lambda out: out.logits[:, -1]"
            )
        return logits


def reaches(graph: Tensor, leaf: Tensor) -> bool:
    """Whether a gradient flows back; where none does, none is computed."""
    if not graph.requires_grad:
        return False
    seen, waiting = set(), [graph.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "variable", None) is leaf:
            return True
        seen.add(node)
        waiting += [after for after, _ in node.next_functions]
    return graph is leaf


def _channels_last(value: Tensor) -> Tensor:
    if value.ndim != 4 or value.dtype != torch.float32:
        return value
    return value.contiguous(memory_format=torch.channels_last)
