"""What the luck paper's theorems and arguments claim, beside its figures; margins stand here before any run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies.claims import BySeed, Claim, Direction
from netopsy.studies.luck_claims import LEAST, fc, part
from netopsy.studies.luck_settings import Preset, near_line
from netopsy.studies.luck_sweeps import (
    check_sweep,
    measure_conservation,
    measure_flat,
    measure_rule,
    measure_tickets,
    population_sweep,
)

SLOPES: tuple[tuple[Direction, float], ...] = (("above", 0.7), ("below", 1.3))
"""Of a drift that is proportional to the step."""

T1 = Claim(
    id="luck/T1",
    source="Theorem 1",
    sentence="The recursive rule gives the gradient of random nets of any depth and widths (here 100 a seed).",
    parts=(
        part("digits", "-log10 of the largest difference to autograd's, relative to a layer's largest", "above", 10,
              ["T1"], lambda rows: rows.set_index("seed").digits.astype("float64")),
    ),
    seeds=3,
)  # fmt: skip


def _conserved(norm: str, column: str) -> Callable[[pd.DataFrame], BySeed]:
    def measure(rows: pd.DataFrame) -> BySeed:
        return rows[rows.norm == norm].set_index("seed")[column].astype("float64")

    return measure


T3 = Claim(
    id="luck/T3",
    source="Theorem 3, Figure 15",
    sentence="Norms of filters before batch normalization are conserved, up to the step size; not without it.",
    parts=(
        *(part(f"{norm} ReLU: drift falls with the step, {side} {margin:g}",
               "slope of log drift over log step size; 1 if proportional", side, margin,
               ["T3"], _conserved(norm, "slope"))
          for norm in ("before", "after") for side, margin in SLOPES),
        part("before ReLU: conserved", "largest relative drift of a filter's ||w||² at the smallest step", "below",
              LEAST, ["T3"], _conserved("before", "drift")),
        part("after ReLU: conserved", "the same of ||w||² + b²", "below", LEAST, ["T3"],
              _conserved("after", "drift")),
        part("none: not conserved", "the same of ||w||² without batch normalization", "above", LEAST, ["T3"],
              _conserved("none", "drift")),
    ),
    seeds=3,
)  # fmt: skip

FLAT_LINE, TICKET_LINE = near_line(10, 1.0, 0.0), fc(10)


def _flatness(column: str) -> Callable[[pd.DataFrame], BySeed]:
    """A loss after re-drawing, above the trained one, as a share of what training took off."""

    def measure(rows: pd.DataFrame) -> BySeed:
        of = rows.set_index("seed")[["start", "end", column]].astype("float64")
        return (of[column] - of.end) / (of.start - of.end)

    return measure


S33 = Claim(
    id="luck/S33",
    source="§3.3",
    sentence="After a run of Theorem 5, incoming weights of the other units can be drawn anew: minima are flat.",
    parts=(
        part("W_r anew", "rise of the loss, over what training took off it", "below", 0.1, [FLAT_LINE],
              _flatness("redrawn")),
        part("W_u anew", "the same of the first units", "above", 0.5, [FLAT_LINE], _flatness("redrawn_u")),
    ),
    seeds=8,
)  # fmt: skip


def ticket_loss(rows: pd.DataFrame, ticket: str) -> BySeed:
    """log10 of a run's last loss over that of all units."""
    ends = {}
    for name in (ticket, "all"):
        of = rows[(rows.ticket == name) & (rows.layer == 0)]
        last = of[of.epoch == of.epoch.max()].set_index("seed").loss.astype("float64")
        ends[name] = last.map(math.log10)
    found: BySeed = ends[ticket] - ends["all"]
    return found


def worse_than_winners(rows: pd.DataFrame, ticket: str) -> BySeed:
    """log10 of a run's last loss over that of the winners from their initial values."""
    return ticket_loss(rows, ticket) - ticket_loss(rows, "winners")


LT = Claim(
    id="luck/LT",
    source="§1 (argued there, not run)",
    sentence="Winners that are reset to their initial values recover without the others; drawn anew they do not.",
    parts=(
        part("winners recover", "log10 of their last loss over that of all units", "below", math.log10(2),
              [TICKET_LINE], partial(ticket_loss, ticket="winners")),
        part("redrawn do not", "log10 of the last loss, redrawn over winners", "above", math.log10(1.25),
              [TICKET_LINE], partial(worse_than_winners, ticket="winners redrawn")),
        part("others do not", "log10 of the last loss, other units over winners", "above", math.log10(1.25),
              [TICKET_LINE], partial(worse_than_winners, ticket="others")),
    ),
    seeds=8,
)  # fmt: skip

CLAIMS: Mapping[str, Claim] = {"T1": T1, "T3": T3, "S33": S33, "LT": LT}


def _rule(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return check_sweep("rule", measure_rule, seeds=seeds)


def _conservation(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return check_sweep("conservation", measure_conservation, seeds=seeds)


def _flat(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return population_sweep("flat", measure_flat, [FLAT_LINE], preset=preset, seeds=seeds)


def _tickets(*, preset: Preset, seeds: Sequence[int]) -> Sweep:
    return population_sweep("tickets", measure_tickets, [TICKET_LINE], preset=preset, seeds=seeds)


SWEEPS: Mapping[str, Callable[..., Sweep]] = {"T1": _rule, "T3": _conservation, "S33": _flat, "LT": _tickets}
"""Claim -> its sweep, of a preset and seeds."""
