"""What the sensitivity paper claims of single networks: Figures 2, 3, 6, App.9, App.11.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from netopsy.store.results import OK
from netopsy.store.sweep import Sweep
from netopsy.studies.claims import BySeed, Claim, Direction, Measured
from netopsy.studies.sensitivity_statistics import (
    anchor_ratio,
    each_seed,
    explained,
    fitted,
    log_level,
    seeds_of,
    tiniest,
    top_errors,
)
from netopsy.studies.sensitivity_sweeps import (
    AFTER,
    BEFORE,
    DIFFERENT,
    RANDOM,
    SAME,
    bound_sweep,
    ellipse_sweep,
    point_sweep,
    slice_sweep,
)

LEAST = 0.1
"""The least difference of correlations and shares that we call one."""

EVEN = 1.25
"""A ratio below this and above its inverse is near 1."""

WORDS = {"jacobian": "Jacobian norm", "transitions": "transition density"}


def part(
    name: str,
    statistic: str,
    direction: Direction,
    margin: float,
    measure: Callable[[pd.DataFrame], BySeed],
    lines: Sequence[str] = (),
) -> Measured:
    """A part, in one line."""
    return Measured(
        name=name, statistic=statistic, direction=direction, margin=margin, lines=tuple(lines), measure=measure
    )


def _ratio(rows: pd.DataFrame, quantity: str, kind: str) -> BySeed:
    return anchor_ratio(fitted(rows), quantity, kind)


def _above_same(rows: pd.DataFrame, quantity: str) -> BySeed:
    kept = fitted(rows)
    return log_level(kept, quantity, DIFFERENT) - log_level(kept, quantity, SAME)


NEAR = "mean within ±π/12 of the anchors over that within ±π/12 of the midpoints, {kind} ellipses"


def _along(quantity: str) -> tuple[Measured, ...]:
    """What Figure 2 says of one quantity."""
    words = WORDS[quantity]
    drops = tuple(
        part(f"{words} drops near train points, {kind}", NEAR.format(kind=kind), "below", 1.0,
             partial(_ratio, quantity=quantity, kind=kind))
        for kind in (DIFFERENT, SAME)
    )  # fmt: skip
    random = partial(_ratio, quantity=quantity, kind=RANDOM)
    return (
        *drops,
        part(f"{words} is even, {RANDOM}: no drop", NEAR.format(kind=RANDOM), "above", 1 / EVEN, random),
        part(f"{words} is even, {RANDOM}: no rise", NEAR.format(kind=RANDOM), "below", EVEN, random),
        part(f"{words}: same class below different classes", "log of the mean along different-class ellipses, minus "
             "that of same-class ones", "above", 0.0, partial(_above_same, quantity=quantity)),
    )  # fmt: skip


F2 = Claim(
    id="sensitivity/F2",
    source="Figure 2, §4.1",
    sentence="Jacobian norm and transition density drop near the train points on an ellipse through them, more so "
    "for points of one class; along random ellipses they are even.",
    parts=(*_along("jacobian"), *_along("transitions")),
    seeds=16,
)


def near_anchors(rows: pd.DataFrame, when: str) -> BySeed:
    """Length of boundaries an area within 0.1 of the anchors over the slice's, mean over the anchors."""
    mine = rows[(rows.status == OK) & (rows.when == when)]
    return each_seed(mine, lambda each: float(each.relative.astype("float64").mean()), seeds_of(rows))


def _change(rows: pd.DataFrame) -> BySeed:
    return near_anchors(rows, AFTER) - near_anchors(rows, BEFORE)


DENSITY = "length of boundaries an area within 0.1 of the anchors over the slice's"
F3 = Claim(
    id="sensitivity/F3",
    source="Figure 3, §4.1",
    sentence="After training, train points lie where few boundaries of the last hidden layer pass; before, they pass "
    "evenly.",
    parts=(
        part("before: no fewer", DENSITY, "above", 1 / EVEN, partial(near_anchors, when=BEFORE)),
        part("before: no more", DENSITY, "below", EVEN, partial(near_anchors, when=BEFORE)),
        part("after: fewer", DENSITY, "below", 1.0, partial(near_anchors, when=AFTER)),
        part("training takes them away", "the same, after minus before", "below", 0.0, _change),
    ),
    seeds=8,
)


def of_line(rows: pd.DataFrame, line: str, statistic: Callable[[pd.DataFrame], float]) -> BySeed:
    """A number of each seed's test points."""
    return each_seed(rows[(rows.status == OK) & (rows.line == line)], statistic, seeds_of(rows))


def _noise(rows: pd.DataFrame) -> BySeed:
    return of_line(rows, "cross-entropy", explained) - of_line(rows, "l2", explained)


F6 = Claim(
    id="sensitivity/F6",
    source="Figures 6 and App.9, §4.4",
    sentence="Points with the largest Jacobian norm are mostly misclassified; some misclassified points have tiny "
    "norms; with l2 loss it is the same, noisier.",
    parts=(
        *(part(f"large norms are wrong, {loss}", "error rate among the 1 % of the test points with the largest norms",
               "above", 0.5, partial(of_line, line=loss, statistic=top_errors), [loss])
          for loss in ("cross-entropy", "l2")),
        part("some wrong points have tiny norms", "powers of ten from the least norm of a wrong point to the median "
             "of right ones", "above", 1.0, partial(of_line, line="cross-entropy", statistic=tiniest),
             ["cross-entropy"]),
        part("l2 is noisier", "share of the variance of log norm between 20 equal parts of the points by loss, "
             "cross-entropy minus l2", "above", LEAST, _noise, ["cross-entropy", "l2"]),
    ),
    seeds=5,
)  # fmt: skip


def within(points: pd.DataFrame, low: str, value: str, high: str | None, slack: float) -> float:
    """Share of the points whose value lies between two columns, give or take a factor."""
    own = points[value].astype("float64") * (1 + 1e-6)  # where the assumptions hold, equality is met
    holds = own * slack >= points[low].astype("float64")
    if high is not None:
        holds &= own / (1 + 1e-6) ** 2 <= points[high].astype("float64") * slack
    return float(np.mean(holds))


FACTOR = 2.0
"""What `≲` stands for: the assumptions behind the bounds are that lengths vary little, and the bounds of Eq. 5 are a
factor of 1.34 apart."""


def _bound(name: str, words: str, low: str, value: str, high: str | None, slack: float) -> Measured:
    share = partial(within, low=low, value=value, high=high, slack=slack)
    return part(name, f"share of the test points with {words}", "above", 0.9,
                lambda rows: each_seed(rows[rows.status == OK], share, seeds_of(rows)))  # fmt: skip


A11 = Claim(
    id="sensitivity/A11",
    source="Figure App.11, A.3",
    sentence="What the cross-entropy at a point says of its Jacobian norm holds approximately.",
    parts=(
        _bound("Eq. 5", "‖J_y‖ between the bounds", "lower", "norm_y", "upper", 1.0),
        _bound("Eq. 5, to a factor of 2", "‖J_y‖ from half of the lower bound to twice the upper one", "lower",
               "norm_y", "upper", FACTOR),
        _bound("Eq. 6", "‖J‖ above the bound", "lower", "norm", None, 1.0),
        _bound("Eq. 7, to a factor of 2", "‖J‖ from half of its approximation to twice that", "approximate", "norm",
               "approximate", FACTOR),
    ),
    seeds=8,
)  # fmt: skip

CLAIMS: Mapping[str, Claim] = {"F2": F2, "F3": F3, "A11": A11, "F6": F6}

SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    "F2": ellipse_sweep,
    "F3": slice_sweep,
    "A11": bound_sweep,
    "F6": point_sweep,
}
"""Claim -> its sweep, of a preset and seeds."""
