"""Profiles along closed curves: the Jacobian norm at every angle, transitions in bins, and claim F2's ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.probes.jacobian_norm import jacobian_norm
from netopsy.probes.manifold_profile import EllipseProfile, ellipse_profile


@dataclass(frozen=True)
class Circle:
    """In the first two inputs."""

    radius: float = 1.0

    def at(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)


class Wave(nn.Module):
    """The norm of its logits' Jacobian is |2 - cos 3a| at the angle a: small at 0, large at π/3."""

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.atan2(x[:, 1], x[:, 0])
        first = 2 * angle - torch.sin(3 * angle) / 3
        return torch.stack([first, torch.zeros_like(first)], 1)


def test_the_profile_has_its_closed_form_at_every_angle() -> None:
    found = ellipse_profile(Wave(), [Circle()], points=48, output="logits")
    frame = found.to_frame()
    angle = 2 * math.pi * np.arange(48) / 48
    np.testing.assert_allclose(frame["angle"], angle)
    np.testing.assert_allclose(frame["value"], 2 - np.cos(3 * angle), rtol=1e-9)
    near = np.abs(np.arange(-2, 3)) * 2 * math.pi / 48  # ±π/12, ends included
    ratio = (2 + np.cos(3 * near)).mean() / (2 - np.cos(3 * near)).mean()
    assert found.ratios()["ratio"].tolist() == pytest.approx([ratio])


def test_nets_and_curves_are_averaged_and_the_band_is_over_nets() -> None:
    nets = [nn.Linear(2, 3) for _ in range(3)]
    found = ellipse_profile(nets, {"small": [Circle(), Circle(2.0)], "large": [Circle(9.0)]}, points=24)
    frame, profile = found.to_frame(), found.profile()
    assert len(frame) == 3 * 3 * 24
    assert profile["kind"].drop_duplicates().tolist() == ["small", "large"]
    t = torch.arange(24, dtype=torch.float64) / 24
    values = np.array([[jacobian_norm(net, Circle(r).at(t).float()).norms for r in (1.0, 2.0)] for net in nets])
    part = profile[profile["kind"] == "small"]
    mean = values.mean(1)
    np.testing.assert_allclose(part["mean"], mean.mean(0), rtol=1e-6)
    np.testing.assert_allclose(part["high"] - part["low"], 2 * mean.std(0, ddof=1) / math.sqrt(3), rtol=1e-5)
    assert found.ratios().groupby("kind").size().to_dict() == {"large": 3, "small": 3}


def test_transitions_are_counted_around_every_angle() -> None:
    places = [0.0, 0.999, 1 / 24, 1 / 24, 0.5 + 0.4 / 24]

    def transitions(model: nn.Module, path: Any) -> list[float]:
        return places

    found = ellipse_profile(nn.Linear(2, 3), [Circle()], points=24, quantity="transitions", transitions=transitions)
    counts = np.zeros(24)
    counts[0], counts[1], counts[12] = 2, 2, 1
    np.testing.assert_allclose(found.to_frame()["value"], counts * 24 / (2 * math.pi))
    np.testing.assert_allclose(found.to_frame()["value"].mean() * 2 * math.pi, len(places))
    assert "transitions per radian" in str(found)


def test_the_result_is_saved_loaded_and_printed(tmp_path: Path) -> None:
    found = ellipse_profile(Wave(), [Circle()], points=24, output="logits")
    again = EllipseProfile.load(found.save(tmp_path / "profile"))
    assert again.frame.equals(found.frame)
    assert again.provenance == found.provenance
    assert "Jacobian norm of the logits" in str(found)


def test_the_result_draws_the_mean_of_its_nets() -> None:
    nets = [nn.Linear(2, 3) for _ in range(2)]
    found = ellipse_profile(nets, {"small": [Circle()], "large": [Circle(9.0)]}, points=24)
    ax = found.plot(scale="linear")
    lines = [line for line in ax.lines if len(line.get_xdata()) == 25]
    profile = found.profile()
    for line, kind in zip(lines, ("small", "large"), strict=True):
        mean = profile[profile["kind"] == kind]["mean"].to_numpy()
        np.testing.assert_allclose(line.get_ydata(), [*mean, mean[0]])
    assert ax.get_ylabel() == "Jacobian norm of the probabilities"
    assert found.plot(ax, label="J") is ax
    assert ax.get_ylabel() == "J"


def test_transitions_are_drawn_over_a_window() -> None:
    found = ellipse_profile(
        nn.Linear(2, 3), [Circle()], points=24, quantity="transitions", transitions=lambda model, path: [0.5]
    )
    ax = found.plot(scale="linear")
    (line,) = (line for line in ax.lines if len(line.get_xdata()) == 25)
    heights = np.zeros(25)
    heights[11:14] = 24 / (2 * math.pi) / 3  # one in the window of three angles
    np.testing.assert_allclose(line.get_ydata(), heights, atol=1e-12)
    assert ax.get_ylabel() == "transitions per radian"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantity": "curvature"}, "quantity: expected one of"),
        ({"points": 12}, "points: expected an integer >= 24"),
        ({"points": 100}, "points: expected a multiple of 24; got 100; such as 96"),
        ({"quantity": "transitions"}, "transitions: expected a function"),
        ({"transitions": print}, "transitions: expected a function"),
        ({"paths": {"none": []}}, "at least one network, and at least one curve"),
        ({"models": []}, "at least one network, and at least one curve"),
        ({"quantity": "transitions", "transitions": lambda model, path: [2.0]}, r"places in \[0, 1\); got 2 to 2"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    arguments = {"models": nn.Linear(2, 3), "paths": [Circle()], "points": 24, **options}
    with pytest.raises(NetopsyError, match=message):
        ellipse_profile(arguments.pop("models"), arguments.pop("paths"), **arguments)
