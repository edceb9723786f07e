"""The criticality paper's tables: what was printed, and Kendall's τ on it."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy.stats import kendalltau

from netopsy.studies.criticality_tables import MEASURES, published_ranking, published_tables


def test_the_tables_are_whole() -> None:
    tables = published_tables()
    assert tables.groupby("table").size().to_dict() == {2: 9, 3: 9, 4: 4, 5: 4}
    assert tables.columns.tolist() == ["table", "data", "network", "gap", *MEASURES]
    assert not tables.isna().any().any()
    assert tables.groupby("table").data.unique().map(list).to_dict() == {
        2: ["CIFAR-10"],
        3: ["CIFAR-100"],
        4: ["CIFAR-10"],
        5: ["CIFAR-100"],
    }
    largest = tables[tables.table == 2].set_index("network").pfn
    assert (largest["ResNet101"], largest["DenseNet121"]) == (8e110, 2e129)


def test_one_network_is_in_two_tables() -> None:
    """ResNet18 of Tables 2 and 3 is the 4x width of Tables 4 and 5: the reading of numbers without their points."""
    tables = published_tables()
    for table, widths in ((2, 4), (3, 5)):
        whole = tables[(tables.table == table) & (tables.network == "ResNet18")]
        wide = tables[(tables.table == widths) & (tables.network == "ResNet18 4x")]
        assert whole[["gap", *MEASURES]].to_numpy().tolist() == wide[["gap", *MEASURES]].to_numpy().tolist()


def test_our_tau_is_the_printed_one_but_for_two() -> None:
    """To the last printed digit: most are cut off, two of them (±15/36, printed ±.42) rounded."""
    ranking = published_ranking()
    assert len(ranking) == 4 * len(MEASURES)
    differ, rounded = {}, []
    for row in ranking.itertuples():
        if math.trunc(100 * row.tau_a) != round(100 * row.printed):
            if round(100 * row.tau_a) == round(100 * row.printed):
                rounded.append((row.table, row.measure))
            else:
                differ[row.table, row.measure] = (row.printed, row.tau_a)
    assert differ == {(2, "dti"): (0.38, pytest.approx(12 / 36)), (2, "sosp"): (-0.53, pytest.approx(-18 / 36))}
    assert rounded == [(2, "pac_bayes"), (3, "sosp")]


def test_what_the_two_would_need() -> None:
    ranking = published_ranking().set_index(["table", "measure"])
    assert math.trunc(100 * 14 / 36) == 38  # one pair the other way
    assert ranking.concordant[2, "dti"] - ranking.discordant[2, "dti"] == 12
    assert round(100 * -19 / 36) == -53  # one of the ties told apart
    assert ranking.tied[2, "sosp"] == 2


def test_ties_do_not_count_which_scipy_does_otherwise() -> None:
    tables = published_tables()
    for row in published_ranking().itertuples():
        part = tables[tables.table == row.table]
        values = list(zip(part[row.measure], part.gap, strict=True))
        agree = sum(
            (a > b) - (a < b) if x > y else (b > a) - (b < a) for (a, x), (b, y) in itertools.combinations(values, 2)
        )
        assert row.tau_a == agree / (row.n * (row.n - 1) / 2)
        tau_b = kendalltau(part[row.measure], part.gap).statistic
        assert (row.tau_a == pytest.approx(tau_b)) == (row.tied == 0)
