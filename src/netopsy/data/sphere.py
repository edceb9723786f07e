"""Examples on a sphere: each with mean 0 and variance 1 over its own numbers."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset


def onto_sphere(images: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Give each example mean 0 and variance 1 over its d numbers: it lies on the sphere of radius √d.

    Novak et al.: Sensitivity and Generalization in Neural Networks (2018), A.5.

    Raises:
        NetopsyError: a constant example.

    >>> import torch
    >>> onto_sphere(torch.tensor([[1.0, 3.0], [0.0, 10.0]])).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """
    rows = images.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    length = rows.square().mean(1, keepdim=True).sqrt()
    constant = (length == 0).flatten().nonzero().flatten()
    if len(constant):
        raise NetopsyError(
            f"onto_sphere: expected examples whose numbers differ; {len(constant)} are constant, the first is number "
            f"{int(constant[0])}; leave them out"
        )
    return (rows / length).to(images.dtype).view(images.shape)


def on_sphere(dataset: Dataset) -> Dataset:
    """Both splits of a data set, each image by `onto_sphere`; its pixels cannot be had back."""
    train, test = ((onto_sphere(images), labels) for images, labels in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test, mean=(0.0,), std=(1.0,))
