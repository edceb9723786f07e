"""How a population is trained: stacked where that was measured to be faster than one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from netopsy._checks import NetopsyError
from netopsy.training.epoch import device_of
from netopsy.training.population_step import Steps
from netopsy.training.population_trainers import Member, OneByOne, Stacked, Trainer
from netopsy.training.together import Together

Way: TypeAlias = Literal["matmul", "vmap", "one-by-one"]
"""How members are trained."""

MOST = {"matmul": 40e6, "vmap": 10e6}
"""Floating-point operations of one member's forward pass on one batch, above which one by one is as fast as stacked:
there the arithmetic takes longer than calling it. Measured with one thread: benchmarks/results/population.md."""

LEAST = {"matmul": 2, "vmap": 4}
"""Members, below which one by one is as fast."""


def make_trainer(
    members: Sequence[Member],
    models: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    sample: Tensor,
    way: Way | Literal["auto"],
) -> tuple[Trainer, Way, str]:
    """The trainer of these members, the way that was chosen, and why.

    Args:
        sample: a batch of inputs, of the size of a training step.

    Raises:
        NetopsyError: the networks cannot be trained in the way asked for.
    """
    alone = OneByOne(
        members={member.number: member for member in members},
        models=dict(zip([member.number for member in members], models, strict=True)),
        optimizers=dict(zip([member.number for member in members], optimizers, strict=True)),
    )
    optimizer = members[0].config.optimizer
    if way == "one-by-one":
        return alone, way, "asked for"
    if optimizer == "lbfgs":
        if way != "auto":
            raise NetopsyError(
                f"way={way!r}: expected 'one-by-one' or 'auto' with optimizer='lbfgs', for each network's line "
                "search takes steps of its own"
            )
        return alone, "one-by-one", "L-BFGS: each network's line search takes steps of its own"
    if any(member.config.sam_rho is not None for member in members):
        if way != "auto":
            raise NetopsyError(
                f"way={way!r}: expected 'one-by-one' or 'auto' with sam_rho, for stacked networks know no second "
                "gradient"
            )
        return alone, "one-by-one", "sharpness-aware minimization: stacked networks know no second gradient"
    if way == "auto" and len(members) < min(LEAST.values()):
        return alone, "one-by-one", "a single network"
    try:
        together = Together.of(models, sample, way=way)
    except NetopsyError as error:
        if way != "auto":
            raise
        return alone, "one-by-one", str(error)
    reason = "asked for"
    if way == "auto":
        work, most = operations(models[0], sample), MOST[together.way]
        if work > most:
            return alone, "one-by-one", f"{work:.2g} operations a batch, more than the {most:.2g} up to which it pays"
        if len(members) < LEAST[together.way]:
            return alone, "one-by-one", f"fewer than the {LEAST[together.way]} networks for which {together.way} pays"
        reason = f"{work:.2g} operations a batch, at most the {most:.2g} up to which it pays"
    configs = [member.config for member in members]
    steps = Steps.of(
        together,
        momentum=[config.momentum for config in configs],
        weight_decay=[config.weight_decay for config in configs],
        optimizer=optimizer,
        resumed=optimizers,
    )
    return Stacked(members=alone.members, together=together, steps=steps), together.way, reason


@torch.no_grad()
def operations(model: nn.Module, sample: Tensor) -> float:
    """Floating-point operations of matrix products and convolutions in one forward pass in eval mode."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(sample.to(device_of(model)))
    return float(counter.get_total_flops())
