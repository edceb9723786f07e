"""Networks of one architecture as one: their values stacked, their forward passes one."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import batch_norm

from netopsy._checks import NetopsyError, at_least, one_of, shorten
from netopsy._random import forked
from netopsy._typing import State
from netopsy.models.activations import HardSigmoid
from netopsy.network.addresses import canonical_names, named_state
from netopsy.training.descending import descending_linear, stacked_linear

POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Hardtanh,
    nn.Sigmoid, nn.Hardsigmoid, HardSigmoid,
)  # fmt: skip
"""Modules without values that treat every number alike: they take the stacked tensor as it is."""

CHECKED = 8
"""Examples on which the stacked networks are held against each one by itself."""

TOLERANCE = {torch.float64: 1e-9}
"""Largest difference then, in the largest output; 1e-3 for narrower types (batch norm of few examples amplifies)."""

Chain: TypeAlias = tuple[tuple[str, nn.Module], ...]
"""Modules by name, each of which takes what the one before returned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Together:
    """N networks of one architecture; made by `Together.of`.

    The sum of losses, one a member, has in one backward pass every member's own gradient: no member's loss depends
    on another's values. Buffers (the statistics of batch norm) follow each member's own batches.

    Attributes:
        values: every parameter and buffer under its first name, of shape (N, …); parameters that the members train
            require a gradient. Their contents change in training, the mapping does not.
        way: "matmul": a batched matrix product a layer, for chains of modules; or "vmap".
        dims: axes of one member's inputs, the examples' included.
    """

    values: Mapping[str, Tensor] = field(repr=False)
    way: Literal["matmul", "vmap"]
    dims: int
    template: nn.Module = field(repr=False)
    chain: Chain | None = field(repr=False)

    @classmethod
    def of(
        cls, models: Sequence[nn.Module], sample: Tensor, *, way: Literal["auto", "matmul", "vmap"] = "auto"
    ) -> Together:
        """Stack networks, and hold the stack against each of them on a few inputs, in eval and in train mode.

        Args:
            models: of one architecture; not changed, and not needed afterwards.
            sample: inputs of shape (b, …), of which the first 8 are used; two at least to check train mode.
            way: "matmul" needs a network that is a chain of Flatten, Linear, BatchNorm1d and pointwise modules, with
                nothing between them; "auto" takes it for these, "vmap" for all others.

        Raises:
            NetopsyError: no models, or of different architectures; no chain for "matmul"; or the stack gives other
                numbers than the networks alone, as where they draw random numbers (dropout) in train mode.
        """
        one_of("way", way, ("auto", "matmul", "vmap"))
        check_alike(models)
        sample = sample[:CHECKED].to(next(iter(named_state(models[0]).values())).device)
        template = copy.deepcopy(models[0])
        chain = find_chain(template, sample) if way != "vmap" else None
        if way == "matmul" and chain is None:
            raise NetopsyError(
                "way='matmul': expected a network that calls Flatten, Linear, BatchNorm1d and pointwise modules one "
                f"on the output of the other, and nothing else; {type(template).__name__} is none; pass way='vmap'"
            )
        names = dict(template.named_parameters())
        values = {name: _stacked([named_state(model)[name] for model in models]) for name in named_state(template)}
        for name, value in values.items():
            value.requires_grad_(name in names and names[name].requires_grad)
        stack = cls(
            values=values,
            way="vmap" if chain is None else "matmul",
            dims=sample.ndim,
            template=template,
            chain=chain,
        )
        _check_agreement(stack, models, sample)
        return stack

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the parameters that require a gradient."""
        return tuple(name for name, value in self.values.items() if value.requires_grad)

    def forward(self, inputs: Tensor, *, train: bool = False, descend: Float[Tensor, " m"] | None = None) -> Tensor:
        """Every member's output, of shape (N, b, …).

        Args:
            inputs: (b, …), the same for all members, or (N, b, …), each member's own.
            train: as in the modules' train mode: batch norm by the batch's statistics, which its buffers follow.
            descend: learning rates with which the linear maps of a chain take plain SGD's step in the backward pass
                itself, and get no gradient; whatever else is trained gets one.

        Raises:
            NetopsyError: inputs of another number of axes, or of another number of members.
        """
        own = inputs.ndim == self.dims + 1
        if len(inputs) != len(self) if own else inputs.ndim != self.dims:
            raise NetopsyError(
                f"inputs: expected {self.dims} axes, for all members, or {self.dims + 1}, the first of them the "
                f"{len(self)} members; got the shape {tuple(inputs.shape)}"
            )
        if self.chain is not None:
            return _run_chain(self.chain, self.values, inputs, own=own, count=len(self), train=train, lr=descend)
        self.template.train(train)

        def alone(values: State, given: Tensor) -> Tensor:
            output: Tensor = functional_call(self.template, dict(values), (given,))
            return output

        outputs: Tensor = vmap(alone, in_dims=(0, 0 if own else None))(dict(self.values), inputs)
        return outputs

    def member(self, number: int) -> dict[str, Tensor]:
        """A member's state dict: views of the stacked values, without a gradient."""
        first = canonical_names(self.template)
        return {name: self.values[first[name]].detach()[number] for name in self.template.state_dict()}

    def only(self, members: Sequence[int]) -> Together:
        """These members, in this order, with values of their own; gradients do not come along.

        Raises:
            NetopsyError: no members.
        """
        at_least("members", len(members), 1)
        values = {}
        for name, value in self.values.items():
            values[name] = value.detach()[list(members)].requires_grad_(value.requires_grad)
        return replace(self, values=values)


def check_alike(models: Sequence[nn.Module]) -> None:
    """Refuse no networks, and networks whose values differ in name, shape, type, device or need of a gradient."""
    at_least("models", len(models), 1)
    first = _architecture(models[0])
    for number, model in enumerate(models):
        other = _architecture(model)
        if type(model) is not type(models[0]) or other != first:
            differing = [name for name in {**first, **other} if first.get(name) != other.get(name)]
            raise NetopsyError(
                f"models: expected networks of one architecture; member {number} ({type(model).__name__}) differs "
                f"from member 0 ({type(models[0]).__name__})"
                + (f" in {shorten(differing)}" if differing else "")
                + "; train networks of another architecture by themselves"
            )


def find_chain(model: nn.Module, sample: Tensor) -> Chain | None:
    """The modules that a network consists of, if it calls each on what the one before returned, and these alone.

    Looked for in one forward pass in eval mode; None where anything else happens to a value on its way, or a module
    is none that `Together` knows how to run stacked.
    """
    if canonical_names(model).keys() != named_state(model).keys():  # tied: a module's own names lead nowhere
        return None
    names = {module: name for name, module in model.named_modules()}
    calls: list[tuple[nn.Module, tuple[object, ...], object]] = []
    leaves = [module for module in names if not any(module.children())]
    handles = [
        leaf.register_forward_hook(lambda module, args, output: calls.append((module, args, output)))
        for leaf in leaves
    ]
    try:
        with torch.no_grad():
            output = model.eval()(sample)
    finally:
        for handle in handles:
            handle.remove()
    value: object = sample
    for module, args, returned in calls:
        if len(args) != 1 or args[0] is not value or not _is_known(module, args[0]):
            return None
        value = returned
    linear_ones = any(type(module) is nn.Linear for module, _, _ in calls)
    return tuple((names[module], module) for module, _, _ in calls) if linear_ones and output is value else None


def _is_known(module: nn.Module, given: object) -> bool:
    """Whether `_run_chain` does what the module does; exact types, since a subclass may do anything."""
    if type(module) is nn.Flatten:
        return (module.start_dim, module.end_dim) == (1, -1)
    if type(module) is nn.BatchNorm1d:
        return module.momentum is not None and isinstance(given, Tensor) and given.ndim == 2
    if type(module) is nn.Linear:
        return isinstance(given, Tensor) and given.ndim == 2
    return type(module) in POINTWISE


def _run_chain(
    chain: Chain, values: State, x: Tensor, *, own: bool, count: int, train: bool, lr: Tensor | None
) -> Tensor:
    calls = Counter(name for name, _ in chain)
    for name, module in chain:
        if isinstance(module, nn.Linear):
            weight, bias = values[f"{name}.weight"], values.get(f"{name}.bias")
            # One that is called twice must not change before its first call's gradient is known.
            moves = calls[name] == 1 and weight.requires_grad and (bias is None or bias.requires_grad)
            if lr is not None and moves:
                x, own = descending_linear(x, weight, bias, lr), True
            else:
                x, own = stacked_linear(x, weight, bias), True
        elif isinstance(module, nn.BatchNorm1d):
            x, own = _batch_norm(x if own else x.expand(count, *x.shape), module, name, values, train), True
        elif isinstance(module, nn.Flatten):
            x = x.flatten(2 if own else 1)
        else:
            x = module(x)
    return x


def _batch_norm(
    x: Float[Tensor, "m b h"], module: nn.BatchNorm1d, name: str, values: State, train: bool
) -> Float[Tensor, "m b h"]:
    """All members' units as channels of one wide layer."""
    members, batch, units = x.shape

    def wide(part: str) -> Tensor | None:
        value = values.get(f"{name}.{part}")
        return None if value is None else value.view(-1)  # a view: its statistics are updated in place

    mean, variance = wide("running_mean"), wide("running_var")
    if train and mean is not None:
        values[f"{name}.num_batches_tracked"].add_(1)
    rows = x.transpose(0, 1).reshape(batch, members * units)
    out = batch_norm(
        rows, mean, variance, wide("weight"), wide("bias"), train or mean is None, module.momentum or 0.0, module.eps
    )
    return out.view(batch, members, units).transpose(0, 1)


def _architecture(model: nn.Module) -> dict[str, object]:
    values = named_state(model)
    return {
        name: (tuple(value.shape), value.dtype, value.device, value.requires_grad) for name, value in values.items()
    }


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors])


@torch.no_grad()
def _check_agreement(stack: Together, models: Sequence[nn.Module], sample: Tensor) -> None:
    """Refuse a stack that does not do what the networks do; nothing of either changes."""
    for train in (False, True) if len(sample) > 1 else (False,):
        trial = stack.only(range(len(stack)))
        alone = [copy.deepcopy(model).train(train) for model in models]
        # Two seeds: whatever is drawn at random then differs, and cannot be one member's own draw.
        with forked(0):
            wanted = torch.stack([model(sample) for model in alone])
        try:
            with forked(1):
                got = trial.forward(sample, train=train)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise NetopsyError(_cannot(stack, f"cannot run stacked: {reason}")) from error
        pairs = [(got, wanted)] + [
            (value, _stacked([named_state(model)[name] for model in alone])) for name, value in trial.values.items()
        ]
        for ours, theirs in pairs:
            scale = float(theirs.double().abs().nan_to_num().amax()) if theirs.numel() else 0.0
            most = TOLERANCE.get(theirs.dtype, 1e-3) * scale
            if not torch.allclose(ours.double(), theirs.double(), rtol=0.0, atol=most, equal_nan=True):
                mode = "train" if train else "eval"
                raise NetopsyError(_cannot(stack, f"gives other numbers stacked than alone in {mode} mode"))


def _cannot(stack: Together, what: str) -> str:
    name = type(stack.template).__name__
    return (
        f"way={stack.way!r}: expected networks that compute the same stacked as alone; {name} {what}; networks that "
        "draw random numbers (dropout) or keep state outside of parameters and buffers are trained one by one"
    )
