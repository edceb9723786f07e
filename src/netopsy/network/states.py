"""Reading one checkpoint, a tensor at a time, and holding it against the model it belongs to."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from netopsy._checks import NetopsyError, near, shorten
from netopsy._storage import check_schema
from netopsy.network.addresses import canonical_names

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
PREFIXES = ("module.", "_orig_mod.")
WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class StateFile(Mapping[str, Tensor]):
    """A checkpoint file as a read-only mapping from name to tensor; opened on first use, read as needed.

    Reads safetensors, and what `torch.save` wrote of plain tensors (`weights_only=True`: no code of the file is
    run), memory-mapped. Names that netopsy wrote once for several tied parameters all answer.

    Raises:
        NetopsyError: when the file is missing, damaged, or holds anything but named tensors.
    """

    path: Path
    _tensors: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Name as the model has it -> name in the file."""
        path = self.path
        if not path.is_file():
            raise NetopsyError(f"checkpoint {path}: no such file")
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt") as file:
                    names, header = list(file.keys()), file.metadata() or {}
            except (SafetensorError, OSError) as error:
                raise NetopsyError(
                    f"checkpoint {path}: corrupt or truncated ({error}); write or copy it again"
                ) from error
            if "schema" in header:
                check_schema(path, header["schema"])
            aliases = json.loads(header["aliases"]) if "aliases" in header else {}
            return _unprefixed({**{name: name for name in names}, **aliases})
        self._tensors.update(_read_torch(path))
        return _unprefixed({name: name for name in self._tensors})

    def __getitem__(self, name: str) -> Tensor:
        stored = self._names[name]
        if stored in self._tensors:
            return self._tensors[stored]
        with safe_open(self.path, framework="pt") as file:
            value: Tensor = file.get_tensor(stored)
            return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __hash__(self) -> int:
        return hash(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `torch.save` file, without running any code of it."""
    zipped = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error) or "weights_only" in str(error).lower():
            raise NetopsyError(
                f"checkpoint {path}: not a plain state: it pickles more than tensors, and netopsy runs no code of a "
                "file; save model.state_dict() with torch.save or safetensors"
            ) from error
        raise NetopsyError(f"checkpoint {path}: corrupt or truncated ({error}); write or copy it again") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise NetopsyError(f"checkpoint {path}: corrupt or truncated ({error}); write or copy it again") from error
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        what = type(content).__name__
        if isinstance(content, Mapping):
            others = [name for name, value in content.items() if not isinstance(value, Tensor)]
            what = f"a mapping with other values under {shorten(others)}"
        raise NetopsyError(
            f"checkpoint {path}: not a plain state: expected a mapping from names to tensors; got {what}; "
            "save model.state_dict()"
        )
    return dict(content)


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
    canonical = canonical_names(model)
    model_values = {name: canonical[name] for name in model.state_dict(keep_vars=True) if name in canonical}
    given = {canonical[name] for name in state if name in canonical}
    missing = [name for name in model_values if canonical[name] == name and name not in given]
    extra = [name for name in state if name not in canonical]
    expected = f"{label}: expected the state of {type(model).__name__} ({len(model_values)} tensors)"
    if missing or extra:
        parts = [f"missing {shorten(missing)}"] if missing else []
        hint = near(extra[0], missing or canonical) if extra else ""
        parts += [f"unknown {shorten(extra)}{hint}"] if extra else []
        raise NetopsyError(f"{expected}; {'; '.join(parts)}; it was saved from another model or is incomplete")
    tensors = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    for name in state:
        value, model_value = state[name], tensors.get(name)
        if model_value is None:
            continue
        if value.shape != model_value.shape:
            raise NetopsyError(
                f"{expected}; {name} has shape {tuple(value.shape)} where the model has {tuple(model_value.shape)}; "
                "build the model with the sizes it was trained with"
            )
        if value.dtype != model_value.dtype:
            raise NetopsyError(
                f"{expected}; {name} is {value.dtype} where the model has {model_value.dtype}; convert one of them"
            )


def check_precision(model: nn.Module) -> None:
    """Refuse half precision: its rounding is as large as the changes that are measured."""
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            raise NetopsyError(
                f"model: expected float32 or float64 parameters; {name} is {value.dtype} (half precision); "
                "convert the model and its checkpoints with .float()"
            )
