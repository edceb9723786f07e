"""Ablation, effects and redundancy of units in other kinds of networks, against hooked loops in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.resnet import resnet
from netopsy.network.addresses import Address
from netopsy.network.task import Task
from netopsy.network.units import UnitLayer, attention_heads, find_units
from netopsy.probes.ablation import ablation_curve, unit_effects
from netopsy.probes.redundancy import redundancy
from tests import zoo
from tests.oracles import moments as oracle

FEW = (0.0, 0.5, 1.0)

Off = Mapping[UnitLayer, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Family:
    """A network in float64 and how to read it."""

    model: nn.Module
    data: Any
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    task: Task
    labels: Tensor
    read: Callable[[Any], Tensor]
    layers: tuple[UnitLayer, ...]

    def predictions(self, off: Off) -> Tensor:
        """Classes at all places that have a label, of the whole network with entries of values at zero."""
        twin = copy.deepcopy(self.model)
        for layer, units in off.items():
            module = twin.get_submodule(layer.address.name)
            entries = [unit * layer.size + i for unit in units for i in range(layer.size)]

            def zeroed(value: Tensor, axis: int = layer.axis, entries: list[int] = entries) -> Tensor:
                return value.index_fill(axis, torch.tensor(entries, dtype=torch.long), 0.0)

            def before(module: nn.Module, args: Any, change: Callable[[Tensor], Tensor] = zeroed) -> Any:
                return (change(args[0]), *args[1:])

            def after(module: nn.Module, args: Any, output: Any, change: Callable[[Tensor], Tensor] = zeroed) -> Any:
                return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

            if layer.address.kind == "input":
                module.register_forward_pre_hook(before)
            else:
                module.register_forward_hook(after)
        with torch.no_grad():
            logits = self.read(twin(*self.inputs[0], **self.inputs[1]))
        labels = self.labels
        if labels.ndim > 1:  # the next token
            logits, labels = logits[:, :-1], labels[:, 1:]
        return logits[labels != -100].argmax(-1)

    def measured(self, off: Off) -> tuple[float, float]:
        """Share of predictions unchanged, and accuracy."""
        labels = self.labels[:, 1:] if self.labels.ndim > 1 else self.labels
        labels = labels[labels != -100]
        before, after = self.predictions({}), self.predictions(off)
        return float((before == after).double().mean()), float((after == labels).double().mean())

    def value(self, layer: UnitLayer) -> Tensor:
        """What the layer's units are, as samples x units."""
        seen: list[Tensor] = []
        module = self.model.get_submodule(layer.address.name)
        handle = module.register_forward_hook(
            lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        with torch.no_grad():
            self.model(*self.inputs[0], **self.inputs[1])
        handle.remove()
        return seen[0].movedim(layer.axis, -1).reshape(-1, layer.units)


@cache
def family(name: str) -> Family:
    if name == "resnet":
        with forked(3):
            model: nn.Module = resnet(18, classes=3, channels=1, width=1 / 16)
            x, labels = torch.randn(40, 1, 8, 8).double(), torch.randint(0, 3, (40,))
        model.load_state_dict(zoo.fresh_state(model, 3))  # statistics that are not neutral
        model = model.double().eval()
        with torch.no_grad():  # so that predictions are close
            model.get_parameter("classifier.bias").sub_(model(x).mean(0))
        found = find_units(model, ((x,), {}))
        return Family(model, (x, labels), ((x,), {}), Task(), labels, lambda out: out, (found[0], found[4]))
    kind, _, part = name.partition(" ")
    case = zoo.case(kind)
    model = copy.deepcopy(case.model).double()
    if kind == "lstm":
        layers: tuple[UnitLayer, ...] = (UnitLayer("states", Address("output", "l", item=0), -1, 7, 1, (6, 7)),)
    elif part == "heads":
        proj = {"gpt2": "transformer.h.*.attn.c_proj", "bert": "*.attention.output.dense"}[kind]
        layers = attention_heads(model, case.inputs, proj, heads=2)
    else:
        mlp = {"gpt2": "transformer.h.*.mlp.act", "bert": "*.intermediate_act_fn"}[kind]
        layers = find_units(model, case.inputs, mlp, task=case.task)
    return Family(model, case.data, case.inputs, case.task, case.labels, case.read, layers)


NAMES = ("resnet", "bert mlp", "bert heads", "gpt2 mlp", "gpt2 heads", "lstm states")


@pytest.mark.parametrize("engine", ["eager", "exported"])
@pytest.mark.parametrize("name", NAMES)
def test_effects_are_those_of_a_hooked_loop(name: str, engine: Any) -> None:
    it = family(name)
    frame = unit_effects(it.model, it.data, sites=it.layers, task=it.task, engine=engine, batch_size=8)
    assert len(frame) == sum(layer.units for layer in it.layers)
    layers = {layer.name: layer for layer in it.layers}
    for row in frame.itertuples():
        expected = it.measured({layers[str(row.site)]: [int(str(row.unit))]})
        assert (row.unchanged, row.accuracy) == pytest.approx(expected, abs=1e-12)
    assert frame.unchanged.min() < 1  # some unit matters, else this shows nothing


@pytest.mark.parametrize("name", NAMES)
def test_curves_are_those_of_a_hooked_loop(name: str) -> None:
    it = family(name)
    order = {layer.name: np.random.default_rng(1).permutation(layer.units).tolist() for layer in it.layers}
    frame = ablation_curve(
        it.model, it.data, sites=it.layers, task=it.task, order=order, fractions=FEW, batch_size=8
    ).frame
    for row in frame.itertuples():
        chosen = [layer for layer in it.layers if row.site in (layer.name, "all")]
        share = float(str(row.fraction))
        off = {layer: order[layer.name][: int(share * layer.units + 0.5)] for layer in chosen}
        assert row.ablated == sum(map(len, off.values()))
        assert (row.unchanged, row.accuracy) == pytest.approx(it.measured(off), abs=1e-12)


@pytest.mark.parametrize("name", ["resnet", "bert mlp", "gpt2 mlp", "lstm states"])
def test_redundancy_is_that_of_the_stored_activations(name: str) -> None:
    it = family(name)
    result = redundancy(it.model, it.data, sites=it.layers, task=it.task, similar=0.3, ridge=1e-12, batch_size=8)
    rows = result.to_frame().set_index("site")
    for layer in it.layers:
        samples, row = it.value(layer).numpy(), rows.loc[layer.name]
        units = result.units[result.units.site == layer.name]
        assert (row.units, row.samples, row.status) == (layer.units, len(samples), "ok")
        np.testing.assert_allclose(units["mean"], samples.mean(0), atol=1e-10)
        np.testing.assert_allclose(units.variance, samples.var(0), atol=1e-10)
        np.testing.assert_allclose(units.activity, (samples > 0).mean(0), atol=1e-12)
        kept = samples[:, units.kind == "varying"].tolist()
        assert row.components == oracle.components(kept, 0.95)
        assert units.similar.dropna().tolist() == oracle.similar(kept, 0.3)
        np.testing.assert_allclose(units.r2.dropna(), oracle.explained(kept), atol=1e-6)


@pytest.mark.parametrize("name", ["bert heads", "gpt2 heads"])
def test_redundancy_of_heads_is_refused(name: str) -> None:
    it = family(name)
    with pytest.raises(NetopsyError, match="hold 4, between which there is no one correlation"):
        redundancy(it.model, it.data, sites=it.layers, task=it.task)


class Odd(nn.Module):
    """Units that are dead (0), constant (1), alike (2, 3), opposite (4), and one that is none of these (5)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.narrow = nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1)
        self.single, self.last, self.unused = nn.Tanh(), nn.Linear(1, 2), nn.ReLU()
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[0.0, 0], [0, 0], [1, 0], [2, 0], [-1, 0], [0, 1]]))
            self.first.bias.copy_(torch.tensor([-1.0, 3, 4, 8, 4, 4]))  # inputs are within ±4: nothing is cut
            self.narrow.weight.copy_(torch.tensor([[5.0, 1, 0, 0, 0, 1]]))
            self.narrow.bias.fill_(-7.0)
            self.last.weight.copy_(torch.tensor([[0.0], [1]]))
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.single(self.narrow(self.act(self.first(x)))))
        return out


@cache
def odd() -> tuple[nn.Module, Tensor, Tensor]:
    with forked(0):
        model, x = Odd().double(), torch.randn(40, 2, dtype=torch.float64).clamp(-3.9, 3.9)
    return model, x, (x[:, 1] > 0).long()


@pytest.mark.parametrize("engine", ["eager", "exported"])
def test_dead_constant_and_duplicate_units_and_a_layer_of_one(engine: Any) -> None:
    model, x, y = odd()
    frame = unit_effects(model, (x, y), engine=engine).set_index(["site", "unit"])
    assert frame.accuracy.add(-frame.accuracy_change).eq(1).all()
    # the logit is tanh(unit 1 + unit 5 - 7) = tanh(x_1); nothing else is read
    zero = float((y == 0).double().mean())
    without = float(((x[:, 1] > 3) == (x[:, 1] > 0)).double().mean())
    assert frame.loc["act"].unchanged.tolist() == pytest.approx([1, without, 1, 1, 1, zero])
    assert frame.loc["single"].unchanged.tolist() == pytest.approx([zero])
    result = redundancy(model, (x, y))
    rows, units = result.to_frame().set_index("site"), result.units[result.units.site == "act"]
    assert units.kind.tolist() == ["silent", "constant", *["varying"] * 4]
    assert units.similar.tolist()[2:5] == [2, 2, 2]
    assert units.r2.iloc[2:5].min() > 1 - 1e-5
    assert (rows.loc["act"].silent, rows.loc["act"].constant, rows.loc["act"].components) == (1, 1, 2)
    assert (rows.loc["single"].units, rows.loc["single"].status) == (1, "one unit")


@pytest.mark.parametrize("probe", [ablation_curve, unit_effects, redundancy])
def test_a_layer_that_is_never_reached_is_refused(probe: Any) -> None:
    model, x, y = odd()
    layer = UnitLayer("mine", Address("output", "unused"), 1, 6)
    for sites in ("unused", [layer]):
        with pytest.raises(NetopsyError, match="unused is not called as a module when Odd runs"):
            probe(model, (x, y), sites=sites)


@pytest.mark.parametrize("probe", [ablation_curve, unit_effects, redundancy])
def test_several_outputs_without_an_item_are_refused(probe: Any) -> None:
    case = zoo.case("lstm")
    with pytest.raises(NetopsyError, match="'l' gives tuple, not one floating tensor; pass a UnitLayer"):
        probe(case.model, case.data, sites="l")
    layer = UnitLayer("mine", Address("output", "l", item=5), -1, 7)
    with pytest.raises(NetopsyError, match="item 5"):
        probe(case.model, case.data, sites=[layer])
