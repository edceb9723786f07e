"""Finding layers of units: names, axes, calls; what is refused; and that it leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.models.fcn import fcn
from netopsy.network.addresses import Address
from netopsy.network.units import UnitLayer, attention_heads, find_units
from tests import zoo


def inputs(x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x,), {}


def sizes(layers: tuple[UnitLayer, ...]) -> list[tuple[str, int, int]]:
    return [(layer.name, layer.units, layer.axis) for layer in layers]


class Shared(nn.Module):
    """One activation module for two layers, and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)
        self.act, self.off = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(self.b(self.act(self.a(x)))))


class Writes(nn.Module):
    """Counts its calls in a buffer, rebinds another, sets an attribute, draws, and writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.c = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("sum", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        self.count += 1
        hidden = self.act(self.a(x))
        self.sum = self.sum + hidden.sum(0)
        self.last = hidden + torch.rand(1)
        return self.c(hidden)


def test_the_outputs_of_activation_modules_are_units_in_order_of_running() -> None:
    model = fcn(inputs=6, classes=3, depth=2, width=8)
    layers = find_units(model, inputs(torch.randn(9, 6)))
    assert layers == (
        UnitLayer("activation.0", Address("output", "activation.0"), 1, 8, 1, (8,)),
        UnitLayer("activation.1", Address("output", "activation.1"), 1, 8, 1, (8,)),
    )


def test_channels_of_images_are_units() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(64, 2))
    (layer,) = find_units(model, inputs(torch.randn(3, 1, 6, 6)))
    assert (layer.name, layer.units, layer.axis, layer.shape) == ("1", 4, 1, (4, 4, 4))


def test_features_of_sequences_are_units() -> None:
    for name, expected in [
        ("gpt2", "transformer.h.0.mlp.act"),
        ("bert", "bert.encoder.layer.0.intermediate.interme"),
    ]:
        case = zoo.case(name)
        layer = find_units(case.model, case.inputs, task=case.task)[0]
        assert layer.name.startswith(expected)
        assert (layer.axis, layer.shape[-1]) == (-1, layer.units)


def test_calls_of_one_module_are_layers_of_their_own() -> None:
    layers = find_units(Shared(), inputs(torch.randn(4, 6)))
    assert sizes(layers) == [("act, call 0", 5, 1), ("act, call 1", 4, 1)]
    assert [layer.address.call for layer in layers] == [0, 1]
    assert find_units(Shared(), inputs(torch.randn(4, 6)), "act") == layers
    assert find_units(Shared(), inputs(torch.randn(4, 6)), ["act, call 1"]) == layers[1:]


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.ReLU(inplace=True)])
def test_an_activation_that_gives_the_logits_is_none(last: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), last)
    assert sizes(find_units(model, inputs(torch.randn(4, 6)))) == [("1", 4, 1)]
    with pytest.raises(NetopsyError, match="site '3': '3' gives the logits themselves; choose another module"):
        find_units(model, inputs(torch.randn(4, 6)), "3")


def test_names_and_globs_choose_modules() -> None:
    model, x = fcn(inputs=6, classes=3, depth=2, width=8), inputs(torch.randn(4, 6))
    assert sizes(find_units(model, x, "hidden.*")) == [("hidden.0", 8, 1), ("hidden.1", 8, 1)]
    assert [layer.name for layer in find_units(model, x, ["activation.1", "hidden.0"])] == [
        "activation.1",
        "hidden.0",
    ]
    layer = find_units(model, x, "hidden.0")[0]
    assert find_units(model, x, [layer, "hidden.0"]) == (layer,)
    with pytest.raises(NetopsyError, match=r"site 'hiden.0': matches no module of FCN; did you mean hidden\.0"):
        find_units(model, x, "hiden.0")
    with pytest.raises(
        NetopsyError, match="sites: expected None, names or globs of modules, or UnitLayers; got none"
    ):
        find_units(model, x, [])


def test_functions_have_no_name_and_the_message_says_what_to_pass() -> None:
    message = r"its activations may be functions.*Pass sites= names or globs .*such as a, call 0, a, call 1"
    with pytest.raises(NetopsyError, match=message):
        find_units(zoo.Twice(), inputs(torch.randn(4, 6)))
    with pytest.raises(NetopsyError, match="none runs before the logits"):
        find_units(zoo.scripted(), inputs(torch.randn(4, 6)))


def test_what_holds_no_units_is_refused() -> None:
    case = zoo.case("lstm")
    with pytest.raises(NetopsyError, match="site 'l': 'l' gives tuple, not one floating tensor"):
        find_units(case.model, case.inputs, "l")
    given = UnitLayer("states", Address("output", "l", item=0), -1, 7)
    assert find_units(case.model, case.inputs, [given]) == (given,)
    model = Shared()
    with pytest.raises(NetopsyError, match="site 'off': off is not called as a module when Shared runs"):
        find_units(model, inputs(torch.randn(4, 6)), "off")


def test_a_layer_that_does_not_fit_is_refused() -> None:
    model, x = Shared(), inputs(torch.randn(4, 6))
    with pytest.raises(NetopsyError, match=r"expected 9 units of size 1 along axis 1; .* has shape \(n, 5\)"):
        find_units(model, x, [UnitLayer("mine", Address("output", "a"), 1, 9)])
    with pytest.raises(NetopsyError, match="the model computes no output of act, call 5"):
        find_units(model, x, [UnitLayer("mine", Address("output", "act", call=5), 1, 5)])
    with pytest.raises(NetopsyError, match="two different layers have the name 'a'"):
        find_units(model, x, ["a", UnitLayer("a", Address("output", "b"), 1, 4)])


def test_impossible_layers_are_refused(unchecked: None) -> None:
    with pytest.raises(NetopsyError, match="units: expected an integer >= 1; got 0"):
        UnitLayer("a", Address("output", "a"), 1, 0)
    with pytest.raises(NetopsyError, match=r"address\.kind: expected one of 'input', 'output'; got 'parameter'"):
        UnitLayer("a", Address("parameter", "a"), 1, 4)


def test_a_model_that_cannot_be_run_is_refused() -> None:
    with pytest.raises(
        NetopsyError, match=r"data: Shared cannot be run on the first examples, input shapes \[\(2, 7"
    ):
        find_units(Shared(), inputs(torch.randn(4, 7)))


def test_attention_heads_are_groups_of_what_enters_the_projection() -> None:
    case = zoo.case("gpt2")
    (layer,) = attention_heads(case.model, case.inputs, "transformer.h.*.attn.c_proj", heads=2)
    assert layer.address == Address("input", "transformer.h.0.attn.c_proj")
    assert (layer.units, layer.size, layer.axis) == (2, 4, -1)
    assert layer.entries([1]) == (4, 5, 6, 7)
    with pytest.raises(NetopsyError, match="heads=3: expected a divisor of the width 8"):
        attention_heads(case.model, case.inputs, "transformer.h.*.attn.c_proj", heads=3)


def test_an_output_projection_that_is_not_called_is_refused() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(NetopsyError, match=r"self_attn\.out_proj is not called as a module"):
        attention_heads(model, inputs(torch.randn(3, 5, 8)), "self_attn.out_proj", heads=2)


def test_it_leaves_no_trace() -> None:
    model = Writes().train()
    model.act.eval()
    x = torch.randn(4, 6)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes, given, random = set(vars(model)), x.clone(), torch.random.get_rng_state()
    held = model.sum
    assert sizes(find_units(model, inputs(x))) == [("act", 5, 1)]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.sum is held
    assert set(vars(model)) == attributes
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(x, given)
    assert torch.equal(torch.random.get_rng_state(), random)
