"""Trajectory: the checkpoints of one training run, checkpoint 0 included, read lazily."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError, near, shorten
from netopsy._random import forked
from netopsy._typing import Key, State
from netopsy.network.addresses import canonical_names, named_state, unwrap
from netopsy.network.checkpoint_folders import find_checkpoints
from netopsy.network.prefixes import fit_names
from netopsy.network.states import StateFile, check_parameters, check_state, same_values

ModelOrFactory = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The checkpoints of one training run under the user's own keys, in training order.

    Made by `from_states`, `from_files` or `from_folder`. Every state is checked against the model here, before any
    long work; tensors are read when they are needed.

    Attributes:
        source: a function without arguments that builds the model as it was built before training (its random
            initialization included: re-randomization calls it again), or a module of the right architecture.
        states: key -> state, the last one trained.
        initial: the key of the weights training started from (by default 0 where there is one), or None.
    """

    source: ModelOrFactory
    states: Mapping[Key, State]
    initial: Key | None = None

    def __post_init__(self) -> None:
        if not self.states:
            raise NetopsyError("trajectory: expected at least one checkpoint; got none")
        _check_copied(self._template)
        check_parameters(self._template)
        self._check_unsaved()
        fitted: dict[Key, State] = {}
        for key, state in self.states.items():
            label = f"checkpoint {key!r}"
            fitted[key] = fit_names(state, self._template, label)
            check_state(fitted[key], self._template, label)
        object.__setattr__(self, "states", fitted)
        if self.initial is None and 0 in self.states:
            object.__setattr__(self, "initial", 0)
        if self.initial is not None and self.initial not in self.states:
            raise NetopsyError(
                f"trajectory: the initial checkpoint {self.initial!r} is not among {shorten(map(repr, self.states))}"
            )

    @classmethod
    def from_states(
        cls, source: ModelOrFactory, states: Mapping[Key, State | Path | str], *, initial: Key | None = None
    ) -> Trajectory:
        """From a factory (or module) and states by key, in training order.

        A state is a mapping, the path of a file, or the path of a folder that holds one model (`save_pretrained`).
        One saved from a module around the model, such as a LightningModule, may have a prefix before the model's
        names.
        """
        read = {key: StateFile(Path(s)) if isinstance(s, Path | str) else s for key, s in states.items()}
        return cls(source, read, initial)

    @classmethod
    def from_files(cls, source: ModelOrFactory, *, initial: Path | str, final: Path | str) -> Trajectory:
        """From two files, or folders with one model; their keys are `0` and `"final"`."""
        return cls.from_states(source, {0: Path(initial), "final": Path(final)})

    @classmethod
    def from_folder(
        cls, source: ModelOrFactory, folder: Path | str, *, initial: State | Path | str | None = None
    ) -> Trajectory:
        """From the folder of a training run: of netopsy, of the Hugging Face Trainer, of Lightning, or plain files.

        `network/checkpoint_folders.py` says which files are read under which keys: steps, where the run counted
        them; the last number in a plain file's name (`epoch_12.pt` is 12). Neither the Trainer nor Lightning saves
        the weights training started from.

        Args:
            source: the model's factory, or a module.
            folder: of the run.
            initial: the weights training started from, under key 0: a state, a file, or a folder with one model.

        Raises:
            NetopsyError: when the folder is missing, holds no checkpoint or those of several runs, two files have one
                key, or `initial` is given although the folder has a checkpoint 0.
        """
        found: dict[Key, State | Path | str] = {**find_checkpoints(Path(folder))}
        if initial is None:
            return cls.from_states(source, found)
        if 0 in found:
            raise NetopsyError(
                f"trajectory: initial: expected no checkpoint 0 in {folder}; it has {found[0]}; leave initial out, "
                "or take that file away"
            )
        return cls.from_states(source, {0: initial, **found})

    @property
    def keys(self) -> tuple[Key, ...]:
        """The checkpoints' keys in training order."""
        return tuple(self.states)

    @property
    def final(self) -> Key:
        """The key of the trained network."""
        return self.keys[-1]

    @property
    def factory(self) -> Callable[[], nn.Module] | None:
        """The function that builds and initializes the model, where one was given."""
        return None if isinstance(self.source, nn.Module) else self.source

    @cached_property
    def _template(self) -> nn.Module:
        """The architecture, whose own values mean nothing; shared, so never changed."""
        return unwrap(self.source) if isinstance(self.source, nn.Module) else _built(self.source, 0)

    def _check_unsaved(self) -> None:
        """Refuse a factory that draws buffers which no state holds: those of the trained network are lost."""
        saved = self._template.state_dict(keep_vars=True)
        state = self.states[self.final]
        unsaved = {
            name: value
            for name, value in self._template.named_buffers()
            if value.is_floating_point() and name not in saved and name not in state
        }
        if not unsaved or isinstance(self.source, nn.Module):
            return
        again = dict(_built(self.source, 1).named_buffers())
        if drawn := [name for name, value in unsaved.items() if not same_values(value, again[name])]:
            raise NetopsyError(
                f"factory: expected buffers that the states hold, or that are the same whenever the model is built; "
                f"{shorten(drawn)}, not saved (persistent=False), was drawn anew; save it, or pass the trained "
                "module itself in place of the factory"
            )

    @cached_property
    def _canonical(self) -> dict[str, str]:
        return canonical_names(self._template)

    def model(self, key: Key | None = None) -> nn.Module:
        """A new module that holds the weights of a checkpoint (by default the trained ones), in eval mode."""
        model = copy.deepcopy(self._template)
        values, own = self.state(key), named_state(model)
        with torch.no_grad():
            for name in values:  # not load_state_dict, which leaves out what a model does not save
                own[self._canonical[name]].copy_(values[name])
        return model.eval()

    def state(self, key: Key | None = None) -> State:
        """The state of a checkpoint (by default the trained one), read lazily."""
        return self.states[self.check_key(self.final if key is None else key)]

    def tensor(self, key: Key, name: str) -> Tensor:
        """One tensor of a checkpoint under any of its names.

        A value the model does not save (a non-persistent buffer) is the same in every checkpoint.

        Raises:
            NetopsyError: when there is no such checkpoint, or the model has no value of this name.
        """
        state = self.state(key)
        if name not in self._canonical:
            raise NetopsyError(
                f"trajectory: {type(self._template).__name__} has no parameter or buffer {name!r}"
                f"{near(name, self._canonical)}"
            )
        first = self._canonical[name]
        for alias in (name, *(alias for alias, other in self._canonical.items() if other == first)):
            if alias in state:
                return state[alias].detach()
        return named_state(self._template)[first].detach()

    def check_key(self, key: Key) -> Key:
        """Refuse a key that was not recorded."""
        if key not in self.states:
            need = "no checkpoint 0 (the weights before training)" if key == 0 else f"no checkpoint {key!r}"
            raise NetopsyError(
                f"trajectory: {need}; recorded are {shorten(map(repr, self.states), 12)}; pass one of these, or a "
                "trajectory that has it"
            )
        return key


def _built(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    with forked(seed):
        model = factory()
    if not isinstance(model, nn.Module):
        raise NetopsyError(f"factory: expected a function that returns a torch module; got {type(model).__name__}")
    return unwrap(model)


def _check_copied(model: nn.Module) -> None:
    """Refuse a model that torch cannot copy: one that keeps a tensor made from its parameters."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise NetopsyError(
                    f"model: expected one that copy.deepcopy takes; got {f'{name}.{attribute}'.lstrip('.')}, made "
                    "from its parameters by a hook or in forward; detach it, or, for nn.utils.weight_norm, take "
                    "torch.nn.utils.parametrizations.weight_norm, whose load_state_dict reads the old names"
                )
