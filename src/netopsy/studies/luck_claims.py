"""What the luck paper claims, as statistics with margins.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why. ρ̄ and
r̄ lie in [0, 1]: 0.05 of them is the least that we call a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies.claims import BySeed, Claim, Direction, Measured, lines_of
from netopsy.studies.luck_settings import FACTORS, NEAR_FACTORS, Preset, near_line
from netopsy.studies.luck_statistics import (
    FIRST,
    LAST,
    at,
    average,
    gain,
    half_time,
    lead,
    second_half,
    spread,
    widening,
)
from netopsy.studies.luck_sweeps import (
    measure_students,
    population_sweep,
)

LEAST = 0.05
"""The least difference of ρ̄ and r̄."""


def over_factors(
    rows: pd.DataFrame, start: tuple[float, float], statistic: Callable[[pd.DataFrame, str], BySeed]
) -> BySeed:
    """A statistic of Figure 7, mean over the students' sizes."""
    found = [statistic(rows, near_line(factor, *start)) for factor in NEAR_FACTORS]
    return pd.concat(found, axis=1).mean(axis=1, skipna=False)


def part(
    name: str,
    statistic: str,
    direction: Direction,
    margin: float,
    lines: Sequence[str],
    measure: Callable[[pd.DataFrame], BySeed],
) -> Measured:
    """A part whose lines may be any sequence."""
    return Measured(
        name=name, statistic=statistic, direction=direction, margin=margin, lines=tuple(lines), measure=measure
    )


def _near_lines(*starts: tuple[float, float]) -> tuple[str, ...]:
    return tuple(near_line(factor, *start) for start in starts for factor in NEAR_FACTORS)


def _starts_apart(
    name: str,
    statistic: str,
    far: tuple[float, float],
    close: tuple[float, float],
    margin: float,
    of: Callable[[pd.DataFrame, str], BySeed],
) -> Measured:
    """A statistic of the farther start is above that of the closer one."""

    def measure(rows: pd.DataFrame) -> BySeed:
        return over_factors(rows, far, of) - over_factors(rows, close, of)

    return part(name, statistic, "above", margin, _near_lines(far, close), measure)


DISTANCE = partial(average, column="distance")
CLOSER = "mean over the epochs of ||W_u - W*||, {far} minus {close}, mean over the students' sizes"

F7 = Claim(
    id="luck/F7",
    source="Figure 7, Theorem 5, §4.2",
    sentence="Closer starts converge faster and vary less; a large p_w separates the row norms of V_u and V_r even "
    "at a small p_v; at a small p_w the gap only shifts, even at a large p_v.",
    parts=(
        _starts_apart("p_w 0.3 before 0", CLOSER.format(far="(0, 1)", close="(0.3, 1)"), (0.0, 1.0), (0.3, 1.0),
                      LEAST, DISTANCE),
        _starts_apart("p_w 1 before 0.3", CLOSER.format(far="(0.3, 1)", close="(1, 1)"), (0.3, 1.0), (1.0, 1.0),
                      LEAST, DISTANCE),
        _starts_apart("p_v 1 before 0", CLOSER.format(far="(1, 0)", close="(1, 1)"), (1.0, 0.0), (1.0, 1.0), 0.0,
                      DISTANCE),
        _starts_apart("less variable", "distance of a seed's last ||W_u - W*|| from the seeds' median, (0, 1) minus "
                      "(1, 1), mean over the students' sizes", (0.0, 1.0), (1.0, 1.0), 0.0,
                      partial(spread, column="distance")),
        *(part(f"p_w 1, p_v 0 separates, x{factor}", "growth of log(row norm of V_u / row norm of V_r)", "above",
                math.log(2), [near_line(factor, 1.0, 0.0)], partial(widening, line=near_line(factor, 1.0, 0.0)))
          for factor in NEAR_FACTORS),
        *(part(f"p_w 0, p_v 1 does not, x{factor}", "growth of log(row norm of V_u / row norm of V_r)", "below",
                math.log(1.5), [near_line(factor, 0.0, 1.0)], partial(widening, line=near_line(factor, 0.0, 1.0)))
          for factor in NEAR_FACTORS),
    ),
    seeds=32,
)  # fmt: skip


def _grows(line: str) -> tuple[Measured, ...]:
    """What Figure 8 says of one line, but for batch normalization."""

    def deep(rows: pd.DataFrame) -> BySeed:
        return gain(rows, line, layers=[0]) - gain(rows, line, layers=[-1])

    def earlier(rows: pd.DataFrame) -> BySeed:
        return at(rows, line, "rank", 0) - at(rows, line, "rank", FIRST)

    return (
        part(f"ρ̄ grows, {line}", "last epoch minus epoch 0, mean over layers", "above", 0.1, [line],
              partial(gain, line=line)),
        part(f"most in the lowest layer, {line}", "gain of the lowest layer minus that of the top one", "above",
              LEAST, [line], deep),
        part(f"winners rank well after epoch 1, {line}", "r̄(1), mean over layers; 0.5 by chance", "below", 0.25,
              [line], partial(at, line=line, column="rank", epoch=FIRST)),
        part(f"better than at the start, {line}", "r̄(0) - r̄(1), mean over layers", "above", 0.0, [line], earlier),
    )  # fmt: skip


def _bn_helps(line: str, other: str, margin: float) -> Measured:
    ends = partial(at, column="rho_bar", epoch=LAST)
    return part(
        f"batch norm raises ρ̄, {line}",
        "ρ̄ at the end with batch norm minus without, mean over layers",
        "above",
        margin,
        [line, other],
        partial(lead, line=line, other=other, statistic=ends),
    )


SENTENCE = "ρ̄ grows during training, most in the lowest layers; winners already rank well after the first epoch"
F8 = Claim(
    id="luck/F8",
    source="Figure 8, on the small fully connected teacher",
    sentence=f"{SENTENCE}.",
    parts=(*_grows("fc x10"), *_grows("fc, bn")),
    seeds=8,
)
F8_LARGE = Claim(
    id="luck/F8-large",
    source="Figure 8",
    sentence=f"{SENTENCE}; batch normalization helps.",
    parts=(*_grows("fc large"), *_grows("fc large, bn"), _bn_helps("fc large, bn", "fc large", 0.02)),
    seeds=5,
)
F8_CONV = Claim(
    id="luck/F8-conv",
    source="Figure 8",
    sentence=f"{SENTENCE}; batch normalization helps most for convolutions.",
    parts=(*_grows("conv"), *_grows("conv, bn"), _bn_helps("conv, bn", "conv", LEAST)),
    seeds=5,
)


def fc(factor: int) -> str:
    """The line of a degree of over-parameterization."""
    return f"fc x{factor}"


F12 = Claim(
    id="luck/F12",
    source="Figure 12",
    sentence="With more over-parameterization ρ̄ grows higher and more steadily; at the extreme it converges slower.",
    parts=(
        *(part(f"ρ̄ gains more at {factor} than at 1", "gain over epoch 0, mean over layers", "above", LEAST,
                [fc(factor), fc(1)], partial(lead, line=fc(factor), other=fc(1), statistic=gain))
          for factor in (5, 10)),
        *(part(f"ρ̄ is higher at {factor} than at 1", "ρ̄ at the end, mean over layers", "above", LEAST,
                [fc(factor), fc(1)], partial(lead, line=fc(factor), other=fc(1),
                                             statistic=partial(at, column="rho_bar", epoch=LAST)))
          for factor in (10, 20)),
        part("steadier", "distance of a seed's last ρ̄ from the seeds' median, at 1 minus at 10", "above", 0.0,
              [fc(1), fc(10)], partial(lead, line=fc(1), other=fc(10), statistic=partial(spread, column="rho_bar"))),
        *(part(f"slower at 50 than at {factor}", "epochs to half of the gain of ρ̄", "above", 0.0,
                [fc(50), fc(factor)], partial(lead, line=fc(50), other=fc(factor), statistic=half_time))
          for factor in (10,)),
    ),
    seeds=8,
)  # fmt: skip

RHO_BAR = partial(average, column="rho_bar")
F10A = Claim(
    id="luck/F10a",
    source="Figure 10a",
    sentence="For a small teacher ρ̄ grows faster without batch normalization, for a large one with it.",
    parts=(
        part("small: faster without", "mean ρ̄ over the epochs, without minus with", "above", 0.0,
              [fc(10), "fc, bn"], partial(lead, line=fc(10), other="fc, bn", statistic=RHO_BAR)),
        part("large: faster with", "mean ρ̄ over the epochs, with minus without", "above", 0.0,
              ["fc large, bn", "fc large"],
              partial(lead, line="fc large, bn", other="fc large", statistic=RHO_BAR)),
    ),
    seeds=5,
)  # fmt: skip


F10B = Claim(
    id="luck/F10b",
    source="Figure 10b",
    sentence="On a finite data set ρ̄ stalls, on an infinite one it keeps growing (convolutions).",
    parts=(
        part("infinite: grows", "gain of ρ̄ in the second half of the epochs", "above", 0.005, ["conv"],
              partial(second_half, line="conv")),
        part("finite: less", "the same, infinite minus finite", "above", 0.005, ["conv", "conv, finite"],
              partial(lead, line="conv", other="conv, finite", statistic=second_half)),
    ),
    seeds=5,
)  # fmt: skip


def beats_teacher(rows: pd.DataFrame) -> BySeed:
    """Error of the teacher minus that of the better student, at the end."""
    ends = [at(rows, line, "error", LAST) for line in ("fashion", "fashion, bn")]
    return at(rows, "fashion", "teacher_error", LAST) - pd.concat(ends, axis=1).min(axis=1, skipna=False)


F9 = Claim(
    id="luck/F9",
    source="Figure 9, with Fashion-MNIST in the place of CIFAR-10",
    sentence="With a trained teacher and finite data, batch normalization speeds up accuracy and improves r̄, not ρ̄; "
    "the student often beats its teacher.",
    parts=(
        part("accuracy rises faster with", "mean error over the epochs, without minus with", "above", 0.0,
              ["fashion", "fashion, bn"],
              partial(lead, line="fashion", other="fashion, bn", statistic=partial(average, column="error"))),
        part("winners rank better with", "r̄(1), without minus with", "above", 0.0, ["fashion", "fashion, bn"],
              partial(lead, line="fashion", other="fashion, bn",
                      statistic=partial(at, column="rank", epoch=FIRST))),
        part("ρ̄ does not grow faster with", "gain of ρ̄, with minus without", "below", LEAST,
              ["fashion", "fashion, bn"],
              partial(lead, line="fashion, bn", other="fashion", statistic=gain)),
        part("student beats teacher", "teacher's error minus the better student's", "above", 0.0,
              ["fashion", "fashion, bn"], beats_teacher),
    ),
    seeds=5,
)  # fmt: skip

F11 = Claim(
    id="luck/F11",
    source="Figure 11",
    sentence="H*, students in the order of the teacher's units by the best ρ, has an identity-like block.",
    parts=tuple(
        part(f"layer {layer}", "diagonal over mean absolute off-diagonal entry of H*, at the end", "above", 2.0,
              ["fc, H*"], partial(at, line="fc, H*", column="h_ratio", epoch=LAST, layers=[layer]))
        for layer in range(4)
    ),
    seeds=5,
)  # fmt: skip

CLAIMS: Mapping[str, Claim] = {
    "F7": F7, "F8": F8, "F12": F12, "F8-large": F8_LARGE, "F8-conv": F8_CONV, "F9": F9, "F10a": F10A, "F10b": F10B,
    "F11": F11,
}  # fmt: skip


def _populations(claim: str, *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    drawn = map(fc, FACTORS) if claim == "F12" else ()  # the picture has all sizes, the parts some
    names = tuple(dict.fromkeys([*drawn, *lines_of(CLAIMS[claim])]))
    return population_sweep("students", measure_students, names, preset=preset, seeds=seeds)


SWEEPS: Mapping[str, Callable[..., Sweep]] = {name: partial(_populations, name) for name in CLAIMS}
"""Claim -> its sweep, of a preset and seeds."""
