"""Numbers and lists as a reader says them."""

from __future__ import annotations

from collections.abc import Sequence

from netopsy._checks import shorten


def percent(share: float) -> str:
    """
    >>> percent(0.0284), percent(0.9), percent(0.0004), percent(2e-6)
    ('2.8 %', '90 %', '0.04 %', '0.0002 %')
    """
    value = 100 * share
    return f"{value:.1g} %" if 0 < value < 0.1 else f"{value:.1f}".removesuffix(".0") + " %"


def points(change: float) -> str:
    """
    >>> points(0.4213), points(-0.002), points(0.0), points(0.01)
    ('+42.1 points', '−0.2 points', '±0 points', '+1 point')
    """
    text = signed(change).removesuffix(".0")
    return f"{text} point" if text[1:] == "1" else f"{text} points"


def bound(limit: float) -> str:
    """A limit in points, with all its digits: one that is rounded would say something else.

    >>> bound(0.05), bound(0.0125), bound(0.01), bound(0)
    ('5 points', '1.25 points', '1 point', '0 points')
    """
    text = f"{100 * limit:g}"
    return f"{text} point" if text == "1" else f"{text} points"


def count(number: int, noun: str) -> str:
    """
    >>> count(1, "example"), count(1200, "example")
    ('1 example', '1,200 examples')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def signed(change: float) -> str:
    """A change in points for a column, where all have as many digits.

    >>> signed(0.1), signed(-0.002), signed(-1e-9)
    ('+10.0', '−0.2', '±0.0')
    """
    text = f"{100 * change:+.1f}"
    return "±0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def names(sites: Sequence[str], most: int = 4) -> str:
    """
    >>> names(["a"]), names(["a", "b"]), names(list("abcdefgh"))
    ('a', 'a and b', 'a, b, c, d and 4 more')
    """
    if len(sites) == 2:
        return " and ".join(sites)
    return shorten(sites, most)
