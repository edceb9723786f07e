"""Argument checks: what they let through, what they refuse, and what they say."""

from __future__ import annotations

import inspect
import math

import pytest

from netopsy._checks import NetopsyError, at_least, inside, near, one_of, shorten


def test_the_error_is_a_value_error() -> None:
    assert issubclass(NetopsyError, ValueError)


def test_one_of_names_what_is_allowed_and_what_came() -> None:
    one_of("stop", "exact", ("exact", "precision"))
    with pytest.raises(NetopsyError, match=r"^stop: expected one of 'exact', 'precision'; got 'never'$"):
        one_of("stop", "never", ("exact", "precision"))
    with pytest.raises(NetopsyError, match=r"^depth: expected one of 18, 50; got '18'$"):
        one_of("depth", "18", (18, 50))


@pytest.mark.parametrize(
    ("value", "open_low", "open_high"),
    [(0.0, False, False), (1.0, False, False), (0.5, True, True), (1, True, False)],
)
def test_inside_lets_through_what_lies_inside(value: float, open_low: bool, open_high: bool) -> None:
    inside("share", value, 0, 1, open_low=open_low, open_high=open_high)


@pytest.mark.parametrize(
    ("value", "open_low", "open_high", "interval"),
    [
        (-0.1, False, False, r"\[0, 1\]"),
        (1.1, False, False, r"\[0, 1\]"),
        (0.0, True, False, r"\(0, 1\]"),
        (1.0, False, True, r"\[0, 1\)"),
        (math.nan, False, False, r"\[0, 1\]"),
        (math.inf, True, True, r"\(0, 1\)"),
    ],
)
def test_inside_refuses_what_lies_outside(value: float, open_low: bool, open_high: bool, interval: str) -> None:
    with pytest.raises(NetopsyError, match=rf"^share: expected a number in {interval}; got {value!r}$"):
        inside("share", value, 0, 1, open_low=open_low, open_high=open_high)


def test_at_least_refuses_less_and_what_is_no_integer() -> None:
    at_least("draws", 1, 1)
    for value in (0, -3, True):
        with pytest.raises(NetopsyError, match=rf"^draws: expected an integer >= 1; got {value!r}$"):
            at_least("draws", value, 1)
    for other in (2.0, "2", None):
        with pytest.raises(NetopsyError, match="draws: expected an integer >= 1; got"):
            inspect.unwrap(at_least)("draws", other, 1)


def test_near_names_the_nearest_and_only_them() -> None:
    assert near("hiden.0", ["hidden.0", "head"]) == "; did you mean hidden.0?"
    assert near("hidden.9", ["hidden.0", "hidden.1", "hidden.2", "hidden.3"]).count(" or ") == 2
    assert near("zzz", ["hidden.0", "head"]) == ""
    assert near("epoch 11", [1, "epoch 1"]) == "; did you mean epoch 1?"


def test_shorten_counts_the_rest() -> None:
    assert shorten([]) == ""
    assert shorten([1, 2], most=2) == "1, 2"
    assert shorten([1, 2, 3], most=2) == "1, 2 and 1 more"
