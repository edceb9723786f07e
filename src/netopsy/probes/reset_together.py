"""How many sites can go back at once: parts that are robust alone are often not so together.

Joint re-initialization: Zhang, Bengio, Singer (JMLR 2022), §4.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from netopsy._checks import NetopsyError, inside, shorten
from netopsy._storage import read_result, write_result
from netopsy.engine.edits import FromCheckpoint, edit_site, joined
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Stopping
from netopsy.engine.execution import Engine
from netopsy.network.sites import SiteSpec, find_sites, parameter_count
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.criticality_lines import read_start


@dataclass(frozen=True, eq=False)
class ResetTogether:
    """What the first sites of an order cost when they all go back.

    Attributes:
        frame: one row for each number of sites that was measured; see `to_frame`.
        provenance: options, all sites in their order, versions, data fingerprint, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The sites of the largest set that is certified to cost at most the tolerance; none, where none is."""
        allowed = self.frame[self.frame.delta_error_high <= self.provenance["tolerance"]]
        return tuple(self.provenance["order"][: int(allowed.sites.max())]) if len(allowed) else ()

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, smallest set first.

        Columns: `sites`, how many went back; `last`, the last of them in the order; `parameters` of the set;
        `share`, of all of the network's parameters; `error`; `delta_error`, the paired change, with the interval
        `delta_error_low, delta_error_high`; `n`, the examples.
        """
        return self.frame.copy()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        return write_result(path, {"results": self.frame}, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> ResetTogether:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "ResetTogether", "reset_together", ("results",))
        return cls(tables["results"], provenance)

    def __str__(self) -> str:
        p, chosen = self.provenance, self.chosen
        rows = self.frame.to_dict("records")
        shown = pd.DataFrame(
            {
                "parameters": [f"{row['share']:.1%}" for row in rows],
                "change of error": [
                    f"{100 * row['delta_error']:+.2f} [{100 * row['delta_error_low']:+.2f}, "
                    f"{100 * row['delta_error_high']:+.2f}]"
                    for row in rows
                ],
            },
            index=[f"{row['sites']} of {len(p['order'])} sites" for row in rows],
        )
        verdict = (
            f"{len(chosen)} can go back at once for at most {p['tolerance']:g}: {shorten(chosen, 12)}."
            if chosen
            else f"No set is certified to cost at most {p['tolerance']:g}."
        )
        return f"{shown.to_string()}\n{verdict}"


def reset_together(
    trajectory: Trajectory,
    data: Any,
    *,
    sites: SiteSpec = "modules",
    order: Sequence[str] | None = None,
    tolerance: float = 0.05,
    confidence: float = 0.99,
    seed: int = 0,
    engine: Engine = "auto",
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> ResetTogether:
    """Find how many sites can go back to where training started at once, the first ones of an order.

    By bisection, which takes ⌈log2(sites + 1)⌉ joint resets: it finds the largest such set where the cost grows with
    the set. Where it does not, the set is still one that its own interval certifies, but a larger one may be, too.

    Args:
        trajectory: of the network, from its initial checkpoint on.
        data: examples in any form that `netopsy.evaluate` takes; the set is chosen on them, so that its cost is to be
            told from others.
        sites: as `netopsy.robustness` takes.
        order: names of some of these sites, in which they are added, the first being the safest; by default all, in
            the network's own order.
        tolerance: change of error that is allowed.
        confidence: that the intervals of all sets measured hold.
        seed: of the order of the examples.
        engine: see `netopsy.evaluate`.
        task: how batches are read.
        batch_size: examples a batch.
        progress: called with the sets measured and the most there can be.

    Returns:
        A result with a row for every set measured.

    Raises:
        NetopsyError: for a trajectory without the initial checkpoint, unknown or repeated names, and what `evaluate`
            refuses.
    """
    started = time.perf_counter()
    inside("tolerance", tolerance, 0, 1)
    inside("confidence", confidence, 0, 1, open_low=True, open_high=True)
    trajectory, key = read_start(trajectory)
    model = trajectory.model()
    found = {site.name: site for site in find_sites(model, sites)}
    names = list(found) if order is None else list(order)
    unknown = [name for name in names if name not in found]
    if unknown or not names or len(set(names)) < len(names):
        raise NetopsyError(
            f"order: expected different names of sites ({shorten(found, 6)}); got "
            f"{shorten(unknown or names, 6) or 'none'}"
        )
    total = sum(value.numel() for value in model.parameters())
    sizes = np.cumsum([parameter_count(model, found[name]) for name in names])
    back = [edit_site(name, found[name], FromCheckpoint(trajectory, key), buffers=False) for name in names]
    most_sets = math.ceil(math.log2(len(names) + 1))
    stop = Stopping(confidence=1 - (1 - confidence) / most_sets)  # a union over the sets measured
    rows: list[dict[str, Any]] = []
    some, most = 0, len(names)
    while some < most:
        count = (some + most + 1) // 2
        one = evaluate(
            model, data, [joined("together", back[:count])], task=task, metrics=("error",), stop=stop, seed=seed,
            engine=engine, batch_size=batch_size,
        )  # fmt: skip
        row = {name: float(getattr(one, name)[0]) for name in ("delta_error", "delta_error_low", "delta_error_high")}
        error = one.baseline_error + row["delta_error"]
        size = int(sizes[count - 1])
        known = {"sites": count, "last": names[count - 1], "parameters": size, "share": size / total, "error": error}
        rows.append({**known, **row, "n": int(one.n[0])})
        some, most = (count, most) if row["delta_error_high"] <= tolerance else (some, count - 1)
        if progress:
            progress(len(rows), most_sets)
    frame = pd.DataFrame(rows).sort_values("sites", ignore_index=True).astype({"last": "string"})
    provenance = {
        **one.provenance,
        "probe": "reset_together",
        "order": names,
        "checkpoint": key,
        "tolerance": tolerance,
        "confidence": confidence,
        "baseline_error": one.baseline_error,
        "seconds": time.perf_counter() - started,
    }
    return ResetTogether(frame, provenance)
