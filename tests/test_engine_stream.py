"""What streaming promises: only what an edit reaches runs, clean values are computed once, dead ones are freed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from netopsy.engine.edits import Bypass, Edit, Variant
from netopsy.engine.graph import Program, Slots, Step
from netopsy.engine.stream import BASELINE, Stream
from netopsy.engine.values import Values
from netopsy.network.addresses import Address


class Recorder:
    """A program written by hand, that notes which steps run and what is alive when."""

    def __init__(self, steps: Sequence[tuple[str, str]], state: dict[str, float], places: dict[str, str]) -> None:
        names = [*state, "x"] + [writes for writes, _ in steps]
        self.slot = {name: i for i, name in enumerate(names)}
        self.state = {name: torch.tensor([value], dtype=torch.float64) for name, value in state.items()}
        self.ran: list[str] = []
        self.alive: list[set[str]] = []
        self.program = Program(
            steps=tuple(self.step(writes, reads, places.get(writes)) for writes, reads in steps),
            slots=len(names),
            state={name: self.slot[name] for name in state},
            inputs={0: self.slot["x"]},
            constants={},
            output=self.slot[steps[-1][0]],
            places=frozenset(places.values()),
            modules={},
            verified=set(),
        )

    def step(self, writes: str, reads: str, place: str | None) -> Step:
        """The product of the values read, plus one; an identity where it is a place."""

        def run(slots: Slots) -> Tensor:
            self.ran.append(writes)
            self.alive.append({name for name, slot in self.slot.items() if slots[slot] is not None})
            values = [slots[self.slot[name]] for name in reads]
            assert all(value is not None for value in values), f"{writes} reads a freed value"
            return torch.stack(values).prod(0) + (0 if place else 1)

        return Step(run, tuple(self.slot[name] for name in reads), self.slot[writes], place, ("n",) if place else ())

    def stream(self, *variants: Variant) -> Stream:
        values = Values(self.state, {name: name for name in self.state}, variants)
        return Stream.of(self.program, values, range(len(variants)))

    def run(self, stream: Stream, rows: Sequence[int]) -> dict[int, tuple[float, list[str]]]:
        """Each row's output, and the steps that ran to get it."""
        found = {}
        for row, logits in stream.run(self.state, ((torch.tensor([2.0], dtype=torch.float64),), {}), set(rows)):
            found[row] = (logits.item(), self.ran.copy())
            self.ran.clear()
        return found


def times(name: str, factor: float) -> Variant:
    return Variant(f"{name} * {factor}", (Edit(Address("parameter", name), lambda value, _: factor * value),))


# a and b feed the first half, c a side branch of the input alone, d the second half.
CHAIN = [("p", "xa"), ("q", "pb"), ("r", "xc"), ("s", "qr"), ("t", "sd")]
STATE = {"a": 3.0, "b": 5.0, "c": 7.0, "d": 11.0}


def output(x: float = 2.0, a: float = 3.0, b: float = 5.0, c: float = 7.0, d: float = 11.0) -> float:
    return ((((x * a + 1) * b + 1) * (x * c + 1)) + 1) * d + 1


def test_each_variant_runs_what_its_edit_reaches_and_no_more() -> None:
    recorder = Recorder(CHAIN, STATE, {})
    found = recorder.run(recorder.stream(*(times(name, 10) for name in "abcd")), range(4))
    assert {row: value for row, (value, _) in found.items()} == {
        0: output(a=30),
        1: output(b=50),
        2: output(c=70),
        3: output(d=110),
        BASELINE: output(),
    }
    steps = {row: ran for row, (_, ran) in found.items()}
    # at a's cut the clean value r is computed early, once; b finds it there
    assert steps[0] == ["r", "p", "q", "s", "t"]
    assert steps[1] == ["p", "q", "s", "t"]  # p is the baseline's own
    assert steps[2] == ["q", "r", "s", "t"]  # q is the baseline's own
    assert steps[3] == ["s", "t"]  # s is the baseline's own, t the variant's
    assert steps[BASELINE] == ["t"]


def test_clean_steps_run_once_a_batch_however_many_variants_need_them() -> None:
    recorder = Recorder(CHAIN, STATE, {})
    variants = [times("a", k) for k in range(2, 8)] + [times("b", k) for k in range(2, 8)]
    found = recorder.run(recorder.stream(*variants), range(12))
    ran = [step for _, steps in found.values() for step in steps]
    assert ran.count("r") == 1
    assert ran.count("p") == 6 + 1
    assert ran.count("q") == ran.count("p") + 6
    assert ran.count("s") == ran.count("t") == 12 + 1


def test_rows_that_are_not_asked_for_cost_nothing() -> None:
    recorder = Recorder(CHAIN, STATE, {})
    found = recorder.run(recorder.stream(*(times(name, 10) for name in "abcd")), [3])
    assert found.keys() == {3, BASELINE}
    assert found[3] == (output(d=110), ["p", "q", "r", "s", "t"])
    assert found[BASELINE] == (output(), ["t"])


def test_joint_edits_start_at_the_first() -> None:
    recorder = Recorder(CHAIN, STATE, {})
    found = recorder.run(recorder.stream(times("b", 10) + times("d", 10), times("d", 10) + times("c", 2)), range(2))
    assert found[0][0] == output(b=50, d=110)
    assert found[1][0] == output(c=14, d=110)
    assert found[0][1].count("p") == 1
    assert "p" not in found[1][1]


def test_values_are_freed_after_their_last_use() -> None:
    recorder = Recorder(CHAIN, STATE, {})
    recorder.run(recorder.stream(times("b", 10)), [0])
    alive = dict(zip(recorder_steps(recorder), recorder.alive, strict=True))
    everything = {"x", "a", "b", "c", "d"}
    assert alive["p"] == everything
    assert alive["variant r"] == everything - {"a"} | {"p"}
    assert alive["variant q"] == {"p", "r", "b", "c", "d", "x"}
    assert alive["variant s"] == {
        "p",
        "q",
        "r",
        "c",
        "d",
        "x",
    }  # its own b is gone; the baseline frees the rest
    assert alive["variant t"] == {"p", "r", "s", "c", "d", "x"}  # its own q too
    assert alive["q"] == {"p", "r", "b", "c", "d", "x"}
    assert alive["s"] == {"q", "r", "d"}
    assert alive["t"] == {"s", "d"}


def recorder_steps(recorder: Recorder) -> list[str]:
    """Names of the steps of the test above, in the order in which they ran."""
    assert len(recorder.alive) == 8
    return ["p", "variant r", "variant q", "variant s", "variant t", "q", "s", "t"]


def test_at_the_end_only_the_output_is_left() -> None:
    recorder = Recorder(CHAIN, STATE, {})
    stream = recorder.stream(*(times(name, 10) for name in "abcd"))
    left = {name for name, slot in recorder.slot.items() if all(slot not in frees for frees in stream.frees)}
    assert left == {"t"}
    plans = [plan for plans in stream.plans.values() for plan in plans]
    for plan in plans:
        made = {recorder.program.steps[replay.step].writes for replay in plan.steps}
        freed = {slot for replay in plan.steps for slot in replay.frees}
        assert made - freed == {recorder.program.output}


def test_the_baselines_values_are_not_the_variants() -> None:
    """A variant's slots are its own: what it writes or frees is not seen by the next."""
    recorder = Recorder(CHAIN, STATE, {})
    stream = recorder.stream(times("a", 2), times("a", 3), times("b", 2), times("a", 1))
    for _ in range(2):
        found = recorder.run(stream, range(4))
        expected = [output(a=6), output(a=9), output(b=10), output(), output()]
        assert [found[row][0] for row in (0, 1, 2, 3, BASELINE)] == expected


def test_what_is_not_read_is_unreached() -> None:
    recorder = Recorder([*CHAIN[:-1], ("t", "s")], STATE, {})
    stream = recorder.stream(times("d", 2), times("a", 2))
    assert stream.unreached == {0}
    assert recorder.run(stream, range(2)).keys() == {1, BASELINE}


# The same with a module that is marked: x, a -> p -> [in] i -> q -> [out] o -> t
MARKED = [("p", "xa"), ("i", "p"), ("q", "ib"), ("o", "q"), ("t", "od")]
PLACES = {"i": "input|m|0|0", "o": "output|m|0|0"}


def test_a_bypass_skips_the_steps_of_the_module() -> None:
    recorder = Recorder(MARKED, STATE, PLACES)
    bypass = Variant("bypass", (Bypass("m"),))
    found = recorder.run(recorder.stream(bypass, times("a", 10) + bypass, times("b", 10) + bypass), range(3))
    p, scaled = 2 * 3 + 1, 2 * 30 + 1
    assert [found[row][0] for row in range(3)] == [p * 11 + 1, scaled * 11 + 1, p * 11 + 1]
    assert found[1][1] == ["p", "i", "t"]  # first, at the earliest cut
    assert found[0][1] == ["p", "i", "q", "t"]  # the baseline's up to the cut, then t
    assert found[2][1] == ["t"]
    assert found[BASELINE][1] == ["o", "t"]


def test_an_edited_output_runs_from_there() -> None:
    recorder = Recorder(MARKED, STATE, PLACES)
    double = Variant("v", (Edit(Address("output", "m"), lambda value, _: 2 * value),))
    found = recorder.run(recorder.stream(double, double + double), range(2))
    out = (2 * 3 + 1) * 5 + 1
    assert [found[row][0] for row in (0, 1, BASELINE)] == [2 * out * 11 + 1, 4 * out * 11 + 1, out * 11 + 1]
    assert found[1][1] == ["o", "t"]


# A real model


@pytest.mark.parametrize("depth", [3, 6])
def test_the_work_on_a_real_model_is_that_of_the_layers_above_the_edit(depth: int) -> None:
    from netopsy.engine.edits import AddNoise
    from netopsy.engine.graph import export
    from netopsy.network.addresses import canonical_names, named_state
    from netopsy.network.task import default_logits

    model = nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(4, 4), nn.Tanh()))).eval()
    inputs: tuple[tuple[Tensor], dict[str, Tensor]] = ((torch.randn(5, 4),), {})
    program = export(model, inputs, default_logits)
    state = {name: value.detach() for name, value in named_state(model).items()}
    variants = [
        Variant(str(i), (Edit(Address("parameter", f"{2 * i}.weight"), AddNoise(1.0, i)),)) for i in range(depth)
    ]
    stream = Stream.of(program, Values(state, canonical_names(model), variants), range(depth))
    plans = {plan.rows[0]: plan for plans in stream.plans.values() for plan in plans}
    per_layer = len(program.steps) / depth
    for i in range(depth):
        assert len(plans[i].steps) <= per_layer * (depth - i)
        assert plans[i].ahead == () or all(program.steps[a].writes not in plans[i].reads for a in plans[i].ahead)
    with torch.no_grad():
        found = dict(stream.run(state, inputs, set(range(depth))))
        torch.testing.assert_close(found[BASELINE], model(inputs[0][0]))
    assert found.keys() == {*range(depth), BASELINE}
