"""Metrics and the sums that merge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.reducers import MOVED, Tally, check_metrics, digest, metric_name, moved, unchanged
from netopsy.network.task import Task
from tests.oracles import naive


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit over the best of the others."""
    mine = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter(1, targets[:, None], -math.inf)
    return mine - others.max(1).values


METRICS: tuple[Any, ...] = ("error", "loss", "unchanged", margin)
N, P, C = 24, 4, 5
TASK = Task()

with forked(8):
    SCORES = torch.randn(3, N, P, C)
    LABELS = torch.randint(0, C, (N, P))
    LABELS[::3, 2:] = -100
    LABELS[5] = -100
BROKEN = 10


def tally_of(rows: slice | list[int]) -> Tally:
    """The tally of some examples: two variants (the second has NaN) and the baseline."""
    scores = SCORES[:, rows].clone()
    labels = LABELS[rows]
    broken = torch.tensor([i == BROKEN for i in range(N)])[rows]
    scores[1, broken, 0, 0] = math.nan
    digests = {row - 1: digest(scores[row], labels, TASK, METRICS) for row in range(3)}
    return Tally.of(METRICS, 3, digests, TASK.valid(labels))


def test_it_equals_plain_loops() -> None:
    oracle = [naive.metrics(SCORES[row], LABELS, SCORES[0]) for row in range(3)]
    valid = TASK.valid(LABELS)
    for row in range(3):
        found = digest(SCORES[row], LABELS, TASK, METRICS)
        np.testing.assert_array_equal(found.errors, oracle[row]["error"])
        np.testing.assert_array_equal(found.sums["error"], oracle[row]["error"])
        np.testing.assert_allclose(found.sums["loss"], oracle[row]["loss"], atol=1e-5)
        base = digest(SCORES[0], LABELS, TASK, METRICS)
        np.testing.assert_array_equal(unchanged(found, base, valid), oracle[row]["unchanged"])
        by_hand = [
            sum(
                (SCORES[row, i, p, y] - max(SCORES[row, i, p, j] for j in range(C) if j != y)).item()
                for p, y in enumerate(LABELS[i].tolist())
                if y != -100
            )
            for i in range(N)
        ]
        np.testing.assert_allclose(found.sums["margin"], by_hand, atol=1e-5)


def test_how_far_logits_move_equals_plain_loops() -> None:
    valid = TASK.valid(LABELS)
    digests = {row - 1: digest(SCORES[row], LABELS, TASK, ("error", MOVED)) for row in range(3)}
    for row in (0, 1):
        by_hand = [
            sum(
                sum((SCORES[row + 1, i, p, c].item() - SCORES[0, i, p, c].item()) ** 2 for c in range(C))
                for p, y in enumerate(LABELS[i].tolist())
                if y != -100
            )
            for i in range(N)
        ]
        np.testing.assert_allclose(moved(digests[row], digests[-1], valid), by_hand, rtol=1e-5)
        whole = Tally.of(("error", MOVED), 3, digests, valid)
        assert whole.sums[MOVED][row] == pytest.approx(sum(by_hand), rel=1e-5)
        assert whole.sums[MOVED][2] == 0
        assert whole.means()[MOVED][row] == pytest.approx(sum(by_hand) / int(valid.sum()), rel=1e-5)
    plain = digest(SCORES[0], LABELS, TASK, ("error", "unchanged"))
    assert plain.scores is None  # kept for this metric alone
    with pytest.raises(ValueError, match="digests without logits: ask for the metric 'moved'"):
        moved(plain, digests[-1], valid)


def test_the_tally_sums_rows_apart() -> None:
    whole = tally_of(slice(None))
    oracle = [naive.metrics(SCORES[row], LABELS, SCORES[0]) for row in (1, 2, 0)]
    count = oracle[0]["positions"].sum()
    np.testing.assert_array_equal(whole.positions, [count] * 3)
    np.testing.assert_array_equal(whole.examples, [N] * 3)
    np.testing.assert_array_equal(whole.bad, [1, 0, 0])
    means = whole.means()
    assert means["error"][1] == oracle[1]["error"].sum() / count
    assert means["error"][2] == oracle[2]["error"].sum() / count
    assert means["unchanged"][2] == 1
    assert means["unchanged"][1] == oracle[1]["unchanged"].sum() / count
    assert math.isnan(means["loss"][0])
    assert means["loss"][1] == pytest.approx(oracle[1]["loss"].sum() / count, abs=1e-6)


def test_a_non_finite_example_is_wrong_at_every_position() -> None:
    clean = naive.metrics(SCORES[1], LABELS, SCORES[0])
    found = tally_of([BROKEN])
    positions = int((LABELS[BROKEN] != -100).sum())
    assert found.sums["error"][0] == positions > clean["error"][BROKEN]
    assert found.sums["unchanged"][0] == 0
    assert found.bad[0] == 1


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_all_that_is_not_finite_is_bad(value: float) -> None:
    scores = torch.zeros(2, 1, 3)
    scores[1, 0, 2] = value
    found = digest(scores, torch.zeros(2, 1, dtype=torch.long), TASK, ("error",))
    assert found.finite.tolist() == [True, False]
    assert found.errors.tolist() == [0, 1]


def test_finite_logits_whose_sum_overflows_are_finite() -> None:
    scores = torch.full((2, 1, 3), 3e38)
    scores[:, :, 0] = 3.1e38
    found = digest(scores, torch.zeros(2, 1, dtype=torch.long), TASK, ("error",))
    assert found.finite.all()
    assert found.errors.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(6))
def test_any_split_merges_to_the_same(seed: int) -> None:
    random = np.random.default_rng(seed)
    order = random.permutation(N)
    edges = np.sort(random.choice(np.arange(1, N), size=seed + 1, replace=False))
    parts = [tally_of(part.tolist()) for part in np.split(order, edges)]
    merged = Tally.empty(METRICS, 3)
    for i in random.permutation(len(parts)):
        merged = merged + parts[i] if i % 2 else parts[i] + merged
    whole = tally_of(slice(None))
    for name in ("positions", "examples", "bad"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    for name, sums in whole.sums.items():
        np.testing.assert_allclose(merged.sums[name], sums, rtol=1e-12)


def test_rows_that_were_not_run_have_no_mean() -> None:
    found = Tally.of(("error",), 2, {-1: digest(SCORES[0], LABELS, TASK, ("error",))}, TASK.valid(LABELS))
    assert math.isnan(found.means()["error"][0])
    assert found.examples.tolist() == [0, N]


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, targets)


def total(logits: Tensor, targets: Tensor) -> Any:
    return 1.0


def two_columns(logits: Tensor, targets: Tensor) -> Tensor:
    return logits[:, :2]


@pytest.mark.parametrize(
    ("metric", "got"),
    [(mean_loss, r"got \(\)"), (two_columns, r"got \(\d+, 2\)"), (total, "got float")],
)
def test_a_metric_must_give_a_value_a_position(metric: Any, got: str) -> None:
    name = metric.__name__
    with pytest.raises(
        NetopsyError, match=f"metric '{name}': expected one value a position, .*{got}; return values, not"
    ):
        digest(SCORES[0], LABELS, TASK, (metric,))


def test_a_loss_of_ones_own_that_is_a_mean_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"metric 'loss': expected one value a position, shape \(\d+,\); got \(\)"):
        digest(SCORES[0], LABELS, Task(loss=mean_loss), ("loss",))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (("error", "acuracy"), r"metrics: expected error, loss, unchanged or a function .*; got 'acuracy'"),
        (("error", "loss", "error"), "metrics: expected each once; got error, loss, error"),
        ((margin, margin), "metrics: expected each once; got margin, margin"),
        (("error", unchanged), "metrics: 'unchanged' is built in; rename your function"),
        (("error", moved), "metrics: 'moved' is built in; rename your function"),
    ],
)
def test_bad_metrics_are_refused(metrics: tuple[Any, ...], message: str) -> None:
    with pytest.raises(NetopsyError, match=message):
        check_metrics(metrics)


def test_names_of_metrics() -> None:
    class Callable:
        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            return targets

    assert [metric_name(m) for m in ("error", margin, Callable())] == ["error", "margin", "Callable"]


def test_integer_and_boolean_metrics_are_summed() -> None:
    def right(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.argmax(1) == targets

    found = digest(SCORES[0], LABELS, TASK, ("error", right))
    positions = TASK.valid(LABELS).sum(1).numpy()
    np.testing.assert_array_equal(found.sums["right"], positions - found.sums["error"])
