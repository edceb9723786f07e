"""Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (Tian et al. 2019): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from netopsy._storage import write_table
from netopsy.store.sweep import Sweep
from netopsy.studies import luck_claims, luck_theory_claims
from netopsy.studies.claims import Claim, Verdict, judge, measured
from netopsy.studies.luck_settings import Preset
from netopsy.studies.running import Report, check_asked, rows_of

CLAIMS: Mapping[str, Claim] = {**luck_claims.CLAIMS, **luck_theory_claims.CLAIMS}
SWEEPS: Mapping[str, Callable[..., Sweep]] = {**luck_claims.SWEEPS, **luck_theory_claims.SWEEPS}

USUAL = ("T1", "T3", "F7", "F8")
"""Claims that are judged when none is named."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study came to.

    Attributes:
        verdicts: by claim.
        tables: claim -> the rows of its populations.
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
    """Train what is not there, measure it, judge the claims. Populations that several claims need are trained once.

    Args:
        folder: results go to it, and the populations below `trained`; what is there is used again.
        preset: `"laptop"` or `"paper"`.
        claims: of `CLAIMS`.
        seeds: of the replicates, which are trained as one; by default as many as a claim asks for.
        jobs: processes.
        retry: try failed populations again.
        report: see `netopsy.studies.running.Report`.

    Raises:
        NetopsyError: for an unknown preset or claim, too few seeds for a verdict, a seed given twice, or a claim all
            of whose populations failed.
    """
    check_asked(CLAIMS, claims, preset, seeds)
    verdicts: dict[str, Verdict] = {}
    tables: dict[str, pd.DataFrame] = {}
    for name in claims:
        claim = CLAIMS[name]
        chosen = tuple(range(claim.seeds)) if seeds is None else tuple(seeds)
        tables[name] = rows_of(
            SWEEPS[name](preset=preset, seeds=chosen), folder, jobs=jobs, retry=retry, report=report
        )
        verdicts[name] = judge(claim, measured(claim, tables[name]))
        write_table(folder / "verdicts" / f"{name}.parquet", verdicts[name].table)
    return Study(verdicts=verdicts, tables=tables, folder=folder / "trained")
