"""Vectors pulled back through a model to its input: the rows that Jacobian norms are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked, generator
from netopsy.engine.execution import check_deterministic
from netopsy.engine.functional import Inputs, examples
from netopsy.engine.jacobian_local import Local, Run, Saved
from netopsy.network.addresses import evaluation_mode, named_state
from netopsy.network.task import Task

FEW = 4
"""Examples of the first batch on which the model is looked at."""

CACHED, HELD = 16 * 2**20, 2**30
"""Bytes of a chunk's graph: those that still run fast, and those that may be held for a chunk of `LEAST` examples."""

LEAST = 16
"""Examples a chunk, unless they need more than `HELD` bytes: below it, reading the weights takes the time."""


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
    from there by the triangular factor of its weight: W = L Q with Q Qᵀ = 1, so that ‖vᵀW‖ = ‖vᵀL‖, which costs
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
            gives no logits of shape (n, classes), lets examples act on each other, or writes in place to one of
            several views of a value.
    """
    with torch.inference_mode(False), evaluation_mode(model), torch.enable_grad(), forked(0):
        state = {name: _cast(value.detach(), dtype) for name, value in named_state(model).items()}
        first = _cast(first, dtype)
        with torch.no_grad():
            check_deterministic(model, state, task, first)
        head = part(first, slice(0, FEW))
        run = Run(model, state, task, embedding)
        classes, saved, size = _looked_at(run, head, total)
        yield Pullback(at=lambda inputs: run(_cast(inputs, dtype)), classes=classes, saved=saved, size=size)


def part(inputs: Inputs, rows: slice) -> Inputs:
    """Some of a batch's examples."""
    n = examples(inputs)

    def cut(leaf: Any) -> Any:
        return leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == n else leaf

    args, kwargs = pytree.tree_map(cut, inputs)
    return args, kwargs


def _looked_at(run: Run, head: Inputs, total: int | None) -> tuple[int, int, int]:
    """Classes, bytes of the graph and values of the input of one example; refuses examples that act on each other.

    Where the model writes over what its gradient needs, its graphs get copies of that.
    """
    try:
        return _measured(run, head, total)
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
    run.saved = Saved(run.state, copies=True)
    try:
        return _measured(run, head, total)
    except RuntimeError as error:
        raise NetopsyError(
            f"model: {type(run.model).__name__} writes in place where no gradient can pass ({error}); let its "
            "forward pass make a new value there, such as h = h + y for h += y"
        ) from error


def _measured(run: Run, head: Inputs, total: int | None) -> tuple[int, int, int]:
    run.look(head, total)
    _check_independent(run(head), type(run.model).__name__)  # without hooks torch tells what is written over
    saved, own = run.saved or Saved(run.state, copies=False), run.saved
    before = saved.bytes
    run.saved = saved
    local = run(head)
    run.saved = own
    count, classes = local.logits.shape
    return classes, (saved.bytes - before) // count, local.leaf[0].numel()


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
