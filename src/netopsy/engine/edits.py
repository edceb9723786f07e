"""Edit = (address, rule); Variant = label + ordered edits.

A rule is a small frozen pure function `(value, address) -> value`, evaluated just before the first use of what it
edits and then freed: it holds seeds and file handles, never tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least
from netopsy._random import derive, generator
from netopsy._typing import Key
from netopsy.network.addresses import Address, unwrap
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import Site
from netopsy.network.trajectory import Trajectory
from netopsy.network.transformer_sites import transformer_blocks

Rule: TypeAlias = Callable[[Tensor, Address], Tensor]
"""The value at an address (its slice, where the address has one) -> the value that takes its place."""


@dataclass(frozen=True)
class Edit:
    """Replace the value at an address by what the rule makes of it."""

    address: Address
    rule: Rule


@dataclass(frozen=True)
class Bypass:
    """Wire a module's output to its input, as if the module were the identity (a removed residual block).

    Of several tensors the first that is returned becomes the first that is taken: a transformer block that returns a
    tuple. The others are what the module makes of them (T5's first block still gives the others its position bias).
    A module whose first output has another shape than its first input is refused when it runs.
    """

    module: str
    call: int | None = None


@dataclass(frozen=True)
class Variant:
    """The trained network with ordered edits; edits of one address compose in order."""

    label: str
    edits: tuple[Edit | Bypass, ...]

    def __add__(self, other: Variant) -> Variant:
        return Variant(f"{self.label} + {other.label}", self.edits + other.edits)


def edit_site(label: str, site: Site, rule: Rule, *, buffers: bool = True) -> Variant:
    """A variant that applies one rule to every parameter (and buffer) of a site."""
    addresses = [a for a in site.addresses if buffers or a.kind == "parameter"]
    return Variant(label, tuple(Edit(address, rule) for address in addresses))


def joined(label: str, variants: Iterable[Variant]) -> Variant:
    """Several variants' edits as one variant: a joint operation."""
    return Variant(label, tuple(edit for variant in variants for edit in variant.edits))


def remove_blocks(model: nn.Module) -> tuple[Variant, ...]:
    """A variant for each block of a transformer, `"block 3 removed"`, without it: its output is its input.

    Raises:
        NetopsyError: for a model that has no blocks of attention and an MLP.
    """
    blocks = transformer_blocks(unwrap(model))
    return tuple(Variant(f"{label} removed", (Bypass(name),)) for label, name in blocks.items())


@dataclass(frozen=True)
class FromCheckpoint:
    """The value that a checkpoint recorded (re-initialization)."""

    trajectory: Trajectory
    key: Key

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        return address.select(self.trajectory.tensor(self.key, address.name)).to(value.device)


@dataclass(frozen=True)
class Redraw:
    """A fresh value from the distribution the first one was drawn from (re-randomization)."""

    redrawer: Redrawer
    seed: int

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        return address.select(self.redrawer.tensor(self.seed, address.name)).to(value.device)


@dataclass(frozen=True)
class Interpolate:
    """(1 - alpha) * the checkpoint's value + alpha * the value (criticality paper, Def. 3.1)."""

    trajectory: Trajectory
    key: Key
    alpha: float

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        start = address.select(self.trajectory.tensor(self.key, address.name))
        return torch.lerp(start.to(value), value, self.alpha)


@dataclass(frozen=True)
class AddNoise:
    """Add N(0, sigma^2) noise; the same seed gives each address the same noise at every sigma.

    An activation gets the same noise in every batch: an example's noise depends on its place in the batch.
    """

    sigma: float
    seed: int

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        place = (address.kind, address.name, address.index, address.call, address.item)
        source = generator(derive(self.seed, *place))
        noise = torch.randn(value.shape, generator=source, dtype=value.dtype)
        return value + self.sigma * noise.to(value.device)


@dataclass(frozen=True)
class Mask:
    """Set units to zero: entries along one axis (1: features or channels; -1: a transformer's features).

    An exported model runs what follows on these entries alone, up to the next linear step (`engine/masked.py`).
    """

    units: tuple[int, ...]
    axis: int = 1

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        masked = value.clone()
        masked.movedim(self.axis, 0)[list(self.units)] = 0
        return masked

    def replaced(self, units: Tensor) -> Tensor:
        """What takes the place of the entries, for each example or (length 1 along the first axis) for all."""
        return torch.zeros_like(units[:1])


@dataclass(frozen=True)
class Quantize:
    """Round to the nearest of 2^bits - 1 evenly spaced levels, symmetric around zero, to the largest magnitude."""

    bits: int

    def __post_init__(self) -> None:
        at_least("bits", self.bits, 2)

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        levels = 2 ** (self.bits - 1) - 1
        step = value.abs().max() / levels
        return torch.where(step > 0, torch.round(value / step) * step, value)


@dataclass(frozen=True)
class LowRank:
    """The nearest matrix of rank `k` (Frobenius norm), the first axis against all others; vectors are kept."""

    k: int

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        if value.ndim < 2:
            return value
        u, s, v = torch.linalg.svd(value.reshape(len(value), -1), full_matrices=False)
        nearest: Tensor = (u[:, : self.k] * s[: self.k]) @ v[: self.k]
        return nearest.reshape(value.shape)


def apply_edits(label: str, value: Tensor, edits: Iterable[Edit]) -> Tensor:
    """Apply a variant's edits of one value in order; each rule sees what the one before it left.

    Integer buffers (counters) are never edited. A rule gets a copy: one that writes to it does no harm.

    Raises:
        NetopsyError: when an address or rule does not fit the value, or a rule changes its shape or type.
    """
    if not value.is_floating_point():
        return value
    for edit in edits:
        what = f"variant {label!r}: the edit of {edit.address}, shape {tuple(value.shape)}"
        try:
            old = edit.address.select(value)
            new = edit.rule(old.clone(), edit.address)
        except (IndexError, RuntimeError) as error:
            raise NetopsyError(f"{what}: {error}") from error
        if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
            got = f"{new.dtype} of shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
            raise NetopsyError(
                f"{what}: the rule gives {got}; expected {old.dtype} of shape {tuple(old.shape)}; a rule keeps shape "
                "and type"
            )
        value = edit.address.replace(value, new.detach())
    return value


def touched_modules(variants: Iterable[Variant]) -> frozenset[str]:
    """Names of the modules whose inputs or outputs the variants edit."""
    edits = [edit for variant in variants for edit in variant.edits]
    bypassed = {edit.module for edit in edits if isinstance(edit, Bypass)}
    return frozenset(bypassed | {e.address.name for e in edits if isinstance(e, Edit) and not e.address.is_state})


def check_bypass(label: str, module: str, entering: Sequence[object], leaving: Sequence[object]) -> None:
    """Refuse to wire an output to an input of another shape."""
    if tuple(entering) != tuple(leaving):
        raise NetopsyError(
            f"variant {label!r}: {module!r} cannot be bypassed: it takes shape ({', '.join(map(str, entering))}) and "
            f"gives ({', '.join(map(str, leaving))}); only a module that keeps the shape can be the identity"
        )
