"""The report's section on how much the outputs change with the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from netopsy._typing import FloatArray
from netopsy.probes.jacobian_norm_result import JacobianNorms
from netopsy.report.blocks import Block, Column, Entry, Facts, Fold, Picture, Section, Table, Text
from netopsy.report.origins import origins
from netopsy.report.vector import drawn
from netopsy.report.words import count, percent

CONFIDENCE = 0.95
"""With which two intervals of shares hold together."""

TOP, MANY = (0.1, 0.01), 1_000
"""Share of the points that have the largest norms: of fewer points, and of so many."""

OPTIONS = ("output", "norm", "projections", "seed", "embedding")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Misclassified points among some.

    Attributes:
        points, wrong: how many.
        low, high: of the share among further points of this kind (Clopper and Pearson 1934). Given their norms the
            points are independent, each wrong with a probability of its own: sums of such have lighter tails than a
            binomial (Hoeffding 1956, Theorem 4), of which these limits are.
    """

    points: int
    wrong: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """Of these points."""
        return self.wrong / self.points


def share(wrong: FloatArray, confidence: float) -> Share:
    """Of zeros and ones.

    >>> found = share(np.array([1.0, 1.0, 0.0]), 0.95)
    >>> found.wrong, round(found.low, 3), round(found.high, 3)
    (2, 0.094, 0.992)
    """
    number = round(wrong.sum())
    interval = stats.binomtest(number, len(wrong)).proportion_ci(confidence, "exact")
    return Share(points=len(wrong), wrong=number, low=float(interval.low), high=float(interval.high))


def groups(result: JacobianNorms) -> dict[str, pd.DataFrame]:
    """Points with a finite norm: all, and where there are labels correct and wrong ones, the largest, the others.

    The largest are 1 % of the points that have a label, or 10 % of fewer than 1,000; ties are with them.
    """
    finite = result.frame[np.isfinite(result.norms)]
    found = {"all points": finite}
    judged = finite[finite.correct.notna()] if "correct" in finite else finite[:0]
    if len(judged):
        right = judged.correct.astype(bool)
        found |= {"correct": judged[right], "wrong": judged[~right]}
        most = max(1, round(TOP[len(judged) >= MANY] * len(judged)))
        largest = judged.norm >= judged.norm.nlargest(most).iloc[-1]
        if not largest.all():  # else all are alike
            found |= {"largest": judged[largest], "others": judged[~largest]}
    return {name: part for name, part in found.items() if len(part)}


def shares(result: JacobianNorms) -> Mapping[str, Share]:
    """Of all points with a label, the largest and the others; the intervals of any two hold with 95 % together."""
    if "correct" not in result.frame:
        return {}
    known = {name: part.correct.dropna() for name, part in groups(result).items() if name not in ("correct", "wrong")}
    each = 1 - (1 - CONFIDENCE) / 2
    return {name: share(1.0 - right.to_numpy(np.float64), each) for name, right in known.items() if len(right)}


def jacobian_section(result: JacobianNorms) -> Section:
    """Norms at the points, from the verdict to how to repeat it."""
    p, norms = result.provenance, result.norms
    blocks: list[Block] = [norm_table(result)]
    if (np.isfinite(norms) & (norms > 0)).any():
        picture = Picture(
            svg=drawn(result.plot()),
            description="How many points have which Jacobian norm, on a logarithmic axis",
            caption=(
                f"How many points have which norm {result.quantity}."
                + (" Correct and wrong points are counted apart." if "correct" in result.frame else "")
                + (" Points with a norm of 0 are not drawn." if (norms == 0).any() else "")
            ),
        )
        blocks.append(picture)
    what = {"probabilities": "class probabilities", "logits": "logits"}[p["output"]]
    known = {**p, "examples": len(result.frame)}
    return Section(
        title="Sensitivity to the input",
        question=f"How much do the {what} change with a small change of the input, and more so where they are wrong?",
        verdict=jacobian_sentences(result),
        blocks=(*blocks, *_sampled(result), _how_to_read(result), origins(known, "jacobian_norm", OPTIONS)),
    )


def jacobian_sentences(result: JacobianNorms) -> tuple[str, ...]:
    """The mean, and whether the largest norms are where the network is wrong, if an interval says so."""
    p, total = result.provenance, len(result.frame)
    of = f"{p['split']} point" if "split" in p else "point"
    bad = int((~np.isfinite(result.norms)).sum())
    if bad:
        return (f"The Jacobian norm is not finite at {bad:,} of {count(total, of)}, so there is no mean.",)
    error = "" if np.isnan(result.sem) else f" ± {result.sem:.2g} (standard error)"
    said = [f"Mean Jacobian norm {result.quantity} over {count(total, of)}: {result.mean:.3g}{error}."]
    found = shares(result)
    if "largest" in found:
        said.append(_compared(found["largest"], found["others"]))
    return tuple(said)


def _compared(largest: Share, others: Share) -> str:
    part = percent(largest.points / (largest.points + others.points))
    text = (
        f"Of the {count(largest.points, 'point')} ({part}) with the largest norm {percent(largest.value)} "
        f"{'is' if largest.wrong == 1 else 'are'} wrong ({_ends(largest)}), of the others {percent(others.value)} "
        f"({_ends(others)}): "
    )
    if largest.low > others.high:
        most = ", and most of these points are wrong" if largest.low > 0.5 else ""
        return f"{text}where the norm is largest, errors are more frequent{most}."
    if largest.high < others.low:
        return f"{text}where the norm is largest, errors are less frequent."
    return f"{text}whether errors are more frequent where the norm is largest, so few points do not tell."


def _ends(found: Share) -> str:
    return f"{percent(found.low)} to {percent(found.high)}"


def norm_table(result: JacobianNorms) -> Table:
    """A row a group of points."""
    found, ends = groups(result), shares(result)
    judged = "correct" in result.frame
    top = max((one.high for one in ends.values()), default=1.0)
    columns = [
        Column(name="points", help="with a finite norm"),
        Column(name="number", numeric=True),
        Column(name="mean norm", help="± its standard error over the points", numeric=True),
        Column(name="median", numeric=True),
        Column(name="largest", numeric=True),
    ]
    if judged:
        columns.append(
            Column(
                name="wrong",
                help=f"share of misclassified points; bars: any two of the intervals hold with {percent(CONFIDENCE)}",
                numeric=True,
                span=(0.0, top),
            )
        )
    rows = []
    for place, (name, part) in enumerate(found.items()):
        norm = part.norm.to_numpy(np.float64)
        row = [
            Entry(text=_named(name, found), sort=place),
            Entry(text=f"{len(part):,}", sort=len(part)),
            _mean(norm),
            *(Entry(text=f"{value:.3g}", sort=float(value)) for value in (np.median(norm), norm.max())),
        ]
        rows.append((*row, _wrong(ends.get(name))) if judged else tuple(row))
    return Table(columns=tuple(columns), rows=tuple(rows), caption=f"{result.quantity} by groups of points.")


def _named(name: str, found: Mapping[str, pd.DataFrame]) -> str:
    if name != "largest":
        return name
    number = len(found["largest"])
    return f"largest norms ({percent(number / (number + len(found['others'])))})"


def _mean(norm: FloatArray) -> Entry:
    mean = float(norm.mean())
    if len(norm) == 1:
        return Entry(text=f"{mean:.3g}", sort=mean)
    return Entry(text=f"{mean:.3g} ± {norm.std(ddof=1) / len(norm) ** 0.5:.2g}", sort=mean)


def _wrong(found: Share | None) -> Entry:
    if found is None:
        return Entry(text="")
    bar = (found.low, found.value, found.high)
    return Entry(text=percent(found.value), sort=found.value, bar=bar, note=(_ends(found),))


def _sampled(result: JacobianNorms) -> list[Block]:
    """Which of the examples these are, and what was estimated."""
    p, said = result.provenance, []
    if "of" in p and p["of"] != p["examples"]:
        which = f"{p['examples']:,} of {p['of']:,}" if p["of"] else f"The first {p['examples']:,}"
        drawn_by = f", drawn at random with seed {p['seed']}" if p["drawn"] else ""
        said.append(f"{which} {p['split']} examples{drawn_by}; `index` in the result's to_frame() says which.")
    if p["projections"] is not None:
        said.append(f"Norms are estimated from {p['projections']} random directions a point.")
    return [Text(paragraphs=tuple(said))] if said else []


def _how_to_read(result: JacobianNorms) -> Block:
    p = result.provenance
    f = {"probabilities": "f_σ, the class probabilities", "logits": "f, the logits"}[p["output"]]
    norm = {
        "frobenius": "the root of the sum of squares of all derivatives: noise of variance ε in every input value "
        "changes the outputs by ε‖J‖² in mean square",
        "spectral": "the largest change of the outputs by a unit step of the input, to first order",
    }[p["norm"]]
    rows = (
        ("J", f"the derivatives ∂/∂x of {f}, by the input x, at one point"),
        ("norm", norm),
        ("wrong", "the share of misclassified points; its interval is for further points drawn as these were"),
    )
    text = (
        "A norm depends on how inputs are scaled: compare networks on the same inputs only. Among networks that fit "
        "their train data, those with a larger mean norm tended to generalize worse (Novak et al. 2018). A point "
        "that is classified with certainty has a small norm, right or wrong.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=rows), Text(paragraphs=text)))
