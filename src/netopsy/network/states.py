"""Reading one checkpoint, a tensor at a time, and holding it against the model it belongs to."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from netopsy._checks import NetopsyError, near, shorten
from netopsy._storage import check_schema
from netopsy.network.addresses import canonical_names, named_state

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
PREFIXES = ("module.", "_orig_mod.")
WRAPPERS = ("state_dict", "model_state_dict", "model")

NOT_PLAIN = re.compile(r"unsupported global|module \S+ is blocked|can only (build|create)|imported to load", re.I)
"""How torch says that a file pickles something else than tensors (what it says of other files, it is damaged)."""


@dataclass(frozen=True)
class StateFile(Mapping[str, Tensor]):
    """A checkpoint file as a read-only mapping from name to tensor; opened on first use, read as needed.

    Reads safetensors, and what `torch.save` wrote of plain tensors (`weights_only=True`: no code of the file is
    run), memory-mapped. Names that netopsy wrote once for several tied parameters all answer.

    Raises:
        NetopsyError: when the file is missing, damaged, or holds anything but named tensors.
    """

    path: Path

    @cached_property
    def _content(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Names as the model has them -> names in the file -> tensors; of safetensors only their outlines."""
        if self.path.suffix != ".safetensors":
            tensors = _read_torch(self.path)
            return _unprefixed({name: name for name in tensors}), tensors
        with _opened(self.path) as file:
            header = file.metadata() or {}
            tensors = {name: _outline(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if header.get("schema", "").isdecimal():  # else it is somebody else's word
            check_schema(self.path, header["schema"])
        aliases = json.loads(header.get("aliases", "{}"))
        return _unprefixed({**{name: name for name in tensors}, **aliases}), tensors

    def outline(self, name: str) -> Tensor:
        """A tensor of this shape and type, whose values mean nothing: they may not have been read."""
        names, tensors = self._content
        return tensors[names[name]]

    def __getitem__(self, name: str) -> Tensor:
        names, tensors = self._content
        stored = names[name]
        if self.path.suffix != ".safetensors":
            return tensors[stored]
        with _opened(self.path) as file:
            value: Tensor = file.get_tensor(stored)
            return value

    def __contains__(self, name: object) -> bool:
        return name in self._content[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content[0])

    def __len__(self) -> int:
        return len(self._content[0])

    def __hash__(self) -> int:
        return hash(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file."""
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _outline(part: Any) -> Tensor:
    shape = part.get_shape()
    return torch.empty(shape, dtype=(part[:0] if shape else part[...]).dtype, device="meta")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise NetopsyError(f"checkpoint {path}: no such file")


def _damaged(path: Path, reason: str) -> NetopsyError:
    return NetopsyError(f"checkpoint {path}: corrupt or truncated ({reason}); write or copy it again")


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `torch.save` file, without running any code of it."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of a file that cannot be read, the errors below say
            content = torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle raises anything: struct.error, IndexError, AssertionError ...
        if NOT_PLAIN.search(str(error)) or "TorchScript" in str(error):
            raise NetopsyError(
                f"checkpoint {path}: not a plain state: it pickles more than tensors, and netopsy runs no code of a "
                "file; save model.state_dict() with torch.save or safetensors"
            ) from error
        raise _damaged(path, type(error).__name__) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    what = type(content).__name__
    if isinstance(content, Mapping):
        others = [
            name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))
        ]
        if not others:
            return dict(content)
        what = f"a mapping with other values under {shorten(others)}"
    raise NetopsyError(
        f"checkpoint {path}: not a plain state: expected a mapping from names to tensors; got {what}; "
        "save model.state_dict()"
    )


def _unprefixed(names: Mapping[str, str]) -> dict[str, str]:
    """Strip the prefixes that `torch.compile` and data-parallel wrappers put before every name."""
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return _unprefixed({name.removeprefix(prefix): stored for name, stored in names.items()})
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
        value, model_value = _outline_of(state, name), values[first]
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
        if value is not _outline_of(state, other) and not _same(state[name], state[other]):
            raise NetopsyError(
                f"{expected}; {other} and {name} are one tied tensor in the model, but two with other values here; "
                "untie them in the model too, or leave one out of the state"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)  # NaN, too, is the same as itself


def _outline_of(state: Mapping[str, Tensor], name: str) -> Tensor:
    return state.outline(name) if isinstance(state, StateFile) else state[name]


def check_precision(model: nn.Module) -> None:
    """Refuse half precision: its rounding is as large as the changes that are measured."""
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            raise NetopsyError(
                f"model: expected float32 or float64 parameters; {name} is {value.dtype} (half precision); "
                "convert the model and its checkpoints with .float()"
            )
