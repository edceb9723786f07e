"""Draw a module again from the distribution it was first drawn from (re-randomization)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError, shorten
from netopsy._random import derive, forked
from netopsy._storage import Scratch, write_state
from netopsy.network.addresses import canonical_names, named_state, unwrap
from netopsy.network.states import StateFile, check_state
from netopsy.network.trajectory import Trajectory

RESETS = ("reset_parameters", "_reset_parameters")
"""Methods by which modules draw themselves again, in the order they are tried."""


@dataclass(frozen=True, eq=False)
class Redrawer:
    """Fresh initial values by seed; each draw is kept in a temporary file, so that it costs no memory.

    With a factory a draw is the whole model built again: exact for any initialization, however it is coded. With a
    module alone a draw calls `reset_parameters` of each of its modules: exact where nothing but these methods
    initialized it.
    """

    template: nn.Module
    factory: Callable[[], nn.Module] | None = None
    _scratch: Scratch = field(default_factory=Scratch, init=False, repr=False)
    _files: dict[int, StateFile] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, source: Trajectory | nn.Module) -> Redrawer:
        """The redrawer of a trajectory (by its factory where it has one) or of a module."""
        if isinstance(source, Trajectory):
            return cls(source.model(), source.factory)
        return cls(unwrap(source))

    def tensor(self, seed: int, name: str) -> Tensor:
        """The fresh value of one parameter or buffer in the draw with this seed.

        Raises:
            NetopsyError: when there is no factory and the parameter's module cannot draw itself again.
        """
        if seed not in self._files:
            path = self._scratch.path / f"{seed}.safetensors"
            write_state(path, self._draw(seed))
            self._files[seed] = StateFile(path)
        file, first = self._files[seed], self._canonical.get(name, name)
        if first not in file:
            raise NetopsyError(_cannot(name))
        return file[first]

    @cached_property
    def _canonical(self) -> dict[str, str]:
        return canonical_names(self.template)

    def _draw(self, seed: int) -> dict[str, Tensor]:
        with forked(derive(seed, "redraw")), torch.no_grad():
            if self.factory is not None:
                model = unwrap(self.factory())
                check_state(named_state(model), self.template, "the factory's model")
                return {name: value.detach() for name, value in named_state(model).items()}
            return reset_values(self.template)

    def check(self, names: set[str]) -> None:
        """Refuse, before any work, names that cannot be drawn again."""
        if self.factory is not None:
            return
        drawn = self._draw(0)
        lost = sorted(name for name in names if self._canonical.get(name, name) not in drawn)
        if lost:
            raise NetopsyError(_cannot(shorten(lost)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.template, self.factory)  # another process draws the same again


def _cannot(names: str) -> str:
    return (
        f"re-randomization of {names}: the module has no {' or '.join(RESETS)}; pass a Trajectory made with the "
        "function that builds the model (a factory) instead of a module"
    )


def reset_values(model: nn.Module) -> dict[str, Tensor]:
    """Values that the modules' own `reset_parameters` draw, under canonical names; the model is untouched.

    What no such method sets is left out; integers and truth values are kept as they are. Children draw before their
    parents, as they do when they are built: `MultiheadAttention` draws over what its projections drew.
    """
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for value in named_state(fresh).values():
            if value.is_floating_point() or value.is_complex():
                value.fill_(torch.nan)  # what is still NaN below was not drawn
    for module in reversed(list(fresh.modules())):
        reset = next((getattr(module, name) for name in RESETS if callable(getattr(module, name, None))), None)
        if reset is not None:
            reset()
    return {name: value.detach() for name, value in named_state(fresh).items() if not value.isnan().any()}
