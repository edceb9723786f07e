"""Every form of data gives the same numbers, or a message that says what to do."""

from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.batches import grid, open_data
from netopsy.engine.edits import AddNoise, Variant, edit_site
from netopsy.engine.evaluate import evaluate
from netopsy.engine.evaluation import Evaluation
from netopsy.network.sites import find_sites
from tests import zoo

N = 13


class Model(nn.Module):
    """Takes what a batch holds under the name x, as a whole or by position."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i], Y[i]


class Dicts(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": X[i], "labels": Y[i]}


class Streamed(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(X, Y, strict=True)


class Empty(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(())


class Again:
    """An iterable that is neither a sequence nor known to torch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(X.split(4), Y.split(4), strict=True)


class Encoding(UserDict[str, Tensor]):
    """A mapping that is no dict, as tokenizers give."""


class Hidden(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set that reads as a sequence, but of which each item is random."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i] + torch.randn(6), Y[i]


def encode(items: list[tuple[Tensor, Tensor]]) -> Encoding:
    x, y = zip(*items, strict=True)
    return Encoding({"x": torch.stack(x), "labels": torch.stack(y)})


with forked(5):
    X, Y = torch.randn(N, 6), torch.randint(0, zoo.CLASSES, (N,))
    MODEL = Model().eval()

VARIANTS = [edit_site(str(seed), find_sites(MODEL)[0], AddNoise(0.5, seed)) for seed in (1, 2)]
LISTED = list(zip(X.split(4), Y.split(4), strict=True))
PAIRS = TensorDataset(X, Y)
DRAWN: dict[str, Any] = {
    "tensors": (X, Y),
    "list of tensors": [X, Y],
    "dict": {"x": X, "labels": Y},
    "other mapping": Encoding({"x": X, "labels": Y}),
    "list of batches": LISTED,
    "tuple of batches": tuple(LISTED),
    "list with batches of nothing": [(X[:0], Y[:0]), *LISTED, (X[:0], Y[:0])],
    "list of dicts": [{"x": x, "labels": y} for x, y in LISTED],
    "data set": PAIRS,
    "data set of one's own": Pairs(),
    "data set of dicts": Dicts(),
    "loader": DataLoader(PAIRS, batch_size=4),
    "loader of dicts": DataLoader(Dicts(), batch_size=5),
    "loader with a collate function": DataLoader(PAIRS, batch_size=4, collate_fn=encode),
}
IN_ORDER: dict[str, Any] = {
    "list of other mappings": [Encoding({"x": x, "labels": y}) for x, y in LISTED],
    "list of different lengths": [(X[:6], Y[:6]), *zip(X[6:].split(3), Y[6:].split(3), strict=True)],
    "iterable": Again(),
    "iterable data set": DataLoader(Streamed(), batch_size=4),
    "loader with a batch sampler": DataLoader(PAIRS, batch_sampler=BatchSampler(SequentialSampler(PAIRS), 4, False)),
    "loader of batches": DataLoader(LISTED, batch_size=None),  # type: ignore[arg-type]
    "loader with batches of nothing": DataLoader([(X[:0], Y[:0]), *LISTED], batch_size=None),  # type: ignore[arg-type]
}
# batches of equal shapes are one big batch, however long
DRAWN["list of different lengths"] = IN_ORDER.pop("list of different lengths")


def measure(data: Any, **options: Any) -> Evaluation:
    return evaluate(MODEL, data, VARIANTS, engine="eager", examples=("loss", "error"), **options)


REFERENCE = inspect.unwrap(evaluate)(MODEL, (X, Y), VARIANTS, engine="eager", examples=("loss", "error"))


@pytest.mark.parametrize("name", [*DRAWN, *IN_ORDER])
def test_every_form_gives_the_same_numbers(name: str) -> None:
    found = measure({**DRAWN, **IN_ORDER}[name], batch_size=3 if name.startswith("l") else None, seed=7)
    for metric in ("error", "loss"):
        np.testing.assert_allclose(found.metrics[metric], REFERENCE.metrics[metric], atol=1e-6)
        np.testing.assert_allclose(found.examples[metric], REFERENCE.examples[metric], atol=1e-6)
    assert set(found.n) == {N}
    assert found.provenance["examples"] == N


@pytest.mark.parametrize("name", [*DRAWN, *IN_ORDER])
def test_the_order_is_drawn_where_it_can_be(name: str) -> None:
    source = open_data({**DRAWN, **IN_ORDER}[name], seed=3)
    orders = [np.concatenate([order for order, _ in source.batches()]) for _ in range(2)]
    assert orders[0].tolist() == orders[1].tolist()
    assert sorted(orders[0]) == list(range(N))
    assert source.drawn == (name in DRAWN)
    assert source.drawn == (orders[0].tolist() != list(range(N)))
    assert source.total == (N if source.drawn else None)
    other = open_data({**DRAWN, **IN_ORDER}[name], seed=4)
    if source.drawn:
        assert np.concatenate([order for order, _ in other.batches()]).tolist() != orders[0].tolist()


@pytest.mark.parametrize("name", DRAWN)
def test_indices_are_the_examples_own(name: str) -> None:
    for order, batch in open_data(DRAWN[name], batch_size=4, seed=3).batches():
        x = batch["x"] if isinstance(batch, dict | UserDict) else batch[0]
        y = batch["labels"] if isinstance(batch, dict | UserDict) else batch[1]
        assert torch.equal(x, X[torch.from_numpy(order)])
        assert torch.equal(y, Y[torch.from_numpy(order)])


@pytest.mark.parametrize(
    ("total", "size", "sizes"),
    [(1, 4, [1]), (4, 4, [4]), (5, 4, [5]), (6, 4, [4, 2]), (9, 4, [4, 5]), (3, 1, [1, 2]), (2, 1, [2]), (3, 9, [3])],
)
def test_the_grid_leaves_no_example_alone(total: int, size: int, sizes: list[int]) -> None:
    parts = grid(total, size)
    assert [part.stop - part.start for part in parts] == sizes
    assert [i for part in parts for i in range(total)[part]] == list(range(total))


def test_a_remainder_of_one_example_counts() -> None:
    (x, y), found = (X[:9], Y[:9]), []
    for engine in ("exported", "eager"):
        found.append(evaluate(MODEL, (x, y), VARIANTS, engine=engine, batch_size=4, examples=("loss",)))  # type: ignore[arg-type]
        assert set(found[-1].n) == {9}
        assert np.isfinite(found[-1].examples["loss"]).all()
    np.testing.assert_allclose(found[0].examples["loss"], found[1].examples["loss"], atol=1e-5)
    alone = evaluate(MODEL, Single(), VARIANTS, examples=("loss",))
    np.testing.assert_allclose(alone.examples["loss"], found[0].examples["loss"], atol=1e-5)
    assert alone.provenance["engine"] == "exported and eager"


class Single:
    """Batches whose last has one example and cannot join another."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:9], Y[8:9])]


def test_padded_batches_of_different_widths() -> None:
    model = zoo.LSTM().eval()
    with forked(6):
        tokens = [torch.randint(0, 20, (3, t)) for t in (4, 6, 4)]
        labels = torch.randint(0, zoo.CLASSES, (3, 3))
    batches = list(zip(tokens, labels, strict=True))
    variants = [edit_site(str(site), site, AddNoise(0.5, 1)) for site in find_sites(model)]
    found = evaluate(model, batches, variants, examples=("loss",))
    assert found.provenance["engine"] == "exported"
    for i, batch in enumerate(batches):
        alone = evaluate(model, batch, variants, engine="eager", examples=("loss",))
        np.testing.assert_allclose(found.examples["loss"][:, 3 * i : 3 * i + 3], alone.examples["loss"], atol=1e-5)


def test_the_fingerprint_tells_data_apart_and_not_their_order() -> None:
    prints = [open_data(data, seed=seed).fingerprint for data in ((X, Y), (X.clone(), Y)) for seed in (0, 1)]
    assert len(set(prints)) == 1
    changed = X.clone()
    changed[3, 2] += 1
    assert open_data((changed, Y)).fingerprint != prints[0]
    assert open_data((X, (Y + 1) % 3)).fingerprint != prints[0]
    assert open_data((X.double(), Y)).fingerprint != prints[0]


def test_a_loader_is_read_as_it_was_built() -> None:
    dropped = DataLoader(PAIRS, batch_size=4, drop_last=True)
    assert set(measure(dropped).n) == {12}
    assert open_data(DataLoader(PAIRS, batch_size=4)).first()[0].shape == (4, 6)
    assert open_data(DataLoader(PAIRS, batch_size=4), batch_size=7).first()[0].shape == (7, 6)
    assert open_data(LISTED).first()[0].shape == (4, 6)
    assert open_data((X, Y)).first()[0].shape == (N, 6)


class Shuffled:
    """Another order at every pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(N)
        yield X[order], Y[order]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(PAIRS, batch_size=4, shuffle=True), "expected an unshuffled DataLoader; .*shuffle=False"),
        (DataLoader(PAIRS, 4, shuffle=True, generator=torch.Generator()), "expected an unshuffled DataLoader"),
        (DataLoader(LISTED, batch_size=None, shuffle=True), "expected an unshuffled DataLoader"),  # type: ignore[arg-type]
        (DataLoader(Hidden(), batch_size=4), "two passes give different first batches; .* leave out random augment"),
        (Hidden(), "two passes give different first batches"),
        (Shuffled(), "two passes give different first batches"),
        ((batch for batch in LISTED), "got a generator, which can be read only once; make it a list"),
        (iter(LISTED), "got a generator, which can be read only once"),
        ([], r"expected a pair of tensors \(inputs, targets\).*; got an empty list"),
        ((), "got an empty tuple"),
        ({}, "expected a pair of tensors .*; got dict"),
        (DataLoader(TensorDataset(X[:0], Y[:0])), "got a DataLoader that yields nothing"),
        (DataLoader(TensorDataset(X[:3], Y[:3]), 4, drop_last=True), "got a DataLoader that yields nothing"),
        (DataLoader([], batch_size=None), "got a DataLoader that yields nothing"),  # type: ignore[arg-type]
        (DataLoader(Empty(), batch_size=2), "got one that yields nothing"),
        ((X[:0], Y[:0]), "got tensors without examples"),
        ((X, Y[:5]), r"tensors with one first axis, the examples; got shapes \(13, 6\), \(5,\)"),
        ({"x": X, "labels": Y[:5]}, "tensors with one first axis"),
        ([(X, Y), (X, Y[:5])], "tensors with one first axis"),
        ((X, torch.tensor(1)), "tensors with one first axis"),
        ("data.csv", "expected a pair of tensors .*; got str"),
        (X, "got Tensor"),
        (None, "got NoneType"),
        ({"x": X, "labels": Y.tolist()}, "got dict"),
        ((X.numpy(), Y.numpy()), "expected batches that hold tensors; got ndarray"),
        ([[1, 2], [3, 4]], "expected batches that hold tensors; got list"),
        ([(), ()], "expected batches that hold tensors; got tuple"),
        ((X, Y.numpy()), "expected a tuple of tensors; got Tensor, ndarray; make them tensors"),
        ([(X[:0], Y[:0])], "got tensors without examples"),
    ],
)
def test_what_cannot_be_read_is_refused(data: Any, message: str) -> None:
    with pytest.raises(NetopsyError, match=f"(?s)data: .*{message}"):
        measure(data)


def test_batch_size_is_checked() -> None:
    with pytest.raises(NetopsyError, match="batch_size: expected an integer >= 1; got 0"):
        measure((X, Y), batch_size=0)


@pytest.mark.parametrize("name", IN_ORDER)
def test_stopping_early_needs_examples_drawn_at_random(name: str) -> None:
    with pytest.raises(NetopsyError, match=r"stop='precision': needs examples in random order.* or use stop='exact'"):
        measure(IN_ORDER[name], stop="precision")


def test_a_loader_draws_nothing_from_the_process() -> None:
    before = torch.get_rng_state()
    measure(DataLoader(PAIRS, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_need_not_come_from_a_variant() -> None:
    assert measure((X, Y)).labels == ("1", "2")
    assert evaluate(MODEL, (X, Y), [Variant("nothing", ())]).status == ("no-op",)
