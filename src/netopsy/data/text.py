"""Labeled texts, and the tensors that language models and classifiers are trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy._checks import NetopsyError, at_least
from netopsy._typing import IntArray
from netopsy.data.dataset import fingerprint
from netopsy.data.tokenizer import Tokenizer

IGNORED = -100
"""The label of a position that takes part in no loss and no metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDataset:
    """Texts and labels of a train and a test split.

    Attributes:
        name: what it is called in tables and figures.
        train: texts, and their labels, int64 of shape (n,) with values in [0, classes).
        test: the same for the test split.
        class_names: by label.

    Raises:
        NetopsyError: a split is empty, or its labels are not as above.
    """

    name: str
    train: tuple[tuple[str, ...], Tensor] = field(repr=False)
    test: tuple[tuple[str, ...], Tensor] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        for split, (texts, labels) in (("train", self.train), ("test", self.test)):
            where = f"data set {self.name}, {split} split"
            if not texts:
                raise NetopsyError(f"{where}: expected at least one text; got none; move the border of the splits")
            _check_labels(where, texts, labels)
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                raise NetopsyError(
                    f"{where}: expected labels in [0, {self.classes}), one for each name of a class; got {low} to "
                    f"{high}; number the classes from 0"
                )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every text and label of both splits and of the classes' names; the set's name does not count."""
        words = json.dumps([self.train[0], self.test[0], self.class_names]).encode()
        return fingerprint(torch.frombuffer(bytearray(words), dtype=torch.uint8), self.train[1], self.test[1])


def language_model_set(
    texts: Sequence[str], tokenizer: Tokenizer, length: int, *, packed: bool = True
) -> tuple[Int64[Tensor, "n {length}"], Int64[Tensor, "n {length}"]]:
    """Inputs and next tokens, for a model that gives logits (n, length, size) by position.

    The tokens of a row stand in `labels`; `inputs` has them one position later, behind `begin`: what a model reads
    at position i predicts label i. Every text is followed by `end`. Positions left over have `pad` as input and -100
    as label, which `fit` and the probes pass over. (A model that moves its labels itself when it computes a loss,
    as Hugging Face's do, must not be given these as `labels=`.)

    Args:
        texts: one document each.
        tokenizer: such as `ByteTokenizer()`, or one that `train_tokenizer` made.
        length: positions of a row.
        packed: the documents, joined in their order, are cut into rows: every token is a label exactly once, and
            only the last row is filled up. False gives every document a row of its own, cut off at `length`.

    Returns:
        inputs and labels, int64 of shape (n, length).

    Raises:
        NetopsyError: no texts, or a length below 1.

    >>> from netopsy.data.tokenizer import ByteTokenizer
    >>> inputs, labels = language_model_set(["abc", "d"], ByteTokenizer(), 4)
    >>> inputs.tolist(), labels.tolist()
    ([[257, 97, 98, 99], [257, 100, 258, 256]], [[97, 98, 99, 258], [100, 258, -100, -100]])
    """
    at_least("length", length, 1)
    documents = [[*tokenizer.encode(text), tokenizer.end] for text in _checked(texts)]
    if packed:
        stream = np.fromiter(chain.from_iterable(documents), np.int64)
        rows = [stream[start : start + length] for start in range(0, len(stream), length)]
    else:
        rows = [np.array(document[:length], np.int64) for document in documents]
    tokens, labels = _filled(rows, length, tokenizer.pad), _filled(rows, length, IGNORED)
    inputs = torch.cat([torch.full((len(rows), 1), tokenizer.begin), tokens[:, :-1]], dim=1)
    return inputs, labels


def classification_set(
    texts: Sequence[str], labels: Int64[Tensor, " n"], tokenizer: Tokenizer, length: int
) -> dict[str, Int64[Tensor, "n ..."]]:
    """Texts as a batch for Hugging Face's classifiers: `begin`, the text, `end`, filled up with `pad`.

    Args:
        texts: one example each.
        labels: int64, one for each text.
        tokenizer: such as `ByteTokenizer()`, or a pretrained model's, by `load_tokenizer`.
        length: positions of a row; of a longer text the end is cut off, not the token `end`.

    Returns:
        `input_ids` and `attention_mask` (1 where there is no padding), int64 of shape (n, length), and `labels`. A
        model that takes token ids alone is trained on the pair `(result["input_ids"], result["labels"])`.

    Raises:
        NetopsyError: no texts, another number of labels, or a length below 3.

    >>> from netopsy.data.tokenizer import ByteTokenizer
    >>> batch = classification_set(["abc", ""], torch.tensor([1, 0]), ByteTokenizer(), 4)
    >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist()
    ([[257, 97, 98, 258], [257, 258, 256, 256]], [[1, 1, 1, 1], [1, 1, 0, 0]])
    """
    at_least("length", length, 3)
    _check_labels("labels", _checked(texts), labels)
    rows = [
        np.array([tokenizer.begin, *tokenizer.encode(text)[: length - 2], tokenizer.end], np.int64) for text in texts
    ]
    mask = _filled([np.ones_like(row) for row in rows], length, 0)
    return {"input_ids": _filled(rows, length, tokenizer.pad), "attention_mask": mask, "labels": labels.clone()}


def _filled(rows: Sequence[IntArray], length: int, value: int) -> Int64[Tensor, "n {length}"]:
    """Rows of at most `length` numbers, filled up on the right."""
    table = np.full((len(rows), length), value)
    lengths = np.array([len(row) for row in rows])
    table[np.arange(length) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(table)


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise NetopsyError(f"texts: expected several texts; got one of {len(texts)} characters; pass it in a list")
    if not texts:
        raise NetopsyError("texts: expected at least one text; got none")
    return texts


def _check_labels(where: str, texts: Sequence[str], labels: Tensor) -> None:
    if labels.dtype != torch.int64 or labels.shape != (len(texts),):
        raise NetopsyError(
            f"{where}: expected one int64 label for each of the {len(texts)} texts; got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
