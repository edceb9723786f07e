"""The bounds of Novak et al. (2018), A.3: where their assumptions hold they are met; the columns by plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy.probes.jacobian_bounds import JacobianBounds, jacobian_bounds
from tests.oracles import jacobians as oracle
from tests.test_jacobian_norm import made

N, INPUTS, LENGTH = 6, 9, 1.7


def orthogonal() -> nn.Linear:
    """Logits whose gradients are orthogonal and of one length."""
    model = nn.Linear(INPUTS, N, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(LENGTH * torch.linalg.qr(torch.randn(INPUTS, INPUTS, dtype=torch.float64)).Q[:N])
    return model


def test_equation_7_is_met_exactly_where_the_other_classes_share_the_rest() -> None:
    model = orthogonal()
    wanted = torch.zeros(8, N, dtype=torch.float64)
    labels = torch.arange(8) % N
    wanted[torch.arange(8), labels] = torch.linspace(-3, 60, 8, dtype=torch.float64)
    x = wanted @ model.weight.detach() / LENGTH**2
    found = jacobian_bounds(model, (x, labels))
    frame = found.to_frame()
    np.testing.assert_allclose(frame["norm"], frame["approximate"], rtol=1e-8)
    np.testing.assert_allclose(frame["norm_y"], frame["lower"], rtol=1e-8)  # Equation 5, left: equal others
    np.testing.assert_allclose(frame["logit_ratio"], 1)
    np.testing.assert_allclose(frame["logit_spread"], 0, atol=1e-12)
    np.testing.assert_allclose(frame["cross_share"], 0, atol=1e-8)
    assert found.provenance["logit_square"] == pytest.approx(LENGTH**2)
    assert found.share_within == found.share_above == 1


def test_the_upper_bound_is_met_where_one_other_class_has_the_rest() -> None:
    model = orthogonal()
    wanted = torch.full((1, N), -500.0, dtype=torch.float64)
    wanted[0, 0], wanted[0, 1] = 1.0, 0.0
    frame = jacobian_bounds(model, (wanted @ model.weight.detach() / LENGTH**2, torch.tensor([0]))).to_frame()
    np.testing.assert_allclose(frame["norm_y"], frame["upper"], rtol=1e-10)
    p = 1 / (1 + math.exp(-1))
    assert frame["upper"][0] == pytest.approx(math.sqrt(2) * LENGTH * p * (1 - p))


@pytest.mark.parametrize("name", ["fcn", "conv", "residual"])
def test_measured_columns_are_those_of_a_loop(name: str) -> None:
    model, x = made(name)
    labels = torch.arange(len(x)) % 5
    found = jacobian_bounds(model, (x, labels), chunk=6)
    frame, rows = found.to_frame(), torch.arange(len(x))
    full, logits = oracle.by_class(model, x, softmax=True), oracle.by_class(model, x, softmax=False)
    square = float(logits.square().sum((1, 2)).mean() / 5)
    assert found.provenance["logit_square"] == pytest.approx(square)
    np.testing.assert_allclose(frame["norm"], full.flatten(1).norm(dim=1), rtol=1e-8)
    np.testing.assert_allclose(frame["norm_y"], full[rows, labels].norm(dim=1), rtol=1e-8)
    lengths = logits.norm(dim=2)
    np.testing.assert_allclose(frame["logit_ratio"], lengths.square().mean(1) / square, rtol=1e-8)
    np.testing.assert_allclose(frame["logit_spread"], lengths.std(1, correction=0) / lengths.mean(1), rtol=1e-8)
    p = model(x).detach().softmax(1)
    a = -p[rows, labels][:, None] * p
    a[rows, labels] += p[rows, labels]
    straight = (a.square() * lengths.square()).sum(1)
    np.testing.assert_allclose(frame["cross_share"], 1 - straight / full[rows, labels].square().sum(1), rtol=1e-7)
    loss = -p[rows, labels].log()
    np.testing.assert_allclose(frame["loss"], loss, rtol=1e-10)
    right = np.exp(-loss.numpy())
    np.testing.assert_allclose(frame["lower"], math.sqrt(5 / 4 * square) * right * (1 - right), rtol=1e-8)
    assert found.share_within == ((frame.norm_y >= frame.lower) & (frame.norm_y <= frame.upper)).mean()


def test_points_without_a_label_that_counts_are_left_out() -> None:
    model, x = made("fcn")
    labels = torch.arange(len(x)) % 5
    labels[2] = -100
    found = jacobian_bounds(model, (x, labels)).to_frame()
    assert found["index"].tolist() == [0, 1, *range(3, len(x))]


def test_the_result_is_saved_loaded_and_printed(tmp_path: Path) -> None:
    model, x = made("fcn")
    found = jacobian_bounds(model, (x, torch.arange(len(x)) % 5))
    again = JacobianBounds.load(found.save(tmp_path / "bounds"))
    assert again.frame.equals(found.frame)
    assert again.provenance == found.provenance
    for word in ("Eq. 5", "Eq. 6", "Eq. 7", "logit_ratio", "cross_share"):
        assert word in str(found)


def test_labels_are_needed() -> None:
    model, x = made("fcn")
    with pytest.raises(NetopsyError, match="expected labels beside the inputs"):
        jacobian_bounds(model, x)
    with pytest.raises(NetopsyError, match="labels that count"):
        jacobian_bounds(model, (x, torch.full((len(x),), -100)))
