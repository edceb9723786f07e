"""The Intriguing Role of Module Criticality (Chatterji, Neyshabur, Sedghi, ICLR 2020): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies import criticality_claims, criticality_module_claims, criticality_ranking_claims
from netopsy.studies.claims import Claim, Verdict
from netopsy.studies.criticality_ranking_claims import Rival, confirmed, pooled
from netopsy.studies.criticality_settings import Preset
from netopsy.studies.running import Report, Study, by_parts, run_claims

CLAIMS: Mapping[str, Claim] = {
    **criticality_claims.CLAIMS,
    **criticality_module_claims.CLAIMS,
    **criticality_ranking_claims.CLAIMS,
}
SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    **criticality_claims.SWEEPS,
    **criticality_module_claims.SWEEPS,
    **criticality_ranking_claims.SWEEPS,
}

USUAL = ("F2", "F4", "F5a", "T32")
"""Claims that are judged when none is named."""


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
    """Train what is not there, measure it, judge the claims. Networks that several claims need are trained once.

    Args:
        folder: results go to it, and the networks below `trained`; what is there is used again.
        preset: `"laptop"` or `"paper"`.
        claims: of `CLAIMS`.
        seeds: of the replicates; by default as many as a claim asks for.
        jobs: processes.
        retry: try failed networks again.
        report: see `netopsy.studies.running.Report`.

    Raises:
        NetopsyError: for an unknown preset or claim, too few seeds for a verdict, a seed given twice, or a claim all
            of whose networks failed.
    """
    return run_claims(
        folder,
        CLAIMS,
        SWEEPS,
        preset=preset,
        claims=claims,
        seeds=seeds,
        jobs=jobs,
        retry=retry,
        report=report,
        verdict=_verdict,
    )


def _verdict(claim: Claim, rows: pd.DataFrame) -> Verdict:
    """That of the seeds; of a ranking, only if other architectures would not turn it."""
    found = by_parts(claim, rows)
    return confirmed(found, pooled(rows)) if any(isinstance(part, Rival) for part in claim.parts) else found
