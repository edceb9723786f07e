"""Theorem 3: drift in proportion to the step size, and none conserved without normalization; signs of its biases."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.network.trajectory import Trajectory
from netopsy.probes.norm_biases import NormBiases, norm_biases
from netopsy.probes.norm_conservation import norm_drift

with forked(0):
    X, Y = torch.randn(64, 5), torch.randn(64, 3)
RATES = [0.04, 0.02, 0.01]


def net(*middle: nn.Module) -> nn.Sequential:
    with forked(1):
        return nn.Sequential(nn.Linear(5, 6), *middle, nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("middle", "conserved", "other"),
    [
        ((nn.BatchNorm1d(6), nn.ReLU()), "drift", "drift_with_bias"),
        ((nn.ReLU(), nn.BatchNorm1d(6)), "drift_with_bias", "drift"),
    ],
    ids=["linear-bn-relu", "linear-relu-bn"],
)
def test_drift_is_proportional_to_the_step_size(middle: tuple[nn.Module, ...], conserved: str, other: str) -> None:
    frame = norm_drift(net(*middle), X, Y, rates=RATES, filters="0")
    assert frame.steps.tolist() == [25, 50, 100]
    ratios = frame[conserved].to_numpy() / np.array(RATES)
    assert (np.abs(ratios / ratios[-1] - 1) < 0.15).all()
    assert frame[conserved].iloc[-1] < 0.02
    if other == "drift":  # behind a ReLU it is weights and bias together
        assert frame[other].iloc[-1] > 5 * frame[conserved].iloc[-1]
        assert frame[other].iloc[-1] == pytest.approx(frame[other].iloc[0], rel=0.2)


def test_without_normalization_nothing_is_conserved() -> None:
    frame = norm_drift(net(nn.ReLU()), X, Y, rates=RATES, filters=["0"])
    for column in ("drift", "drift_with_bias"):
        assert frame[column].min() > 0.05
        assert frame[column].iloc[-1] == pytest.approx(frame[column].iloc[0], rel=0.1)


def test_filters_of_convolutions_and_the_change_itself() -> None:
    """The drift of one step by hand: the largest relative change of a filter's squared norm."""
    with forked(2):
        model = nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
        images, targets = torch.randn(8, 1, 3, 3).double(), torch.randn(8, 2).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frame = norm_drift(model, images, targets, rates=[0.1], duration=0.1)
    loss = (model(images) - targets).square().sum() / 2 / 8
    gradient = torch.autograd.grad(loss, model[0].weight)[0]
    squares = [(w * w).sum((1, 2, 3)).detach() for w in (model[0].weight, model[0].weight - 0.1 * gradient)]
    row = frame.iloc[0]
    assert (row.layer, row.steps) == ("0", 1)
    assert (
        row.drift == row.drift_with_bias == pytest.approx(float(((squares[1] - squares[0]).abs() / squares[0]).max()))
    )
    assert frame.layer.tolist() == ["0", "3"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.grad is None


def test_the_model_is_left_as_it_was_also_in_eval_mode() -> None:
    model = net(nn.BatchNorm1d(6), nn.ReLU()).eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    norm_drift(model, X, Y, rates=[0.1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model[0].weight.requires_grad, model[1].eps) == (False, False, 1e-5)


def test_divergence_is_a_status() -> None:
    frame = norm_drift(net(nn.ReLU()), X, Y, rates=[1e6], duration=3e7, filters="0")
    assert frame.status.tolist() == ["non-finite"]
    assert frame.drift.isna().all()


def test_a_dead_unit_breaks_nothing() -> None:
    model = net(nn.ReLU(), nn.BatchNorm1d(6))
    with torch.no_grad():
        model[0].bias[0] = -100
    frame = norm_drift(model, X, Y, rates=[0.01], duration=0.1, filters="0")
    assert frame.status.tolist() == ["ok"]


def test_signs_of_biases(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.BatchNorm1d(8, affine=False),
        nn.Linear(8, 2),
        nn.BatchNorm1d(2),
    )
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-1.0, -2.0, 3.0, 0.0]))
        model[5].bias.copy_(torch.tensor([-1.0, -1.0]))
    found = norm_biases(model)
    frame = found.to_frame().set_index("layer")
    assert frame.loc["1", ["channels", "positive", "negative", "mean", "status"]].tolist() == [4, 0.25, 0.5, 0, "ok"]
    assert frame.positive["5"] == 0
    assert frame.status["3"] == "no bias"
    assert np.isnan(frame.positive["3"])
    assert found.biases.bias.tolist() == [-1, -2, 3, 0, -1, -1]
    assert found.biases.layer.tolist() == ["1"] * 4 + ["5"] * 2
    assert isinstance(found.plot(columns=2), Figure)
    assert "no bias" in str(found)
    assert str(found).splitlines()[-1] == "66.7% of 6 biases are below 0: gates closed most of the time."
    again = NormBiases.load(found.save(tmp_path / "found"))
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame(), check_exact=True)
    pd.testing.assert_frame_equal(again.biases, found.biases, check_exact=True)
    assert again.provenance == found.provenance
    with pytest.raises(NetopsyError, match="expected a saved NormBiases; it has no layers"):
        NormBiases.load(tmp_path)
    run = Trajectory.from_states(model, {0: model.state_dict()})
    assert norm_biases(run).frame.equals(found.frame)
    silent = norm_biases(nn.Sequential(nn.BatchNorm1d(3, affine=False)))
    assert silent.biases.empty
    assert str(silent).endswith("No batch normalization has biases.")
    read = NormBiases.load(silent.save(tmp_path / "silent"))
    pd.testing.assert_frame_equal(read.biases, silent.biases, check_exact=True)
    pd.testing.assert_frame_equal(read.frame, silent.frame, check_exact=True)


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    model = net(nn.ReLU())
    with pytest.raises(NetopsyError, match=r"model: expected batch normalization .* Sequential has none"):
        norm_biases(model)
    with pytest.raises(NetopsyError, match=r"model: expected a torch module or a netopsy.Trajectory; got int"):
        norm_biases(3)  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match=r"model: expected a torch module; got int"):
        norm_drift(3, X, Y, rates=[0.1])  # type: ignore[arg-type]
    with pytest.raises(NetopsyError, match=r"filters: expected names of linear .* got '1'; there are 0, 2"):
        norm_drift(model, X, Y, rates=[0.1], filters="1")
    with pytest.raises(NetopsyError, match=r"filters: expected a linear or convolutional module; ReLU has none"):
        norm_drift(nn.ReLU(), X, Y, rates=[0.1])
    with pytest.raises(NetopsyError, match="rates: expected at least one step size; got none"):
        norm_drift(model, X, Y, rates=[])
    with pytest.raises(NetopsyError, match=r"rates: expected a number in \(0, inf\); got -1"):
        norm_drift(model, X, Y, rates=[-1.0])
    with pytest.raises(NetopsyError, match=r"duration: expected a number in \[2, inf\); got 1.0"):
        norm_drift(model, X, Y, rates=[2.0])
    with pytest.raises(NetopsyError, match="at least two examples, and as many targets; got 64 and 3"):
        norm_drift(model, X, Y[:3], rates=[0.1])
