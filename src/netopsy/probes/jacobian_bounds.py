"""What the cross-entropy at a point says of its Jacobian norm, and how far the two assumptions behind it hold.

Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein: Sensitivity and Generalization in Neural Networks: an Empirical
Study (2018), Appendix A.3, Equations 5 to 7.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError
from netopsy._storage import read_result, write_result
from netopsy.engine.jacobian_products import gram
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.jacobian_norm import opened, typed


@dataclass(frozen=True, eq=False)
class JacobianBounds:
    """Bounds on the Jacobian norm at points beside what it is.

    Attributes:
        frame: one row a point; see `to_frame`.
        provenance: M (`logit_square`), options, versions, data fingerprint, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def share_within(self) -> float:
        """Share of the points whose ‖J_y‖ lies between the bounds of Equation 5."""
        return float(self.frame["within"].mean())

    @property
    def share_above(self) -> float:
        """Share of the points whose ‖J‖ is at least the lower bound (Equation 6)."""
        return float((self.frame["norm"] >= self.frame["lower"] * (1 - 1e-6)).mean())

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `index`, `label`, `loss` (the cross-entropy l, in nats), `correct`; `norm_y` and `norm`, measured
        ‖J_y‖ and ‖J‖ (Frobenius), J the Jacobian of the probabilities and J_y its row of the label; `lower` and
        `upper` of ‖J_y‖ (Equation 5; `lower` bounds ‖J‖ too, Equation 6), `approximate` ‖J‖ (Equation 7), `within`:
        whether lower ≤ ‖J_y‖ ≤ upper; how far the assumptions are off: `logit_ratio`, the point's ‖∂f/∂x‖² / n over
        M, `logit_spread`, the standard deviation over the classes of the logits' gradient norms over their mean, and
        `cross_share`, the cross terms' part of ‖J_y‖² (negative where they make it smaller).
        """
        return self.frame.copy()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet` and `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"results": self.frame}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> JacobianBounds:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "JacobianBounds", "jacobian_bounds", ["results"])
        return cls(frame=tables["results"], provenance=provenance)

    def __str__(self) -> str:
        frame = self.frame
        ratio = frame["norm"] / frame["approximate"]
        medians = frame[["logit_ratio", "logit_spread", "cross_share"]].quantile([0.05, 0.5, 0.95])
        return "\n".join(
            [
                f"{len(frame)} points: ‖J_y‖ within its bounds (Eq. 5) at {self.share_within:.1%}, ‖J‖ above the "
                f"lower one (Eq. 6) at {self.share_above:.1%}; ‖J‖ over its approximation (Eq. 7): median "
                f"{ratio.median():.3g}.",
                "The assumptions at the points (quantiles; they hold where these are 1, 0, 0):",
                medians.rename_axis("quantile").to_string(float_format=lambda value: f"{value:.3g}"),
            ]
        )


def jacobian_bounds(
    model: nn.Module | Trajectory,
    data: Any,
    *,
    chunk: int | None = None,
    embedding: str | None = None,
    task: Task | None = None,
    dtype: torch.dtype | None = None,
) -> JacobianBounds:
    """Hold the Jacobian norm at every point against what the cross-entropy l at this point says of it.

    With M = E ‖∂f/∂x‖²_F / n over these points, f the n logits:
    √(n/(n-1)) √M e⁻ˡ(1 - e⁻ˡ) ≲ ‖J_y‖ ≲ √(2M) e⁻ˡ(1 - e⁻ˡ) (Equation 5), ‖J‖_F ≥ the lower one (Equation 6), and
    ‖J‖_F ≈ √M (1 - e⁻ˡ) √(n² e⁻²ˡ + n - 2) / (n - 1) (Equation 7). These take the gradients of all logits, at all
    points, for equally long, and leave out the products of different ones. n vector-Jacobian products a point.

    Args:
        model: any differentiable module, as it is in eval mode; of a trajectory the trained one.
        data: examples with labels in any form that `netopsy.evaluate` takes.
        chunk: examples differentiated at once; by default as memory and cache allow.
        embedding: name of the module whose output is to be the input, for models on integer tokens.
        task: how batches and outputs are read; l is the cross-entropy whatever its loss.
        dtype: in which to compute; by default that of model and data.

    Returns:
        A result with a row for every point that has a label.

    Raises:
        NetopsyError: for input that cannot be worked with, before any long work.
    """
    started = time.perf_counter()
    with opened(model, data, chunk=chunk, embedding=embedding, task=task, dtype=dtype, rows=True) as points:
        if not points.labeled:
            raise NetopsyError("data: expected labels beside the inputs, for the cross-entropy; got inputs alone")
        vectors = torch.eye(points.classes, dtype=torch.float64)
        rows = []
        for at in points.locals():
            assert at.labels is not None
            products = gram(at.local, (vector[None] for vector in vectors), softmax=False)
            judged = pd.DataFrame({"index": at.index, **at.judged()})
            counted = at.task.valid(at.labels[:, None])[:, 0]
            if not counted.any():
                continue
            found = _measured(at.local.logits[counted], products[counted], at.labels[counted])
            rows.append(judged[counted.numpy()].reset_index(drop=True).assign(**found))
    if not rows:
        raise NetopsyError("data: expected points with labels that count; all are the task's ignore_index")
    frame = typed(rows)
    square = float(frame["logit_ratio"].mean())
    return JacobianBounds(
        frame=_bounded(frame, square, points.classes),
        provenance={
            "probe": "jacobian_bounds",
            "netopsy": __version__,
            "torch": str(torch.__version__),
            "data": points.source.fingerprint,
            "classes": points.classes,
            "logit_square": square,
            "chunk": points.chunk,
            "embedding": embedding,
            "dtype": None if dtype is None else str(dtype),
            "seconds": time.perf_counter() - started,
        },
    )


def _measured(
    logits: Float[Tensor, "m c"], products: Float[Tensor, "m c c"], labels: Int[Tensor, " m"]
) -> dict[str, Any]:
    """Of every point: l, 1 - e⁻ˡ (without cancellation), norms, ‖∂f/∂x‖² / n, how far the assumptions are off."""
    log = logits.double().log_softmax(1)
    p = log.exp()
    others = p.scatter(1, labels[:, None], 0.0).sum(1)
    a = -p[:, :, None] * p[:, None, :]  # diag p - p pᵀ, its diagonal by the other probabilities: p(1 - p) cancels
    rest = (p[:, None, :] * (1 - torch.eye(p.shape[1], dtype=p.dtype))).sum(2)
    a.diagonal(dim1=1, dim2=2).copy_(p * rest)
    full = (a @ products * a).sum(2)  # the diagonal of A K A
    row = a[torch.arange(len(p)), labels]
    own = products.diagonal(dim1=1, dim2=2).clamp(0)
    square_y = full[torch.arange(len(p)), labels].clamp(0)
    straight = (row.square() * own).sum(1)
    lengths = own.sqrt()
    return {
        "loss": -log[torch.arange(len(p)), labels].numpy(),
        "wrong_mass": others.numpy(),
        "norm_y": square_y.sqrt().numpy(),
        "norm": full.sum(1).clamp(0).sqrt().numpy(),
        "logit_ratio": own.mean(1).numpy(),
        "logit_spread": (lengths.std(1, correction=0) / lengths.mean(1)).numpy(),
        "cross_share": (1 - straight / square_y).numpy(),
    }


def _bounded(frame: pd.DataFrame, square: float, n: int) -> pd.DataFrame:
    """Equations 5 and 7, with e⁻ˡ the probability of the label and 1 - e⁻ˡ the sum of the others."""
    right, wrong = np.exp(-frame["loss"]), frame["wrong_mass"]
    root = square**0.5
    lower = (n / (n - 1)) ** 0.5 * root * right * wrong
    upper = 2**0.5 * root * right * wrong
    rounding = 1e-6  # of float32: where the assumptions hold, equality is met
    inside = (frame["norm_y"] >= lower * (1 - rounding)) & (frame["norm_y"] <= upper * (1 + rounding))
    return frame.assign(
        lower=lower,
        upper=upper,
        approximate=root * wrong * (n**2 * right**2 + n - 2) ** 0.5 / (n - 1),
        within=inside,
        logit_ratio=frame["logit_ratio"] / square,
    ).drop(columns="wrong_mass")
