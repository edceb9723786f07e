"""What the criticality paper claims of single modules, as statistics with margins: Figs. 1, 3, 7, 8, 9 and §3.1.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats

from netopsy.store.keyed import Measure
from netopsy.store.sweep import Sweep
from netopsy.studies.claims import BySeed, Claim, Measured, lines_of
from netopsy.studies.criticality_module_sweeps import (
    EPSILON,
    measure_cka,
    measure_modules,
    measure_noise,
    measure_spectra,
    measure_valleys,
    module_sweep,
)
from netopsy.studies.criticality_settings import Preset
from netopsy.studies.criticality_statistics import CRITICAL, ROBUST, by_seed

Role: TypeAlias = Literal["critical", "robust"]

SAME = 1e-6
"""How far below 1 the CKA of equal layers is at most, by rounding."""

NETWORKS = ("fcn", "resnet18")


def narrowest(rows: pd.DataFrame, line: str, role: Role, *, at_start: bool) -> BySeed:
    """The least width of a module's valley over its width at the trained weights, with or without alpha = 0."""

    def value(part: pd.DataFrame) -> float:
        mine = part[part.role == role].reindex(columns=["alpha", "relative"]).astype("float64")
        widths = mine[mine.alpha >= 0] if at_start else mine[mine.alpha > 0]
        return float(widths.relative.min(skipna=False)) if len(widths) else math.nan

    return by_seed(rows, line, value)


def spectral_excess(rows: pd.DataFrame, line: str) -> BySeed:
    """How much farther training parts spectra of critical and robust modules than those of robust ones.

    A pair's distance at an epoch is taken less its distance at epoch 0, which shapes and initialization alone decide.
    The mean over pairs of the one kind less that of the other; the largest over the epochs.
    """

    def value(part: pd.DataFrame) -> float:
        if set(part.kind) != {"critical-robust", "robust-robust"}:
            return math.nan
        table = part.pivot_table(index=["kind", "site", "other"], columns="epoch", values="ks")
        since = table.sub(table[0], axis=0).drop(columns=0).groupby("kind").mean()
        excess = since.loc["critical-robust"] - since.loc["robust-robust"]
        return float(np.max(excess.to_numpy(dtype=np.float64)))

    return by_seed(rows, line, value)


def separation(rows: pd.DataFrame, line: str) -> BySeed:
    """How often, of a critical and a robust module, the critical one has moved more: the area under the ROC curve."""

    def value(part: pd.DataFrame) -> float:
        critical, robust = (
            part.moved[kind].to_numpy(dtype=np.float64) for kind in (part.rise >= CRITICAL, part.rise <= ROBUST)
        )
        if not len(critical) or not len(robust):
            return math.nan
        larger = np.sign(critical[:, None] - robust[None, :])
        return float((1 + larger.mean()) / 2)

    return by_seed(rows, line, value)


def pattern(rows: pd.DataFrame, line: str, other: str) -> BySeed:
    """Pearson's correlation over the modules of what rewinding costs in two networks of a seed."""
    found = {}
    for seed in sorted(rows.seed.unique()):
        done = rows[(rows.seed == seed) & (rows.status == "ok")]
        costs = [done[done.line == name].set_index("site").rise.astype("float64") for name in (line, other)]
        both = pd.concat(costs, axis=1, join="inner")
        told = len(both) > 1 and bool((both.nunique() > 1).all())
        found[seed] = float(stats.pearsonr(both.iloc[:, 0], both.iloc[:, 1]).statistic) if told else math.nan
    return pd.Series(found, dtype="float64")


def last_cka(rows: pd.DataFrame, line: str, role: Role) -> BySeed:
    """CKA of the last layer before the classifier with its own in the rewound network."""
    return by_seed(rows, line, lambda part: _last(_ckas(part, role)))


def depth_trend(rows: pd.DataFrame, line: str) -> BySeed:
    """Spearman's correlation of depth and CKA, over the layers that rewinding the critical module reaches."""

    def value(part: pd.DataFrame) -> float:
        reached = [cka for cka in _ckas(part, "critical") if cka < 1 - SAME]
        return float(stats.spearmanr(range(len(reached)), reached).statistic) if len(set(reached)) > 2 else math.nan

    return by_seed(rows, line, value)


def largest_step(rows: pd.DataFrame, line: str) -> BySeed:
    """The largest fall of CKA from one layer to the next, as a share of the whole fall from 1 to its least.

    NaN where fewer than three layers are reached, or nothing falls: there is no step to tell from the whole.
    """

    def value(part: pd.DataFrame) -> float:
        curve = [1.0, *_ckas(part, "critical")]
        fall = 1 - min(curve)
        if sum(cka < 1 - SAME for cka in curve) < 3:
            return math.nan
        return max(before - after for before, after in itertools.pairwise(curve)) / fall

    return by_seed(rows, line, value)


def least_rise(rows: pd.DataFrame, line: str) -> BySeed:
    """The least change of the test error by noise, over modules, alpha and sigma."""
    return by_seed(rows, line, lambda part: float(part.rise.astype("float64").min()))


# The store leaves out columns that are empty in all rows: hence `reindex`, here and above.
def _ckas(part: pd.DataFrame, role: Role) -> list[float]:
    """By depth; empty without the role, or where a layer has none."""
    mine = part[part.role == role].reindex(columns=["place", "cka"]).astype("float64")
    values = mine[mine.place.notna()].sort_values("place").cka
    return [] if values.isna().any() else values.tolist()


def _last(values: Sequence[float]) -> float:
    return values[-1] if values else math.nan


# F1. Half as wide is narrow: one margin for both, so that no valley is both. The robust module's counts up to
# theta^0, the critical one's only before it: at theta^0 it is infeasible by being critical.
F1 = Claim(
    id="criticality/F1",
    source="Figs. 1, 10",
    sentence="A non-critical module has a wide valley from the trained to the initial weights, a critical one "
    "narrows or rises before the initial ones.",
    parts=tuple(
        part
        for line in NETWORKS
        for part in (
            Measured(
                name=f"the robust module's stays wide, {line}",
                statistic=f"largest sigma at which the training error is at most {EPSILON}, over that at alpha = 1; "
                "the least over alpha",
                direction="above",
                margin=0.5,
                lines=(line,),
                measure=partial(narrowest, line=line, role="robust", at_start=True),
            ),
            Measured(
                name=f"the critical module's narrows, {line}",
                statistic="the same of the critical module, the least over alpha above 0",
                direction="below",
                margin=0.5,
                lines=(line,),
                measure=partial(narrowest, line=line, role="critical", at_start=False),
            ),
        )
    ),
)

# F3. A distance of 0.1: a tenth of the values lies elsewhere.
F3 = Claim(
    id="criticality/F3",
    source="Fig. 3",
    sentence="The spectra of critical and non-critical modules look alike at every epoch.",
    parts=(
        Measured(
            name="training does not tell them apart",
            statistic="Kolmogorov-Smirnov distance of spectra over their largest values, less that at epoch 0: mean "
            "of critical-robust pairs minus mean of robust ones, the largest over epochs",
            direction="below",
            margin=0.1,
            lines=("resnet18, kept",),
            measure=partial(spectral_excess, line="resnet18, kept"),
        ),
    ),
)

# F7. The same modules are critical. Unrelated patterns of 21 modules correlate with a standard deviation of 0.22.
F7 = Claim(
    id="criticality/F7",
    source="Fig. 7",
    sentence="The pattern of critical modules survives Fixup initialization and Adam.",
    parts=tuple(
        Measured(
            name=f"the plain network's pattern, {other}",
            statistic="Pearson's correlation over modules of the rise of the test error by rewinding, with the "
            "network of the same seed trained plainly",
            direction="above",
            margin=0.5,
            lines=("resnet18", line),
            measure=partial(pattern, line=line, other="resnet18"),
        )
        for other, line in (("Fixup", "resnet18, Fixup"), ("Adam", "resnet18, Adam"))
    ),
)

# F8. Chance gives 0.5. With four critical and twelve robust modules its standard deviation is 0.17: five seeds tell
# 0.5 from 0.75, three do not.
F8 = Claim(
    id="criticality/F8",
    source="Fig. 8",
    sentence="The operator norm of what a module moved by does not separate critical from non-critical modules.",
    parts=(
        Measured(
            name="critical modules have not moved more",
            statistic="share of pairs, critical and robust, in which the critical module has moved more, by its norm "
            "as an operator",
            direction="below",
            margin=0.75,
            lines=("resnet18",),
            measure=partial(separation, line="resnet18"),
        ),
        Measured(
            name="critical modules have not moved less",
            statistic="the same",
            direction="above",
            margin=0.25,
            lines=("resnet18",),
            measure=partial(separation, line="resnet18"),
        ),
    ),
    seeds=5,
)

# F9. High is 0.8, and a fall ends below it. Gradual: no step between two of the nine layers is half the fall.
F9 = Claim(
    id="criticality/F9",
    source="Fig. 9",
    sentence="Rewinding a non-critical module leaves CKA high; a critical one degrades it gradually with depth.",
    parts=(
        Measured(
            name="the robust module leaves it high",
            statistic="CKA of the last layer before the classifier with its own in the rewound network",
            direction="above",
            margin=0.8,
            lines=("resnet18",),
            measure=partial(last_cka, line="resnet18", role="robust"),
        ),
        Measured(
            name="the critical module does not",
            statistic="the same",
            direction="below",
            margin=0.8,
            lines=("resnet18",),
            measure=partial(last_cka, line="resnet18", role="critical"),
        ),
        Measured(
            name="it falls with depth",
            statistic="Spearman's correlation of depth and CKA, over the layers reached",
            direction="below",
            margin=-0.5,
            lines=("resnet18",),
            measure=partial(depth_trend, line="resnet18"),
        ),
        Measured(
            name="it falls gradually",
            statistic="the largest fall from one layer to the next over the whole fall",
            direction="below",
            margin=0.5,
            lines=("resnet18",),
            measure=partial(largest_step, line="resnet18"),
        ),
    ),
)

# C33. The least of some hundred points, each with the noise of the examples: where 1 % of a thousand examples change
# their answer, three standard deviations of the change are 0.01.
C33 = Claim(
    id="criticality/C33",
    source="§3.1",
    sentence="The trained network's test error is at most that under noise around its convex path to the initial "
    "weights.",
    parts=tuple(
        Measured(
            name=f"noise does not help, {line}",
            statistic="test error at (alpha, sigma) less that of the trained network, the least over modules alone "
            "and all together, alpha and sigma",
            direction="above",
            margin=-0.01,
            lines=(line,),
            measure=partial(least_rise, line=line),
        )
        for line in NETWORKS
    ),
)


def _sweep(name: str, measure: Measure, claim: Claim, *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return module_sweep(name, measure, lines_of(claim), preset=preset, seeds=seeds)


CLAIMS: Mapping[str, Claim] = {claim.id.removeprefix("criticality/"): claim for claim in (F1, F3, F7, F8, F9, C33)}

SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    "F1": partial(_sweep, "valleys", measure_valleys, F1),
    "F3": partial(_sweep, "spectra", measure_spectra, F3),
    "F7": partial(_sweep, "modules-trained", measure_modules, F7),
    "F8": partial(_sweep, "modules", measure_modules, F8),
    "F9": partial(_sweep, "cka", measure_cka, F9),
    "C33": partial(_sweep, "noise", measure_noise, C33),
}
"""Claim -> its sweep, of a preset and seeds."""
