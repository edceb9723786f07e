"""Are All Layers Created Equal? (Zhang, Bengio, Singer, JMLR 2022): runs and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from netopsy._checks import NetopsyError
from netopsy._storage import write_table
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.store.keyed import Progress
from netopsy.store.results import OK
from netopsy.store.sweep import Sweep, run_sweep
from netopsy.studies import layers_claims, layers_randomized, layers_sweep_claims, layers_transformer_claims
from netopsy.studies.claims import Claim, Verdict, judge, lines_of, measured
from netopsy.studies.layers_randomized import randomized_sweep
from netopsy.studies.layers_settings import Preset, single_sweep
from netopsy.studies.layers_sweeps import treated_table, treatment_sweep, width_sweep
from netopsy.studies.layers_transformers import line_sweep
from netopsy.studies.running import Report, check_asked

CLAIMS: Mapping[str, Claim] = {
    **layers_claims.CLAIMS,
    "F2": layers_sweep_claims.F2,
    "T1": layers_sweep_claims.T1,
    "T2": layers_randomized.T2,
    **layers_transformer_claims.CLAIMS,
}

NEEDS = {"F1a": ("fcn3",), "F4": ("resnet",), "F6": ("resnet", "fcn5")}
"""Settings that a claim about single networks needs; the others have sweeps of their own."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study came to.

    Attributes:
        verdicts: by claim.
        results: setting -> robustness of its networks, one a seed.
        tables: claim -> the rows of its sweep.
    """

    verdicts: Mapping[str, Verdict]
    results: Mapping[str, Sequence[RobustnessResult]]
    tables: Mapping[str, pd.DataFrame]


def run(
    folder: Path,
    *,
    preset: Preset = "laptop",
    claims: Sequence[str] = tuple(NEEDS),
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    retry: bool = False,
    report: Report = lambda name, progress: None,
) -> Study:
    """Train what is not there, probe it, judge the claims.

    Args:
        folder: a folder of results for each sweep goes below it, and `trained` for their networks; what is there is
            used again.
        preset: `"laptop"` or `"paper"`.
        claims: of `CLAIMS`.
        seeds: training seeds; by default as many as a claim asks for.
        jobs: processes.
        retry: try failed networks again.
        report: see `Report`.

    Raises:
        NetopsyError: for an unknown preset or claim, too few seeds for a verdict, a seed given twice, or a network
            of a claim about single ones that could not be trained.
    """
    check_asked(CLAIMS, claims, preset, seeds)
    for claim in claims:
        if preset == "paper" and claim not in NEEDS:
            raise NetopsyError(f"claim {claim}: expected the laptop preset, the only one it has; got {preset!r}")
    verdicts: dict[str, Verdict] = {}
    results: dict[str, list[RobustnessResult]] = {}
    tables: dict[str, pd.DataFrame] = {}

    def rows(sweep: Sweep) -> pd.DataFrame:
        def tell(progress: Progress) -> None:
            report(sweep.name, progress)

        return run_sweep(sweep, folder / sweep.name, runs=folder / "trained", jobs=jobs, retry=retry, progress=tell)

    needed = list(dict.fromkeys(name for claim in claims for name in NEEDS.get(claim, ())))
    if needed:
        chosen = seeds or range(max(CLAIMS[claim].seeds for claim in claims if claim in NEEDS))
        frame = rows(single_sweep(needed, preset=preset, seeds=chosen))
        failed = frame[frame.status != OK]
        if len(failed):
            first = failed.iloc[0]
            raise NetopsyError(
                f"{preset}: {len(failed)} of the networks failed, and there is no verdict without them; "
                f"{first.setting}, seed {first.seed}: {first.status}: {first.reason}; mend that, and pass retry=True "
                "(--retry)"
            )
        for name in needed:
            paths = frame[frame.setting == name].drop_duplicates("seed").result
            results[name] = [_loaded(folder, name, path) for path in paths]
    for claim in claims:
        if claim == "F2":
            tables[claim] = rows(width_sweep(seeds=seeds or range(CLAIMS[claim].seeds)))
            values = layers_sweep_claims.measure_f2(tables[claim])
        elif claim == "T1":
            tables[claim] = treated_table(rows(treatment_sweep(seeds=seeds or range(CLAIMS[claim].seeds))))
            values = layers_sweep_claims.measure_t1(tables[claim])
        elif claim == "T2":
            tables[claim] = rows(randomized_sweep(preset=preset, seeds=seeds or range(CLAIMS[claim].seeds)))
            values = measured(CLAIMS[claim], tables[claim])
        elif claim in layers_transformer_claims.CLAIMS:
            lines = lines_of(CLAIMS[claim])
            tables[claim] = rows(line_sweep(lines, preset=preset, seeds=seeds or range(CLAIMS[claim].seeds)))
            values = measured(CLAIMS[claim], tables[claim])
        else:
            values = layers_claims.measure(claim, results)
        verdicts[claim] = judge(CLAIMS[claim], values)
        write_table(folder / "verdicts" / f"{claim}.parquet", verdicts[claim].table)
    return Study(verdicts=verdicts, results=results, tables=tables)


def _loaded(folder: Path, setting: str, path: str) -> RobustnessResult:
    where = folder / "trained" / path
    if not where.is_dir():
        raise NetopsyError(
            f"{setting}: expected its result in {where}; it is gone, while the list of finished work still names it; "
            "put it back, or choose another folder"
        )
    return RobustnessResult.load(where)
