"""Complexity measures of a trained network.

Chatterji, Neyshabur, Sedghi (ICLR 2020), Table 1; Long and Sedghi (2019); Bartlett, Foster, Telgarsky (NeurIPS 2017);
Neyshabur, Tomioka, Srebro (COLT 2015). Definitions: docs/complexity.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, inside, shorten
from netopsy.engine.batches import Source, check_batch, open_data
from netopsy.engine.functional import Inputs
from netopsy.network.states import check_parameters
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.complexity_result import ComplexityResult
from netopsy.probes.operator_norm import Linear, operator_norm
from netopsy.probes.path_norm import path_norm
from netopsy.probes.sharpness import sharpness

MEASURES = {
    "pfn": "log10",
    "psn": "log10",
    "dti": "plain",
    "dti_squares": "plain",
    "nop": "plain",
    "sosp": "plain",
    "pac_bayes": "plain",
    "pac_bayes_optimum": "plain",
    "criticality": "plain",
    "spectral_margin": "log10",
    "path_norm": "log10",
    "sharpness": "plain",
}
"""Every measure, and the scale of its value."""


@runtime_checkable
class Framed(Protocol):
    """A result that has a frame, such as `netopsy.criticality`'s."""

    def to_frame(self) -> pd.DataFrame: ...


def complexity(
    trajectory: Trajectory,
    train_data: Any,
    *,
    criticality: Framed | pd.DataFrame | None = None,
    epsilon: float = 0.1,
    end_sigma: Mapping[str, float] | None = None,
    margin_quantile: float = 0.1,
    hessian_examples: int = 512,
    seed: int = 0,
    task: Task | None = None,
    batch_size: int | None = None,
) -> ComplexityResult:
    """Measure the complexity of a trained network in the ways that are held against its generalization gap.

    Modules are linear layers and convolutions; norms of other parameters (normalization, embeddings) are left out
    and the modules named in the provenance.

    Args:
        trajectory: with the weights that training started from.
        train_data: examples in any form that `netopsy.evaluate` takes.
        criticality: result, or frame, of `netopsy.criticality`: columns `site, epsilon, mu, sigma, distance, status`.
        epsilon: the rows of it that count.
        end_sigma: for each of its sites the largest σ that keeps the error at α = 1, for the measure `pac_bayes`; by
            default its column `end_sigma`, where it has one (`netopsy.criticality(..., end_sigma=True)`).
        margin_quantile: of the training examples' margins; what `spectral_margin` divides by.
        hessian_examples: so many first examples, in a seeded random order, for `sharpness`; 0 to leave it out.
        seed: of the order of the examples and of vectors to start from.
        task: how batches are read.
        batch_size: examples a batch.

    Returns:
        A row a measure, and a row a module.

    Raises:
        NetopsyError: for a trajectory without initial weights, a network without linear layers, a frame without the
            rows asked for, data that cannot be read.
    """
    started = time.perf_counter()
    inside("margin_quantile", margin_quantile, 0, 1)
    at_least("hessian_examples", hessian_examples, 0)
    if trajectory.initial is None:
        raise NetopsyError(
            "trajectory: expected the weights that training started from (checkpoint 0); it has none; pass initial="
        )
    task = task or Task()
    rows = _critical(criticality, epsilon)
    if end_sigma is None and rows is not None and "end_sigma" in rows:
        end_sigma = dict(zip(rows.site, rows.end_sigma.to_numpy(dtype=np.float64, na_value=np.nan), strict=True))
    if end_sigma is not None and rows is None:
        raise NetopsyError("end_sigma: expected criticality= beside it, for the distances; got none")
    model, start = trajectory.model(), trajectory.model(trajectory.initial)
    check_parameters(model)
    source = open_data(train_data, batch_size=batch_size, seed=seed)
    first = source.first()
    shapes, left_out = _linear(model, task.inputs(first))
    modules = _norms(model, start, shapes, seed)
    margins, squares, error = _margins(model, source, task)
    margin = float(np.quantile(margins, margin_quantile))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found: dict[str, tuple[float, str]] = {
        "pfn": (_log_sum(modules.frobenius), "ok"),
        "psn": (_log_sum(modules.spectral), "ok"),
        "dti": (float(modules.distance.sum()), "ok"),
        "dti_squares": (float(modules.distance.pow(2).sum()), "ok"),
        "nop": (float(parameters), "ok"),
        "sosp": (float(parameters * modules.distance_spectral.sum()), "ok"),
        **_from_criticality(rows, end_sigma),
        "spectral_margin": _spectral_margin(modules, squares, margin, len(margins)),
        "path_norm": _path_norm(model, task.inputs(first), task),
        "sharpness": _sharpness(model, source, task, hessian_examples, seed),
    }
    frame = pd.DataFrame(
        {
            "measure": list(MEASURES),
            "value": [found[name][0] for name in MEASURES],
            "scale": list(MEASURES.values()),
            "status": [found[name][1] for name in MEASURES],
        }
    )
    bad = ~np.isfinite(frame.value) & (frame.status == "ok")
    frame.loc[bad, "status"] = "non-finite"
    return ComplexityResult(
        frame=frame.astype({"measure": "string", "scale": "string", "status": "string"}),
        modules=modules,
        provenance={
            "probe": "complexity",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": source.fingerprint,
            "examples": len(margins),
            "train_error": error,
            "margin": margin,
            "margin_quantile": margin_quantile,
            "left_out": left_out,
            "epsilon": epsilon,
            "hessian_examples": hessian_examples,
            "seed": seed,
            "initial": trajectory.initial,
            "final": trajectory.final,
            "seconds": time.perf_counter() - started,
        },
    )


def _linear(model: nn.Module, inputs: Inputs) -> tuple[dict[str, tuple[tuple[int, ...], int]], list[str]]:
    """Linear layers and convolutions that a pass calls: name -> shape of one input, positions of the output.

    And the names of other modules with parameters of their own.
    """
    shapes: dict[str, tuple[tuple[int, ...], int]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, Linear):

            def note(own: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                positions = 1 if isinstance(own, nn.Linear) else math.prod(output.shape[2:])
                shape = tuple(given[0].shape[-1:] if isinstance(own, nn.Linear) else given[0].shape[1:])
                shapes.setdefault(name, (shape, positions))

            hooks.append(module.register_forward_hook(note))
    with torch.no_grad():
        model(*inputs[0], **inputs[1])
    for hook in hooks:
        hook.remove()
    if not shapes:
        raise NetopsyError(
            f"trajectory: expected a network with linear layers or convolutions; {type(model).__name__} calls none"
        )
    owners = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    return shapes, [name for name in owners if name not in shapes]


def _norms(
    model: nn.Module, start: nn.Module, shapes: Mapping[str, tuple[tuple[int, ...], int]], seed: int
) -> pd.DataFrame:
    rows = []
    for name, (shape, positions) in shapes.items():
        module, first = model.get_submodule(name), start.get_submodule(name)
        assert isinstance(module, Linear)
        assert isinstance(first, Linear)
        weight, moved = module.weight.detach().double(), (module.weight - first.weight).detach().double()
        pairs = zip(module.parameters(), first.parameters(), strict=True)
        squares = sum(float((own.detach().double() - other.detach().double()).square().sum()) for own, other in pairs)
        rows.append(
            {
                "site": name,
                "parameters": sum(parameter.numel() for parameter in module.parameters()),
                "frobenius": float(weight.norm()),
                "spectral": operator_norm(module, weight, shape, seed=seed),
                "distance": math.sqrt(squares),
                "distance_spectral": operator_norm(module, moved, shape, seed=seed),
                "distance_rows": positions * float(moved.flatten(1).norm(dim=1).sum()),
            }
        )
    return pd.DataFrame(rows).astype({"site": "string"})


def _margins(model: nn.Module, source: Source, task: Task) -> tuple[np.ndarray, float, float]:
    """The margin of each label, right logit less the largest other; Σ‖x‖² (NaN for other inputs than one tensor).

    And the 0-1 error: the prediction is the first of the largest logits, as in `netopsy.evaluate`.
    """
    margins: list[Tensor] = []
    squares, wrong = 0.0, 0
    with torch.no_grad():
        for _, batch in source.batches():
            args, kwargs = task.inputs(batch)
            labels = task.labels(batch)
            scores = task.scores(task.logits(model(*args, **kwargs)), labels)
            check_batch(task, batch, scores.shape[-1], "a batch")
            valid = task.valid(labels)
            right, truth = scores[valid], labels[valid]
            own = right.gather(1, truth[:, None])
            others = right.scatter(1, truth[:, None], -math.inf)
            margins.append((own - others.max(1, keepdim=True).values).flatten().double().cpu())
            wrong += int((right.argmax(1) != truth).sum())
            single = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and args[0].is_floating_point()
            squares += float(args[0].double().square().sum()) if single else math.nan
    found = torch.cat(margins).numpy()
    if not len(found):
        raise NetopsyError("train_data: expected labels that count; all are ignored (Task.ignore_index)")
    return found, squares, wrong / len(found)


def _log_sum(norms: pd.Series) -> float:
    """log₁₀ of a product."""
    with np.errstate(divide="ignore"):
        return float(np.log10(norms.to_numpy()).sum())


def _spectral_margin(modules: pd.DataFrame, squares: float, margin: float, examples: int) -> tuple[float, str]:
    """log₁₀ of ‖X‖_F Π s_i (Σ (b_i/s_i)^{2/3})^{3/2} / (γ n), with b_i = ‖(A_i - A_i^0)ᵀ‖_{2,1} (their eq. 1.2)."""
    if math.isnan(squares):
        return math.nan, "no input norm"
    if margin <= 0:
        return math.nan, "no margin"
    ratio = (modules.distance_rows / modules.spectral).pow(2 / 3).sum() ** 1.5
    if ratio == 0 or squares == 0:
        return math.nan, "no change"
    return float(_log_sum(modules.spectral) + math.log10(math.sqrt(squares) * ratio / (margin * examples))), "ok"


def _path_norm(model: nn.Module, inputs: Inputs, task: Task) -> tuple[float, str]:
    floating = all(leaf.is_floating_point() for leaf in inputs[0] if isinstance(leaf, Tensor))
    value = path_norm(model, inputs, task) if floating else None
    return (math.nan, "no paths") if value is None else (value, "overflow" if value == math.inf else "ok")


def _sharpness(model: nn.Module, source: Source, task: Task, examples: int, seed: int) -> tuple[float, str]:
    if examples == 0:
        return math.nan, "not measured"
    batches, seen = [], 0
    for rows, batch in source.batches():
        batches.append(batch)
        seen += len(rows)
        if seen >= examples:
            break
    value = sharpness(model, batches, task, seed=seed)
    return value, "not converged" if math.isnan(value) else "ok"


def _critical(criticality: Framed | pd.DataFrame | None, epsilon: float) -> pd.DataFrame | None:
    """The rows of one epsilon."""
    if criticality is None:
        return None
    frame = criticality if isinstance(criticality, pd.DataFrame) else criticality.to_frame()
    need = ["site", "epsilon", "mu", "sigma", "distance", "status"]
    missing = [name for name in need if name not in frame]
    if missing:
        raise NetopsyError(f"criticality: expected columns {', '.join(need)}; {', '.join(missing)} not there")
    rows: pd.DataFrame = frame[np.isclose(frame.epsilon.to_numpy(dtype=np.float64), epsilon)]
    if rows.empty:
        known = shorten(f"{value:g}" for value in frame.epsilon.unique())
        raise NetopsyError(f"epsilon={epsilon:g}: expected one that criticality was measured at; these are {known}")
    return rows


def _from_criticality(
    rows: pd.DataFrame | None, end_sigma: Mapping[str, float] | None
) -> dict[str, tuple[float, str]]:
    """Σ ‖Δ‖²/σ² with σ at α = 1 and at the optimum, and Σ μ."""
    absent = (math.nan, "not measured")
    if rows is None:
        return {"pac_bayes": absent, "pac_bayes_optimum": absent, "criticality": absent}
    infeasible = (rows.status == "infeasible").any()
    optimum, mu = (rows[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("sigma", "mu"))
    squares = rows.distance.to_numpy(dtype=np.float64) ** 2
    found = {
        "pac_bayes": absent,
        "pac_bayes_optimum": _total(squares, optimum),
        "criticality": (float(mu.sum()), "ok"),
    }
    if infeasible:
        found |= dict.fromkeys(("pac_bayes_optimum", "criticality"), (math.nan, "infeasible"))
    if end_sigma is not None:
        missing = [site for site in rows.site if site not in end_sigma]
        if missing:
            raise NetopsyError(f"end_sigma: expected a σ for each site of criticality; {shorten(missing)} not there")
        found["pac_bayes"] = _total(squares, np.array([end_sigma[site] for site in rows.site], dtype=np.float64))
    return found


def _total(squares: np.ndarray, sigma: np.ndarray) -> tuple[float, str]:
    """A module that did not move adds nothing, whatever its σ."""
    moved = squares > 0
    with np.errstate(divide="ignore"):
        total = float((squares[moved] / sigma[moved] ** 2).sum())
    return total, "no sigma" if math.isnan(total) else "ok"
