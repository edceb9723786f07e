"""The report's section on which modules hold the network together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from netopsy.plots.criticality import criticality_bars
from netopsy.probes.criticality_result import CriticalityResult
from netopsy.report.blocks import Block, Column, Entry, Facts, Fold, Mark, Picture, Section, Table, Text
from netopsy.report.origins import origins
from netopsy.report.vector import drawn
from netopsy.report.words import count, names, percent

MOST_ROWS, MOST_BARS = 300, 80
"""Modules in the table, and in the picture; of more, those with the largest mu."""

CARRIED = 0.9
"""Modules are named that together have this share of the sum."""

USUAL = 0.1
"""The train error that the paper allows."""

OPTIONS = ("epsilon", "noise_samples", "relative_tolerance", "confidence", "seed")

MARKS: Mapping[str, Mark] = {
    "alpha-zero": "robust",
    "feasible": "neutral",
    "no-op": "no-op",
    "infeasible": "undecided",
    "non-finite": "non-finite",
}
MEANING = {
    "alpha-zero": "it can go back all the way: μ = 0",
    "feasible": "it can go back to α, with noise of σ",
    "no-op": "it never moved, or the network does not use it: μ = 0",
    "infeasible": "no α and σ are allowed: it has no μ",
    "non-finite": "its weights are not finite: it has no μ",
}


def criticality_section(result: CriticalityResult) -> Section:
    """What each module bears, from the verdict to how to repeat it; of several epsilon, the first comes first."""
    levels = list(dict.fromkeys(result.frame.epsilon))
    blocks = _shown(result, levels[0])
    blocks += [
        Fold(title=f"With a train error of {percent(epsilon)}", blocks=tuple(_shown(result, epsilon)))
        for epsilon in levels[1:]
    ]
    p = result.provenance
    note = (
        f"Intervals ({percent(p['confidence'])}) are over the {p['noise_samples']} draws of noise: how much other "
        "draws would change μ. With ten draws that is often a factor. Each error was measured on all of the "
        f"{count(p['examples'], 'train example')}.",
    )
    states = _part(result, levels[0]).status.astype(str).value_counts()
    return Section(
        title="Module criticality",
        question=(
            "How far can one module go back towards where it started, and how much noise does it bear there, before "
            "the network no longer fits its train data?"
        ),
        verdict=criticality_sentences(result),
        counts=tuple((MARKS[state], f"{states[state]:,} {state}") for state in MARKS if state in states),
        blocks=(
            *blocks,
            Text(paragraphs=note),
            _how_to_read(result),
            origins(p, "criticality", OPTIONS, of="trajectory"),
        ),
    )


def criticality_sentences(result: CriticalityResult) -> tuple[str, ...]:
    """What can go back all the way, what holds the network together, what the sum is, and what was allowed."""
    epsilon = float(result.frame.epsilon.iloc[0])
    part = _part(result, epsilon)
    lost = _named(part, part.mu.isna())
    found = part[part.mu.notna()]
    allowed = _allowed(result, epsilon)
    if found.empty:
        return (
            "No module has a μ: nothing is allowed, not even the trained network itself or a trace of noise.",
            allowed,
        )
    said = [_back(part), *_critical(found, "the μ that are known" if lost else "the sum")]
    if lost:
        said.append(f"The sum is not known: {names(lost)} {'has' if len(lost) == 1 else 'have'} no μ.")
    else:
        said.append(f"Network criticality, the sum of μ over {count(len(part), 'module')}: {number(part.mu.sum())}.")
    totals = [
        f"{percent(level)}: {number(result.total(level))}"
        for level in dict.fromkeys(result.frame.epsilon)
        if not math.isnan(result.total(level))
    ]
    several = [f"The sum by the train error that is allowed: {', '.join(totals)}."] if len(totals) > 1 else []
    return (*said, *several, allowed)


def bars(result: CriticalityResult) -> Axes:
    """The picture of the first epsilon; of very many modules, of those with the largest mu."""
    return _bars(result, float(result.frame.epsilon.iloc[0]))


def _bars(result: CriticalityResult, epsilon: float) -> Axes:
    p, part = result.provenance, _largest(_part(result, epsilon), MOST_BARS)
    return criticality_bars(part, confidence=p["confidence"], draws=p["noise_samples"])


def number(mu: float) -> str:
    """Three digits.

    >>> number(0.0), number(0.01234), number(696.7), number(6976.3), number(2.5e8)
    ('0', '0.0123', '697', '6,980', '2.5e+08')
    """
    return f"{mu:.3g}" if mu >= 1e6 or mu < 1000 else f"{float(f'{mu:.3g}'):,.0f}"


def module_table(part: pd.DataFrame) -> Table:
    """A row a module; the bars of mu are logarithmic."""
    shown = _largest(part, MOST_ROWS)
    known = shown.mu[shown.mu > 0].astype(float)
    floor = math.log10(known.min()) - 1 if len(known) else 0.0
    decades = math.log10(known.max()) + 1 - floor if len(known) else 1.0

    def place(value: float) -> float:
        """Decades above the left end."""
        return min(max(math.log10(value) - floor, 0.0), decades) if value > 0 else 0.0

    rows = []
    for at, row in enumerate(shown.to_dict("records")):
        mu, low, high = (float(row[name]) for name in ("mu", "mu_low", "mu_high"))
        sure = mu > 0 and not math.isnan(low + high)
        note = (f"{number(low)} to {number(high)} over the draws of noise",) if sure else ()
        state = str(row["status"])
        rows.append(
            (
                Entry(text=str(row["site"]), sort=at),
                Entry(text=state, sort=state, mark=MARKS[state], note=(MEANING[state],)),
                Entry(
                    text="" if math.isnan(mu) else number(mu),
                    sort=None if math.isnan(mu) else mu,
                    bar=(place(low), place(mu), place(high)) if sure else None,
                    note=note,
                ),
                *(_entry(row[name], form) for name, form in COLUMNS),
            )
        )
    columns = (
        Column(name="module", help="in the network's order"),
        Column(name="status", help="what was found"),
        Column(
            name="μ",
            help="criticality; bar: its interval over the draws of noise, on a logarithmic scale",
            numeric=True,
            span=(0.0, decades),
        ),
        Column(name="α", help="0: initial values, 1: trained ones", numeric=True),
        Column(name="σ", help="standard deviation of the noise that it bears at α", numeric=True),
        Column(name="distance", help="how far training moved its parameters, ‖θ^F − θ^0‖", numeric=True),
        Column(name="error there", help="train error at α with noise", numeric=True),
        Column(name="parameters", numeric=True),
    )
    few = f" Of {len(part):,} modules, the {MOST_ROWS} with the largest μ are shown." if len(part) > MOST_ROWS else ""
    return Table(columns=columns, rows=tuple(rows), caption=f"Criticality of each module.{few} Sort by any column.")


COLUMNS = (("alpha", ".2g"), ("sigma", ".3g"), ("distance", ".3g"), ("error", ".1%"), ("parameters", ",.0f"))


def _shown(result: CriticalityResult, epsilon: float) -> list[Block]:
    part = _part(result, epsilon)
    few = f" Of {len(part):,} modules, the {MOST_BARS} with the largest μ." if len(part) > MOST_BARS else ""
    picture = Picture(
        svg=drawn(_bars(result, epsilon)),
        description="Criticality of each module on a logarithmic scale",
        caption=f"Criticality with a train error of {percent(epsilon)} allowed, on a logarithmic scale.{few}",
    )
    return [module_table(part), picture]


def _part(result: CriticalityResult, epsilon: float) -> pd.DataFrame:
    return result.frame[result.frame.epsilon == epsilon]


def _largest(part: pd.DataFrame, most: int) -> pd.DataFrame:
    """In the network's order."""
    return part if len(part) <= most else part[part.mu.fillna(math.inf).rank(method="first") > len(part) - most]


def _named(part: pd.DataFrame, rows: Any) -> list[str]:
    return [str(site) for site in part.site[rows]]


def _back(part: pd.DataFrame) -> str:
    """Which can go back all the way."""
    zero, still = (_named(part, part.status == state) for state in ("alpha-zero", "no-op"))
    idle = f" {names(still)} never moved, or {'is' if len(still) == 1 else 'are'} not used." if still else ""
    if not zero:
        return f"No module can go back all the way to where it started.{idle}"
    if len(zero) == len(part):
        which = "The only module" if len(part) == 1 else f"Each of the {len(part):,} modules"
        return f"{which} can go back, alone, all the way to where it started."
    of = f"{len(zero):,} of {count(len(part), 'module')}"
    return f"{of} can go back, alone, all the way to where they started: {names(zero, 6)}.{idle}"


def _critical(found: pd.DataFrame, whole: str) -> list[str]:
    """Which hold the network together: what share they have of the whole."""
    order = found.sort_values("mu", ascending=False, kind="stable")
    total = float(order.mu.sum())
    if total <= 0:
        return []
    shares = order.mu.cumsum() / total
    few = order[shares.shift(fill_value=0.0) < CARRIED]
    told = [f"{row['site']} ({_interval(row)})" for row in few.to_dict("records")]
    last = float(shares[few.index[-1]])
    carry = "carries" if len(few) == 1 else "carry"
    return [f"Critical: {names(told)} {carry} {percent(last)} of {whole}."]


def _interval(row: Mapping[Any, Any]) -> str:
    low, high = float(row["mu_low"]), float(row["mu_high"])
    known = "" if math.isnan(low + high) else f", {number(low)} to {number(high)}"
    return f"μ = {number(float(row['mu']))}{known}"


def _allowed(result: CriticalityResult, epsilon: float) -> str:
    """The train error that was allowed, and why it was not the usual one."""
    error = result.provenance.get("train_error")
    if error is None:
        return f"A train error of {percent(epsilon)} was allowed."
    if error > epsilon:
        return (
            f"A train error of {percent(epsilon)} was allowed, but the trained network's own is {percent(error)}: "
            "allow more by epsilon."
        )
    if error > USUAL:
        return (
            f"A train error of {percent(epsilon)} was allowed: the usual {percent(USUAL)} is less than the trained "
            f"network's own, {percent(error)}. Criticality can be compared at the same one only."
        )
    return f"A train error of {percent(epsilon)} was allowed; the trained network's own is {percent(error)}."


def _entry(value: Any, form: str) -> Entry:
    if value is None or pd.isna(value):
        return Entry(text="")
    return Entry(text=format(float(value), form).replace("%", " %"), sort=float(value))


def _how_to_read(result: CriticalityResult) -> Block:
    p = result.provenance
    rows = (
        ("μ", "(α ‖θ^F − θ^0‖ / σ)², the least over all α and σ at which the train error is still allowed"),
        ("α", "the module's parameters are at (1 − α) θ^0 + α θ^F, all others stay trained"),
        ("σ", f"standard deviation of noise on its parameters; the error is the mean of {p['noise_samples']} draws"),
        *((state, MEANING[state]) for state in MARKS),
    )  # fmt: skip
    text = (
        "A small μ means a wide valley on the way back: such a module adds little to what the network had to learn. "
        "The sum over the modules ranks networks by how well they generalize, in the paper's experiments. It is of "
        "one network at one allowed error: compare sums at the same error, on the same data.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=rows), Text(paragraphs=text)))
