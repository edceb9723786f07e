"""Route: which steps of a program some state values reach, and which of these are affine in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netopsy.engine.graph import Program
from netopsy.engine.masked import Slot, Slots

aten = torch.ops.aten

PRODUCTS = {
    aten.linear.default: {1, 2},
    aten.addmm.default: {0, 2},
    aten.mm.default: {1},
    aten.conv1d.default: {1, 2},
    aten.conv2d.default: {1, 2},
    aten.conv3d.default: {1, 2},
    aten.convolution.default: {1, 2},
    aten.embedding.default: {0},
}
"""Operations that are jointly affine in these of their arguments when the others are fixed."""

MOVES = (aten.alias.default, aten.t.default, aten.permute.default, aten.transpose.int)
"""Operations that only move the entries of their first argument."""


@dataclass(frozen=True, eq=False)
class Route:
    """How a program's logits depend on some state values.

    Attributes:
        program: the model.
        edited: slot -> name of the value.
        before: steps that the others need and that do not depend on the values.
        run: steps that do, up to the logits.
        affine: those of them whose result is affine in the values.
        after: the others.
        joints: slots that `after` reads, or that are the logits, of `affine`'s results and the values themselves.
        reads: slots that `run` takes from elsewhere.
        outer: those of them that `after` reads.
        counts: those of them that are the number of examples.
        stackable: whether examples of several draws may be run on from the joints as one batch.
        frees: step -> slots to free after it.
    """

    program: Program
    edited: Mapping[int, str]
    before: tuple[int, ...]
    run: tuple[int, ...]
    affine: tuple[int, ...]
    after: tuple[int, ...]
    joints: tuple[int, ...]
    reads: frozenset[int]
    outer: frozenset[int]
    counts: frozenset[int]
    stackable: bool
    frees: Mapping[int, Sequence[int]]

    @classmethod
    def of(cls, program: Program, names: Collection[str]) -> Route:
        """Walk forward from the values, then back from the logits."""
        steps = program.steps
        edited = {program.state[name]: name for name in names if name in program.state}
        dirty, touched = set(edited), []
        for index, step in enumerate(steps):
            if not dirty.isdisjoint(step.reads):
                dirty.add(step.writes)
                touched.append(index)
        needed, run = {program.output}, []
        for index in reversed(touched):
            if steps[index].writes in needed:
                run.append(index)
                needed.update(steps[index].reads)
        run.reverse()
        reads = needed - dirty
        before, wanted = [], set(reads)
        for index in reversed(range(len(steps))):
            if steps[index].writes in wanted:
                before.append(index)
                wanted.update(steps[index].reads)
        linear, affine = set(edited), []
        for index in run:
            moving = dirty.intersection(steps[index].reads)
            if moving <= linear and _is_affine(program, index, moving):
                linear.add(steps[index].writes)
                affine.append(index)
        after = [index for index in run if index not in affine]
        read = {slot for index in after for slot in steps[index].reads} | {program.output}
        joints = tuple(sorted(read & linear))
        outer = read - dirty
        counts = {steps[index].writes for index in before if _counts_examples(program, index)} & outer
        fixed = {*program.state.values(), *program.constants, *counts}
        last = {slot: index for index in run for slot in steps[index].reads if slot in dirty}
        frees: dict[int, list[int]] = {}
        for slot, index in last.items():
            frees.setdefault(index, []).append(slot)
        return cls(
            program=program,
            edited=edited,
            before=tuple(reversed(before)),
            run=tuple(run),
            affine=tuple(affine),
            after=tuple(after),
            joints=joints,
            reads=frozenset(reads),
            outer=frozenset(outer),
            counts=frozenset(counts),
            stackable=outer <= fixed and all(_is_by_example(program, affine, slot) for slot in joints),
            frees=frees,
        )

    @property
    def own(self) -> set[int]:
        """Slots of the program's state and constants, which are no batch's."""
        return {*self.program.state.values(), *self.program.constants}

    def joined(self, slots: Slots, values: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """The joints under some values of what is edited."""
        mine = slots.copy()
        for slot, name in self.edited.items():
            mine[slot] = values[name]
        for index in self.affine:
            mine[self.program.steps[index].writes] = self.program.steps[index].run(mine)
        return {slot: mine[slot] for slot in self.joints}

    def logits(self, slots: Slots, steps: Sequence[int]) -> Tensor:
        """Run `run` or `after` on slots that the caller gives away."""
        for index in steps:
            step = self.program.steps[index]
            slots[step.writes] = step.run(slots)
            for slot in self.frees.get(index, ()):
                slots[slot] = None
        logits: Tensor = slots[self.program.output]
        return logits


def _is_affine(program: Program, index: int, moving: set[int]) -> bool:
    """Whether a step's result is affine in the slots that move together."""
    operation = program.steps[index].operation
    if operation is None:
        return False
    places = PRODUCTS.get(operation.function, {0} if operation.function in MOVES else set())
    found = [(i, a.number) for i, a in enumerate(operation.args) if isinstance(a, Slot) and a.number in moving]
    return {slot for _, slot in found} == moving and len(found) == len(moving) and {i for i, _ in found} <= places


def _is_by_example(program: Program, affine: Sequence[int], slot: int) -> bool:
    """Whether a slot is the result of a product and its first axis the examples, whose number is a symbol."""
    for index in affine:
        operation = program.steps[index].operation
        if program.steps[index].writes == slot and operation is not None and operation.function in PRODUCTS:
            return operation.shapes.get(slot, ("",))[0].isidentifier()
    return False


def _counts_examples(program: Program, index: int) -> bool:
    """Whether a step's result is the number of examples itself."""
    operation = program.steps[index].operation
    if operation is None or operation.function is not aten.sym_size.int or not isinstance(operation.args[0], Slot):
        return False
    shape = operation.shapes.get(operation.args[0].number, ())
    axis = int(operation.args[1])
    return len(shape) > axis >= 0 and shape[axis].isidentifier()
