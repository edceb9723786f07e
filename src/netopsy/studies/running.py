"""What running a study is, whatever the paper: which claims are asked, the rows of their sweeps, their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy._storage import write_table
from netopsy.store.keyed import Progress
from netopsy.store.results import OK
from netopsy.store.sweep import Sweep, run_sweep
from netopsy.studies.claims import Claim, Verdict, judge, measured

Report = Callable[[str, Progress], object]
"""Called with a sweep's name and how far it is."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study came to.

    Attributes:
        verdicts: by claim.
        tables: claim -> the rows of its networks.
        folder: in which `result` of a row names a folder.
    """

    verdicts: Mapping[str, Verdict]
    tables: Mapping[str, pd.DataFrame]
    folder: Path


def by_parts(claim: Claim, rows: pd.DataFrame) -> Verdict:
    """The verdict of a claim whose parts say how they are measured."""
    return judge(claim, measured(claim, rows))


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper's claims, and how they come to verdicts.

    Attributes:
        claims: by name.
        sweeps: claim -> its sweep, when called with `preset` and `seeds`.
        usual: claims that are judged when none is named.
        verdict: of a claim, from the rows of its networks.
    """

    claims: Mapping[str, Claim]
    sweeps: Mapping[str, Callable[..., Sweep]]
    usual: tuple[str, ...]
    verdict: Callable[[Claim, pd.DataFrame], Verdict] = by_parts

    def run(
        self,
        folder: Path,
        *,
        preset: Literal["laptop", "paper"] = "laptop",
        claims: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        jobs: int = 1,
        retry: bool = False,
        report: Report = lambda name, progress: None,
    ) -> Study:
        """Train what is not there, measure it, judge the claims. What several claims need is trained once.

        Args:
            folder: results go to it, and the networks below `trained`; what is there is used again.
            preset: `"laptop"` or `"paper"`.
            claims: which of them; None: the usual ones.
            seeds: of the replicates; None: as many as a claim asks for.
            jobs: processes.
            retry: try failed networks again.
            report: see `Report`.

        Raises:
            NetopsyError: for an unknown preset or claim, too few seeds for a verdict, a seed given twice, or a claim
                all of whose networks failed.
        """
        asked = self.usual if claims is None else claims
        check_asked(self.claims, asked, preset, seeds)
        verdicts: dict[str, Verdict] = {}
        tables: dict[str, pd.DataFrame] = {}
        for name in asked:
            chosen = tuple(range(self.claims[name].seeds)) if seeds is None else tuple(seeds)
            sweep = self.sweeps[name](preset=preset, seeds=chosen)
            tables[name] = rows_of(sweep, folder, jobs=jobs, retry=retry, report=report)
            verdicts[name] = self.verdict(self.claims[name], tables[name])
            write_table(folder / "verdicts" / f"{name}.parquet", verdicts[name].table)
        return Study(verdicts=verdicts, tables=tables, folder=folder / "trained")


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
