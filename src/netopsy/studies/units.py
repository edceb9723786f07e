"""Robustness and/or Redundancy Emerge in Overparametrized Deep Neural Networks (Casper et al. 2019): our runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from netopsy._storage import write_table
from netopsy.studies import units_claims, units_constructions
from netopsy.studies.claims import Claim, Verdict, judge, lines_of, measured
from netopsy.studies.running import Report, check_asked, rows_of
from netopsy.studies.units_settings import Preset
from netopsy.studies.units_sweeps import width_sweep

CLAIMS: Mapping[str, Claim] = {**units_claims.CLAIMS, "S2": units_constructions.S2}

USUAL = ("F2", "F3", "S2", "C6")
"""Claims that are judged when none is named."""


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
    check_asked(CLAIMS, claims, preset, seeds)
    verdicts: dict[str, Verdict] = {}
    tables: dict[str, pd.DataFrame] = {}
    for claim in claims:
        chosen = tuple(seeds) if seeds is not None else tuple(range(CLAIMS[claim].seeds))
        if claim == "S2":
            sweep = units_constructions.construction_sweep(seeds=chosen)
        else:
            sweep = width_sweep(lines_of(CLAIMS[claim]), preset=preset, seeds=chosen)
        tables[claim] = rows_of(sweep, folder, jobs=jobs, retry=retry, report=report)
        if claim == "S2":
            values = units_constructions.measure(tables[claim])
        else:
            values = measured(CLAIMS[claim], tables[claim])
        verdicts[claim] = judge(CLAIMS[claim], values)
        write_table(folder / "verdicts" / f"{claim}.parquet", verdicts[claim].table)
    return Study(verdicts=verdicts, tables=tables, folder=folder / "trained")
