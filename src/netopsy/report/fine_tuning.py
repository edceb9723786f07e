"""The report's section on what fine-tuning changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from netopsy._typing import FloatArray
from netopsy.probes.fine_tuning_result import FineTuningResult
from netopsy.report.blocks import Column, Entry, Picture, Section, Table, Text
from netopsy.report.criticality import number
from netopsy.report.origins import origins
from netopsy.report.robustness_words import MAIN, opening
from netopsy.report.vector import drawn
from netopsy.report.words import bound, count, names, percent, signed

OPTIONS = ("sites", "tolerance", "confidence", "stop", "precision", "estimand", "seed")
PROXY = "relative_change"


def fine_tuning_section(result: FineTuningResult) -> Section:
    """What it costs to undo the fine-tuning of each part, from the verdict to how to repeat it."""
    ax = proxies(result)
    first = result.provenance["splits"][str(_first(result).split.iloc[0])]
    return Section(
        title="What fine-tuning changed",
        question="Which parts need what training changed in them, and would cheap numbers have told?",
        verdict=fine_tuning_sentences(result),
        blocks=(
            *_tables(result),
            *([] if ax is None else [_picture(ax)]),
            Text(paragraphs=tuple(result.notes()[1:])),
            origins({**first, **result.provenance}, "fine_tuning", OPTIONS, of="trajectory"),
        ),
    )


def fine_tuning_sentences(result: FineTuningResult) -> tuple[str, ...]:
    """The network's error, what can go back, and what weight change told of that."""
    p, rows = result.provenance, _first(result)
    split = str(rows.split.iloc[0])
    error, n, chance = float(p["baseline"][split]), int(rows.n.max()), float(p["chance"])
    first = opening(error, n, chance=chance, split=split, network="fine-tuned")
    limit, over = bound(p["tolerance"]), _over(rows)
    sites = rows[rows.block.notna() == (over == "blocks")]
    noun = over.removesuffix("s")
    if (rows.status == "no-op").all():
        return (f"{first} Fine-tuning changed none of these {over}.",)
    robust, not_robust = (sites.site[sites.verdict.isin(kinds)] for kinds in (["robust"], ["between", "critical"]))
    text = f"Of {count(len(sites), noun)}, {len(robust)} can each go back to pretrained weights for at most {limit}"
    more = f"certified to cost more: {names(not_robust.tolist())}"
    text += f"; {more}" if len(not_robust) else "; none is certified to cost more"
    open_ = int((sites.verdict == "undecided").sum())
    said = [f"{first} {text}{f'; {open_} undecided' if open_ else ''}."]
    if p["drawn"]:
        said.append(f"The base has no {names(p['drawn'])}: there, going back is to a fresh draw.")
    found = result.correlations()
    found = found[(found.proxy == PROXY) & (found.over == over) & (found.split == split)]
    if len(found) and not math.isnan(rho := float(found.rho.iloc[0])):
        low, high, n = float(found.low.iloc[0]), float(found.high.iloc[0]), int(found.sites.iloc[0])
        said.append(
            f"Relative weight change orders {count(n, noun)} by that cost with Spearman's ρ = {rho:.2f} "
            f"[{low:.2f}, {high:.2f}]."
        )
    return tuple(said)


def proxies(result: FineTuningResult) -> Axes | None:
    """Relative weight change against the increase of error: of parts, or of blocks where there are only these.

    None where no site has both: nothing moved, or all that did moved away from 0.
    """
    rows = _first(result)
    over = _over(rows)
    sites = rows[(rows.block.notna() == (over == "blocks")) & (rows.status == "ok")]
    if not np.isfinite(sites[[PROXY, "delta_error"]].to_numpy("float64")).all(axis=1).any():
        return None
    return result.plot(proxy=PROXY, over=over, split=str(rows.split.iloc[0]))


def _picture(ax: Axes) -> Picture:
    return Picture(
        svg=drawn(ax),
        description="Relative weight change of each part against the measured increase of error",
        caption="A cheap number would do in the place of the measurement, if the points went up from left to right.",
    )


def _first(result: FineTuningResult) -> pd.DataFrame:
    """The rows of the split that a reader asks about first."""
    splits = [str(name) for name in result.frame.split.unique()]
    split = next((name for name in MAIN if name in splits), splits[0])
    return result.frame[result.frame.split == split]


def _over(rows: pd.DataFrame) -> str:
    """Parts, or whole blocks where no part moved."""
    if (rows.status == "no-op").all():
        return "parts" if rows.block.isna().any() else "blocks"
    return "parts" if (rows.block.isna() & (rows.status == "ok")).any() else "blocks"


def _tables(result: FineTuningResult) -> list[Table]:
    """Of parts and of whole blocks: only these have an influence, and a reader compares like with like."""
    whole = result.frame.block.notna()
    chosen = [(noun, result.frame[rows]) for noun, rows in (("part", ~whole), ("block", whole)) if rows.any()]
    last = len(chosen) - 1
    return [_table(result, rows, noun, caption=place == last) for place, (noun, rows) in enumerate(chosen)]


def _table(result: FineTuningResult, rows: pd.DataFrame, noun: str, *, caption: bool) -> Table:
    """The answer first: a phone shows three columns. Columns that have nothing to say are left out."""
    p, ends = result.provenance, result.frame[["delta_error_low", "delta_error_high"]].astype("float64")
    span = (min(0.0, float(ends.delta_error_low.min())), max(0.0, float(ends.delta_error_high.max())))
    columns = (
        Column(name=noun, help="in the network's order"),
        Column(name="split"),
        Column(name="verdict"),
        Column(
            name="going back costs", help="points of error, with the interval", numeric=True, span=span,
            line=p["tolerance"],
        ),
        Column(name="examples", help="after which the row was decided", numeric=True),
        Column(name="relative change", help="‖θ^T − θ^0‖ / ‖θ^0‖", numeric=True),
        _criticality_column(p["criticality"]),
        Column(name="influence", help="1 − mean cosine of what enters and leaves the block", numeric=True),
        Column(name="angle", help="angular distance of the last position, as a share of a half turn", numeric=True),
        Column(name="largest change", help="of a weight", numeric=True),
        Column(name="parameters", numeric=True),
    )  # fmt: skip
    decimals = _decimals(rows[PROXY].to_numpy("float64"))
    body = [_row(row, decimals) for row in rows.to_dict("records")]
    single = {"split": result.frame.split.nunique() == 1, "examples": not _stopped_early(result.frame)}
    used = [
        place
        for place, column in enumerate(columns)
        if not single.get(column.name) and any(row[place].text for row in body)
    ]
    return Table(
        columns=tuple(columns[place] for place in used),
        rows=tuple(tuple(row[place] for place in used) for row in body),
        caption=_legend(p) if caption else "",
    )


def _legend(p: Mapping[str, Any]) -> str:
    return (
        "Going back costs: change of error in points with the site as it was pretrained and all else fine-tuned. "
        f"Bars: intervals at {100 * p['confidence']:g} % for all rows at once (of the {p['estimand']}); dashed line: "
        f"the tolerance. Robust: at most {bound(p['tolerance'])} for certain; between and critical: more for certain"
        "; undecided: these examples cannot tell."
    )


def _stopped_early(rows: pd.DataFrame) -> bool:
    return bool((rows.groupby("split").n.nunique() > 1).any())


def _criticality_column(critical: Mapping[str, Any] | None) -> Column:
    allowed = f", at a train error of {percent(float(critical['epsilon'][0]))}" if critical else ""
    return Column(name="criticality", help=f"μ{allowed}", numeric=True)


def _decimals(shares: FloatArray) -> int:
    """Of percentages in a column: one, and more where the smallest would be 0."""
    known = shares[np.isfinite(shares) & (shares > 0)]
    return int(np.clip(np.ceil(-np.log10(100 * known.min())), 1, 4)) if len(known) else 1


def _row(row: dict[Any, Any], decimals: int) -> tuple[Entry, ...]:
    low, delta, high = (float(row[name]) for name in ("delta_error_low", "delta_error", "delta_error_high"))
    verdict = row["status"] if pd.isna(row["verdict"]) else row["verdict"]
    bar = (low, delta, high) if all(map(math.isfinite, (low, delta, high))) else None
    relative = float(row[PROXY])
    return (
        Entry(text=row["site"]),
        Entry(text=row["split"]),
        Entry(text=verdict, sort=verdict, mark=verdict),
        Entry(text=signed(delta), sort=delta, bar=bar),
        Entry(text=f"{row['n']:,}", sort=float(row["n"])),
        _number(relative, f"{100 * relative:.{decimals}f} %" if math.isfinite(relative) else "∞"),
        _critical(row),
        _number(row["block_influence"], f"{row['block_influence']:.3f}"),
        _number(row["angular_distance"], f"{row['angular_distance']:.3f}"),
        _number(row["linf"], f"{row['linf']:#.2g}".removesuffix(".")),
        Entry(text=f"{row['parameters']:,}", sort=float(row["parameters"])),
    )


def _critical(row: dict[Any, Any]) -> Entry:
    """Mu, or why there is none."""
    mu = float(row.get("criticality", math.nan))
    if math.isnan(mu):
        why = row.get("criticality_status")
        return Entry(text="" if why is None or pd.isna(why) else why)
    return Entry(text=number(mu), sort=mu)


def _number(value: float, text: str) -> Entry:
    return Entry(text="") if math.isnan(value) else Entry(text=text, sort=float(value))
