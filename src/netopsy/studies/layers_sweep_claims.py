"""What the layers paper claims of many nets at once (Fig. 2, Table 1), as statistics with margins.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why. The
statistics are computed from the tables that the sweeps leave: rows of single runs, failed ones included. A run that
failed, a missing row and a net that has not learned leave NaN in its seed's place: they are counted, and `judge`
cannot call a claim reproduced over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from netopsy._checks import NetopsyError, one_of, shorten
from netopsy.network.groups import ALL_BUT_FIRST
from netopsy.studies.claims import Claim, Part, rank_correlation

EASY, HARD = "digits", "fashion-mnist"
DEPTHS = (3, 5)
WIDTHS = (16, 32, 64, 128, 256, 512)

LEARNED = 0.45
"""Largest test error of a net that has learned: half of chance with 10 classes. One that has not has nothing to lose
when a layer is reset, and would pass for a robust one."""

# F2. The scale is the paper's own: the bars of Fig. 2 are absolute increases of the test error. A width's effect is
# the increase at H = 16 minus that at H = 512, the ends of the paper's axis.
# Easy set: "it is clear that the top layers become more robust"; 10 points are twice the 5 that F1a allows a robust
# layer, so the narrowest net's mean layer would not pass for robust where the widest one's just does.
# Hard set: "similar traits, though not as pronounced": 2 points, 40 of 2,000 test images, and as in F4 the least that
# we call a difference.
# The rank correlation keeps a fall between the ends from being two lucky nets. Six widths in order but for three
# that are equally robust, in any order among themselves, average -0.89, but for four -0.71; of all orders 12 % come
# to -0.6 or lower, and we ask it of the mean over five seeds.
# Easy minus hard: chance is 0.9 on both sets, but a trained net's way to it is shorter on the hard one (about 0.75
# against 0.86), which alone would shrink a fall of 0.4 by 0.05: so much more the easy set's fall must be.
F2 = Claim(
    id="layers/F2",
    source="Fig. 2",
    sentence="The mean increase of error when one of all layers but the first is re-initialized falls as the width H "
    "grows from 16 to 512 (FCN 3xH and 5xH); the effect is smaller on the harder data set.",
    parts=(
        *(
            Part(
                name=f"fall, {data}, {depth}xH",
                statistic="mean increase of test error over all layers but the first at H = 16 minus that at H = 512",
                direction="above",
                margin=margin,
            )
            for data, margin in ((EASY, 0.1), (HARD, 0.02))
            for depth in DEPTHS
        ),
        *(
            Part(
                name=f"rank correlation, {data}",
                statistic="Spearman's correlation between H and the mean increase, mean of 3xH and 5xH",
                direction="below",
                margin=-0.6,
            )
            for data in (EASY, HARD)
        ),
        *(
            Part(
                name=f"smaller on the harder set, {depth}xH",
                statistic=f"fall on {EASY} minus fall on {HARD}, in points of error",
                direction="above",
                margin=0.05,
            )
            for depth in DEPTHS
        ),
    ),
    seeds=5,
)

NORMAL, INDIVIDUAL, JOINT, FROZEN, REMOVED = "normal", "individual", "joint", "frozen", "removed"
TREATMENTS = (NORMAL, INDIVIDUAL, FROZEN, REMOVED, JOINT)
"""The columns of Table 1 in its order; the joint reset, which its text compares with, comes last."""
UNGROUPED = "none"

# T1, in points of error. Table 1 (ResNet-50, 101, 152): frozen minus individual is 1.97, 0.34, 0.43 on CIFAR-10 and
# 5.82, 2.19, 3.33 on ImageNet. The margin is just below the smallest of them, and one of our 360 easy test images:
# a tie is not "worse".
# Frozen minus normal is at most 9.6 there, and the joint reset is near chance (Fig. 6): "far better" is more than 10
# points, the margin of F6 for "not jointly robust". (Appendix B calls the paper's own ResNet-18 "relatively robust"
# jointly; Table 1 has deeper ones.)
# Removed minus normal is 0.83, 0.70, 0.69 on CIFAR-10 and 6.8, 8.7, 9.8 on ImageNet, 5.9 to 9.1 more. Little: below 2
# points, which leaves 360 test images room for their noise. More on the hard set: by 2 points, a third of the
# smallest in the paper, whose two tasks are much farther apart than ours.
T1 = Claim(
    id="layers/T1",
    source="Table 1",
    sentence="ResNet blocks frozen together at their initial values: worse than the average over blocks reset one by "
    "one, far better than resetting them together in a normally trained net; removing them costs little on the easy "
    "task and more on the hard one.",
    parts=(
        *(
            Part(
                name=f"frozen against individual, {data}",
                statistic="test error of the net trained with the group frozen minus the mean error over the "
                "group's blocks when each alone is re-initialized in the normal net",
                direction="above",
                margin=0.003,
            )
            for data in (EASY, HARD)
        ),
        *(
            Part(
                name=f"joint reset against frozen, {data}",
                statistic="test error of the normal net with the group reset together minus that of the net trained "
                "with it frozen",
                direction="above",
                margin=0.1,
            )
            for data in (EASY, HARD)
        ),
        Part(
            name=f"removed, {EASY}",
            statistic="test error of the net trained without the group minus that of the normal net",
            direction="below",
            margin=0.02,
        ),
        Part(
            name="removed, harder minus easier",
            statistic=f"increase of test error by removal on {HARD} minus that on {EASY}",
            direction="above",
            margin=0.02,
        ),
    ),
)


def layer_increases(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean increase of test error over all layers but the first, a row a run.

    Args:
        frame: one row a site and run: `data, depth, width, seed, site, operation, checkpoint, error, delta_error,
            status`. Only re-initializations to checkpoint 0 count; a run of which any row has another status than
            `ok` has failed.

    Returns:
        `data, depth, width, seed, increase`, sorted; `increase` is NaN for a run that failed, lacks a layer or has
        not learned (`LEARNED`).

    Raises:
        NetopsyError: a column is missing; data set, depth or width is none of F2's; a layer is unknown or measured
            twice.
    """
    run = ["data", "depth", "width", "seed"]
    _check(frame, run, ["site", "operation", "checkpoint", "error", "delta_error", "status"])
    for name, allowed in (("data", (EASY, HARD)), ("depth", DEPTHS), ("width", WIDTHS)):
        for value in frame[name].unique().tolist():
            one_of(f"frame: {name}", value, allowed)
    rows = frame.assign(error=_numbers(frame, "error"), delta_error=_numbers(frame, "delta_error"))
    # Plain tuples: a pandas group for each of a sweep's hundred runs takes longer than all the rest.
    failed = set(_tuples(rows[~rows["status"].isin(["ok"])], run))
    costs: dict[tuple[Any, ...], dict[str, tuple[float, float]]] = {key: {} for key in _tuples(rows, run)}
    reset = rows[rows["operation"].isin(["re-initialize"]) & rows["checkpoint"].isin([0]) & rows["site"].notna()]
    for data, depth, width, seed, site, error, delta in _tuples(reset, [*run, "site", "error", "delta_error"]):
        key = (data, depth, width, seed)
        where = f"{data}, FCN {depth}x{width}, seed {seed}"
        one_of(f"frame: site of {where}", site, _layers(depth))
        if site in costs[key]:
            raise NetopsyError(f"frame: expected one row a layer of a run; got several of {where}, for {site}")
        costs[key][site] = error - delta, delta
    found = [(*key, math.nan if key in failed else _increase(costs[key], key[1])) for key in sorted(costs)]
    return pd.DataFrame(found, columns=[*run, "increase"])


def measure_f2(frame: pd.DataFrame) -> dict[str, list[float]]:
    """F2's statistics, one value a seed (ascending, every seed that the table names).

    Takes and refuses what `layer_increases` does.
    """
    found = layer_increases(frame).set_index(["data", "depth", "width", "seed"]).increase.to_dict()
    columns = []
    for seed in sorted(frame["seed"].unique().tolist()):
        nets = {
            (data, depth): [found.get((data, depth, width, seed), math.nan) for width in WIDTHS]
            for data in (EASY, HARD)
            for depth in DEPTHS
        }
        falls = {net: values[0] - values[-1] for net, values in nets.items()}
        ranks = {net: rank_correlation(values) for net, values in nets.items()}
        columns.append(
            [
                *falls.values(),
                *(sum(ranks[data, depth] for depth in DEPTHS) / len(DEPTHS) for data in (EASY, HARD)),
                *(falls[EASY, depth] - falls[HARD, depth] for depth in DEPTHS),
            ]
        )
    return _by_part(F2, columns)


def measure_t1(frame: pd.DataFrame) -> dict[str, list[float]]:
    """T1's statistics for the group of Table 1, one value a seed (ascending, every seed that the table names).

    Args:
        frame: one row a run and measurement: `data, seed, groups, treatment, error, status`; the normal net's group
            is `none`.

    Raises:
        NetopsyError: a column is missing; data set or treatment is none of T1's; a measurement is there twice, or
            the group of Table 1 not at all.
    """
    keys = ["data", "seed", "groups", "treatment"]
    _check(frame, keys, ["error", "status"])
    for name, allowed in (("data", (EASY, HARD)), ("treatment", TREATMENTS)):
        for value in frame[name].unique().tolist():
            one_of(f"frame: {name}", value, allowed)
    if ALL_BUT_FIRST not in set(frame["groups"]):
        raise NetopsyError(f"T1: expected the group {ALL_BUT_FIRST!r}; got {shorten(frame['groups'].unique())}")
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        raise NetopsyError(f"T1: expected one row a measurement; got several for {shorten(twice[keys].iloc[0])}")
    errors = dict(zip(_tuples(frame, keys), _valid_errors(frame), strict=True))
    columns = []
    for seed in sorted(frame["seed"].unique().tolist()):
        table = {data: _table_row(errors, data, seed) for data in (EASY, HARD)}
        removal = {data: row[REMOVED] - row[NORMAL] for data, row in table.items()}
        columns.append(
            [
                *(table[data][FROZEN] - table[data][INDIVIDUAL] for data in (EASY, HARD)),
                *(table[data][JOINT] - table[data][FROZEN] for data in (EASY, HARD)),
                removal[EASY],
                removal[HARD] - removal[EASY],
            ]
        )
    return _by_part(T1, columns)


def _layers(depth: int) -> list[str]:
    return [*(f"hidden.{i}" for i in range(depth)), "classifier"]


def _increase(costs: Mapping[str, tuple[float, float]], depth: int) -> float:
    """Mean over all layers but the first, of each layer's error before the edit and its increase."""
    layers = _layers(depth)
    learned = all(costs[site][0] <= LEARNED for site in layers if site in costs)  # a missing number has not learned
    if len(costs) < len(layers) or not learned:
        return math.nan
    return math.fsum(costs[site][1] for site in layers[1:]) / depth


def _table_row(errors: Mapping[tuple[Any, ...], float], data: str, seed: int) -> dict[str, float]:
    """Error by treatment; all NaN where the normal net has not learned, for then there is nothing to compare with."""
    normal = errors.get((data, seed, UNGROUPED, NORMAL), math.nan)
    if not normal <= LEARNED:
        return dict.fromkeys(TREATMENTS, math.nan)
    others = {name: errors.get((data, seed, ALL_BUT_FIRST, name), math.nan) for name in TREATMENTS[1:]}
    return {NORMAL: normal, **others}


def _valid_errors(frame: pd.DataFrame) -> list[float]:
    return [float(x) for x in np.where(frame["status"].isin(["ok"]), _numbers(frame, "error"), np.nan)]


def _numbers(frame: pd.DataFrame, column: str) -> Float[np.ndarray, " n"]:
    return np.asarray(frame[column].to_numpy(dtype=np.float64, na_value=np.nan))


def _tuples(frame: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(frame[name].tolist() for name in columns), strict=True))


def _by_part(claim: Claim, columns: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    return {part.name: [values[i] for values in columns] for i, part in enumerate(claim.parts)}


def _check(frame: pd.DataFrame, keys: list[str], others: list[str]) -> None:
    missing = [name for name in (*keys, *others) if name not in frame.columns]
    if missing:
        raise NetopsyError(
            f"frame: expected a sweep's table; missing {', '.join(missing)}; got {shorten(frame.columns, 12)}"
        )
    if frame.empty:
        raise NetopsyError("frame: expected at least one run; got an empty table; run the sweep first")
    unnamed = [name for name in keys if frame[name].isna().any()]
    if unnamed:  # grouping would drop these rows, and a failed run with them
        raise NetopsyError(f"frame: expected {', '.join(unnamed)} in every row, failed runs included; some are null")
