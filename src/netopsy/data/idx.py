"""MNIST and Fashion-MNIST, read from IDX files."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from netopsy._checks import NetopsyError
from netopsy.data._sources import cache, check_hash, fetch, find, pixels
from netopsy.data.dataset import Dataset

UNSIGNED_BYTE = 0x08  # the type code of the only values that these data sets use


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """One gzip file of an IDX data set.

    Attributes:
        name: without `.gz`.
        md5: of the compressed file as its publisher serves it; checked when it is downloaded.
        sha256: of the decompressed bytes; checked at every reading, because the same content may be compressed
            again by whoever passes it on.
    """

    name: str
    md5: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class IdxSource:
    """Where an IDX data set comes from; the four files are train images, train labels, test images, test labels."""

    name: str
    url: str
    classes: int
    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    system: tuple[Path, ...] = ()
    hint: str = ""


FASHION_MNIST = IdxSource(
    name="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    classes=10,
    files=(
        IdxFile(
            name="train-images-idx3-ubyte",
            md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        IdxFile(
            name="train-labels-idx1-ubyte",
            md5="25c81989df183df01b3e8a0aad5dffbe",
            sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        IdxFile(
            name="t10k-images-idx3-ubyte",
            md5="bef4ecab320f06d8554ea6380940ec79",
            sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        IdxFile(
            name="t10k-labels-idx1-ubyte",
            md5="bb300cfdad3c16e7a12a480ee83cd310",
            sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    system=(Path("/usr/share/datasets/fashion-mnist"),),
    hint="install the Debian package (apt-get install dataset-fashion-mnist), ",
)

MNIST = IdxSource(
    name="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist",
    classes=10,
    files=(
        IdxFile(
            name="train-images-idx3-ubyte",
            md5="f68b3c2dcbeaaa9fbdd348bbdeb94873",
            sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            name="train-labels-idx1-ubyte",
            md5="d53e105ee54ea40749a09fcbcd1e9432",
            sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        IdxFile(
            name="t10k-images-idx3-ubyte",
            md5="9fb629c4189551a2d022fa330f9573f3",
            sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            name="t10k-labels-idx1-ubyte",
            md5="ec29112dd5afa0611ce80d1b7f02629c",
            sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)


def fashion_mnist(folder: str | Path | None = None, download: bool = True) -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 train and 10,000 test images of 1×28×28, 10 classes.

    Each of the four IDX files, compressed or not, is looked for in `folder` (or, without one, in netopsy's cache),
    then where the Debian package `dataset-fashion-mnist` puts it, and is downloaded last. The package compresses
    the files again; their content is Zalando's own, bit for bit, which its SHA-256 shows at every reading.

    Args:
        folder: where the files are, or are downloaded to; None is the user's cache.
        download: False never uses the network.

    Returns:
        pixels in [0, 1]; see `standardize`.

    Raises:
        NetopsyError: a file is missing, damaged, or not the published one.
    """
    return load_idx(FASHION_MNIST, folder, download)


def mnist(folder: str | Path | None = None, download: bool = True) -> Dataset:
    """MNIST (LeCun, Cortes, Burges): 60,000 train and 10,000 test images of 1×28×28, 10 classes.

    Arguments, result and errors are those of `fashion_mnist`; no Debian package has these files.
    """
    return load_idx(MNIST, folder, download)


def load_idx(source: IdxSource, folder: str | Path | None, download: bool) -> Dataset:
    """Find or fetch the four files of a source, check them and read them."""
    home = cache(source.name) if folder is None else Path(folder)
    paths = [_locate(source, file, home, download) for file in source.files]
    arrays = [read_idx(path, file.sha256) for path, file in zip(paths, source.files, strict=True)]
    for path, array, axes in zip(paths, arrays, (3, 1, 3, 1), strict=True):
        if array.ndim != axes:
            raise NetopsyError(f"{path}: expected an IDX array of {axes} axes; got {array.ndim}")
    images, labels = [pixels(array, 255) for array in arrays[::2]], [torch.from_numpy(a).long() for a in arrays[1::2]]
    return Dataset(
        name=source.name, train=(images[0], labels[0]), test=(images[1], labels[1]), classes=source.classes
    )


def read_idx(path: Path, sha256: str) -> npt.NDArray[np.uint8]:
    """Read an array of unsigned bytes from an IDX file, compressed if its name ends in `.gz`.

    The format: two zero bytes, a type code, the number of axes, every axis' length as a big-endian 32-bit integer,
    then the values, last axis fastest.

    Args:
        path: of the file.
        sha256: that the decompressed file must have.

    Raises:
        NetopsyError: damaged compression, another magic number, too few or too many values, another hash.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise NetopsyError(
                f"{path}: expected a gzip file; it is damaged or truncated ({error}); delete it and try again"
            ) from error
    magic = content[:4]
    if len(magic) < 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise NetopsyError(
            f"{path}: expected an IDX file of unsigned bytes (magic number 00 00 08 and the number of axes); "
            f"it starts with {magic.hex(' ') or 'nothing'}; delete it and try again"
        )
    start = 4 + 4 * magic[3]
    shape = tuple(int(length) for length in np.frombuffer(content[4:start], dtype=">u4"))
    if len(content) != start + int(np.prod(shape)):
        raise NetopsyError(
            f"{path}: expected {start + int(np.prod(shape))} bytes for an IDX array of shape {shape}; got "
            f"{len(content)}: the file is truncated or damaged; delete it and try again"
        )
    check_hash(path, content, sha256)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


def _locate(source: IdxSource, file: IdxFile, home: Path, download: bool) -> Path:
    places = (home, *source.system)
    found = find(places, (f"{file.name}.gz", file.name))
    if found is None and not download:
        raise NetopsyError(
            f"{source.name}: expected {file.name}.gz in {' or '.join(map(str, places))}; it is in none; "
            f"{source.hint}pass the folder that it lies in as folder=, or download=True"
        )
    return found or fetch(f"{source.url}/{file.name}.gz", f"md5:{file.md5}", home)
