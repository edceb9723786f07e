"""The kinds of units: a pure function of the table of `unit_table`.

Casper et al.: Robustness and/or Redundancy Emerge in Overparametrized Deep Neural Networks (2019), section 2, which
names six features that constrain a network's capacity and measures none of them unit by unit: the criteria are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from netopsy._checks import NetopsyError, inside, shorten
from netopsy._typing import BoolArray, FloatArray

KINDS = (
    "redundant functional",
    "redundant blocked",
    "non-redundant blocked",
    "silent",
    "constant",
    "semantically redundant",
    "unique",
    "unknown",
)
"""The paper's six, (i) to (vi); then what the function cannot lose, and units with values that are not finite."""

NEEDED = ("activity", "mean", "variance", "r2", "selectivity", "effect", "logit_change", "status")


@dataclass(frozen=True, kw_only=True)
class UnitCriteria:
    """Where the kinds begin.

    Attributes:
        silent: largest `activity` of a silent unit. A unit whose mean is below zero (tanh, GELU) is not silent: what
            it says, it says there.
        constant: largest standard deviation of a constant unit, as a share of its absolute mean.
        redundant: smallest `r2` of a redundant unit; one without R² is not called redundant.
        blocked: largest `logit_change` of a blocked unit.
        harmless: largest `effect` of a semantically redundant unit.
        selective: smallest `selectivity` of a semantically redundant unit.
    """

    silent: float = 0.01
    constant: float = 0.05
    redundant: float = 0.9
    blocked: float = 1e-4
    harmless: float = 0.005
    selective: float = 0.1

    def __post_init__(self) -> None:
        for name in ("silent", "redundant", "harmless", "selective"):
            inside(name, getattr(self, name), 0, 1)
        for name in ("constant", "blocked"):
            inside(name, getattr(self, name), 0, np.inf, open_high=True)


CRITERIA = UnitCriteria()
"""Where the kinds begin if nothing else is said."""


def classify(frame: pd.DataFrame, criteria: UnitCriteria = CRITERIA) -> pd.Series[str]:
    """The kind of each row of a unit table.

    The first that holds: unknown (`status` non-finite); silent; constant; redundant and blocked (ii); blocked (iii);
    redundant (i); semantically redundant: harmless alone, though selective (vi); unique.

    Args:
        frame: `UnitTableResult.frame`, or other rows with its columns.
        criteria: where the kinds begin.

    Returns:
        Strings of `KINDS`, indexed as the frame.

    Raises:
        NetopsyError: when a column is missing.

    >>> row = dict(activity=0.5, mean=1.0, variance=1.0, r2=0.99, selectivity=0.2, effect=0.0, logit_change=0.1)
    >>> classify(pd.DataFrame([row | {"status": "ok"}])).tolist()
    ['redundant functional']
    """
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise NetopsyError(f"frame: expected the columns of a unit table; it has no {shorten(missing)}")
    effect, change = _numbers(frame, "effect"), _numbers(frame, "logit_change")
    unknown = (frame.status == "non-finite").to_numpy(dtype=bool) | np.isnan(effect) | np.isnan(change)
    redundant = _numbers(frame, "r2") >= criteria.redundant
    blocked = change <= criteria.blocked
    semantic = (effect <= criteria.harmless) & (_numbers(frame, "selectivity") >= criteria.selective)
    tests: list[tuple[str, BoolArray]] = [
        ("unknown", unknown),
        ("silent", silent(frame, criteria)),
        ("constant", constant(frame, criteria)),
        ("redundant blocked", redundant & blocked),
        ("non-redundant blocked", blocked),
        ("redundant functional", redundant),
        ("semantically redundant", semantic),
    ]
    kinds = np.select([test for _, test in tests], [kind for kind, _ in tests], "unique")
    return pd.Series(kinds, index=frame.index, name="kind", dtype="string")


def silent(frame: pd.DataFrame, criteria: UnitCriteria) -> BoolArray:
    """Rows that are (almost) never above zero, and not below it either; from `activity` and `mean`."""
    return (_numbers(frame, "activity") <= criteria.silent) & (_numbers(frame, "mean") >= 0)


def constant(frame: pd.DataFrame, criteria: UnitCriteria) -> BoolArray:
    """Rows that hardly vary about their mean; from `mean` and `variance`."""
    return np.sqrt(_numbers(frame, "variance")) <= criteria.constant * np.abs(_numbers(frame, "mean"))


def _numbers(frame: pd.DataFrame, name: str) -> FloatArray:
    """Null as NaN, of which no comparison holds."""
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
