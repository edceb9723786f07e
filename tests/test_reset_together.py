"""Joint resets: every set against weights copied by hand, and the bisection against trying all sets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy.models.fcn import fcn
from netopsy.network.trajectory import Trajectory
from netopsy.probes.reset_together import ResetTogether, reset_together

N, LAYERS = 400, ["hidden.0", "hidden.1", "hidden.2", "hidden.3", "hidden.4", "hidden.5", "classifier"]


def network() -> nn.Module:
    return fcn(inputs=6, classes=3, depth=6, width=16)


def moved(step: float = 0.02) -> tuple[Trajectory, tuple[Tensor, Tensor]]:
    """Each layer moved further than the one before; labels are what the moved network answers."""
    with forked(0):
        model = network()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        end = {
            name: value + step * 2 ** LAYERS.index(name.rpartition(".")[0]) * torch.randn_like(value)
            for name, value in start.items()
        }
        x = torch.randn(N, 6)
    trajectory = Trajectory.from_states(network, {0: start, "final": end})
    with torch.no_grad():
        return trajectory, (x, trajectory.model()(x).argmax(1))


def by_hand(trajectory: Trajectory, data: tuple[Tensor, Tensor], names: list[str]) -> float:
    """Error with these layers back, in float64."""
    start, end = trajectory.state(0), trajectory.state()
    model = network().double()
    mine = tuple(f"{name}." for name in names)
    model.load_state_dict({name: (start if name.startswith(mine) else end)[name] for name in end})
    with torch.no_grad():
        return float((model(data[0].double()).argmax(1) != data[1]).double().mean())


@pytest.mark.parametrize("order", [None, LAYERS[::-1], ["hidden.2", "hidden.0", "classifier"]], ids=str)
def test_every_set_against_weights_copied_by_hand(order: list[str] | None) -> None:
    trajectory, data = moved()
    result = reset_together(trajectory, data, order=order, tolerance=0.3)
    names, frame = order or LAYERS, result.to_frame()
    assert 0 < len(frame) <= math.ceil(math.log2(len(names) + 1))
    for row in frame.itertuples():
        back = names[: row.sites]
        assert row.last == back[-1]
        assert row.error == pytest.approx(by_hand(trajectory, data, back), abs=1.01 / N)
        assert row.delta_error == pytest.approx(row.error)  # the network itself has none
        assert row.delta_error_low <= row.delta_error <= row.delta_error_high
        model = network()
        assert row.parameters == sum(p.numel() for name in back for p in model.get_submodule(name).parameters())
        assert row.share == row.parameters / sum(p.numel() for p in model.parameters())
    assert set(frame.n) == {N}


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.2, 0.4, 0.6, 0.9])
def test_the_largest_set_that_is_certified(tolerance: float) -> None:
    trajectory, data = moved()
    result = reset_together(trajectory, data, tolerance=tolerance)
    errors = [by_hand(trajectory, data, LAYERS[:count]) for count in range(len(LAYERS) + 1)]
    assert errors == sorted(errors)  # or a bisection would not find the largest
    count = len(result.chosen)
    assert list(result.chosen) == LAYERS[:count]
    assert errors[count] <= tolerance
    above = result.frame[result.frame.sites == count + 1]
    assert (count == len(LAYERS)) == above.empty
    assert (above.delta_error_high > tolerance).all()
    assert (f"{count} can go back at once" if count else "No set is certified") in str(result)


def test_intervals_hold_for_all_sets_at_once() -> None:
    trajectory, data = moved()
    alone = reset_together(trajectory, data, sites={"both": LAYERS[:2]}).frame
    pair = reset_together(trajectory, data, order=LAYERS[:2], tolerance=1.0).frame
    assert pair.sites.iloc[-1] == 2
    assert pair.delta_error.iloc[-1] == alone.delta_error.iloc[0]
    assert pair.delta_error_high.iloc[-1] > alone.delta_error_high.iloc[0]  # two looks in the place of one


def test_it_is_saved_and_tells_its_progress(tmp_path: Path) -> None:
    trajectory, data = moved()
    seen: list[tuple[int, int | None]] = []
    result = reset_together(trajectory, data, progress=lambda *done: seen.append(done))
    assert seen == [(done, 3) for done in range(1, len(result.frame) + 1)]
    result.save(tmp_path / "result")
    again = ResetTogether.load(tmp_path / "result")
    pd.testing.assert_frame_equal(again.frame, result.frame)
    assert again.chosen == result.chosen
    assert str(again) == str(result)
    assert again.provenance["checkpoint"] == 0


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    trajectory, data = moved()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"order": ["hidden.9"]}, "order: expected different names of sites .* got hidden.9"),
        ({"order": ["hidden.0", "hidden.0"]}, "order: expected different names"),
        ({"order": []}, "order: expected different names of sites .* got none"),
        ({"tolerance": 2}, "tolerance: expected a number"),
        ({"confidence": 1}, "confidence: expected a number"),
    ]
    for options, match in wrong:
        with pytest.raises(NetopsyError, match=match):
            reset_together(trajectory, data, **options)
    alone = Trajectory.from_states(network, {"final": trajectory.state()})
    with pytest.raises(NetopsyError, match="expected one with the weights before training"):
        reset_together(alone, data)
    with pytest.raises(NetopsyError, match=r"expected a netopsy\.Trajectory with checkpoint 0 .* got FCN"):
        reset_together(network(), data)  # type: ignore[arg-type]
