"""Forward passes written out by hand in float64, from a plain state dict; nothing of netopsy is in them."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Array = npt.NDArray[np.float64]


def fcn(state: State, x: Array, depth: int) -> Array:
    """One example and one unit at a time."""
    rows = []
    for example in x:
        values = [float(v) for v in example.ravel()]
        for layer in [f"hidden.{i}" for i in range(depth)] + ["classifier"]:
            weight = state[f"{layer}.weight"].double().numpy()
            bias = state[f"{layer}.bias"].double().numpy() if f"{layer}.bias" in state else np.zeros(len(weight))
            outputs = []
            for unit in range(len(weight)):
                total = float(bias[unit])
                for i, value in enumerate(values):
                    total += float(weight[unit, i]) * value
                outputs.append(total if layer == "classifier" else max(total, 0.0))
            values = outputs
        rows.append(values)
    return np.array(rows)


def vgg(state: State, x: Tensor, convolutions: tuple[int, ...]) -> Tensor:
    """VGG; a pooling window that hangs over the edge takes the maximum of what is inside."""
    for stage, count in enumerate(convolutions, 1):
        for i in range(1, count + 1):
            x = _convolve(state, f"stage{stage}.conv{i}", x, 1)
            x = _normalize(state, f"stage{stage}.norm{i}", x)
            x = x.clamp(min=0)
        x = _halve(x)
    x = x.reshape(len(x), -1)
    x = _dense(state, "fc1", x).clamp(min=0)
    x = _dense(state, "fc2", x).clamp(min=0)
    return _dense(state, "classifier", x)


def resnet_v1(state: State, x: Tensor, stages: tuple[int, ...], *, bottleneck: bool, large: bool) -> Tensor:
    """He et al. 2016a, Figs. 2 and 5: convolution, normalization, ReLU; the last ReLU comes after the sum."""
    x = _convolve(state, "stem.conv", x, 2 if large else 1)
    x = _normalize(state, "stem.norm", x)
    x = x.clamp(min=0)
    if large:
        x = _pool3(x)
    for stage, count in enumerate(stages, 1):
        for number in range(1, count + 1):
            block = f"stage{stage}.block{number}"
            stride = 2 if stage > 1 and number == 1 else 1
            if bottleneck:
                y = _normalize(state, f"{block}.norm1", _convolve(state, f"{block}.conv1", x, 1)).clamp(min=0)
                y = _normalize(state, f"{block}.norm2", _convolve(state, f"{block}.conv2", y, stride)).clamp(min=0)
                y = _normalize(state, f"{block}.norm3", _convolve(state, f"{block}.conv3", y, 1))
            else:
                y = _normalize(state, f"{block}.norm1", _convolve(state, f"{block}.conv1", x, stride)).clamp(min=0)
                y = _normalize(state, f"{block}.norm2", _convolve(state, f"{block}.conv2", y, 1))
            if x.shape != y.shape:
                x = _convolve(state, f"{block}.shortcut.conv", x, stride)
                x = _normalize(state, f"{block}.shortcut.norm", x)
            x = (x + y).clamp(min=0)
    return _dense(state, "classifier", x.mean(dim=(2, 3)))


def resnet_v2(state: State, x: Tensor, stages: tuple[int, ...], *, bottleneck: bool, large: bool) -> Tensor:
    """Zhang et al. 2022, Fig. 10: (N R) preact, then C N R C, in a bottleneck C N R C N R C.

    An identity skip leaves before the preact, a downsampling convolution after it; nothing follows the sum.
    """
    x = _convolve(state, "stem.conv", x, 2 if large else 1)
    if large:
        x = _pool3(x)
    for stage, count in enumerate(stages, 1):
        for number in range(1, count + 1):
            block = f"stage{stage}.block{number}"
            stride = 2 if stage > 1 and number == 1 else 1
            preact = _normalize(state, f"{block}.norm1", x).clamp(min=0)
            if bottleneck:
                y = _convolve(state, f"{block}.conv1", preact, 1)
                y = _convolve(state, f"{block}.conv2", _normalize(state, f"{block}.norm2", y).clamp(min=0), stride)
                y = _convolve(state, f"{block}.conv3", _normalize(state, f"{block}.norm3", y).clamp(min=0), 1)
            else:
                y = _convolve(state, f"{block}.conv1", preact, stride)
                y = _convolve(state, f"{block}.conv2", _normalize(state, f"{block}.norm2", y).clamp(min=0), 1)
            x = (x if x.shape == y.shape else _convolve(state, f"{block}.shortcut.conv", preact, stride)) + y
    x = _normalize(state, "norm", x).clamp(min=0)
    return _dense(state, "classifier", x.mean(dim=(2, 3)))


def _convolve(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    weight, bias = state[f"{name}.weight"].double(), state.get(f"{name}.bias")
    padding = {1: 0, 3: 1, 7: 3}[weight.shape[-1]]
    return F.conv2d(x, weight, None if bias is None else bias.double(), stride, padding)


def _normalize(state: State, name: str, x: Tensor) -> Tensor:
    """Batch normalization with the running statistics; nothing where the net has none of this name."""
    if f"{name}.weight" not in state:
        return x
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].double()[:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def _dense(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].double().T + state[f"{name}.bias"].double()


def _halve(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    out = torch.empty(*x.shape[:2], (height + 1) // 2, (width + 1) // 2, dtype=x.dtype)
    for i, j in itertools.product(range(out.shape[2]), range(out.shape[3])):
        out[:, :, i, j] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax(dim=(2, 3))
    return out


def _pool3(x: Tensor) -> Tensor:
    """3×3 maxima at stride 2, with one pixel of padding that never wins."""
    height, width = x.shape[2:]
    out = torch.empty(*x.shape[:2], (height + 1) // 2, (width + 1) // 2, dtype=x.dtype)
    for i, j in itertools.product(range(out.shape[2]), range(out.shape[3])):
        window = x[:, :, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
        out[:, :, i, j] = window.amax(dim=(2, 3))
    return out
