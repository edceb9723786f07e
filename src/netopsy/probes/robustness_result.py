"""What the robustness probe found: a table, distances, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from netopsy._checks import NetopsyError, one_of
from netopsy._storage import new_folder, read_result_manifest, write_json
from netopsy.probes.key_column import read_keyed, write_keyed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["heatmap", "curves", "distances", "depth"]
MARKS = {"robust": "", "critical": "!", "between": "~", "undecided": "?", None: "="}
DIFFER = "≠"
"""The mark of a cell whose draws have different verdicts."""

FILES = ("results.parquet", "distances.parquet", "manifest.json")


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """Re-initialization and re-randomization robustness of one trained network.

    Attributes:
        frame: one row for each site, operation, checkpoint or draw, and split; see `to_frame`.
        distances: columns `site, checkpoint, l2, linf`: how far each site had moved from the initial weights.
        groups: name of a joint site -> its members.
        provenance: options, seeds, versions, data fingerprint, engine used and why, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    distances: pd.DataFrame = field(repr=False)
    groups: Mapping[str, tuple[str, ...]]
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site`; `operation` (`baseline`, `re-initialize`, `re-randomize`); `checkpoint` (the user's own key)
        and `draw`, null where they have no meaning; `split`; a column a metric; `delta_error`, the paired change of
        the 0-1 error, with the simultaneous interval `delta_error_low, delta_error_high`; `n`, the examples run;
        `status` (`ok`, `no-op`, `non-finite`); `verdict` (`robust`, `critical`, `between`, `undecided`, null).
        """
        return self.frame.copy()

    def plot(self, ax: Axes | None = None, *, kind: Kind = "heatmap", **options: Any) -> Axes:
        """Draw the result: the paper's heatmap, the same as curves, distances, or change against depth.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            kind: which picture; `options` go to the function of that name in `netopsy.plots`.
        """
        one_of("kind", kind, ("heatmap", "curves", "distances", "depth"))
        joint = list(self.groups)
        single = self.frame[~self.frame.site.isin(joint)]  # along the depth of a network, a group has no place
        if kind == "distances":
            from netopsy.plots.distances import distances

            return distances(self.distances[~self.distances.site.isin(joint)], ax=ax, **options)
        if kind == "depth":
            from netopsy.plots.depth import depth_profile

            keys = self.frame[self.frame.operation == "re-initialize"].checkpoint.tolist()
            first = keys[0] if keys else None  # of the checkpoints asked for; without any: re-randomized
            options = {"checkpoint": first, "tolerance": self.provenance["tolerance"], **options}
            return depth_profile(single, ax=ax, **options)
        options = {"final": self.provenance["final"], **options}
        if kind == "curves":
            from netopsy.plots.curves import curves

            return curves(single, ax=ax, **options)
        from netopsy.plots.heatmap import heatmap

        return heatmap(self.frame, ax=ax, **options)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `distances.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        write_keyed(folder / "results.parquet", self.frame)
        write_keyed(folder / "distances.parquet", self.distances)
        groups = {name: list(members) for name, members in self.groups.items()}
        write_json(folder / "manifest.json", {"groups": groups, "provenance": dict(self.provenance)})
        return folder

    @classmethod
    def load(cls, path: Path | str) -> RobustnessResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        folder = Path(path)
        manifest = read_result_manifest(folder, "RobustnessResult", "robustness", FILES)
        provenance = manifest["provenance"]
        if "groups" not in manifest:
            raise NetopsyError(f"{folder}: expected a saved RobustnessResult; its manifest is of something else")
        frame, distances = read_keyed(folder / "results.parquet"), read_keyed(folder / "distances.parquet")
        groups = {name: tuple(members) for name, members in manifest["groups"].items()}
        return cls(frame, distances, groups, provenance)

    def __str__(self) -> str:
        parts = []
        column = "error" if "error" in self.frame else "delta_error"
        for split, frame in self.frame.groupby("split", sort=False):
            baseline = frame[frame.operation == "baseline"].iloc[0]
            name = "error" if column == "error" else "change of error"
            parts.append(
                f"{split}: {name} after each edit; the trained network: {baseline[column]:.2%}, n = {baseline.n}"
            )
            parts.append(_pivot(frame, column).to_string())
        return "\n".join([*parts, *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        p = self.provenance
        notes = [
            f"! critical, ~ between, ? undecided, {DIFFER} draws differ, = no-op, unmarked robust: change of error "
            f"at most {p['tolerance']:g}, intervals at {100 * p['confidence']:g}% for all rows at once "
            f"({p['estimand']})."
        ]
        undecided = int((self.frame.verdict == "undecided").sum())
        if undecided:
            notes.append(f"{undecided} rows undecided: their intervals contain the tolerance; more examples help.")
        bad = int((self.frame.status == "non-finite").sum())
        if bad:
            notes.append(f"{bad} rows have non-finite outputs, which count as errors.")
        for split in self.frame.split.unique():
            for reason in p["splits"][split]["engine_reasons"]:
                notes.append(f"{split}: run by the eager engine: {reason}")
        return notes


def _pivot(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Sites x operations, the number and a mark for the verdict in each cell; draws are averaged."""
    rows = frame[frame.operation != "baseline"]
    header = rows.checkpoint.astype(object).where(rows.operation == "re-initialize", "re-rand")
    table: dict[str, dict[str, str]] = {}
    for (site, name), cell in rows.groupby([rows.site, header.astype(str)], sort=False):
        verdicts = {None if pd.isna(v) else str(v) for v in cell.verdict}
        mark = MARKS[verdicts.pop()] if len(verdicts) == 1 else DIFFER
        table.setdefault(str(site), {})[str(name)] = f"{cell[column].mean():.2%}{mark:<1}"
    return pd.DataFrame.from_dict(table, orient="index").fillna("")
