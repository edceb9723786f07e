"""Confidence sequences: capital against a per-example oracle, closed forms, invariants and coverage at all times."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest

from netopsy._checks import NetopsyError
from netopsy.engine.sequential import FRACTIONS, LOG_PRIOR, ConfidenceSequence, tally
from tests.oracles import sequences as oracle

TERNARY = (-1.0, 0.0, 1.0)
PRIOR = np.exp(LOG_PRIOR)


def feed(sequence: ConfidenceSequence, batches: list[np.ndarray]) -> ConfidenceSequence:
    for batch in batches:
        sequence.update(np.arange(len(batch)), tally(batch, sequence.support))
    return sequence


def draw(
    seed: int, sizes: tuple[int, ...], support: tuple[float, ...] = TERNARY, p: tuple[float, ...] = (0.1, 0.6, 0.3)
) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.choice(support, (1, size), p=p) for size in sizes]


def capitals(batches: list[np.ndarray], candidate: float, low: float, high: float, total: int | None, merge: bool):
    """The oracle's two gamblers: the second bets on the mirrored values."""
    sides = []
    for sign, bottom in ((1, low), (-1, -high)):
        mirrored = [[sign * x for x in batch[0]] for batch in batches]
        pairs = oracle.remaining_means(mirrored, sign * candidate, total)
        sides.append(oracle.log_capital(oracle.averaged(pairs) if merge else pairs, bottom, FRACTIONS, PRIOR))
    return sides


@pytest.mark.parametrize("total", [None, 200, 1000])
@pytest.mark.parametrize(
    ("support", "p"), [(TERNARY, (0.1, 0.6, 0.3)), ((-0.5, 0.0, 0.1, 2.0, 3.0), (0.1, 0.2, 0.3, 0.3, 0.1))]
)
def test_log_capital_equals_the_per_example_oracle(total, support, p):
    batches = draw(0, (50, 30, 1, 60), support, p)
    sequence = feed(ConfidenceSequence(1, confidence=0.9, total=total, support=support), batches)
    mean = float(sequence.mean[0])
    for candidate in (mean - 0.05, mean, mean + 0.07):
        ours = sequence.log_capital(candidate)[:, 0]
        np.testing.assert_allclose(
            ours, capitals(batches, candidate, support[0], support[-1], total, True), rtol=0, atol=1e-9
        )
        exact = capitals(batches, candidate, support[0], support[-1], total, False)
        assert (ours <= np.array(exact) + 1e-9).all()  # Jensen: merging batches can only lose
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-9 if total is None else 0.1)


@pytest.mark.parametrize("total", [None, 250])
def test_bounds_are_the_running_intersection_of_the_oracle_s(total):
    batches = draw(3, (40, 20, 60, 50))
    sequence = ConfidenceSequence(1, confidence=0.9, total=total)
    low, high = -1.0, 1.0
    for count, batch in enumerate(batches, 1):
        sequence.update(np.array([0]), tally(batch, TERNARY))
        seen = [list(b[0]) for b in batches[:count]]
        mirrored = [[-x for x in b] for b in seen]
        low = max(low, oracle.lower_bound(seen, -1, 1, total, 0.05, FRACTIONS, PRIOR))
        high = min(high, -oracle.lower_bound(mirrored, -1, 1, total, 0.05, FRACTIONS, PRIOR))
        assert low - 1e-5 <= sequence.low[0] <= low + 1e-9
        assert high - 1e-9 <= sequence.high[0] <= high + 1e-5
    assert -0.5 < low < 0.2 < high < 0.8  # the comparison was not about trivial bounds


def test_equal_values_solve_the_equation_by_hand():
    # 300 zeros on [-1, 1]: each ticket pays 1/(1 + g): K(g) = sum_c prior(c) (1 + c (1/(1 + g) - 1))^300 = 2/alpha
    sequence = ConfidenceSequence(1, confidence=0.95)
    sequence.update(np.array([0]), np.array([[0, 300, 0]]))
    low = sequence.low[0]
    capital = (PRIOR * (1 + FRACTIONS * (1 / (1 + low) - 1)) ** 300).sum()
    assert capital == pytest.approx(2 / 0.05, rel=1e-6)
    assert sequence.high[0] == pytest.approx(-low, abs=1e-9)
    assert sequence.log_capital(float(low))[0, 0] == pytest.approx(np.log(40), rel=1e-6)


def test_hypothesis_refuted_by_hand():
    # 10 of 20 examples seen, all 1: whatever comes, the mean is at least (10 - 10)/20 = 0
    sequence = ConfidenceSequence(1, confidence=0.9, total=20)
    sequence.update(np.array([0]), np.array([[0, 0, 10]]))
    assert sequence.low[0] >= -1e-9
    assert sequence.log_capital(-0.01)[0, 0] == np.inf
    assert np.isfinite(sequence.log_capital(0.0)).all()


@pytest.mark.parametrize("sizes", [(1,), (5,), (3, 4), (250, 250, 83)])
def test_the_whole_data_set_gives_its_exact_mean(sizes):
    batches = draw(1, sizes)
    sequence = feed(ConfidenceSequence(1, confidence=0.99, total=sum(sizes)), batches)
    mean = np.concatenate(batches, 1).mean()
    assert sequence.low[0] == sequence.high[0] == sequence.mean[0] == mean
    assert sequence.n[0] == sum(sizes)
    assert sequence.decided_precision(1e-9).all()
    assert sequence.decided_verdict(float(mean)).all()
    assert np.isfinite(sequence.log_capital(min(max(float(mean), -0.999), 0.999))).all()


def test_rows_without_data_keep_the_trivial_interval_and_do_not_move_others():
    batches = draw(2, (100, 100))
    alone = feed(ConfidenceSequence(1, confidence=0.98), batches)
    sequence = ConfidenceSequence(5, confidence=0.9)
    for batch in batches:
        sequence.update(np.array([3, 1]), np.concatenate([tally(batch, TERNARY), np.zeros((1, 3))]))
    np.testing.assert_array_equal(sequence.n, [0, 0, 0, 200, 0])
    np.testing.assert_array_equal(sequence.low[[0, 1, 2, 4]], -1)
    np.testing.assert_array_equal(sequence.high[[0, 1, 2, 4]], 1)
    assert np.isnan(sequence.mean[[0, 1, 2, 4]]).all()
    assert not sequence.decided_precision(0.5)[[0, 1, 2, 4]].any()
    assert not sequence.decided_verdict(0.0)[[0, 1, 2, 4]].any()
    # 0.9 over five rows is 0.98 for each (Bonferroni)
    assert sequence.low[3] == pytest.approx(alone.low[0], abs=1e-12)
    assert sequence.high[3] == pytest.approx(alone.high[0], abs=1e-12)


@pytest.mark.parametrize("total", [None, 1500])
def test_intervals_never_widen_and_hold_the_mean_of_a_calm_stream(total):
    sequence = ConfidenceSequence(1, confidence=0.99, total=total)
    low, high = sequence.low, sequence.high
    for batch in draw(4, (250,) * 5):
        feed(sequence, [batch])
        assert (sequence.low >= low).all()
        assert (sequence.high <= high).all()
        assert sequence.low[0] < sequence.mean[0] < sequence.high[0]
        low, high = sequence.low, sequence.high
    assert high[0] - low[0] < 0.2


@pytest.mark.parametrize("first", [[0, 0, 500], [500, 0, 0]])
def test_contradictory_streams_leave_a_point_not_an_empty_interval(first):
    # all 1, then all -1: a random order would not do this; bounds may meet but not cross
    sequence = ConfidenceSequence(1, confidence=0.5)
    for counts in (first, np.multiply(10, first[::-1]), first):
        sequence.update(np.array([0]), np.array([counts]))
        assert -1 <= sequence.low[0] <= sequence.high[0] <= 1
    assert sequence.low[0] == sequence.high[0]


@pytest.mark.parametrize("total", [None, 700])
def test_mirrored_values_mirror_the_interval(total):
    batches = draw(5, (200, 100, 100))
    one = feed(ConfidenceSequence(1, confidence=0.95, total=total), batches)
    two = feed(ConfidenceSequence(1, confidence=0.95, total=total), [-batch for batch in batches])
    np.testing.assert_allclose(one.low, -two.high, rtol=0, atol=1e-9)
    np.testing.assert_allclose(one.high, -two.low, rtol=0, atol=1e-9)


def test_units_of_the_values_do_not_matter():
    batches = draw(6, (200, 300))
    one = feed(ConfidenceSequence(1, confidence=0.95, total=900), batches)
    scaled = ConfidenceSequence(1, confidence=0.95, total=900, support=(3.0, 13.0, 23.0))
    feed(scaled, [13 + 10 * batch for batch in batches])
    np.testing.assert_allclose(scaled.low, 13 + 10 * one.low, rtol=0, atol=1e-9)
    np.testing.assert_allclose(scaled.high, 13 + 10 * one.high, rtol=0, atol=1e-9)


def test_for_a_population_only_the_totals_matter():
    batches = draw(7, (10, 200, 90))
    one = feed(ConfidenceSequence(1, confidence=0.95), batches)
    two = feed(ConfidenceSequence(1, confidence=0.95), [np.concatenate(batches, 1)])
    np.testing.assert_allclose(one.log_capital(0.1), two.log_capital(0.1), rtol=0, atol=1e-9)


def test_more_confidence_more_rows_and_fewer_examples_widen():
    def width(rows: int, confidence: float, total: int | None, batches: int) -> float:
        sequence = ConfidenceSequence(rows, confidence=confidence, total=total)
        for batch in draw(8, (100,) * 4)[:batches]:
            sequence.update(np.array([0]), tally(batch, TERNARY))
        return float(sequence.high[0] - sequence.low[0])

    base = width(1, 0.9, None, 4)
    assert width(1, 0.99, None, 4) > base
    assert width(10, 0.9, None, 4) > base
    assert width(1, 0.9, None, 2) > base
    assert width(1, 0.9, 500, 4) < 0.8 * base  # a data set that is nearly used up


# Coverage. A level is checked by the share of simulated rows or families that miss at any batch.

POPULATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "rare": (TERNARY, (0.0, 0.997, 0.003)),
    "equal": (TERNARY, (0.0, 1.0, 0.0)),
    "robust": (TERNARY, (0.015, 0.965, 0.02)),
    "coin": (TERNARY, (0.5, 0.0, 0.5)),
    "broken": (TERNARY, (0.01, 0.19, 0.8)),
    "skewed": ((0.0, 0.01, 1.0), (0.2, 0.79, 0.01)),
    "near the top": ((0.0, 0.9, 1.0), (0.01, 0.09, 0.9)),
}


def streams(name: str, rows: int, total: int | None, batch: int, steps: int, seed: int = 0):
    """Counts (steps, rows, values) in random order, with their support and the true mean."""
    support, p = POPULATIONS[name]
    rng = np.random.default_rng(seed)
    if total is None:
        return rng.multinomial(batch, p, (steps, rows)), support, float(np.dot(support, p))
    whole = np.rint(np.multiply(p, total)).astype(int)
    whole[1] = total - whole[[0, 2]].sum()
    left = np.tile(whole, (rows, 1))
    counts = []
    for step in range(-(-total // batch)):
        size = min(batch, total - step * batch)
        counts.append(np.stack([rng.multivariate_hypergeometric(line, size) for line in left]))
        left = left - counts[-1]
    return np.array(counts), support, float(np.dot(support, whole) / total)


def tolerated(level: float, count: int) -> float:
    return level + 3 * np.sqrt(level * (1 - level) / count)


def log_capitals(counts: np.ndarray, support: tuple[float, ...], mean: float, total: int | None) -> np.ndarray:
    """Log capital of the gamblers who doubt the truth, after each batch: (steps, 2, rows)."""
    sequence = ConfidenceSequence(counts.shape[1], confidence=0.9, total=total, support=support)
    path = []
    for batch in counts:
        sequence.update(np.arange(len(batch)), batch)
        path.append(sequence.log_capital(mean))
    return np.stack(path)


def often_large(path: np.ndarray) -> np.ndarray:
    """Whether more rows than chance explains ever have 5 times the capital, for each of the two gamblers."""
    return (path.max(0) >= np.log(5)).mean(1) > tolerated(0.2, path.shape[2])


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize(("total", "batch"), [(None, 20), (None, 150), (600, 50), (8, 3), (250, 400)])
def test_each_row_s_capital_is_rarely_large_at_any_time(name, total, batch):
    counts, support, mean = streams(name, 300, total, batch, 12)
    assert not often_large(log_capitals(counts, support, mean, total)).any()


def expected_capital(orders: np.ndarray, weights: np.ndarray, mean: float, total: int | None) -> np.ndarray:
    """Expected capital at all times, and where it first reaches 1.2, over all possible orders in batches of two."""
    counts = np.stack([tally(orders[:, i : i + 2], TERNARY) for i in range(0, orders.shape[1], 2)])
    path = np.exp(log_capitals(counts, TERNARY, mean, total))
    at = np.where((path >= 1.2).any(0), (path >= 1.2).argmax(0), len(path) - 1)
    stopped = np.take_along_axis(path, at[None], 0)
    return np.concatenate([path, stopped]) @ weights


def test_capital_is_fair_over_all_orders_of_a_small_data_set():
    orders = np.array(list(permutations([-1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])))
    weights = np.full(len(orders), 1 / len(orders))
    mean = 3 / 7
    assert (expected_capital(orders, weights, mean, 7) <= 1 + 1e-9).all()
    # each gambler gains where the truth is on the other side, and both where the order is not random
    assert expected_capital(orders, weights, mean - 0.2, 7)[-1, 0] > 1.01
    assert expected_capital(orders, weights, mean + 0.2, 7)[-1, 1] > 1.01
    assert (expected_capital(np.sort(orders), weights, mean, 7) > 1.01).any()


def test_capital_is_fair_over_all_samples_of_a_population():
    p = {-1.0: 0.1, 0.0: 0.6, 1.0: 0.3}
    orders = np.array(list(product(p, repeat=6)))
    weights = np.array([np.prod([p[x] for x in order]) for order in orders])
    np.testing.assert_allclose(expected_capital(orders, weights, 0.2, None), 1, rtol=1e-9)
    for candidate, doubter in ((0.3, 0), (0.1, 1)):
        fair, gaining = expected_capital(orders, weights, candidate, None).T[[doubter, 1 - doubter]]
        assert (fair < 1).all()
        assert (gaining > 1).all()


def test_the_check_of_the_capital_can_fail():
    # a stake chosen for each batch after it was seen
    counts, _, mean = streams("robust", 400, None, 150, 12)
    tickets = (np.array(TERNARY) + 1) / (mean + 1), (1 - np.array(TERNARY)) / (1 - mean)
    logs = [np.log(1 - FRACTIONS + FRACTIONS * ticket[:, None]) for ticket in tickets]
    assert often_large(np.stack([(counts @ log).max(2).cumsum(0) for log in logs], 1)).all()
    # examples drawn with replacement, said to be drawn without
    counts, support, mean = streams("coin", 400, None, 50, 12)
    assert often_large(log_capitals(counts, support, mean, 601)).all()


Interval = Callable[[ConfidenceSequence], tuple[np.ndarray, np.ndarray]]


def families_missed(total: int | None, interval: Interval, families: int = 60) -> float:
    """Share of the families of seven unlike rows, at confidence 0.8, in which any interval ever misses its mean."""
    names = ["rare", "equal", "robust", "coin", "broken", "robust", "coin"]
    drawn = [streams(name, families, total, 50, 8, seed) for seed, name in enumerate(names)]
    counts = np.stack([one[0] for one in drawn], 2)  # (steps, families, rows, values)
    means = np.array([one[2] for one in drawn])
    missed = 0
    for family in range(families):
        sequence = ConfidenceSequence(len(names), confidence=0.8, total=total)
        wrong = False
        for step in counts[:, family]:
            sequence.update(np.arange(len(names)), step)
            low, high = interval(sequence)
            wrong |= bool(((low > means + 1e-9) | (high < means - 1e-9)).any())
        missed += wrong
    return missed / families


@pytest.mark.parametrize("total", [None, 400])
def test_all_intervals_of_a_family_hold_at_all_times(total):
    assert families_missed(total, lambda sequence: (sequence.low, sequence.high)) <= tolerated(0.2, 60)


def test_the_check_of_the_family_can_fail():
    def normal(sequence: ConfidenceSequence) -> tuple[np.ndarray, np.ndarray]:
        """The interval for one fixed look, with Bonferroni over rows but not over looks (z = 2.19)."""
        mean, n = sequence.mean, sequence.n
        square = sequence._counts @ np.square(TERNARY) / n
        half = 2.19 * np.sqrt((square - mean**2) / n)
        return mean - half, mean + half

    assert families_missed(None, normal) > tolerated(0.2, 60)


def test_dropping_decided_rows_keeps_their_intervals():
    counts, _, mean = streams("robust", 50, None, 100, 60)
    sequence = ConfidenceSequence(50, confidence=0.9)
    for step in counts:
        active = np.flatnonzero(~sequence.decided_precision(0.05))
        if not active.size:
            break
        before = sequence.low
        sequence.update(active, step[active])
        rest = np.setdiff1d(np.arange(50), active)
        np.testing.assert_array_equal(sequence.low[rest], before[rest])
    assert sequence.decided_precision(0.05).all()
    assert len(set(sequence.n.tolist())) > 1  # they stopped at different times
    assert ((sequence.low <= mean) & (mean <= sequence.high)).all()


def test_verdict_is_above_or_not_above():
    sequence = ConfidenceSequence(3, confidence=0.99)
    sequence.update(np.arange(3), np.array([[0, 1000, 0], [0, 500, 500], [25, 875, 100]]))
    np.testing.assert_array_equal(sequence.decided_verdict(0.05), [True, True, False])
    assert sequence.high[0] <= 0.05
    assert sequence.low[1] > 0.05
    low, high = sequence.low[2], sequence.high[2]
    assert not sequence.decided_verdict(float(low))[2]
    assert sequence.decided_verdict(float(np.nextafter(low, -1)))[2]
    assert sequence.decided_verdict(float(high))[2]
    exact = ConfidenceSequence(1, confidence=0.99, total=20)
    exact.update(np.array([0]), np.array([[0, 19, 1]]))
    assert exact.decided_verdict(0.05).all()  # exactly at the tolerance: not above


def test_precision_is_half_the_width():
    sequence = feed(ConfidenceSequence(1, confidence=0.9), draw(9, (300,)))
    half = float(sequence.high[0] - sequence.low[0]) / 2
    assert sequence.decided_precision(half)[0]
    assert not sequence.decided_precision(0.999 * half)[0]


# Values between the support's


def test_tally_shares_values_and_keeps_count_and_mean():
    values = np.random.default_rng(0).beta(0.3, 0.4, (3, 50))
    support = (0.0, 0.1, 0.5, 1.0)
    counts = tally(values, support)
    assert (counts >= 0).all()
    np.testing.assert_allclose(counts.sum(1), 50)
    np.testing.assert_allclose(counts @ support / 50, values.mean(1), rtol=1e-12)
    np.testing.assert_array_equal(tally(np.array([[0, 0.1, 0.1, 1]]), support), [[1, 2, 0, 1]])
    np.testing.assert_allclose(tally(np.array([[0.2]]), support), [[0, 0.75, 0.25, 0]])


@pytest.mark.parametrize("total", [None, 300])
def test_shared_counts_bet_less_than_the_values_themselves(total):
    batches = [np.random.default_rng(seed).beta(0.5, 2, (1, 60)) for seed in range(3)]
    true = capitals(batches, 0.18, 0.0, 1.0, total, False)
    fine, coarse = (
        feed(ConfidenceSequence(1, confidence=0.9, total=total, support=np.linspace(0, 1, k).tolist()), batches)
        for k in (33, 3)
    )
    assert (coarse.log_capital(0.18)[:, 0] < fine.log_capital(0.18)[:, 0]).all()
    assert (fine.log_capital(0.18)[:, 0] <= np.array(true) + 1e-9).all()
    np.testing.assert_allclose(fine.log_capital(0.18)[:, 0], true, rtol=0, atol=0.2)


def test_coverage_of_shared_values():
    rng = np.random.default_rng(0)
    pool = rng.beta(0.1, 0.4, 300)
    orders = np.stack([rng.permutation(pool) for _ in range(400)])
    sequence = ConfidenceSequence(400, confidence=0.9, total=300, support=(0.0, 0.2, 1.0))
    peak = np.full((2, 400), -np.inf)
    for start in range(0, 300, 30):
        sequence.update(np.arange(400), tally(orders[:, start : start + 30], sequence.support))
        peak = np.maximum(peak, sequence.log_capital(float(pool.mean())))
    assert ((peak >= np.log(5)).mean(1) <= tolerated(0.2, 400)).all()
    np.testing.assert_allclose(sequence.low, pool.mean(), rtol=1e-12)


# Input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows: expected an integer >= 1; got 0"),
        ({"confidence": 1.0}, r"confidence: expected a number in \(0, 1\); got 1.0"),
        ({"total": 0}, "total: expected an integer >= 1; got 0"),
        ({"support": (1.0,)}, "support: expected at least two finite values in ascending order.*got 1.0"),
        ({"support": (0.0, 0.0, 1.0)}, "support: expected at least two .*got 0.0, 0.0, 1.0"),
        ({"support": (0.0, np.inf)}, "support: expected at least two .*got 0.0, inf"),
    ],
)
def test_configurations_that_are_refused(options, message):
    with pytest.raises(NetopsyError, match=message):
        ConfidenceSequence(**{"rows": 2, "confidence": 0.9, **options})


@pytest.mark.parametrize(
    ("rows", "counts", "message"),
    [
        ([0, 0], [[1, 2, 3]] * 2, "rows: expected distinct indices from 0 to 2; got 0, 0"),
        ([3], [[1, 2, 3]], "rows: expected distinct indices from 0 to 2; got 3"),
        ([-1], [[1, 2, 3]], "rows: expected distinct indices from 0 to 2; got -1"),
        ([0], [[1, 2]], r"counts: expected shape \(1, 3\).*got \(1, 2\)"),
        ([0, 1], [[1, 2, 3]], r"counts: expected shape \(2, 3\).*got \(1, 3\)"),
        ([0, 1], [[1, 2, 3], [5, 2, -1]], r"counts: expected finite counts >= 0.*got \[ 5  2 -1\]"),
        ([0], [[1.0, np.nan, 1.0]], r"counts: expected finite counts >= 0.*nan"),
        ([0], [[1.0, np.inf, 1.0]], r"counts: expected finite counts >= 0.*inf"),
        ([0], [[1.0, 0.5, 1.0]], r"counts: .*whole number of examples in each line; got \[1.  0.5 1. \]"),
        ([0], [[1, 90, 0]], "counts: expected at most total=100 examples a row; got 101; sample without replacement"),
    ],
)
def test_updates_that_are_refused_change_nothing(rows, counts, message):
    sequence = ConfidenceSequence(3, confidence=0.9, total=100)
    sequence.update(np.arange(3), np.array([[1, 9, 0]] * 3))
    before = [sequence.n, sequence.mean, sequence.low, sequence.high, *sequence.log_capital(0.1)]
    with pytest.raises(NetopsyError, match=message):
        sequence.update(np.array(rows), np.array(counts))
    after = [sequence.n, sequence.mean, sequence.low, sequence.high, *sequence.log_capital(0.1)]
    np.testing.assert_array_equal(before, after)


def test_no_rows_is_no_update():
    sequence = ConfidenceSequence(2, confidence=0.9)
    sequence.update(np.arange(0), np.zeros((0, 3)))
    np.testing.assert_array_equal(sequence.n, 0)


def test_what_is_handed_out_is_not_the_state():
    sequence = ConfidenceSequence(1, confidence=0.9)
    for name in ("n", "low", "high"):
        getattr(sequence, name)[:] = 7
    assert (sequence.n[0], sequence.low[0], sequence.high[0]) == (0, -1, 1)


@pytest.mark.parametrize("value", [-1.5, -1.0, 1.0, np.nan])
def test_candidates_outside_the_range_are_refused(value):
    with pytest.raises(NetopsyError, match=r"candidate: expected a number in \(-1, 1\); got"):
        ConfidenceSequence(1, confidence=0.9).log_capital(value)


def test_decision_rules_refuse_numbers_that_decide_nothing():
    sequence = ConfidenceSequence(1, confidence=0.9)
    with pytest.raises(NetopsyError, match=r"half_width: expected a number in \(0, inf\]; got 0.0"):
        sequence.decided_precision(0.0)
    with pytest.raises(NetopsyError, match=r"tolerance: expected a number in \(-inf, inf\); got nan"):
        sequence.decided_verdict(float("nan"))


@pytest.mark.parametrize("value", [1.5, -2.0, np.nan])
def test_values_outside_the_support_are_refused(value):
    with pytest.raises(NetopsyError, match=r"values: expected numbers in \[-1, 1\]; got .*widen the support"):
        tally(np.array([[0.0, value]]), TERNARY)
