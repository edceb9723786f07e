"""One file of named tensors: read without running its code, outlined without reading it."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from netopsy._checks import NetopsyError, shorten
from netopsy._storage import check_schema

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model_state_dict", "model")

NOT_PLAIN = re.compile(r"unsupported global|module \S+ is blocked|can only (build|create)|imported to load", re.I)
"""How torch says that a file pickles something else than tensors (what it says of other files, it is damaged)."""


@dataclass(frozen=True)
class TensorFile:
    """A file that safetensors or `torch.save` wrote; opened on first use, read as needed, under the names it has.

    Raises:
        NetopsyError: when the file is missing, damaged, or holds anything but named tensors.
    """

    path: Path

    @cached_property
    def _content(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Names -> names they were written under -> tensors; of safetensors only their outlines."""
        if self.path.suffix != ".safetensors":
            tensors = _plain_state(self.path, read_torch(self.path))
            return {name: name for name in tensors}, tensors
        with _opened(self.path) as file:
            header = file.metadata() or {}
            tensors = {name: _outline(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if header.get("schema", "").isdecimal():  # else it is somebody else's word
            check_schema(self.path, header["schema"])
        return {**{name: name for name in tensors}, **json.loads(header.get("aliases", "{}"))}, tensors

    @property
    def names(self) -> KeysView[str]:
        """Of the tensors; those that netopsy wrote once for several tied parameters have several."""
        return self._content[0].keys()

    def outline(self, name: str) -> Tensor:
        """A tensor of this shape and type, whose values mean nothing: they may not have been read."""
        return self._content[1][self._written(name)]

    def read(self, name: str) -> Tensor:
        """One tensor."""
        written = self._written(name)
        if self.path.suffix != ".safetensors":
            return self._content[1][written]
        with _opened(self.path) as file:
            value: Tensor = file.get_tensor(written)
            return value

    def _written(self, name: str) -> str:
        if name not in self._content[0]:
            raise NetopsyError(
                f"checkpoint {self.path}: expected a tensor {name}, which the index beside it says is in it; it "
                f"holds {len(self.names)} others; the index is of another checkpoint: write or copy the folder again"
            )
        return self._content[0][name]


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote to a file, memory-mapped, without running any code of it."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of a file that cannot be read, the errors below say
            return torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle raises anything: struct.error, IndexError, AssertionError ...
        if NOT_PLAIN.search(str(error)) or "TorchScript" in str(error):
            raise NetopsyError(_more_than_tensors(path, str(error))) from error
        raise _damaged(path, type(error).__name__) from error


def _more_than_tensors(path: Path, reason: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f" ({named[1]})" if named else ""
    text = (
        f"checkpoint {path}: not a plain state: it pickles more than tensors{what}, and netopsy runs no code of a "
        "file; save model.state_dict() with torch.save or safetensors"
    )
    if path.suffix != ".ckpt":
        return text
    return (
        f"{text}. Lightning keeps in it what save_hyperparameters() was given: leave such objects out with "
        "save_hyperparameters(ignore=[...]). If you trust this file, write its weights alone: "
        'torch.save(torch.load(path, weights_only=False)["state_dict"], "weights.pt")'
    )


def _plain_state(path: Path, content: Any) -> dict[str, Tensor]:
    """The named tensors in what a file holds."""
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
