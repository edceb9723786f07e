"""Batch normalization conserves the norms of the filters before it: how far they drift at a step size.

Tian et al.: Luck Matters: Understanding Training Dynamics of Deep ReLU Networks (2019), Theorem 3, Figure 15.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netopsy._checks import NetopsyError, inside, near, shorten
from netopsy._random import forked
from netopsy.network.addresses import unwrap

EPS = torch.finfo(torch.float64).tiny
"""Of batch normalization: torch refuses 0, and beside any variance this is it."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of the outputs and the targets, one number."""


def half_squares(outputs: Float[Tensor, "n ..."], targets: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """½ mean over examples of ‖outputs - targets‖²."""
    return (outputs - targets).square().flatten(1).sum(1).mean() / 2


def norm_drift(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    targets: Tensor,
    *,
    rates: Sequence[float],
    duration: float = 1.0,
    filters: str | Sequence[str] | None = None,
    loss: Loss = half_squares,
) -> pd.DataFrame:
    """Train copies of a network by gradient descent at several step sizes, and say how far filters' norms moved.

    Under gradient flow Linear → BN → ReLU conserves ‖w‖² of each filter, and Linear → ReLU → BN ‖w‖² + b²; steps of
    a size lr leave this by a part proportional to lr. Copies are trained in float64, on all inputs as one batch,
    without momentum and weight decay, with the eps of every batch normalization as good as 0. The model itself is not
    changed.

    Args:
        model: where training starts, such as `nn.Sequential(nn.Linear(...), nn.BatchNorm1d(...), nn.ReLU(), ...)`.
        inputs: one batch, of at least two examples.
        targets: as `loss` takes them.
        rates: step sizes.
        duration: lr x steps, the same for all of them.
        filters: names of the linear and convolutional modules; by default all of them.
        loss: of outputs and targets.

    Returns:
        A row a module and rate: `layer, lr, steps`, `drift` (the largest relative change of a filter's ‖w‖²),
        `drift_with_bias` (of its ‖w‖² + b²), `status`: `ok`, or `non-finite`, with null drifts.

    Raises:
        NetopsyError: for a name that is no such module, rates or a duration that are not above zero, or
            fewer than two examples.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    >>> frame = norm_drift(net, torch.randn(32, 4), torch.randn(32, 2), rates=[0.01], filters="0")
    >>> bool(frame.drift[0] < 0.01)
    True
    """
    if not isinstance(model, nn.Module):
        raise NetopsyError(f"model: expected a torch module; got {type(model).__name__}")
    model = unwrap(model)
    names = find_filters(model, filters)
    if not rates:
        raise NetopsyError("rates: expected at least one step size; got none")
    for rate in rates:
        inside("rates", rate, 0, math.inf, open_low=True, open_high=True)
    inside("duration", duration, max(rates), math.inf, open_high=True)
    if len(inputs) < 2 or len(targets) != len(inputs):
        raise NetopsyError(
            f"inputs: expected one batch of at least two examples, and as many targets; got {len(inputs)} and "
            f"{len(targets)}"
        )
    targets = targets.double() if targets.is_floating_point() else targets
    rows = []
    for rate in rates:
        trained, steps = _double(model), round(duration / rate)
        before = {name: _squares(trained.get_submodule(name)) for name in names}
        with forked(0):
            _train(trained, inputs.double(), targets, rate, steps, loss)
        for name in names:
            after = _squares(trained.get_submodule(name))
            drifts = [float(((b - a).abs() / a).max()) for a, b in zip(before[name], after, strict=True)]
            finite = all(map(math.isfinite, drifts))
            rows.append(
                (name, rate, steps, *(drifts if finite else [math.nan] * 2), "ok" if finite else "non-finite")
            )
    names_of = ["layer", "lr", "steps", "drift", "drift_with_bias", "status"]
    return pd.DataFrame(rows, columns=names_of).astype({"layer": "string", "steps": "Int64", "status": "string"})


def find_filters(model: nn.Module, filters: str | Sequence[str] | None) -> list[str]:
    """Names of linear and convolutional modules; refuses any other."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    known = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    chosen = known if filters is None else [filters] if isinstance(filters, str) else list(filters)
    for name in chosen:
        if name not in known:
            raise NetopsyError(
                f"filters: expected names of linear or convolutional modules; got {name!r}"
                f"{near(name, known) or '; there are ' + (shorten(known) or 'none')}"
            )
    if not chosen:
        raise NetopsyError(f"filters: expected a linear or convolutional module; {type(model).__name__} has none")
    return chosen


def _double(model: nn.Module) -> nn.Module:
    trained = copy.deepcopy(model).double().train()
    for module in trained.modules():
        if isinstance(module, _BatchNorm):
            module.eps = EPS
    return trained


def _squares(module: nn.Module) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """‖w‖² of each filter, and ‖w‖² + b²."""
    own = dict(module.named_parameters(recurse=False))
    weight = own["weight"].detach().flatten(1).square().sum(1)
    return weight, weight + own["bias"].detach().square() if "bias" in own else weight


def _train(model: nn.Module, inputs: Tensor, targets: Tensor, rate: float, steps: int, loss: Loss) -> None:
    parameters = [value.requires_grad_() for value in model.parameters()]
    for _ in range(steps):
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(model(inputs), targets), parameters, allow_unused=True)
        with torch.no_grad():
            for value, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    value -= rate * gradient
