"""The Intriguing Role of Module Criticality (Chatterji, Neyshabur, Sedghi, ICLR 2020): our runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies import criticality_claims, criticality_module_claims, criticality_ranking_claims
from netopsy.studies.claims import Claim, Verdict
from netopsy.studies.criticality_ranking_claims import Rival, confirmed, pooled
from netopsy.studies.running import Paper, by_parts

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


def _verdict(claim: Claim, rows: pd.DataFrame) -> Verdict:
    """That of the seeds; of a ranking, only if other architectures would not turn it."""
    found = by_parts(claim, rows)
    return confirmed(found, pooled(rows)) if any(isinstance(part, Rival) for part in claim.parts) else found


run = Paper(claims=CLAIMS, sweeps=SWEEPS, usual=USUAL, verdict=_verdict).run
