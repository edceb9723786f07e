"""What the criticality paper claims of single networks, as statistics with margins: Figs. 2, 4, 5a and Theorem 3.2.

Every statistic and margin stands here before it is run; a changed margin is a commit of its own that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

from netopsy.store.sweep import Sweep
from netopsy.studies.claims import Claim, Measured, lines_of
from netopsy.studies.criticality_statistics import (
    CRITICAL,
    ROBUST,
    Which,
    ahead,
    covered,
    critical_count,
    fall,
    largest_bound,
    least_shrinking,
    log_ratio,
    robust_share,
    same_pattern,
)
from netopsy.studies.criticality_sweeps import (
    EPSILONS,
    measure_bounds,
    measure_criticality,
    measure_paths,
    measure_rewinding,
    network_sweep,
)

NETWORKS = ("fcn", "resnet18")
PARTS = ("bounded", "bounded, 1/2 of the data", "bounded, 1/4 of the data")

# F2. "Most" is more than half; "few are critical" is at least one, and those left of the robust half. The pattern's
# margins: two errors that say the same lie on a line (0.9 leaves a fifth of the variance); a loss, without a
# scale, must put the modules in much the same order, in which robust ones differ by noise alone.
F2 = Claim(
    id="criticality/F2",
    source="Figs. 2, 6",
    sentence="Re-initializing single modules: most have no effect, few are critical; train loss, train error and "
    "test error show the same pattern.",
    parts=tuple(
        part
        for line in NETWORKS
        for part in (
            Measured(
                name=f"most are robust, {line}",
                statistic=f"share of the modules that raise the test error by at most {ROBUST}",
                direction="above",
                margin=0.5,
                lines=(line,),
                measure=partial(robust_share, line=line),
            ),
            Measured(
                name=f"some are critical, {line}",
                statistic=f"modules that raise the test error by at least {CRITICAL}",
                direction="above",
                margin=0.5,
                lines=(line,),
                measure=partial(critical_count, line=line),
            ),
            Measured(
                name=f"train and test error, {line}",
                statistic="Pearson's correlation of their increases over the modules",
                direction="above",
                margin=0.9,
                lines=(line,),
                measure=partial(same_pattern, line=line, column="delta_error"),
            ),
            Measured(
                name=f"train loss and test error, {line}",
                statistic="Spearman's correlation of their increases over the modules",
                direction="above",
                margin=0.7,
                lines=(line,),
                measure=partial(same_pattern, line=line, column="delta_loss"),
            ),
        )
    ),
    seeds=5,
)

ORDER: tuple[tuple[Which, Which], ...] = (("full network", "critical"), ("critical", "spare"))
QUANTITIES = (("train", "error"), ("test", "error"), ("test", "loss"))

# F4. A rise that is broken by less than two points of error, or a twentieth of the loss' range, is monotone to the
# eye of who reads the figure. The order is that of the curves' means: the paper's own cross at single points.
F4 = Claim(
    id="criticality/F4",
    source="Fig. 4",
    sentence="From the trained weights to the initial ones train error, test error and loss rise monotonically; the "
    "full network's most, then a critical module's, then a non-critical one's.",
    parts=tuple(
        part
        for line in NETWORKS
        for split, quantity in QUANTITIES
        for part in (
            *(
                Measured(
                    name=f"{split} {quantity} rises, {which}, {line}",
                    statistic="its deepest fall on the way" + (", over its range" if quantity == "loss" else ""),
                    direction="below",
                    margin=0.05 if quantity == "loss" else 0.02,
                    lines=(line,),
                    measure=partial(fall, line=line, which=which, split=split, quantity=quantity),
                )
                for which in get_args(Which)
            ),
            *(
                Measured(
                    name=f"{split} {quantity}, {more} above {less}, {line}",
                    statistic="the one minus the other, mean over alpha < 1",
                    direction="above",
                    margin=0.0,
                    lines=(line,),
                    measure=partial(ahead, line=line, more=more, less=less, split=split, quantity=quantity),
                )
                for more, less in ORDER
            ),
        )
    ),
    seeds=5,
)

# F5a says no more than "smaller": the margin is 0 in the logarithm.
F5A = Claim(
    id="criticality/F5a",
    source="Fig. 5a",
    sentence="Network criticality of a network trained on true labels is smaller than on 20 % corrupted labels, for "
    "every epsilon from 0.025 to 0.15, both trained to the same cross-entropy.",
    parts=tuple(
        Measured(
            name=f"epsilon {epsilon:g}, {line}",
            statistic="log of criticality with corrupted labels over that with true ones",
            direction="above",
            margin=0.0,
            lines=(line, f"{line}, corrupted labels"),
            measure=partial(log_ratio, line=f"{line}, corrupted labels", other=line, epsilon=epsilon),
        )
        for line in NETWORKS
        for epsilon in EPSILONS
    ),
)

# T32. With delta = 0.05 and delta' = 0.01 at least 94 % of bounds must hold. A bound of 1 or more would say nothing,
# so it must lie below. It must fall each time the examples double.
T32 = Claim(
    id="criticality/T32",
    source="Theorem 3.2",
    sentence="The PAC-Bayes bound holds on held-out data in every run, says something (is below 1), and shrinks as "
    "the examples grow at fixed alpha and sigma.",
    parts=tuple(
        part
        for line in PARTS
        for part in (
            Measured(
                name=f"holds, {line}",
                statistic="share of the bounds not exceeded by the error on held-out data under the same noise",
                direction="above",
                margin=0.94,
                lines=(line,),
                measure=partial(covered, line=line),
            ),
            Measured(
                name=f"below 1, {line}",
                statistic="the bound at all examples",
                direction="below",
                margin=1.0,
                lines=(line,),
                measure=partial(largest_bound, line=line),
            ),
            Measured(
                name=f"shrinks, {line}",
                statistic="by how much it falls when the examples double, the least of two steps",
                direction="above",
                margin=0.0,
                lines=(line,),
                measure=partial(least_shrinking, line=line),
            ),
        )
    ),
    seeds=5,
)

CLAIMS: Mapping[str, Claim] = {claim.id.removeprefix("criticality/"): claim for claim in (F2, F4, F5A, T32)}

SWEEPS: Mapping[str, Callable[..., Sweep]] = {
    "F2": partial(network_sweep, "rewinding", measure_rewinding, lines_of(F2)),
    "F4": partial(network_sweep, "paths", measure_paths, lines_of(F4)),
    "F5a": partial(network_sweep, "criticality", measure_criticality, lines_of(F5A)),
    "T32": partial(network_sweep, "bounds", measure_bounds, lines_of(T32)),
}
"""Claim -> its networks, when called with `preset` and `seeds`."""
