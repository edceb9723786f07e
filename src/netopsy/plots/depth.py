"""What resetting each layer costs, against depth, with its uncertainty and verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from netopsy._checks import NetopsyError, inside, shorten
from netopsy.plots.frames import (
    COLUMNS,
    FULL_MODEL,
    INTERVAL,
    METRICS,
    REINITIALIZE,
    RERANDOMIZE,
    SOURCE,
    edits,
    floats,
    need,
    one_split,
    ordered_keys,
    ordered_sites,
)
from netopsy.plots.style import (
    BLUE,
    FAINT,
    GRAY,
    INK,
    ORANGE,
    VERMILLION,
    check_members,
    finish_lines,
    line_axes,
    name_sites,
)

KINDS: dict[str, dict[str, Any]] = {
    "robust": {"color": BLUE, "marker": "o"},
    "between": {"color": ORANGE, "marker": "^"},
    "critical": {"color": VERMILLION, "marker": "s"},
    "undecided": {"color": GRAY, "marker": "D", "markerfacecolor": "white"},
    "verdicts differ": {"color": INK, "marker": "d"},
    "no verdict": {"color": INK, "marker": "."},
    "edit changes nothing": {"color": GRAY, "marker": "_", "markeredgewidth": 1.6},
    "output not finite": {"color": INK, "marker": "x", "markeredgewidth": 1.4},
}
"""Color and marker of each verdict, and of what has a status instead of one."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One layer: its change of error, the ends of its bar (NaN: none), its kind and the single runs behind it."""

    center: float
    low: float
    high: float
    kind: str
    runs: tuple[float, ...]


def depth_profile(
    frame: pd.DataFrame,
    *,
    checkpoint: int | str | None = 0,
    tolerance: float | Sequence[float] = (),
    split: str | None = None,
    members: Collection[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw the change of error of each layer against depth, with error bars, tolerances and verdicts.

    `frame` is `netopsy.robustness(...).to_frame()`, or several of them joined with a further column `seed`.
    `checkpoint` is the one the layers are re-initialized to; None: re-randomized. `tolerance` is a fraction of the
    examples (0.05 is 5 points), or several. The full model is no layer and is left out.

    A bar is the frame's interval; with several draws it spans the smallest to the largest; with several seeds it is
    the standard deviation over the seeds' values (draws averaged within each), and dots show the seeds. The legend
    says which, and over how many. Verdicts that differ between seeds or draws are shown as such, and an edit that
    changes nothing or an output that is not finite is never shown as robust.

    Raises `NetopsyError` for a frame that is empty, lacks columns, the split or the checkpoint, or holds several runs
    without a column `seed`, and for a tolerance outside [0, 1] or an unknown member.
    """
    need(frame, (*COLUMNS, *INTERVAL, "verdict"), SOURCE)
    bounds = [tolerance] if isinstance(tolerance, int | float) else list(tolerance)
    for bound in bounds:
        inside("tolerance", bound, 0, 1)
    rows, chosen = one_split(frame, split)
    kept = at_checkpoint(edits(rows), checkpoint)
    sites = ordered_sites(kept["site"])
    check_members(members, sites)
    points = [point(kept[kept["site"] == site], site) for site in sites]

    ax = line_axes(sites) if ax is None else ax
    ax.set_xlim(-0.5, len(sites) - 0.5)
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=1)
    for index, bound in enumerate(bounds):
        dashes = (0, (4, 3) if index == 0 else (1, 1 + index))
        ax.axhline(bound, color=INK, linewidth=0.8, linestyle=dashes, zorder=1, label=f"tolerance {100 * bound:g}")
    for kind, look in KINDS.items():
        draw_kind(ax, [(place, item) for place, item in enumerate(points) if item.kind == kind], kind, look)
    title = "re-randomized" if checkpoint is None else f"reset to checkpoint {checkpoint}"
    delta = METRICS["delta_error"]
    finish_lines(ax, delta.formatter(), delta.named(chosen), "\n".join([title, *spread_note(kept)]))
    name_sites(ax, "x", sites, list(range(len(sites))), members)
    return ax


def at_checkpoint(rows: pd.DataFrame, checkpoint: int | str | None) -> pd.DataFrame:
    """The layers' rows for one operation."""
    layers = rows[rows["site"] != FULL_MODEL]
    again = layers["operation"] == RERANDOMIZE
    keys = ordered_keys(layers.loc[~again, "checkpoint"])
    chosen = (
        again
        if checkpoint is None
        else (layers["operation"] == REINITIALIZE) & layers["checkpoint"].isin([checkpoint])
    )
    if not chosen.any():
        measured = [*map(repr, keys), *(["None (re-randomized)"] if again.any() else [])]
        raise NetopsyError(f"checkpoint: expected one of {shorten(measured, 12)}; got {checkpoint!r}")
    return layers[chosen]


def point(cell: pd.DataFrame, site: str) -> Point:
    """Sum up the rows of one layer: a single one, several draws, or several seeds."""
    seeds = cell["seed"] if "seed" in cell else pd.Series(0, index=cell.index)
    if pd.DataFrame({"seed": seeds, "draw": cell["draw"]}).duplicated().any():
        raise NetopsyError(
            f"frame: expected one row for a site, checkpoint, draw and split; got several for {site!r}; tell runs "
            "apart by a column 'seed'"
        )
    delta, low, high = (floats(cell[name]) for name in INTERVAL)
    runs = np.array([delta[seeds == seed].mean() for seed in seeds.unique()])
    if len(runs) > 1:
        spread = runs.std(ddof=1)
        ends = runs.mean() - spread, runs.mean() + spread
    elif len(delta) > 1:
        ends = delta.min(), delta.max()
    else:
        ends = low[0], high[0]
    return Point(
        center=float(runs.mean()),
        low=float(ends[0]),
        high=float(ends[1]),
        kind=kind_of(cell),
        runs=tuple(map(float, runs if len(runs) > 1 else delta)),
    )


def kind_of(cell: pd.DataFrame) -> str:
    """The verdict of one layer's rows, unless its status forbids one or they differ."""
    states, verdicts = set(cell["status"].dropna()), set(cell["verdict"].dropna())
    if "non-finite" in states:
        return "output not finite"
    if states == {"no-op"}:
        return "edit changes nothing"
    if len(verdicts) > 1:
        return "verdicts differ"
    return str(next(iter(verdicts), "no verdict"))


def spread_note(rows: pd.DataFrame) -> list[str]:
    """Say what the bars are."""
    columns = ["seed"] if "seed" in rows and rows["seed"].nunique() > 1 else ["draw"]
    counts = rows.groupby("site")[columns[0]].nunique()
    least, most = int(counts.min()), int(counts.max())
    several = f"{most}" if least == most else f"{least} to {most}"
    if columns == ["seed"]:
        return [f"mean ± sd of n = {several} seeds", "(dots: seeds)"]
    if most > 1:
        return [f"mean of n = {several} draws,", "bar: min to max"]
    return ["bar: confidence interval"] if rows["delta_error_low"].notna().any() else []


def draw_kind(ax: Axes, points: Sequence[tuple[int, Point]], kind: str, look: dict[str, Any]) -> None:
    """Bars, single runs and markers of all layers with one verdict; without a value they sit on the upper edge."""
    if not points:
        return
    known = [(place, item) for place, item in points if np.isfinite(item.center)]
    places, centers = [place for place, _ in known], [item.center for _, item in known]
    color = look["color"]
    ax.vlines(places, [p.low for _, p in known], [p.high for _, p in known], color=color, linewidth=1.2, zorder=2)
    runs = [(place, run) for place, item in known if len(item.runs) > 1 for run in item.runs]
    if runs:
        ax.plot(
            *zip(*runs, strict=True), linestyle="none", marker=".", markersize=3.5, color=color, alpha=0.45, zorder=2
        )
    ax.plot(places, centers, linestyle="none", label=kind, markersize=5.5, zorder=3, **look)
    lost = [place for place, item in points if not np.isfinite(item.center)]
    if lost:
        edge = ax.get_xaxis_transform()
        ax.plot(lost, [1.0] * len(lost), linestyle="none", transform=edge, clip_on=False, markersize=5.5, **look)
