"""What the edits of each variant make of the model's parameters and buffers, computed when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from netopsy._checks import NetopsyError, near
from netopsy.engine.edits import Bypass, Edit, Variant, apply_edits

KEPT_BYTES = 128 * 2**20
"""Edited values kept between batches; beyond it they are computed again (a draw, a file read) at each batch."""


@dataclass(frozen=True, eq=False)
class Values:
    """Edited values by variant and name.

    Attributes:
        state: the model's own values under first names.
        canonical: every name -> first name.
        variants: what is asked about, by row.
        kept: (row, first name) -> an edited value that is worth its memory.
    """

    state: Mapping[str, Tensor]
    canonical: Mapping[str, str]
    variants: Sequence[Variant]
    kept: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)
    _room: list[int] = field(default_factory=lambda: [KEPT_BYTES], repr=False)

    def edits(self, row: int) -> dict[str, list[Edit]]:
        """State edits of a row by first name, in order; rules see that name, so that every alias means one edit."""
        grouped: dict[str, list[Edit]] = {}
        for edit in self.variants[row].edits:
            if isinstance(edit, Bypass) or not edit.address.is_state:
                continue
            if edit.address.name not in self.canonical:
                raise NetopsyError(
                    f"variant {self.variants[row].label!r}: the model has no parameter or buffer "
                    f"{edit.address.name!r}{near(edit.address.name, self.canonical)}"
                )
            name = self.canonical[edit.address.name]
            if self.state[name].is_floating_point():
                grouped.setdefault(name, []).append(Edit(replace(edit.address, name=name), edit.rule))
        return grouped

    def activation_edits(self, row: int) -> list[Edit | Bypass]:
        """Edits of a row that act on what enters or leaves a module, in order."""
        return [e for e in self.variants[row].edits if isinstance(e, Bypass) or not e.address.is_state]

    def get(self, row: int, name: str) -> Tensor:
        """The edited value of one parameter or buffer."""
        if (row, name) in self.kept:
            return self.kept[row, name]
        value = apply_edits(self.variants[row].label, self.state[name], self.edits(row)[name])
        if value.nbytes <= self._room[0]:
            self.kept[row, name] = value
            self._room[0] -= value.nbytes
        return value

    def is_no_op(self, row: int) -> bool:
        """Whether no edit of this row changes a value (rules are tried here: a bad one raises before any work)."""
        changed = [not torch.equal(self.get(row, name), self.state[name]) for name in self.edits(row)]
        return not any(changed) and not self.activation_edits(row)
