"""Lines in the square [-1, 1]², one after the other: where they enter and leave it, and where they meet inside."""

import numpy as np


def clip(a: float, b: float, c: float) -> tuple[np.ndarray, np.ndarray] | None:
    """The part of the line a + b u + c v = 0 inside the square, as its two ends; None where it stays outside."""
    found = []
    for fixed in (-1.0, 1.0):
        if c != 0 and abs(v := -(a + b * fixed) / c) <= 1:
            found.append(np.array([fixed, v]))
        if b != 0 and abs(u := -(a + c * fixed) / b) < 1:
            found.append(np.array([u, fixed]))
    if len(found) < 2:
        return None
    assert len(found) == 2, "a line through a corner"
    return found[0], found[1]


def crossings(lines: np.ndarray) -> np.ndarray:
    """Points inside the square where two lines (rows a, b, c) meet; no three in one point."""
    points = []
    for i in range(len(lines)):
        for j in range(i):
            (a, b, c), (d, e, f) = lines[i], lines[j]
            determinant = b * f - c * e
            if determinant != 0:
                u, v = (c * d - a * f) / determinant, (a * e - b * d) / determinant
                if abs(u) < 1 and abs(v) < 1:
                    points.append((u, v))
    return np.array(points).reshape(-1, 2)


def regions(lines: np.ndarray) -> int:
    """1 + lines that enter the square + points where two of them meet in it."""
    return 1 + sum(clip(*line) is not None for line in lines) + len(crossings(lines))
