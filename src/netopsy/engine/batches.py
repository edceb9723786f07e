"""Any data a user has as batches in one fixed order: seeded random where examples can be drawn, else as they come."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from netopsy._checks import NetopsyError, at_least
from netopsy._random import derive, forked
from netopsy._typing import Batch, IntArray
from netopsy.engine.functional import Inputs
from netopsy.network.task import Task

BATCH_SIZE = 256
"""Examples a batch where the data do not say."""

EXPECTED = "a pair of tensors (inputs, targets), a dict of tensors, a list of batches, or an unshuffled DataLoader"


@dataclass(frozen=True)
class Source:
    """Batches in a fixed order.

    Attributes:
        total: the number of examples, or None where only a full pass tells.
        drawn: whether the order is a seeded random one (needed for stopping early).
        batches: starts a pass; yields the examples' indices and the batch.
        fingerprint: a hash of shapes and of a sample of the values.
        whole: all examples as one batch, where they are in memory anyway.
    """

    total: int | None
    drawn: bool
    batches: Callable[[], Iterator[tuple[IntArray, Batch]]]
    fingerprint: str
    whole: Batch | None = None

    def first(self) -> Batch:
        """The first batch of the order."""
        for _, batch in self.batches():
            return batch
        raise NetopsyError(f"data: expected {EXPECTED}; got one that yields no batch")


def open_data(data: Any, *, batch_size: int | None = None, seed: int = 0) -> Source:
    """Read any supported data.

    Args:
        data: a tuple of tensors, a dict of tensors, a list of batches, a map-style Dataset, an unshuffled
            DataLoader, or any other iterable of batches that can be read more than once.
        batch_size: examples a batch; by default as the loader or the list has it, else 256.
        seed: of the order in which examples are drawn.

    Raises:
        NetopsyError: for a shuffled or random loader, a generator, no examples, or lengths that differ.
    """
    if batch_size is not None:
        at_least("batch_size", batch_size, 1)
    if isinstance(data, DataLoader):
        return _from_loader(data, batch_size, seed)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and isinstance(data, Sized):
        return _from_loader(DataLoader(data, batch_size=batch_size or BATCH_SIZE), batch_size, seed)
    if _is_tensors(data):
        return _from_tensors(_plain(data), batch_size or BATCH_SIZE, seed)
    if isinstance(data, tuple) and any(isinstance(part, Tensor) for part in data):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise NetopsyError(f"data: expected a tuple of tensors; got {kinds}; make them tensors (torch.as_tensor)")
    if isinstance(data, Iterator):
        raise NetopsyError(f"data: expected {EXPECTED}; got a generator, which can be read only once; make it a list")
    if isinstance(data, Sequence) and not isinstance(data, str):
        if len(data) == 0:
            raise NetopsyError(f"data: expected {EXPECTED}; got an empty {type(data).__name__}")
        joined = _joined(data)
        if joined is not None:
            size = max(len(pytree.tree_leaves(batch)[0]) for batch in data)
            return _from_tensors(joined, batch_size or size or 1, seed)
    if isinstance(data, Iterable) and not isinstance(data, str | Mapping | Tensor):
        return _in_order(data)
    raise NetopsyError(f"data: expected {EXPECTED}; got {type(data).__name__}")


def _plain(batch: Batch) -> Batch:
    """A dict in place of another mapping (such as a tokenizer's), into which `pytree` would not look."""
    return dict(batch) if isinstance(batch, Mapping) else batch


def _tensors(batch: Batch) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(_plain(batch)) if isinstance(leaf, Tensor)]


def _is_tensors(data: Any) -> bool:
    leaves = (
        list(data.values()) if isinstance(data, Mapping) else list(data) if isinstance(data, tuple | list) else []
    )
    return len(leaves) > 0 and all(isinstance(leaf, Tensor) for leaf in leaves)


def _joined(batches: Sequence[Batch]) -> Batch | None:
    """A list of batches as one big batch; None where their shapes or structures do not allow it."""
    leaves, specs = zip(*(pytree.tree_flatten(batch) for batch in batches), strict=True)
    if any(spec != specs[0] for spec in specs) or not all(isinstance(leaf, Tensor) for row in leaves for leaf in row):
        return None
    columns = list(zip(*leaves, strict=True))
    if not columns or any(len({leaf.shape[1:] for leaf in column}) > 1 or not column[0].ndim for column in columns):
        return None
    return pytree.tree_unflatten([torch.cat(list(column)) for column in columns], specs[0])


def grid(total: int, size: int) -> list[slice]:
    """Cut `total` examples into batches of `size`; a last batch of one joins the one before it.

    Exported programs are specialized against a batch of one.

    >>> grid(7, 3)
    [slice(0, 3, None), slice(3, 7, None)]
    """
    edges = [*list(range(0, total, size)), total]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:
        del edges[-2]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _order(total: int, seed: int) -> IntArray:
    return np.random.default_rng(derive(seed, "order")).permutation(total)


def _from_tensors(data: Any, size: int, seed: int) -> Source:
    leaves, spec = pytree.tree_flatten(data)
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(lengths) > 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise NetopsyError(f"data: expected tensors with one first axis, the examples; got shapes {shapes}")
    (total,) = lengths
    if total == 0:
        raise NetopsyError(f"data: expected {EXPECTED}; got tensors without examples")
    order = _order(total, seed)

    def batches() -> Iterator[tuple[IntArray, Batch]]:
        for part in grid(total, size):
            rows = order[part]
            index = torch.from_numpy(rows)
            yield rows, pytree.tree_unflatten([leaf[index.to(leaf.device)] for leaf in leaves], spec)

    return Source(total, True, batches, _fingerprint(leaves), data)


def _from_loader(loader: DataLoader[Any], batch_size: int | None, seed: int) -> Source:
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset):
        return _in_order(loader)
    order = _sampled(loader)
    if order is None:
        raise NetopsyError(
            "data: expected an unshuffled DataLoader; got one whose order changes between passes; build it with "
            "shuffle=False (the order of evaluation is drawn here, under seed=)"
        )
    if not order:
        raise NetopsyError(f"data: expected {EXPECTED}; got a DataLoader that yields nothing")
    if loader.batch_size is None:  # batches of the user's own making: only its own examples may fit into one
        return _in_order(loader)
    drawn = [order[i] for i in _order(len(order), seed)]
    parts = grid(len(order), batch_size or loader.batch_size)
    again: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=[drawn[part] for part in parts],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )

    def batches() -> Iterator[tuple[IntArray, Batch]]:
        for part, batch in zip(parts, again, strict=True):
            yield np.asarray(drawn[part], dtype=np.int64), batch

    return Source(len(order), True, batches, _check_repeats(batches))


def _sampled(loader: DataLoader[Any]) -> list[int] | None:
    """The order in which a loader visits its data set; None where two passes differ."""
    passes = []
    for seed in (1, 2):
        with forked(seed):
            batches = loader.batch_sampler if loader.batch_sampler is not None else ([i] for i in loader.sampler)
            passes.append([int(i) for batch in batches for i in batch])
    return passes[0] if passes[0] == passes[1] else None


def _in_order(data: Iterable[Batch]) -> Source:
    def batches() -> Iterator[tuple[IntArray, Batch]]:
        start = 0
        for batch in data:
            leaf = next((leaf for leaf in _tensors(batch) if leaf.ndim), None)
            if leaf is None:
                raise NetopsyError(f"data: expected batches that hold tensors; got {type(batch).__name__}")
            if len(leaf):
                yield np.arange(start, start + len(leaf), dtype=np.int64), batch
            start += len(leaf)
        if start == 0:
            raise NetopsyError(f"data: expected {EXPECTED}; got one that yields nothing")

    return Source(None, False, batches, _check_repeats(batches))


def _check_repeats(batches: Callable[[], Iterator[tuple[IntArray, Batch]]]) -> str:
    """Refuse data whose first batch is another one at a second pass; the fingerprint of that batch."""
    prints = []
    for seed in (1, 2):
        with forked(seed):
            prints.append(_fingerprint(_tensors(next(batches())[1])))
    if prints[0] != prints[1]:
        raise NetopsyError(
            "data: two passes give different first batches; expected data that are the same at every pass: build the "
            "DataLoader with shuffle=False, and leave out random augmentation"
        )
    return prints[0]


def read_batch(task: Task, batch: Batch) -> tuple[Tensor, Inputs]:
    """Labels `(n, positions)` and inputs of a batch, the first that a task is asked for.

    Raises:
        NetopsyError: when a function of the task fails, or gives something else than is asked of it.
    """
    read: dict[str, Any] = {}
    for name, function in (("targets", task.labels), ("inputs", task.inputs)):
        try:
            read[name] = function(batch)
        except NetopsyError:
            raise
        except Exception as error:  # it is the user's
            keys = f" with the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
            raise NetopsyError(
                f"Task({name}=...): {type(error).__name__}: {error}; it was given a batch of type "
                f"{type(batch).__name__}{keys}"
            ) from error
    inputs = read["inputs"]
    pair = isinstance(inputs, tuple) and len(inputs) == 2
    if not (pair and isinstance(inputs[0], tuple | list) and isinstance(inputs[1], Mapping)):
        got = f"({', '.join(type(part).__name__ for part in inputs)})" if isinstance(inputs, tuple) else ""
        raise NetopsyError(
            "Task(inputs=...): expected what the model is called with, (args, kwargs), such as ((x,), {}); got "
            f"{got or type(inputs).__name__}"
        )
    return read["targets"], inputs


def check_batch(task: Task, batch: Batch, classes: int, which: str) -> None:
    """Refuse labels the model has no output for, and inputs that are not finite."""
    labels = task.labels(batch)
    counted = labels[task.valid(labels)]
    if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= classes):
        raise NetopsyError(
            f"targets: expected labels from 0 to {classes - 1}, the model's {classes} classes; {which} has labels "
            f"from {int(counted.min())} to {int(counted.max())}; map the labels to 0..classes-1, build the model "
            "with as many classes as the data have, or set Task(ignore_index=...)"
        )
    for leaf in pytree.tree_leaves(task.inputs(batch)):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or torch.isfinite(leaf.sum()):
            continue  # a sum is ten times faster than a look at each value; an infinite one may just be an overflow
        if not torch.isfinite(leaf).all():
            raise NetopsyError(f"data: expected finite inputs; {which} has NaN or infinite values; clean the data")


def _fingerprint(leaves: Sequence[Tensor], most: int = 100_000) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for leaf in leaves:
        digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        flat = leaf.detach().reshape(-1)
        digest.update(flat[:: max(1, flat.numel() // most)].cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
