"""Run a program and its variants over one batch, recomputing only what an edit reaches.

The baseline runs once, step by step, freeing what is no longer needed. On reaching the first step that a set of edits
touches (the cut), the variants with these edits run from the values that are alive there to the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.engine.edits import Bypass, Edit, apply_edits, check_bypass
from netopsy.engine.functional import Inputs
from netopsy.engine.graph import Program, Slots
from netopsy.engine.values import Values

BASELINE = -1
"""The row of the unedited network."""


@dataclass(frozen=True)
class Replay:
    """One step of a variant: load edited values, run, free."""

    step: int
    loads: tuple[str, ...]
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How the variants that edit one set of addresses run.

    Attributes:
        rows: these variants.
        cut: the first step they change.
        ahead: unchanged steps after the cut whose values they need; computed early, once, and kept for the baseline.
        steps: what they run.
        reads: slots that must be alive at the cut.
    """

    rows: tuple[int, ...]
    cut: int
    ahead: tuple[int, ...]
    steps: tuple[Replay, ...]
    reads: frozenset[int]


Places = Mapping[int, tuple[int, ...]]
"""Step whose value an activation edit replaces -> the slots the replacement reads."""


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
    _actions: Mapping[int, Mapping[int, Callable[[Slots], Tensor]]]

    @classmethod
    def of(cls, program: Program, values: Values, rows: Sequence[int]) -> Stream:
        """Plan the given rows of `values`."""
        groups: dict[Any, tuple[frozenset[str], Places, list[int]]] = {}
        actions = {row: _actions(program, values, row) for row in rows}
        for row in rows:
            names = frozenset(values.edits(row)) & frozenset(program.state)
            places: Places = {step: reads for step, (reads, _) in actions[row].items()}
            groups.setdefault((names, tuple(sorted(places.items()))), (names, places, []))[2].append(row)
        plans: dict[int, list[Plan]] = {}
        unreached: list[int] = []
        for names, places, members in groups.values():
            plan = _plan(program, names, places, members)
            if plan is None:
                unreached += members
            else:
                plans.setdefault(plan.cut, []).append(plan)
        runs = {row: {step: run for step, (_, run) in acts.items()} for row, acts in actions.items()}
        frees = _frees(program, [plan for cut in plans.values() for plan in cut])
        return cls(program, values, plans, frozenset(unreached), frees, runs)

    def run(self, state: Mapping[str, Tensor], inputs: Inputs, rows: Set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield `(row, logits)` of each of `rows` that its edits reach, then of the baseline."""
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
                    yield row, self._replay(plan, row, slots.copy())
            if slots[step.writes] is None:
                slots[step.writes] = step.run(slots)
            for slot in self.frees[index]:
                slots[slot] = None
        yield BASELINE, slots[program.output]

    def _replay(self, plan: Plan, row: int, slots: Slots) -> Tensor:
        program, actions = self.program, self._actions[row]
        for replay in plan.steps:
            for name in replay.loads:
                slots[program.state[name]] = self.values.get(row, name)
            step = program.steps[replay.step]
            slots[step.writes] = actions[replay.step](slots) if replay.step in actions else step.run(slots)
            for slot in replay.frees:
                slots[slot] = None
        logits: Tensor = slots[program.output]
        return logits


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
            needed.update(places.get(index, steps[index].reads))
    run.reverse()
    cut, ran = run[0], set(run)
    ahead = []
    for index in range(len(steps) - 1, cut - 1, -1):
        if index not in ran and steps[index].writes in needed:
            ahead.append(index)
            needed.update(steps[index].reads)

    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for position, index in enumerate(run):
        for slot in places.get(index, steps[index].reads):
            last[slot] = position
            first.setdefault(slot, position)
    made = {steps[index].writes for index in run} | set(edited)
    replays = tuple(
        Replay(
            step=index,
            loads=tuple(name for slot, name in edited.items() if first.get(slot) == position),
            frees=tuple(slot for slot in made if last.get(slot) == position and slot != program.output),
        )
        for position, index in enumerate(run)
    )
    early = {steps[index].writes for index in ahead}
    return Plan(tuple(rows), cut, tuple(reversed(ahead)), replays, frozenset(needed - made - early))


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


def _actions(
    program: Program, values: Values, row: int
) -> dict[int, tuple[tuple[int, ...], Callable[[Slots], Tensor]]]:
    """Activation edits of a row: step -> the slots it reads now and what computes its value."""
    actions: dict[int, tuple[tuple[int, ...], Callable[[Slots], Tensor]]] = {}
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
            reads, before = actions.get(index, (program.steps[index].reads, program.steps[index].run))
            if isinstance(edit, Bypass):
                source = where.get(f"input|{first}|{number}|0")
                if source is None:
                    raise NetopsyError(
                        f"variant {label!r}: {module!r} cannot be bypassed: its output depends on no tensor it takes"
                    )
                check_bypass(label, module, program.steps[source].shape, program.steps[index].shape)
                slot = program.steps[source].writes
                actions[index] = ((slot,), _take(slot))
            else:
                actions[index] = (reads, _edited(label, edit, before))
    return actions


def _is_at(place: str, kind: str, module: str, call: int | None, item: int) -> bool:
    at_kind, at_module, at_call, at_item = place.split("|")
    return (at_kind, at_module, int(at_item)) == (kind, module, item) and call in (None, int(at_call))


def _take(slot: int) -> Callable[[Slots], Tensor]:
    return lambda slots: slots[slot]


def _edited(label: str, edit: Edit, before: Callable[[Slots], Tensor]) -> Callable[[Slots], Tensor]:
    return lambda slots: apply_edits(label, before(slots), [edit])
