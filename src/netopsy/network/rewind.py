"""The trained network with a part of it set back, as a module of its own."""

from __future__ import annotations

import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._typing import Key
from netopsy.network.addresses import named_state
from netopsy.network.sites import SiteSpec, find_sites
from netopsy.network.trajectory import Trajectory


def rewound(trajectory: Trajectory, sites: SiteSpec, checkpoint: Key | None = None) -> nn.Module:
    """A new module with the trained weights, but for the sites' parameters and buffers: those of a checkpoint.

    Args:
        trajectory: the checkpoints of a training run.
        sites: what is set back, all of it together: names or globs, as in `netopsy.robustness`.
        checkpoint: the user's own key; by default the weights training started from.

    Raises:
        NetopsyError: when the checkpoint was not recorded, or a site matches nothing.
    """
    if not isinstance(trajectory, Trajectory):
        raise NetopsyError(f"trajectory: expected a netopsy.Trajectory; got {type(trajectory).__name__}")
    key = trajectory.check_key(checkpoint if checkpoint is not None else _initial(trajectory))
    model = trajectory.model()
    values = named_state(model)
    with torch.no_grad():
        for site in find_sites(model, sites):
            for address in site.addresses:
                before = address.select(trajectory.tensor(key, address.name))
                address.select(values[address.name]).copy_(before)
    return model


def _initial(trajectory: Trajectory) -> Key:
    """The key training started from; 0, which is refused with what there is, where none is known."""
    return 0 if trajectory.initial is None else trajectory.initial
