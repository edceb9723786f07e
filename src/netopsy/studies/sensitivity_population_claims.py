"""What the sensitivity paper claims of populations: Figures 1, 4, 5, App.8, and §3's footnote on logits.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why. Each
seed draws networks of its own, so that an interval over seeds is one over architectures too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from netopsy.store.sweep import Sweep
from netopsy.studies.claims import BySeed, Claim, Measured
from netopsy.studies.sensitivity_claims import LEAST, part
from netopsy.studies.sensitivity_population import (
    AUGMENTED,
    FULL_BATCH,
    HARD_SIGMOID,
    RANDOM_LABELS,
    paired_sweep,
    random_sweep,
)
from netopsy.studies.sensitivity_statistics import better, correlation, coupled, rise

PREDICTS = 0.5
"""A rank correlation that is said to predict."""

RHO = "Spearman's correlation of the gap with {}"


def _ahead(rows: pd.DataFrame, other: str) -> BySeed:
    """How much better the Jacobian norm tells the gap than another column does, whichever its sign."""
    return correlation(rows, "jacobian", "gap") - correlation(rows, other, "gap").abs()


def _strength(rows: pd.DataFrame, column: str) -> BySeed:
    return correlation(rows, column, "gap").abs()


F1 = Claim(
    id="sensitivity/F1",
    source="Figure 1",
    sentence="Among networks with the whole train split right the widest generalize best; train loss does not tell.",
    parts=(
        part("the widest generalize best", RHO.format("width"), "below", -LEAST,
             partial(correlation, one="net.width", other="gap")),
        part("train loss does not tell", f"|{RHO.format('train loss')}|", "below", PREDICTS,
             partial(_strength, column="train_loss")),
    ),
    seeds=8,
)  # fmt: skip

F5 = Claim(
    id="sensitivity/F5",
    source="Figure 5, §4.3",
    sentence="The Jacobian norm correlates with the generalization gap.",
    parts=(
        part("Jacobian norm", RHO.format("the Jacobian norm"), "above", PREDICTS,
             partial(correlation, one="jacobian", other="gap")),
    ),
    seeds=8,
)  # fmt: skip

A8 = Claim(
    id="sensitivity/A8",
    source="Figure App.8, §4.3",
    sentence="The number of transitions does not correlate with the gap; the number of neurons drives it.",
    parts=(
        part("tells less than the Jacobian norm", f"{RHO.format('the Jacobian norm')}, minus |that with transitions|",
             "above", 2 * LEAST, partial(_ahead, other="transitions")),
        part("neurons drive it", "Spearman's correlation of transitions and neurons", "above", PREDICTS,
             partial(correlation, one="neurons", other="transitions")),
    ),
    seeds=8,
)  # fmt: skip


def _ahead_of_logits(rows: pd.DataFrame) -> BySeed:
    return correlation(rows, "jacobian", "gap") - correlation(rows, "logit_jacobian", "gap")


LOGIT = Claim(
    id="sensitivity/logit",
    source="§3, footnote 1",
    sentence="The Jacobian of the logits tells the gap less well than that of the probabilities.",
    parts=(
        part("probabilities ahead", f"{RHO.format('the Jacobian norm')}, of probabilities minus of logits", "above",
             LEAST / 2, _ahead_of_logits),
    ),
    seeds=8,
)  # fmt: skip

COUPLED = 0.6
"""Share of pairs; 0.5 by chance."""


def _pair(line: str, *, transitions: bool = True) -> tuple[Measured, ...]:
    """What Figure 4 says of a setting that makes the gap larger (augmentation: smaller)."""
    smaller = line == AUGMENTED

    def more(name: str, column: str, log: bool) -> Measured:
        words = f"{'log ' if log else ''}{name}, {line} minus as usual, mean over sizes"
        return part(f"{'smaller' if smaller else 'larger'} {name}", words, "below" if smaller else "above", 0.0,
                    partial(rise, line=line, column=column, log=log), [line])  # fmt: skip

    names = {"jacobian": "Jacobian norm", **({"transitions": "transitions"} if transitions else {})}
    share = "share of pairs in which the network with the larger gap has more of it"
    return (
        more("gap", "gap", log=False),
        *(more(name, column, log=True) for column, name in names.items()),
        *(part(f"gap and {name} go together", share, "above", COUPLED, partial(coupled, line=line, column=column),
               [line]) for column, name in names.items()),
    )  # fmt: skip


F4A = Claim(
    id="sensitivity/F4a",
    source="Figure 4, first row",
    sentence="Random labels go with a larger gap, a larger Jacobian norm and more transitions.",
    parts=_pair(RANDOM_LABELS),
    seeds=5,
)
F4B = Claim(
    id="sensitivity/F4b",
    source="Figure 4, second row",
    sentence="Augmentation goes with a smaller gap, a smaller Jacobian norm and fewer transitions.",
    parts=(
        *_pair(AUGMENTED),
        part("augmented ones generalize better", "share of pairs in which their test accuracy is higher", "above",
             0.9, partial(better, line=AUGMENTED), [AUGMENTED]),
    ),
    seeds=5,
)  # fmt: skip
F4C = Claim(
    id="sensitivity/F4c",
    source="Figure 4, third row",
    sentence="HardSigmoid in place of ReLU goes with a larger gap, a larger Jacobian norm and more transitions.",
    parts=_pair(HARD_SIGMOID),
    seeds=5,
)
F4D = Claim(
    id="sensitivity/F4d",
    source="Figure 4, last row",
    sentence="Full-batch L-BFGS in place of SGD goes with a larger gap and a larger Jacobian norm.",
    parts=_pair(FULL_BATCH, transitions=False),
    seeds=5,
)

PAIRS: Mapping[str, str] = {"F4a": RANDOM_LABELS, "F4b": AUGMENTED, "F4c": HARD_SIGMOID, "F4d": FULL_BATCH}
"""Claim -> the networks that it is about."""

TOLD_BY: Mapping[str, Sequence[str]] = {
    "F1": ("net.width", "train_loss"),
    "F5": ("jacobian",),
    "A8": ("transitions", "jacobian"),
    "logit": ("logit_jacobian", "jacobian"),
}
"""Claim -> columns that its random networks are ranked by."""

CLAIMS: Mapping[str, Claim] = {
    "F1": F1, "F4a": F4A, "F4b": F4B, "F4c": F4C, "F4d": F4D, "F5": F5, "A8": A8, "logit": LOGIT,
}  # fmt: skip

SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    **dict.fromkeys(TOLD_BY, random_sweep),
    **{name: partial(paired_sweep, line) for name, line in PAIRS.items()},
}
"""Claim -> its sweep, of a preset and seeds."""
