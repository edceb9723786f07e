"""CIFAR-10 and CIFAR-100, read from their binary archives: no pickle is ever opened."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.data._sources import cache, check_hash, fetch, find, pixels
from netopsy.data.dataset import Dataset

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class CifarSource:
    """Where a CIFAR data set comes from.

    Attributes:
        name: of the data set.
        url: of the archive.
        sha256: of the archive.
        train: members of the archive that hold the train split, in order.
        test: members that hold the test split.
        label_bytes: in front of each image; the last of them is the label (CIFAR-100: coarse, then fine).
        classes: number of classes.
    """

    name: str
    url: str
    sha256: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int
    classes: int


CIFAR10 = CifarSource(
    name="cifar10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    train=tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
    test=("cifar-10-batches-bin/test_batch.bin",),
    label_bytes=1,
    classes=10,
)

CIFAR100 = CifarSource(
    name="cifar100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    train=("cifar-100-binary/train.bin",),
    test=("cifar-100-binary/test.bin",),
    label_bytes=2,
    classes=100,
)


def cifar10(folder: str | Path | None = None, download: bool = True) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): 50,000 train and 10,000 test images of 3×32×32, 10 classes.

    Args:
        folder: where `cifar-10-binary.tar.gz` is, or is downloaded to; None is the user's cache. The archive is
            read as it is, it need not be unpacked.
        download: False never uses the network.

    Returns:
        pixels in [0, 1]; see `standardize`.

    Raises:
        NetopsyError: the archive is missing, damaged, or not the published one.
    """
    return load_cifar(CIFAR10, folder, download)


def cifar100(folder: str | Path | None = None, download: bool = True) -> Dataset:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine labels: 50,000 train and 10,000 test images of 3×32×32.

    Arguments, result and errors are those of `cifar10`, for `cifar-100-binary.tar.gz`.
    """
    return load_cifar(CIFAR100, folder, download)


def load_cifar(source: CifarSource, folder: str | Path | None, download: bool) -> Dataset:
    """Find or fetch the archive of a source, check it and read it."""
    home = cache(source.name) if folder is None else Path(folder)
    name = source.url.rsplit("/", 1)[-1]
    path = find([home], [name])
    if path is None and not download:
        raise NetopsyError(
            f"{source.name}: expected {name} (the binary version) in {home}; it is not there; get it from "
            f"{source.url} and pass the folder that it lies in as folder=, or pass download=True"
        )
    path = path or fetch(source.url, f"sha256:{source.sha256}", home)
    content = path.read_bytes()
    check_hash(path, content, source.sha256)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            train, test = (
                [_records(path, archive, member, source) for member in members]
                for members in (source.train, source.test)
            )
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NetopsyError(f"{path}: expected a gzip tar archive; it cannot be read ({error})") from error
    return Dataset(name=source.name, train=_joined(train), test=_joined(test), classes=source.classes)


def _records(
    path: Path, archive: tarfile.TarFile, member: str, source: CifarSource
) -> tuple[Float[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    """Images and labels of one file of records: label bytes, then the red, green and blue plane, row by row."""
    file = archive.extractfile(member) if member in archive.getnames() else None
    if file is None:
        raise NetopsyError(
            f"{path}: expected the file {member} in it; it has none; get the binary version from {source.url}"
        )
    content, size = file.read(), source.label_bytes + PIXELS
    if not content or len(content) % size:
        raise NetopsyError(
            f"{path}: expected {member} to hold records of {size} bytes; it has {len(content)} bytes; "
            f"get the binary version from {source.url}"
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
    labels = torch.from_numpy(rows[:, source.label_bytes - 1].astype(np.int64))
    return pixels(rows[:, source.label_bytes :].reshape(-1, *SHAPE), 255), labels


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Float[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)
