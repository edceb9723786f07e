"""Robustness of several networks, side by side: where they differ by more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy.plots.frames import key
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.robustness_words import (
    HARMED,
    REINITIALIZE,
    RERANDOMIZE,
    drawn_rows,
    main_split,
    marked,
    reset_rows,
    sign,
    start,
    whole_network,
)
from netopsy.report.words import count, names, percent, points, signed

OPTIONS = ("tolerance", "critical", "confidence", "estimand", "batch_norm")
"""Options of the probe under which verdicts or intervals mean something else."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """What several networks lose when the same part is reset.

    Attributes:
        frame: see `to_frame`.
        baselines: run -> error of its trained network.
        operation: what was done to the sites: `re-initialize` to each run's earliest measured checkpoint, or
            `re-randomize`.
        split: whose numbers.
        missing: site -> runs that do not have it.
        same_data: all were measured on the same examples.
        cautions: what else the runs do not have in common, in words.
    """

    frame: pd.DataFrame = field(repr=False)
    baselines: Mapping[str, float]
    operation: str
    split: str
    missing: Mapping[str, tuple[str, ...]]
    same_data: bool
    cautions: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """Names, in their order; differences are to the first."""
        return tuple(self.baselines)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, a row a site and run.

        Columns: `site, run, checkpoint, delta_error, delta_error_low, delta_error_high, n, status, verdict`, draws
        averaged; and `difference, difference_low, difference_high`, of `delta_error` to the first run's (null in its
        own rows). The ends are those that the two intervals allow, and hold when both do.
        """
        return self.frame.copy()

    def sentences(self) -> tuple[str, ...]:
        """Which sites differ, in plain words; then what the comparison suffers from; then how good the runs are."""
        first, *others = self.runs
        edit = "set back" if self.operation == REINITIALIZE else "drawn anew"
        found, same = [self._average()] if len(others) > 1 else [], []
        for run in others:
            rows = self.frame[(self.frame.run == run) & self.frame.difference.notna()].set_index("site")
            sure = rows[(rows.difference_low > 0) | (rows.difference_high < 0)]
            if rows.empty:
                found.append(f"{first} and {run} have no part in common.")
            elif sure.empty:
                same.append(run)
            else:
                order = sure.difference.abs().sort_values(ascending=False, kind="stable").index
                shown = [f"{site} ({points(float(sure.difference[site]))})" for site in order]
                it = "it costs" if len(sure) == 1 else "they cost"
                differ = f"{count(len(rows), 'part')} {'differs' if len(sure) == 1 else 'differ'}"
                found.append(
                    f"{len(sure):,} of {differ} between {first} and {run}: {edit}, {it} {run} more (+) or less (−) "
                    f"by {names(shown)}."
                )
        if same:
            runs = names(same) if len(same) < len(others) or len(same) == 1 else "any of the others"
            found.append(f"No part costs {runs} more or less than {first} by more than these examples can tell.")
        verdict = self.frame.verdict.astype(object)
        harmed = {*self.frame.site[verdict.isin(HARMED)]}
        spared = {*self.frame.site[verdict.isin(["robust"])]}
        torn = [str(site) for site in self.frame.site.unique() if site in harmed & spared]
        if torn:
            found.append(f"Robust in one, but not in another: {names(torn)}.")
        if not self.same_data:
            found.append("They were measured on different examples.")
        found += self.cautions
        errors = ", ".join(f"{run} {percent(error)}" for run, error in self.baselines.items() if error == error)
        return (*found, f"Error of the trained networks: {errors}.") if errors else tuple(found)

    def spread(self) -> pd.DataFrame:
        """Over the runs, a row a site: columns `mean` and `sd` (n − 1 in its denominator) of `delta_error`, and `n`.

        It is the spread of the runs, such as training seeds; the intervals of a single run are of its examples.
        """
        changes = self.frame.groupby("site", sort=False).delta_error
        return pd.DataFrame({"mean": changes.mean(), "sd": changes.std(ddof=1), "n": changes.count()})

    def _average(self) -> str:
        """The part that costs most over all runs."""
        spread = self.spread()
        site = str(spread["mean"].idxmax())
        mean, sd, n = (float(spread[name][site]) for name in ("mean", "sd", "n"))
        edit = "set back" if self.operation == REINITIALIZE else "drawn anew"
        known = f", standard deviation {100 * sd:.1f}" if n > 1 else ""
        return (
            f"On average over {count(int(n), 'run')}, {site} costs most when it is {edit} alone: {points(mean)} of "
            f"error{known}."
        )

    def __str__(self) -> str:
        shown = self.frame.assign(text=[_text(row) for row in self.frame.to_dict("records")])
        wide = shown.pivot(index="site", columns="run", values="text")
        table = wide.reindex(index=shown.site.drop_duplicates(), columns=list(self.runs)).fillna("")
        if len(self.runs) == 2:
            last = self.frame[self.frame.run == self.runs[1]].set_index("site")
            table["difference"] = [_difference(last.loc[site]) if site in last.index else "" for site in table.index]
        else:
            spread = self.spread().loc[table.index]
            table["mean ± sd"] = [_mean(*pair) for pair in zip(spread["mean"], spread["sd"], strict=True)]
        done = "a reset to the earliest measured checkpoint" if self.operation == REINITIALIZE else "a fresh draw"
        table.index.name = table.columns.name = None
        notes = [f"no {site} in {', '.join(runs)}" for site, runs in self.missing.items()]
        return "\n".join(
            [
                f"{self.split}: change of error, in points, after {done} of one part",
                table.to_string(),
                "! critical, ~ between, ? undecided, ≠ draws differ, = no-op, × not finite, unmarked robust"
                + ("; * beyond chance" if len(self.runs) == 2 else f"; sd over {len(self.runs)} runs"),
                *([shorten(notes, 8)] if notes else []),
            ]
        )


def comparison(results: Mapping[str, RobustnessResult], *, split: str | None = None) -> Comparison:
    """Put the robustness of several networks side by side.

    Args:
        results: by the networks' names; differences are to the first.
        split: of the data; by default the one a reader asks about first, such as `test`.

    Raises:
        NetopsyError: for fewer than two results, a split that one lacks, or results without an operation in common.
    """
    if len(results) < 2:
        raise NetopsyError(f"compare: expected at least two results; got {shorten(results) or 'none'}")
    chosen = _common_split(results) if split is None else split
    frames: dict[str, pd.DataFrame] = {}
    for run, result in results.items():
        one_of(f"{run}: split", chosen, [str(name) for name in result.frame.split.unique()])
        frames[run] = result.frame[result.frame.split == chosen]
    operation = next(
        (name for name in (REINITIALIZE, RERANDOMIZE) if all((f.operation == name).any() for f in frames.values())),
        None,
    )
    if operation is None:
        raise NetopsyError(
            "compare: expected results that all re-initialize, or all re-randomize; these have neither in common; "
            "probe them with the same options"
        )
    tables = {run: _rows(result, chosen, operation) for run, result in results.items()}
    first = next(iter(tables.values()))
    rows = pd.concat([_apart(table, first, table is first).assign(run=run) for run, table in tables.items()])
    sites = list(dict.fromkeys(site for table in tables.values() for site in table.index))
    lacking = {site: tuple(run for run, table in tables.items() if site not in table.index) for site in sites}
    columns = ["site", "run", "checkpoint", *KEPT, "difference", "difference_low", "difference_high"]
    baselines = {run: frame[frame.operation == "baseline"].iloc[0] for run, frame in frames.items()}
    prints = {str(result.provenance["splits"][chosen]["data"]) for result in results.values()}
    return Comparison(
        frame=rows.rename_axis("site").reset_index()[columns],
        baselines={run: float(row["error"]) if "error" in row else float("nan") for run, row in baselines.items()},
        operation=operation,
        split=chosen,
        missing={site: runs for site, runs in lacking.items() if runs},
        same_data=len(prints) == 1,
        cautions=tuple(_cautions(results, tables, operation)),
    )


KEPT = ["delta_error", "delta_error_low", "delta_error_high", "n", "status", "verdict"]


def _common_split(results: Mapping[str, RobustnessResult]) -> str:
    """The split that a reader asks about first, of those that all have."""
    has = {run: [str(name) for name in result.frame.split.unique()] for run, result in results.items()}
    first = main_split(next(iter(results.values())))
    order = dict.fromkeys([first, *next(iter(has.values()))])
    shared = [name for name in order if all(name in mine for mine in has.values())]
    if not shared:
        told = "; ".join(f"{run} on {', '.join(names)}" for run, names in has.items())
        raise NetopsyError(
            f"compare: expected results on a split that all have; got {told}; measure one of them on the other's data"
        )
    return shared[0]


def _rows(result: RobustnessResult, split: str, operation: str) -> pd.DataFrame:
    """A row a site, after the operation."""
    rows = reset_rows(result, split) if operation == REINITIALIZE else drawn_rows(result, split)
    return rows[~rows.index.isin(whole_network(result))].reindex(columns=["checkpoint", *KEPT])


def _cautions(
    results: Mapping[str, RobustnessResult], tables: Mapping[str, pd.DataFrame], operation: str
) -> Iterator[str]:
    """What was not the same for all runs, though the comparison takes it to be."""
    if operation == REINITIALIZE:
        keys = {run: key(table.checkpoint.iloc[0]) for run, table in tables.items() if len(table)}
        if len({*map(str, keys.values())}) > 1 and any(start(results[run]) != k for run, k in keys.items()):
            told = ", ".join(f"{run} to {k}" for run, k in keys.items())
            yield f"They were set back to different checkpoints: {told}."
    for name in OPTIONS:
        options = {run: result.provenance.get(name) for run, result in results.items()}
        if len({*map(str, options.values())}) > 1:
            values = ", ".join(f"{run} {value}" for run, value in options.items())
            yield f"They were measured with another {name.replace('_', ' ')}: {values}."


def _apart(table: pd.DataFrame, first: pd.DataFrame, is_first: bool) -> pd.DataFrame:
    """With differences to the first run, where both have the site."""
    other = first.reindex(table.index)
    apart = table.assign(
        difference=table.delta_error - other.delta_error,
        difference_low=table.delta_error_low - other.delta_error_high,
        difference_high=table.delta_error_high - other.delta_error_low,
    )
    names = ["difference", "difference_low", "difference_high"]
    if is_first:
        apart[names] = float("nan")
    return apart


def mark(row: Mapping[Any, Any]) -> str:
    """The sign of a row's verdict or status."""
    return sign(marked(row))


def _text(row: Mapping[Any, Any]) -> str:
    return f"{signed(float(row['delta_error']))}{mark(row):<1}"


def _mean(mean: float, sd: float) -> str:
    return signed(mean) if sd != sd else f"{signed(mean)} ± {100 * sd:.1f}"


def _difference(row: pd.Series) -> str:
    if pd.isna(row.difference):
        return ""
    beyond = "*" if row.difference_low > 0 or row.difference_high < 0 else ""
    return f"{signed(row.difference)} [{signed(row.difference_low)}, {signed(row.difference_high)}]{beyond:<1}"
