"""Expectations of two ReLU units over Gaussian inputs, in closed form: arc-cosine kernels, also with biased gates.

Cho and Saul: Kernel Methods for Deep Learning (2009), orders 0 and 1. With a threshold h, the orthant probability of
a bivariate normal by Owen's T (Owen 1956) and its moments (Rosenbaum 1961).

A unit with weights w is f_w(x) = max(w·x - h‖w‖, 0), x ~ N(0, I): with its bias -h‖w‖ it is active on a share Φ(-h)
of the inputs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, owens_t

NARROW = 0.99
"""Cosines beyond which angles are computed with care."""


def angles(w: Float[np.ndarray, "a d"], v: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "a b"]:
    """Angles between the rows of two matrices, in radians; π/2 with a row of zeros.

    Near 0 and π, where an arc cosine loses eight digits, through the tangent of half the angle, ‖ŵ - v̂‖ / ‖ŵ + v̂‖.
    """
    a, b = unit_rows(w), unit_rows(v)
    cosine = np.clip(a @ b.T, -1, 1)
    found: Float[np.ndarray, "a b"] = np.arccos(cosine)
    row, column = np.nonzero(np.abs(cosine) > NARROW)
    apart, along = a[row] - b[column], a[row] + b[column]
    found[row, column] = 2 * np.arctan2(np.linalg.norm(apart, axis=1), np.linalg.norm(along, axis=1))
    return found


def unit_rows(w: Float[np.ndarray, "a d"]) -> Float[np.ndarray, "a d"]:
    """Rows of length one; rows of zeros stay."""
    length = np.linalg.norm(w, axis=1, keepdims=True)
    return w / np.where(length > 0, length, 1)


def gate_kernel(theta: Float[np.ndarray, "*s"], threshold: float = 0.0) -> Float[np.ndarray, "*s"]:
    """Order 0: P(both units are active) = E[f'_w f'_v], at an angle between their weights.

    (π - θ) / 2π; with a threshold h, Φ(-h) - 2 T(h, tan(θ/2)).

    >>> gate_kernel(np.array([0.0, np.pi / 2, np.pi])).tolist()
    [0.5, 0.25, 0.0]
    """
    theta = np.asarray(theta, dtype=np.float64)
    if threshold == 0:
        return np.asarray((np.pi - theta) / (2 * np.pi))
    return np.asarray(np.clip(ndtr(-threshold) - 2 * owens_t(threshold, _half_tangent(theta)), 0, None))


def relu_kernel(theta: Float[np.ndarray, "*s"], threshold: float = 0.0) -> Float[np.ndarray, "*s"]:
    """Order 1: E[f_w f_v] of weights of length one, at an angle between them.

    (sin θ + (π - θ) cos θ) / 2π; with a threshold h, and P the `gate_kernel`, it is
    (cos θ + h²) P - 2 h φ(h) Φ(-h tan(θ/2)) + sin θ exp(-h² / (1 + cos θ)) / 2π. Its derivative by cos θ is P.

    >>> relu_kernel(np.array([0.0])).tolist()
    [0.5]
    """
    theta = np.asarray(theta, dtype=np.float64)
    bell = np.exp(-(threshold**2) / 2) / np.sqrt(2 * np.pi)
    found = (np.cos(theta) + threshold**2) * gate_kernel(theta, threshold) + np.sin(theta) * gate_slope(
        theta, threshold
    )
    return np.asarray(found - 2 * threshold * bell * ndtr(-threshold * _half_tangent(theta)))


def gate_slope(theta: Float[np.ndarray, "*s"], threshold: float = 0.0) -> Float[np.ndarray, "*s"]:
    """How fast `gate_kernel` falls with the angle: exp(-h² / (1 + cos θ)) / 2π."""
    return np.asarray(np.exp(-(threshold**2) * (1 + _half_tangent(theta) ** 2) / 2) / (2 * np.pi))


def _half_tangent(theta: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """tan(θ/2), large but finite at π: 1 + its square is 2 / (1 + cos θ)."""
    return np.asarray(np.tan(np.minimum(np.asarray(theta, dtype=np.float64), np.pi - 1e-12) / 2))
