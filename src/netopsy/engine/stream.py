"""Run a program and its variants over one batch, recomputing only what an edit reaches.

The baseline runs once, step by step, freeing what is no longer needed. On reaching the first step that a set of edits
touches (the cut), the variants with these edits run from the values that are alive there to the logits. A few masked
units are followed alone to the next linear step (`engine/masked.py`), which needs the baseline's values up to there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.engine.carrying import Places, Run, follow, masking, reads_of
from netopsy.engine.edits import Bypass, Edit, apply_edits, check_bypass
from netopsy.engine.functional import Inputs
from netopsy.engine.graph import Program
from netopsy.engine.masked import Part, Slots
from netopsy.engine.values import Values

BASELINE = -1
"""The row of the unedited network."""


@dataclass(frozen=True)
class Replay:
    """One step of a variant: load edited values, make parts whole, run, free.

    Attributes:
        part: the slot of a part that the step takes as it is.
    """

    step: int
    loads: tuple[str, ...]
    fills: tuple[int, ...]
    frees: tuple[int, ...]
    part: int | None = None


@dataclass(frozen=True)
class Plan:
    """How the variants that edit one set of addresses run.

    Attributes:
        rows: these variants.
        cut: the first step they change.
        ahead: unedited steps after the cut whose values they need; computed early, once, and kept for the baseline.
        steps: what they run.
        reads: slots that must be alive at the cut.
        carries: step -> how it takes a part.
        parts: steps whose edit gives a part.
        alone: whether the part is all that is edited.
    """

    rows: tuple[int, ...]
    cut: int
    ahead: tuple[int, ...]
    steps: tuple[Replay, ...]
    reads: frozenset[int]
    carries: Mapping[int, Run]
    parts: frozenset[int]
    alone: bool


@dataclass(frozen=True)
class Action:
    """What an activation edit puts in place of a step.

    Attributes:
        reads: the slots it reads.
        run: computes the value.
        axis: along which few units are masked, where that is all it does.
        enter: computes the value as a part.
    """

    reads: tuple[int, ...]
    run: Callable[[Slots], Tensor]
    axis: int | None = None
    enter: Callable[[Slots], Part] | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """A program with plans for a list of variants.

    Attributes:
        program: the model.
        values: the variants' edited parameters.
        plans: cut -> plans; rows whose edits reach nothing are in none.
        unreached: those rows: their logits are the baseline's.
        frees: step -> slots to free after it.
    """

    program: Program
    values: Values
    plans: Mapping[int, Sequence[Plan]]
    unreached: frozenset[int]
    frees: Sequence[Sequence[int]]
    _actions: Mapping[int, Mapping[int, Action]]

    @classmethod
    def of(cls, program: Program, values: Values, rows: Sequence[int]) -> Stream:
        """Plan the given rows of `values`."""
        groups: dict[Any, tuple[frozenset[str], Places, list[int]]] = {}
        actions = {row: _actions(program, values, row) for row in rows}
        for row in rows:
            names = frozenset(values.edits(row)) & frozenset(program.state)
            places: Places = {step: (action.reads, action.axis) for step, action in actions[row].items()}
            groups.setdefault((names, frozenset(places.items())), (names, places, []))[2].append(row)
        plans: dict[int, list[Plan]] = {}
        unreached: list[int] = []
        for names, places, members in groups.values():
            plan = _plan(program, names, places, members)
            if plan is None:
                unreached += members
            else:
                plans.setdefault(plan.cut, []).append(plan)
        frees = _frees(program, [plan for cut in plans.values() for plan in cut])
        return cls(program, values, plans, frozenset(unreached), frees, actions)

    def run(self, state: Mapping[str, Tensor], inputs: Inputs, rows: Set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield `(row, logits)` of each of `rows` whose edits reach them, then of the baseline.

        A row whose masked units are zero as it is, on every example, is left out too.
        """
        program = self.program
        slots = program.load(state, inputs)
        for index, step in enumerate(program.steps):
            for plan in self.plans.get(index, ()):
                wanted = [row for row in plan.rows if row in rows]
                if wanted:
                    for early in plan.ahead:
                        if slots[program.steps[early].writes] is None:
                            slots[program.steps[early].writes] = program.steps[early].run(slots)
                for row in wanted:
                    logits = self._replay(plan, row, slots.copy())
                    if logits is not None:
                        yield row, logits
            if slots[step.writes] is None:
                slots[step.writes] = step.run(slots)
            for slot in self.frees[index]:
                slots[slot] = None
        yield BASELINE, slots[program.output]

    def _replay(self, plan: Plan, row: int, slots: Slots) -> Tensor | None:
        program, actions = self.program, self._actions[row]
        for replay in plan.steps:
            for name in replay.loads:
                slots[program.state[name]] = self.values.get(row, name)
            for slot in replay.fills:
                slots[slot] = slots[slot].filled()
            step, action = program.steps[replay.step], actions.get(replay.step)
            if replay.part is not None:
                value = plan.carries[replay.step](slots, slots[replay.part])
            elif action is None:
                value = step.run(slots)
            elif replay.step in plan.parts and action.enter is not None:
                value = action.enter(slots)
                if plan.alone and not value.changes():
                    return None
            else:
                value = action.run(slots)
            slots[step.writes] = value
            for slot in replay.frees:
                slots[slot] = None
        logits: Tensor | Part = slots[program.output]
        return logits.filled() if isinstance(logits, Part) else logits


def _plan(program: Program, names: frozenset[str], places: Places, rows: Sequence[int]) -> Plan | None:
    """Walk forward from what is edited; None where it does not reach the logits."""
    steps = program.steps
    edited = {program.state[name]: name for name in names}
    dirty = set(edited)
    touched = []
    for index, step in enumerate(steps):
        if index in places or not dirty.isdisjoint(step.reads):
            dirty.add(step.writes)
            touched.append(index)
    if program.output not in dirty or not touched:
        return None

    needed, run = {program.output}, []
    for index in reversed(
        touched
    ):  # an edited place may cut off steps before it: keep what still leads to the logits
        if steps[index].writes in needed:
            run.append(index)
            needed.update(reads_of(places, steps, index))
    run.reverse()
    cut, made = run[0], {steps[index].writes for index in run} | set(edited)
    parts = follow(steps, set(edited), places, run)
    clean = (needed - made) | {steps[index].writes for index in parts.carries}
    ahead = []
    for index in range(len(steps) - 1, cut - 1, -1):
        if steps[index].writes in clean:
            ahead.append(index)
            clean.update(steps[index].reads)

    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for position, index in enumerate(run):
        for slot in reads_of(places, steps, index):
            last[slot] = position
            first.setdefault(slot, position)
    replays = tuple(
        Replay(
            step=index,
            loads=tuple(name for slot, name in edited.items() if first.get(slot) == position),
            fills=parts.fills.get(index, ()),
            frees=tuple(slot for slot in made if last.get(slot) == position and slot != program.output),
            part=parts.taken.get(index),
        )
        for position, index in enumerate(run)
    )
    early = {steps[index].writes for index in ahead}
    return Plan(
        rows=tuple(rows),
        cut=cut,
        ahead=tuple(reversed(ahead)),
        steps=replays,
        reads=frozenset(clean - early),
        carries=parts.carries,
        parts=parts.parts,
        alone=len(names) + len(places) == 1,
    )


def _frees(program: Program, plans: Sequence[Plan]) -> list[list[int]]:
    """After which step each slot is freed; what a plan reads stays alive at its cut."""
    last: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for slot in step.reads:
            last[slot] = index
    for plan in plans:
        for slot in plan.reads:
            last[slot] = max(last.get(slot, plan.cut), plan.cut)
    frees: list[list[int]] = [[] for _ in program.steps]
    for slot, index in last.items():
        if slot != program.output:
            frees[index].append(slot)
    return frees


def _actions(program: Program, values: Values, row: int) -> dict[int, Action]:
    """Activation edits of a row: step -> what takes its place."""
    actions: dict[int, Action] = {}
    if not values.activation_edits(row):
        return actions
    where = {step.place: index for index, step in enumerate(program.steps) if step.place}
    for edit in values.activation_edits(row):
        label = values.variants[row].label
        module, call = (
            (edit.module, edit.call) if isinstance(edit, Bypass) else (edit.address.name, edit.address.call)
        )
        kind, item = ("output", 0) if isinstance(edit, Bypass) else (edit.address.kind, edit.address.item)
        first = program.modules.get(module, module)
        wanted = [place for place in program.places if _is_at(place, kind, first, call, item)]
        if not wanted:
            raise NetopsyError(
                f"variant {label!r}: the model computes no {kind} of {module!r}"
                f"{'' if call is None else f', call {call}'}{f', item {item}' if item else ''}"
            )
        hits = [(where[place], place.split("|")[2]) for place in wanted if place in where]
        for index, number in hits:
            step = program.steps[index]
            before = actions.get(index)
            if isinstance(edit, Bypass):
                source = where.get(f"input|{first}|{number}|0")
                if source is None:
                    raise NetopsyError(
                        f"variant {label!r}: {module!r} cannot be bypassed: its output depends on no tensor it takes"
                    )
                check_bypass(label, module, program.steps[source].shape, program.steps[index].shape)
                slot = program.steps[source].writes
                actions[index] = Action((slot,), _take(slot))
            elif before is not None:
                actions[index] = Action(before.reads, _edited(label, edit, before.run))
            else:
                actions[index] = Action(step.reads, _edited(label, edit, step.run), *masking(edit, step))
    return actions


def _is_at(place: str, kind: str, module: str, call: int | None, item: int) -> bool:
    at_kind, at_module, at_call, at_item = place.split("|")
    return (at_kind, at_module, int(at_item)) == (kind, module, item) and call in (None, int(at_call))


def _take(slot: int) -> Callable[[Slots], Tensor]:
    return lambda slots: slots[slot]


def _edited(label: str, edit: Edit, before: Callable[[Slots], Tensor]) -> Callable[[Slots], Tensor]:
    return lambda slots: apply_edits(label, before(slots), [edit])
