"""Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (Tian et al. 2019): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from netopsy.store.sweep import Sweep
from netopsy.studies import luck_claims, luck_gate_claims, luck_theory_claims
from netopsy.studies.claims import Claim
from netopsy.studies.luck_gate_claims import labelled
from netopsy.studies.running import Paper

CLAIMS: Mapping[str, Claim] = {**luck_claims.CLAIMS, **luck_theory_claims.CLAIMS, **luck_gate_claims.CLAIMS}
SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    **luck_claims.SWEEPS,
    **luck_theory_claims.SWEEPS,
    **luck_gate_claims.SWEEPS,
}

USUAL = ("T1", "T3", "F7", "F8")
"""Claims that are judged when none is named."""


run = Paper(claims=CLAIMS, sweeps=SWEEPS, usual=USUAL, verdict=labelled).run
