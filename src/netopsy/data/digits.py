"""scikit-learn's handwritten digits: the data set that is always there."""

from __future__ import annotations

import torch

from netopsy.data._sources import pixels
from netopsy.data.dataset import Dataset

TEST = 360
SPLIT_SEED = 0


def digits() -> Dataset:
    """1,797 handwritten digits of 1×8×8 (Alpaydin and Kaynak 1998; bundled with scikit-learn), 10 classes.

    The split is netopsy's own and always the same: 1,437 train and 360 test images, stratified, by scikit-learn's
    `train_test_split` with `random_state=0`.

    Returns:
        pixels in [0, 1] (stored as 0 to 16); see `standardize`.

    >>> data = digits()
    >>> len(data.train[1]), len(data.test[1]), tuple(data.train[0].shape[1:])
    (1437, 360, (1, 8, 8))
    """
    from sklearn.datasets import load_digits  # slow to import, and needed here only
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images, labels = pixels(bunch.images, 16), torch.from_numpy(bunch.target).long()
    train, test = train_test_split(range(len(labels)), test_size=TEST, stratify=bunch.target, random_state=SPLIT_SEED)
    return Dataset(name="digits", train=(images[train], labels[train]), test=(images[test], labels[test]), classes=10)
