"""Valleys, spectra and CKA of the criticality paper from our runs (Figures 1, 3 and 9), of one seed each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from netopsy.plots.cka import cka_heatmap
from netopsy.plots.spectra import spectrum_lines
from netopsy.plots.style import LABEL, save
from netopsy.plots.valley import valley_panels
from netopsy.probes.cka_result import CKAResult
from netopsy.probes.spectra_result import SpectraResult
from netopsy.probes.valley_result import ValleyResult
from netopsy.studies.criticality_module_sweeps import DRAWS

ROLES = ("critical", "robust")
DRAWN: tuple[tuple[Literal["map", "surface"], str], ...] = (("surface", "error"), ("map", "error"), ("map", "loss"))
"""Pictures of valleys, and what of them."""


def draw_valleys(rows: pd.DataFrame, runs: Path, folder: Path) -> list[Path]:
    """Each network's critical module beside a robust one: a landscape, and a map of error and of loss."""
    written = []
    for line, shown in _first(rows).items():
        parts = [ValleyResult.load(runs / result).frame for result in shown.result]
        frame = pd.concat(
            [
                part.assign(site=f"{site} ({role})")
                for part, site, role in zip(parts, shown.site, shown.role, strict=True)
            ]
        )
        for kind, metric in DRAWN:
            figure = valley_panels(frame, kind=kind, metric=metric, draws=DRAWS)
            written.append(save(figure, folder / f"F1-{_plain(line)}-{kind}-{metric}.png"))
    return written


def draw_spectra(rows: pd.DataFrame, runs: Path, folder: Path) -> list[Path]:
    """Spectra of a critical and a robust module at every kept checkpoint, side by side."""
    written = []
    pairs = rows[rows.kind == "critical-robust"]
    for line, mine in pairs.groupby("line", sort=False):
        first = mine[mine.seed == mine.seed.min()].iloc[0]
        found = SpectraResult.load(runs / first.result)
        figure = Figure(figsize=(9.6, 3.0), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        for ax, site, role in ((left, first.site, "critical"), (right, first.other, "robust")):
            spectrum_lines(found.values, site=site, ax=ax)
            ax.set_title(f"{site} ({role})", size=LABEL)
        legend = left.get_legend()
        if legend is not None:
            legend.remove()
        written.append(save(figure, folder / f"F3-{_plain(str(line))}.png"))
    return written


def draw_cka(rows: pd.DataFrame, runs: Path, folder: Path) -> list[Path]:
    """CKA of the trained network and of the same with one module rewound, critical beside robust."""
    written = []
    for line, shown in _first(rows).items():
        figure = Figure(figsize=(4.2 * len(shown) + 0.6, 4.0), layout="constrained", facecolor="white")
        axes: list[Axes] = list(figure.subplots(1, len(shown), squeeze=False)[0])
        for place, (ax, result, site, role) in enumerate(
            zip(axes, shown.result, shown.site, shown.role, strict=True)
        ):
            frame = CKAResult.load(runs / result).frame
            labels = ("trained", f"{site} rewound ({role})")
            cka_heatmap(frame, labels=labels, colorbar=place == len(shown) - 1, ax=ax)
        written.append(save(figure, folder / f"F9-{_plain(line)}.png"))
    return written


def _first(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By line, its modules by role and where their results are: of the first seed that has both roles."""
    found: dict[str, pd.DataFrame] = {}
    for (line, _), part in rows[rows.site.notna()].groupby(["line", "seed"], sort=False):
        shown = part.drop_duplicates("role").sort_values("role")
        if len(shown) == len(ROLES):
            found.setdefault(str(line), shown)
    return found


def _plain(line: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in line)
