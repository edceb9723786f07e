"""The units paper's figures from our sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from netopsy.plots.ablation import ablation_curves
from netopsy.plots.redundancy import pair_histograms
from netopsy.plots.style import BLUE, FAINT, LABEL, save
from netopsy.plots.width_panels import width_panels
from netopsy.probes.ablation_result import ALL, AblationResult
from netopsy.probes.redundancy_result import RedundancyResult
from netopsy.store.results import OK
from netopsy.studies.running import Study
from netopsy.studies.units_constructions import QUANTITIES
from netopsy.studies.units_sweeps import INITIAL, TRAINED

PANELS: Mapping[str, str] = {
    "test accuracy": "accuracy",
    "robustness (area)": "area",
    "compressibility": "compressibility",
    "similar units per unit": "similar_per_unit",
}
"""Title -> column of the sweep's rows."""

SHARES: Mapping[str, str] = {
    "area, all layers at once": "area_all",
    "similar units, of the others": "similar_share",
    "silent units": "silent_share",
    "99 % of pairs have a smaller |r|": "r99",
}
"""More of the same: what the number of units alone does not raise."""

LOGARITHMIC = {"similar units per unit": "log"}


def draw(study: Study, folder: Path) -> list[Path]:
    """Write the pictures of whatever was run."""
    written = []
    for claim, rows in study.tables.items():
        if claim == "S2":
            written.append(save(constructions(rows), folder / "S2.png"))
            continue
        done = rows[rows.status == OK]
        written.append(save(against_width(rows, PANELS), folder / f"{claim}-width.png"))
        shares = rows.assign(silent_share=pd.to_numeric(rows.silent) / pd.to_numeric(rows.units))
        written.append(save(against_width(shares, SHARES), folder / f"{claim}-shares.png"))
        if done.site.nunique() > 1:
            written.append(save(by_layer(done, "area"), folder / f"{claim}-layers-robustness.png"))
            written.append(save(by_layer(done, "compressibility"), folder / f"{claim}-layers-compressibility.png"))
        written.append(save(curves(done, study.folder), folder / f"{claim}-curves.png"))
        line = str(done.line.iloc[0])
        written.append(save(correlations(done[done.line == line], study.folder), folder / f"{claim}-pairs.png"))
    return written


def against_width(rows: pd.DataFrame, panels: Mapping[str, str]) -> Figure:
    """Quantities of nets, means over their layers, against width; trained and at checkpoint 0."""
    keys = ["line", "checkpoint", "width", "seed"]
    parts = []
    for checkpoint in (TRAINED, INITIAL):
        every = rows[["line", "width", "seed"]].drop_duplicates().assign(checkpoint=checkpoint)
        for title, column in panels.items():
            of = rows[rows.checkpoint == checkpoint]
            value = of.assign(value=_numbers(of, column)).groupby(keys, sort=False).value.mean().reset_index()
            parts.append(every.merge(value, on=keys, how="left").assign(panel=title))
    frame = pd.concat(parts, ignore_index=True)
    return width_panels(frame, scales={title: scale for title, scale in LOGARITHMIC.items() if title in panels})


def by_layer(rows: pd.DataFrame, column: str) -> Figure:
    """One quantity of each layer against width (Figures C7 to C10)."""
    kept = rows[rows.checkpoint.isin([TRAINED, INITIAL])]
    frame = kept.assign(value=_numbers(kept, column), panel=kept.site).sort_values("checkpoint", ascending=False)
    order = {site: place for place, site in enumerate(dict.fromkeys(rows.site))}
    return width_panels(frame.sort_values("panel", key=lambda sites: sites.map(order), kind="stable"))


def curves(rows: pd.DataFrame, folder: Path) -> Figure:
    """Ablation curves of trained nets, mean over layers, a panel a line of nets (Figure 2)."""
    lines = list(dict.fromkeys(rows.line))
    figure = Figure(figsize=(6.6, 2.6 * len(lines)), layout="constrained", facecolor="white")
    trained = rows[rows.checkpoint == TRAINED].drop_duplicates("result")
    for place, line in enumerate(lines):
        parts = []
        for width, seed, result in _nets(trained[trained.line == line]):
            frame = AblationResult.load(folder / result / "ablation").frame
            mean = frame[frame.site != ALL].groupby("fraction").unchanged.mean().reset_index()
            parts.append(mean.assign(site=f"width ×{width:g}", order=seed))
        ax = figure.add_subplot(len(lines), 1, place + 1)
        ablation_curves(pd.concat(parts, ignore_index=True), ax=ax, of="replicates")
        ax.set_title(line, size=LABEL, loc="left")
    return figure


def correlations(rows: pd.DataFrame, folder: Path) -> Figure:
    """Distribution of |r| in each layer of trained nets, by width; the pairs of all replicates (Figure B2)."""
    parts = []
    for width, _, result in _nets(rows[rows.checkpoint == TRAINED].drop_duplicates("result")):
        found = RedundancyResult.load(folder / result / "redundancy")
        parts.append(found.pairs.assign(width=width, similar=float(found.provenance["similar"])))
    pairs = pd.concat(parts, ignore_index=True)
    sites = list(dict.fromkeys(pairs.site))
    figure = Figure(figsize=(6.6, 2.1 * len(sites)), layout="constrained", facecolor="white")
    for place, site in enumerate(sites):
        ax = figure.add_subplot(len(sites), 1, place + 1)
        of = pairs[pairs.site == site]
        named = of.assign(site=[f"width ×{width:g}" for width in of.width])
        pair_histograms(named, similar=float(pairs.similar.iloc[0]), title="", ax=ax)
        ax.set_title(str(site), size=LABEL, loc="left")
    return figure


def constructions(rows: pd.DataFrame) -> Figure:
    """Differences between each wide network of §2 and the small one, a panel a quantity; mean ± sd of the seeds."""
    table = rows[rows.status == OK]
    names = [name for name in dict.fromkeys(table.network) if name != "small"]
    figure = Figure(figsize=(7.4, 0.34 * len(names) + 1.0), layout="constrained", facecolor="white")
    for place, quantity in enumerate(QUANTITIES):
        values = table.pivot(index="seed", columns="network", values=quantity).astype("float64")
        apart = values[names].sub(values["small"], axis=0)
        ax = figure.add_subplot(1, len(QUANTITIES), place + 1)
        heights = np.arange(len(names))[::-1]
        ax.axvline(0, color=FAINT, linewidth=0.8)
        ax.errorbar(apart.mean(), heights, xerr=apart.std(ddof=1), fmt="o", markersize=4, color=BLUE, lw=1.2)
        ax.set_yticks(heights, labels=names if place == 0 else [""] * len(names), size=7)
        ax.tick_params(labelsize=7, length=2, width=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(f"{quantity}, change", size=LABEL, loc="left")
    figure.supxlabel(f"wide minus small network; mean ± sd, n = {table.seed.nunique()} seeds", size=7)
    return figure


def _numbers(rows: pd.DataFrame, column: str) -> pd.Series[float]:
    return pd.to_numeric(rows[column], errors="coerce").astype("float64")


def _nets(rows: pd.DataFrame) -> list[tuple[float, int, str]]:
    """Width, seed and folder of each net, by width."""
    ordered = rows.sort_values(["width", "seed"])
    return list(zip(ordered.width.tolist(), ordered.seed.tolist(), ordered.result.tolist(), strict=True))
