"""Robustness and/or Redundancy Emerge in Overparametrized Deep Neural Networks (Casper et al. 2019): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy._storage import write_table
from netopsy.store.keyed import Progress
from netopsy.store.results import OK
from netopsy.store.sweep import Sweep, run_sweep
from netopsy.studies import units_claims, units_constructions
from netopsy.studies.claims import Claim, Verdict, judge
from netopsy.studies.units_settings import Preset
from netopsy.studies.units_statistics import Measured
from netopsy.studies.units_sweeps import width_sweep

CLAIMS: Mapping[str, Claim] = {**units_claims.CLAIMS, "S2": units_constructions.S2}

USUAL = ("F2", "F3", "S2", "C6")
"""Claims that are judged when none is named."""

Report = Callable[[str, Progress], object]
"""Called with a sweep's name and how far it is."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study came to.

    Attributes:
        verdicts: by claim.
        tables: claim -> the rows of its nets.
        folder: in which `result` of a row names a folder.
    """

    verdicts: Mapping[str, Verdict]
    tables: Mapping[str, pd.DataFrame]
    folder: Path


def run(
    folder: Path,
    *,
    preset: Preset = "laptop",
    claims: Sequence[str] = USUAL,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    retry: bool = False,
    report: Report = lambda name, progress: None,
) -> Study:
    """Train what is not there, measure it, judge the claims. Nets that several claims need are measured once.

    Args:
        folder: results go to it, and the networks below `trained`; what is there is used again.
        preset: `"laptop"` or `"paper"`.
        claims: of `CLAIMS`.
        seeds: of the replicates; by default as many as a claim asks for.
        jobs: processes.
        retry: try failed networks again.
        report: see `Report`.

    Raises:
        NetopsyError: for an unknown preset or claim, too few seeds for a verdict, or a seed given twice.
    """
    one_of("preset", preset, ("laptop", "paper"))
    for claim in claims:
        one_of("claim", claim, tuple(CLAIMS))
        few = CLAIMS[claim].seeds
        if seeds is not None and (len(seeds) < few or len(set(seeds)) < len(seeds)):
            raise NetopsyError(f"seeds: expected at least {few} different ones for {claim}; got {shorten(seeds)}")
    verdicts: dict[str, Verdict] = {}
    tables: dict[str, pd.DataFrame] = {}
    for claim in claims:
        chosen = tuple(seeds) if seeds is not None else tuple(range(CLAIMS[claim].seeds))
        if claim == "S2":
            sweep = units_constructions.construction_sweep(seeds=chosen)
        else:
            sweep = width_sweep(_lines(CLAIMS[claim]), preset=preset, seeds=chosen)
        tables[claim] = _rows(sweep, folder, jobs=jobs, retry=retry, report=report)
        if claim == "S2":
            values = units_constructions.measure(tables[claim])
        else:
            values = units_claims.measure(CLAIMS[claim], tables[claim])
        verdicts[claim] = judge(CLAIMS[claim], values)
        write_table(folder / "verdicts" / f"{claim}.parquet", verdicts[claim].table)
    return Study(verdicts=verdicts, tables=tables, folder=folder / "trained")


def _lines(claim: Claim) -> list[str]:
    """Of nets, each once, in the order in which the claim speaks of them."""
    return list(dict.fromkeys(line for part in claim.parts if isinstance(part, Measured) for line in part.lines))


def _rows(sweep: Sweep, folder: Path, *, jobs: int, retry: bool, report: Report) -> pd.DataFrame:
    def tell(progress: Progress) -> None:
        report(sweep.name, progress)

    rows = run_sweep(sweep, folder, runs=folder / "trained", jobs=jobs, retry=retry, progress=tell)
    if not (rows.status == OK).any():
        first = rows.iloc[0]
        raise NetopsyError(
            f"{sweep.name}: all of its networks failed, and there is no verdict without them; the first: "
            f"{first.status}: {first.reason}; mend that, and pass retry=True (--retry)"
        )
    return rows
