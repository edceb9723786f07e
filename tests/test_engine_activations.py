"""Edits of what enters or leaves a module: exported equals eager equals a forward pass written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.edits import AddNoise, Bypass, Edit, FromCheckpoint, Mask, Rule, Variant, joined
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Evaluation
from netopsy.engine.execution import Engine
from netopsy.network.addresses import Address
from netopsy.network.trajectory import Trajectory
from tests import zoo
from tests.oracles import naive

ENGINES: tuple[Engine, Engine] = ("exported", "eager")
WEIGHT = Address("parameter", "block.weight")
relu, tanh = torch.relu, torch.tanh


class Residual(nn.Module):
    """Blocks that keep the shape, one that does not, one whose output leads nowhere, a tuple, and a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.aside = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.pair, self.idle, self.embed = Pair(), nn.Linear(4, 4), nn.Embedding(3, 4)
        self.head = nn.Linear(4, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = tanh(self.stem(x))
        h = h + self.block(h)
        self.aside(h)
        first, second = self.pair(h, scale=h.mean(1, keepdim=True))
        token = self.embed(torch.zeros(x.shape[0], dtype=torch.long))
        return self.head(first + 0.5 * second + token)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, h: Tensor, *, scale: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(h) * scale, self.b(h)


def activation(kind: Literal["input", "output"], name: str, rule: Rule, **where: object) -> Variant:
    return Variant(f"{kind} {name} {where}", (Edit(Address(kind, name, **where), rule),))  # type: ignore[arg-type]


def drop(*units: int) -> Callable[[Tensor], Tensor]:
    def by_hand(h: Tensor) -> Tensor:
        h = h.clone()
        h[:, list(units)] = 0
        return h

    return by_hand


def same(h: Tensor) -> Tensor:
    return h


def residual(
    m: Residual,
    x: Tensor,
    *,
    stem: Callable[[Tensor], Tensor] = same,
    block_in: Callable[[Tensor], Tensor] = same,
    block: Callable[[Tensor, Tensor], Tensor] = lambda h, out: out,
    scale: Callable[[Tensor], Tensor] = same,
    first: Callable[[Tensor], Tensor] = same,
    second: Callable[[Tensor], Tensor] = same,
    out: Callable[[Tensor], Tensor] = same,
) -> Tensor:
    """`Residual` written out, with a place for every edit."""
    h = tanh(stem(m.stem(x)))
    into = block_in(h)
    h = h + block(into, m.block(into))
    one = first(m.pair.a(h) * scale(h.mean(1, keepdim=True)))
    return out(m.head(one + 0.5 * second(m.pair.b(h)) + m.embed(torch.zeros(len(x), dtype=torch.long))))


def double(value: Tensor, address: Address) -> Tensor:
    return 2 * value


CASES: dict[str, tuple[Variant, Callable[[Residual, Tensor], Tensor]]] = {
    "output": (activation("output", "stem", Mask((0, 2))), lambda m, x: residual(m, x, stem=drop(0, 2))),
    "input": (activation("input", "block", Mask((1,))), lambda m, x: residual(m, x, block_in=drop(1))),
    "slice": (activation("output", "stem", double, index=":, 1:3"), lambda m, x: residual(
        m, x, stem=lambda h: torch.cat([h[:, :1], 2 * h[:, 1:3], h[:, 3:]], 1))),
    "first of two": (activation("output", "pair", double), lambda m, x: residual(m, x, first=lambda h: 2 * h)),
    "second of two": (
        activation("output", "pair", double, item=1), lambda m, x: residual(m, x, second=lambda h: 2 * h)),
    "keyword": (activation("input", "pair", double, item=1), lambda m, x: residual(m, x, scale=lambda s: 2 * s)),
    "whole model": (activation("output", "", double), lambda m, x: residual(m, x, out=lambda z: 2 * z)),
    "bypass": (Variant("bypass", (Bypass("block"),)), lambda m, x: residual(m, x, block=lambda h, out: h)),
    "bypass, then edit": (
        Variant("be", (Bypass("block"), Edit(Address("output", "block"), Mask((0,))))),
        lambda m, x: residual(m, x, block=lambda h, out: drop(0)(h))),
    "edit, then bypass": (
        Variant("eb", (Edit(Address("output", "block"), Mask((0,))), Bypass("block"))),
        lambda m, x: residual(m, x, block=lambda h, out: h)),
    "bypass of an edited input": (
        Variant("ib", (Bypass("block"), Edit(Address("input", "block"), Mask((3,))))),
        lambda m, x: residual(m, x, block_in=drop(3), block=lambda h, out: h)),
    "two places": (
        joined("two", [activation("output", "stem", Mask((0,))), activation("output", "block", Mask((1,)))]),
        lambda m, x: residual(m, x, stem=drop(0), block=lambda h, out: drop(1)(out))),
    "in order": (
        Variant("o", (Edit(Address("output", "stem"), double), Edit(Address("output", "stem"), lambda v, _: v + 1))),
        lambda m, x: residual(m, x, stem=lambda h: 2 * h + 1)),
    "with weights": (
        Variant("w", (Edit(WEIGHT, double), Edit(Address("output", "stem"), Mask((0,))))),
        lambda m, x: residual(m, x, stem=drop(0), block=lambda h, out: out + h @ m.block.weight.T)),
    "weights that a bypass cuts off": (
        Variant("c", (Edit(WEIGHT, double), Bypass("block"))),
        lambda m, x: residual(m, x, block=lambda h, out: h)),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Residual:
    with forked(3):
        return Residual().eval()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    with forked(4):
        return torch.randn(zoo.N, 6), torch.randint(0, zoo.CLASSES, (zoo.N,))


@pytest.fixture(scope="module")
def found(model: Residual, data: tuple[Tensor, Tensor]) -> dict[Engine, Evaluation]:
    variants = [variant for variant, _ in CASES.values()]
    unused = [activation("output", "aside", double), Variant("by", (Bypass("aside"),)), idle()]
    return {
        engine: evaluate(model, data, [*variants, *unused], engine=engine, examples=("loss",), batch_size=8)
        for engine in ENGINES
    }


def idle() -> Variant:
    return Variant("idle", (Edit(Address("parameter", "idle.weight"), double),))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_it_equals_a_forward_pass_written_by_hand(
    name: str,
    engine: Engine,
    model: Residual,
    data: tuple[Tensor, Tensor],
    found: dict[Engine, Evaluation],
) -> None:
    row = list(CASES).index(name)
    twin = naive.edited(model, {})
    with torch.no_grad():
        logits = CASES[name][1](twin, data[0].double())  # type: ignore[arg-type]
        baseline = twin(data[0].double())
    expected = naive.metrics(logits, data[1], baseline)
    assert np.abs(expected["loss"] - naive.metrics(baseline, data[1], baseline)["loss"]).max() > 1e-3
    np.testing.assert_allclose(found[engine].examples["loss"][row], expected["loss"], atol=1e-5)
    assert found[engine].metrics["error"][row] == pytest.approx(expected["error"].mean())
    assert found[engine].status[row] == "ok"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_does_not_lead_to_the_logits_is_a_no_op(engine: Engine, found: dict[Engine, Evaluation]) -> None:
    result = found[engine]
    assert result.status[len(CASES) :] == ("no-op",) * 3
    np.testing.assert_array_equal(result.examples["loss"][len(CASES) : -1], [result.examples["loss"][-1]] * 3)
    assert result.metrics["loss"][-1] == result.baseline["loss"]
    assert not result.delta_error[len(CASES) :].any()
    assert not result.delta_error_low[len(CASES) :].any()
    assert not result.delta_error_high[len(CASES) :].any()
    assert result.provenance["engine"] == engine


@pytest.mark.parametrize("engine", ENGINES)
def test_calls_of_one_module_are_told_apart(engine: Engine) -> None:
    case = zoo.case("twice")
    variants = [activation("output", "a", double, call=call) for call in (0, 1, None)]
    result = evaluate(case.model, case.data, variants, engine=engine, examples=("loss",), batch_size=8)
    twin, (x, y) = naive.edited(case.model, {}), case.data
    with torch.no_grad():
        a, c, x = twin.a, twin.c, x.double()
        logits = [c(relu(a(tanh(2 * a(x))))), c(relu(2 * a(tanh(a(x))))), c(relu(2 * a(tanh(2 * a(x)))))]
        for row, z in enumerate(logits):
            expected = naive.metrics(z, y, z)["loss"]
            np.testing.assert_allclose(result.examples["loss"][row], expected, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_both_names_of_a_module_registered_twice_mean_it(engine: Engine) -> None:
    case = zoo.case("registered")
    variants = [
        *(activation("output", name, double, call=1) for name in ("a", "b")),
        *(Variant(f"bypass {name}", (Bypass(name, call=0),)) for name in ("a", "b")),
    ]
    result = evaluate(case.model, case.data, variants, engine=engine, examples=("loss",), batch_size=8)
    assert result.provenance["engine"] == engine
    twin, (x, y) = naive.edited(case.model, {}), case.data
    with torch.no_grad():
        a, c, x = twin.a, twin.c, x.double()
        for rows, z in (((0, 1), c(relu(2 * a(tanh(a(x)))))), ((2, 3), c(relu(a(tanh(x)))))):
            for row in rows:
                np.testing.assert_allclose(result.examples["loss"][row], naive.metrics(z, y, z)["loss"], atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_in_place_module_can_be_edited(engine: Engine) -> None:
    case = zoo.case("inplace")
    variants = [activation("output", "relu", Mask((0, 3))), activation("input", "relu", Mask((1,)))]
    result = evaluate(case.model, case.data, variants, engine=engine, examples=("loss",), batch_size=8)
    twin, (x, y) = naive.edited(case.model, {}), case.data
    with torch.no_grad():
        for row, (before, after) in enumerate(((same, drop(0, 3)), (drop(1), same))):
            r = twin.conv(x.double())
            h = twin.bn(r)
            h = torch.cat([h[:, :4] + r[:, :4], h[:, 4:]], 1)
            z = twin.fc((after(relu(before(h))) + r).mean((2, 3)))
            np.testing.assert_allclose(result.examples["loss"][row], naive.metrics(z, y, z)["loss"], atol=1e-5)


def test_an_unused_item_does_not_speak_for_a_used_one() -> None:
    case = zoo.case("lstm")
    variants = [activation("output", "l", double, item=item) for item in (2, 0)]  # the cell state leads nowhere
    for engine in ENGINES:
        result = evaluate(case.model, case.data, variants, engine=engine, batch_size=8)
        assert result.status == ("no-op", "ok"), engine


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_on_activations_agrees_between_the_engines(
    engine: Engine, model: Residual, data: tuple[Tensor, Tensor]
) -> None:
    noisy = [activation("output", "stem", AddNoise(0.3, seed)) for seed in (1, 1, 2)]
    result = evaluate(model, data, noisy, engine=engine, examples=("loss",), batch_size=8)
    reference = evaluate(model, data, noisy, engine="eager", examples=("loss",), batch_size=8)
    np.testing.assert_allclose(result.examples["loss"], reference.examples["loss"], atol=1e-5)
    assert result.metrics["loss"][0] == result.metrics["loss"][1] != result.metrics["loss"][2]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rule_that_writes_in_place_spoils_no_other_variant(
    engine: Engine, model: Residual, data: tuple[Tensor, Tensor]
) -> None:
    def zero(value: Tensor, address: Address) -> Tensor:
        return value.zero_()

    first = activation("output", "stem", Mask((0,)))
    alone = evaluate(model, data, [first], engine=engine, batch_size=8)
    both = evaluate(model, data, [activation("output", "stem", zero), first], engine=engine, batch_size=8)
    assert both.metrics["loss"][1] == alone.metrics["loss"][0]
    assert both.baseline == alone.baseline


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant("b", (Bypass("stem"),)), r"variant 'b': 'stem' cannot be bypassed: it takes shape \(\w+, 6\) and"),
        (Variant("b", (Bypass("embed"),)), "variant 'b': 'embed' cannot be bypassed: it"),
        (Variant("b", (Bypass("blok"),)), "variant 'b': the model has no module 'blok'; did you mean block"),
        (activation("output", "pear", double), "the model has no module 'pear'; did you mean pair"),
        (activation("input", "block", Mask((9,))), "the edit of input of block, shape .*: index 9 is out of bounds"),
        (activation("output", "stem", lambda v, _: v[:, :2]), r"the edit of output of stem.*a rule keeps shape"),
    ],
)
def test_what_cannot_be_done_is_refused(
    variant: Variant, message: str, engine: Engine, model: Residual, data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(NetopsyError, match=message):
        evaluate(model, data, [variant], engine=engine, batch_size=8)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("variant", "exported", "eager"),
    [
        (activation("output", "stem", double, call=3), "computes no output of 'stem', call 3", None),
        (
            activation("output", "pair", double, item=2),
            "computes no output of 'pair', item 2",
            "of which item 2 is edited",
        ),
    ],
)
def test_what_never_comes_about(
    variant: Variant, exported: str, eager: str | None, model: Residual, data: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(NetopsyError, match=exported):
        evaluate(model, data, [variant], engine="exported", batch_size=8)
    if eager is None:  # which modules run may depend on the data: nothing happened, as far as is known
        assert evaluate(model, data, [variant], engine="eager", batch_size=8).status == ("no-op",)
    else:
        with pytest.raises(NetopsyError, match=eager):
            evaluate(model, data, [variant], engine="eager", batch_size=8)


def test_a_rewound_bypass_composes_with_checkpoints(model: Residual, data: tuple[Tensor, Tensor]) -> None:
    trajectory = Trajectory.from_states(model, {0: zoo.fresh_state(model, 9), "final": model.state_dict()})
    rewound = Variant("r", (Edit(Address("parameter", "stem.weight"), FromCheckpoint(trajectory, 0)),))
    removed = Variant("b", (Bypass("block"),))
    results = [
        evaluate(model, data, [rewound + removed, removed + rewound], engine=engine, examples=("loss",), batch_size=8)
        for engine in ENGINES
    ]
    for result in results:
        np.testing.assert_array_equal(result.examples["loss"][0], result.examples["loss"][1])
    np.testing.assert_allclose(results[0].examples["loss"], results[1].examples["loss"], atol=1e-5)
