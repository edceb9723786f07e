"""Match the units of two networks by the correlation of their activations, in one pass over the data.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019),
§5.1: ρ and ρ̄. There the first network is a teacher, the other its student; here they are any two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError, one_of, shorten
from netopsy.engine.alignment import best, one_to_one, rho_bar
from netopsy.engine.batches import open_data
from netopsy.engine.pairs import pair_moments
from netopsy.network.addresses import unwrap
from netopsy.network.states import check_parameters
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.network.units import UnitLayer, UnitSpec, find_units
from netopsy.probes.matching_result import UnitMatch

Assignment: TypeAlias = Literal["best", "one-to-one"]
"""Each unit's best match, whoever else has it; or different units, by the largest sum of correlations."""


def match_units(
    net_a: nn.Module | Trajectory,
    net_b: nn.Module | Trajectory,
    data: Any,
    *,
    sites: UnitSpec = None,
    other_sites: UnitSpec = None,
    assignment: Assignment = "best",
    names: tuple[str, str] | None = None,
    seed: int = 0,
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> UnitMatch:
    """Match each unit of one network with one of another: any two architectures, layers of any widths.

    Layers are taken in pairs, the first of one network with the first of the other. ρ is the cosine of two units'
    centered activations (Pearson's r), signed; every position of a convolution is a sample. Sums are float64.

    >>> import torch
    >>> data = torch.randn(60, 4), torch.zeros(60)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> match_units(net, net, data).layers.rho_bar.round(6).tolist()
    [1.0]

    Args:
        net_a: whose units are to be found again, such as a teacher; of a trajectory the trained one.
        net_b: where they are looked for, such as a student.
        data: examples in any form that `netopsy.evaluate` takes.
        sites: layers of `net_a`; by default the outputs of all activation modules (see
            `netopsy.network.units.find_units`).
        other_sites: as many layers of `net_b`; by default named as those of `net_a`.
        assignment: see `Assignment`; `reassigned` gives the other one without another pass.
        names: of the two networks, for tables, pictures and reports.
        seed: of the order of the examples, which changes rounding only.
        task: how batches of both are read.
        batch_size: examples a batch.
        progress: called with the examples done and their total.

    Raises:
        NetopsyError: for input that cannot be worked with, such as different numbers of layers, before any long work;
            for a pair of layers with different numbers of positions.
    """
    started = time.perf_counter()
    one_of("assignment", assignment, ("best", "one-to-one"))
    first, second = _network("net_a", net_a), _network("net_b", net_b)
    task = task or Task()
    source = open_data(data, batch_size=batch_size, seed=seed)
    inputs = task.inputs(source.first())
    mine = find_units(first, inputs, sites, task=task)
    theirs = find_units(second, inputs, sites if other_sites is None else other_sites, task=task)
    check_pairs(mine, theirs)
    pairs = list(zip(mine, theirs, strict=True))
    found = pair_moments(first, second, pairs, source, task=task, progress=progress)
    rows = [(a.name, b.name, a.units, b.units, moments.count) for (a, b), moments in zip(pairs, found, strict=True)]
    return _assigned(
        {a.name: moments.correlation() for a, moments in zip(mine, found, strict=True)},
        {a.name: moments.status(0) for a, moments in zip(mine, found, strict=True)},
        pd.DataFrame(rows, columns=["layer_a", "layer_b", "units_a", "units_b", "samples"]),
        {
            "probe": "match_units",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": source.fingerprint,
            "names": None if names is None else list(names),
            "layers_a": {layer.name: {"address": str(layer.address), "shape": list(layer.shape)} for layer in mine},
            "layers_b": {layer.name: {"address": str(layer.address), "shape": list(layer.shape)} for layer in theirs},
            "assignment": assignment,
            "batch_size": batch_size,
            "seed": seed,
            "seconds": time.perf_counter() - started,
        },
    )


def reassigned(found: UnitMatch, assignment: Assignment) -> UnitMatch:
    """The same correlations with the matches of another assignment; no network is run.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> best = match_units(net, net, (torch.randn(60, 4), torch.zeros(60)))
    >>> reassigned(best, "one-to-one").frame.equals(best.frame)
    True
    """
    one_of("assignment", assignment, ("best", "one-to-one"))
    status = found.frame.status.astype(object).replace("unmatched", "ok")
    return _assigned(
        {name: torch.from_numpy(matrix) for name, matrix in found.matrix.items()},
        {name: status[found.frame.layer_a == name].tolist() for name in found.matrix},
        found.layers[["layer_a", "layer_b", "units_a", "units_b", "samples"]],
        {**found.provenance, "assignment": assignment},
    )


def check_pairs(mine: Sequence[UnitLayer], theirs: Sequence[UnitLayer]) -> None:
    """Refuse two networks with different numbers of layers."""
    if len(mine) != len(theirs):
        raise NetopsyError(
            f"sites: expected as many layers of one network as of the other, which are taken in pairs; got "
            f"{len(mine)} ({shorten(mine, 3)}) and {len(theirs)} ({shorten(theirs, 3)}); pass sites= and other_sites="
        )


def _network(name: str, given: Any) -> nn.Module:
    model = given.model() if isinstance(given, Trajectory) else given
    if not isinstance(model, nn.Module):
        raise NetopsyError(f"{name}: expected a torch module or a netopsy.Trajectory; got {type(given).__name__}")
    model = unwrap(model)
    check_parameters(model)
    return model


def _assigned(
    matrices: Mapping[str, Tensor],
    statuses: Mapping[str, Sequence[str]],
    layers: pd.DataFrame,
    provenance: Mapping[str, Any],
) -> UnitMatch:
    """Every layer's matches, and what they come to."""
    assign = best if provenance["assignment"] == "best" else one_to_one
    frames, rows = [], []
    for (name, matrix), row in zip(matrices.items(), layers.to_dict("records"), strict=True):
        frame = _units(name, str(row["layer_b"]), statuses[name], matrix, assign(matrix))
        frames.append(frame)
        mean, matched = frame.rho.mean(), frame.rho.count()
        head = (name, row["layer_b"], row["units_a"], row["units_b"])
        rows.append((*head, float(rho_bar(matrix)), mean, matched, row["samples"]))
    names = ["layer_a", "layer_b", "units_a", "units_b", "rho_bar", "mean_rho", "matched", "samples"]
    whole = dict.fromkeys(("units_a", "units_b", "matched", "samples"), "Int64")
    return UnitMatch(
        matrix={name: matrix.numpy() for name, matrix in matrices.items()},
        frame=pd.concat(frames, ignore_index=True),
        layers=pd.DataFrame(rows, columns=names).astype({"layer_a": "string", "layer_b": "string", **whole}),
        provenance=provenance,
    )


def _units(
    layer: str, other: str, known: Sequence[str], matrix: Float[Tensor, "a b"], match: Int64[Tensor, " a"]
) -> pd.DataFrame:
    """A row a unit of the first layer."""
    place = match.numpy()
    matched = place >= 0
    status = np.array(known, dtype=object)
    status[(status == "ok") & ~matched] = "unmatched"
    frame = pd.DataFrame(
        {
            "layer_a": layer,
            "unit": np.arange(len(place)),
            "layer_b": other,
            "match": pd.Series(place, dtype="Int64").where(matched),
            "rho": np.where(matched, matrix.numpy()[np.arange(len(place)), place], np.nan),
            "status": status,
        }
    )
    return frame.astype({"unit": "Int64", **dict.fromkeys(("layer_a", "layer_b", "status"), "string")})
