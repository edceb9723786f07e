"""Files that data sets are read from: found on this machine or fetched, and checked against a known hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pooch
import torch
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError


def cache(name: str) -> Path:
    """The folder in the user's own cache that a data set's files are downloaded into."""
    return Path(pooch.os_cache("netopsy")) / name


def find(places: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of the named files, place by place."""
    wanted = list(names)
    return next((place / name for place in places for name in wanted if (place / name).is_file()), None)


def fetch(url: str, known_hash: str, folder: Path) -> Path:
    """Download one file into a folder, which is made; a file with another hash is refused and not kept.

    Args:
        url: of the file; its last part becomes the file's name.
        known_hash: such as "md5:…" or "sha256:…", of the bytes as they are served.
        folder: a file of that name and hash in it is not downloaded again.

    Raises:
        NetopsyError: no connection, no such file, another hash, or a folder that can't be written.
    """
    name = url.rsplit("/", 1)[-1]
    try:
        return Path(pooch.retrieve(url, known_hash, fname=name, path=folder))
    except (OSError, ValueError) as error:
        raise NetopsyError(
            f"{name}: cannot be downloaded from {url} ({error}); get the file by other means and pass the folder "
            "that it lies in as folder="
        ) from error


def check_hash(path: Path, content: bytes, sha256: str) -> None:
    """Refuse content other than the published one."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise NetopsyError(
            f"{path}: expected content with SHA-256 {sha256}; got {found}: the file is damaged or is another "
            "version; delete it and try again"
        )


def pixels(values: npt.NDArray[Any], white: float) -> Float[Tensor, "n c h w"]:
    """Turn stored integers of shape (n, c, h, w) or (n, h, w), which gets c = 1, into float32 in [0, 1]."""
    images = torch.from_numpy(values.astype("float32")).div_(white)
    return images if images.ndim == 4 else images[:, None]
