"""Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (Tian et al. 2019): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from netopsy.store.sweep import Sweep
from netopsy.studies import luck_claims, luck_gate_claims, luck_theory_claims
from netopsy.studies.claims import Claim
from netopsy.studies.luck_gate_claims import labelled
from netopsy.studies.luck_settings import Preset
from netopsy.studies.running import Report, Study, run_claims

CLAIMS: Mapping[str, Claim] = {**luck_claims.CLAIMS, **luck_theory_claims.CLAIMS, **luck_gate_claims.CLAIMS}
SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    **luck_claims.SWEEPS,
    **luck_theory_claims.SWEEPS,
    **luck_gate_claims.SWEEPS,
}

USUAL = ("T1", "T3", "F7", "F8")
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
        verdict=labelled,
    )
