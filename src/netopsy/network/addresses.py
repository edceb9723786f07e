"""Address: where one value of a network lives; and the names that mean the same value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from torch import Tensor, nn

from netopsy._checks import NetopsyError

Kind = Literal["parameter", "buffer", "input", "output"]


@dataclass(frozen=True)
class Address:
    """One value of a network: a parameter, a buffer, or what enters or leaves a module.

    Attributes:
        kind: which of the four.
        name: the parameter's or buffer's name in the model, or the module's name.
        index: a slice of the value in numpy notation without the brackets, such as `":, 0:768"`; None is all of it.
        call: which call of a module that is called several times (0 is the first); None is every call.
        item: which tensor, where a module takes or returns several.
    """

    kind: Kind
    name: str
    index: str | None = None
    call: int | None = None
    item: int = 0

    def __post_init__(self) -> None:
        if self.index is not None:
            parse_index(self.index)

    @property
    def is_state(self) -> bool:
        """Whether this is a parameter or buffer (else it is an activation)."""
        return self.kind in ("parameter", "buffer")

    def select(self, value: Tensor) -> Tensor:
        """The part of `value` this address speaks of (a view)."""
        return value if self.index is None else value[parse_index(self.index)]

    def replace(self, value: Tensor, part: Tensor) -> Tensor:
        """A copy of `value` with this address's part replaced."""
        if self.index is None:
            return part
        whole = value.detach().clone()
        whole[parse_index(self.index)] = part
        return whole

    def __str__(self) -> str:
        place = self.name if self.is_state else f"{self.kind} of {self.name}"
        call = "" if self.call is None else f", call {self.call}"
        return f"{place}{call}" + ("" if self.index is None else f"[{self.index}]")


def parse_index(text: str) -> tuple[int | slice, ...]:
    """Read an index in numpy notation: integers and slices, comma separated.

    >>> parse_index(":, 0:768")
    (slice(None, None, None), slice(0, 768, None))
    """
    parts: list[int | slice] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)?\s*(?:(:)\s*(-?\d+)?\s*(?::\s*([1-9]\d*)?)?\s*)?", part)
        if match is None or part.strip() == "":
            raise NetopsyError(
                f"index [{text}]: expected integers and slices with positive steps, such as [:, 0:768]; "
                f"cannot read {part!r}"
            )
        start, colon, stop, step = match.groups()
        bounds = [None if bound is None else int(bound) for bound in (start, stop, step)]
        parts.append(slice(*bounds) if colon else int(start))
    return tuple(parts)


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, under its first name; a tied tensor's other names are left out."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Each name of each parameter and buffer -> the first name of the same tensor.

    Tied weights and modules registered twice give several names to one tensor; an edit of any is an edit of all.
    """
    first = {id(value): name for name, value in named_state(model).items()}
    every = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {name: first[id(value)] for name, value in every}


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel wrappers."""
    while True:
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = model.module if parallel else getattr(model, "_orig_mod", None)  # importing dynamo takes seconds
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode and no generation cache inside the block; as it was afterwards.

    A transformer's key-value cache is an output nobody here reads, and it cannot be exported.
    """
    modes = [(module, module.training) for module in model.modules()]
    configs: list[Any] = [getattr(module, "config", None) for module, _ in modes]
    caching = [config for config in configs if getattr(config, "use_cache", None) is True]
    try:
        for module, _ in modes:
            module.training = False
        for config in caching:
            config.use_cache = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for config in caching:
            config.use_cache = True
