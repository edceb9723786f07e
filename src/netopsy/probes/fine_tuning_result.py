"""What the fine-tuning probe found: a table, how well cheap numbers foretell it, and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from netopsy._checks import NetopsyError, at_least, inside, one_of, shorten
from netopsy._storage import read_result, write_result
from netopsy._typing import FloatArray
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.probes.robustness_result import MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROXIES = {
    "relative_change": "relative weight change",
    "l2": "change of weights, root mean square",
    "linf": "largest change of a weight",
    "block_influence": "block influence",
    "angular_distance": "angular distance",
    "criticality": "criticality",
}
"""Numbers that need no site to be put back (criticality puts it at many other places), and how they are called."""

FEWEST = 4
"""Sites below which a rank correlation is not given."""


@dataclass(frozen=True, eq=False)
class FineTuningResult:
    """What fine-tuning changed in each part of a network, and what it costs to undo.

    Attributes:
        frame: one row for each site and split; see `to_frame`.
        angles: columns `block, blocks, angular_distance, split`: over `blocks` blocks from `block` on.
        provenance: options, seeds, versions, data fingerprint, engine used and why, what of the base was drawn,
            seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    angles: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `site`; `split`; `block`, the transformer block that the site is the whole of, else null;
        `parameters`; `relative_change`, ‖θ^T − θ^0‖ / ‖θ^0‖ (infinite for what started at 0); `l2`, ‖θ^T − θ^0‖ /
        √parameters; `linf`, the largest change; `error`, with the site as it was pretrained and all else fine-tuned;
        `delta_error`, its paired change, with the simultaneous interval `delta_error_low, delta_error_high`; `n`, the
        examples run; `status` and `verdict`, as `netopsy.robustness` has them; `block_influence` and
        `angular_distance` of whole blocks of the fine-tuned network; where it was asked for, `criticality` (mu, null
        where there is none) and `criticality_status`.
        """
        return self.frame.copy()

    def with_criticality(self, found: CriticalityResult) -> FineTuningResult:
        """The same with criticality beside it, of the sites that `found` has.

        Raises:
            NetopsyError: when `found` was measured at several train errors, of which one has to be chosen.
        """
        if (levels := found.frame.epsilon.nunique()) != 1:
            raise NetopsyError(f"found: expected criticality at one epsilon; got {levels} of them")
        by_site = found.frame.set_index("site").reindex(self.frame.site)
        columns = {
            "criticality": by_site.mu.to_numpy("float64"),
            "criticality_status": by_site.status.astype("string").to_numpy(),
        }
        before = self.provenance["criticality"] or {"seconds": 0.0}  # which this one takes the place of
        seconds = self.provenance["seconds"] - before["seconds"] + found.provenance["seconds"]
        provenance = {**self.provenance, "criticality": dict(found.provenance), "seconds": seconds}
        return replace(self, frame=self.frame.assign(**columns), provenance=provenance)

    def correlations(self, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """How well each proxy orders the sites by what it costs to put them back.

        Parts and whole blocks are two questions: a block holds its parts. No-ops are left out, and so are sites whose
        proxy or cost is not finite (what started at 0 has moved infinitely far, and all would tie at the top), and
        sites that the base lacks: how far away a fresh draw is says nothing of fine-tuning.

        Args:
            resamples: of the bootstrap, which draws sites.
            confidence: of its percentile intervals.
            seed: of the resamples.

        Returns:
            A row for each proxy, split, and kind of site with at least four of them: `proxy, over` (`parts` or
            `blocks`), `split, sites`, the number that counts; `not_finite, drawn`, of those left out; `rho`
            (Spearman's rank correlation with `delta_error`), `low, high`; null where one of both is constant. Of six
            blocks even rho = 0.8 may be chance: read the interval.
        """
        at_least("resamples", resamples, 1)
        inside("confidence", confidence, 0, 1, open_low=True, open_high=True)
        rows = []
        for split in self.frame.split.unique():
            for over in ("parts", "blocks"):
                sites = self._sites(str(split), over)
                for proxy in [name for name in PROXIES if name in sites]:
                    x, y = sites[[proxy, "delta_error"]].to_numpy("float64").T
                    drawn, finite = sites.site.isin(self.drawn_sites).to_numpy(), np.isfinite(x) & np.isfinite(y)
                    known = finite & ~drawn
                    if known.sum() >= FEWEST:
                        numbers = [known.sum(), (~finite & ~drawn).sum(), drawn.sum()]
                        rho = _spearman(x[known], y[known], resamples, confidence, seed)
                        rows.append((proxy, over, split, *map(int, numbers), *rho))
        columns = ["proxy", "over", "split", "sites", "not_finite", "drawn", "rho", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def drawn_sites(self) -> tuple[str, ...]:
        """Sites of which the base lacks something, so that going back is to a fresh draw."""
        return tuple(self.provenance.get("drawn_sites", ()))

    def plot(
        self, ax: Axes | None = None, *, proxy: str = "relative_change", over: str = "parts", split: str | None = None
    ) -> Axes:
        """Draw a proxy against the measured increase of error, with intervals, verdicts and Spearman's rho.

        Args:
            ax: where to draw; by default a new figure, `.figure` of what is returned.
            proxy: a column: `relative_change`, `l2`, `linf`, `criticality`; of blocks `block_influence` and
                `angular_distance` too.
            over: `"parts"` or `"blocks"`.
            split: of the data; by default the first.

        Raises:
            NetopsyError: for an unknown proxy or split, or one that no site of this kind has.
        """
        one_of("over", over, ("parts", "blocks"))
        splits = [str(name) for name in self.frame.split.unique()]
        split = splits[0] if split is None else split
        one_of("split", split, splits)
        sites = self._sites(split, over)
        has = [name for name in PROXIES if name in sites and sites[name].notna().any()]
        if proxy not in has:
            raise NetopsyError(f"proxy: expected one of {shorten(has, 9) or 'none'}, of {over}; got {proxy!r}")
        found = self.correlations()
        row = found[(found.proxy == proxy) & (found.over == over) & (found.split == split)]
        rho = row[["rho", "low", "high"]].to_numpy(dtype=np.float64)
        from netopsy.plots.proxies import proxy_points

        known = (float(rho[0, 0]), float(rho[0, 1]), float(rho[0, 2])) if len(rho) else None
        tolerance = self.provenance["tolerance"]
        how = {"called": PROXIES[proxy], "drawn": self.drawn_sites, "tolerance": tolerance}
        return proxy_points(sites, proxy, rho=known, ax=ax, **how)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `angles.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        tables = {"results": self.frame, "angles": self.angles}
        return write_result(path, tables, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> FineTuningResult:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "FineTuningResult", "fine_tuning", ("results", "angles"))
        return cls(tables["results"], tables["angles"], provenance)

    def __str__(self) -> str:
        parts = []
        for split in self.frame.split.unique():
            rows = self.frame[self.frame.split == split]
            error = self.provenance["baseline"][split]
            head = f"{split}: what fine-tuning changed; error of the fine-tuned network: {error:.2%}"
            parts += [
                f"{head}, n = {' to '.join(dict.fromkeys(map(str, (rows.n.min(), rows.n.max()))))}",
                _table(rows),
            ]
        return "\n".join([*parts, *self.notes()])

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        p = self.provenance
        notes = [
            "back: change of error with the site as it was pretrained, all else fine-tuned, and its interval; ! "
            f"critical, ~ between, ? undecided, = no-op, unmarked robust: at most {p['tolerance']:g}, intervals at "
            f"{100 * p['confidence']:g}% for all rows at once ({p['estimand']})."
        ]
        if p["drawn"]:
            notes.append(f"The base has no {shorten(p['drawn'])}: drawn from the initial distribution.")
        if p["criticality"]:
            (epsilon,) = p["criticality"]["epsilon"]
            notes.append(f"criticality: mu with an error of at most {epsilon:.4g} (epsilon) on the train data.")
        if lost := p.get("reshaping"):
            notes.append(f"No block influence for {shorten(lost)}: hidden states do not keep their shape there.")
        for row in self.correlations().to_dict("records"):
            if not math.isnan(row["rho"]):
                out = [f"{row['not_finite']} without a finite value"] if row["not_finite"] else []
                out += [f"{row['drawn']} drawn anew"] if row["drawn"] else []
                notes.append(
                    f"{row['split']}: {PROXIES[row['proxy']]} of {row['sites']} {row['over']} and change of error: "
                    f"Spearman's ρ = {row['rho']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                    f"{f'; left out: {shorten(out)}' if out else ''}."
                )
        for split, how in p["splits"].items():
            notes += [f"{split}: run by the eager engine: {reason}" for reason in how["engine_reasons"]]
        return notes

    def _sites(self, split: str, over: str) -> pd.DataFrame:
        kind = self.frame.block.notna() == (over == "blocks")
        return self.frame[(self.frame.split == split) & kind & (self.frame.status == "ok")]


def _table(rows: pd.DataFrame) -> str:
    mark = [MARKS[None if pd.isna(verdict) else str(verdict)] for verdict in rows.verdict]
    ends = zip(rows.delta_error_low, rows.delta_error_high, strict=True)
    spans = [f"[{100 * low:+.2f}, {100 * high:+.2f}]" for low, high in ends]
    shown = pd.DataFrame(
        {
            "parameters": [f"{count:,}" for count in rows.parameters],
            "relative": [f"{value:.2%}" for value in rows.relative_change],
            "l2": [f"{value:.2e}" for value in rows.l2],
            "linf": [f"{value:.2e}" for value in rows.linf],
            "back": [f"{100 * x:+.2f} {y}{z:<1}" for x, y, z in zip(rows.delta_error, spans, mark, strict=True)],
        },
        index=rows.site.tolist(),
    )
    if rows.n.nunique() > 1:  # some stopped early
        shown["n"] = rows.n.tolist()
    names = {"block_influence": "influence", "angular_distance": "angle", "criticality": "criticality"}
    for column, name in names.items():
        if column in rows and rows[column].notna().any():
            shown[name] = ["" if math.isnan(value) else f"{value:.3g}" for value in rows[column]]
    return shown.to_string()


def _spearman(
    x: FloatArray, y: FloatArray, resamples: int, confidence: float, seed: int
) -> tuple[float, float, float]:
    """Spearman's rho, and the percentile bootstrap's interval over the pairs."""
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    rho = _pearson(rankdata(x), rankdata(y))
    again = _pearson(rankdata(x[drawn], axis=1), rankdata(y[drawn], axis=1))
    finite = again[np.isfinite(again)]  # a resample of one site has none
    if not np.isfinite(rho) or not len(finite):
        return math.nan, math.nan, math.nan
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(rho), float(low), float(high)


def _pearson(x: FloatArray, y: FloatArray) -> FloatArray:
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))
