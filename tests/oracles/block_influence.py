"""Block influence and angular distance one position at a time, in float64; imports nothing of netopsy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cosine(one: Array, other: Array) -> float:
    inner = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    return inner / math.sqrt(sum(float(a) ** 2 for a in one)) / math.sqrt(sum(float(b) ** 2 for b in other))


def influence(before: Array, after: Array, mask: Array) -> float:
    """1 - the mean cosine over the positions (n, p) that are not padding."""
    cosines = [
        cosine(before[i, t], after[i, t]) for i in range(len(mask)) for t in range(mask.shape[1]) if mask[i, t]
    ]
    return 1 - sum(cosines) / len(cosines)


def angular_distance(before: Array, after: Array, mask: Array) -> float:
    """The mean angle at the last position that is not padding, as a share of a half turn."""
    angles = []
    for i in range(len(mask)):
        last = max(t for t in range(mask.shape[1]) if mask[i, t])
        angles.append(math.acos(min(1.0, max(-1.0, cosine(before[i, last], after[i, last])))) / math.pi)
    return sum(angles) / len(angles)
