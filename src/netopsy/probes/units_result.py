"""What kind of unit each is: the table, the criteria, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from netopsy._checks import NetopsyError, one_of
from netopsy._storage import new_folder, read_result_manifest, read_table, write_json, write_table
from netopsy.probes.kinds import KINDS, UnitCriteria, classify

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "site", "unit", "activity", "mean", "variance", "r2", "similar", "selectivity", "effect", "effect_low",
    "effect_high", "accuracy_change", "accuracy_change_low", "accuracy_change_high", "logit_change", "effect_similar",
    "accuracy_change_similar", "kind", "n", "status",
)  # fmt: skip
FILES = ("results.parquet", "manifest.json")


@dataclass(frozen=True, eq=False)
class UnitTableResult:
    """Every unit of one network: what it does, what others could do for it, and its kind.

    Attributes:
        frame: one row a unit of every layer; see `to_frame`.
        criteria: by which the kinds were told apart.
        provenance: options, seeds, versions, data fingerprint, engine used and why, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    criteria: UnitCriteria
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site`, `unit`; `activity` (share of samples above 0), `mean`, `variance`; `r2` of its best linear
        reconstruction from the other units of the layer (null where it does not vary, is alone, or samples are few);
        `similar`, others with abs(r) at or above the threshold (null where it does not vary, or alone does);
        `selectivity`, the share of its variance that lies between the classes (null where there are not two classes
        or it does not vary); `effect`, the share of predictions that change when it alone is set to zero, and its
        interval `effect_low`, `effect_high` (null where an example has several predictions, or none that counts);
        `accuracy_change` (negative: worse), paired, `accuracy_change_low`, `accuracy_change_high`; `logit_change`,
        the root mean square change of the logits over their root mean square deviation from their means (infinite
        where logits that never vary change, null where they are not finite); `effect_similar`,
        `accuracy_change_similar`, when all that are similar to it are set to zero with it; `kind`; `n`, the examples
        its ablation was run on; `status` (`ok`; `no-op`: the output does not depend on it; `non-finite`: its values,
        or the outputs without it).
        """
        return self.frame.copy()

    def counts(self) -> pd.DataFrame:
        """Units by site (rows, as in the network) and kind (columns, all of `netopsy.probes.kinds.KINDS`)."""
        table = pd.crosstab(self.frame.site, self.frame.kind).reindex(columns=list(KINDS), fill_value=0)
        table = table.reindex(self.frame.site.unique()).astype("int64")
        return table.rename_axis(index="site", columns=None)

    def reclassified(self, criteria: UnitCriteria) -> UnitTableResult:
        """The same measurements with kinds by other criteria."""
        return replace(self, frame=self.frame.assign(kind=classify(self.frame, criteria)), criteria=criteria)

    def plot(self, ax: Axes | None = None, *, kind: Literal["map", "counts"] = "map") -> Axes:
        """Draw every unit as a cell colored by its kind, or the numbers of each kind as a bar a layer.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            kind: which picture.
        """
        one_of("kind", kind, ("map", "counts"))
        from netopsy.plots.units import kind_counts, unit_map

        return unit_map(self.frame, ax=ax) if kind == "map" else kind_counts(self.frame, ax=ax)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        folder = new_folder(Path(path), overwrite=overwrite)
        write_table(folder / "results.parquet", self.frame)
        manifest = {"criteria": asdict(self.criteria), "provenance": dict(self.provenance)}
        write_json(folder / "manifest.json", manifest)
        return folder

    @classmethod
    def load(cls, path: Path | str) -> UnitTableResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        folder = Path(path)
        manifest = read_result_manifest(folder, "UnitTableResult", "units", FILES)
        try:
            criteria = UnitCriteria(**manifest["criteria"])
        except (KeyError, TypeError) as error:
            raise NetopsyError(f"{folder}: expected a saved UnitTableResult; its criteria cannot be read") from error
        frame = read_table(folder / "results.parquet")
        frame.attrs = {}
        return cls(frame, criteria, manifest["provenance"])

    def __str__(self) -> str:
        counts = self.counts()
        table = counts.loc[:, counts.any()]
        table.insert(0, "units", counts.sum(axis=1))
        head = f"units by kind; n = {self.frame.n.max()}"
        return "\n".join([head, table.rename_axis(None).to_string(), *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        c, p = self.criteria, self.provenance
        notes = [
            f"silent: active in <= {c.silent:g} of the samples; constant: sd <= {c.constant:g} |mean|; redundant: R² "
            f">= {c.redundant:g}; blocked: logits move <= {c.blocked:g} of their spread; semantically redundant: "
            f"<= {c.harmless:g} of the predictions change, selectivity >= {c.selective:g}; unique: none of these."
        ]
        if p["stop"] != "exact":
            notes.append(f"stop={p['stop']!r}: kinds follow the estimates; units near a criterion may be of another.")
        statistics = p["statistics"].items()
        few = [site for site, status in statistics if status == "few samples"]
        if few:
            notes.append(
                f"few samples: not more than units in {', '.join(few)}; there is no R²: none is called redundant."
            )
        several = [site for site, status in statistics if status == "several numbers"]
        if several:
            notes.append(f"units of several numbers in {', '.join(several)}: their kind is by their effect alone.")
        bad = int((self.frame.kind == "unknown").sum())
        if bad:
            notes.append(f"{bad} units are unknown: their values, or the outputs without them, are not finite.")
        notes += [f"run by the eager engine: {reason}" for reason in p["engine_reasons"]]
        return notes
