"""Compute on another device, or in another floating type, than the one a network is stored in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.func import functional_call

from netopsy._checks import NetopsyError, one_of
from netopsy.network.addresses import unwrap
from netopsy.network.trajectory import Trajectory

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@overload
def placed(
    source: Trajectory, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Trajectory: ...


@overload
def placed(
    source: nn.Module, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module: ...


def placed(
    source: Trajectory | nn.Module, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Trajectory | nn.Module:
    """The same network or trajectory, but it computes on this device and in this type.

    Parameters and buffers keep the type they are stored in, and checkpoints are read as ever: edits and draws are
    made in full precision, and the network's values are cast whenever it is called, with its inputs. The outputs are
    those of `copy.deepcopy(model).to(device, dtype)` on inputs cast alike. Integers and truth values are never cast.

    Args:
        source: a trajectory, or a module; neither is changed.
        device: where the values live, and the inputs are moved to; by default where they are.
        dtype: float16, bfloat16, float32 or float64; by default the values' own.

    Raises:
        NetopsyError: when there is no such device here, it has no numbers of this type, or the network is a
            ScriptModule or placed already.
    """
    place = _Place(None if device is None else _known(device), dtype)
    place.check()
    if isinstance(source, Trajectory):
        build = source.source
        return replace(source, source=place.module(build) if isinstance(build, nn.Module) else _Factory(build, place))
    if isinstance(source, nn.Module):
        return place.module(source)
    raise NetopsyError(f"placed: expected a netopsy.Trajectory or a module; got {type(source).__name__}")


def _known(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise NetopsyError(f"device={device!r}: expected one such as 'cpu', 'cuda:0' or 'mps'; {error}") from error


@dataclass(frozen=True)
class _Place:
    """Where, and in which type, a network computes; None leaves it as it is."""

    device: torch.device | None
    dtype: torch.dtype | None

    def check(self) -> None:
        """Try it on no numbers: every backend has its own way to say that it is not there."""
        if self.dtype is not None:
            one_of("dtype", self.dtype, FLOATS)
        what = f"device={str(self.device)!r}"
        if self.device == torch.device("meta"):
            raise NetopsyError(f"{what}: expected a device that computes; tensors there hold no values")
        try:
            torch.empty(0, device=self.device, dtype=self.dtype)
        except Exception as error:
            kind = "" if self.dtype is None else f" in {self.dtype}"
            reason = str(error).splitlines()[0][:120]
            raise NetopsyError(
                f"{what}: expected a device of this machine; torch cannot make a tensor there{kind}: {reason}; pass "
                "device='cpu', or leave it out"
            ) from error

    def cast(self, value: Tensor) -> Tensor:
        return value.to(device=self.device, dtype=self.dtype if value.is_floating_point() else None)

    def inputs(self, values: Any) -> Any:
        return pytree.tree_map(lambda leaf: self.cast(leaf) if isinstance(leaf, Tensor) else leaf, values)

    def module(self, model: nn.Module) -> nn.Module:
        """A copy of the model whose class is its own but for `forward`; names and modules are as they were."""
        inner = unwrap(model)
        if isinstance(inner, torch.jit.ScriptModule | _Placed):
            what = "placed already" if isinstance(inner, _Placed) else "a ScriptModule"
            raise NetopsyError(
                f"placed: expected a module in plain Python; {type(inner).__name__} is {what}; pass the module it "
                "was made from"
            )
        twin = copy.deepcopy(inner).to(self.device)
        twin.__class__ = _placed_class(type(inner), self)  # type: ignore[arg-type]  # a class is hashable
        return twin


@dataclass(frozen=True)
class _Factory:
    """A factory whose networks are placed."""

    build: Callable[[], nn.Module]
    place: _Place

    def __call__(self) -> nn.Module:
        model = self.build()
        return self.place.module(model) if isinstance(model, nn.Module) else model


class _Placed(nn.Module):
    """Marks the classes made below."""


class _Original(nn.Module):
    """Around a placed module: what it computed before."""

    def __init__(self, held: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.held, self.run = held, forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.held, *args, **kwargs)


@cache
def _placed_class(kind: type[nn.Module], place: _Place) -> type[nn.Module]:
    """As parametrizations do it: a wrapper around the module would give all its parts other names."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        there: dict[int, Tensor] = {}
        names: dict[str, Tensor] = {}
        training: list[Tensor] = []
        for prefix, module in self.named_modules():
            for own in (module.named_parameters, module.named_buffers):
                for name, value in own(prefix, recurse=False, remove_duplicate=False):
                    if id(value) not in there:  # a tied value is cast once
                        there[id(value)] = place.cast(value)
                    names[f"held.{name}"] = there[id(value)]
            training += module.buffers(recurse=False) if module.training else ()
        inside = _Original(self, kind.forward)
        output = functional_call(inside, names, place.inputs(args), place.inputs(kwargs), tie_weights=False)
        for value in training:  # batch norm writes its statistics
            value.copy_(there[id(value)])
        return output

    return type(kind.__name__, (_Placed, kind), {"forward": forward, "__module__": kind.__module__})
