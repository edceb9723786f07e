"""Transitions along a path: how often units pass from one piece of their activation to another; and curvature.

Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein: Sensitivity and Generalization in Neural Networks (ICLR 2018), §3.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy.engine.affine import affine_network
from netopsy.engine.affine_export import state_in
from netopsy.engine.codes import coded_network
from netopsy.engine.curves import BUDGET, trace
from netopsy.engine.functional import bind
from netopsy.network.addresses import evaluation_mode, unwrap
from netopsy.network.task import Task
from netopsy.probes.paths import Path
from netopsy.probes.transitions_result import Transitions

CHECKED = 8
"""Cells at whose middle the affine pieces are compared with the model."""

BATCH = 2**12
"""Samples at a time."""

FIRST = 2**10
"""Samples from which doubling starts."""


def transitions(
    model: nn.Module,
    path: Path,
    *,
    method: Literal["exact", "sampled"] = "exact",
    points: int = 2**20,
    rtol: float | None = None,
    dtype: torch.dtype = torch.float64,
    function: bool = False,
    memory: int = BUDGET,
    task: Task | None = None,
) -> Transitions:
    """Count the transitions along a path: sum_i ‖c(z_i) − c(z_{i+1})‖_1 with codes c (Eq. 1), for ever more points.

    `exact` solves for every crossing in closed form, in float64. A unit that touches a threshold without passing it
    makes no transition; one that stays at it is on the piece below. `sampled` counts between `points` equidistant
    ones, and works for smooth activations as well, whose code is whether the pre-activation is positive. Samples miss
    what crosses back between two of them, and rounding may flicker at a boundary that a path runs along.

    Args:
        model: called with one tensor; run in eval mode and left as it is.
        path: such as `netopsy.paths.ellipse_through(a, b, c)`.
        method: `"exact"` or `"sampled"`.
        points: of `sampled`.
        rtol: of `sampled`: double the points from 1,024 on until two doublings in a row change the count by no more
            than this share of it, `points` at most.
        dtype: of `sampled`.
        function: keep the affine function of each cell (`exact`).
        memory: bytes of values that are kept at a time (`exact`).
        task: its `logits` says where in the model's output the logits are.

    Raises:
        NetopsyError: for options or a path that do not fit, and a model that the method cannot take.
    """
    one_of("method", method, ("exact", "sampled"))
    at_least("points", points, 2)
    at_least("memory", memory, 1)
    if rtol is not None:
        inside("rtol", rtol, 0, 1)
    if not isinstance(path, Path):
        raise NetopsyError(f"path: expected a netopsy path, netopsy.paths.segment(a, b); got {type(path).__name__}")
    started = time.perf_counter()
    task, model = task or Task(), unwrap(model)
    known: dict[str, Any] = {"probe": "transitions", "method": method, "closed": path.closed, "function": function}
    versions = {"netopsy": __version__, "torch": str(torch.__version__)}
    functions = None
    if method == "exact":
        crossings, layers, cells, functions = _exact(model, path, memory, task)
    else:
        one_of("dtype", dtype, (torch.float32, torch.float64))
        if function:
            raise NetopsyError("function: expected False for method='sampled', which knows no affine pieces")
        crossings, layers, counts, converged = _sampled(model, path, points, rtol, dtype, task)
        cells = pd.DataFrame({"start": [], "end": [], "piece": []}).astype({"piece": "int64"})
        samples = {"samples": list(counts), "counts": list(counts.values()), "converged": converged}
        known |= {**samples, "dtype": str(dtype).removeprefix("torch.")}
    provenance = {**known, **versions, "seconds": time.perf_counter() - started}
    return Transitions(crossings, layers, cells, provenance, functions if function else None)


def _exact(
    model: nn.Module, path: Path, memory: int, task: Task
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, Tensor]:
    """Crossings, layers, cells, and the affine functions."""
    network = affine_network(model, path.at([0.0, 0.3, 0.7]), task=task)
    traced = trace(network, path.curve(), budget=memory)
    some = torch.linspace(0, len(traced.starts) - 1, min(CHECKED, len(traced.starts))).long()
    place = (traced.starts[some] + traced.ends[some]) / 2
    local = place if path.coefficients.shape[1] == 3 else place - traced.pieces[some]
    ones = torch.ones_like(local)
    basis = torch.stack([ones, local] if len(path.coefficients[0]) == 2 else [ones, local.cos(), local.sin()], 1)
    network.check(path.at(place / path.turns), torch.einsum("mk,mk...->m...", basis, traced.logits[some]))

    found, names = traced.crossings, list(traced.layers)
    counted = torch.tensor(list(traced.layers.values()), dtype=torch.bool)
    passed = torch.bincount(found.layer, minlength=len(names))
    own = counted[found.layer]
    columns = (found.t / path.turns, found.layer, found.unit, found.before, found.after)
    crossings = _frame(names, *(column[own] for column in columns))
    layers = pd.DataFrame(
        {"layer": names, "transitions": (passed * counted).numpy(), "comparisons": (passed * ~counted).numpy()}
    ).astype({"layer": "string"})
    cells = pd.DataFrame(
        {"start": traced.starts / path.turns, "end": traced.ends / path.turns, "piece": traced.pieces}
    )
    return crossings, layers, cells, traced.logits


def _sampled(
    model: nn.Module, path: Path, points: int, rtol: float | None, dtype: torch.dtype, task: Task
) -> tuple[pd.DataFrame, pd.DataFrame, dict[int, int], bool | None]:
    """Crossings and layers at the last number of points; all numbers and counts; whether they have converged."""
    network = coded_network(model, path.at([0.0, 0.5]), dtype=dtype, task=task)
    names = network.layers
    counts: dict[int, int] = {}
    size = points if rtol is None else min(FIRST, points)
    while True:
        first: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        rows = []
        sides = size if path.closed else size - 1
        for at in range(0, size, BATCH):
            t = torch.arange(at, min(at + BATCH, size), dtype=torch.float64) / sides
            for number, (name, code) in enumerate(network.at(path.at(t))):
                joined = torch.cat([before[name], code]) if at else code
                first.setdefault(name, code[:1])
                before[name] = code[-1:].clone()
                rows.append(_changes(joined, number, max(at - 1, 0), sides))
        if path.closed:
            last = [torch.cat([before[name], first[name]]) for name in names]
            rows += [_changes(code, number, size - 1, sides) for number, code in enumerate(last)]
        columns = [torch.cat(column) for column in zip(*rows, strict=True)]
        changes = (columns[4] - columns[3]).abs()
        counts[size] = int(changes.sum())
        recent = list(counts.values())[-3:]
        converged = (
            None if rtol is None else len(recent) == 3 and max(recent) - min(recent) <= rtol * max(recent[-1], 1)
        )
        if converged or size >= points:
            break
        size = min(2 * size, points)
    order = torch.argsort(columns[0], stable=True)
    frame = _frame(names, *(column[order] for column in columns))
    totals = torch.bincount(columns[1], weights=changes.double(), minlength=len(names)).long()
    layers = pd.DataFrame({"layer": names, "transitions": totals.numpy(), "comparisons": 0}).astype(
        {"layer": "string"}
    )
    return frame, layers, counts, converged


def _changes(code: Tensor, layer: int, start: int, sides: int) -> tuple[Tensor, ...]:
    """Where codes of neighboring points differ: t halfway between them, layer, unit, before, after."""
    row, unit = (code[1:] != code[:-1]).nonzero(as_tuple=True)
    t = (start + row + 0.5) / sides
    return t.double(), torch.full_like(unit, layer), unit, code[row, unit], code[row + 1, unit]


def _frame(names: list[str], t: Tensor, layer: Tensor, unit: Tensor, before: Tensor, after: Tensor) -> pd.DataFrame:
    """A row for each crossing."""
    columns = {"t": t, "layer": layer, "unit": unit, "before": before, "after": after}
    frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    frame["layer"] = pd.Series([names[i] for i in layer.tolist()], dtype="string")
    return frame


def curvature(
    model: nn.Module,
    path: Path,
    *,
    points: int = 1000,
    output: Literal["logits", "probabilities"] = "logits",
    batch_size: int = 64,
    task: Task | None = None,
) -> float:
    """C = 1/2 sum_i ‖f'(z_i) − f'(z_{i+1})‖_F over equidistant points, f' the input–output Jacobian (§3).

    Args:
        model: any that is differentiable; run in eval mode in float64 and left as it is.
        path: closed: the last point is followed by the first.
        points: how many; the sum of a piecewise linear network stops growing when each region has one.
        output: what f gives.
        batch_size: Jacobians at a time.
        task: its `logits` says where in the model's output the logits are.

    Raises:
        NetopsyError: for options or a path that do not fit.
    """
    at_least("points", points, 2)
    at_least("batch_size", batch_size, 1)
    one_of("output", output, ("logits", "probabilities"))
    task, model = task or Task(), unwrap(model)
    state, call = state_in(model, torch.float64), bind(model)

    def value(x: Tensor) -> Tensor:
        logits = task.logits(call(state, ((x[None],), {})))[0]
        return logits.softmax(-1) if output == "probabilities" else logits

    jacobian = torch.func.vmap(torch.func.jacrev(value))
    t = torch.arange(points, dtype=torch.float64) / (points if path.closed else points - 1)
    total, first, before = 0.0, None, None
    with evaluation_mode(model):
        for part in torch.split(t, batch_size):
            here = jacobian(path.at(part)).detach().flatten(1)
            first = here[:1] if first is None else first
            along = here if before is None else torch.cat([before, here])
            total += torch.linalg.vector_norm(along.diff(dim=0), dim=1).sum().item()
            before = here[-1:]
    if path.closed and first is not None and before is not None:
        total += torch.linalg.vector_norm(first - before).item()
    return total / 2
