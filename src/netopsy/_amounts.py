"""How long and how large, for the eye."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (0.25, 42, 600, 9000)]
    ['0.2 s', '42 s', '10 min', '2.5 h']
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def size(count: int) -> str:
    """
    >>> [size(n) for n in (0, 2500, 3_100_000_000)]
    ['0 B', '2.5 kB', '3.1 GB']
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
