"""CKA: against its definitions on stored activations, closed forms, layers without a number, its result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.batches import open_data
from netopsy.engine.gram import centered
from netopsy.network.addresses import Address
from netopsy.network.rewind import rewound
from netopsy.network.trajectory import Trajectory
from netopsy.network.units import UnitLayer
from netopsy.plots.cka import cka_heatmap
from netopsy.probes.cka import cka
from netopsy.probes.cka_result import CKAResult
from tests import zoo
from tests.oracles import cka as oracle

X = torch.randn(46, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(30, 2, 6, 5, generator=torch.Generator().manual_seed(1))


def labels(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.long)


def mlp(seed: int, width: int = 8) -> nn.Sequential:
    with forked(seed):
        return zoo.mlp(width)


def conv(seed: int) -> nn.Sequential:
    with forked(seed):
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(),
            nn.Linear(60, 3),
        ).eval()  # fmt: skip


def stored(model: nn.Sequential, x: Tensor, ends: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    with torch.no_grad():
        return [model[:end](x).double().numpy() for end in ends]


def batches_of(x: Tensor, size: int, seed: int = 0) -> list[Any]:
    return [order for order, _ in open_data((x, labels(x)), batch_size=size, seed=seed).batches()]


@pytest.mark.parametrize("batch_size", [8, 46, 22])
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_it_is_that_of_the_definition_on_stored_activations(batch_size: int, double: bool) -> None:
    """Networks of unequal widths; the last of the batches is smaller, or is left out."""
    one, two = mlp(1), mlp(2, width=11)
    x = X
    if double:
        one, two, x = one.double(), two.double(), X.double()
    result = cka(one, two, (x, labels(x)), batch_size=batch_size)
    batches = batches_of(x, batch_size)
    expected = [[oracle.minibatch(a, b, batches) for b in stored(two, x, (2, 4))] for a in stored(one, x, (2, 4))]
    np.testing.assert_allclose(result.matrix.to_numpy(), expected, atol=1e-12 if double else 1e-6)
    used = [len(batch) for batch in batches if len(batch) >= 4]
    assert set(result.frame.n) == {sum(used)}
    assert set(result.frame.batches) == {len(used)}
    assert result.provenance["left_out"] == len(x) - sum(used)


def test_convolutions_are_flattened_with_their_positions() -> None:
    one, two = conv(1), conv(2)
    result = cka(one, two, (IMAGES, labels(IMAGES)), batch_size=10)
    batches = batches_of(IMAGES, 10)
    expected = [
        [oracle.minibatch(a, b, batches) for b in stored(two, IMAGES, (2, 4))] for a in stored(one, IMAGES, (2, 4))
    ]
    np.testing.assert_allclose(result.matrix.to_numpy(), expected, atol=1e-6)
    exact = cka(one, two, (IMAGES, labels(IMAGES)), batch_size=7, estimator="exact")
    expected = [[oracle.exact(a, b) for b in stored(two, IMAGES, (2, 4))] for a in stored(one, IMAGES, (2, 4))]
    np.testing.assert_allclose(exact.matrix.to_numpy(), expected, atol=1e-6)
    assert set(exact.frame.n) == {30}


def test_exact_on_one_network_and_on_few_examples() -> None:
    one = mlp(1).double()
    result = cka(one, None, (X.double(), labels(X)), estimator="exact", batch_size=9)
    values = stored(one, X.double(), (2, 4))
    expected = [[oracle.exact(a, b) for b in values] for a in values]
    np.testing.assert_allclose(result.matrix.to_numpy(), expected, atol=1e-12)
    again = cka(one, copy.deepcopy(one), (X.double(), labels(X)), estimator="exact", batch_size=9)
    np.testing.assert_allclose(again.matrix.to_numpy(), expected, atol=1e-12)
    few = cka(one, None, (X[:3].double(), labels(X[:3])), estimator="exact")
    expected = [[oracle.exact(a[:3], b[:3]) for b in values] for a in values]
    np.testing.assert_allclose(few.matrix.to_numpy(), expected, atol=1e-12)


def test_a_large_mean_costs_no_precision() -> None:
    """Activations a thousand times larger than their spread, in float32."""
    with forked(0):
        model = nn.Sequential(nn.Linear(6, 20), nn.Identity(), nn.Linear(20, 9), nn.Identity(), nn.Linear(9, 2))
    with torch.no_grad():
        model[0].bias.fill_(1000)
    values = stored(model, X, (2, 4))
    expected = [[oracle.minibatch(a - a.mean(0), b - b.mean(0), batches_of(X, 23)) for b in values] for a in values]
    result = cka(model, None, (X, labels(X)), sites=["1", "3"], batch_size=23)
    np.testing.assert_allclose(result.matrix.to_numpy(), expected, atol=1e-6)


def test_u_centering_gives_the_estimator_as_it_is_printed() -> None:
    with forked(3):
        x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    k, m = x @ x.T, y @ y.T
    mine = float((centered(k) * centered(m)).sum()) / (9 * 6)
    assert mine == pytest.approx(oracle.hsic1(k.numpy(), m.numpy()), rel=1e-12)
    assert centered(k).sum(0).abs().max() < 1e-12


class Given(nn.Module):
    """Its layers `a` and `b` are linear functions of the input."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(*a.shape[::-1]), nn.Linear(*b.shape[::-1]), nn.Linear(len(a), 2)
        with torch.no_grad():
            for layer, weight in ((self.a, a), (self.b, b)):
                layer.weight = nn.Parameter(weight)
                layer.bias.zero_()
        self.to(a.dtype)

    def forward(self, x: Tensor) -> Tensor:
        self.b(x)
        return self.head(self.a(x))


@pytest.mark.parametrize("estimator", ["minibatch", "exact"])
def test_rotations_and_scales_change_nothing_and_others_do(estimator: Any) -> None:
    with forked(4):
        a = torch.randn(6, 6, dtype=torch.float64)
        rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
        stretch = torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64).diag()
    data = (X.double(), labels(X))

    def between(b: Tensor) -> float:
        return float(
            cka(Given(a, b), None, data, sites=["a", "b"], estimator=estimator, batch_size=8).matrix.iloc[0, 1]
        )

    assert between(a) == pytest.approx(1)
    assert between(-3 * rotation @ a) == pytest.approx(1)
    assert between(stretch @ a) < 0.99


def test_independent_layers_have_nothing_in_common() -> None:
    """Two halves of a standard normal input: unbiased is about 0; the exact one, with as many features, is not."""
    with forked(5):
        x = torch.randn(400, 60, dtype=torch.float64)
    eye = torch.eye(60, dtype=torch.float64)
    model = Given(eye[:30], eye[30:])
    data = (x, labels(x))
    assert abs(cka(model, None, data, sites=["a", "b"], batch_size=50).matrix.iloc[0, 1]) < 0.02
    assert cka(model, None, data, sites=["a", "b"], estimator="exact").matrix.iloc[0, 1] > 0.05


def test_orders_of_examples_and_batches_agree_within_noise() -> None:
    found = [
        cka(mlp(1), mlp(2), (X, labels(X)), batch_size=size, seed=seed).matrix.to_numpy()
        for size, seed in ((46, 0), (46, 1), (23, 0))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(found[0] - found[2]).max() < 0.2


def test_a_network_beside_itself() -> None:
    model = mlp(1)
    alone = cka(model, None, (X, labels(X)), batch_size=10)
    pair = cka(model, copy.deepcopy(model), (X, labels(X)), batch_size=10)
    pd.testing.assert_frame_equal(alone.frame, pair.frame)
    assert alone.matrix.to_numpy().diagonal().tolist() == pytest.approx([1, 1])
    np.testing.assert_allclose(alone.matrix, alone.matrix.T)
    assert alone.provenance["same"]
    assert not pair.provenance["same"]


def trajectory() -> Trajectory:
    return Trajectory.from_states(mlp(0), {0: mlp(1).state_dict(), 5: mlp(2).state_dict(), 9: mlp(3).state_dict()})


def test_a_rewound_module_changes_what_lies_behind_it_only() -> None:
    path = trajectory()
    other = rewound(path, "2")
    assert torch.equal(other[2].weight, mlp(1)[2].weight)
    assert torch.equal(other[2].bias, mlp(1)[2].bias)
    assert torch.equal(other[0].weight, mlp(3)[0].weight)
    assert torch.equal(rewound(path, "2", 5)[2].weight, mlp(2)[2].weight)
    matrix = cka(path, other, (X, labels(X)), batch_size=23).matrix
    assert matrix.loc["1", "1"] == pytest.approx(1)
    assert matrix.loc["3", "3"] < 0.99
    same = cka(path, rewound(path, "2", 9), (X, labels(X)), batch_size=23).matrix
    np.testing.assert_allclose(same.to_numpy().diagonal(), 1)


def test_what_cannot_be_rewound_is_refused() -> None:
    path = Trajectory.from_states(mlp(0), {3: mlp(1).state_dict(), 9: mlp(3).state_dict()})
    with pytest.raises(NetopsyError, match=r"no checkpoint 0 \(the weights before training\)"):
        rewound(path, "2")
    with pytest.raises(NetopsyError, match="site '7': matches no module"):
        rewound(path, "7", 3)


@pytest.mark.usefixtures("unchecked")
def test_rewound_needs_a_trajectory() -> None:
    with pytest.raises(NetopsyError, match=r"trajectory: expected a netopsy\.Trajectory; got Sequential"):
        rewound(mlp(0), "2")  # type: ignore[arg-type]


def silent() -> nn.Sequential:
    model = mlp(1)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.linspace(0.1, 3.3, 8))
    return model


def infinite() -> nn.Sequential:
    model = mlp(1)
    with torch.no_grad():
        model[2].bias[0] = torch.inf
    return model


def one_example(x: Tensor) -> Tensor:
    """Zeros but for one example: every Gram matrix without its diagonal is zero."""
    return torch.where(torch.arange(len(x))[:, None] == 3, x, torch.zeros(()))


@pytest.mark.parametrize(
    ("model", "x", "layer", "status"),
    [
        (silent, X, "1", "constant"),
        (infinite, X, "3", "non-finite"),
        (lambda: nn.Sequential(nn.Linear(6, 6, bias=False), nn.Identity(), nn.Linear(6, 2)), one_example(X), "1",
         "degenerate"),
        (lambda: mlp(1), X[:3], "1", "few examples"),
    ],
    ids=["constant", "non-finite", "degenerate", "few"],
)  # fmt: skip
def test_a_layer_without_a_number_says_why(
    model: Callable[[], nn.Module], x: Tensor, layer: str, status: str
) -> None:
    first = model()
    result = cka(first, mlp(2), (x, labels(x)), sites=[layer], other_sites=["1", "3"], batch_size=23)
    frame = result.to_frame()
    assert frame.status.tolist() == [status] * 2
    assert frame.cka.isna().all()
    assert f"{status}: no number for 2 of 2 pairs" in str(result)
    twice = cka(first, None, (x, labels(x)), sites=[layer], batch_size=23).frame
    assert twice.status.tolist() == [status]
    result.plot()


def test_other_layers_keep_their_numbers() -> None:
    frame = cka(infinite(), mlp(2), (X, labels(X)), batch_size=23).frame
    good = frame[frame.layer_a == "1"]
    assert good.status.tolist() == ["ok", "ok"]
    expected = [oracle.minibatch(stored(mlp(1), X, (2,))[0], b, batches_of(X, 23)) for b in stored(mlp(2), X, (2, 4))]
    np.testing.assert_allclose(good.cka, expected, atol=1e-6)
    exact = cka(silent(), mlp(2), (X, labels(X)), estimator="exact").frame
    assert exact.status[exact.layer_a == "1"].tolist() == ["constant"] * 2
    assert not (exact.cka.isna() & (exact.status == "ok")).any()


def test_small_last_batches_are_left_out() -> None:
    result = cka(mlp(1), mlp(2), (X[:11], labels(X[:11])), batch_size=8)
    assert set(result.frame.n) == {8}
    assert result.provenance["left_out"] == 3
    assert "3 examples are left out" in str(result)


def test_several_calls_stand_side_by_side() -> None:
    with forked(6):
        model = zoo.Twice()
    layer = UnitLayer("both", Address("output", "a"), 1, 6)
    result = cka(model, None, (X, labels(X)), sites=["a, call 0", layer], batch_size=23)
    with torch.no_grad():
        first = model.a(X)
        both = torch.cat([first, model.a(torch.tanh(first))], 1)
    expected = oracle.minibatch(first.double().numpy(), both.double().numpy(), batches_of(X, 23))
    assert result.matrix.iloc[0, 1] == pytest.approx(expected, abs=1e-6)
    exact = cka(model, None, (X, labels(X)), sites=["a, call 0", layer], estimator="exact")
    assert exact.matrix.iloc[0, 1] == pytest.approx(oracle.exact(first.numpy(), both.numpy()), abs=1e-6)


def test_no_trace_is_left_and_each_model_runs_once_a_batch() -> None:
    one, two = conv(1).train(), conv(2)
    before = copy.deepcopy(one.state_dict())
    state, runs, seen = torch.get_rng_state(), [], []
    handle = one[0].register_forward_hook(lambda *_: runs.append(1))
    cka(one, two, (IMAGES, labels(IMAGES)), batch_size=10, progress=lambda *at: seen.append(at))
    assert len(runs) == 3 + 1  # once more to find its layers
    handle.remove()
    assert seen == [(10, 30), (20, 30), (30, 30)]
    bad = UnitLayer("z", Address("output", "1", item=1), 1, 4)
    with pytest.raises(NetopsyError, match="of which item 1 is read; output of 1 holds 1"):
        cka(one, two, (IMAGES, labels(IMAGES)), sites=[bad])
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert all(module.training for module in one.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules())
    assert torch.equal(torch.get_rng_state(), state)


class Turned(nn.Module):
    """A module whose output has the examples along its second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.head = nn.Flatten(), nn.Linear(6, 2)
        self.turn.register_forward_hook(lambda module, args, out: out.T)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turn(x).T)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "model: expected a torch module or a netopsy.Trajectory; got int"),
        ({"other": "x"}, "other: expected a torch module or a netopsy.Trajectory; got str"),
        ({"estimator": "biased"}, "estimator: "),
        ({"other": None, "other_sites": ["1"]}, "other_sites: expected another network with them; got other=None"),
        ({"sites": ["9"]}, "site '9': matches no module of Sequential"),
        ({"other": mlp(2).half()}, "half precision"),
        ({"model": Turned(), "sites": ["turn"], "other_sites": ["1"]}, r"the batch's 46 examples .* got \(6, 46\)"),
    ],
    ids=["model", "other", "estimator", "alone", "site", "half", "axis"],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"model": mlp(1), "other": mlp(2), "data": (X, labels(X)), **arguments}
    with pytest.raises(NetopsyError, match=message):
        cka(**given)


def test_exact_refuses_what_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netopsy.probes.cka.MEMORY", 8 * (16 * 16 + 4 * 64) - 1)
    with pytest.raises(NetopsyError, match=r"layers have 16 and 16 features, whose cross-covariances take 0\.0 GB"):
        cka(mlp(1), mlp(2), (X, labels(X)), estimator="exact")
    monkeypatch.setattr("netopsy.probes.cka.MEMORY", 8 * (16 * 16 + 4 * 64))
    cka(mlp(1), mlp(2), (X, labels(X)), estimator="exact")


def test_exact_needs_as_many_numbers_in_every_batch() -> None:
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(4, 2))
    with forked(0):
        data = [(torch.randn(5, 2, width), labels(X[:5])) for width in (7, 9)]
    assert set(cka(model, None, data, sites=["0", "1"]).frame.status) == {"ok"}
    with pytest.raises(NetopsyError, match="expected 14 numbers an example in every batch; got 18"):
        cka(model, None, data, sites=["0"], estimator="exact")


def test_it_is_saved_and_read_again(tmp_path: Path) -> None:
    result = cka(mlp(1), mlp(2), (X, labels(X)), batch_size=23)
    again = CKAResult.load(result.save(tmp_path / "cka"))
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    assert again.provenance == result.provenance
    assert list(result.to_frame()) == ["layer_a", "layer_b", "cka", "n", "batches", "status"]
    assert "on 46 examples; columns are the other network's layers" in str(again)
    with pytest.raises(NetopsyError, match="expected a saved CKAResult"):
        CKAResult.load(tmp_path)


def test_the_picture() -> None:
    result = cka(mlp(1), mlp(2), (X, labels(X)), batch_size=23)
    ax = result.plot(labels=("trained", "layer 2 rewound"))
    assert isinstance(ax, Axes)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("trained", "layer 2 rewound")
    shown = {text.get_text() for text in ax.texts}
    assert shown == {f"{value:.2f}".replace("-", "−").replace("0.", ".") for value in result.frame.cka}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "3"]
    with pytest.raises(NetopsyError, match="expected one row for a pair of layers"):
        cka_heatmap(pd.concat([result.frame, result.frame]))
    with pytest.raises(NetopsyError, match="missing cka"):
        cka_heatmap(result.frame.drop(columns="cka"))
    with pytest.raises(NetopsyError, match="vmin"):
        cka_heatmap(result.frame, vmin=1.0)
