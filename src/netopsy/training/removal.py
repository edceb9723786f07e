"""Training with less than the whole network: parts frozen, modules removed (Zhang, Bengio, Singer 2022, Table 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError, near, shorten
from netopsy.network.addresses import named_state, unwrap
from netopsy.network.sites import find_sites


def freeze(model: nn.Module, frozen: Sequence[str]) -> None:
    """Have the parameters of these parts keep their values: they no longer require a gradient.

    Statistics of batch normalization still follow the data in a frozen part: what enters it changes while the layers
    below it learn, and a network with the statistics of other inputs would be another function in eval mode than
    the one that is trained. Weight decay does not touch a frozen parameter. A parameter tied to one outside is
    frozen there too.

    Args:
        model: is changed in place.
        frozen: parts as `find_sites` takes them, but for slices.

    Raises:
        NetopsyError: a name matches nothing, a slice, or no parameter; or nothing is left to train.
    """
    if not frozen:
        return
    values = named_state(unwrap(model))
    for site in find_sites(model, frozen):
        parameters = [address for address in site.addresses if address.kind == "parameter"]
        if not parameters or any(address.index is not None for address in parameters):
            raise NetopsyError(
                f"frozen: expected parts that have parameters, each whole; got {site.name!r}; name its module or "
                "parameter"
            )
        for address in parameters:
            values[address.name].requires_grad_(False)
    if not any(value.requires_grad for value in model.parameters()):
        raise NetopsyError(
            f"frozen: expected at least one parameter left to train; {shorten(map(repr, frozen))} is all of "
            f"{type(unwrap(model)).__name__}; freeze less"
        )


def remove(model: nn.Module, removed: Sequence[str], sample: Tensor) -> tuple[str, ...]:
    """Replace modules by the identity, where that makes sense, and return their names.

    Args:
        model: is changed in place; left in eval mode.
        removed: names of modules or globs over them (of matches inside each other, the outermost).
        sample: a batch of inputs on the model's device; one forward pass before and one after check the removal.

    Raises:
        NetopsyError: a name matches nothing, or the whole model; a module is registered under several names, is not
            called exactly once with one tensor, or returns another shape or type than it takes; or nothing is left
            to train.
    """
    names = _resolve(model, removed)
    for name, calls in _calls(model, names, sample).items():
        if problem := _problem(calls):
            raise NetopsyError(
                f"removed: expected modules that are called once, with one tensor, and return its shape; {name!r} "
                f"{problem}; the identity cannot take its place: leave it out"
            )
    _replace(model, names)
    if not any(value.requires_grad for value in model.parameters()):
        raise NetopsyError(
            f"removed: expected at least one parameter left to train; without {shorten(map(repr, names))} "
            f"{type(unwrap(model)).__name__} has none; remove less"
        )
    for name, calls in _calls(model, names, sample).items():
        if len(calls) != 1:
            raise NetopsyError(
                f"removed: expected the model to call {name!r} by its name; it holds on to the module itself, so "
                "that replacing it changes nothing; look it up in forward()"
            )
    return names


def without(factory: Callable[[], nn.Module], removed: Sequence[str]) -> nn.Module:
    """What the factory makes, with modules replaced by the identity; the others are as in the full network.

    Raises:
        NetopsyError: a name matches nothing, or the whole model, or a module registered under several names.

    >>> without(lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ("1",))
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Identity()
    )
    """
    model = factory()
    _replace(model, _resolve(model, removed))
    return model


def _replace(model: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        unwrap(model).set_submodule(name, nn.Identity())


def _resolve(model: nn.Module, removed: Sequence[str]) -> tuple[str, ...]:
    """Full names of the modules, in the order in which the model holds them."""
    model = unwrap(model)
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    hits: set[str] = set()
    for text in removed:
        found = {name for name in modules if fnmatchcase(name, text)}
        if not found:
            raise NetopsyError(
                f"removed: {text!r} matches no module inside {type(model).__name__}"
                f"{near(text, modules) or '; it has ' + shorten(modules, 8)}"
            )
        hits |= found
    names = tuple(name for name in modules if name in hits and not any(name.startswith(f"{up}.") for up in hits))
    for name in names:
        others = [other for other, module in modules.items() if module is modules[name] and other != name]
        if others:
            raise NetopsyError(
                f"removed: expected modules with one name; {name!r} is {others[0]!r} too; the identity would take "
                "only one of its places: leave it out"
            )
    return names


Call = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional and named arguments, and what was returned."""


def _calls(model: nn.Module, names: Sequence[str], sample: Tensor) -> dict[str, list[Call]]:
    """Every call of these modules in one forward pass in eval mode."""
    calls: dict[str, list[Call]] = {name: [] for name in names}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls[name].append((args, kwargs, output))

        return unwrap(model).get_submodule(name).register_forward_hook(note, with_kwargs=True)

    handles = [watch(name) for name in names]
    try:
        with torch.no_grad():
            model.eval()(sample)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _problem(calls: Sequence[Call]) -> str | None:
    if len(calls) != 1:
        return f"is called {len(calls)} times in a forward pass"
    args, kwargs, output = calls[0]
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
        return "takes other arguments than one tensor"
    if not isinstance(output, Tensor):
        return f"returns {type(output).__name__}"
    if output.shape != args[0].shape or output.dtype != args[0].dtype:
        return f"takes {args[0].dtype} {tuple(args[0].shape)} and returns {output.dtype} {tuple(output.shape)}"
    return None
