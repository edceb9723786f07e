"""One checkpoint as a mapping from name to tensor, and how it is held against the model it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from netopsy._checks import NetopsyError, near, shorten
from netopsy._typing import State
from netopsy.network.addresses import canonical_names, named_state
from netopsy.network.shards import check_model_file, read_index
from netopsy.network.tensor_files import TensorFile

PREFIXES = ("module.", "_orig_mod.")
Place = TypeVar("Place")


@dataclass(frozen=True)
class StateFile(Mapping[str, Tensor]):
    """A checkpoint on disk as a read-only mapping from name to tensor; opened on first use, read as needed.

    Reads safetensors, and what `torch.save` wrote of plain tensors (`weights_only=True`: no code of the file is
    run), memory-mapped. Of shards only the one is opened that holds the tensor asked for. Names that netopsy wrote
    once for several tied parameters all answer.

    Attributes:
        path: a file, the index of a sharded model (`model.safetensors.index.json`), or a folder that holds one model
            under the names that `save_pretrained` gives.

    Raises:
        NetopsyError: when a file is missing, damaged, or holds anything but named tensors.
    """

    path: Path

    @cached_property
    def _places(self) -> dict[str, tuple[TensorFile, str]]:
        """Names as the model has them -> a file and the name there."""
        path = check_model_file(self.path) if self.path.is_dir() else self.path
        if path.name.endswith(".index.json"):
            return _unprefixed(read_index(path))
        file = TensorFile(path)
        return _unprefixed({name: (file, name) for name in file.names})

    def outline(self, name: str) -> Tensor:
        """A tensor of this shape and type, whose values mean nothing: they may not have been read."""
        file, written = self._places[name]
        return file.outline(written)

    def __getitem__(self, name: str) -> Tensor:
        file, written = self._places[name]
        return file.read(written)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __hash__(self) -> int:
        return hash(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)


@dataclass(frozen=True, eq=False)
class Renamed(Mapping[str, Tensor]):
    """A state, or a part of it, under other names; tensors are read when they are needed.

    Attributes:
        state: as it was saved.
        names: name here -> name there.
    """

    state: State
    names: Mapping[str, str]

    def __getitem__(self, name: str) -> Tensor:
        return self.state[self.names[name]]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def outline_of(state: State, name: str) -> Tensor:
    """One tensor of a state, or one of the same shape and type where this spares reading it."""
    if isinstance(state, Renamed):
        return outline_of(state.state, state.names[name])
    return state.outline(name) if isinstance(state, StateFile) else state[name]


def _unprefixed(names: Mapping[str, Place]) -> dict[str, Place]:
    """Strip the prefixes that `torch.compile` and data-parallel wrappers put before every name."""
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return _unprefixed({name.removeprefix(prefix): place for name, place in names.items()})
    return dict(names)


def check_state(state: Mapping[str, Tensor], model: nn.Module, label: str) -> None:
    """Refuse a state that is not this model's: missing, extra or misspelt names, other shapes or types.

    Tied parameters may be given under any of their names; buffers the model does not save may be missing.

    Raises:
        NetopsyError: with what was expected, what came, and the near names.
    """
    canonical, values = canonical_names(model), named_state(model)
    saved = {canonical[name]: None for name in model.state_dict(keep_vars=True) if name in canonical}
    given: dict[str, str] = {}
    for name in state:
        if name in canonical:
            given.setdefault(canonical[name], name)
    missing = [name for name in saved if name not in given]
    extra = [name for name in state if name not in canonical]
    expected = f"{label}: expected the state of {type(model).__name__} ({len(saved)} tensors)"
    if missing or extra:
        parts = [f"missing {shorten(missing)}"] if missing else []
        hint = near(extra[0], missing or canonical) if extra else ""
        parts += [f"unknown {shorten(extra)}{hint}"] if extra else []
        raise NetopsyError(f"{expected}; {'; '.join(parts)}; it was saved from another model or is incomplete")
    for name in state:
        first = canonical[name]
        value, model_value = outline_of(state, name), values[first]
        if not isinstance(value, Tensor):
            raise NetopsyError(f"{expected}; {name} is a {type(value).__name__}; convert it with torch.as_tensor")
        if value.shape != model_value.shape:
            raise NetopsyError(
                f"{expected}; {name} has shape {tuple(value.shape)} where the model has {tuple(model_value.shape)}; "
                "build the model with the sizes it was trained with"
            )
        if value.dtype != model_value.dtype:
            raise NetopsyError(
                f"{expected}; {name} is {value.dtype} where the model has {model_value.dtype}; convert one of them"
            )
        other = given[first]
        alike = name == other or value is outline_of(state, other)  # of which nothing has to be read
        if not alike and not same_values(state[name], state[other]):
            raise NetopsyError(
                f"{expected}; {other} and {name} are one tied tensor in the model, but two with other values here; "
                "untie them in the model too, or leave one out of the state"
            )


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same; NaN, too, is the same as itself."""
    return one.data_ptr() == other.data_ptr() or bool(((one == other) | ((one != one) & (other != other))).all())


def check_parameters(model: nn.Module) -> None:
    """Refuse what cannot be measured: half precision, whose rounding is as large as a change; complex; lazy."""
    for name, value in model.state_dict(keep_vars=True).items():
        if is_lazy(value):
            raise NetopsyError(
                f"model: expected parameters with values; {name} has no shape yet (a lazy module); call the model on "
                "a batch before it is saved or passed on, and let the factory do so too"
            )
        if isinstance(value, Tensor) and value.is_complex():
            raise NetopsyError(
                f"model: expected float32 or float64 parameters; {name} is {value.dtype}; hold real and imaginary "
                "parts as a real tensor (torch.view_as_real), and join them in forward"
            )
        if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            raise NetopsyError(
                f"model: expected float32 or float64 parameters; {name} is {value.dtype} (half precision); "
                "convert the model and its checkpoints with .float(), and compute in half precision by "
                "netopsy.placed(...)"
            )
