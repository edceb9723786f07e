"""Masked units are followed alone to the next linear step; the logits are those of the whole network all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy._random import forked
from netopsy.engine import carrying
from netopsy.engine.eager import Eager
from netopsy.engine.edits import AddNoise, Edit, Mask, Variant, joined, touched_modules
from netopsy.engine.evaluate import evaluate
from netopsy.engine.graph import export
from netopsy.engine.masked import Part, as_units, is_few
from netopsy.engine.stream import BASELINE, Stream
from netopsy.engine.values import Values
from netopsy.network.addresses import Address, canonical_names, named_state
from netopsy.network.task import default_logits
from tests import zoo
from tests.oracles import masked

Off = dict[tuple[str, str, int], Sequence[int]]


def off(*units: int, at: str, kind: str = "output", axis: int = 1) -> Off:
    return {(kind, at, axis): units}


def variant_of(places: Off) -> Variant:
    edits = [Edit(Address(kind, name), Mask(tuple(units), axis)) for (kind, name, axis), units in places.items()]  # type: ignore[arg-type]
    return Variant(str(places), tuple(edits))


def generic(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and eval mode; no bias, norm or statistic is neutral."""
    with forked(seed):
        model.load_state_dict({name: zoo.stirred(value, name) for name, value in model.state_dict().items()})
    return model.double().eval()


def stream_of(model: nn.Module, inputs: Any, variants: Sequence[Variant], read: Any = default_logits) -> Stream:
    state = {name: value.detach() for name, value in named_state(model).items()}
    program = export(model, inputs, read, touched_modules(variants))
    return Stream.of(program, Values(state, canonical_names(model), variants), range(len(variants)))


def check(model: nn.Module, inputs: Any, asked: Sequence[Off], read: Any = default_logits) -> Stream:
    """Exported logits are those of the eager engine and of hooks, to 1e-10."""
    variants = [variant_of(places) for places in asked]
    stream = stream_of(model, inputs, variants, read)
    state = stream.values.state
    eager = Eager(model, stream.values, read)
    with torch.no_grad():
        found = dict(stream.run(state, inputs, set(range(len(asked)))))
        for row, places in enumerate(asked):
            expected = masked.logits(model, *inputs, places, read)
            logits = found.get(row, found[BASELINE])
            assert logits.shape == expected.shape
            assert (logits - eager.forward(state, inputs, row)).abs().max() < 1e-10
            assert (logits - expected).abs().max() < 1e-10
            changes = row in found and any(places.values())  # nothing agrees by being without effect
            assert not changes or (logits - found[BASELINE]).abs().max() > 1e-6
    return stream


def plans_of(stream: Stream) -> list[Any]:
    return [plan for plans in stream.plans.values() for plan in plans]


def pictures(n: int = 5, channels: int = 3, size: int = 12) -> Any:
    with forked(1):
        return ((torch.randn(n, channels, size, size, dtype=torch.float64),), {})


CONVOLUTIONS: dict[str, Callable[[], list[nn.Module]]] = {
    "padded": lambda: [nn.Conv2d(8, 6, 3, padding=1)],
    "strided": lambda: [nn.Conv2d(8, 6, 3, stride=2)],
    "same": lambda: [nn.Conv2d(8, 6, 3, padding="same")],
    "dilated": lambda: [nn.Conv2d(8, 6, 3, dilation=2, bias=False)],
    "oblong": lambda: [nn.Conv2d(8, 6, (3, 1), (1, 2), (0, 1))],
    "grouped": lambda: [nn.Conv2d(8, 6, 3, groups=2)],
    "depthwise": lambda: [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1)],
    "depthwise, two each": lambda: [nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False), nn.Conv2d(16, 6, 1)],
    "circular": lambda: [nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular")],
    "pooled": lambda: [nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 6, 3)],
    "averaged": lambda: [nn.AvgPool2d(2), nn.Dropout(0.5), nn.Conv2d(8, 6, 3)],
    "normed": lambda: [nn.BatchNorm2d(8), nn.LeakyReLU(0.1), nn.Conv2d(8, 6, 3)],
    "normed, not affine": lambda: [nn.BatchNorm2d(8, affine=False), nn.GELU("tanh"), nn.Conv2d(8, 6, 3)],
    "group normed": lambda: [nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 3)],
    "in place": lambda: [nn.SiLU(inplace=True), nn.Hardtanh(inplace=True), nn.Conv2d(8, 6, 3)],
    "prelu": lambda: [nn.PReLU(8), nn.Conv2d(8, 6, 3)],
    "transposed": lambda: [nn.ConvTranspose2d(8, 6, 3)],
    "rows": lambda: [nn.Linear(10, 4), nn.Conv2d(8, 6, 1)],
}
WHOLE = {"grouped", "circular", "group normed", "prelu", "transposed", "rows"}
"""Where a step needs the whole value."""


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_what_lies_before_and_in_a_convolution(name: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), *CONVOLUTIONS[name](), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip
    units = [(0,), (3,), (7,), (2, 3), (-1, 1, 4), (0, 7, 3, 0), (), (0, 1, 2, 3, 4), tuple(range(8))]
    stream = check(generic(model), pictures(), [off(*mine, at="1") for mine in units])
    few = next(plan for plan in plans_of(stream) if 0 in plan.rows)
    assert {0, 1, 2, 3, 4, 5} == set(few.rows)  # nothing, or more than half, runs whole
    assert any(replay.fills for replay in few.steps) == (name in WHOLE)


def test_flattened_channels_and_the_logits_themselves() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 6))
    asked = [off(*units, at=at) for at in ("1", "2") for units in ((0,), (3,), (1, 2), (0, 2))]
    stream = check(generic(model), pictures(), [*asked, off(2, at="4"), off(0, 5, at="4"), off(1, at="0")])
    assert not any(replay.fills for plan in plans_of(stream) for replay in plan.steps)


@pytest.mark.parametrize(
    "head",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean((-1, -2), keepdim=True).flatten(1),
        lambda x: x.mean((1, 2))[:, :8],
        lambda x: x.mean(3).transpose(1, 2).flatten(1)[:, :8],
        lambda x: x.flatten(2).sum(2),
        lambda x: x.permute(0, 2, 3, 1).flatten(1)[:, 5:13],
    ],
)
def test_other_heads(head: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.out = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(head(self.act(self.conv(x))))

    check(generic(Net()), pictures(), [off(u, at="act") for u in range(8)])


def test_a_line_and_a_volume() -> None:
    line = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 2), nn.Flatten())
    volume = nn.Sequential(nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.AvgPool3d(2), nn.Conv3d(6, 4, 2), nn.Flatten())
    with forked(1):
        x, y = torch.randn(4, 3, 13, dtype=torch.float64), torch.randn(4, 1, 6, 6, 6, dtype=torch.float64)
    for model, value in ((line, x), (volume, y)):
        stream = check(generic(model), ((value,), {}), [off(*units, at="1") for units in ((0,), (5,), (1, 4))])
        assert not any(replay.fills for plan in plans_of(stream) for replay in plan.steps)


def test_a_fully_connected_network_and_its_inputs() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 3))
    with forked(1):
        x = torch.randn(7, 6, dtype=torch.float64)
    asked = [
        off(u, at=at, kind=kind) for at, kind in (("2", "output"), ("1", "input"), ("4", "output")) for u in (0, 7)
    ]
    check(generic(model), ((x,), {}), [*asked, off(2, 5, at="0", kind="input"), off(1, 4, 6, at="2", axis=-1)])


class Residual(nn.Module):
    """Masked values used twice: beside a branch, in a product with themselves, and in two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.one, self.norm, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.mid, self.last, self.head = nn.ReLU(), nn.Tanh(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.stem(x))
        h = h + self.two(self.mid(self.norm(self.one(h))))
        h = h * F.silu(h) + self.one(h)
        g = self.last(h)
        g = g * torch.sigmoid(g) * x.mean((1, 2, 3), keepdim=True)
        g[:, :2] += 1  # written in place
        return self.head(g.mean((2, 3)))


def test_values_used_twice() -> None:
    asked = [off(*units, at=at) for at in ("act", "mid", "last", "stem", "norm", "one") for units in ((0,), (1, 5))]
    check(generic(Residual()), pictures(), asked)


def test_several_layers_at_once() -> None:
    pairs = [("act", "mid"), ("mid", "last"), ("act", "last"), ("norm", "mid"), ("stem", "act")]
    asked = [{**off(1, 4, at=a), **off(2, at=b)} for a, b in pairs]
    asked.append({**off(0, at="act"), **off(3, at="mid"), **off(6, 7, at="last")})
    check(generic(Residual()), pictures(), asked)


def test_a_module_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.out = nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.act(self.a(x)), self.act(x)  # each sees the input alone
            return self.out(left * right + self.act(left))

    with forked(1):
        x = torch.randn(5, 6, dtype=torch.float64)
    check(generic(Twice()), ((x,), {}), [off(u, at="act") for u in range(6)] + [off(1, 5, at="act")])


class Gated(nn.Module):
    """A transformer's gated MLP on (n, positions, features), and one that holds its matrix the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 10), nn.Linear(4, 10), nn.Linear(10, 4)
        self.act, self.norm = nn.SiLU(), nn.LayerNorm(4)
        self.matrix, self.bias = nn.Parameter(torch.zeros(10, 3)), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.down(self.act(self.gate(x)) * self.up(x)))
        h = self.act(self.up(x))
        flat = torch.addmm(self.bias, h.view(-1, 10), self.matrix)
        return flat.view(*x.shape[:2], 3).mean(1)


def test_transformer_mlps() -> None:
    with forked(1):
        x = torch.randn(5, 7, 4, dtype=torch.float64)
    asked = [off(*units, at=at, axis=axis) for at in ("act", "up") for axis in (-1, 2) for units in ((0,), (9, 2))]
    asked += [off(*units, at="down", kind="input", axis=-1) for units in ((4, 5), (0, 9))]
    asked += [off(3, at="act", axis=1), off(0, at="down", axis=2)]  # positions; what leads to a sum
    check(generic(Gated()), ((x,), {}), asked)


@pytest.mark.parametrize(("name", "places"), [
    ("gpt2", ["transformer.h.0.mlp.act", "transformer.h.0.ln_2"]),
    ("bert", ["bert.encoder.layer.0.intermediate", "bert.encoder.layer.0.attention.output.dense"]),
])  # fmt: skip
def test_transformers(name: str, places: list[str]) -> None:
    case = zoo.case(name)
    model = zoo.build(name).double()
    if name == "gpt2":
        model.config.use_cache = False
    check(model, case.inputs, [off(*u, at=at, axis=-1) for at in places for u in ((0,), (5, 2))], case.read)


# The work that is left, and what is not a part


def test_only_columns_of_masked_units_are_multiplied() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = generic(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, 4)))
    inputs = pictures()
    stream = stream_of(model, inputs, [variant_of(off(u, at="1")) for u in range(8)])
    with FlopCounterMode(display=False) as alone:
        dict(stream.run(stream.values.state, inputs, set()))
    with FlopCounterMode(display=False) as all_of_them:
        dict(stream.run(stream.values.state, inputs, set(range(8))))
    second, head = 2 * 5 * 64 * 8 * 8 * 9, 2 * 5 * 512 * 4
    assert all_of_them.get_total_flops() - alone.get_total_flops() == second + 8 * head


def test_other_edits_of_the_same_place_or_weight() -> None:
    model = generic(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    mask = variant_of(off(1, at="1"))
    noise = Variant("noise", (Edit(Address("output", "1"), AddNoise(0.3, 0)),))
    weight = Variant("weight", (Edit(Address("parameter", "2.weight"), AddNoise(0.3, 0)),))
    early = Variant("early", (Edit(Address("parameter", "0.bias"), AddNoise(0.3, 0)),))
    bias = Variant("bias", (Edit(Address("parameter", "2.bias"), AddNoise(0.3, 0)),))
    part = Variant("half the examples' places", (Edit(Address("output", "1", index=":, 0:4"), Mask((1,))),))
    variants = [joined(str(i), pair) for i, pair in enumerate(
        [(mask, noise), (noise, mask), (mask, mask), (mask, weight), (mask, early), (bias, mask), (part,),
         (part, mask)]
    )]  # fmt: skip
    with forked(1):
        inputs: Any = ((torch.randn(5, 6, dtype=torch.float64),), {})
    stream = stream_of(model, inputs, variants)
    eager = Eager(model, stream.values, default_logits)
    with torch.no_grad():
        found = dict(stream.run(stream.values.state, inputs, set(range(len(variants)))))
        expected = dict(eager.run(stream.values.state, inputs, set(range(len(variants)))))
        for row in range(len(variants)):
            assert (found[row] - expected[row]).abs().max() < 1e-10


def test_units_that_are_zero_already_are_left_out() -> None:
    model = generic(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    with torch.no_grad():
        model[0].bias[2] = -1e6  # type: ignore[index]
    variants = [variant_of(off(*units, at="1")) for units in ((1,), (2,), (1, 2))]
    variants.append(
        joined("and more", [variants[1], Variant("b", (Edit(Address("parameter", "2.bias"), AddNoise(1.0, 0)),))])
    )
    with forked(1):
        x = torch.randn(5, 6, dtype=torch.float64)
    stream = stream_of(model, ((x,), {}), variants)
    with torch.no_grad():
        assert set(dict(stream.run(stream.values.state, ((x,), {}), {0, 1, 2, 3}))) == {0, 2, 3, BASELINE}
    found = evaluate(model, (x, torch.zeros(5, dtype=torch.long)), variants, metrics=("loss", "unchanged"))
    assert found.status == ("ok",) * 4  # no one can say that it is zero on other data
    assert found.metrics["loss"][1] == found.baseline["loss"]
    assert found.metrics["unchanged"][1] == 1


@pytest.mark.parametrize("size", [1e9, float("inf")])
def test_a_sum_that_cancels_is_done_anew(size: float) -> None:
    """Without unit 0, what is left is a billionth of what there was, or finite."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.mid, self.out = nn.Identity(), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.act(torch.cat([x[:, :1] * size, x[:, 1:]], 1))
            return self.out(torch.tanh(self.mid(h)))

    with forked(0):
        net, x = Net().eval(), torch.rand(6, 4) + 0.5
    net.mid.weight.data.abs_()
    stream = stream_of(net, ((x,), {}), [variant_of(off(0, at="act"))])
    with torch.no_grad():
        found = dict(stream.run(stream.values.state, ((x,), {}), {0}))[0]
    expected = masked.logits(net, (x.double(),), {}, off(0, at="act"), default_logits) if size < 1e10 else None
    by_hand = net.out(torch.tanh(F.linear(x * torch.tensor([0.0, 1, 1, 1]), net.mid.weight)))
    assert (found - by_hand).abs().max() < 1e-6
    assert expected is None or (found - expected).abs().max() < 1e-6


# Verification


def test_a_wrong_way_of_parts_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """If columns were taken wrongly, whole overrides would agree; those of units tell."""
    with forked(0):
        model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval(), torch.randn(9, 6)
    data, variants = (x, torch.zeros(9, dtype=torch.long)), [variant_of(off(u, at="1")) for u in range(8)]
    right = evaluate(model, data, variants, metrics=("loss",), engine="eager")
    product = carrying._product
    monkeypatch.setattr(
        carrying,
        "_product",
        lambda weight, axis: (
            lambda slots, part: product(weight, axis)(slots, Part(part.whole, part.part, range(1), 1))
        ),
    )
    found = evaluate(model, data, variants, metrics=("loss",))
    assert found.provenance["engine"] == "eager"
    assert "differ for an edit of" in found.provenance["engine_reasons"][0]
    np.testing.assert_allclose(found.metrics["loss"], right.metrics["loss"])


def test_in_single_precision_logits_agree_to_rounding() -> None:
    with forked(0):
        model, x = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 5),
        ).eval(), torch.randn(20, 3, 16, 16)  # fmt: skip
    asked = [off(u, at=at) for at, units in (("1", 8), ("4", 16)) for u in range(units)]
    stream = stream_of(model, ((x,), {}), [variant_of(places) for places in asked])
    with torch.no_grad():
        found = dict(stream.run(stream.values.state, ((x,), {}), set(range(len(asked)))))
    for row, places in enumerate(asked):
        expected = masked.logits(model, (x.double(),), {}, places, default_logits)
        assert (found.get(row, found[BASELINE]) - expected).abs().max() < 1e-6 * max(1.0, expected.abs().max().item())


# Parts


@pytest.mark.parametrize(
    ("entries", "expected"), [((3,), range(3, 4)), ((2, 1), range(1, 3)), ((-1, 4), range(4, 6))]
)
def test_consecutive_units_are_ranges(entries: tuple[int, ...], expected: range) -> None:
    assert as_units(entries, 6, torch.device("cpu")) == expected


def test_units_are_sorted_and_counted_once() -> None:
    units = as_units((5, 0, -1, 2), 6, torch.device("cpu"))
    assert isinstance(units, Tensor)
    assert units.tolist() == [0, 2, 5]
    assert is_few((5, -1, 0), 4 + 2)
    assert not is_few((), 6)
    assert not is_few((6,), 6)
    assert not is_few((-7,), 6)
    assert not is_few((0, 1, 2, 3), 6)


@pytest.mark.parametrize("units", [range(1, 3), torch.tensor([0, 2])])
def test_a_part_filled_is_a_copy(units: range | Tensor) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    part = Part(whole, torch.zeros(1, 2), units, 1)
    expected = whole.clone()
    expected[:, list(units)] = 0
    assert torch.equal(part.filled(), expected)
    assert torch.equal(whole, torch.arange(12.0).reshape(3, 4))
    assert part.changes()
    assert not Part(whole, whole[:, list(units)], units, 1).changes()
