"""Robustness and/or Redundancy Emerge in Overparametrized Deep Neural Networks (Casper et al. 2019): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies import units_claims, units_constructions
from netopsy.studies.claims import Claim, Verdict, judge, lines_of
from netopsy.studies.running import Paper, by_parts
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


def _verdict(claim: Claim, rows: pd.DataFrame) -> Verdict:
    return (
        judge(claim, units_constructions.measure(rows)) if claim == units_constructions.S2 else by_parts(claim, rows)
    )


run = Paper(claims=CLAIMS, sweeps=SWEEPS, usual=USUAL, verdict=_verdict).run
