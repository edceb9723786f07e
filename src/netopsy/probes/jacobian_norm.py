"""The input-output Jacobian norm at every point: how much the outputs change when the input is perturbed.

Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein: Sensitivity and Generalization in Neural Networks: an Empirical
Study (2018), Section 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pandas as pd
import torch
import torch.utils._pytree as pytree
from jaxtyping import Float, Int
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, one_of
from netopsy._random import derive, generator
from netopsy._typing import Batch
from netopsy.engine.batches import Source, check_batch, open_data
from netopsy.engine.functional import Inputs, examples
from netopsy.engine.jacobian_local import Local
from netopsy.engine.jacobian_products import gram, helmert, squares
from netopsy.engine.jacobians import Pullback, part, pulling
from netopsy.network.addresses import unwrap
from netopsy.network.states import check_parameters
from netopsy.network.task import LABELS, Task, default_targets
from netopsy.network.trajectory import Trajectory
from netopsy.probes.jacobian_norm_result import JacobianNorms

Output: TypeAlias = Literal["probabilities", "logits"]
"""What a Jacobian is of."""


def jacobian_norm(
    model: nn.Module | Trajectory,
    data: Any,
    *,
    output: Output = "probabilities",
    norm: Literal["frobenius", "spectral"] = "frobenius",
    chunk: int | None = None,
    projections: int | None = None,
    seed: int = 0,
    embedding: str | None = None,
    task: Task | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> JacobianNorms:
    """Measure ‖∂f_σ(x)/∂x‖ at every point and its mean, f_σ the class probabilities (or logits) of n classes.

    Exact: ∂f_σ/∂x = A ∂f/∂x with A = diag(p) - p pᵀ, which maps constants to 0. With the columns of H an orthonormal
    basis of what is orthogonal to them, ‖∂f_σ/∂x‖ = ‖Hᵀ A ∂f/∂x‖: n - 1 vector-Jacobian products of all examples of a
    chunk at once; n for the logits.

    >>> import torch
    >>> model = torch.nn.Linear(4, 3).double()
    >>> x = torch.randn(5, 4, dtype=torch.float64)
    >>> logits = jacobian_norm(model, x, output="logits")
    >>> bool(abs(logits.mean - float(model.weight.detach().norm())) < 1e-12)
    True

    Args:
        model: any differentiable module, as it is in eval mode; of a trajectory the trained one.
        data: examples in any form that `netopsy.evaluate` takes; or a tensor of inputs alone. Labels are not needed.
        output: `"probabilities"`, as in the paper, or `"logits"`.
        norm: `"frobenius"`, or `"spectral"`: the largest singular value, of the small Gram matrix of the products.
        chunk: examples differentiated at once; by default as memory and cache allow. At most a batch.
        projections: estimate from so many random directions in place of all, for 1,000 classes and more: ‖Qᵀ J‖² r/m
            of m orthonormal directions, uniform among the r = n - 1 (logits: n) dimensions, is unbiased for ‖J‖².
            Each point has directions of its own. Its standard error comes from their spread, with the finite
            population's factor 1 - m/r, and for the norm by the delta method, se(‖J‖²) / (2 ‖J‖).
        seed: of these directions.
        embedding: name of the module whose output is to be the input, for models on integer tokens.
        task: how batches and outputs are read.
        dtype: in which to compute; by default that of model and data.
        progress: called with the examples done and their total.

    Returns:
        A result with a row for every point, in the order of the data.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work; a model whose examples act on each
            other in eval mode is such.
    """
    started = time.perf_counter()
    one_of("output", output, ("probabilities", "logits"))
    one_of("norm", norm, ("frobenius", "spectral"))
    if projections is not None and norm == "spectral":
        raise NetopsyError(
            "projections: expected norm='frobenius' with it; got norm='spectral', which needs them all"
        )
    with opened(
        model, data, chunk=chunk, embedding=embedding, task=task, dtype=dtype, rows=norm == "spectral"
    ) as points:
        softmax = output == "probabilities"
        rank = points.classes - 1 if softmax else points.classes
        if projections is not None and not 2 <= projections <= rank:
            raise NetopsyError(
                f"projections: expected 2 to {rank}, the rank of the Jacobian of the {output}; got {projections!r}; "
                "leave it out for the exact norm"
            )
        basis = helmert(points.classes) if softmax else torch.eye(points.classes, dtype=torch.float64)
        rows = []
        for at in points.locals():
            row: dict[str, Any] = {}
            if norm == "spectral":
                square = torch.linalg.eigvalsh(_finite(gram(at.local, _columns(basis), softmax=softmax)))[
                    :, -1
                ].clamp(0)
            elif projections is None:
                square = squares(at.local, _columns(basis), softmax=softmax).sum(1)
            else:
                vectors = _directions(at.index, basis, projections, seed)
                each = rank * squares(at.local, vectors.unbind(2).__iter__(), softmax=softmax)
                square = each.mean(1)
                spread = (each.var(1) / projections * (1 - projections / rank)).sqrt()
                row["standard_error"] = torch.where(square > 0, spread / (2 * square.sqrt()), 0.0).numpy()
            rows.append(pd.DataFrame({"index": at.index, "norm": square.sqrt().numpy(), **row, **at.judged()}))
            if progress is not None:
                progress(sum(map(len, rows)), points.source.total)
    return JacobianNorms(
        frame=typed(rows),
        provenance={
            "probe": "jacobian_norm",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": points.source.fingerprint,
            "output": output,
            "norm": norm,
            "classes": points.classes,
            "chunk": points.chunk,
            "projections": projections,
            "seed": seed,
            "embedding": embedding,
            "dtype": None if dtype is None else str(dtype),
            "seconds": time.perf_counter() - started,
        },
    )


@dataclass(frozen=True, eq=False)
class At:
    """The model around some points: their places in the data, and their labels if there are any."""

    index: Sequence[int]
    local: Local
    labels: Int[Tensor, " m"] | None
    task: Task

    def judged(self) -> dict[str, Any]:
        """Columns that need labels: null where a label is not counted."""
        if self.labels is None:
            return {}
        counted = self.task.valid(self.labels[:, None])[:, 0]
        logits = self.local.logits
        loss = torch.full((len(logits),), torch.nan, dtype=torch.float64)
        loss[counted] = self.task.loss(logits[counted], self.labels[counted]).double()
        correct = pd.array((logits.argmax(1) == self.labels).numpy(), dtype="boolean")
        label = pd.array(self.labels.numpy(), dtype="Int64")
        label[~counted.numpy()] = correct[~counted.numpy()] = pd.NA
        return {"label": label, "loss": loss.numpy(), "correct": correct}


@dataclass(frozen=True, eq=False)
class Points:
    """What `opened` yields."""

    source: Source
    classes: int
    chunk: int
    task: Task
    labeled: bool
    pullback: Pullback

    def locals(self) -> Iterator[At]:
        """The model around every chunk of the data; its graph goes when the next one is asked for."""
        whole, total = self.source.whole, self.source.total
        for order, batch in self.source.batches() if whole is None else [(range(total or 0), whole)]:
            if whole is None:
                _check_finite(self.task.inputs(batch), "a batch")
                if self.labeled:
                    check_batch(self.task, batch, self.classes, "a batch")
            labels = self.task.labels(batch) if self.labeled else None
            if labels is not None and labels.shape[1] != 1:
                raise NetopsyError(
                    f"targets: expected one label an example; got {labels.shape[1]}; pass "
                    "task=netopsy.Task(logits=..., targets=...) that takes one position"
                )
            for start in range(0, len(order), self.chunk):
                rows = slice(start, start + self.chunk)
                local = self.pullback.at(part(self.task.inputs(batch), rows))
                yield At([int(i) for i in order[rows]], local, None if labels is None else labels[rows, 0], self.task)
                del local


@contextmanager
def opened(
    model: nn.Module | Trajectory,
    data: Any,
    *,
    chunk: int | None,
    embedding: str | None,
    task: Task | None,
    dtype: torch.dtype | None,
    rows: bool,
) -> Iterator[Points]:
    """Read model and data, check them on the first batch, and choose a chunk; `rows`: whether all products are held.

    Raises:
        NetopsyError: see `jacobian_norm`.
    """
    if chunk is not None:
        at_least("chunk", chunk, 1)
    if dtype not in (None, torch.float32, torch.float64):
        raise NetopsyError(f"dtype: expected torch.float32, torch.float64 or None; got {dtype!r}")
    network = model.model() if isinstance(model, Trajectory) else model
    if not isinstance(network, nn.Module):
        raise NetopsyError(f"model: expected a torch module or a netopsy.Trajectory; got {type(model).__name__}")
    network, task = unwrap(network), task or Task()
    check_parameters(network)
    if isinstance(data, Tensor):
        data, task = {"inputs": data}, replace(task, inputs=_alone, targets=default_targets)
    source = open_data(data)
    first = source.first()
    labeled = task.targets is not default_targets or not isinstance(first, Mapping) or any(x in first for x in LABELS)
    inputs = task.inputs(first)
    whole, name = (first, "the first batch") if source.whole is None else (source.whole, "the data")
    _check_finite(inputs if source.whole is None else task.inputs(whole), name)
    with pulling(network, task, inputs, total=source.total, embedding=embedding, dtype=dtype) as pullback:
        if labeled:
            check_batch(task, whole, pullback.classes, name)
        size = chunk or pullback.chunk(pullback.classes if rows else 0)
        yield Points(source, pullback.classes, size, task, labeled, pullback)


def typed(rows: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All points in the order of the data."""
    frame = pd.concat(rows, ignore_index=True).sort_values("index", ignore_index=True)
    return frame.astype({"index": "Int64"})


def _alone(batch: Batch) -> Inputs:
    return (batch["inputs"],), {}


def _check_finite(inputs: Inputs, which: str) -> None:
    if not examples(inputs):
        raise NetopsyError(f"data: expected examples; {which} has none")
    for leaf in pytree.tree_leaves(inputs):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or torch.isfinite(leaf.sum()):
            continue  # a sum is ten times faster than a look at each value; an infinite one may just be an overflow
        if not torch.isfinite(leaf).all():
            raise NetopsyError(f"data: expected finite inputs; {which} has NaN or infinite values; clean the data")


def _columns(basis: Float[Tensor, "c k"]) -> Iterator[Float[Tensor, "1 c"]]:
    return (column[None] for column in basis.unbind(1))


def _finite(matrices: Float[Tensor, "m k k"]) -> Float[Tensor, "m k k"]:
    """LAPACK refuses a NaN: a point whose gradients are not finite has an infinite norm instead."""
    bad = ~torch.isfinite(matrices).all(2).all(1)
    return torch.where(bad[:, None, None], torch.eye(matrices.shape[1], dtype=matrices.dtype) * torch.inf, matrices)


def _directions(
    index: Sequence[int], basis: Float[Tensor, "c r"], projections: int, seed: int
) -> Float[Tensor, "m c k"]:
    """Random orthonormal directions of each point, by its place in the data: no chunk or order changes them."""
    shape = basis.shape[1], projections
    drawn = [
        torch.randn(shape, generator=generator(derive(seed, "projections", int(i))), dtype=torch.float64)
        for i in index
    ]
    found: Tensor = basis @ torch.linalg.qr(torch.stack(drawn)).Q
    return found
