"""Vectors pulled back through a model to its input: the rows that Jacobian norms are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor, nn

from netopsy._checks import NetopsyError, near
from netopsy._random import forked, generator
from netopsy.engine.execution import check_deterministic
from netopsy.engine.functional import Inputs, bind, examples, written
from netopsy.network.addresses import evaluation_mode, named_state
from netopsy.network.task import Task

FEW = 4
"""Examples of the first batch on which the model is looked at."""

CACHED, HELD = 16 * 2**20, 2**30
"""Bytes of a chunk's graph: those that still run fast, and those that may be held for a chunk of `LEAST` examples."""

LEAST = 16
"""Examples a chunk, unless they need more than `HELD` bytes: below it, reading the weights takes the time."""


@dataclass(frozen=True, eq=False)
class Local:
    """A model around some examples.

    Attributes:
        logits: of these examples.
        graph: the same, with the graph that leads to the input.
        leaf: the input, or the output of the first linear map.
        rotation: of that map, whose weight is `rotation` times a matrix with orthonormal rows; None for the input.
    """

    logits: Float[Tensor, "m c"]
    graph: Tensor
    leaf: Tensor
    rotation: Float[Tensor, "h h"] | None

    @cached_property
    def probabilities(self) -> Float[Tensor, "m c"]:
        """In float64."""
        return self.logits.double().softmax(1)

    def pull(self, vectors: Float[Tensor, "m c"]) -> Float[Tensor, "m d"]:
        """vᵀ ∂f/∂x of each example, in an orthonormal basis of a space that holds it."""
        (rows,) = torch.autograd.grad(self.graph, self.leaf, vectors, retain_graph=True)
        return (rows if self.rotation is None else rows @ self.rotation).flatten(1)


@dataclass(frozen=True, eq=False)
class Pullback:
    """What `pulling` yields.

    Attributes:
        at: the model around a batch's inputs; its graph lives as long as what this returns.
        classes: logits of an example.
        saved: bytes of the graph of one example.
        size: values that an example's input has.
    """

    at: Callable[[Inputs], Local]
    classes: int
    saved: int
    size: int

    def chunk(self, rows: int = 0) -> int:
        """Examples at once: few enough for the processor's cache, enough for the weights; `rows` kept of each."""
        held = max(1, self.saved + 8 * rows * self.size)
        return max(1, min(HELD // held, max(LEAST, CACHED // held)))


@contextmanager
def pulling(
    model: nn.Module,
    task: Task,
    first: Inputs,
    *,
    total: int | None = None,
    embedding: str | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Pullback]:
    """Inside the block: the plain model, in eval mode, with its graph to the input alone; no trace is left on it.

    Where the input goes only into one linear map that narrows it, vectors are pulled back to this map's output, and
    from there by the triangular factor of its weight: W = R Q with Q Qᵀ = 1, so that ‖vᵀW‖ = ‖vᵀR‖, which costs
    less. That the input reaches the logits on no other way is seen from the graph of every chunk.

    Args:
        model: any differentiable module.
        task: how its outputs are read.
        first: inputs of the first batch, on which model and data are checked.
        total: examples to come, if that is known: for few of them a factorization does not pay.
        embedding: module whose output takes the place of the input.
        dtype: of parameters, buffers and inputs; by default their own.

    Raises:
        NetopsyError: when the model is random in eval mode, does not depend differentiably on one floating input,
            gives no logits of shape (n, classes), or lets examples act on each other.
    """
    with torch.inference_mode(False), evaluation_mode(model), torch.enable_grad(), forked(0):
        state = {name: _cast(value.detach(), dtype) for name, value in named_state(model).items()}
        first = _cast(first, dtype)
        with torch.no_grad():
            check_deterministic(model, state, task, first)
        head = part(first, slice(0, FEW))
        run = _Run(model, state, task, embedding)
        run.look(head, total)
        classes, saved, size = _measured(run, head, state, type(model).__name__)
        yield Pullback(at=lambda inputs: run(_cast(inputs, dtype)), classes=classes, saved=saved, size=size)


def part(inputs: Inputs, rows: slice) -> Inputs:
    """Some of a batch's examples."""
    n = examples(inputs)

    def cut(leaf: Any) -> Any:
        return leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == n else leaf

    args, kwargs = pytree.tree_map(cut, inputs)
    return args, kwargs


def helmert(n: int) -> Float[Tensor, "n k"]:
    """An orthonormal basis (float64) of the vectors of n numbers whose sum is 0, k = n - 1 of them as columns.

    >>> basis = helmert(4)
    >>> bool((basis.T @ basis - torch.eye(3)).abs().max() < 1e-15), bool(basis.sum(0).abs().max() < 1e-15)
    (True, True)
    """
    k = torch.arange(1, n, dtype=torch.float64)
    below = torch.ones(n, n - 1, dtype=torch.float64).triu()
    below[torch.arange(1, n), torch.arange(n - 1)] = -k
    return below / (k * (k + 1)).sqrt()


def through_softmax(p: Float[Tensor, "m c"], vectors: Float[Tensor, "#m c"]) -> Float[Tensor, "m c"]:
    """(diag p - p pᵀ) v, exact to rounding also where a probability is 1 but for 1e-100.

    A constant may be taken from v, so its component at the largest probability is made 0: only small ones are added.
    """
    vectors = vectors.expand(len(p), -1)
    vectors = vectors - vectors.gather(1, p.argmax(1, keepdim=True))
    return p * (vectors - (p * vectors).sum(1, keepdim=True))


def pulled(
    local: Local, vectors: Float[Tensor, "#m c"], *, softmax: bool
) -> tuple[Float[Tensor, "m d"], Float[Tensor, " m"]]:
    """vᵀJ of each example as rows times scales (float64): tiny probabilities do not underflow in float32."""
    logits = local.logits
    own = through_softmax(local.probabilities, vectors) if softmax else vectors.double().expand(len(logits), -1)
    scale = own.abs().amax(1, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return local.pull((own / scale).to(local.graph.dtype)), scale[:, 0]


def squares(local: Local, vectors: Iterator[Float[Tensor, "#m c"]], *, softmax: bool) -> Float[Tensor, "m k"]:
    """‖vᵀJ‖² of each example and each of k vectors, one after another, in float64."""
    found = []
    for vector in vectors:
        rows, scale = pulled(local, vector, softmax=softmax)
        found.append((torch.linalg.vector_norm(rows, dim=1).double() * scale).square())
    return torch.stack(found, 1)


def gram(local: Local, vectors: Iterator[Float[Tensor, "#m c"]], *, softmax: bool) -> Float[Tensor, "m k k"]:
    """V JJᵀ Vᵀ of each example, for k vectors as rows of V, in float64; all the rows are held at once."""
    rows, scales = zip(*(pulled(local, vector, softmax=softmax) for vector in vectors), strict=True)
    both = torch.stack(rows, 1)
    scale = torch.stack(scales, 1)
    return (both @ both.mT).double() * scale[:, :, None] * scale[:, None, :]


class _Run:
    """The forward pass of `pulling`."""

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor], task: Task, embedding: str | None) -> None:
        self.model, self.state, self.task, self.embedding = model, state, task, embedding
        self.call, self.changing = bind(model), written(model)
        self.modules = dict(model.named_modules())
        self.first: str | None = None
        self.rotation: Tensor | None = None
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
            if not _reaches(local.graph, leaf):
                return local
            self.first = self.rotation = None
        graph = self._logits(inputs)
        if not _reaches(graph, leaf):
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
        place, numbers = inside.data_ptr(), inside.numel()
        seen: list[str] = []

        def watch(name: str) -> Callable[..., None]:
            def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
                x = given[0] if given else None
                same = isinstance(x, Tensor) and x.data_ptr() == place and x.numel() == numbers and x._version == 0
                if isinstance(x, Tensor) and same and len(x) == len(leaf) and x.is_contiguous():
                    seen.append(name)

            return enter

        narrowing = {name: module for name, module in self.modules.items() if _narrows(module)}
        handles = [module.register_forward_pre_hook(watch(name)) for name, module in narrowing.items()]
        try:
            classes = self._logits(inputs).shape[1]
        finally:
            for handle in handles:
                handle.remove()
        weight = narrowing[seen[0]].weight if len(seen) == 1 else None
        if weight is not None and (total is None or _pays(weight, total * (classes - 1))):
            self.first = seen[0]
            name = next(name for name, value in named_state(self.model).items() if value is weight)
            triangle = torch.linalg.qr(self.state[name].double().T, mode="r").R.T
            self.rotation = triangle.to(self.state[name].dtype).contiguous()

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
        leaf = leaves[places[0]].detach().requires_grad_()
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
        if self.embedding is not None and not _reaches(graph, outputs[0]):
            raise NetopsyError(f"embedding={name!r}: the logits do not depend differentiably on its output")
        return Local(graph.detach(), graph, outputs[0], self.rotation)

    def _logits(self, inputs: Inputs) -> Tensor:
        values = {**self.state, **{name: self.state[name].clone() for name in self.changing}}
        logits = self.task.logits(self.call(values, inputs))
        n = examples(inputs)
        if logits.ndim != 2 or len(logits) != n or logits.shape[1] < 2:
            raise NetopsyError(
                f"logits: expected shape (n, classes) with n = {n}, at least 2 classes; got {tuple(logits.shape)}; "
                "pass task=netopsy.Task(logits=...) that takes one position, such as lambda out: out.logits[:, -1]"
            )
        return logits


def _measured(run: _Run, head: Inputs, state: Mapping[str, Tensor], name: str) -> tuple[int, int, int]:
    """Classes, bytes of the graph and values of the input of one example; refuses examples that act on each other."""
    saved = _Saved(state)
    with torch.autograd.graph.saved_tensors_hooks(saved.count, lambda held: held):
        local = run(head)
    _check_independent(local, name)
    count, classes = local.logits.shape
    return classes, saved.bytes // count, local.leaf[0].numel()


class _Saved:
    """Bytes that a graph holds beside the state."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.bytes = 0
        self.seen = {value.untyped_storage().data_ptr() for value in state.values()}

    def count(self, held: Tensor) -> Tensor:
        place = held.untyped_storage().data_ptr()
        if place not in self.seen:
            self.seen.add(place)
            self.bytes += held.untyped_storage().nbytes()
        return held.detach()


def _narrows(module: nn.Module) -> bool:
    """Whether it is a plain linear map, and no hook has its way with it, to fewer values than it takes."""
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return False
    return module.out_features < module.in_features


def _pays(weight: Float[Tensor, "h d"], vectors: int) -> bool:
    """Whether 4 d h² operations for the factor are fewer than it saves on so many vectors."""
    h, d = weight.shape
    return vectors * (d - h) > 4 * d * h


def _reaches(graph: Tensor, leaf: Tensor) -> bool:
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


def _check_independent(local: Local, name: str) -> None:
    """Every two examples differ in a bit of their numbers: those with a 1 there must not feel those with a 0."""
    count = len(local.logits)
    vectors = torch.randn(local.logits.shape, generator=generator(0), dtype=torch.float64).to(local.graph.dtype)
    numbers = torch.arange(count)
    for bit in range(max(0, count - 1).bit_length()):
        for side in (0, 1):
            own = (numbers >> bit) % 2 == side
            rows = local.pull(vectors * own[:, None].to(vectors)).abs()
            other = float(rows[~own].max())
            if other > 1e-6 * float(rows[own].max()):
                raise NetopsyError(
                    f"model: expected examples that do not act on each other in eval mode; the gradient of one "
                    f"example's logits in {name} reaches another one's input ({other:.2g}); let batch normalization "
                    "keep running statistics (track_running_stats=True), and take other sums over examples out of it"
                )


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    def cast(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        if floating and leaf.is_inference():
            leaf = leaf.clone()
        return leaf.to(dtype) if floating and dtype is not None else leaf

    return pytree.tree_map(cast, value)
