"""What the probes of the input look at: some examples of the split that a reader asks about first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.utils._pytree as pytree
from torch import Tensor

from netopsy._random import derive
from netopsy._typing import IntArray
from netopsy.commands.probing import Subject
from netopsy.engine.batches import open_data
from netopsy.probes.arguments import read_splits
from netopsy.report.robustness_words import MAIN

EXAMPLES = 1_000
"""Examples of a split that are looked at, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """Examples of the split that a reader asks about first.

    Attributes:
        split: its name.
        data: the examples.
        rows: their places in the split.
        known: what the report says of them.
    """

    split: str
    data: Any
    rows: IntArray
    known: Mapping[str, Any]


def sample_of(subject: Subject, seed: int) -> Sample:
    """At most `EXAMPLES`, in a seeded random order where they can be drawn, else the first."""
    splits = read_splits(subject.data)
    split = next((name for name in MAIN if name in splits), next(iter(splits)))
    source = open_data(splits[split], seed=derive(seed, "sensitivity"))
    known: dict[str, Any] = {"split": split, "drawn": source.drawn, "of": source.total}
    if source.whole is not None and source.total is not None and source.total <= EXAMPLES:
        return Sample(
            split=split, data=source.whole, rows=np.arange(source.total), known={**known, "examples": source.total}
        )
    batches, rows, left = [], [], EXAMPLES
    for order, batch in source.batches():
        batches.append(_head(batch, len(order), left))
        rows.append(order[:left])
        left -= len(rows[-1])
        if not left:
            break
    joined = np.concatenate(rows)
    known |= {"examples": len(joined), "of": source.total if left == 0 else len(joined)}
    return Sample(split=split, data=batches, rows=joined, known=known)


def _head(batch: Any, size: int, most: int) -> Any:
    """The first examples of a batch."""
    plain = dict(batch) if isinstance(batch, Mapping) else batch
    return pytree.tree_map(
        lambda leaf: leaf[:most] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size else leaf, plain
    )


def first_of(sample: Sample, most: int) -> Any:
    """A few examples, as a list of one batch."""
    for order, batch in open_data(sample.data).batches():
        return [_head(batch, len(order), most)]
    raise AssertionError("a sample has examples")
