"""Exact transitions along paths: closed forms, dense samples, high precision, invariants, what is refused."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from pathlib import Path as FilePath

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.affine import affine_network
from netopsy.engine.affine_pooling import window_indices
from netopsy.probes.paths import ANCHORS, Path, ellipse_through, polygon, random_ellipse, segment, translations
from netopsy.probes.transitions import curvature, transitions
from netopsy.probes.transitions_result import Transitions
from tests.oracles import transitions as oracle


def layer(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(weight), bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        if bias is not None:
            made.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return made


def unit(weight: list[float], bias: float, activation: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(layer([weight], [bias]), activation or nn.ReLU())


LINE = segment(torch.tensor([-1.0]), torch.tensor([1.0]))
CIRCLE = Path(coefficients=torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]).double(), closed=True)


def test_one_unit_on_a_segment_crosses_where_it_is_zero() -> None:
    found = transitions(unit([1.0], -0.5), LINE).to_frame()
    assert found[["layer", "unit", "before", "after"]].to_numpy().tolist() == [["1", 0, 0, 1]]
    assert found.t.tolist() == pytest.approx([0.75], abs=1e-15)


@pytest.mark.parametrize(("bias", "angles"), [(2.0, []), (-2.0, []), (0.5, [120, 240]), (0.0, [90, 270])])
def test_a_unit_has_no_or_two_roots_on_an_ellipse(bias: float, angles: list[float]) -> None:
    found = transitions(unit([1.0, 0.0], bias), CIRCLE).to_frame()
    assert (360 * found.t).tolist() == pytest.approx(angles, abs=1e-12)
    assert found.after.tolist() == [0, 1][: len(angles)]


@pytest.mark.parametrize("weight", [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
@pytest.mark.parametrize("bias", [-1.0, 1.0])
def test_what_touches_its_threshold_does_not_cross(weight: list[float], bias: float) -> None:
    assert transitions(unit(weight, bias), CIRCLE).total == 0


def test_a_dip_inside_one_arc_is_two_crossings() -> None:
    turned = [math.cos(1.0), math.sin(1.0)]
    found = transitions(unit(turned, -1 + 1e-6), CIRCLE).to_frame()
    w = math.acos(1 - 1e-6)
    assert (2 * math.pi * found.t).tolist() == pytest.approx([1 - w, 1 + w], abs=1e-8)


def test_two_thresholds_and_their_pieces() -> None:
    found = transitions(unit([4.0], 0.0, nn.Hardtanh()), LINE).to_frame()
    assert found[["before", "after"]].to_numpy().tolist() == [[0, 1], [1, 2]]
    assert found.t.tolist() == pytest.approx([0.375, 0.625])


def test_triangle_waves_double_with_each_layer() -> None:
    tent: list[nn.Module] = []
    for _ in range(6):
        tent += [layer([[2.0], [4.0]], [0.0, -2.0]), nn.ReLU(), layer([[1.0, -1.0]])]
    result = transitions(nn.Sequential(*tent), segment(torch.tensor([0.0]), torch.tensor([1.0])), function=True)
    # the slope 2 unit only touches 0; the other passes 1/2 once on each of the 2^depth monotone stretches
    assert list(result.per_layer.values()) == [2**depth for depth in range(6)]
    assert result.functions is not None
    slopes = result.functions[:, 1, 0]
    assert slopes.abs().tolist() == [64.0] * 64
    assert (slopes[1:] * slopes[:-1] < 0).all()


def test_several_units_at_one_place_all_count() -> None:
    net = nn.Sequential(layer([[1.0], [1.0], [-2.0]], [-0.25, -0.25, 0.5]), nn.ReLU(), layer([[1.0, 1.0, 1.0]]))
    result = transitions(net, LINE)
    assert (result.total, result.regions, result.distinct_regions) == (3, 2, 2)


def test_a_threshold_at_a_corner_is_passed_once_or_only_touched() -> None:
    corner = torch.tensor([[-1.0], [0.0], [1.0], [0.0]])
    assert transitions(unit([1.0], 0.0), polygon(corner)).total == 2
    assert transitions(unit([1.0], 0.0), polygon(corner[[0, 1]])).total == 0
    assert transitions(unit([1.0], 0.0), polygon(corner[[2, 1]])).total == 0
    assert transitions(unit([1.0], 0.0), polygon(corner[[0, 1, 2]], closed=False)).total == 1


def test_a_unit_fed_by_one_alone_passes_where_that_one_does() -> None:
    for sign, count in ((1.0, 2), (-1.0, 0)):  # relu(a relu(u)): for a < 0 it only touches
        net = nn.Sequential(layer([[0.3, 0.7]]), nn.ReLU(), layer([[sign * 0.37]]), nn.ReLU())
        assert list(transitions(net, CIRCLE).per_layer.values()) == [2, count]


ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Hardsigmoid)


class Residual(nn.Module):
    def __init__(self, *acts: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(10, 5), nn.Linear(5, 2)
        self.f, self.g, self.h = acts

    def forward(self, x: Tensor) -> Tensor:
        x = self.f(self.a(x))
        x = x + 0.5 * self.g(self.b(x))
        return self.head(self.h(self.c(torch.cat([x, 1 - x], 1))))


@cache
def structure(kind: int, bias: bool) -> nn.Module:
    """One network of a kind, with several activations: exports take longest, and other weights need no other one."""
    if kind == 0:
        f, g, h = (act() for act in ACTIVATIONS[int(bias) :: 2])
        first = [nn.Linear(4, 6, bias), f, nn.Linear(6, 5, bias), g]
        return nn.Sequential(*first, nn.Linear(5, 4, bias), h, nn.Linear(4, 3, bias))
    f, g, h = (act() for act in (*ACTIVATIONS[kind % 3 :: 3], ACTIVATIONS[kind]))
    if kind == 1:
        return nn.Sequential(nn.Linear(4, 6, bias), nn.BatchNorm1d(6), f, nn.Linear(6, 5), nn.BatchNorm1d(5), g)
    if kind == 2:
        return Residual(f, g, h)
    pool = nn.MaxPool2d(3, 2, 1) if kind == 3 else nn.AvgPool2d(2)
    conv = [nn.Conv2d(1, 2, 3, padding=1, bias=bias), nn.BatchNorm2d(2), f, pool]
    return nn.Sequential(*conv, nn.Conv2d(2, 2, 2), g, nn.Flatten(), nn.Linear(2, 2))


def network(kind: int, seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    net = structure(kind, seed % 2 == 1 if kind == 0 else kind != 3).eval()
    with forked(seed):
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
                module.weight.data *= 3
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for value in (module.running_mean, module.running_var, module.weight, module.bias):
                    assert value is not None
                    value.data.copy_(torch.rand_like(value) + 0.2)
    return net, ((1, 4, 4) if kind >= 3 else (4,))


def some_path(shape: tuple[int, ...], seed: int) -> Path:
    with forked(seed + 1000):
        a, b, c = torch.randn(3, *shape) * 2
    return [segment(a, b), polygon([a, b, c]), ellipse_through(a, b, c), random_ellipse(shape, seed)][seed % 4]


def gap(found: Transitions) -> float:
    t = np.unique(found.crossings.t)
    return float(np.diff(t).min(initial=1.0)) if len(t) > 1 else 1.0


@pytest.mark.parametrize("kind", range(5))
def test_the_count_is_that_of_dense_samples_where_they_suffice(kind: int, request: pytest.FixtureRequest) -> None:
    settled, k = 0, 4000
    for seed in range(40):
        if seed == 4:  # each path has been checked once, and checking types is most of the work
            request.getfixturevalue("unchecked")
        net, shape = network(kind, seed)
        path = some_path(shape, seed)
        found = transitions(net, path)
        t = torch.arange(k, dtype=torch.float64) / (k if path.closed else k - 1)
        expected = oracle.sampled(copy.deepcopy(net).double(), path.at(t), path.closed)
        assert found.total >= expected, (kind, seed)
        if gap(found) > 2 / k:
            settled += 1
            assert found.total == expected, (kind, seed)
    assert settled >= 8


@pytest.mark.parametrize("seed", range(3))
def test_the_count_is_that_of_forty_digits(seed: int) -> None:
    with forked(seed):
        net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    path = random_ellipse((2,), seed)
    center, u, v = path.coefficients[0].tolist()

    def at(t: mpmath.mpf) -> list[mpmath.mpf]:
        angle = 2 * mpmath.pi * t
        return [c + mpmath.cos(angle) * a + mpmath.sin(angle) * b for c, a, b in zip(center, u, v, strict=True)]

    linear = [module for module in net if isinstance(module, nn.Linear)][:2]
    weights = [module.weight.detach().numpy() for module in linear]
    biases = [module.bias.detach().numpy() for module in linear]
    assert transitions(net, path).total == oracle.isolated(weights, biases, at, 400)


def relu_net() -> tuple[nn.Sequential, Path]:
    with forked(0):
        net = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU6(), nn.Linear(30, 3))
        return net, ellipse_through(*torch.randn(3, 5) * 3)


def test_stretches_change_nothing() -> None:
    net, path = relu_net()
    whole = transitions(net, path)
    parts = transitions(net, path, memory=2000)
    assert whole.total > 60
    assert whole.per_layer == parts.per_layer
    columns = ["layer", "unit", "before", "after"]
    assert whole.crossings[columns].equals(parts.crossings[columns])
    assert np.abs(whole.crossings.t - parts.crossings.t).max() < 1e-12
    assert len(whole.cells) == len(parts.cells)


def test_the_start_and_the_direction_of_a_closed_path_change_nothing() -> None:
    net, _ = relu_net()
    with forked(3):
        corners = torch.randn(5, 5) * 3
    expected = transitions(net, polygon(corners))
    for other in (corners.roll(2, 0), corners.flip(0)):
        found = transitions(net, polygon(other))
        assert found.per_layer == expected.per_layer
        assert (found.regions, found.distinct_regions) == (expected.regions, expected.distinct_regions)


def test_the_order_and_the_scale_of_units_change_nothing() -> None:
    net, path = relu_net()
    expected = transitions(net, path)
    with forked(1), torch.no_grad():
        order, scale = torch.randperm(30), torch.rand(30) + 0.5
        net[0].weight.copy_((net[0].weight * scale[:, None])[order])
        net[0].bias.copy_((net[0].bias * scale)[order])
        net[2].weight.copy_((net[2].weight / scale)[:, order])
    assert transitions(net, path).per_layer == expected.per_layer


def test_the_affine_functions_are_the_network() -> None:
    net, shape = network(3, 5)
    path = some_path(shape, 5)
    found = transitions(net, path, function=True)
    assert found.functions is not None
    assert found.comparisons > 0
    assert found.cells.start.iloc[0] == 0
    assert found.cells.end.iloc[-1] == 1
    assert np.allclose(found.cells.start[1:], found.cells.end[:-1], atol=1e-15)
    middle = torch.tensor(((found.cells.start + found.cells.end) / 2).to_numpy())
    local = middle * path.pieces - torch.tensor(found.cells.piece.to_numpy())
    mine = found.functions[:, 0] + local[:, None] * found.functions[:, 1]
    assert torch.allclose(mine, copy.deepcopy(net).double()(path.at(middle)), atol=1e-9)


def test_samples_count_what_the_oracle_counts() -> None:
    for act in (nn.Tanh, nn.GELU, nn.ReLU6):
        with forked(2):
            net = nn.Sequential(nn.Linear(4, 8), act(), nn.Linear(8, 8), act(), nn.Linear(8, 2))
        path = random_ellipse((4,), 1)
        found = transitions(net, path, method="sampled", points=5000)
        t = torch.arange(5000, dtype=torch.float64) / 5000
        assert found.total == oracle.sampled(copy.deepcopy(net).double(), path.at(t), True)
        assert found.total == sum((found.crossings.after - found.crossings.before).abs())
    exact = transitions(net, path)
    assert exact.per_layer == found.per_layer
    assert np.abs(exact.crossings.t - found.crossings.t).max() <= 1 / 5000


def test_points_are_doubled_until_the_count_stays() -> None:
    with forked(2):
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    found = transitions(net, random_ellipse((4,), 1), method="sampled", rtol=0.0, points=2**14)
    assert found.provenance["converged"] is True
    assert found.provenance["samples"] == [1024, 2048, 4096]
    capped = transitions(net, random_ellipse((4,), 1), method="sampled", rtol=0.0, points=1024)
    assert capped.provenance["converged"] is False
    assert "still changes" in str(capped)


def test_curvature_sums_the_changes_of_slope() -> None:
    net = nn.Sequential(layer([[1.0], [2.0]], [-0.5, 0.5]), nn.ReLU(), layer([[3.0, 1.0]]))
    assert curvature(net, LINE, points=101) == pytest.approx((2 + 3) / 2)
    there_and_back = polygon(torch.tensor([[-1.0], [1.0]]))
    assert curvature(net, there_and_back, points=100, batch_size=7) == pytest.approx(5)


def test_paths_go_where_they_should() -> None:
    with forked(0):
        a, b, c = points = torch.randn(3, 1, 4, 4).double()
    assert torch.allclose(ellipse_through(a, b, c).at(ANCHORS), points)
    assert torch.allclose(ellipse_through(a, b, c).at(torch.arange(9) / 9).mean(0), points.mean(0))
    assert torch.allclose(translations(a).at(torch.arange(4) / 4)[1], a.roll(1, -1))
    assert torch.allclose(translations(a).at([0.0, 1.0]), torch.stack([a, a]))
    assert torch.equal(segment(a, b).at([0.0, 1.0]), torch.stack([a, b]))
    assert random_ellipse((3,), 1).pieces == 1
    assert not torch.equal(random_ellipse((3,), 1).coefficients, random_ellipse((3,), 2).coefficients)


def test_density_adds_up_and_results_are_kept(tmp_path: FilePath) -> None:
    net, path = relu_net()
    found = transitions(net, path)
    counts, edges = found.density(10)
    assert counts.sum() / 10 == found.total
    assert len(edges) == 11
    loaded = Transitions.load(found.save(tmp_path / "kept"))
    assert loaded.to_frame().equals(found.to_frame())
    assert str(loaded) == str(found)
    assert loaded.regions == found.regions == len(np.unique(found.crossings.t))
    assert loaded.functions is None


def test_functions_are_kept_to_the_last_bit(tmp_path: FilePath) -> None:
    net, path = relu_net()
    found = transitions(net, path, function=True)
    folder = found.save(tmp_path / "kept")
    loaded = Transitions.load(folder)
    assert found.functions is not None
    assert loaded.functions is not None
    assert loaded.functions.dtype == torch.float64
    assert torch.equal(loaded.functions, found.functions)
    assert loaded.cells.equals(found.cells)
    assert loaded.provenance == found.provenance
    transitions(net, path).save(folder, overwrite=True)
    assert Transitions.load(folder).functions is None


def test_functions_of_other_cells_are_refused(tmp_path: FilePath) -> None:
    net, path = relu_net()
    found = transitions(net, path, function=True)
    assert found.functions is not None
    folder = replace(found, functions=found.functions[:-1].clone()).save(tmp_path / "kept")
    with pytest.raises(
        NetopsyError, match=rf"functions of {len(found.cells)} cells .* it has {len(found.cells) - 1}"
    ):
        Transitions.load(folder)
    (folder / "functions.safetensors").unlink()
    with pytest.raises(NetopsyError, match=r"functions\.safetensors: no such file"):
        Transitions.load(folder)


def test_modules_called_twice_and_functions_have_names_of_their_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(2, 3), nn.Linear(3, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.act(self.b(self.act(self.a(x)))) - 0.1)

    assert list(transitions(Twice(), CIRCLE).per_layer) == ["act, call 0", "act, call 1", "relu_0"]


def test_the_model_is_left_as_it_was() -> None:
    net, shape = network(3, 0)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    transitions(net, some_path(shape, 0))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("ceil", [False, True])
def test_windows_see_what_max_pooling_sees(ceil: bool) -> None:
    x = torch.randn(2, 3, 7, 6)
    places = window_indices([7, 6], [3, 2], [2, 2], [1, 0], [2, 1], ceil)
    expected = nn.functional.max_pool2d(x, (3, 2), 2, (1, 0), (2, 1), ceil_mode=ceil)
    assert torch.equal(x.flatten(2)[..., places].amax(2), expected)


def test_what_cannot_be_counted_is_refused(unchecked: None) -> None:
    smooth = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    with pytest.raises(NetopsyError, match=r"got tanh in '1'; count by samples"):
        transitions(smooth, CIRCLE)
    with pytest.raises(NetopsyError, match="method: expected one of 'exact', 'sampled'"):
        transitions(smooth, CIRCLE, method="guess")  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="function: expected False"):
        transitions(smooth, CIRCLE, method="sampled", function=True)
    with pytest.raises(NetopsyError, match="path: expected a netopsy path"):
        transitions(smooth, torch.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match="it has none that are known"):
        transitions(nn.Linear(2, 3), CIRCLE, method="sampled")
    with pytest.raises(NetopsyError, match="one input that the logits depend on; got 0"):
        transitions(Constant(), CIRCLE)
    with pytest.raises(NetopsyError, match="mixes examples"):
        affine_network(Mixing(), torch.randn(3, 2))
    with pytest.raises(NetopsyError, match=r"points: expected one shape"):
        segment(torch.zeros(2), torch.zeros(3))
    with pytest.raises(NetopsyError, match="points: expected finite values"):
        segment(torch.zeros(2), torch.full((2,), math.nan))
    with pytest.raises(NetopsyError, match=r"points: expected two or more"):
        polygon([torch.zeros(2)])
    with pytest.raises(NetopsyError, match=r"image: expected"):
        translations(torch.zeros(4))
    with pytest.raises(NetopsyError, match=r"t: expected numbers in \[0, 1\]"):
        CIRCLE.at([1.5])


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.value


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)
