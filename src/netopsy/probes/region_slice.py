"""The linear regions of a network on a plane through its input space (Novak et al. 2018, Figure 3)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from netopsy import __version__
from netopsy._checks import NetopsyError, at_least, near, shorten
from netopsy._typing import FloatArray
from netopsy.engine.affine import AffineNetwork, affine_network
from netopsy.engine.planes import PlanePartition, cut_classes
from netopsy.network.task import Task
from netopsy.probes.plane import Plane
from netopsy.probes.region_slice_result import RegionSlice

SQUARE = (-1.0, -1.0, 1.0, 1.0)
CHECKED = 64
"""Regions at whose centers the affine logits are compared with the model's."""


def region_slice(
    model: nn.Module,
    plane: Plane,
    *,
    layer: str | None = None,
    classes: bool = False,
    limit: int = 2_000_000,
    memory: int = 2**28,
    task: Task | None = None,
) -> RegionSlice:
    """Cut the square [-1, 1]² of a plane into the polygons on which a network is affine, exactly.

    A boundary of a unit is where its pre-activation passes a kink of its activation (of ReLU 0; of ReLU6 0 and 6).

    Args:
        model: called with one tensor, in eval mode, piecewise linear; it is not changed.
        plane: such as `netopsy.plane_through` of three training examples.
        layer: whose boundaries are kept: the name of an activation, `"all"`, or None for the last hidden one, as in
            Figure 3. The polygons are those of the whole network whichever it is.
        classes: also cut the polygons where the largest logit changes.
        limit: most polygons, beyond which this gives up.
        memory: bytes of the network's values that are held at a time, in each layer.
        task: its `logits` says where in the model's output the logits are.

    Raises:
        NetopsyError: a layer that is not there, a plane whose inputs the model does not take, a model that is not
            piecewise linear or not supported, more polygons than `limit`.
    """
    started = time.perf_counter()
    at_least("limit", limit, 1)
    at_least("memory", memory, 1)
    network = plane_network(model, plane, task)
    kept = kept_layers(network, layer)
    partition = PlanePartition.of(SQUARE, layers=kept, most=limit)
    coefficients = torch.stack([plane.center, plane.across, plane.up]).unsqueeze(0)
    logits = network.run(coefficients, partition, budget=memory)
    if logits.ndim != 3:
        raise NetopsyError(
            f"model: expected logits (examples, classes); got {logits.ndim - 1} axes; pass "
            "task=netopsy.Task(logits=...)"
        )
    _check(network, plane, partition, logits)
    polygons, vertices = _polygons(partition, logits.numpy(), classes)
    return RegionSlice(
        segments=_segments(partition, kept),
        polygons_frame=polygons,
        vertices=vertices,
        provenance={
            "probe": "region_slice",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "model": type(model).__name__,
            "layers": kept,
            "classes": classes,
            "anchors": plane.anchors.tolist(),
            "seconds": time.perf_counter() - started,
        },
    )


def plane_network(model: nn.Module, plane: Plane, task: Task | None) -> AffineNetwork:
    """The model on affine pieces, tried at the square's corners and the anchors."""
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    return affine_network(model, plane.at(torch.cat([corners, plane.anchors.double()])), task=task)


def kept_layers(network: AffineNetwork, layer: str | None) -> list[str]:
    """Names of the layers whose boundaries are kept; only units have boundaries, comparisons of values none."""
    names = [name for name, counted in network.layers.items() if counted]
    if layer is None:
        return names[-1:]
    if layer == "all":
        return names
    if layer not in names:
        raise NetopsyError(
            f"layer: expected 'all', None or the name of a piecewise linear activation ({shorten(names)}); got "
            f"{layer!r}{near(layer, names)}"
        )
    return [layer]


def _check(network: AffineNetwork, plane: Plane, partition: PlanePartition, logits: torch.Tensor) -> None:
    """Compare with the model at the centers of some regions."""
    centers = np.concatenate([leaf.mesh.centers() for leaf in partition.leaves()])
    some = np.unique(np.linspace(0, len(centers) - 1, CHECKED).round().astype(int))
    uv = torch.from_numpy(centers[some])
    own = logits[torch.from_numpy(some)]
    network.check(plane.at(uv), own[:, 0] + uv[:, :1] * own[:, 1] + uv[:, 1:] * own[:, 2])


def _segments(partition: PlanePartition, kept: list[str]) -> pd.DataFrame:
    parts = sorted(partition.boundaries(), key=lambda part: kept.index(part.layer))
    ends = np.concatenate([np.zeros((0, 4)), *(part.ends.reshape(-1, 4) for part in parts)])
    return pd.DataFrame(
        {
            "layer": pd.array(np.repeat([p.layer for p in parts], [len(p.units) for p in parts]), dtype="string"),
            "unit": np.concatenate([np.zeros(0, np.int64), *(part.units for part in parts)]),
            **dict(zip(("u0", "v0", "u1", "v1"), ends.T, strict=True)),
        }
    )


def _polygons(partition: PlanePartition, logits: FloatArray, classes: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a polygon (`region, class, area`), and a row a vertex (`polygon, u, v`)."""
    rows: list[tuple[np.ndarray, ...]] = []
    corners: list[tuple[np.ndarray, ...]] = []
    regions = polygons = 0
    for leaf in partition.leaves():
        mesh = leaf.mesh
        count = mesh.faces
        region, own = np.arange(count), np.full(count, -1)
        if classes:
            region, own = cut_classes(mesh, logits[regions : regions + count])
        rows.append((regions + region, own, mesh.areas()))
        face, vertex = mesh.corners()
        corners.append((polygons + face, *mesh.points[vertex].T))
        regions, polygons = regions + count, polygons + mesh.faces
    return _joined(("region", "class", "area"), rows), _joined(("polygon", "u", "v"), corners)


def _joined(names: Sequence[str], parts: Sequence[tuple[np.ndarray, ...]]) -> pd.DataFrame:
    return pd.DataFrame({name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)})
