"""Tidy frames -> arrays of sites x columns, in the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.ticker import Formatter, PercentFormatter, ScalarFormatter

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy.plots.style import plain

BASELINE, REINITIALIZE, RERANDOMIZE = "baseline", "re-initialize", "re-randomize"
FULL_MODEL, RERANDOM, FINAL = "full model", "re-rand", "final"

COLUMNS = ("site", "operation", "checkpoint", "draw", "split", "status")
SOURCE = "netopsy.robustness(...).to_frame()"
INTERVAL = ("delta_error", "delta_error_low", "delta_error_high")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """How one number is named and printed: `label` may hold `{split}`; fractions are printed in percent."""

    label: str
    percent: bool

    def text(self, value: float, decimals: int) -> str:
        """Print a value for a cell: percent with so many decimals, or two more digits than that.

        >>> METRICS["error"].text(0.1234, 1), METRICS["loss"].text(2.0, 1), METRICS["loss"].text(2e-7, 0)
        ('12.3', '2.00', '2e−07')
        """
        if self.percent:
            text = f"{100 * value:.{decimals}f}"
        elif abs(value) >= 1e4 or 0 < abs(value) < 1e-4:
            text = f"{value:.0e}"
        else:
            text = f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:#.{decimals + 2}g}".rstrip(".")
        return text.replace("-", "−")

    def named(self, split: str) -> str:
        """The label of an axis or color bar."""
        return self.label.replace("{split}", "" if split == UNNAMED else f"{plain(split)} ")

    def formatter(self) -> Formatter:
        """The tick formatter of an axis or color bar with this quantity."""
        return PercentFormatter(xmax=1, symbol="") if self.percent else ScalarFormatter()


METRICS = {
    "error": Quantity(label="{split}error (%)", percent=True),
    "loss": Quantity(label="{split}loss", percent=False),
    "delta_error": Quantity(label="increase of {split}error\n(percentage points)", percent=True),
    "unchanged": Quantity(label="unchanged {split}predictions (%)", percent=True),
}
UNNAMED = "data"
"""The split of a probe that was given a single set of data: not worth a word in a label."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One metric on one split, sites x columns; last come the full model and the final checkpoint.

    Draws of a re-randomization are averaged over those that are finite; `low` and `high` are their smallest and
    largest value, or for a single value the interval that came with it (NaN: none). `status` is the frame's, with
    `non-finite` winning among draws, and empty where nothing was measured.
    """

    sites: tuple[str, ...]
    columns: tuple[str, ...]
    split: str
    quantity: Quantity
    baseline: float
    value: Float[np.ndarray, "s c"]
    low: Float[np.ndarray, "s c"]
    high: Float[np.ndarray, "s c"]
    deviation: Float[np.ndarray, "s c"]
    draws: Int[np.ndarray, "s c"]
    status: tuple[tuple[str, ...], ...]

    @property
    def layers(self) -> int:
        """Number of sites that are not the full model (which comes last)."""
        return len(self.sites) - (FULL_MODEL in self.sites)


def quantity(frame: pd.DataFrame, metric: str) -> Quantity:
    """How to print a metric; one that a user added goes by its own name."""
    known = [str(name) for name in frame.columns if name not in (*COLUMNS, *INTERVAL[1:], "n", "verdict", "seed")]
    one_of("metric", metric, known)
    return METRICS.get(metric, Quantity(label=f"{{split}}{plain(metric)}", percent=False))


def need(frame: pd.DataFrame, columns: Iterable[str], source: str) -> None:
    """Refuse a frame that is empty or lacks columns."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise NetopsyError(
            f"frame: expected the columns of {source}; missing {', '.join(missing)}; got {shorten(frame.columns, 12)}"
        )
    if frame.empty:
        raise NetopsyError(f"frame: expected at least one row of {source}; got an empty frame")


def one_split(frame: pd.DataFrame, split: str | None) -> tuple[pd.DataFrame, str]:
    """Keep the rows of one split (None: the first in the frame), and say which."""
    splits = [str(name) for name in frame["split"].unique()]
    if split is not None:
        one_of("split", split, splits)
    chosen = splits[0] if split is None else split
    return frame[frame["split"].astype(str) == chosen], chosen


def key(value: Any) -> Hashable:
    """Give a checkpoint's key back as the user wrote it: a null in the column turns integers into floats."""
    value = value.item() if isinstance(value, np.generic) else value
    plain: Hashable = int(value) if isinstance(value, float) and value.is_integer() else value
    return plain


def ordered_keys(values: Iterable[Any]) -> list[Hashable]:
    """Distinct checkpoints: integers ascending, names as they come."""
    keys = list(dict.fromkeys(map(key, values)))
    numbers = [item for item in keys if isinstance(item, int)]
    return [*sorted(numbers)] if len(numbers) == len(keys) else keys


def ordered_sites(names: Iterable[Any]) -> tuple[str, ...]:
    """Distinct sites as they come (the network's order), the full model last."""
    return tuple(sorted(dict.fromkeys(map(str, names)), key=lambda name: name == FULL_MODEL))


def edits(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with an edit, under known operations, with a checkpoint wherever one is due."""
    for operation in rows["operation"].unique():
        one_of("frame: operation", operation, (BASELINE, REINITIALIZE, RERANDOMIZE))
    kept = rows[rows["operation"] != BASELINE]
    if kept.empty:
        raise NetopsyError("frame: expected rows with an edited site; got only the baseline; pass the whole result")
    nameless = kept["site"].isna() | ((kept["operation"] == REINITIALIZE) & kept["checkpoint"].isna())
    if nameless.any():
        raise NetopsyError(
            f"frame: expected a site in every edited row and a checkpoint in every re-initialized one; "
            f"{int(nameless.sum())} rows lack one"
        )
    return kept


def baseline(rows: pd.DataFrame, metric: str, split: str) -> float:
    """The unedited model's value; its increase of error is 0 by definition."""
    found = rows.loc[rows["operation"] == BASELINE, metric]
    if len(found) != 1:
        raise NetopsyError(
            f"frame: expected one row with operation 'baseline' for split {split!r}; got {len(found)}; "
            "pass the frame of one run, with its baseline"
        )
    return 0.0 if metric == "delta_error" else float(found.iloc[0])


def tabulate(frame: pd.DataFrame, *, metric: str, split: str | None = None, final: int | str | None = None) -> Table:
    """Arrange a robustness frame as its pictures show it: re-randomized, checkpoints in order, the final one.

    `final` is the key of the trained weights. None: the last checkpoint if every edit there is a `no-op`, otherwise a
    column `final` is added. An added column holds the baseline's value, and so does a no-op without a value of its
    own. Raises `NetopsyError` for a frame that is empty, lacks columns or baseline, or measures a cell twice.
    """
    need(frame, COLUMNS, SOURCE)
    printed = quantity(frame, metric)
    rows, chosen = one_split(frame, split)
    reference = baseline(rows, metric, chosen)
    kept = edits(rows)
    sites = ordered_sites(kept["site"])
    again = kept["operation"] == RERANDOMIZE
    keys = ordered_keys(kept.loc[~again, "checkpoint"])
    labels = [RERANDOM if new else str(key(item)) for new, item in zip(again, kept["checkpoint"], strict=True)]
    trained = last_column(kept, labels, [str(item) for item in keys], final)
    columns = [RERANDOM] * bool(again.any()) + [str(item) for item in keys if str(item) != trained] + [trained]

    shape = (len(sites), len(columns))
    value, low, high, deviation = (np.full(shape, np.nan) for _ in range(4))
    draws = np.zeros(shape, dtype=np.int64)
    status = np.full(shape, "", dtype=object)
    if trained not in labels:
        value[:, -1], status[:, -1] = reference, "ok"
    numbers = floats(kept[metric])
    states = kept["status"].astype(object).where(kept["status"].notna(), "ok").tolist()
    below, above = interval(kept, numbers, metric)
    for at, cell in cells(kept, sites, columns, labels).items():
        kinds = {states[row] for row in cell}
        drawn = numbers[cell]
        if "no-op" in kinds:
            drawn = np.where(np.isnan(drawn), reference, drawn)
        lost = "non-finite" in kinds or bool(np.isinf(drawn).any())
        status[at] = "non-finite" if lost else "ok" if at[1] == len(columns) - 1 else min(kinds)
        drawn = drawn[np.isfinite(drawn)]
        draws[at] = len(drawn)
        value[at] = drawn.mean() if len(drawn) else np.nan
        if len(drawn) > 1:
            low[at], high[at], deviation[at] = drawn.min(), drawn.max(), drawn.std(ddof=1)
        else:
            low[at], high[at] = below[cell[0]], above[cell[0]]
    return Table(
        sites=sites,
        columns=tuple(columns),
        split=chosen,
        quantity=printed,
        baseline=reference,
        value=value,
        low=low,
        high=high,
        deviation=deviation,
        draws=draws,
        status=tuple(tuple(map(str, row)) for row in status),
    )


def floats(column: pd.Series[Any]) -> Float[np.ndarray, " r"]:
    """A column as numbers, NaN for null."""
    return column.astype("Float64").to_numpy(np.float64, na_value=np.nan)


def interval(
    rows: pd.DataFrame, numbers: Float[np.ndarray, " r"], metric: str
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """The interval of the change of error, moved to where the metric is; NaN for other metrics."""
    if metric not in ("error", "delta_error") or not {*INTERVAL} <= set(rows.columns):
        return np.full_like(numbers, np.nan), np.full_like(numbers, np.nan)
    delta, low, high = (floats(rows[name]) for name in INTERVAL)
    return low + numbers - delta, high + numbers - delta


def cells(
    rows: pd.DataFrame, sites: Sequence[str], columns: Sequence[str], labels: Sequence[str]
) -> dict[tuple[int, int], list[int]]:
    """Place in the table -> the rows measured there, of different draws; several runs may not be averaged unseen."""
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (sites, columns))
    found: dict[tuple[int, int], list[int]] = {}
    seen = set()
    for row, (site, label, draw) in enumerate(
        zip(map(str, rows["site"]), labels, map(str, rows["draw"]), strict=True)
    ):
        if (site, label, draw) in seen:
            raise NetopsyError(
                f"frame: expected one row for a site, checkpoint, draw and split; got several for {site!r} at "
                f"{label!r}; draw one run at a time"
            )
        seen.add((site, label, draw))
        found.setdefault((row_of[site], column_of[label]), []).append(row)
    return found


def last_column(rows: pd.DataFrame, labels: Sequence[str], keys: Sequence[str], final: int | str | None) -> str:
    """Name the column of the trained weights: as told, or the last checkpoint where no edit changed anything."""
    if final is not None:
        return str(final)
    at_last = rows["status"][np.asarray(labels) == keys[-1]] if keys else rows["status"][:0]
    return keys[-1] if len(at_last) and bool((at_last == "no-op").all()) else FINAL
