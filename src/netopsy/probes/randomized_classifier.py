"""A trained residual net of which every call uses other random blocks (Zhang, Bengio, Singer 2022, §6)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from netopsy._checks import NetopsyError, at_least
from netopsy._random import derive, generator
from netopsy._typing import State
from netopsy.network.groups import residual_stages
from netopsy.network.initialization import Redrawer
from netopsy.network.sites import find_sites
from netopsy.network.trajectory import Trajectory


class RandomizedClassifier(nn.Module):
    """The trained network; in each call, one block of each of some stages has random weights.

    A call chooses `chosen` of the stages, of each of them one block, and for that block one of its `weights`
    random sets, which were drawn once. All examples of a call share the choice, which is made anew for every call,
    also for those in which an attack takes its gradients.

    Args:
        model: the trained network; it is not changed.
        blocks: the blocks of each stage: for each block its sets of weights, by parameter and buffer.
        chosen: stages of a call, from 0.
        seed: of the choices.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Sequence[Sequence[State]]], *, chosen: int, seed: int):
        super().__init__()
        self.model = model
        self._blocks = blocks
        self._chosen = chosen
        self._source = generator(derive(seed, "choices"))

    def choose(self) -> dict[str, Tensor]:
        """The values that take the place of trained ones in the next call."""
        values: dict[str, Tensor] = {}
        for stage in torch.randperm(len(self._blocks), generator=self._source)[: self._chosen].tolist():
            sets = self._blocks[stage][self._below(len(self._blocks[stage]))]
            values |= sets[self._below(len(sets))]
        return values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output under the choice of this call."""
        return functional_call(self.model, self.choose(), args, kwargs)

    def _below(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self._source))


def randomized_classifier(
    source: Trajectory | nn.Module,
    *,
    stages: Sequence[Sequence[str]] | None = None,
    weights: int = 4,
    chosen: int = 1,
    seed: int = 0,
) -> RandomizedClassifier:
    """Make a classifier that is harder to attack than its trained network, as far as blocks are robust.

    Args:
        source: the trained network: the last checkpoint of a trajectory, whose factory draws the random weights; or
            a module whose own modules draw themselves again.
        stages: names of the blocks of each stage; by default those of a residual net, by their names.
        weights: random sets of each block (the paper's r).
        chosen: stages in which a block is random (the paper's s); 0: none, the trained network itself.
        seed: of the random weights and of the choices.

    Raises:
        NetopsyError: for stages that are not there or empty, more chosen stages than there are, blocks that cannot
            be drawn again.

    Source:
        Zhang, Bengio, Singer: Are All Layers Created Equal? (2022), §6, Table 2.
    """
    at_least("weights", weights, 1)
    at_least("chosen", chosen, 0)
    model = (source.model() if isinstance(source, Trajectory) else copy.deepcopy(source)).eval()
    if stages is None:
        stages = tuple(residual_stages([site.name for site in find_sites(model, "blocks")]).values())
    if chosen > len(stages) or not all(stages):
        raise NetopsyError(
            f"chosen={chosen}: expected at most as many stages as there are, each with a block; got "
            f"{len(stages)} stages of {', '.join(str(len(stage)) for stage in stages)} blocks"
        )
    redrawer = Redrawer.of(source)
    sites = {block: find_sites(model, [block])[0] for stage in stages for block in stage}
    redrawer.check({address.name for site in sites.values() for address in site.addresses})

    def drawn(block: str, number: int) -> State:
        names = [address.name for address in sites[block].addresses]
        return {name: redrawer.tensor(derive(seed, block, number), name) for name in names}

    blocks = [[[drawn(block, number) for number in range(weights)] for block in stage] for stage in stages]
    return RandomizedClassifier(model, blocks, chosen=chosen, seed=seed)
