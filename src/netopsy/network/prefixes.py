"""States saved from a module around the model, or inside it: their names differ by one prefix."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from netopsy._checks import NetopsyError, shorten
from netopsy._typing import State
from netopsy.network.addresses import canonical_names
from netopsy.network.states import Renamed


def fit_names(state: State, model: nn.Module, label: str) -> State:
    """A state under the model's own names, where one prefix makes the difference; else the state as it is.

    A LightningModule saves its network's `0.weight` as `model.0.weight`, and beside it what its loss and its metrics
    hold. Where the model's names are not among the state's, but all of them are under one prefix, that part of the
    state is the model's. The other way around, a prefix is put before the state's names where only one makes all of
    them names of the model; a state that then lacks a part of the model is `check_state`'s to refuse.

    Raises:
        NetopsyError: the model's names are in the state under several prefixes.
    """
    canonical = canonical_names(model)
    tied: dict[str, list[str]] = {}
    for name, first in canonical.items():
        tied.setdefault(first, []).append(name)
    saved = dict.fromkeys(canonical[name] for name in model.state_dict(keep_vars=True) if name in canonical)
    groups = [tied[first] for first in saved]
    given = list(state)

    def whole(prefix: str) -> bool:
        return all(any(f"{prefix}{name}" in state for name in names) for names in groups)

    if not groups or not given or whole(""):
        return state
    around = _prefixes(given, groups[0])
    found = [prefix for prefix in around if whole(prefix)]
    if len(found) > 1:
        raise NetopsyError(
            f"{label}: expected one part of the state to be that of {type(model).__name__}; several are: those under "
            f"{shorten(map(repr, found))}; say which, with Trajectory.from_states and a state of the names under one "
            "of them without it"
        )
    if found:
        prefix = found[0]
        return Renamed(state, {name.removeprefix(prefix): name for name in given if name.startswith(prefix)})
    inside = [
        prefix for prefix in _prefixes(canonical, [given[0]]) if all(f"{prefix}{name}" in canonical for name in given)
    ]
    return Renamed(state, {f"{inside[0]}{name}": name for name in given}) if len(inside) == 1 else state


def _prefixes(names: Collection[str], ends: Collection[str]) -> list[str]:
    """What stands before one of these ends in the names, up to a dot."""
    return sorted({name.removesuffix(end) for name in names for end in ends if name.endswith(f".{end}")})
