"""Boundaries on a plane by random lines: against the exact slice, and where the length is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.probes.boundary_density import SQUARE, BoundaryDensity, boundary_density
from netopsy.probes.plane import Plane, plane_through
from netopsy.probes.region_slice import region_slice

PLANE = Plane(
    torch.zeros(2, dtype=torch.float64),
    torch.tensor([1.0, 0.0], dtype=torch.float64),
    torch.tensor([0.0, 1.0], dtype=torch.float64),
    torch.tensor([[0.0, 0.0], [0.0, 0.8]], dtype=torch.float64),
)


def one_line() -> nn.Module:
    """Its single boundary is u = 0."""
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        net[0].bias.zero_()
    return net


def deep() -> tuple[nn.Module, Plane]:
    with forked(0):
        net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU6(), nn.Linear(10, 3))
        net = net.double()
        return net, plane_through(*torch.randn(3, 6, dtype=torch.float64) * 2)


@pytest.mark.usefixtures("unchecked")  # hundreds of lines: checking types is most of the work, and others do it
def test_one_line_through_square_and_discs() -> None:
    """Length 2 in an area of 4; a diameter in a disc, 2 r / (pi r²)."""
    found = boundary_density(one_line(), PLANE, lines=150, radius=0.1)
    table = found.density().set_index("place")
    for place, exact in ((SQUARE, 0.5), (0, 20 / np.pi), (1, 20 / np.pi)):
        row = table.loc[place]
        assert 0 < row.standard_error < 0.15 * exact
        assert abs(row.density - exact) < 4 * row.standard_error
    assert found.frame.crossings.max() == 1
    assert found.frame[found.frame.place == SQUARE].crossings.mean() < 1


@pytest.mark.usefixtures("unchecked")
def test_random_lines_agree_with_the_exact_slice() -> None:
    net, plane = deep()
    exact = region_slice(net, plane, layer="all")
    found = boundary_density(net, plane, lines=120, layer="all", radius=0.2)
    table = found.density().set_index("place")
    near = exact.relative_density(radius=0.2)
    for place, wanted in ((SQUARE, exact.density), *enumerate(near * exact.density)):
        assert abs(table.density[place] - wanted) < 4 * table.standard_error[place]
    assert table.standard_error[SQUARE] < 0.15 * exact.density
    np.testing.assert_allclose(found.relative(), table.density[[0, 1, 2]] / table.density[SQUARE])


def test_lines_stay_within_their_places() -> None:
    found = boundary_density(one_line(), PLANE, lines=50, radius=0.1).frame
    assert found.groupby("place").size().tolist() == [50, 50, 50]
    assert found[found.place == SQUARE].length.max() <= 8**0.5
    assert found[found.place >= 0].length.max() <= 0.2


def test_only_the_layer_asked_for_counts() -> None:
    net, plane = deep()
    counts = [boundary_density(net, plane, lines=5, layer=layer).frame.crossings.sum() for layer in ("1", "3", "all")]
    assert counts[0] + counts[1] == counts[2]
    assert counts[1] == boundary_density(net, plane, lines=5).frame.crossings.sum()


def test_the_seed_decides_the_lines() -> None:
    net, plane = deep()
    runs = [boundary_density(net, plane, lines=3, seed=seed).frame for seed in (1, 1, 2)]
    assert runs[0].equals(runs[1])
    assert not runs[0].length.equals(runs[2].length)


def test_it_is_saved_and_printed(tmp_path: Path) -> None:
    found = boundary_density(one_line(), PLANE, lines=4)
    again = BoundaryDensity.load(found.save(tmp_path / "result"))
    assert again.to_frame().equals(found.to_frame())
    assert "square" in str(again)
    assert "anchor 1" in str(again)


def test_no_boundary_has_no_ratio() -> None:
    net = one_line()
    with torch.no_grad():
        net[0].bias.fill_(9.0)
    assert np.isnan(boundary_density(net, PLANE, lines=3).relative()).all()


def test_discs_stay_in_the_square() -> None:
    with pytest.raises(NetopsyError, match=r"radius: expected discs within the square; 0\.3 around"):
        boundary_density(one_line(), PLANE, radius=0.3)


@pytest.mark.parametrize("lines", [0, 1])
def test_a_density_needs_two_lines(lines: int) -> None:
    with pytest.raises(NetopsyError, match="lines: expected an integer >= 2; got"):
        boundary_density(one_line(), PLANE, lines=lines)


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(NetopsyError, match="layer: expected 'all', None or the name of a piecewise linear"):
        boundary_density(one_line(), PLANE, layer="7")
