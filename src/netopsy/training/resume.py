"""All that a run needs to go on as if it had not been interrupted, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._storage import check_schema, write_state
from netopsy._typing import State
from netopsy.network.addresses import named_state
from netopsy.network.states import StateFile
from netopsy.training.epoch import Row

SECONDS = 5.0
"""Time that passes at least between two of these files: what a killed run has to do again, beside an epoch."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run stood after an epoch; every epoch draws from seeds of its own, so no generator's state is needed.

    Attributes:
        tensors: copies on the CPU: `value.<name>`, the model's parameters and buffers, those that it does not save
            included; `optimizer.<parameter's number>.<name>`; `best.<name>`, the state of the best epoch so far.
        rows: of the history, one an epoch, from 1.
    """

    tensors: State
    rows: Sequence[Row]

    @property
    def best(self) -> State | None:
        """The state of the best epoch, where patience needs it."""
        return _below("best", self.tensors) or None


def take(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Sequence[Row], best: State | None) -> Snapshot:
    """Copy what the next epoch depends on."""
    tensors = {f"value.{name}": _copy(value) for name, value in named_state(model).items()}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = _copy(value)
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
    return Snapshot(tensors=tensors, rows=tuple(rows))


@torch.no_grad()
def put(model: nn.Module, optimizer: torch.optim.Optimizer, snapshot: Snapshot) -> None:
    """Set a model and an optimizer, made as those of the run were, to where it stood."""
    for name, value in named_state(model).items():
        value.copy_(snapshot.tensors[f"value.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for place, value in _below("optimizer", snapshot.tensors).items():
        number, _, name = place.partition(".")
        like = parameters[int(number)]
        # In the parameter's own memory layout, which the fused optimizers take for granted.
        own = torch.empty_like(like, dtype=value.dtype).copy_(value) if like.shape == value.shape else value.clone()
        state.setdefault(int(number), {})[name] = own
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def write(path: Path, snapshot: Snapshot) -> None:
    """Write it whole or not at all; a float's JSON is its shortest exact decimal, so the history keeps its bits."""
    write_state(path, snapshot.tensors, rows=list(snapshot.rows))


def read(path: Path) -> Snapshot:
    """Read what `write` wrote.

    Raises:
        NetopsyError: the file is damaged, of a newer schema, or of something else.
    """
    file = StateFile(path)
    try:
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise NetopsyError(f"{path}: corrupt or truncated ({error}); start anew with overwrite=True") from error
    check_schema(path, header.get("schema"))
    if "rows" not in header:
        raise NetopsyError(f"{path}: expected the state of an interrupted run; it holds something else; delete it")
    return Snapshot(tensors=dict(file), rows=json.loads(header["rows"]))


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _below(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{kind}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
