"""Seeds that never move, and generators that are left as they were."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from netopsy._random import derive, forked, generator


def world() -> tuple[object, ...]:
    """The states of the process's own generators."""
    legacy = np.random.get_state(legacy=True)  # noqa: NPY002
    assert isinstance(legacy, tuple)
    return random.getstate(), tuple(torch.get_rng_state().tolist()), tuple(legacy[1].tolist()), legacy[2:]


def draws() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_derived_seeds_never_move() -> None:
    assert derive(0, "draw", 1) == 863794979864745135
    assert derive(2022, "init") == 3528815615058592936


def test_derived_seeds_differ_by_every_part_of_the_path_and_its_order() -> None:
    paths: list[tuple[object, ...]] = [(), ("a",), ("a", "b"), ("b", "a"), ("ab",), ("a", 1), ("a", "1"), ("a", None)]
    seeds = [0, 1, -1, 2**32, 2**32 + 1, 2**63 - 1]
    found = {derive(seed, *path) for seed in seeds for path in paths}
    assert len(found) == len(seeds) * len(paths)
    assert all(0 <= seed < 2**63 for seed in found)


def test_a_generator_draws_the_same_from_the_same_seed() -> None:
    one, again, other = (torch.rand(5, generator=generator(seed)) for seed in (derive(3), derive(3), derive(4)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_forked_seeds_all_three_and_leaves_no_trace() -> None:
    before = world()
    with forked(7):
        first = draws()
    assert world() == before
    with forked(7):
        assert draws() == first
    with forked(8):
        second = draws()
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert world() == before


def test_forked_leaves_no_trace_after_an_exception() -> None:
    def work() -> None:
        with forked(7):
            draws()
            raise RuntimeError("inside")

    before = world()
    with pytest.raises(RuntimeError, match="inside"):
        work()
    assert world() == before


def test_forked_blocks_nest() -> None:
    with forked(1):
        draws()
        expected = draws()
    with forked(1):
        draws()
        with forked(2):
            draws()
        assert draws() == expected


@pytest.mark.parametrize("seed", [-1, 2**32 + 5, derive(0, "any")])
def test_forked_takes_every_seed_that_derive_gives_and_negative_ones(seed: int) -> None:
    with forked(seed):
        one = draws()
    with forked(seed):
        assert draws() == one
