import copy
import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._typing import FloatArray
from netopsy.probes.plane import ANGLES, Plane, plane_through
from netopsy.probes.region_slice import region_slice
from netopsy.probes.region_slice_result import RegionSlice, length_within
from tests.oracles.arrangement import clip, crossings, regions
from tests.oracles.polygons import code, holds

ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid]
LINE = [0.25, 1.0, 0.0]


def flat(inputs: int = 2) -> Plane:
    """u and v are the first two of the inputs."""
    axes = torch.eye(inputs, dtype=torch.float64)[:2]
    return Plane(torch.zeros(inputs, dtype=torch.float64), axes[0], axes[1], torch.zeros(0, 2))


def one_layer(lines: FloatArray, activation: nn.Module | None = None) -> nn.Sequential:
    """A unit for each line a + b u + c v."""
    first = nn.Linear(2, len(lines)).double()
    with torch.no_grad():
        first.weight.copy_(torch.as_tensor(lines[:, 1:]))
        first.bias.copy_(torch.as_tensor(lines[:, 0]))
    return nn.Sequential(first, activation or nn.ReLU(), nn.Linear(len(lines), 2)).double()


@functools.cache  # a model is exported once
def deep(activation: type[nn.Module], *, seed: int = 0, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    gain = 6.0 if activation is nn.Hardsigmoid else 2.5
    sizes = [3, width, width, width]
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        linear = nn.Linear(before, after)
        with torch.no_grad():
            linear.weight *= gain
        modules += [linear, activation()]
    return nn.Sequential(*modules, nn.Linear(width, 4)).double()


def ends(result: RegionSlice) -> FloatArray:
    return result.segments[["u0", "v0", "u1", "v1"]].to_numpy()


def lengths(result: RegionSlice, layer: str | None = None) -> dict[int, float]:
    """Length of each unit's boundary."""
    frame = result.segments if layer is None else result.segments[result.segments.layer == layer]
    return np.hypot(frame.u1 - frame.u0, frame.v1 - frame.v0).groupby(frame.unit).sum().to_dict()


def same(one: RegionSlice, other: RegionSlice) -> None:
    assert one.regions == other.regions
    assert np.allclose(np.sort(one.areas), np.sort(other.areas), atol=1e-10)
    assert len(one.segments) == len(other.segments)
    assert one.density == pytest.approx(other.density, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_one_layer_is_the_arrangement_of_its_lines(seed: int) -> None:
    lines = np.random.default_rng(seed).normal(size=(12, 3))
    result = region_slice(one_layer(lines), flat())
    assert result.regions == regions(lines)
    found = {tuple(np.round(corner, 9)) for polygon in result.polygons for corner in polygon}
    borders = [np.round(end, 9) for line in lines if (part := clip(*line)) for end in part]
    inside = [np.round(point, 9) for point in crossings(lines)]
    square = [(u, v) for u in (-1, 1) for v in (-1, 1)]
    assert found == {tuple(p) for p in (*borders, *inside, *square)}
    own = lengths(result)
    for unit, line in enumerate(lines):
        part = clip(*line)
        expected = 0.0 if part is None else math.dist(*part)
        assert own.get(unit, 0.0) == pytest.approx(expected, abs=1e-12)


def test_two_kinks_of_relu6_are_two_parallel_lines() -> None:
    result = region_slice(one_layer(np.array([[3.0, 12.0, 0.0]]), nn.ReLU6()), flat())  # 0 at -1/4, 6 at 1/4
    assert result.regions == 3
    assert sorted(result.areas) == pytest.approx([1.0, 1.5, 1.5])
    assert np.sort(ends(result)[:, 0]) == pytest.approx([-0.25, 0.25])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_polygon_has_the_models_own_code(activation: type[nn.Module]) -> None:
    model = deep(activation)
    plane = plane_through(*torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).mul(2))
    result = region_slice(model, plane, layer="all")
    assert result.regions > 10
    assert result.areas.sum() == pytest.approx(4, abs=1e-9)
    assert (result.areas > 0).all()
    centers = np.array([polygon.mean(0) for polygon in result.polygons])
    codes = [code(model, x) for x in plane.at(torch.from_numpy(centers))]
    assert len(set(codes)) == result.regions
    grid = np.stack(np.meshgrid(*[np.linspace(-0.97, 0.99, 6)] * 2), -1).reshape(-1, 2)
    for point, own in zip(grid, (code(model, x) for x in plane.at(torch.from_numpy(grid))), strict=True):
        around = [i for i, polygon in enumerate(result.polygons) if holds(polygon, point, -1e-9)]
        assert own in [codes[i] for i in around]
        assert len(around) == 1 or not any(holds(result.polygons[i], point, 1e-9) for i in around)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_boundaries_are_where_the_code_of_the_unit_changes(activation: type[nn.Module]) -> None:
    model, plane = deep(activation), flat(3)
    result = region_slice(model, plane, layer="all")
    step = 1e-6
    first = {"1": 0, "3": 5, "5": 10}
    for row in result.segments[::5].itertuples():
        along = np.array([row.u1 - row.u0, row.v1 - row.v0])
        size = np.hypot(*along)
        if size < 1e-3:
            continue
        middle, normal = np.array([row.u0 + row.u1, row.v0 + row.v1]) / 2, along[::-1] * (-1, 1) / size
        both = plane.at(torch.from_numpy(np.stack([middle - step * normal, middle + step * normal])))
        one, other = (code(model, x) for x in both)
        at = first[row.layer] + row.unit
        assert abs(one[at] - other[at]) == 1


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = x + torch.relu(self.again(x))
        return self.head(self.pool(x).flatten(1))


def test_convolutions_pooling_and_sums_of_branches() -> None:
    torch.manual_seed(0)
    model = Residual().double()
    plane = plane_through(*torch.randn(3, 1, 4, 4))
    result = region_slice(model, plane, layer="all", classes=True)
    assert result.areas.sum() == pytest.approx(4, abs=1e-9)
    middles = np.array([polygon.mean(0) for polygon in result.polygons])
    with torch.no_grad():
        logits = model.eval()(plane.at(torch.from_numpy(middles)))
    assert result.polygons_frame["class"].tolist() == logits.argmax(1).tolist()


@pytest.mark.parametrize("memory", [1, 20_000])
def test_running_in_parts_changes_nothing(memory: int) -> None:
    model, plane = deep(nn.ReLU6), flat(3)
    same(region_slice(model, plane, layer="all", memory=memory), region_slice(model, plane, layer="all"))


@pytest.mark.parametrize("memory", [1, 2**28])
def test_a_boundary_on_another_layers_boundary_is_its_own(memory: int) -> None:
    """The second layer's unit is 0 where the first one's is off: both change on one line, which parts may share."""
    model = one_layer(np.array([LINE, [0.1, 0.2, 1.0]]))
    second = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        second.weight.copy_(torch.eye(2))
    model = nn.Sequential(model[0], nn.ReLU(), second, nn.ReLU(), nn.Linear(2, 2)).double()
    result = region_slice(model, flat(), layer="all", memory=memory)
    assert result.regions == 4
    assert lengths(result, "1") == pytest.approx(lengths(result, "3"))
    assert lengths(result, "3")[0] == pytest.approx(2)


def test_units_that_coincide_have_a_boundary_each() -> None:
    result = region_slice(one_layer(np.array([LINE, [0.5, 2.0, 0.0], [-0.25, -1.0, 0.0]])), flat())
    assert result.regions == 2
    assert lengths(result) == pytest.approx({0: 2.0, 1: 2.0, 2: 2.0})


def test_lines_through_one_point_make_no_slivers() -> None:
    lines = np.array([[0.0, math.cos(a), math.sin(a)] for a in 0.1 + np.arange(9) * math.pi / 9])
    result = region_slice(one_layer(lines), flat())
    assert result.regions == 18
    assert result.areas.min() > 0.1
    lines = lines + np.outer(-0.3 * lines[:, 1] + 0.2 * lines[:, 2], [1, 0, 0])  # rounding moves each a little
    assert region_slice(one_layer(lines), flat()).regions == 18


def test_a_line_along_the_border_or_through_corners_cuts_nothing_twice() -> None:
    assert region_slice(one_layer(np.array([[1.0, 1.0, 0.0]])), flat()).regions == 1
    diagonal = region_slice(one_layer(np.array([[0.0, 1.0, 1.0]])), flat())
    assert diagonal.regions == 2
    assert lengths(diagonal)[0] == pytest.approx(math.sqrt(8))


def test_order_of_units_changes_nothing() -> None:
    model, plane = deep(nn.ReLU), flat(3)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    permuted = copy.deepcopy(model)
    with torch.no_grad():
        permuted[2].weight.copy_(model[2].weight[order])
        permuted[2].bias.copy_(model[2].bias[order])
        permuted[4].weight.copy_(model[4].weight[:, order])
    same(region_slice(permuted, plane, layer="all"), region_slice(model, plane, layer="all"))


def test_without_kinks_in_the_square_there_is_one_region() -> None:
    result = region_slice(one_layer(np.array([[5.0, 1.0, 1.0], [-5.0, 1.0, 1.0]])), flat())
    assert (result.regions, len(result.segments), result.density) == (1, 0, 0.0)
    assert result.areas == pytest.approx([4.0])
    assert np.isnan(result.relative_density(np.zeros((1, 2)))).all()
    linear = region_slice(nn.Linear(2, 3).double(), flat())
    assert (linear.regions, linear.provenance["layers"]) == (1, [])
    assert "no layer" in str(linear)
    axes = flat()
    border = Plane(axes.center, axes.across, axes.up, torch.ones(1, 2))
    assert "anchors" not in str(region_slice(nn.Linear(2, 3).double(), border))


def test_classes_cut_a_linear_model_into_sectors() -> None:
    """Logits 0, u, 2v: of a 1/4 where both are negative, and of the rest what the line u = 2v leaves."""
    model = nn.Linear(2, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    result = region_slice(model, flat(), classes=True)
    frame = result.polygons_frame
    assert frame["class"].tolist() == [0, 1, 2]
    assert frame.area.tolist() == pytest.approx([1.0, 1.25, 1.75])
    assert (result.regions, result.areas.tolist()) == (1, pytest.approx([4.0]))


def test_a_class_that_is_outdone_leaves_no_cut() -> None:
    model = nn.Linear(2, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    result = region_slice(model, flat(), classes=True)
    assert result.polygons_frame["class"].tolist() == [2]
    assert len(result.polygons[0]) >= 4


@pytest.mark.parametrize("memory", [1, 2**28])
def test_each_part_has_the_class_of_the_model(memory: int) -> None:
    model, plane = deep(nn.ReLU), flat(3)
    result = region_slice(model, plane, classes=True, memory=memory)
    plain = region_slice(model, plane)
    assert result.regions == plain.regions < len(result.polygons)
    assert np.allclose(np.sort(result.areas), np.sort(plain.areas), atol=1e-10)
    middles = torch.from_numpy(np.array([polygon.mean(0) for polygon in result.polygons]))
    with torch.no_grad():
        assert result.polygons_frame["class"].tolist() == model(plane.at(middles)).argmax(1).tolist()


def test_density_near_points_of_one_line() -> None:
    result = region_slice(one_layer(np.array([[0.0, 0.0, 1.0]])), flat())
    assert result.density == pytest.approx(2 / 4)
    on, off = result.relative_density(np.array([[0.3, 0.0], [0.0, 0.5]]), radius=0.2)
    assert on == pytest.approx((2 * 0.2 / (math.pi * 0.2**2)) / 0.5)
    assert off == 0


def test_length_within_a_disc() -> None:
    rows = np.array(
        [[-2, 0, 2, 0], [0, 0, 3, 0], [0.2, 0, 0.3, 0], [1.5, -1, 1.5, 1], [-2, 0.6, 2, 0.6], [0, 0, 0, 0]]
    )
    found = [length_within(np.array([row], float), np.zeros(2), 1.0) for row in rows]
    assert found == pytest.approx([2, 1, 0.1, 0, 1.6, 0])


def test_three_points_form_an_equilateral_triangle() -> None:
    points = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    plane = plane_through(*points)
    expected = [(0.8 * math.cos(a), 0.8 * math.sin(a)) for a in ANGLES]
    assert torch.allclose(plane.anchors, torch.tensor(expected, dtype=torch.float64))
    assert torch.allclose(plane.at(plane.anchors), points.double(), atol=1e-12)
    assert torch.allclose(plane.at(torch.zeros(1, 2))[0], points.double().mean(0), atol=1e-12)
    middle = plane.at((plane.anchors[:1] + plane.anchors[1:2]) / 2)
    assert torch.allclose(middle[0], (points[0] + points[1]).double() / 2, atol=1e-12)


def test_planes_refuse_points_that_make_none() -> None:
    a, b, c = torch.eye(3)
    with pytest.raises(NetopsyError, match="expected three inputs of one shape"):
        plane_through(a, b, c[:2])
    with pytest.raises(NetopsyError, match=r"b: expected finite .*; got NaN"):
        plane_through(a, b * math.nan, c)
    with pytest.raises(NetopsyError, match=r"c: expected finite .*; got torch.int64"):
        plane_through(a, b, c.long())
    with pytest.raises(NetopsyError, match="they lie on one line"):
        plane_through(a, b, (a + b) / 2)
    with pytest.raises(NetopsyError, match="they lie on one line"):
        plane_through(a, a, a)


def test_what_cannot_be_sliced_is_refused() -> None:
    model = deep(nn.ReLU)
    with pytest.raises(NetopsyError, match=r"layer: expected 'all', None or .*1, 3, 5.*; got '2'"):
        region_slice(model, flat(3), layer="2")
    with pytest.raises(NetopsyError, match="expected at most 10 polygons"):
        region_slice(model, flat(3), limit=10)
    with pytest.raises(NetopsyError, match="limit: expected an integer >= 1"):
        region_slice(model, flat(3), limit=0)
    with pytest.raises(NetopsyError, match="memory: expected an integer >= 1"):
        region_slice(model, flat(3), memory=0)
    with pytest.raises(NetopsyError, match="gelu"):
        region_slice(deep(nn.GELU), flat(3))
    result = region_slice(model, flat(3))
    with pytest.raises(NetopsyError, match="expected a slice with classes"):
        result.plot(color="class")
    with pytest.raises(NetopsyError, match=r"points: expected \(m, 2\) in the square, 0.1 or more from its border"):
        result.relative_density(np.array([[0.95, 0.0]]))
    with pytest.raises(NetopsyError, match="radius: expected a number"):
        result.relative_density(np.zeros((1, 2)), radius=0.0)


def test_a_color_that_is_not_known_is_refused(unchecked: None) -> None:
    with pytest.raises(NetopsyError, match="color: expected one of 'region', 'class'"):
        region_slice(deep(nn.ReLU), flat(3)).plot(color="depth")  # type: ignore[arg-type]


def test_the_model_is_left_as_it_was() -> None:
    model = copy.deepcopy(deep(nn.ReLU)).float().train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    result = region_slice(model, plane_through(*torch.randn(3, 3, generator=torch.Generator().manual_seed(0))))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert result.provenance["layers"] == ["5"]


def test_a_saved_slice_comes_back(tmp_path: Path) -> None:
    result = region_slice(deep(nn.ReLU), plane_through(*torch.eye(3)), layer="all", classes=True)
    loaded = RegionSlice.load(result.save(tmp_path / "slice"))
    for name in ("segments", "polygons_frame", "vertices"):
        assert getattr(loaded, name).equals(getattr(result, name))
    assert loaded.provenance == result.provenance
    assert str(loaded) == str(result)
    assert np.array_equal(loaded.anchors, result.anchors)
    assert loaded.to_frame().columns.tolist() == ["layer", "unit", "u0", "v0", "u1", "v1"]
    assert f"{result.regions:,} linear regions" in str(result)
