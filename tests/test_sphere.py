"""Examples on the sphere of radius √d."""

from __future__ import annotations

import pytest
import torch

from netopsy._checks import NetopsyError
from netopsy.data.dataset import Dataset
from netopsy.data.sphere import on_sphere, onto_sphere


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 3, 4, generator=torch.Generator().manual_seed(0))


def test_examples_have_mean_0_and_the_sphere_s_radius() -> None:
    rows = onto_sphere(images().double()).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(rows.norm(dim=1), torch.full((6,), 12**0.5, dtype=torch.float64))


def test_scale_and_offset_of_an_example_do_not_count() -> None:
    torch.testing.assert_close(onto_sphere(3 * images() + 5), onto_sphere(images()), rtol=1e-5, atol=1e-5)


def test_both_splits_of_a_data_set() -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    data = Dataset(name="d", train=(images(), labels), test=(images()[:2], labels[:2]), classes=1, mean=(0.5,))
    found = on_sphere(data)
    assert torch.equal(found.train[0], onto_sphere(images()))
    assert torch.equal(found.test[0], onto_sphere(images()[:2]))
    assert (found.mean, found.std) == ((0.0,), (1.0,))


def test_a_constant_example_is_refused() -> None:
    given = images()
    given[4] = 2.0
    with pytest.raises(
        NetopsyError, match=r"expected examples whose numbers differ; 1 are constant, the first is .* 4"
    ):
        onto_sphere(given)
