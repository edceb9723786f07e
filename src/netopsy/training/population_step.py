"""The optimizers' steps on stacked networks, each member with its own rates, as PyTorch takes them on one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError, one_of
from netopsy._typing import State
from netopsy.training.together import Together

KEPT = {
    "sgd": ("momentum_buffer",),
    "adam": ("step", "exp_avg", "exp_avg_sq"),
    "rmsprop": ("step", "square_avg", "momentum_buffer"),
}
"""What PyTorch's optimizer remembers of a parameter, under its names."""

BETA_2, ADAM_EPS = 0.999, 1e-8
DECAY, RMSPROP_EPS = 0.9, 1.0
"""As `FitConfig.optimizer` has them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """An optimizer of stacked networks; made by `Steps.of`.

    Attributes:
        optimizer: "sgd", "adam" or "rmsprop", with the constants of `FitConfig`.
        momentum: each member's; Adam's β₁.
        weight_decay: each member's.
        kept: what the optimizer remembers, by the parameter's name and PyTorch's: (N, …), or (N,) for "step". The
            tensors change with every step.
    """

    optimizer: Literal["sgd", "adam", "rmsprop"]
    momentum: Float[Tensor, " m"]
    weight_decay: Float[Tensor, " m"]
    kept: Mapping[str, Mapping[str, Tensor]] = field(repr=False)

    @classmethod
    def of(
        cls,
        together: Together,
        *,
        momentum: float | Sequence[float] = 0.0,
        weight_decay: float | Sequence[float] = 0.0,
        optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd",
        resumed: Sequence[torch.optim.Optimizer] = (),
    ) -> Steps:
        """The optimizer of these networks, with one rate for all or one a member.

        Args:
            resumed: PyTorch optimizers of the members, whose memory is gone on from; none begins anew.

        Raises:
            NetopsyError: an unknown optimizer, or not as many rates as members.
        """
        one_of("optimizer", optimizer, tuple(KEPT))
        parameters = [name for name, _ in together.template.named_parameters()]
        memories = [_memory(single, parameters) for single in resumed]
        kept = {}
        for name in together.trained:
            value = together.values[name].detach()
            fresh = {part: torch.zeros_like(value) for part in KEPT[optimizer]}
            if "step" in fresh:
                fresh["step"] = torch.zeros(len(together), device=value.device)
            for number, memory in enumerate(memories):
                for part, held in memory.get(name, {}).items():
                    fresh[part][number] = held
            kept[name] = fresh
        return cls(
            optimizer=optimizer,
            momentum=per_member("momentum", momentum, together),
            weight_decay=per_member("weight_decay", weight_decay, together),
            kept=kept,
        )

    def within(self, lr: Float[Tensor, " m"]) -> Float[Tensor, " m"] | None:
        """The rates for `Together.forward(descend=)` if this is plain SGD, whose step the backward pass can take."""
        return lr if self.optimizer == "sgd" and not self._moves and not self._decays else None

    # Asked for once: at every step, an operation on all members would cost as much as one on a small network.
    @cached_property
    def _moves(self) -> bool:
        return bool(self.momentum.any())

    @cached_property
    def _decays(self) -> bool:
        return bool(self.weight_decay.any())

    @torch.no_grad()
    def step(self, together: Together, lr: Float[Tensor, " m"]) -> None:
        """Take a step along the gradients, which are used up; a parameter without one stays."""
        for name, kept in self.kept.items():
            value = together.values[name]
            grad, value.grad = value.grad, None
            if grad is None:
                continue
            rate, momentum = _wide(lr, value), _wide(self.momentum, value)
            if self._decays:
                grad = grad.addcmul(value, _wide(self.weight_decay, value))
            if "step" in kept:
                kept["step"].add_(1)
            if self.optimizer == "sgd":
                move = kept["momentum_buffer"].mul_(momentum).add_(grad) if self._moves else grad
            elif self.optimizer == "adam":
                step, first, second = kept["step"].double(), kept["exp_avg"], kept["exp_avg_sq"]
                first.lerp_(grad, 1 - momentum)
                second.mul_(BETA_2).addcmul_(grad, grad, value=1 - BETA_2)
                root = second.sqrt().div_(_wide((1 - BETA_2**step).sqrt(), value)).add_(ADAM_EPS)
                move = first.div(_wide(1 - self.momentum.double() ** step, value)).div_(root)
            else:
                root = kept["square_avg"].mul_(DECAY).addcmul_(grad, grad, value=1 - DECAY).sqrt().add_(RMSPROP_EPS)
                move = kept["momentum_buffer"].mul_(momentum).addcdiv_(grad, root)
            value.addcmul_(move, rate, value=-1)

    def only(self, members: Sequence[int]) -> Steps:
        """The optimizer of these members, with a memory of its own."""
        chosen = list(members)
        kept = {name: {part: held[chosen] for part, held in parts.items()} for name, parts in self.kept.items()}
        return replace(self, momentum=self.momentum[chosen], weight_decay=self.weight_decay[chosen], kept=kept)


def per_member(name: str, rates: float | Sequence[float], together: Together) -> Float[Tensor, " m"]:
    """One rate a member, in float64.

    Raises:
        NetopsyError: a sequence of another length.
    """
    given = [rates] * len(together) if isinstance(rates, float | int) else list(rates)
    if len(given) != len(together):
        raise NetopsyError(
            f"{name}: expected one number, or one for each of {len(together)} members; got {len(given)}; pass as many"
        )
    device = next(iter(together.values.values())).device
    return torch.tensor(given, dtype=torch.float64, device=device)


def _wide(rates: Tensor, value: Tensor) -> Tensor:
    """Rates in the type of a stacked value, and of a shape that goes with it."""
    return rates.to(value.dtype).view(-1, *[1] * (value.ndim - 1))


def _memory(optimizer: torch.optim.Optimizer, parameters: Sequence[str]) -> dict[str, State]:
    state = optimizer.state_dict()["state"]
    return {
        parameters[number]: {part: held for part, held in parts.items() if isinstance(held, Tensor)}
        for number, parts in state.items()
    }
