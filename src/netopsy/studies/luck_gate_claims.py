"""What the luck paper claims of gates: Theorems 2 and 4, Figure 6. Margins stand here before any run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies.claims import BySeed, Claim, Measured, Verdict, rank_correlation
from netopsy.studies.luck_claims import LEAST, fc, part
from netopsy.studies.luck_gate_sweeps import CONES, bias_sweep, cone_sweep, measure_gaps
from netopsy.studies.luck_settings import SMALL, Preset
from netopsy.studies.luck_statistics import FIRST, LAST, at
from netopsy.studies.luck_sweeps import population_sweep
from netopsy.studies.running import by_parts

GAP_LINE = fc(5)
CLOSE = 0.1
"""The largest difference to an update, over the update's own length, that we call close."""

WHEN = {"at the start": 0, "after epoch 1": FIRST, "at the end": LAST}

T2 = Claim(
    id="luck/T2",
    source="Theorem 2, Assumption 1",
    sentence="With expectations taken apart, a layer's expected update is close to the exact one.",
    parts=tuple(
        part(f"layer {layer}, {when}", "||L* W* H* - L W H - exact|| over ||exact||, H = E[β] E[f'f']", "below",
             CLOSE, [GAP_LINE], partial(at, line=GAP_LINE, column="gap_separated", epoch=epoch, layers=[layer]))
        for when, epoch in WHEN.items()
        for layer in range(len(SMALL))
    ),
    seeds=3,
)  # fmt: skip
"""The map to the outputs is left out: nothing is taken apart there. The joint form, H = E[β f'f'], is in the rows."""


def along(rows: pd.DataFrame, line: str, way: str, of: Callable[[pd.DataFrame], float]) -> BySeed:
    """A number of each seed's way to its teacher, its moments in order."""
    mine = rows[(rows.line == line) & (rows.way == way)].sort_values("time")
    seeds = sorted(rows.seed.unique())
    return pd.Series({seed: of(mine[mine.seed == seed]) for seed in seeds}, dtype="float64")


def least_ratio(way: pd.DataFrame) -> float:
    """The least of the rate over the theorem's, each in the cone of its moment."""
    return float((way.rate / way.stated_now).min()) if len(way) else math.nan


def growth(way: pd.DataFrame) -> float:
    """The last rate over the first."""
    return float(way.rate.iloc[-1] / way.rate.iloc[0]) if len(way) else math.nan


def order(way: pd.DataFrame) -> float:
    """Spearman's correlation of the rate with time."""
    return rank_correlation(way.rate.tolist()) if len(way) else math.nan


def whole_way(way: pd.DataFrame) -> float:
    """What log sin θ fell by in a unit of time, all in all, over the rate that the first cone states."""
    if not len(way):
        return math.nan
    first, last = (math.log(math.sin(angle)) for angle in (way.angle.iloc[0], way.angle.iloc[-1]))
    return float((first - last) / (way.time.iloc[-1] - way.time.iloc[0]) / way.stated.iloc[0])


def _in_cone(line: str) -> tuple[Measured, ...]:
    def of(which: Callable[[pd.DataFrame], float], way: str = "ode") -> Callable[[pd.DataFrame], BySeed]:
        return partial(along, line=line, way=way, of=which)

    return (
        part(f"inside the condition, {line}", "γ at the start", "above", 0.0, [line],
             of(lambda way: float(way.gamma.iloc[0]) if len(way) else math.nan)),
        part(f"at least the stated rate, {line}", "-d log sin θ/dt over the stated rate, the least of the way",
             "above", 1.0, [line], of(least_ratio)),
        part(f"faster in the end, {line}", "last rate over the first", "above", 1.0, [line], of(growth)),
        part(f"faster and faster, {line}", "Spearman's correlation of rate and time", "above", 0.9, [line],
             of(order)),
        part(f"SGD too, {line}", "fall of log sin θ a unit of time over the rate stated for the start", "above", 1.0,
             [line], of(whole_way, "sgd")),
    )  # fmt: skip


INSIDE = tuple(cone.line for cone in CONES if cone.threshold)

T4 = Claim(
    id="luck/T4",
    source="Theorem 4",
    sentence="With gates that overlap little, students turn onto their teachers at least at the stated rate, and "
    "faster the closer they are.",
    parts=tuple(each for line in INSIDE for each in _in_cone(line)),
    seeds=5,
)


def negative(rows: pd.DataFrame, low: float = 0.0, high: float = 1.0) -> BySeed:
    """Share of negative biases among the layers from one share of the depth to another."""
    seeds = sorted(rows.seed.unique())
    rows = rows[rows.bias.notna()]
    place = (rows.layer.astype("float64") + 0.5) / (rows.groupby("seed").layer.transform("max").astype("float64") + 1)
    mine = rows[(place >= low) & (place <= high)]
    return (mine.bias < 0).groupby(mine.seed).mean().reindex(seeds).astype("float64")


def upper_lead(rows: pd.DataFrame) -> BySeed:
    """Share of negative biases in the upper half of the layers, minus that in the lower one."""
    return negative(rows, 0.5, 1.0) - negative(rows, 0.0, 0.5)


F6 = Claim(
    id="luck/F6",
    source="Figure 6",
    sentence="Most biases of a trained VGG's batch normalizations are negative, most of all in the top layers.",
    parts=(
        part("most are negative", "share of negative biases, of all channels", "above", 0.5, [], negative),
        part("most of all in the top layers", "share of negative biases, upper minus lower half of the layers",
             "above", LEAST, [], upper_lead),
    ),
    seeds=4,
)  # fmt: skip

OURS = (
    "Of our own small VGG-11 on Fashion-MNIST; the paper's claim is of the published ImageNet nets (--preset paper)."
)


def labelled(claim: Claim, rows: pd.DataFrame) -> Verdict:
    """The verdict; that on Figure 6 says so where the nets are ours."""
    found = by_parts(claim, rows)
    return replace(found, reason=OURS) if claim.id == F6.id and (rows.line == "ours").any() else found


CLAIMS: Mapping[str, Claim] = {"T2": T2, "T4": T4, "F6": F6}


def _gaps(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return population_sweep("gaps", measure_gaps, [GAP_LINE], preset=preset, seeds=seeds)


def _cones(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return cone_sweep(seeds=seeds)


SWEEPS: Mapping[str, Callable[..., Sweep]] = {"T2": _gaps, "T4": _cones, "F6": bias_sweep}
"""Claim -> its sweep, of a preset and seeds."""
