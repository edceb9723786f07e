"""Images of one's own: a folder a split, in it a folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from netopsy._checks import NetopsyError, at_least, one_of, shorten
from netopsy._random import derive, generator
from netopsy.data._sources import pixels
from netopsy.data.dataset import Dataset

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def image_folder(
    path: str | Path,
    size: int,
    *,
    train: str = "train",
    test: str = "val",
    resize: int | None = None,
    mode: Literal["RGB", "L"] = "RGB",
    per_class: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read a data set laid out as `path/train/<class>/…` and `path/val/<class>/…` (ImageNet, torchvision).

    The classes are the folders of the train split, numbered in alphabetical order; images are in alphabetical order
    of class and of path inside the class, at any depth. Files that are not images by their suffix are passed over.
    Each image is resized so that its short side is `resize` (bilinear with antialiasing) and cropped to its central
    size × size square, with the roundings of torchvision's Resize and CenterCrop. All images are held in memory:
    12 · size² bytes each for RGB.

    Args:
        path: the data set's folder; its name becomes the data set's.
        size: height and width of the images, in pixels.
        train: folder of the train split, relative to `path`.
        test: folder of the test split; it may lack classes of the train split, not have others.
        resize: short side before the crop, in pixels, at least `size`; None is `size` itself. ImageNet's custom is
            256 for 224.
        mode: "RGB" for three channels, "L" for one (gray).
        per_class: read only so many images of each class in each split, drawn at random; None reads all.
        seed: of that draw.

    Returns:
        pixels in [0, 1]; see `standardize`.

    Raises:
        NetopsyError: a folder or class is missing or empty, or an image cannot be read.
    """
    at_least("size", size, 1)
    short = size if resize is None else resize
    at_least(f"resize (which the crop of {size} is cut from)", short, size)
    one_of("mode", mode, ("RGB", "L"))
    if per_class is not None:
        at_least("per_class", per_class, 1)
    root = Path(path)
    classes = _classes(root / train)
    strange = sorted(set(_classes(root / test)) - set(classes))
    if strange:
        raise NetopsyError(
            f"{root / test}: expected only classes that {train}/ has; got also {shorten(strange)}; "
            "move them away or add them to the train split"
        )
    splits = []
    for split in (train, test):
        files = [_images(root / split / name, per_class, seed) for name in classes]
        if split == train and not all(files):
            empty = shorten(name for name, found in zip(classes, files, strict=True) if not found)
            raise NetopsyError(f"{root / train}: expected images in every class; {empty} has none; remove the folder")
        if not any(files):
            raise NetopsyError(f"{root / split}: expected images ({', '.join(SUFFIXES)}); found none")
        arrays = [_read(file, short, size, mode) for found in files for file in found]
        labels = [label for label, found in enumerate(files) for _ in found]
        splits.append((pixels(np.stack(arrays), 255), torch.tensor(labels)))
    return Dataset(name=root.resolve().name, train=splits[0], test=splits[1], classes=len(classes))


def _classes(split: Path) -> list[str]:
    names = (
        sorted(place.name for place in split.iterdir() if place.is_dir() and place.name[0] != ".")
        if split.is_dir()
        else []
    )
    if not names:
        raise NetopsyError(
            f"{split}: expected a folder with one folder a class in it; "
            f"{'it has none' if split.is_dir() else 'there is none'}; see train= and test= for other names"
        )
    return names


def _images(folder: Path, per_class: int | None, seed: int) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if per_class is None or len(files) <= per_class:
        return files
    source = generator(derive(seed, "image folder", folder.parent.name, folder.name))
    picked = torch.randperm(len(files), generator=source)[:per_class].sort().values
    return [files[index] for index in picked.tolist()]


def _read(file: Path, short: int, size: int, mode: str) -> UInt8[ndarray, "c {size} {size}"]:
    try:
        with Image.open(file) as image:
            picture = image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NetopsyError(
            f"{file}: expected an image; it cannot be read ({error}); repair it or move it away"
        ) from error
    edge = min(picture.size)
    width, height = (short * side // edge for side in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(picture.crop((left, top, left + size, top + size)))
    return array.transpose(2, 0, 1).copy() if array.ndim == 3 else array[None].copy()
