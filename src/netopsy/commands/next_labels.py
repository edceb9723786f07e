"""Labels of a causal language model, as its own trainers take them: those of a text are its tokens.

The model tells at each position the token of the next. Its labels are moved by one here, so that every probe, which
holds a position's logits against that position's label, measures what the model was trained for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.network.task import LABELS, Task

IGNORED = Task().ignore_index


def next_labels(data: Any) -> Any:
    """The data with every label where the position before it is; the last position of a text has none.

    Args:
        data: a tuple of tensors, the labels last; a dict of tensors; a list of such batches; or splits of these, by
            name.

    Raises:
        NetopsyError: for other data, and for labels that have no positions.
    """
    if isinstance(data, Mapping):
        name = next((name for name in LABELS if name in data), None)
        if name is None:
            return {split: next_labels(part) for split, part in data.items()}
        return {**data, name: _moved(data[name])}
    if isinstance(data, list | tuple):
        if all(isinstance(part, Tensor) for part in data):
            return (*data[:-1], _moved(data[-1]))
        return type(data)(next_labels(part) for part in data)
    raise NetopsyError(
        f"data: expected tensors, or a list of batches, for a causal language model; got {type(data).__name__}; "
        "return list(loader)"
    )


def _moved(labels: Any) -> Tensor:
    labels = torch.as_tensor(labels)
    if labels.ndim != 2:
        raise NetopsyError(
            f"data: expected labels of shape (n, positions) for a causal language model; got {tuple(labels.shape)}; "
            "for another use of the model name a function that builds it (--model pkg.mod:factory)"
        )
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1)
