"""Transformers and mixers one position at a time, in float64 from a plain state dict; imports nothing of netopsy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor

State = dict[str, Tensor]
Array = npt.NDArray[np.float64]


def language_model(state: State, ids: npt.NDArray[np.int64], depth: int, heads: int) -> Array:
    rows = []
    for sequence in ids:
        x = np.array([_of(state, "embedding.weight")[token] for token in sequence])
        x = x + _of(state, "position.weight")[: len(x)]
        for i in range(depth):
            x = _block(state, f"blocks.{i}", x, heads, causal=True, activation=lambda value: max(value, 0.0))
        rows.append([_linear(state, "head", _norm(state, "norm", row)) for row in x])
    return np.array(rows)


def vit(state: State, images: Array, patch: int, depth: int, heads: int) -> Array:
    """With a class token where the state has one, else by the mean over patches."""
    rows = []
    for image in images:
        x = [_linear(state, "embedding", values) for values in _patches(image, patch)]
        if "token.weight" in state:
            x = [_of(state, "token.weight"), *x]
        x = np.array(x) + _of(state, "position.weight")
        for i in range(depth):
            x = _block(state, f"blocks.{i}", x, heads, causal=False, activation=_gelu)
        normed = [_norm(state, "norm", row) for row in x]
        rows.append(_linear(state, "head", normed[0] if "token.weight" in state else sum(normed) / len(normed)))
    return np.array(rows)


def mixer(state: State, images: Array, patch: int, depth: int) -> Array:
    rows = []
    for image in images:
        x = np.array([_linear(state, "embedding", values) for values in _patches(image, patch)])
        for name in (f"blocks.{i}" for i in range(depth)):
            normed = np.array([_norm(state, f"{name}.norm0", row) for row in x])
            for channel in range(x.shape[1]):
                x[:, channel] += _mlp(state, f"{name}.token_mixing", normed[:, channel], _gelu)
            for position in range(len(x)):
                normed_row = _norm(state, f"{name}.norm1", x[position])
                x[position] += _mlp(state, f"{name}.channel_mixing", normed_row, _gelu)
        rows.append(_linear(state, "head", sum(_norm(state, "norm", row) for row in x) / len(x)))
    return np.array(rows)


def _block(
    state: State, name: str, x: Array, heads: int, *, causal: bool, activation: Callable[[float], float]
) -> Array:
    normed = [_norm(state, f"{name}.norm0", row) for row in x]
    query, key, value = (
        [_linear(state, f"{name}.attention.{part}", row) for row in normed] for part in ("query", "key", "value")
    )
    size = x.shape[1] // heads
    y = []
    for i in range(len(x)):
        mixed = np.zeros(x.shape[1])
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            seen = range(i + 1) if causal else range(len(x))
            weights = [math.exp(query[i][own] @ key[j][own] / math.sqrt(size)) for j in seen]
            mixed[own] = sum(w * value[j][own] for w, j in zip(weights, seen, strict=True)) / sum(weights)
        y.append(x[i] + _linear(state, f"{name}.attention.out", mixed))
    return np.array([row + _mlp(state, f"{name}.mlp", _norm(state, f"{name}.norm1", row), activation) for row in y])


def _mlp(state: State, name: str, x: Array, activation: Callable[[float], float]) -> Array:
    hidden = np.array([activation(value) for value in _linear(state, f"{name}.dense0", x)])
    return _linear(state, f"{name}.dense1", hidden)


def _gelu(value: float) -> float:
    return value * 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))


def _norm(state: State, name: str, x: Array) -> Array:
    centered = x - sum(x) / len(x)
    variance = sum(centered**2) / len(x)
    return centered / math.sqrt(variance + 1e-6) * _of(state, f"{name}.weight") + _of(state, f"{name}.bias")


def _linear(state: State, name: str, x: Array) -> Array:
    out = _of(state, f"{name}.weight") @ x
    return out + _of(state, f"{name}.bias") if f"{name}.bias" in state else out


def _patches(image: Array, patch: int) -> list[Array]:
    _, height, width = image.shape
    return [
        image[:, top : top + patch, left : left + patch].ravel()
        for top in range(0, height, patch)
        for left in range(0, width, patch)
    ]


def _of(state: State, name: str) -> Array:
    return state[name].double().numpy()
