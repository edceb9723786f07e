"""How many examples a confidence sequence uses, against an oracle that knows the variance and looks once.

    python benchmarks/bench_sequences.py            # writes benchmarks/results/sequences.md

A family of 36 variants, six of each of six kinds, is followed in batches until each variant is decided: its interval
is at most +-0.02, or it lies on one side of the tolerance 0.05. All 36 intervals hold at once with confidence 0.99.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from statistics import NormalDist

import numpy as np

from netopsy.engine.sequential import ConfidenceSequence

KINDS = ((0.005, 0.003), (0.02, 0.015), (0.05, 0.03), (0.3, 0.02), (0.6, 0.02), (0.8, 0.01))
"""P(+1), P(-1) of a paired difference of errors."""

EACH, CONFIDENCE, HALF_WIDTH, TOLERANCE, BATCH, FAMILIES = 6, 0.99, 0.02, 0.05, 250, 25
ROWS = EACH * len(KINDS)
ALPHA = (1 - CONFIDENCE) / ROWS
VALUES = np.array([-1.0, 0.0, 1.0])


def fixed_n(variance: float, half_width: float, alpha: float, total: int | None = None) -> float:
    """Examples for one normal interval of known variance, with the finite population correction."""
    n = NormalDist().inv_cdf(1 - alpha / 2) ** 2 * variance / half_width**2
    return n if total is None else n / (1 + (n - 1) / total)


def growth(p: np.ndarray, candidate: float) -> float:
    """Largest expected log growth of a gambler against this mean: KL_inf, what no method can beat (Wald)."""
    mean = VALUES @ p
    y = (VALUES + 1) / 2 if candidate < mean else (1 - VALUES) / 2
    g = (candidate + 1) / 2 if candidate < mean else (1 - candidate) / 2
    stakes = np.linspace(0, 1, 4001)[:-1, None]
    return float((np.log1p(stakes * (y / g - 1)) @ p).max())


def least_n(p: np.ndarray) -> tuple[float, float]:
    """Expected examples that a method valid at any stopping time needs at least, about: precision, verdict."""
    mean, nats = VALUES @ p, np.log(2 / ALPHA)
    splits = np.linspace(0.5, 1.5, 41) * HALF_WIDTH
    worst = [max(1 / growth(p, mean - s), 1 / growth(p, mean + 2 * HALF_WIDTH - s)) for s in splits]
    return nats * min(worst), nats / growth(p, TOLERANCE)


def simulate(total: int, estimand: str) -> tuple[np.ndarray, float]:
    """Examples used (rule, kind, repeat; infinite: undecided), and the share of families with any miss."""
    rng = np.random.default_rng(0)
    p = np.repeat([[minus, 1 - plus - minus, plus] for plus, minus in KINDS], EACH, axis=0)
    finite = estimand == "dataset"
    whole = np.rint(p * total).astype(int)
    means = whole @ VALUES / total
    used = np.full((FAMILIES, 2, ROWS), np.inf)
    missed = 0
    for family in range(FAMILIES):
        sequence = ConfidenceSequence(ROWS, confidence=CONFIDENCE, total=total if finite else None)
        left, open_rules, wrong = whole.copy(), np.ones((2, ROWS), dtype=bool), False
        for start in range(0, total, BATCH):
            rows = np.flatnonzero(open_rules.any(0))
            size = min(BATCH, total - start)
            if finite:
                counts = np.stack([rng.multivariate_hypergeometric(left[row], size) for row in rows])
                left[rows] -= counts
            else:
                counts = rng.multinomial(size, p[rows])
            sequence.update(rows, counts)
            wrong |= bool(((sequence.low > means + 1e-9) | (sequence.high < means - 1e-9)).any())
            decided = np.stack([sequence.decided_precision(HALF_WIDTH), sequence.decided_verdict(TOLERANCE)])
            used[family][open_rules & decided] = start + size
            open_rules &= ~decided
            if not open_rules.any():
                break
        missed += wrong
    return used.reshape(FAMILIES, 2, len(KINDS), EACH).transpose(1, 2, 0, 3).reshape(2, len(KINDS), -1), (
        missed / FAMILIES
    )


def milliseconds(points: int, total: int | None) -> float:
    """Median time of one update of 40 rows."""
    rng = np.random.default_rng(0)
    sequence = ConfidenceSequence(40, confidence=CONFIDENCE, total=total, support=np.linspace(-1, 1, points).tolist())
    p = rng.dirichlet(np.ones(points), 40)
    seconds = []
    for _ in range(200):
        counts = rng.multinomial(BATCH, p)
        started = time.perf_counter()
        sequence.update(np.arange(40), counts)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


def section(total: int, estimand: str) -> list[str]:
    used, missed = simulate(total, estimand)
    lines = [
        f"## {estimand}, {total:,} examples",
        "",
        "| rule | P(+1), P(−1) | decided | used | oracle | oracle in batches | ratio | least, any method |",
        "|---|---|---|---|---|---|---|---|",
    ]
    summary = []
    for index, rule in enumerate((f"±{HALF_WIDTH}", f"verdict at {TOLERANCE}")):
        rounded, raw = [], []
        for kind, (plus, minus) in enumerate(KINDS):
            p = np.array([minus, 1 - plus - minus, plus])
            mean = plus - minus
            distance = HALF_WIDTH if index == 0 else abs(mean - TOLERANCE)
            n = min(fixed_n(plus + minus - mean**2, distance, ALPHA, total if estimand == "dataset" else None), total)
            batches = min(np.ceil(n / BATCH) * BATCH, total)
            mine = np.minimum(used[index, kind], total).mean()
            least = f"{least_n(p)[index]:,.0f}" if estimand == "population" else "–"
            cells = (
                *(rule, f"{plus}, {minus}", f"{np.isfinite(used[index, kind]).mean():.0%}", f"{mine:,.0f}"),
                *(f"{n:,.0f}", f"{batches:,.0f}", f"{mine / batches:.2f}", least),
            )
            lines.append(f"| {' | '.join(cells)} |")
            raw.append(n)
            rounded.append(batches)
        mine = np.minimum(used[index], total).mean(1)
        summary.append(
            f"- {rule}: **{mine.sum() / sum(rounded):.2f}×** the oracle's examples in whole batches "
            f"({mine.sum() / sum(raw):.2f}× in single examples); mean of the ratios {(mine / rounded).mean():.2f}; "
            f"{mine.mean() / total:.0%} of the data."
        )
    summary.append(
        f"- Families in which any interval missed at any time: {missed:.0%} of {FAMILIES} (stated: at most 1 %)."
    )
    return [*lines, "", *summary, ""]


def main() -> None:
    lines = [
        "# Confidence sequences: examples used until decided",
        "",
        f"`python benchmarks/bench_sequences.py`; Python {platform.python_version()}, numpy {np.__version__}, "
        f"{platform.machine()}.",
        "",
        f"Confidence {CONFIDENCE} over {ROWS} variants at all times (Bonferroni), batches of {BATCH}, {FAMILIES} "
        "families. *Used* counts all the data for a variant that they leave undecided. The *oracle* knows each "
        "variant's variance and distance and looks once, with a normal interval (finite population correction for "
        "the data set), each side at the same level; *ratio* is to the oracle in whole batches. It is not valid "
        "where few examples differ: 264 examples for P = (0.005, 0.003) hold two differences. *Least, any method* is "
        "log(2/α)/KL_inf: about what a method valid at any stopping time needs in expectation.",
        "",
    ]
    for total, estimand in ((10_000, "dataset"), (60_000, "dataset"), (10_000, "population"), (60_000, "population")):
        lines += section(total, estimand)
    lines += ["## Time", "", "One update of 40 rows, median of 200, one core:", ""]
    lines += [
        f"- {points} values, {'data set of 60,000' if total else 'population'}: {milliseconds(points, total):.1f} ms"
        for points in (3, 33)
        for total in (60_000, None)
    ]
    path = Path(__file__).parent / "results" / "sequences.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
