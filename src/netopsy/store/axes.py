"""Axes of a sweep: each is a list of changes to a configuration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from netopsy._checks import NetopsyError, at_least, inside, near
from netopsy._random import derive

Change = Mapping[str, Any]
"""Field -> value; a field of a nested configuration has a dotted name, such as `fit.lr`."""

Axis = Sequence[Change]

Draw = Callable[[np.random.Generator], object]
"""A distribution of a field's values."""


def grid(values: Mapping[str, Sequence[object]]) -> tuple[Change, ...]:
    """Every combination of the fields' values.

    >>> grid({"depth": (3, 5), "fit.lr": (0.1,)})
    ({'depth': 3, 'fit.lr': 0.1}, {'depth': 5, 'fit.lr': 0.1})
    """
    for name, choices in values.items():
        _check_values(name, choices)
    return tuple(dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values()))


def sample(count: int, values: Mapping[str, Sequence[object] | Draw], *, seed: int = 0) -> tuple[Change, ...]:
    """Random points: each field from its own distribution, or evenly from its values.

    Every point and field has a generator of its own: more points, or another field, leave the others as they were,
    and the work that was done for them too.

    >>> len(sample(20, {"fit.lr": log_uniform(1e-3, 1e-1), "width": (16, 32)}))
    20
    """
    at_least("count", count, 1)
    draws: dict[str, Draw] = {}
    for name, value in values.items():
        if callable(value):
            draws[name] = value
        else:
            _check_values(name, value)
            draws[name] = _choice(tuple(value))
    return tuple(
        {name: draw(np.random.default_rng(derive(seed, "sample", point, name))) for name, draw in draws.items()}
        for point in range(count)
    )


def uniform(low: float, high: float) -> Draw:
    """Evenly between two numbers."""
    inside("low", low, -np.inf, high, open_low=True, open_high=True)
    return lambda source: float(source.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """Evenly on a logarithmic scale between two positive numbers."""
    inside("low", low, 0, high, open_low=True, open_high=True)
    return lambda source: float(np.exp(source.uniform(np.log(low), np.log(high))))


def changed(config: Any, change: Change) -> Any:
    """A frozen configuration with other values of some fields.

    Raises:
        NetopsyError: for a field that does not exist, or what the configuration itself refuses.
    """
    nested: dict[str, dict[str, Any]] = {}
    if not is_dataclass(config) or isinstance(config, type):
        raise NetopsyError(
            f"base: expected a dataclass to change {', '.join(change)} of; got {type(config).__name__} {config!r}"
        )
    names = [field.name for field in fields(config)]
    own: dict[str, Any] = {}
    for path, value in change.items():
        name, _, rest = path.partition(".")
        if name not in names:
            raise NetopsyError(
                f"axis {path!r}: {type(config).__name__} has no field {name!r}{near(name, names)}; "
                f"it has {', '.join(names)}"
            )
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            own[name] = value
    for name, inner in nested.items():
        own[name] = changed(own.get(name, getattr(config, name)), inner)
    return replace(config, **own)


def _choice(values: tuple[object, ...]) -> Draw:
    return lambda source: values[int(source.integers(len(values)))]


def _check_values(name: str, values: object) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence | range) or not len(values):
        raise NetopsyError(f"axis {name!r}: expected a sequence of values, such as ({values!r},)")
