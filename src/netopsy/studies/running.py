"""What running a study is, whatever the paper: which claims are asked, the rows of their sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy.store.keyed import Progress
from netopsy.store.results import OK
from netopsy.store.sweep import Sweep, run_sweep
from netopsy.studies.claims import Claim

Report = Callable[[str, Progress], object]
"""Called with a sweep's name and how far it is."""


def check_asked(known: Mapping[str, Claim], claims: Sequence[str], preset: str, seeds: Sequence[int] | None) -> None:
    """Refuse an unknown preset or claim, too few seeds for a verdict, and a seed given twice."""
    one_of("preset", preset, ("laptop", "paper"))
    for claim in claims:
        one_of("claim", claim, tuple(known))
        few = known[claim].seeds
        if seeds is not None and (len(seeds) < few or len(set(seeds)) < len(seeds)):
            raise NetopsyError(f"seeds: expected at least {few} different ones for {claim}; got {shorten(seeds)}")


def rows_of(sweep: Sweep, folder: Path, *, jobs: int, retry: bool, report: Report) -> pd.DataFrame:
    """A sweep's rows, its networks below `trained`; failed ones are among them.

    Raises:
        NetopsyError: when all of its networks failed.
    """

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
