"""Values of single seeds: one row a run, spread, and the note that says what a bar is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from netopsy._checks import NetopsyError
from netopsy.plots.frames import floats


def need_single_runs(frame: pd.DataFrame, keys: list[str]) -> None:
    """Refuse two rows of one run: their mean would hide that one is too many."""
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        first = ", ".join(f"{name} {twice[name].iloc[0]}" for name in keys)
        raise NetopsyError(f"frame: expected one row a run; got several for {first}; drop all but one")


def deviation(values: Float[np.ndarray, " n"]) -> float:
    """Sample standard deviation; NaN (no bar) of fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def seeds_note(frame: pd.DataFrame, keys: list[str], sign: str) -> list[str]:
    """Lines for a legend: what the bars are, over how many seeds, and how many runs lack the `sign`'s value."""
    known = frame.assign(known=np.isfinite(floats(frame["value"])))
    counts = known.groupby(keys)["known"].sum()
    least, most = int(counts.min()), int(counts.max())
    lost = int((~known["known"]).sum())
    several = f"{most}" if least == most else f"{least} to {most}"
    lines = [f"mean ± sd of n = {several} seeds", "(dots: seeds)"]
    return [*lines, *([f"{sign}: {lost} of {len(frame)} without a value"] if lost else [])]
