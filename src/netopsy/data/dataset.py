"""A labeled image set in memory, and what is done to one: standardize, subset, corrupt its labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import avg_pool2d

from netopsy._checks import NetopsyError, at_least, inside
from netopsy._random import derive, generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images and labels of a train and a test split.

    The loaders give pixels in [0, 1]; after any number of `standardize` calls, `images * std + mean` gives those
    pixels back.

    Attributes:
        name: what it is called in tables and figures.
        train: images, float32 of shape (n, c, h, w), and labels, int64 of shape (n,) with values in [0, classes).
        test: the same for the test split; it may have another n, not another (c, h, w).
        classes: number of classes.
        mean: what was subtracted from the pixels: one number, or one a channel.
        std: what they were then divided by: as many numbers as `mean`.

    Raises:
        NetopsyError: shapes, types or labels are not as above.
    """

    name: str
    train: tuple[Tensor, Tensor] = field(repr=False)
    test: tuple[Tensor, Tensor] = field(repr=False)
    classes: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        at_least(f"data set {self.name}: classes", self.classes, 1)
        for split, (images, labels) in (("train", self.train), ("test", self.test)):
            _check_split(f"data set {self.name}, {split} split", images, labels, self.classes)
        train, test = tuple(self.train[0].shape[1:]), tuple(self.test[0].shape[1:])
        if train != test:
            raise NetopsyError(
                f"data set {self.name}: expected images of one shape; train has {train}, test has {test}; resize them"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, train[0]):
            raise NetopsyError(
                f"data set {self.name}: expected 1 or {train[0]} (channels) values of mean and std; "
                f"got {len(self.mean)} and {len(self.std)}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every image and label of both splits and of the number of classes; the name does not count."""
        return fingerprint(*self.train, *self.test, torch.tensor(self.classes))


def fingerprint(*tensors: Tensor) -> str:
    """Hash types, shapes and values of tensors: 32 hexadecimal digits of a SHA-256, the same on every machine.

    >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(1, 2)[0]) != fingerprint(torch.zeros(1, 2))
    True
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def standardize(dataset: Dataset, *, per_channel: bool = False) -> Dataset:
    """Subtract the mean of the train images and divide by their standard deviation, in both splits.

    The test split has no part in the two statistics. The layers paper (Zhang, Bengio, Singer 2022) uses one global
    mean and deviation, which is the default.

    Args:
        dataset: is not changed.
        per_channel: one mean and deviation a channel instead of one for all.

    Raises:
        NetopsyError: the train images (or a channel of them) are constant.
    """
    images = dataset.train[0]
    axes = (0, 2, 3) if per_channel else (0, 1, 2, 3)
    variance, mean = torch.var_mean(images, axes, correction=0, keepdim=True)
    std = variance.sqrt()
    if not bool((std > 0).all()):
        raise NetopsyError(
            f"data set {dataset.name}: expected train images that differ; their standard deviation is 0"
            + (" in at least one channel; pass per_channel=False" if per_channel else "")
        )

    def scaled(split: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (split[0] - mean) / std, split[1]

    before = torch.tensor([dataset.mean, dataset.std], dtype=torch.float64)
    return replace(
        dataset,
        train=scaled(dataset.train),
        test=scaled(dataset.test),
        mean=tuple((before[0] + before[1] * mean.flatten()).tolist()),
        std=tuple((before[1] * std.flatten()).tolist()),
    )


def shrink(dataset: Dataset, factor: int) -> Dataset:
    """Average each `factor` × `factor` square of pixels into one; rows and columns left over are cut off.

    Raises:
        NetopsyError: `factor` is below 1, or larger than an image.
    """
    at_least("factor", factor, 1)
    size = min(dataset.train[0].shape[2:])
    if factor > size:
        raise NetopsyError(f"shrink of {dataset.name}: expected a factor of at most {size}; got {factor}")

    def smaller(split: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return avg_pool2d(split[0], factor), split[1]

    return replace(dataset, train=smaller(dataset.train), test=smaller(dataset.test))


def subset(
    dataset: Dataset, *, train: int | None = None, test: int | None = None, seed: int = 0, balanced: bool = True
) -> Dataset:
    """Draw fewer examples without replacement; they stay in the data set's own order.

    With one seed, a smaller subset is part of every larger one. The two splits are drawn independently.

    Args:
        dataset: is not changed.
        train: number of train examples; None keeps all.
        test: number of test examples; None keeps all.
        seed: of the draw.
        balanced: every class gets the same number of examples, or one more where the number does not divide;
            False draws uniformly from all examples, so that class frequencies follow the data set's.

    Raises:
        NetopsyError: more examples are asked for than there are (in all, or in one class).
    """

    def drawn(split: str, pair: tuple[Tensor, Tensor], size: int | None) -> tuple[Tensor, Tensor]:
        if size is None:
            return pair
        where = f"subset of {dataset.name}, {split}"
        rows = _pick(where, pair[1], size, dataset.classes, derive(seed, "subset", split), balanced)
        return pair[0][rows], pair[1][rows]

    return replace(dataset, train=drawn("train", dataset.train, train), test=drawn("test", dataset.test, test))


def corrupt_labels(labels: Int64[Tensor, " n"], share: float, classes: int, seed: int) -> Int64[Tensor, " n"]:
    """Replace a share of the labels, chosen at random, by uniformly random ones.

    Exactly round(share · n) labels are drawn again, from all classes: a new label is the old one with probability
    1/classes. Share 1 gives fully random labels (Zhang et al. 2017, arXiv:1611.03530, where each label is drawn
    again with probability `share` instead). With one seed, a smaller share changes a part of what a larger one does.

    Args:
        labels: values in [0, classes); not changed.
        share: in [0, 1].
        classes: number of classes.
        seed: of the choice and of the new labels.
    """
    inside("share of corrupted labels", share, 0.0, 1.0)
    at_least("classes", classes, 1)
    source = generator(derive(seed, "corrupt labels"))
    chosen = torch.randperm(len(labels), generator=source)[: round(share * len(labels))]
    drawn = torch.randint(classes, (len(labels),), generator=source)
    corrupted = labels.clone()
    corrupted[chosen] = drawn[chosen].to(labels.device)
    return corrupted


def _check_split(where: str, images: Tensor, labels: Tensor, classes: int) -> None:
    if images.dtype != torch.float32 or images.ndim != 4:
        raise NetopsyError(
            f"{where}: expected float32 images of shape (n, c, h, w); got {images.dtype} {tuple(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or not len(labels):
        raise NetopsyError(
            f"{where}: expected one int64 label for each of the {len(images)} images, and at least one image; "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise NetopsyError(
            f"{where}: expected labels in [0, {classes}); got {low} to {high}; number the classes from 0"
        )


def _pick(
    where: str, labels: Int64[Tensor, " n"], size: int, classes: int, seed: int, balanced: bool
) -> Int64[Tensor, " size"]:
    """Indices of the drawn examples, ascending."""
    at_least(where, size, 1)
    if size > len(labels):
        raise NetopsyError(f"{where}: expected at most {len(labels)} examples; got {size}; ask for fewer")
    source = generator(seed)
    order = torch.randperm(len(labels), generator=source)
    if not balanced:
        return order[:size].sort().values
    # Which classes get one more is drawn too: class 0 must not always be the larger one.
    extra = torch.randperm(classes, generator=source) < size % classes
    members = [order[labels[order] == label] for label in range(classes)]
    wanted = [size // classes + int(more) for more in extra]
    for label, (rows, count) in enumerate(zip(members, wanted, strict=True)):
        if len(rows) < count:
            raise NetopsyError(
                f"{where}: expected at least {count} examples of class {label} for a balanced subset; "
                f"it has {len(rows)}; ask for fewer or pass balanced=False"
            )
    return torch.cat([rows[:count] for rows, count in zip(members, wanted, strict=True)]).sort().values
