"""Accuracy under attack: inputs moved within a small box so that the network errs. Attacks are captum's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from netopsy._checks import NetopsyError, at_least, inside, one_of
from netopsy._random import derive, forked

ATTACKS = ("none", "fgsm", "pgd")

Move: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Inputs and labels -> what an attack makes of the inputs."""


def adversarial_accuracy(
    model: nn.Module,
    data: tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"]],
    *,
    attack: Literal["none", "fgsm", "pgd"],
    epsilon: float = 0.0,
    steps: int = 10,
    step_size: float | None = None,
    bounds: tuple[float, float] = (float("-inf"), float("inf")),
    repeats: int = 1,
    batch_size: int = 50,
    seed: int = 0,
) -> tuple[float, ...]:
    """Share of examples that are still right after each was moved by at most `epsilon` an entry to raise its loss.

    The attack asks the very model that is then measured: of one that makes random choices, each of its gradients
    and the last prediction are of a choice of their own. The model is used in eval mode and left as it was.

    Args:
        model: gives logits, (n, classes).
        data: inputs and labels.
        attack: `"fgsm"`: one step of `epsilon` along the sign of the gradient (Goodfellow et al. 2014); `"pgd"`:
            `steps` of `step_size` from a random start, each brought back into the box (Madry et al. 2017);
            `"none"`: the plain accuracy.
        epsilon: half the side of the box, in units of the inputs.
        steps: of PGD.
        step_size: of PGD; by default epsilon / 4.
        bounds: the least and largest value that an input can have.
        repeats: runs, each with random numbers of its own.
        batch_size: examples of a call, which share a random choice.
        seed: of the random numbers.

    Returns:
        The accuracy of each repeat.

    Raises:
        NetopsyError: for an unknown attack, an attack without a positive epsilon or steps.
        ImportError: for an attack, without captum (extra `attacks`).
    """
    one_of("attack", attack, ATTACKS)
    at_least("repeats", repeats, 1)
    at_least("batch_size", batch_size, 1)
    at_least("steps", steps, 1)
    if attack != "none":
        inside("epsilon", epsilon, 0, float("inf"), open_low=True, open_high=True)
    if len(data[0]) != len(data[1]) or not len(data[0]):
        raise NetopsyError(
            "data: expected a pair (inputs, labels) of the same positive length; got "
            f"{len(data[0])} and {len(data[1])}"
        )
    move = _mover(model, attack, epsilon, steps, epsilon / 4 if step_size is None else step_size, bounds)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return tuple(_accuracy(model, data, move, batch_size, derive(seed, attack, i)) for i in range(repeats))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _accuracy(model: nn.Module, data: tuple[Tensor, Tensor], move: Move, size: int, seed: int) -> float:
    right = 0
    with forked(seed):
        for inputs, labels in zip(*(torch.split(part, size) for part in data), strict=True):
            moved = move(inputs, labels)
            with torch.no_grad():
                right += int((model(moved).argmax(1) == labels).sum())
    return right / len(data[0])


def _mover(
    model: nn.Module, attack: str, epsilon: float, steps: int, step: float, bounds: tuple[float, float]
) -> Move:
    if attack == "none":
        return lambda inputs, labels: inputs
    try:
        from captum.robust import FGSM, PGD
    except ImportError as error:
        raise ImportError('Attacks need captum: pip install "netopsy[attacks]"') from error

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, reduction="none")

    fgsm, pgd = FGSM(model, losses, *bounds), PGD(model, losses, *bounds)
    # Captum takes gradients below 1e-6 for zero, which are those of examples that a network is very sure of.
    fgsm.zero_thresh = pgd.fgsm.zero_thresh = 0.0

    def move(inputs: Tensor, labels: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Input Tensor .* did not already require gradients")
            moved: Tensor
            if attack == "fgsm":
                moved = fgsm.perturb(inputs.clone(), epsilon, labels)
            else:
                moved = pgd.perturb(inputs.clone(), epsilon, step, steps, labels, random_start=True)
            return moved.detach()

    return move
