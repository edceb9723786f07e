"""Complexity measures: closed forms, definitions written out, invariants, and rankings of networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.models.resnet import resnet
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.probes.comparing import compare
from netopsy.probes.complexity import MEASURES, complexity
from netopsy.probes.complexity_result import ComplexityResult
from netopsy.probes.lanczos import top_eigenvalue
from netopsy.probes.operator_norm import operator_norm
from netopsy.probes.path_norm import path_norm
from netopsy.probes.ranking import kendall, rank_measures
from netopsy.probes.sharpness import sharpness
from tests.oracles import complexity as oracle

TASK = Task()


def chain(width: int = 6, *, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width, bias=bias), nn.ReLU(), nn.Linear(width, 3, bias=bias))


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )


def trajectory_of(factory: Callable[[], nn.Module], seed: int = 0) -> Trajectory:
    torch.manual_seed(seed)
    start, final = factory(), factory()
    return Trajectory.from_states(factory, {0: start.state_dict(), 1: final.state_dict()})


def data(*shape: int, n: int = 40, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=source), torch.randint(classes, (n,), generator=source)


def labeled(trajectory: Trajectory, x: Tensor) -> tuple[Tensor, Tensor]:
    """Labels that the network gives, so that every margin is positive."""
    with torch.no_grad():
        return x, trajectory.model()(x).argmax(1)


CRITICAL = pd.DataFrame(
    {
        "site": ["1", "3"],
        "epsilon": [0.1, 0.1],
        "mu": [50.0, 0.0],
        "mu_low": [49.0, 0.0],
        "mu_high": [51.0, 0.0],
        "alpha": [0.5, 0.0],
        "sigma": [0.1, 0.5],
        "distance": [2.0, 3.0],
        "error": [0.1, 0.05],
        "parameters": [30, 21],
        "status": ["feasible", "alpha-zero"],
    }
)


def test_norms_and_their_sums_by_hand() -> None:
    trajectory = trajectory_of(chain)
    result = complexity(trajectory, data(4))
    final, start = trajectory.state(), trajectory.state(0)
    norms = {name: final[name].double() for name in ("1.weight", "3.weight")}
    moved = {name: final[name].double() - start[name].double() for name in final}
    frobenius = [float(value.norm()) for value in norms.values()]
    spectral = [float(torch.linalg.matrix_norm(value, 2)) for value in norms.values()]
    distance = [float(torch.cat([moved[f"{i}.weight"].flatten(), moved[f"{i}.bias"]]).norm()) for i in (1, 3)]
    operator = [float(torch.linalg.matrix_norm(moved[f"{i}.weight"], 2)) for i in (1, 3)]
    assert result.value("pfn") == pytest.approx(math.log10(math.prod(frobenius)))
    assert result.value("psn") == pytest.approx(math.log10(math.prod(spectral)))
    assert result.value("dti") == pytest.approx(sum(distance))
    assert result.value("dti_squares") == pytest.approx(sum(value**2 for value in distance))
    assert result.value("nop") == 51
    assert result.value("sosp") == pytest.approx(51 * sum(operator))
    assert result.modules.site.tolist() == ["1", "3"]
    assert result.modules.parameters.tolist() == [30, 21]
    assert result.frame.measure.tolist() == list(MEASURES)
    assert dict(zip(result.frame.measure, result.frame.scale, strict=True)) == MEASURES
    missing = result.frame.set_index("measure").status[["pac_bayes", "pac_bayes_optimum", "criticality"]]
    assert set(missing) == {"not measured"}


def test_criticality_and_pac_bayes_from_its_frame() -> None:
    trajectory = trajectory_of(chain)
    both = pd.concat([CRITICAL.assign(epsilon=0.05, mu=1e9), CRITICAL])
    result = complexity(trajectory, data(4), criticality=both, end_sigma={"1": 0.05, "3": 0.1}, hessian_examples=0)
    column = pd.concat([CRITICAL.assign(epsilon=0.05, end_sigma=9.0), CRITICAL.assign(end_sigma=[0.05, 0.1])])
    by_itself = complexity(trajectory, data(4), criticality=column, hessian_examples=0)
    assert by_itself.value("pac_bayes") == result.value("pac_bayes")
    assert result.value("criticality") == 50
    assert result.value("pac_bayes_optimum") == pytest.approx(2**2 / 0.1**2 + 3**2 / 0.5**2)
    assert result.value("pac_bayes") == pytest.approx(2**2 / 0.05**2 + 3**2 / 0.1**2)
    assert (
        complexity(trajectory, data(4), criticality=both, epsilon=0.05, hessian_examples=0).value("criticality") > 1e9
    )
    bad = CRITICAL.assign(status=["infeasible", "feasible"], mu=[math.nan, 1.0], sigma=[math.nan, 0.1])
    frame = complexity(trajectory, data(4), criticality=bad, hessian_examples=0).frame.set_index("measure")
    assert frame.status[["criticality", "pac_bayes_optimum"]].tolist() == ["infeasible"] * 2
    assert frame.value[["criticality", "pac_bayes_optimum"]].isna().all()
    assert frame.status["sharpness"] == "not measured"
    still = CRITICAL.assign(distance=[2.0, 0.0], sigma=[0.1, math.nan], status=["feasible", "no-op"])
    known = complexity(trajectory, data(4), criticality=still, hessian_examples=0)
    assert known.value("pac_bayes_optimum") == pytest.approx(400)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(7, 4), (7,)),
        (nn.Linear(50, 40), (50,)),
        (nn.Conv1d(2, 3, 4, stride=3), (2, 20)),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
        (nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 7, 7)),
        (nn.Conv2d(2, 4, (3, 2), dilation=2, groups=2), (2, 6, 7)),
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 6, 6)),
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), (1, 6, 6)),
        (nn.Conv3d(1, 2, 2), (1, 4, 3, 3)),
    ],
    ids=str,
)
def test_operator_norms_against_the_matrix(module: Any, shape: tuple[int, ...]) -> None:
    module = module.double()
    weight = module.weight.detach()
    dense = oracle.matrix(module, shape, weight)
    norm = operator_norm(module, weight, shape)
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-7)
    assert operator_norm(module, 1e-180 * weight, shape) == pytest.approx(1e-180 * norm, rel=1e-7)
    assert operator_norm(module, 0 * weight, shape) == 0
    assert math.isnan(operator_norm(module, math.inf * weight, shape))


def test_top_eigenvalue_of_known_matrices() -> None:
    values = np.linspace(-9, 4, 60)
    assert top_eigenvalue(lambda v: values * v, 60, seed=0, tolerance=1e-10) == pytest.approx(
        4
    )  # not the largest |λ|
    assert top_eigenvalue(lambda v: values[:5] * v, 5, seed=0, tolerance=1e-10) == pytest.approx(values[4])
    assert top_eigenvalue(lambda v: 0 * v, 60, seed=0, tolerance=1e-10) == 0
    for size in (5, 60):
        assert math.isnan(top_eigenvalue(lambda v: math.nan * v, size, seed=0, tolerance=1e-10))


def test_sharpness_against_second_differences() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    x, y = data(2, n=30, classes=2)
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    sizes = [shape.numel() for shape in shapes]

    def loss(flat: Tensor) -> Tensor:
        parts = [part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        with torch.no_grad():
            logits = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (x.double(),))
            return nn.functional.cross_entropy(logits, y)

    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    expected = np.linalg.eigvalsh(oracle.hessian(loss, flat))[-1]
    before = copy.deepcopy(model.state_dict())
    assert sharpness(model, [(x[:10], y[:10]), (x[10:], y[10:])], TASK) == pytest.approx(expected, rel=1e-4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_sharpness_of_softmax_regression_by_lanczos() -> None:
    """H = mean of (diag p - p pᵀ) ⊗ x xᵀ: a closed form, with more parameters than are written out."""
    torch.manual_seed(0)
    model = nn.Linear(20, 3, bias=False)
    x, y = data(20, n=25)
    p = torch.softmax(model(x).detach().double(), 1)
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    full = torch.einsum("nab,ni,nj->aibj", blocks, x.double(), x.double()).reshape(60, 60) / 25
    expected = float(torch.linalg.eigvalsh(full)[-1])
    assert sharpness(model, [(x, y)], TASK) == pytest.approx(expected, rel=1e-4)
    ignored = torch.cat([y, torch.full((5,), -100)])
    more = torch.cat([x, torch.randn(5, 20)])
    assert sharpness(model, [(more, ignored)], TASK) == pytest.approx(expected, rel=1e-4)


def test_the_path_norm_walks_every_path() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    layers = [model[i] for i in (0, 2, 4)]
    expected = oracle.path_norm(
        [layer.weight.detach().double().numpy() for layer in layers],
        [layer.bias.detach().double().numpy() for layer in layers],
    )
    value = path_norm(model, ((torch.randn(5, 3),), {}), TASK)
    assert value == pytest.approx(math.log10(expected))


def test_the_path_norm_of_convolutions_pooling_and_normalization() -> None:
    """Each is the linear map that it is in evaluation mode: the same network with matrices in their place."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    ).eval()
    norm = model[1]
    for value in (norm.weight, norm.bias, norm.running_mean):
        value.data.normal_()
    norm.running_var.uniform_(0.5, 2)
    conv = oracle.matrix(model[0].double(), (1, 5, 5), model[0].weight.detach())
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double()
    shift = norm.bias.detach().double() - scale * norm.running_mean.double()
    first = (conv * scale.repeat_interleave(16)[:, None]).numpy()
    pool = oracle.matrix(
        nn.Conv2d(2, 2, 2, stride=2, groups=2, bias=False).double(),
        (2, 4, 4),
        torch.full((2, 1, 2, 2), 0.25).double(),
    )
    last = model[5].weight.detach().double().numpy()
    # squared, the matrices multiply: paths through pooling have weights 1/4
    unit = (first**2).sum(1) + shift.repeat_interleave(16).numpy() ** 2
    total = (last**2 @ (pool.numpy() ** 2 @ unit) + model[5].bias.detach().numpy() ** 2).sum()
    model = model.float()
    assert path_norm(model, ((torch.randn(2, 1, 5, 5),), {}), TASK) == pytest.approx(math.log10(total) / 2, rel=1e-6)


def test_where_there_is_no_path_norm() -> None:
    inputs = ((torch.randn(2, 3),), {})
    for other in (nn.GELU(), nn.Tanh(), nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False), nn.PReLU()):
        assert path_norm(nn.Sequential(nn.Linear(3, 3), other, nn.Linear(3, 3)), inputs, TASK) is None
    assert path_norm(nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(), nn.Linear(3, 3)), inputs, TASK) is not None
    huge = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    for parameter in huge.parameters():
        parameter.data.fill_(1e30).double()
    deep = nn.Sequential(*[copy.deepcopy(huge) for _ in range(4)]).double()
    assert path_norm(deep, inputs, TASK) == math.inf


def test_the_spectral_margin_by_hand() -> None:
    trajectory = trajectory_of(lambda: chain(bias=False))
    x, y = labeled(trajectory, data(4)[0])
    result = complexity(trajectory, (x, y), margin_quantile=0.2, hessian_examples=0)
    logits = trajectory.model()(x).detach().double()
    ordered = logits.sort(1).values
    margin = np.quantile((ordered[:, -1] - ordered[:, -2]).numpy(), 0.2)
    final, start = trajectory.state(), trajectory.state(0)
    product, ratios = 1.0, 0.0
    for name in final:
        weight, moved = final[name].double(), final[name].double() - start[name].double()
        spectral = float(torch.linalg.matrix_norm(weight, 2))
        product *= spectral
        ratios += (sum(float(row.norm()) for row in moved) / spectral) ** (2 / 3)
    expected = float(x.double().norm()) * product * ratios**1.5 / (margin * len(x))
    assert result.value("spectral_margin") == pytest.approx(math.log10(expected), rel=1e-6)
    assert result.provenance["margin"] == pytest.approx(margin, rel=1e-5)
    assert result.provenance["train_error"] == 0


def test_the_rows_of_a_convolution_are_those_of_its_operator() -> None:
    trajectory = trajectory_of(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)))
    result = complexity(trajectory, data(2, 6, 6), hessian_examples=0)
    moved = trajectory.state()["0.weight"].double() - trajectory.state(0)["0.weight"].double()
    dense = oracle.matrix(nn.Conv2d(2, 3, 3).double(), (2, 6, 6), moved)
    assert result.modules.distance_rows[0] == pytest.approx(float(dense.norm(dim=1).sum()))
    assert result.modules.distance_spectral[0] == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-7)


def test_measures_that_have_no_value_say_so() -> None:
    trajectory = trajectory_of(chain)
    x, y = labeled(trajectory, data(4)[0])
    wrong = complexity(trajectory, (x, (y + 1) % 3), hessian_examples=0)
    frame = wrong.frame.set_index("measure")
    assert frame.status["spectral_margin"] == "no margin"
    assert wrong.provenance["train_error"] == 1
    state = trajectory.state()
    same = Trajectory.from_states(chain, {0: state, 1: state})
    assert (
        complexity(same, (x, y), hessian_examples=0).frame.set_index("measure").status["spectral_margin"]
        == "no change"
    )
    assert (complexity(same, (x, y), hessian_examples=0).value("dti")) == 0
    assert "not measured" in str(wrong)


def test_products_do_not_overflow() -> None:
    def deep() -> nn.Module:
        return nn.Sequential(*[nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in range(20)])

    trajectory = trajectory_of(deep)
    state = {name: 1e40 * value for name, value in trajectory.state().items()}
    big = Trajectory.from_states(deep, {0: trajectory.state(0), 1: state})
    x = (1e-300 * data(4)[0].double(), data(4)[1] % 4)
    plain, scaled = (complexity(which, x, hessian_examples=0) for which in (trajectory, big))
    for name in ("pfn", "psn"):
        assert scaled.value(name) == pytest.approx(plain.value(name) + 800)
    assert scaled.frame.set_index("measure").status["path_norm"] == "overflow"


def test_rescaling_adjacent_layers_changes_what_it_should() -> None:
    """f stays the same; so do the products of norms, the path norm and the margin; the sharpness does not."""
    trajectory = trajectory_of(chain)
    state = {name: value.clone() for name, value in trajectory.state().items()}
    for name, factor in {"1.weight": 4.0, "1.bias": 4.0, "3.weight": 0.25}.items():
        state[name] *= factor
    scaled = Trajectory.from_states(chain, {0: trajectory.state(0), 1: state})
    sample = labeled(trajectory, data(4)[0])
    before, after = (complexity(which, sample) for which in (trajectory, scaled))
    for name in ("pfn", "psn", "path_norm", "nop"):
        assert after.value(name) == pytest.approx(before.value(name), rel=1e-6)
    assert after.provenance["margin"] == pytest.approx(before.provenance["margin"], rel=1e-5)
    for name in ("dti", "dti_squares", "sosp", "spectral_margin", "sharpness"):
        assert abs(after.value(name) / before.value(name) - 1) > 1e-3


def test_a_residual_network_with_normalization() -> None:
    def factory() -> nn.Module:
        return resnet(18, classes=3, version=1, first=2, stages=(1, 1), batch_norm=True)

    trajectory = trajectory_of(factory)
    source = data(3, 8, 8, n=6)
    result = complexity(trajectory, source, hessian_examples=4, batch_size=4)
    status = result.frame.set_index("measure").status
    assert status[["pfn", "psn", "path_norm", "sharpness", "sosp"]].tolist() == ["ok"] * 5
    assert any("norm" in name for name in result.provenance["left_out"])
    assert "neither linear layers nor convolutions" in str(result)


def test_the_result_is_saved_and_two_runs_agree(tmp_path: Path) -> None:
    trajectory = trajectory_of(small)
    result = complexity(trajectory, data(1, 8, 8), hessian_examples=20)
    again = ComplexityResult.load(result.save(tmp_path / "complexity"))
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    pd.testing.assert_frame_equal(again.modules, result.modules)
    assert dict(again.provenance) == dict(result.provenance)
    pd.testing.assert_frame_equal(complexity(trajectory, data(1, 8, 8), hessian_examples=20).frame, result.frame)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused() -> None:
    trajectory, source = trajectory_of(chain), data(4)
    for options, match in (
        ({"margin_quantile": 2.0}, r"margin_quantile: expected a number in \[0, 1\]"),
        ({"hessian_examples": -1}, "hessian_examples: expected an integer >= 0"),
        ({"criticality": CRITICAL.drop(columns="mu")}, "expected columns site, .*; mu not there"),
        ({"criticality": CRITICAL, "epsilon": 0.2}, "epsilon=0.2: .* these are 0.1"),
        ({"end_sigma": {"1": 0.1}}, "end_sigma: expected criticality= beside it"),
        ({"criticality": CRITICAL, "end_sigma": {"1": 0.1}}, "a σ for each site of criticality; 3 not there"),
    ):
        with pytest.raises(NetopsyError, match=match):
            complexity(trajectory, source, **options)
    with pytest.raises(NetopsyError, match="expected the weights that training started from"):
        complexity(Trajectory.from_states(chain, {"end": trajectory.state()}), source)
    embedding = trajectory_of(lambda: nn.Embedding(5, 3))
    with pytest.raises(NetopsyError, match="expected a network with linear layers or convolutions; Embedding"):
        complexity(embedding, (torch.tensor([1, 2]), torch.tensor([0, 1])))
    with pytest.raises(NetopsyError, match="all are ignored"):
        complexity(trajectory, (source[0], torch.full((40,), -100)))
    with pytest.raises(NetopsyError, match=r"weight: expected the module's shape \(4, 7\); got \(4, 6\)"):
        operator_norm(nn.Linear(7, 4), torch.zeros(4, 6), (7,))


def test_kendall_against_scipy_and_its_definition() -> None:
    source = np.random.default_rng(0)
    for _ in range(20):
        x, y = source.integers(0, 5, 9).astype(float), source.integers(0, 6, 9).astype(float)
        found = kendall(x, y)
        assert found.tau_a == pytest.approx(oracle.kendall(list(x), list(y)))
        assert found.tau_b == pytest.approx(kendalltau(x, y).statistic)
        assert kendall(x, -y).tau_a == -found.tau_a
    assert kendall([1, math.inf, math.inf], [1, 2, 3]).tied_x == 1
    assert math.isnan(kendall([1], [1]).tau_a)
    assert math.isnan(kendall([1, 1], [1, 2]).tau_b)
    with pytest.raises(NetopsyError, match="expected as many x as y; got 2 and 3"):
        kendall([1, 2], [1, 2, 3])


def ranked(n: int = 30, seed: int = 0) -> pd.DataFrame:
    source = np.random.default_rng(seed)
    gap = source.standard_normal(n)
    return pd.DataFrame(
        {"gap": gap, "good": gap + 0.3 * source.standard_normal(n), "none": source.standard_normal(n)}
    )


def test_a_ranking_has_intervals_and_paired_differences() -> None:
    table = ranked().assign(exact=lambda t: t.gap, some=lambda t: t.good.where(t.index < 20))
    found = rank_measures(table, ["exact", "good", "none", "some"], against="good").set_index("measure")
    assert found.n.tolist() == [30, 30, 30, 20]
    assert found.pairs["some"] == 190
    assert (found.tau_a["exact"], found.low["exact"], found.high["exact"]) == (1, 1, 1)
    assert found.low["good"] < found.tau_a["good"] < found.high["good"]
    assert found.low["none"] < 0 < found.high["none"]
    assert found.difference["good"] == found.difference_low["good"] == found.difference_high["good"] == 0
    assert found.difference["none"] == pytest.approx(found.tau_a["good"] - found.tau_a["none"])
    assert found.difference_low["none"] > 0
    assert found.difference["some"] == 0
    again = rank_measures(table, ["exact", "good", "none", "some"], against="good").set_index("measure")
    pd.testing.assert_frame_equal(found, again)


def test_the_bootstrap_interval_covers() -> None:
    """τ of two Gaussians with correlation r is 2 arcsin(r)/π."""
    covered = 0
    for seed in range(60):
        source = np.random.default_rng(seed)
        x = source.standard_normal(40)
        y = 0.5 * x + math.sqrt(0.75) * source.standard_normal(40)
        row = rank_measures(pd.DataFrame({"gap": y, "x": x}), ["x"], resamples=200, seed=seed).iloc[0]
        covered += row.low <= 2 * math.asin(0.5) / math.pi <= row.high
    assert covered >= 51  # 57 are expected


def test_resamples_of_units_take_all_their_networks() -> None:
    """Copies of each network in one unit must not make the interval narrower."""
    table = ranked(12).assign(kind=range(12))
    many = pd.concat([table] * 5, ignore_index=True)
    alone = rank_measures(table, ["good"]).iloc[0]
    by_unit = rank_measures(many, ["good"], unit="kind").iloc[0]
    by_row = rank_measures(many, ["good"]).iloc[0]
    assert by_row.high - by_row.low < 0.7 * (alone.high - alone.low)
    assert by_unit.high - by_unit.low > 0.8 * (alone.high - alone.low)


def test_the_granulated_tau_by_hand() -> None:
    """Width orders the gap at each depth, and depth against it: a measure that knows the width only."""
    table = pd.DataFrame(
        [(w, d, 10 * d + w, w) for w in (1, 2, 3) for d in (1, 2)], columns=["width", "depth", "gap", "measure"]
    )
    found = rank_measures(table, ["measure"], hyperparameters=["width", "depth"]).iloc[0]
    assert (found["by width"], found["groups width"]) == (1, 2)
    assert (found["by depth"], found["groups depth"]) == (0, 3)  # it ties them
    assert found.granulated == 0.5
    one = rank_measures(table, ["measure"], hyperparameters=["width"]).iloc[0]
    assert one["groups width"] == 1
    assert one["by width"] == one.tau_a
    lonely = table.assign(seed=range(6))
    none = rank_measures(lonely, ["measure"], hyperparameters=["width", "seed"]).iloc[0]
    assert none["groups width"] == 0
    assert math.isnan(none["by width"])


@pytest.mark.usefixtures("unchecked")
def test_bad_rankings_are_refused() -> None:
    table = ranked()
    for options, match in (
        ({"measures": ["goood"]}, "table: expected a column 'goood'; got gap, good, none; did you mean good"),
        ({"measures": ["good"], "gap": "error"}, "expected a column 'error'"),
        ({"measures": ["good"], "unit": "arch"}, "expected a column 'arch'"),
        ({"measures": ["good"], "against": "none"}, "against: expected one of the measures, good; got 'none'"),
        ({"measures": ["good"], "resamples": 0}, "resamples: expected an integer >= 1"),
        ({"measures": ["good"], "confidence": 1.0}, r"confidence: expected a number in \(0, 1\)"),
    ):
        with pytest.raises(NetopsyError, match=match):
            rank_measures(table, **options)
    with pytest.raises(NetopsyError, match="at least two networks; got 1"):
        rank_measures(table.head(1), ["good"])
    with pytest.raises(NetopsyError, match="gap: expected a finite gap of every network"):
        rank_measures(table.assign(gap=math.nan), ["good"])


def networks() -> dict[str, Trajectory]:
    return {
        f"w{width} s{seed}": trajectory_of(lambda width=width: chain(width), seed)
        for width in (3, 5)
        for seed in (0, 1)
    }


def test_networks_are_compared() -> None:
    nets = networks()
    known = {name: {"width": int(name[1]), "seed": int(name[-1])} for name in nets}
    train, test = data(4), data(4, seed=1)
    found = compare(
        nets, train, test, hyperparameters=known, unit="width", against="dti", hessian_examples=0, resamples=50
    )
    assert found.table.network.tolist() == list(nets)
    for row in found.table.itertuples():
        with torch.no_grad():
            error = [float((nets[row.network].model()(x).argmax(1) != y).float().mean()) for x, y in (train, test)]
        assert [row.train_error, row.test_error] == pytest.approx(error)
        assert row.gap == pytest.approx(error[1] - error[0], rel=1e-5)
    assert found.ranking.measure.tolist()[:3] == ["pfn", "psn", "dti"]
    assert "sharpness" not in found.ranking.measure.tolist()
    assert {"by width", "by seed", "granulated", "difference"} <= set(found.ranking)
    assert found.ranking.n.max() == 4
    assert found.to_frame().nop.tolist() == [27, 27, 43, 43]
    assert set(found.results) == set(nets)
    assert "tau_a" in str(found)


@pytest.mark.usefixtures("unchecked")
def test_bad_comparisons_are_refused() -> None:
    nets, train = networks(), data(4)
    one = dict(list(nets.items())[:1])
    same = {name: {"width": 1} for name in nets}
    for given, options, match in (
        (one, {}, "expected at least two networks; got 1"),
        (nets, {"criticality": {"a": CRITICAL}}, "criticality: expected one of each network, w3 s0, .*; got a"),
        (nets, {"hyperparameters": {}}, "hyperparameters: expected one of each network.*; got none"),
        (nets, {"hyperparameters": {**same, "w3 s0": {"depth": 1}}}, "expected the same names for each network"),
        (nets, {"hyperparameters": {name: {"gap": 1} for name in nets}}, "gap is a column of the table"),
        (nets, {"hyperparameters": same, "unit": "depth"}, "unit: expected one of the hyperparameters, width"),
        (nets, {"against": "size"}, "against: expected one of pfn, "),
        (nets, {"against": "criticality", "hessian_examples": 0}, "no network has a value of it"),
    ):
        with pytest.raises(NetopsyError, match=match):
            compare(given, train, train, **options)
