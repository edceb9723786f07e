"""Line: a site's values on the way from where they started to where they were trained, and noise around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netopsy._random import derive
from netopsy._typing import Key
from netopsy.engine.edits import AddNoise, Edit, FromCheckpoint, apply_edits
from netopsy.network.addresses import Address
from netopsy.network.sites import Site
from netopsy.network.trajectory import Trajectory

NOISE_BYTES = 128 * 2**20
"""Drawn noise that is kept; the rest is drawn again when it is needed."""


@dataclass(frozen=True, eq=False)
class Line:
    """A site's values: where they started, where they ended, and noise around them.

    Attributes:
        site: whose floating values move. Parameters get noise; buffers (batch norm's running statistics) only move.
        start: first name -> value at the start; entries outside the site's slice are the trained ones.
        end: first name -> trained value.
        seeds: one a draw.
    """

    site: Site
    start: Mapping[str, Tensor]
    end: Mapping[str, Tensor]
    seeds: tuple[int, ...]
    _drawn: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, state: Mapping[str, Tensor], site: Site, trajectory: Trajectory, key: Key, *, draws: int, seed: int
    ) -> Line:
        """The line from a checkpoint to the state; draws have seeds derived from the seed, the site and the draw."""
        addresses = [address for address in site.addresses if state[address.name].is_floating_point()]
        start: dict[str, Tensor] = {}
        for address in addresses:
            value = start.get(address.name, state[address.name])
            rule = FromCheckpoint(trajectory, key)
            start[address.name] = apply_edits(f"the start of {site}", value, [Edit(address, rule)])
        seeds = tuple(derive(seed, site.name, draw) for draw in range(draws))
        return cls(site, start, {name: state[name] for name in start}, seeds)

    def noise(self, draw: int) -> Mapping[str, Tensor]:
        """The draw at sigma = 1, as `AddNoise` draws it; zero outside the site's slice and in buffers."""
        if draw not in self._drawn:
            zero = {name: torch.zeros_like(value) for name, value in self.end.items()}
            rule = AddNoise(1.0, self.seeds[draw])
            for address in self._noisy():
                part = address.select(zero[address.name])
                zero[address.name] = address.replace(zero[address.name], rule(part, address))
            if len(self._drawn) * self._bytes() > NOISE_BYTES:
                return zero
            self._drawn[draw] = zero
        return self._drawn[draw]

    def values(self, alpha: float, sigma: float, draw: int) -> dict[str, Tensor]:
        """The site's values at a point."""
        mixed = {name: torch.lerp(self.start[name], end, alpha) for name, end in self.end.items()}
        if sigma:
            mixed = {name: value + sigma * self.noise(draw)[name] for name, value in mixed.items()}
        return mixed

    def distance(self) -> float:
        """Frobenius norm of what the parameters moved by."""
        squares = 0.0
        for address in self._noisy():
            start, end = (address.select(values[address.name]).double() for values in (self.start, self.end))
            squares += float((end - start).square().sum())
        return math.sqrt(squares)

    def size(self) -> float:
        """Root mean square of the trained parameters."""
        parts = [address.select(self.end[address.name]).double().flatten() for address in self._noisy()]
        return float(torch.cat(parts).square().mean().sqrt()) if parts else 0.0

    def is_still(self) -> bool:
        """Whether nothing has moved, buffers included."""
        return all(torch.equal(self.start[name], end) for name, end in self.end.items())

    def _noisy(self) -> list[Address]:
        return [a for a in self.site.addresses if a.kind == "parameter" and a.name in self.end]

    def _bytes(self) -> int:
        return sum(value.nbytes for value in self.end.values())
