"""Jacobian norms against closed forms, `torch.func` and plain loops; and no trace on the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.engine.jacobian_first import Triangle, pays
from netopsy.engine.jacobian_products import through_softmax
from netopsy.engine.jacobians import pulling
from netopsy.network.task import Task
from netopsy.plots.jacobians import norm_histogram
from netopsy.probes.jacobian_norm import jacobian_norm
from netopsy.probes.jacobian_norm_result import JacobianNorms
from tests import zoo
from tests.oracles import jacobians as oracle
from tests.test_engine_traces import process, snapshot, stir_modes

CLASSES = 5


class Residual(nn.Module):
    """The input goes into a narrowing linear map, and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.head = nn.Linear(12, 4), nn.Linear(4, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(x + self.wide(torch.tanh(self.narrow(x)))))


class Inplace(nn.Module):
    """The output of the first linear map is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.relu, self.head = nn.Linear(12, 6), nn.ReLU(inplace=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.narrow(x)))


class Rewriting(nn.Module):
    """Writes over values that their gradients need: torch alone refuses to differentiate it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.first(x))
        h += x
        h = torch.tanh(h)
        return self.head(nn.functional.relu(h, inplace=True))

    def rewritten(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(torch.tanh(torch.sigmoid(self.first(x)) + x)))


class Encoder(nn.Module):
    """A transformer on tokens, each with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def rest(self, h: Tensor) -> Tensor:
        return self.head(self.layer(h).mean(1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.rest(self.embed(tokens))


class Rest(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, h: Tensor) -> Tensor:
        return self.encoder.rest(h)


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A model with generic weights in float64 and eval mode, and points."""
    with forked(3):
        models: dict[str, Any] = {
            "fcn": lambda: nn.Sequential(
                nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, CLASSES)
            ),
            "wide": lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, CLASSES)),
            "linear": lambda: nn.Linear(12, CLASSES),
            "per position": lambda: nn.Sequential(nn.Linear(6, 3), nn.GELU(), nn.Flatten(), nn.Linear(6, CLASSES)),
            "conv": lambda: nn.Sequential(
                nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(6, CLASSES),
            ),
            "residual": Residual,
            "inplace": Inplace,
        }  # fmt: skip
        shapes = {"conv": (1, 4, 3), "fcn": (3, 4), "per position": (2, 6)}
        model = models[name]()
        model.load_state_dict(zoo.fresh_state(model, 4))
        return model.double().eval(), torch.randn(23, *shapes.get(name, (12,)), dtype=torch.float64)


NAMES = ["fcn", "wide", "linear", "per position", "conv", "residual", "inplace"]


def by_jacrev(model: nn.Module, x: Tensor, *, softmax: bool) -> Tensor:
    def one(z: Tensor) -> Tensor:
        out: Tensor = model(z[None].clone())[0]
        return out.softmax(0) if softmax else out

    return torch.stack([torch.func.jacrev(one)(z).reshape(CLASSES, -1) for z in x]).detach()


@pytest.mark.parametrize("output", ["probabilities", "logits"])
@pytest.mark.parametrize("name", NAMES)
def test_norms_are_those_of_jacrev_and_of_a_loop(name: str, output: str) -> None:
    model, x = made(name)
    softmax = output == "probabilities"
    expected = by_jacrev(model, x, softmax=softmax)
    torch.testing.assert_close(oracle.by_class(model, x, softmax=softmax), expected, rtol=0, atol=1e-12)
    given = x.clone()
    found = jacobian_norm(model, given, output=output).norms
    np.testing.assert_allclose(found, expected.flatten(1).norm(dim=1), rtol=1e-10)
    assert torch.equal(given, x)
    largest = jacobian_norm(model, x, output=output, norm="spectral").norms
    np.testing.assert_allclose(largest, torch.linalg.matrix_norm(expected, 2), rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "first"),
    [("fcn", "1"), ("per position", "0"), ("inplace", "narrow"), ("wide", None), ("residual", None)],
)
def test_the_first_linear_map_is_left_out_where_it_narrows_the_input_and_is_its_only_way(
    name: str, first: str | None
) -> None:
    model, x = made(name)
    with pulling(model, Task(), ((x,), {})) as pullback:
        local = pullback.at(((x,), {}))
    assert (local.triangle is not None) == (first is not None)
    if first is not None:
        weight = model.get_submodule(first).weight.detach()
        assert local.triangle is not None
        lower = local.triangle.lower
        torch.testing.assert_close(lower @ lower.T, weight @ weight.T)


def test_a_triangle_of_several_blocks_keeps_lengths_in_both_precisions() -> None:
    with forked(2):
        weight = torch.randn(300, 320, dtype=torch.float64)
        weight[1] = weight[0] * (1 + 1e-9)  # one direction is all but lost
        rows = torch.randn(4, 2, 300, dtype=torch.float64)
    found = Triangle.of(weight).after(rows)
    lower = Triangle.of(weight).lower
    assert torch.equal(lower, lower.tril())
    torch.testing.assert_close(found, rows @ lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.norm(dim=-1), (rows @ weight).norm(dim=-1), rtol=1e-12, atol=0)
    single = Triangle.of(weight.float()).after(rows.float())
    torch.testing.assert_close(single.norm(dim=-1).double(), (rows @ weight).norm(dim=-1), rtol=1e-5, atol=0)


def test_a_triangle_pays_for_many_vectors_and_narrowing_maps_alone() -> None:
    assert not pays(torch.zeros(20, 12), 10**9)
    assert pays(torch.zeros(500, 784), 9000)
    assert not pays(torch.zeros(500, 784), 90)


def test_a_first_map_that_is_called_twice_is_left_as_it_is() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(12, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + torch.sin(self.a(2 * x))

    model, x = Twice().double().eval(), torch.randn(6, 12, dtype=torch.float64)
    expected = by_jacrev(model, x, softmax=True).flatten(1).norm(dim=1)
    np.testing.assert_allclose(jacobian_norm(model, x, chunk=6).norms, expected, rtol=1e-10)


@pytest.mark.parametrize("flatten", ["flatten", "view"])
def test_images_in_float32_are_laid_out_for_speed_where_the_model_does_not_mind(flatten: str) -> None:
    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
            self.head = nn.Linear(36, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.b(torch.relu(self.a(x))))
            return self.head(h.flatten(1) if flatten == "flatten" else h.view(len(h), -1))

    with forked(6):
        model, x = Convolutions().eval(), torch.randn(7, 3, 6, 6)
    with pulling(model, Task(), ((x,), {})) as pullback:
        layout = pullback.at(((x,), {})).leaf.is_contiguous(memory_format=torch.channels_last)
    assert layout == (flatten == "flatten")
    found = jacobian_norm(model, x).norms
    assert x.is_contiguous()
    exact = by_jacrev(model.double(), x.double(), softmax=True)
    np.testing.assert_allclose(found, exact.flatten(1).norm(dim=1), rtol=1e-5)


def test_a_way_around_the_first_linear_map_that_opens_later_is_seen() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nn.Linear(12, CLASSES), nn.Linear(12, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + (self.c(x) if len(x) > 8 else 0.0)

    model, x = Sometimes().double().eval(), torch.randn(23, 12, dtype=torch.float64)
    expected = (model.a.weight + model.c.weight).detach().norm()
    np.testing.assert_allclose(jacobian_norm(model, x, output="logits", chunk=23).norms, float(expected), rtol=1e-12)


def test_a_linear_softmax_model_has_its_closed_form() -> None:
    model, x = made("linear")
    p = model(x).softmax(1).detach()
    jacobian = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ model.weight.detach()
    np.testing.assert_allclose(jacobian_norm(model, x).norms, jacobian.flatten(1).norm(dim=1), rtol=1e-12)


def test_a_point_that_is_certain_keeps_its_precision() -> None:
    gap = 200.0  # 1 - p is 1e-87: nothing in float32, and nothing beside 1 in float64
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    x = torch.tensor([[gap, 0.0], [0.0, 0.0]])
    # J = p q [[1, -1], [-1, 1]], whose norm is 2 p q
    np.testing.assert_allclose(jacobian_norm(model, x).norms, [2 * math.exp(-gap), 0.5], rtol=1e-6)


def test_softmax_applied_to_vectors_is_the_matrix() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64)
    p = logits.softmax(1)
    vectors = torch.randn(6, 4, dtype=torch.float64)
    expected = ((torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ vectors[:, :, None])[:, :, 0]
    torch.testing.assert_close(through_softmax(p, vectors), expected)


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_a_model_that_writes_over_what_its_gradient_needs_is_differentiated(norm: str) -> None:
    with forked(5):
        model, x = Rewriting().double().eval(), torch.randn(9, 12, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="inplace"):
        by_jacrev(model, x, softmax=True)

    class Pure(nn.Module):
        forward = staticmethod(model.rewritten)

    expected = by_jacrev(Pure(), x, softmax=True)
    order: Any = "fro" if norm == "frobenius" else 2
    found = jacobian_norm(model, x, norm=norm, chunk=4).norms
    np.testing.assert_allclose(found, torch.linalg.matrix_norm(expected, order), rtol=1e-10)


def test_the_examples_done_are_told() -> None:
    model, x = made("fcn")
    told: list[tuple[int, int | None]] = []
    jacobian_norm(model, x, chunk=10, progress=lambda done, total: told.append((done, total)))
    assert told == [(10, 23), (20, 23), (23, 23)]


def test_finite_differences_agree() -> None:
    model, x = made("residual")

    def probabilities(z: Tensor) -> Tensor:
        with torch.no_grad():
            return model(z).softmax(1)

    found = jacobian_norm(model, x).norms
    for i in (0, 7):
        assert found[i] == pytest.approx(float(oracle.by_differences(probabilities, x[i]).norm()), rel=1e-7)


@pytest.mark.parametrize("as_dict", [True, False])
def test_a_transformer_on_tokens_is_differentiated_by_its_embeddings(as_dict: bool) -> None:
    with forked(1):
        model, tokens = Encoder().double().eval(), torch.randint(0, 11, (9, 4))
    data: Any = {"tokens": tokens} if as_dict else (tokens, torch.zeros(9, dtype=torch.long))
    found = jacobian_norm(model, data, embedding="embed")
    h = model.embed(tokens).detach()
    expected = oracle.by_class(Rest(model).eval(), h, softmax=True)
    np.testing.assert_allclose(found.norms, expected.flatten(1).norm(dim=1), rtol=1e-10)
    assert ("loss" in found.frame) == (not as_dict)


def test_a_hugging_face_model_is_read_by_the_task() -> None:
    case = zoo.case("bert")
    found = jacobian_norm(case.model, case.data, embedding="bert.embeddings.word_embeddings")
    assert (found.norms > 0).all()
    assert found.frame["label"].tolist() == case.labels.tolist()


def test_labels_give_loss_and_correctness_in_the_order_of_the_data() -> None:
    model, x = made("fcn")
    labels = torch.arange(23) % CLASSES
    labels[3] = -100
    frame = jacobian_norm(model, (x, labels)).to_frame()
    assert frame["index"].tolist() == list(range(23))
    logits = model(x).detach()
    right = (logits.argmax(1) == labels).tolist()
    right[3] = None
    assert [None if value is not True and value is not False and value is not np.True_ and value is not np.False_
            else bool(value) for value in frame["correct"]] == right  # fmt: skip
    loss = nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    loss[3] = np.nan
    np.testing.assert_allclose(frame["loss"], loss)
    np.testing.assert_array_equal(
        frame["norm"], jacobian_norm(model, [(x[:9], labels[:9]), (x[9:], labels[9:])]).norms
    )


def test_chunks_and_the_order_of_examples_change_nothing() -> None:
    model, x = made("conv")
    for options in ({}, {"norm": "spectral"}, {"projections": 3}):
        whole = jacobian_norm(model, x, **options).norms
        np.testing.assert_allclose(jacobian_norm(model, x, chunk=4, **options).norms, whole, rtol=1e-12)
        np.testing.assert_allclose(jacobian_norm(model, x, chunk=1, **options).norms, whole, rtol=1e-12)


def test_a_rotation_of_the_input_and_a_permutation_of_the_classes_change_nothing() -> None:
    model, x = made("linear")
    q = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    turned = nn.Sequential(nn.Linear(12, 12, bias=False), model).double().eval()
    with torch.no_grad():
        turned[0].weight.copy_(q.T)
    np.testing.assert_allclose(jacobian_norm(turned, x @ q.T).norms, jacobian_norm(model, x).norms, rtol=1e-10)
    order = Task(logits=lambda out: out[:, torch.tensor([3, 1, 4, 0, 2])])
    np.testing.assert_allclose(jacobian_norm(model, x, task=order).norms, jacobian_norm(model, x).norms, rtol=1e-10)


def test_mean_and_standard_error_are_those_of_norms() -> None:
    model, x = made("fcn")
    found = jacobian_norm(model, x)
    assert found.mean == pytest.approx(found.norms.mean())
    assert found.sem == pytest.approx(found.norms.std(ddof=1) / math.sqrt(23))
    np.testing.assert_allclose(found.squared, found.norms**2)


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_projections_are_unbiased_and_their_standard_error_is_honest(output: str) -> None:
    with forked(0):
        model = nn.Linear(8, 40).double()
        x = torch.randn(1, 8, dtype=torch.float64)
    exact = float(jacobian_norm(model, x, output=output).squared[0])
    found = jacobian_norm(model, x.expand(1500, -1).clone(), output=output, projections=10).to_frame()
    error = found["standard_error"].to_numpy() * 2 * found["norm"].to_numpy()
    square = found["norm"].to_numpy() ** 2
    spread = square.std()
    assert abs(square.mean() - exact) < 4 * spread / math.sqrt(1500)
    assert (error**2).mean() == pytest.approx(spread**2, rel=0.15)
    covered = (abs(square - exact) < 1.96 * error).mean()
    assert 0.86 < covered < 0.97  # of ten skewed values


def test_as_many_projections_as_dimensions_are_exact() -> None:
    model, x = made("fcn")
    found = jacobian_norm(model, x, projections=CLASSES - 1)
    np.testing.assert_allclose(found.norms, jacobian_norm(model, x).norms, rtol=1e-10)
    np.testing.assert_array_equal(found.frame["standard_error"], 0)
    again = jacobian_norm(model, x, projections=2, seed=1).norms
    assert (again != jacobian_norm(model, x, projections=2, seed=2).norms).all()
    np.testing.assert_array_equal(again, jacobian_norm(model, x, projections=2, seed=1).norms)


def test_float64_is_computed_where_it_is_asked_for() -> None:
    model, x = made("fcn")
    rounded = model.float()
    found = jacobian_norm(rounded, x.float(), dtype=torch.float64).norms
    np.testing.assert_allclose(found, jacobian_norm(rounded.double(), x.float().double()).norms, rtol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "efficient", "normed", "wrapped", "twice", "scripted", "hooked", "branch"])
def test_no_trace_is_left_on_the_model(name: str) -> None:
    model, data = zoo.build(name), zoo.case(name).data
    stir_modes(model)
    before, around = snapshot(model), process()
    jacobian_norm(model, data)
    with torch.no_grad():
        jacobian_norm(model, data, norm="spectral")
    assert snapshot(model) == before
    assert process() == around

    def loud(out: Any) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(Exception, match="stop"):
        jacobian_norm(model, data, task=Task(logits=loud))
    assert snapshot(model) == before
    assert process() == around


def test_inference_mode_outside_does_not_matter() -> None:
    model, x = made("fcn")
    expected = jacobian_norm(model, x).norms
    with torch.inference_mode():
        np.testing.assert_array_equal(jacobian_norm(model, x.clone()).norms, expected)


def test_the_result_is_saved_loaded_printed_and_drawn(tmp_path: Path) -> None:
    model, x = made("fcn")
    found = jacobian_norm(model, (x, torch.arange(23) % CLASSES), projections=3)
    again = JacobianNorms.load(found.save(tmp_path / "norms"))
    assert again.frame.equals(found.frame)
    assert again.provenance == found.provenance
    for word in ("all points", "correct", "wrong", "s.e.m.", "estimated from 3 directions"):
        assert word in str(found)
    assert "exact" in str(jacobian_norm(model, x))
    ax = found.plot()
    assert "‖∂f_σ/∂x‖_F" in ax.get_xlabel()
    assert len(ax.get_legend().get_texts()) == 2
    assert jacobian_norm(model, x).plot().get_legend() is None
    plt.close("all")


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1.2, 2.9, ["1.5", "2", "2.5"]), (0.3, 12, ["0.5", "1", "2", "5", "10"])]
)
def test_a_histogram_over_few_decades_has_plain_numbers(low: float, high: float, expected: list[str]) -> None:
    ax = norm_histogram(pd.DataFrame({"index": range(9), "norm": np.geomspace(low, high, 9)}))
    ax.figure.draw_without_rendering()
    left, right = ax.get_xlim()
    labels = [t.get_text() for t in ax.get_xticklabels() if left <= t.get_position()[0] <= right]
    assert set(expected) <= set(labels)
    assert not any(t.get_text() for t in ax.get_xticklabels(minor=True))
    plt.close("all")


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] - x[:, :3].roll(1, 0)


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Random(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class Views(nn.Module):
    """Writes to one of several views, through which torch passes no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = (2 * x).chunk(2, 1)
        a += b
        return a


X = torch.randn(12, 6)
REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no module": (3, X, {}, "model: expected a torch module or a netopsy.Trajectory; got int"),
    "output": (zoo.mlp(), X, {"output": "classes"}, "output: expected one of"),
    "norm": (zoo.mlp(), X, {"norm": "nuclear"}, "norm: expected one of"),
    "chunk": (zoo.mlp(), X, {"chunk": 0}, "chunk: expected an integer >= 1"),
    "dtype": (zoo.mlp(), X, {"dtype": torch.float16}, "dtype: expected torch.float32, torch.float64"),
    "half": (zoo.mlp().half(), X.half(), {}, "expected float32 or float64 parameters"),
    "few projections": (zoo.mlp(), X, {"projections": 1}, "projections: expected 2 to 2, the rank"),
    "many projections": (zoo.mlp(), X, {"projections": 4, "output": "logits"}, "projections: expected 2 to 3"),
    "both": (zoo.mlp(), X, {"projections": 2, "norm": "spectral"}, "expected norm='frobenius' with it"),
    "nan": (zoo.mlp(), X.clone().fill_(torch.nan), {}, "expected finite inputs; the data has NaN"),
    "nan in a loader": (zoo.mlp(), [(X, X[:, 0].long()), (X[:3] / 0, X[:3, 0].long())], {}, "finite inputs"),
    "batch norm": (nn.BatchNorm1d(6, track_running_stats=False), X, {}, "examples that do not act on each other"),
    "mixing": (Mixing(), X, {}, "examples that do not act on each other"),
    "views": (Views(), X, {}, "Views writes in place where no gradient can pass .* make a new value there"),
    "detached": (Detached(6, 3), X, {}, "logits that depend differentiably on the input; those of Detached"),
    "random": (Random(6, 3), X, {}, "not deterministic in eval mode"),
    "tokens": (Encoder(), torch.zeros(4, 3, dtype=torch.long), {}, "one floating input .* got 0 .* pass embedding="),
    "shape": (nn.Identity(), torch.randn(4, 3, 5), {}, r"logits: expected shape \(n, classes\)"),
    "one class": (nn.Linear(6, 1), X, {}, "at least 2 classes"),
    "no embedding": (zoo.mlp(), X, {"embedding": "hiden"}, "the model has no such module"),
    "two calls": (zoo.build("twice"), X, {"embedding": "a"}, "is called 2 times"),
    "labels": (zoo.mlp(), (X, torch.full((12,), 7)), {}, "expected labels from 0 to 2"),
    "classes": (zoo.mlp(), (X, X), {}, "targets: expected integer class labels"),
}  # fmt: skip


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_what_to_do(case: str) -> None:
    model, data, options, message = REFUSED[case]
    with pytest.raises(NetopsyError, match=message):
        jacobian_norm(model, data, **options)


def test_an_embedding_that_the_logits_do_not_need_is_refused() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return self.used(x)

    with pytest.raises(NetopsyError, match="do not depend differentiably on its output"):
        jacobian_norm(Unused(), X, embedding="idle")
