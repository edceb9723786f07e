"""Batch-norm statistics recomputed for an edited network: a calibration pass that yields an ordinary variant."""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy._storage import write_state
from netopsy.engine.batches import open_data
from netopsy.engine.edits import Edit, Variant
from netopsy.engine.functional import bind
from netopsy.engine.values import Values
from netopsy.network.addresses import Address, canonical_names, evaluation_mode, named_state, unwrap
from netopsy.network.states import StateFile
from netopsy.network.task import Task


@dataclass(frozen=True, eq=False)
class Stored:
    """A value from a temporary file, which lives as long as the rule does."""

    file: StateFile

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.path.unlink, missing_ok=True)

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        return address.select(self.file[address.name]).to(value.device)


def batch_norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The modules with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }


def recompute_statistics(model: nn.Module, data: Any, variant: Variant, *, task: Task | None = None) -> Variant:
    """The variant with every batch norm's mean and variance measured anew under its edits.

    All norms use each batch's own statistics while the averages over the batches are taken, as in training; the
    result is the variant with the averages as further edits. The model is untouched.

    Args:
        model: the trained network.
        data: training examples, in any form that `evaluate` takes.
        variant: edits of parameters and buffers.
        task: how batches are read.

    Raises:
        NetopsyError: when the variant edits activations, which a calibration pass does not see.
    """
    model, task = unwrap(model), task or Task()
    norms = batch_norms(model)
    if not norms:
        return variant
    state = {name: value.detach() for name, value in named_state(model).items()}
    values = Values(state, canonical_names(model), (variant,))
    if values.activation_edits(0):
        raise NetopsyError(f"variant {variant.label!r}: batch norms are recomputed under edits of parameters only")
    momenta = [(norm, norm.momentum) for norm in norms.values()]
    own = {name: value.clone() for name, value in state.items()}
    own |= {name: values.get(0, name).clone() for name in values.edits(0)}
    parts = ("running_mean", "running_var", "num_batches_tracked")
    buffers = [f"{name}.{part}".removeprefix(".") for name in norms for part in parts]
    call = bind(model)
    try:
        with evaluation_mode(model), torch.no_grad(), forked(0):
            for name in buffers:
                own[name] = torch.zeros_like(own[name])
            for norm, _ in momenta:
                norm.training, norm.momentum = True, None  # None: the plain average over batches
            for _, batch in open_data(data).batches():
                call(own, task.inputs(batch))
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
    handle, path = tempfile.mkstemp(prefix="netopsy-statistics-", suffix=".safetensors")
    os.close(handle)
    write_state(Path(path), {name: own[name] for name in buffers})
    rule = Stored(StateFile(Path(path)))
    edits = [Edit(Address("buffer", name), rule) for name in buffers if not name.endswith("tracked")]
    return Variant(variant.label, (*variant.edits, *edits))
