"""Singular values of every linear and convolutional module at every checkpoint, and how far each has moved.

Chatterji, Neyshabur, Sedghi: The Intriguing Role of Module Criticality in the Generalization of Deep Networks (2020),
Figures 3 and 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, near, one_of, shorten
from netopsy._typing import FloatArray, Key
from netopsy.engine.batches import open_data
from netopsy.engine.convolution import Convolution, Padding
from netopsy.network.module_values import module_values
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.arguments import read_checkpoints
from netopsy.probes.key_column import key_column
from netopsy.probes.operator_norm import operator_norm
from netopsy.probes.spectra_result import SpectraResult

Convolutional: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
Sizes: TypeAlias = dict[str, tuple[int, ...]]


def spectra(
    trajectory: Trajectory,
    data: Any,
    *,
    sites: str | Sequence[str] = "*",
    checkpoints: Sequence[Key] | Literal["all"] = "all",
    padding: Literal["circular", "own"] = "circular",
    top: int | None = None,
    points: int = 1000,
    task: Task | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> SpectraResult:
    """Singular values of linear and convolutional modules over a training run, and the norm of what they moved by.

    A convolution is the operator on inputs of the size that it has on these data (see
    `netopsy.conv_singular_values`); a linear module its weight. Biases are not part of it.

    Args:
        trajectory: the checkpoints of a training run.
        data: examples in any form that `netopsy.evaluate` takes; a few of the first batch tell the sizes.
        sites: names or globs of `nn.Linear` and `nn.Conv1d` to `nn.Conv3d` modules.
        checkpoints: the user's own keys, or `"all"`.
        padding: of convolutions: `"circular"`, as in the paper, exact and fast; or the `"own"` of each, of which only
            the `top` values can be had where inputs are large.
        top: compute only so many of the largest.
        points: of each spectrum at most so many values are kept, evenly spaced in order, with the first and last.
        task: how batches are read.
        progress: called with the spectra done and their total.

    Returns:
        A result with a row for every module and checkpoint, and the spectra.

    Raises:
        NetopsyError: for input that cannot be worked with.
    """
    started = time.perf_counter()
    one_of("padding", padding, ("circular", "own"))
    at_least("points", points, 2)
    if top is not None:
        at_least("top", top, 1)
    if not isinstance(trajectory, Trajectory):
        raise NetopsyError(f"trajectory: expected a netopsy.Trajectory; got {type(trajectory).__name__}")
    keys = read_checkpoints(trajectory, checkpoints)
    if not keys:
        raise NetopsyError("checkpoints: expected at least one key, or 'all'; got none")
    task = task or Task()
    model = trajectory.model()
    names = _modules(model, sites)
    source = open_data(data)
    sizes = _sizes(model, names, task.inputs(source.first()), task)
    start = None if trajectory.initial is None else _weights(trajectory.model(trajectory.initial), names)
    rows: list[dict[str, Any]] = []
    kept: list[tuple[str, Key, int, float]] = []
    for key in keys:
        network = trajectory.model(key)
        for name, weight in _weights(network, names).items():
            module = network.get_submodule(name)
            moved = None if start is None else weight - start[name]
            row, values = _row(module, weight, moved, sizes.get(name), padding, top)
            rows.append({"site": name, "checkpoint": key, **row})
            index = np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).round().astype(np.int64))
            kept += [(name, key, place, value) for place, value in zip(index.tolist(), values[index], strict=True)]
            if progress is not None:
                progress(len(rows), len(keys) * len(names))
    return SpectraResult(
        frame=_typed(pd.DataFrame(rows), [row["checkpoint"] for row in rows]),
        values=_typed(pd.DataFrame(kept, columns=["site", "checkpoint", "index", "value"]), [row[1] for row in kept]),
        provenance={
            "probe": "spectra",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": source.fingerprint,
            "sizes": {name: list(size) for name, size in sizes.items()},
            "initial": trajectory.initial,
            "padding": padding,
            "top": top,
            "points": points,
            "seconds": time.perf_counter() - started,
        },
    )


def _modules(model: nn.Module, sites: str | Sequence[str]) -> tuple[str, ...]:
    """Names of linear and convolutional modules, in the order of the model; each glob must match one."""
    known = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Convolutional)}
    found: set[str] = set()
    for glob in [sites] if isinstance(sites, str) else sites:
        hits = {name for name in known if fnmatchcase(name, glob)}
        if not hits:
            raise NetopsyError(
                f"site {glob!r}: matches no linear or convolutional module of {type(model).__name__}"
                f"{near(glob, known) or ('; it has ' + shorten(known, 8) if known else '; it has none')}"
            )
        found |= hits
    if not found:
        raise NetopsyError("sites: expected names or globs of linear and convolutional modules; got none")
    for name in found:
        module = known[name]
        if "weight" not in module._parameters and not parametrize.is_parametrized(module, "weight"):
            raise NetopsyError(
                f"site {name!r}: its weight is no parameter but made by a hook (torch.nn.utils.weight_norm?); use "
                "torch.nn.utils.parametrizations, or leave it out of sites="
            )
    return tuple(name for name in known if name in found)


def _sizes(model: nn.Module, names: Sequence[str], inputs: Any, task: Task) -> Sizes:
    """Positions of what each convolution takes at its first call."""
    sizes: Sizes = {}
    for value in module_values(model, inputs, task):
        if value.module in names and value.kind == "input" and value.tensor is not None:
            module = model.get_submodule(value.module)
            if isinstance(module, Convolutional):
                sizes.setdefault(value.module, tuple(value.tensor.shape[-len(module.kernel_size) :]))
    return sizes


def _weights(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """As they act (a parametrization computes them), in float64."""
    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in names}
    return {name: weight.detach().cpu().double() for name, weight in weights.items()}


def _row(
    module: nn.Module,
    weight: Float[Tensor, "*shape"],
    moved: Float[Tensor, "*shape"] | None,
    size: tuple[int, ...] | None,
    padding: str,
    top: int | None,
) -> tuple[dict[str, Any], FloatArray]:
    """Numbers of one module at one checkpoint, and its singular values, largest first; none with another status."""
    row: dict[str, Any] = {
        "norm": np.nan,
        "smallest": np.nan,
        "stable_rank": np.nan,
        "moved": np.nan,
        "values": 0,
        "status": "ok",
    }
    if isinstance(module, Convolutional) and size is None:
        row["status"] = "not called"
    elif padding == "own" and isinstance(module, Convolutional) and module.padding_mode not in ("zeros", "circular"):
        row["status"] = "padding"
    elif not torch.isfinite(weight).all():
        row["status"] = "non-finite"
    if row["status"] != "ok":
        return row, np.zeros(0)
    values = _singular_values(module, weight, size, padding, top)
    row["values"] = len(values)
    row["norm"] = float(values[0])
    if top is None:
        row["smallest"] = float(values[-1])
        row["stable_rank"] = float((values**2).sum() / values[0] ** 2) if values[0] > 0 else np.nan
    if moved is not None and torch.isfinite(moved).all():
        row["moved"] = _norm(module, moved, size, padding)
    return row, values


def _norm(module: nn.Module, weight: Float[Tensor, "*shape"], size: tuple[int, ...] | None, padding: str) -> float:
    """The largest singular value alone: of a linear module by Lanczos, which a large matrix makes much cheaper."""
    if isinstance(module, nn.Linear):
        return operator_norm(module, weight, (module.in_features,))
    return float(_singular_values(module, weight, size, padding, 1)[0]) if weight.any() else 0.0


def _singular_values(
    module: nn.Module, weight: Float[Tensor, "*shape"], size: tuple[int, ...] | None, padding: str, top: int | None
) -> FloatArray:
    if not isinstance(module, Convolutional) or size is None:
        whole: FloatArray = torch.linalg.svdvals(weight).numpy()[:top]
        return whole
    options = (module.dilation, module.groups)
    if padding == "circular":
        return Convolution.read(weight, size, module.stride, "circular", *options).singular_values(top)
    own: Padding = 0 if module.padding == "valid" else "zeros" if isinstance(module.padding, str) else module.padding
    conv = Convolution.read(weight, size, module.stride, own, *options)
    return replace(conv, wraps=module.padding_mode == "circular").singular_values(top)


def _typed(frame: pd.DataFrame, keys: Sequence[Key]) -> pd.DataFrame:
    text = [name for name in ("site", "status") if name in frame]
    frame = frame.assign(checkpoint=key_column(keys))
    whole = [name for name in ("index", "values") if name in frame]
    numbers = [str(name) for name in frame if name not in (*text, *whole, "checkpoint")]
    kinds = {**dict.fromkeys(text, "string"), **dict.fromkeys(whole, "Int64"), **dict.fromkeys(numbers, "float64")}
    return frame.astype(kinds)
