"""Argument checks whose message says what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class NetopsyError(ValueError):
    """Input that netopsy cannot work with; the message says what was expected, what came and what to do."""


class Diverged(NetopsyError):
    """Training came to a loss or weights that are not finite."""


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuse a value outside a small closed set.

    >>> one_of("stop", "never", ("exact", "precision"))
    Traceback (most recent call last):
    netopsy._checks.NetopsyError: stop: expected one of 'exact', 'precision'; got 'never'
    """
    if value not in allowed:
        raise NetopsyError(f"{name}: expected one of {', '.join(map(repr, allowed))}; got {value!r}")


def inside(
    name: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Refuse a number outside an interval (NaN is outside every interval).

    >>> inside("confidence", 1.5, 0, 1, open_low=True, open_high=True)
    Traceback (most recent call last):
    netopsy._checks.NetopsyError: confidence: expected a number in (0, 1); got 1.5
    """
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise NetopsyError(f"{name}: expected a number in {left}{low:g}, {high:g}{right}; got {value!r}")


def at_least(name: str, value: int, low: int) -> None:
    """Refuse an integer below `low`.

    >>> at_least("draws", 0, 1)
    Traceback (most recent call last):
    netopsy._checks.NetopsyError: draws: expected an integer >= 1; got 0
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise NetopsyError(f"{name}: expected an integer >= {low}; got {value!r}")


def near(name: str, known: Iterable[object], *, most: int = 3) -> str:
    """Name the known strings nearest to `name`, as a clause to append to an error message.

    >>> near("hiden.0", ["hidden.0", "head"])
    '; did you mean hidden.0?'
    """
    hits = get_close_matches(name, [str(item) for item in known], n=most, cutoff=0.5)
    return f"; did you mean {' or '.join(hits)}?" if hits else ""


def shorten(items: Iterable[object], most: int = 5) -> str:
    """List a few items and count the rest.

    >>> shorten(range(8), most=3)
    '0, 1, 2 and 5 more'
    """
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
