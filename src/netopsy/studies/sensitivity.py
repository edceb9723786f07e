"""Sensitivity and Generalization in Neural Networks: an Empirical Study (Novak et al. 2018): our runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd

from netopsy.store.results import OK
from netopsy.store.sweep import Sweep
from netopsy.studies import sensitivity_claims, sensitivity_population_claims
from netopsy.studies.claims import Claim, Verdict, judge, measured, not_run
from netopsy.studies.running import Paper
from netopsy.studies.sensitivity_population_claims import PAIRS, TOLD_BY
from netopsy.studies.sensitivity_statistics import counted, fitted, pooled

CLAIMS: Mapping[str, Claim] = {**sensitivity_claims.CLAIMS, **sensitivity_population_claims.CLAIMS}
SWEEPS: Mapping[str, Callable[..., Sweep]] = {**sensitivity_claims.SWEEPS, **sensitivity_population_claims.SWEEPS}

USUAL = ("F2", "F3", "A11", "F6")
"""Claims that are judged when none is named."""

ENOUGH = 0.75
"""Share of a claim's seeds that must have networks with the whole train split right, for a verdict."""


def judged(claim: Claim, rows: pd.DataFrame) -> Verdict:
    """The verdict on networks that have the whole train split right; it says how many have not.

    Seeds without such networks are left out, and there is no verdict with less than `ENOUGH` of them.
    """
    words = _left_out(claim, rows)
    if not (rows.status == OK).any() or ("fitted" in rows and fitted(rows).empty):
        return not_run(claim, f"No network has the whole train split right. {words}")
    values = {name: [v for v in found if not math.isnan(v)] for name, found in measured(claim, rows).items()}
    fewest = min(map(len, values.values()))
    needed = math.ceil(ENOUGH * claim.seeds)
    if fewest < needed:
        return not_run(claim, f"Expected {needed} seeds with such networks; got {fewest}. {words}")
    return replace(judge(replace(claim, seeds=fewest), values), claim=claim, reason=words)


def _left_out(claim: Claim, rows: pd.DataFrame) -> str:
    """What a verdict has to say beside its parts: networks that do not count, correlations over all seeds."""
    name = claim.id.partition("/")[2]
    if name == "F2":
        one = rows.drop_duplicates("key").assign(line="")
        return counted(one)
    if name in PAIRS or name in TOLD_BY:
        told = [_told(rows, column) for column in TOLD_BY.get(name, ())]
        return " ".join([counted(rows), *told])
    failed = rows[rows.status != OK].drop_duplicates("key")
    return f"{len(failed)} of {rows.key.nunique()} networks failed and are left out." if len(failed) else ""


def _told(rows: pd.DataFrame, column: str) -> str:
    rho, low, high = pooled(rows, column, "gap")
    name = column.removeprefix("net.").replace("_", " ")
    return f"Over all seeds, ρ({name}, gap) = {rho:.2f} [{low:.2f}, {high:.2f}] (bootstrap over populations)."


run = Paper(claims=CLAIMS, sweeps=SWEEPS, usual=USUAL, verdict=judged).run
