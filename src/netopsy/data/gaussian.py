"""Uncorrelated Gaussian inputs that a random network labels (Casper et al. 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy._checks import NetopsyError, at_least
from netopsy._random import derive, generator
from netopsy.data.dataset import Dataset

LEAST = 0.4
"""Share of the inputs of each split that each of the two labels must have, at least."""
TRIES = 100
"""Teachers drawn before giving up; about one in four is balanced."""


def gaussian_teacher(
    *, dimensions: int = 10, train: int = 1000, test: int = 1000, hidden: int = 32, seed: int = 0
) -> Dataset:
    """Inputs from N(0, I) with the binary labels of a randomly drawn network (Casper et al. 2019, section 3).

    The teacher is a perceptron of one hidden ReLU layer and two outputs, the larger of which is the label: at 32
    units the 1/4× size of the paper's own students. Its biases are zero and its weights come from N(0, 1); their
    variance is without consequence, since a positive factor on a layer moves no label. Teachers are drawn until one
    gives each label to 40 to 60 % of the train and of the test inputs. Balance is checked on these inputs themselves;
    the inputs do not depend on it.

    With one seed, train and test inputs and teacher are independent draws.

    Args:
        dimensions: of an input: 10 and 10,000 in the paper.
        train: number of train examples.
        test: number of test examples.
        hidden: units of the teacher.
        seed: of inputs and teacher.

    Returns:
        inputs as images of one channel and one row, float32 of shape (n, 1, 1, dimensions), which `fcn` flattens;
        2 classes.

    Raises:
        NetopsyError: a size below 1; no balanced teacher among 100, as where a split has a single example.

    >>> data = gaussian_teacher(train=50, test=20)
    >>> tuple(data.train[0].shape), data.train[1].sum().item()
    ((50, 1, 1, 10), 26)
    """
    at_least("dimensions", dimensions, 1)
    at_least("train", train, 1)
    at_least("test", test, 1)
    at_least("hidden", hidden, 1)
    splits = [
        torch.randn(size, dimensions, generator=generator(derive(seed, "gaussian", name)))
        for name, size in (("train", train), ("test", test))
    ]
    for number in range(TRIES):
        source = generator(derive(seed, "gaussian", "teacher", number))
        weights = torch.randn(hidden, dimensions, generator=source), torch.randn(2, hidden, generator=source)
        labels = [_labels(inputs, *weights) for inputs in splits]
        if all(LEAST <= float(found.double().mean()) <= 1 - LEAST for found in labels):
            break
    else:
        raise NetopsyError(
            f"gaussian teacher: expected one that gives each label to at least {LEAST:.0%} of {train} train and of "
            f"{test} test inputs; none of {TRIES} does; ask for more examples, more hidden units or another seed"
        )
    pairs = [(inputs[:, None, None], found) for inputs, found in zip(splits, labels, strict=True)]
    return Dataset(name=f"gaussian-{dimensions}", train=pairs[0], test=pairs[1], classes=2)


def _labels(
    inputs: Float[Tensor, "n d"], first: Float[Tensor, "h d"], second: Float[Tensor, "2 h"]
) -> Int64[Tensor, " n"]:
    """In double precision: an input near the border must not change its label with the machine's order of sums."""
    logits = (inputs.double() @ first.double().T).clamp(min=0) @ second.double().T
    return logits.argmax(1)
