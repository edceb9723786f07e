"""What the units paper claims, as statistics with margins.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why. Areas,
compressibilities and accuracies are shares: 0.05 of them is the least that we call a difference, and what stays
within 0.05 we call flat; of similar units per unit it is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from netopsy.studies.claims import Claim, Direction, Measured
from netopsy.studies.units_statistics import (
    Quantity,
    agreement,
    depth_correlation,
    ends_over_middle,
    shift,
    trend,
    turn,
)
from netopsy.studies.units_sweeps import SIGMAS

LEAST: dict[Quantity, float] = {
    "robustness": 0.05,
    "compressibility": 0.05,
    "similar units": 1.0,
    "tail": 0.05,
    "accuracy": 0.05,
}
"""The least difference."""

REDUNDANCY: tuple[Quantity, ...] = ("compressibility", "similar units")
WIDEST = "the widest nets' {quantity}, minus the narrowest ones'"


def grows(line: str, quantity: Quantity, *, group: str = "") -> Measured:
    """A quantity's largest net is at least the least difference above the smallest one."""
    return Measured(
        name=f"{group}: {quantity}" if group else f"{quantity} grows, {line}",
        statistic=WIDEST.format(quantity=quantity),
        direction="above",
        margin=LEAST[quantity],
        group=group,
        lines=(line,),
        measure=partial(trend, line=line, quantity=quantity),
    )


def does_not_grow(line: str, quantity: Quantity) -> Measured:
    """It is not."""
    return Measured(
        name=f"{quantity} does not grow, {line}",
        statistic=WIDEST.format(quantity=quantity),
        direction="below",
        margin=LEAST[quantity],
        lines=(line,),
        measure=partial(trend, line=line, quantity=quantity),
    )


def does_not_fall(line: str, quantity: Quantity, *, margin: float | None = None) -> Measured:
    """It is not below it."""
    return Measured(
        name=f"{quantity} does not fall, {line}",
        statistic=WIDEST.format(quantity=quantity),
        direction="above",
        margin=-(LEAST[quantity] if margin is None else margin),
        lines=(line,),
        measure=partial(trend, line=line, quantity=quantity),
    )


def flat(line: str, quantity: Quantity) -> tuple[Measured, Measured]:
    """It neither grows nor falls by the least difference."""
    return does_not_grow(line, quantity), does_not_fall(line, quantity)


def within(margin: float, high: str, low: str) -> tuple[tuple[str, Direction, float], ...]:
    """Both sides of a band around zero, with a word for each."""
    return (high, "below", margin), (low, "above", -margin)


def any_grows(line: str, quantities: Sequence[Quantity]) -> tuple[Measured, ...]:
    """At least one of them grows."""
    return tuple(grows(line, quantity, group=f"{' or '.join(quantities)} grows, {line}") for quantity in quantities)


def more(line: str, other: str, quantity: Quantity, *, margin: float | None = None) -> Measured:
    """One line has more of a quantity than another, at the same widths."""
    return Measured(
        name=f"{quantity}, {line} above {other}",
        statistic=f"{quantity} of the one minus that of the other, mean over the widths",
        direction="above",
        margin=LEAST[quantity] if margin is None else margin,
        lines=(line, other),
        measure=partial(shift, line=line, other=other, quantity=quantity),
    )


def same_trend(line: str, other: str, quantity: Quantity) -> tuple[Measured, Measured]:
    """The two lines' trends differ by less than the least difference."""
    measure = partial(turn, line=line, other=other, quantity=quantity)
    statistic = f"trend of {quantity} (widest minus narrowest) of the one minus that of the other"
    lines, name = (line, other), f"trend of {quantity}, {line} against {other}"
    least = LEAST[quantity]
    return (
        Measured(name=f"{name}, not more", statistic=statistic, direction="below", margin=least, lines=lines,
                 measure=measure),
        Measured(name=f"{name}, not less", statistic=statistic, direction="above", margin=-least, lines=lines,
                 measure=measure),
    )  # fmt: skip


GLOROT, LECUN, HE = "alexnet", "alexnet, lecun-normal", "alexnet, he-normal"
LOW = tuple(f"mlp-10, sigma {sigma:g}" for sigma in SIGMAS)
HIGH = tuple(f"mlp-10000, sigma {sigma:g}" for sigma in SIGMAS)
REGULARIZED = tuple(f"alexnet, {name}" for name in ("augmentation", "dropout", "weight decay", "all three"))
ALL_THREE: tuple[Quantity, ...] = ("robustness", *REDUNDANCY)


def _claim(name: str, source: str, sentence: str, *parts: Measured | Sequence[Measured], seeds: int = 3) -> Claim:
    flat_parts = tuple(part for item in parts for part in ([item] if isinstance(item, Measured) else item))
    return Claim(id=f"units/{name}", source=source, sentence=sentence, parts=flat_parts, seeds=seeds)


F1 = _claim(
    "F1", "Fig. 1", "Test accuracy does not fall as width grows.",
    [does_not_fall(line, "accuracy", margin=0.02) for line in (GLOROT, LECUN, HE, "resnet56", *LOW)],
)  # fmt: skip

F2 = _claim(
    "F2", "Fig. 2", "Robustness grows with width for Glorot initialization, is flat for He initialization.",
    grows(GLOROT, "robustness"),
    flat(HE, "robustness"),
    Measured(
        name="Glorot's trend above He's",
        statistic="trend of robustness (widest minus narrowest), Glorot minus He",
        direction="above",
        margin=0.05,
        lines=(GLOROT, HE),
        measure=partial(turn, line=GLOROT, other=HE, quantity="robustness"),
    ),
)  # fmt: skip

B2 = _claim(
    "B2", "Fig. B2", "Similar units concentrate in the first convolution and the last dense layer; the tails of "
    "abs(r) rise with width except in regularized dense layers.",
    Measured(
        name="ends above the middle",
        statistic="share of similar units in the first and last layer minus that in the others, mean over the widths",
        direction="above",
        margin=0.05,
        lines=(GLOROT,),
        measure=partial(ends_over_middle, line=GLOROT, quantity="similar share"),
    ),
    grows(GLOROT, "tail"),
    Measured(
        name="tail does not grow in regularized dense layers",
        statistic="the 99 % quantile of abs(r) of the dense layers, widest minus narrowest",
        direction="below",
        margin=0.05,
        lines=("alexnet, all three",),
        measure=partial(trend, line="alexnet, all three", quantity="tail", sites=("relu3", "relu4")),
    ),
)  # fmt: skip

# "The two do not imply each other" has an example in every direction in S2, by construction. Of trained nets the
# paper shows both in ResNet-18 and robustness alone in Inception-v3 (ImageNet); here it is asked whether
# He-initialized AlexNets show redundancy alone, as Fig. 5 says.
F3 = _claim(
    "F3", "Fig. 3, §2", "As width grows at least one of robustness, compressibility and similarity grows; robustness "
    "and redundancy do not imply each other.",
    *(any_grows(line, ALL_THREE) for line in (GLOROT, HE, *LOW)),
    does_not_grow(HE, "robustness"),
    any_grows(HE, REDUNDANCY),
)  # fmt: skip

F4 = _claim(
    "F4", "Fig. 4", "It also holds for nets that fit random labels (ResNet-56: robustness flat, redundancy up).",
    any_grows("alexnet, random labels", ALL_THREE),
    any_grows("resnet56, random labels", REDUNDANCY),
    flat("resnet56, random labels", "robustness"),
)  # fmt: skip

F5 = _claim(
    "F5", "Figs. 5, C4", "It depends on the variance of the initialization, not on normal or uniform; high variance: "
    "redundancy without robustness.",
    grows(LECUN, "robustness"),
    flat(HE, "robustness"),
    any_grows(HE, REDUNDANCY),
    *(same_trend(f"alexnet, {name}-uniform", line, "robustness")
      for name, line in (("glorot", GLOROT), ("lecun", LECUN), ("he", HE))),
)  # fmt: skip

C3 = _claim(
    "C3", "Fig. C3", "Training on past convergence does not change it.",
    *(same_trend(f"{line}, twice as long", line, quantity)
      for line in (GLOROT, "resnet56") for quantity in ("robustness", "compressibility")),
)  # fmt: skip

C5 = _claim(
    "C5", "Fig. C5", "MLP on 10,000-d data: small-variance initialization develops redundancy with width, very high "
    "variance neither; accuracy and robustness flat for every sigma.",
    [grows(HIGH[0], quantity) for quantity in REDUNDANCY],
    [does_not_grow(HIGH[-1], quantity) for quantity in REDUNDANCY],
    *(flat(line, quantity) for line in HIGH for quantity in ("accuracy", "robustness")),
    seeds=5,
)  # fmt: skip

C6 = _claim(
    "C6", "Fig. C6", "MLP on 10-d data: redundancy grows for every variance; accuracy and robustness flat.",
    [grows(line, quantity) for line in LOW for quantity in REDUNDANCY],
    *(flat(line, quantity) for line in LOW for quantity in ("accuracy", "robustness")),
    seeds=5,
)  # fmt: skip

# Half of the layers agree with the network by chance. A mean correlation of ±0.8 over four layers is two neighbors
# exchanged in each net: less is no relation.
C7 = _claim(
    "C7", "Figs. C7-C10", "Per-layer trends follow the network's; widening one layer leaves the others as they were; "
    "no consistent relation to depth.",
    Measured(
        name="layers follow the network",
        statistic="share of the layers whose trend of robustness has the sign of the network's",
        direction="above",
        margin=0.75,
        lines=(GLOROT,),
        measure=partial(agreement, line=GLOROT, quantity="robustness"),
    ),
    *(
        Measured(
            name=f"only {layer}, the others' {quantity}, not {word}",
            statistic=f"the other layers' {quantity}, widest minus narrowest",
            direction=direction,
            margin=margin,
            lines=(f"alexnet, only {layer}",),
            measure=partial(trend, line=f"alexnet, only {layer}", quantity=quantity, sites=others),
        )
        for layer, others in (
            ("conv1", ("relu2", "relu3", "relu4")), ("conv2", ("relu1", "relu3", "relu4")),
            ("fc1", ("relu1", "relu2", "relu4")), ("fc2", ("relu1", "relu2", "relu3")),
        )
        for quantity in ("robustness", "compressibility")
        for word, direction, margin in within(0.05, "more", "less")
    ),
    *(
        Measured(
            name=f"{quantity} and depth, {word}",
            statistic=f"Spearman's correlation of a layer's place and its {quantity}, mean over the widths",
            direction=direction,
            margin=margin,
            lines=(GLOROT,),
            measure=partial(depth_correlation, line=GLOROT, quantity=quantity),
        )
        for quantity in ("robustness", "compressibility")
        for word, direction, margin in within(0.8, "not rising", "not falling")
    ),
)  # fmt: skip

C11 = _claim(
    "C11", "Fig. C11", "Regularizers shift the amounts, not the trends; dropout raises robustness and redundancy, "
    "weight decay slightly, augmentation lowers all three.",
    *(same_trend(line, GLOROT, "robustness") for line in REGULARIZED),
    [more("alexnet, dropout", GLOROT, quantity) for quantity in ("robustness", "compressibility")],
    [more("alexnet, weight decay", GLOROT, quantity, margin=0.0) for quantity in ("robustness", "compressibility")],
    [more(GLOROT, "alexnet, augmentation", quantity, margin=0.0) for quantity in ALL_THREE],
)  # fmt: skip

SGD, ADAM = "mlp-10000, plain SGD", "mlp-10000, Adam"
C12 = _claim(
    "C12", "Fig. C12", "Optimizers change the amounts, not the trends: momentum high compressibility and similarity, "
    "SGD low both, Adam low and high; accuracy and robustness flat.",
    [more(HIGH[0], SGD, quantity) for quantity in REDUNDANCY],
    more(HIGH[0], ADAM, "compressibility"),
    more(ADAM, SGD, "similar units"),
    *(flat(line, quantity) for line in (HIGH[0], SGD, ADAM) for quantity in ("accuracy", "robustness")),
    seeds=5,
)  # fmt: skip

C13 = _claim(
    "C13", "Figs. C13, C14", "Scaling learning rate and batch size together changes little (compressibility slightly "
    "up with the factor).",
    *(same_trend(f"{line}, lr and batch x{factor}", line, quantity)
      for line in (GLOROT, "resnet56") for factor in ("0.25", "4") for quantity in ("robustness", "compressibility")),
    more("alexnet, lr and batch x4", "alexnet, lr and batch x0.25", "compressibility", margin=0.0),
)  # fmt: skip

CLAIMS = {claim.id.removeprefix("units/"): claim for claim in (F1, F2, B2, F3, F4, F5, C3, C5, C6, C7, C11, C12, C13)}
"""Of trained nets; the constructions' own is in `units_constructions`."""
