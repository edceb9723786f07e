"""Statistics of the sensitivity study: one value a seed, of the rows that its sweeps leave.

Networks that do not have the whole train split right are left out, as in the paper; a seed of which nothing is left
has NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from netopsy.probes.manifold_profile import EllipseProfile
from netopsy.store.results import OK
from netopsy.studies.claims import CONFIDENCE, BySeed
from netopsy.studies.sensitivity_population import EXEMPT, TRUE

FEWEST = 8
"""Networks of a seed, for a correlation."""

TOP = 0.01
"""Share of the points that have the largest norms."""

BINS = 20
"""Of the points by their loss, as many in each."""

RESAMPLES = 2000


def fitted(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of networks that have the whole train split right."""
    return rows[(rows.status == OK) & rows.fitted.astype("boolean").fillna(False)]


def seeds_of(rows: pd.DataFrame) -> list[int]:
    """All seeds that were asked for."""
    return sorted(int(seed) for seed in rows.seed.dropna().unique())


def each_seed(rows: pd.DataFrame, of: Callable[[pd.DataFrame], float], seeds: Sequence[int]) -> BySeed:
    """A number of each seed's rows; NaN where there are none."""
    parts = {seed: rows[rows.seed == seed] for seed in seeds}
    return pd.Series({seed: of(part) if len(part) else math.nan for seed, part in parts.items()}, dtype="float64")


def anchor_ratio(rows: pd.DataFrame, quantity: str, kind: str) -> BySeed:
    """Mean near the three anchors of the ellipses over that near the points between (`EllipseProfile.ratios`)."""
    mine = rows[(rows.quantity == quantity) & (rows.kind == kind)]
    table = EllipseProfile(mine.rename(columns={"seed": "net"}).assign(value=mine.value.astype("float64")), {})
    return table.ratios().set_index("net").ratio.astype("float64").sort_index()


def log_level(rows: pd.DataFrame, quantity: str, kind: str) -> BySeed:
    """Log of the mean along the ellipses of a kind."""
    mine = rows[(rows.quantity == quantity) & (rows.kind == kind)]
    means = mine.value.astype("float64").groupby(mine.seed).mean()
    return pd.Series(np.log(means), dtype="float64").sort_index()


def correlation(rows: pd.DataFrame, one: str, other: str) -> BySeed:
    """Spearman's rank correlation of two columns over a seed's networks; NaN with fewer than `FEWEST`."""
    return each_seed(fitted(rows), lambda part: spearman(part, one, other), seeds_of(rows))


def spearman(rows: pd.DataFrame, one: str, other: str, fewest: int = FEWEST) -> float:
    """Spearman's rank correlation of two columns; NaN with too few networks, or where all are equal."""
    return _spearman(rows[[one, other]].to_numpy("float64", na_value=math.nan), fewest)


def _spearman(pairs: Float[np.ndarray, "n 2"], fewest: int = FEWEST) -> float:
    pairs = pairs[~np.isnan(pairs).any(1)]
    if len(pairs) < fewest or (pairs == pairs[:1]).all(0).any():
        return math.nan
    ranks = stats.rankdata(pairs, axis=0)
    return float(np.corrcoef(ranks, rowvar=False)[0, 1])


def pooled(rows: pd.DataFrame, one: str, other: str, *, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """The rank correlation over the networks of all seeds, and a percentile bootstrap's interval.

    Populations are drawn anew: members of one have their architecture in common.
    """
    kept = fitted(rows)
    groups = [
        part[[one, other]].to_numpy("float64", na_value=math.nan) for _, part in kept.groupby("key", sort=False)
    ]
    source = np.random.default_rng(0)
    found = []
    for _ in range(resamples if groups else 0):
        drawn = source.integers(len(groups), size=len(groups))
        found.append(_spearman(np.concatenate([groups[place] for place in drawn])))
    known = [value for value in found if not math.isnan(value)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if known else (math.nan, math.nan)
    return spearman(kept, one, other), float(low), float(high)


def paired(rows: pd.DataFrame, line: str) -> pd.DataFrame:
    """Pairs of networks: `seed, depth, width`, and of each measured column one of the line and one of `TRUE`.

    Both have the train split right; an exempt line's need not.
    """
    columns = ["gap", "jacobian", "transitions", "test_error"]
    keys = {"seed": "seed", "net.depth": "depth", "net.width": "width"}
    parts = []
    for name in (line, TRUE):
        mine = rows[rows.line == name]
        mine = mine[mine.status == OK] if name in EXEMPT else fitted(mine)
        mine = mine.rename(columns=keys)[[*keys.values(), *columns]].dropna(subset=["gap", "jacobian"])
        parts.append(mine.astype(dict.fromkeys(columns, "float64")))
    return parts[0].merge(parts[1], on=list(keys.values()), suffixes=("", "_true"))


def rise(rows: pd.DataFrame, line: str, column: str, *, log: bool = False) -> BySeed:
    """What a setting adds to a column (to its log), mean over a seed's pairs."""

    def mean(pairs: pd.DataFrame) -> float:
        own, true = (np.log(pairs[c]) if log else pairs[c] for c in (column, f"{column}_true"))
        return float((own - true).mean())

    return each_seed(paired(rows, line), mean, seeds_of(rows))


def coupled(rows: pd.DataFrame, line: str, column: str) -> BySeed:
    """Share of a seed's pairs in which the network with the larger gap is also the larger one by a column."""

    def share(pairs: pd.DataFrame) -> float:
        gap, other = pairs.gap - pairs.gap_true, pairs[column] - pairs[f"{column}_true"]
        return float((np.sign(gap) == np.sign(other)).mean())

    return each_seed(paired(rows, line), share, seeds_of(rows))


def better(rows: pd.DataFrame, line: str) -> BySeed:
    """Share of a seed's pairs in which the line's network has the higher test accuracy."""
    return each_seed(
        paired(rows, line), lambda pairs: float((pairs.test_error < pairs.test_error_true).mean()), seeds_of(rows)
    )


def top_errors(points: pd.DataFrame) -> float:
    """Error rate among the `TOP` share of points with the largest norms."""
    most = points.nlargest(max(1, round(TOP * len(points))), "norm")
    return float((~most.correct.astype("bool")).mean())


def tiniest(points: pd.DataFrame) -> float:
    """Powers of ten between the median norm of right points and the least of wrong ones."""
    right = points.correct.astype("bool")
    norms = points.norm.astype("float64")
    if right.all() or not right.any():
        return math.nan
    least = max(float(norms[~right].min()), np.finfo(np.float64).tiny)
    return math.log10(float(norms[right].median()) / least)


def explained(points: pd.DataFrame) -> float:
    """Share of the variance of log norm that lies between `BINS` equal parts of the points by their loss."""
    known = points[points.norm > 0]
    values = np.log(known.norm.astype("float64").to_numpy())
    ranks = known.point_loss.astype("float64").rank(method="first").to_numpy()
    bins = pd.Series(np.ceil(ranks / len(ranks) * BINS))
    within = pd.Series(values) - pd.Series(values).groupby(bins).transform("mean")
    return float(1 - within.var(ddof=0) / values.var())


def counted(rows: pd.DataFrame) -> str:
    """How many networks there were, and how many were left out."""
    must = rows[~rows.line.isin(EXEMPT)]
    kept = len(fitted(must))
    return f"{kept} of {len(must)} networks have the whole train split right; the others are left out."
