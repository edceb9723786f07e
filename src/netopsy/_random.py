"""Seeded randomness that leaves no trace on the process's own generators."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *names: object) -> int:
    """Derive an independent seed from a base seed and a path of names.

    The same path always gives the same seed, on every machine and in every process; adding a new path never
    moves an old one.

    >>> derive(0, "draw", 1) == derive(0, "draw", 1) != derive(0, "draw", 2)
    True
    """
    words = [zlib.crc32(repr(name).encode()) for name in names]
    entropy = [seed & 0xFFFFFFFF, *words, (seed >> 32) & 0xFFFFFFFF]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int) -> torch.Generator:
    """Make a CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Seed torch, numpy and `random` inside the block; their states outside are bit-identical afterwards."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (a user's factory may use it)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
