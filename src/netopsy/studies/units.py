"""Robustness and/or Redundancy Emerge in Overparametrized Deep Neural Networks (Casper et al. 2019): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies import units_claims, units_constructions
from netopsy.studies.claims import Claim, Verdict, judge, lines_of
from netopsy.studies.running import Report, Study, by_parts, run_claims
from netopsy.studies.units_settings import Preset
from netopsy.studies.units_sweeps import width_sweep

CLAIMS: Mapping[str, Claim] = {**units_claims.CLAIMS, "S2": units_constructions.S2}


def _constructions(*, preset: Preset, seeds: tuple[int, ...]) -> Sweep:
    """The same at either preset."""
    return units_constructions.construction_sweep(seeds=seeds)


SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    **{name: partial(width_sweep, lines_of(claim)) for name, claim in units_claims.CLAIMS.items()},
    "S2": _constructions,
}

USUAL = ("F2", "F3", "S2", "C6")
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
    return (
        judge(claim, units_constructions.measure(rows)) if claim == units_constructions.S2 else by_parts(claim, rows)
    )
