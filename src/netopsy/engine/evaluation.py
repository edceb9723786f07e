"""What evaluate is asked (when to stop) and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from netopsy._checks import inside, one_of
from netopsy._typing import FloatArray, IntArray

Stop = Literal["exact", "precision", "verdict"]
Estimand = Literal["population", "dataset"]


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When enough is known of a variant.

    Attributes:
        rule: `"exact"`: every example; `"precision"`: the paired change of error is known to ± `precision`;
            `"verdict"`: it is known to lie above, or at or below, `tolerance`. What stays undecided runs to the end.
        precision: half-width of the interval.
        tolerance: the change of error below which a variant counts as unharmed.
        confidence: that all intervals hold at once, at whatever time they stop.
        estimand: what the intervals speak of: the `"population"` the examples were drawn from, or this `"dataset"`
            (of which the whole is exact, with intervals of no width).
    """

    rule: Stop = "exact"
    precision: float = 0.02
    tolerance: float = 0.05
    confidence: float = 0.99
    estimand: Estimand = "population"

    def __post_init__(self) -> None:
        one_of("stop", self.rule, ("exact", "precision", "verdict"))
        one_of("estimand", self.estimand, ("population", "dataset"))
        inside("precision", self.precision, 0, 1, open_low=True)
        inside("tolerance", self.tolerance, 0, 1)
        inside("confidence", self.confidence, 0, 1, open_low=True, open_high=True)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        labels: the variants', by row.
        baseline: metric -> the unedited network's mean.
        metrics: metric -> each variant's mean over the examples it was run on, `(variants,)`.
        baseline_error: its 0-1 error, whichever metrics were asked for.
        delta_error: paired mean change of the 0-1 error on these examples.
        delta_error_low: lower end of its simultaneous interval.
        delta_error_high: the upper end.
        n: examples each variant was run on.
        baseline_n: examples the baseline was run on.
        status: `"ok"`, `"no-op"` (no value changes, or nothing that is used does) or `"non-finite"`.
        bad: examples with a non-finite output, by row.
        examples: metric -> `(variants + 1, examples)` mean of each example, NaN where it was not run; the baseline
            is the last row. Only for the metrics asked for.
        classes: of the logits.
        chance: error of guessing every class equally often.
        provenance: engine and why, seed, stopping rule, versions, data fingerprint, seconds.
    """

    labels: tuple[str, ...]
    baseline: Mapping[str, float]
    metrics: Mapping[str, FloatArray]
    baseline_error: float
    delta_error: FloatArray
    delta_error_low: FloatArray
    delta_error_high: FloatArray
    n: IntArray
    baseline_n: int
    status: tuple[str, ...]
    bad: IntArray
    examples: Mapping[str, FloatArray]
    classes: int
    chance: float
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """The baseline, then one row a variant: `label`, the metrics, `delta_error` and its bounds, `n`, `status`."""
        rows = {
            "label": ["baseline", *self.labels],
            **{name: np.r_[self.baseline[name], values] for name, values in self.metrics.items()},
            "delta_error": np.r_[0.0, self.delta_error],
            "delta_error_low": np.r_[0.0, self.delta_error_low],
            "delta_error_high": np.r_[0.0, self.delta_error_high],
            "n": np.r_[self.baseline_n, self.n],
            "status": ["ok", *self.status],
        }
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return self.to_frame().to_string(index=False, float_format=lambda value: f"{value:.4f}")
