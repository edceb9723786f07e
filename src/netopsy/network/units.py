"""Units: the entries of a layer's value that can be ablated or compared one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn

from netopsy._checks import NetopsyError, at_least, near, one_of, shorten
from netopsy.network.addresses import Address, unwrap
from netopsy.network.module_values import Inputs, Value, module_values
from netopsy.network.task import Task
from netopsy.network.transformer_fused import heads_of
from netopsy.network.transformer_sites import modules_called


@dataclass(frozen=True)
class UnitLayer:
    """The units of one value of a network.

    Attributes:
        name: shown to the user: the module's, and its call where it is called several times.
        address: what leaves or enters that module.
        axis: along which the units lie: 1 of (n, units, ...), -1 of (n, positions, units).
        units: how many.
        size: consecutive entries along the axis that make one unit (an attention head's width).
        shape: of one example's value, without the batch axis.
    """

    name: str
    address: Address
    axis: int
    units: int
    size: int = 1
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        one_of("address.kind", self.address.kind, ("input", "output"))
        at_least("units", self.units, 1)
        at_least("size", self.size, 1)

    def entries(self, units: Iterable[int]) -> tuple[int, ...]:
        """Places along the axis that belong to some of the units.

        >>> UnitLayer("heads", Address("input", "proj"), -1, 4, size=2).entries([3, 0])
        (6, 7, 0, 1)
        """
        return tuple(unit * self.size + i for unit in units for i in range(self.size))

    def __str__(self) -> str:
        return self.name


UnitSpec: TypeAlias = str | Sequence["str | UnitLayer"] | None
"""Activation modules; or names and globs of modules; or layers as `find_units` or `attention_heads` gives them."""


def find_units(
    model: nn.Module, inputs: Inputs, sites: UnitSpec = None, *, task: Task | None = None
) -> tuple[UnitLayer, ...]:
    """Find layers of units by one forward pass over a few examples; the model is bit-identical afterwards.

    Units lie along axis 1 of a value (n, units) or (n, channels, height, width), and along the last axis of one with
    three axes, (n, positions, units). Where that is not so, pass a `UnitLayer` with another axis.

    Args:
        model: any module; wrappers of `torch.compile` and data parallelism are looked through.
        inputs: `(args, kwargs)` of a batch, of which the first examples are used.
        sites: None: the outputs of every call of every activation module but one that gives the logits, in order of
            running; else names or globs of modules (or of their calls: `"act, call 1"`), whose outputs are the units,
            in the order given; a `UnitLayer` is held against the model and taken as it is.
        task: how the logits are read from the model's output.

    Raises:
        NetopsyError: when nothing is found, with what there is; when a module's output holds no units; when a given
            layer does not fit the model.
    """
    model = unwrap(model)
    values = module_values(model, inputs, task or Task())
    outputs = [value for value in values if value.kind == "output"]
    if sites is None:
        found = [
            _layer(v, v.tensor) for v in outputs if v.activation and v.tensor is not None and v.why_not() is None
        ]
        if not found:
            _refuse_functions(model, outputs)
        return tuple(found)
    items: Sequence[str | UnitLayer] = [sites] if isinstance(sites, str) else list(sites)
    if not items:
        raise NetopsyError("sites: expected None, names or globs of modules, or UnitLayers; got none")
    layers: dict[str, UnitLayer] = {}
    for item in items:
        if isinstance(item, UnitLayer):
            _check_layer(item, model, values)
        for layer in [item] if isinstance(item, UnitLayer) else _match(model, outputs, item):
            if layers.setdefault(layer.name, layer) != layer:
                raise NetopsyError(f"sites: two different layers have the name {layer.name!r}; rename one of them")
    return tuple(layers.values())


def attention_heads(
    model: nn.Module,
    inputs: Inputs,
    projections: str | Sequence[str] | None = None,
    *,
    heads: int | None = None,
    task: Task | None = None,
) -> tuple[UnitLayer, ...]:
    """Attention heads as units: what enters the modules that project them out, in groups of equal width.

    Args:
        model: a transformer.
        inputs: `(args, kwargs)` of a batch, of which the first examples are used.
        projections: names or globs of the output projections, such as `"transformer.h.*.attn.c_proj"`; None: those
            that `find_sites(model, "transformer")` calls `attention out`.
        heads: heads of each layer; None: as the modules around a projection or their `config` say, in an attribute
            `num_attention_heads`, `num_heads`, `n_heads`, `n_head` or `heads`.
        task: how the logits are read from the model's output.

    Raises:
        NetopsyError: for a model without blocks, or whose blocks have no `attention out`; for projections that match
            nothing or are not called
            (`nn.MultiheadAttention` reads the weights of its projection without calling it); where no number of heads
            is said or given, or two that differ, or `heads` does not divide the width.
    """
    if heads is not None:
        at_least("heads", heads, 1)
    model = unwrap(model)
    if projections is None:
        projections = modules_called(model, r"(cross-)?attention( \d+)? out")
        if not projections:
            raise NetopsyError(
                f"{type(model).__name__}: its blocks have no 'attention out', by whose input heads are told; pass "
                "projections= names of the modules that project the heads out"
            )
    layers = []
    for value, tensor in _entering(model, inputs, projections, task, "projections"):
        count = heads_of(model, value.module) if heads is None else heads
        if count is None:
            raise NetopsyError(
                f"heads: no module around {value.name!r} says how many heads it has, nor does a config, or what they "
                "say differs; pass heads="
            )
        width = tensor.shape[-1]
        if width % count:
            raise NetopsyError(f"heads={count}: expected a divisor of the width {width} that {value.name!r} takes")
        layers.append(_layer(value, tensor, axis=-1, size=width // count))
    return tuple(dict.fromkeys(layers))


def mlp_units(model: nn.Module, inputs: Inputs, *, task: Task | None = None) -> tuple[UnitLayer, ...]:
    """Hidden units of a transformer's MLPs: what enters the dense layer behind them (`MLP dense 1` or `MLP down`).

    Of a gated MLP these are the products of gate and up, which are no module's output.

    Args:
        model: a transformer.
        inputs: `(args, kwargs)` of a batch, of which the first examples are used.
        task: how the logits are read from the model's output.

    Raises:
        NetopsyError: for a model without blocks, or whose MLPs have no second layer that is called as a module.
    """
    model = unwrap(model)
    seconds = modules_called(model, "MLP (dense 1|down)")
    if not seconds:
        raise NetopsyError(
            f"{type(model).__name__}: its blocks have no 'MLP dense 1' or 'MLP down'; pass sites= names of modules "
            "to find_units"
        )
    found = _entering(model, inputs, seconds, task, "MLP")
    return tuple(dict.fromkeys(_layer(value, tensor, axis=-1) for value, tensor in found))


def _entering(
    model: nn.Module, inputs: Inputs, modules: str | Sequence[str], task: Task | None, what: str
) -> Iterator[tuple[Value, Tensor]]:
    """What enters each of some modules."""
    entering = [value for value in module_values(model, inputs, task or Task()) if value.kind == "input"]
    for item in [modules] if isinstance(modules, str) else modules:
        for value in _matching(model, entering, item):
            if value.tensor is None or value.tensor.ndim < 2:
                raise NetopsyError(f"{what}: {value.name!r} takes no tensor of shape (n, ..., width)")
            yield value, value.tensor


def _layer(value: Value, tensor: Tensor, *, axis: int | None = None, size: int = 1) -> UnitLayer:
    call = None if value.calls == 1 else value.call
    address = Address("input" if value.kind == "input" else "output", value.module, call=call)
    axis = (-1 if tensor.ndim == 3 else 1) if axis is None else axis
    return UnitLayer(value.name, address, axis, tensor.shape[axis] // size, size, tuple(tensor.shape[1:]))


def _match(model: nn.Module, outputs: Sequence[Value], text: str) -> list[UnitLayer]:
    hits = _matching(model, outputs, text)
    layers = [_layer(hit, hit.tensor) for hit in hits if hit.tensor is not None and hit.why_not() is None]
    if not layers:
        raise NetopsyError(f"site {text!r}: {hits[0].name!r} {hits[0].why_not()}; choose another module")
    return layers


def _matching(model: nn.Module, values: Sequence[Value], text: str) -> list[Value]:
    """Values whose name, or whose module's, a glob matches; an alias of a module is as good as its first name."""
    first = {module: name for name, module in model.named_modules()}
    every = {name: first[module] for name, module in model.named_modules(remove_duplicate=False)}
    modules = {every[name] for name in every if name and fnmatchcase(name, text)}
    hits = [v for v in values if v.module and (v.module in modules or fnmatchcase(v.name, text))]
    if not hits and modules:
        raise NetopsyError(
            f"site {text!r}: {shorten(sorted(modules))} is not called as a module when {type(model).__name__} runs "
            "(its weights may be read by another); choose a module that is"
        )
    if not hits:
        known = [name for name in every if name]
        raise NetopsyError(
            f"site {text!r}: matches no module of {type(model).__name__}"
            f"{near(text, known) or '; it has ' + shorten(known, 8)}"
        )
    return hits


def _check_layer(layer: UnitLayer, model: nn.Module, values: Sequence[Value]) -> None:
    """Refuse a layer that the model does not have, or of another width."""
    address = layer.address
    kept = [v for v in _matching(model, values, address.name) if v.kind == address.kind]
    kept = [v for v in kept if address.call in (None, v.call)]
    if not kept:
        raise NetopsyError(f"site {layer.name!r}: the model computes no {address}")
    tensor = kept[0].tensor
    if tensor is None or address.item or address.index is not None:
        return  # one of several tensors, or a part: the engine holds the edit against the value
    inside = -tensor.ndim <= layer.axis < tensor.ndim and layer.axis % tensor.ndim != 0
    width = tensor.shape[layer.axis] if inside else 0
    if width != layer.units * layer.size:
        raise NetopsyError(
            f"site {layer.name!r}: expected {layer.units} units of size {layer.size} along axis {layer.axis}; "
            f"{address} has shape (n, {', '.join(map(str, tensor.shape[1:]))})"
        )


def _refuse_functions(model: nn.Module, outputs: Sequence[Value]) -> None:
    usable = [value.name for value in outputs if value.module and value.why_not() is None]
    raise NetopsyError(
        f"sites: expected activation modules (nn.ReLU, nn.GELU, ...); none runs before the logits of "
        f"{type(model).__name__}: its activations may be functions, which have no name. Pass sites= names or globs "
        f"of modules whose outputs are the units{', such as ' + shorten(usable) if usable else ''}"
    )
