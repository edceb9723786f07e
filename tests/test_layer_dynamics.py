"""The result of `layer_dynamics`: written and read again to the bit, printed, refused where it is damaged."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from netopsy._checks import NetopsyError
from netopsy._random import forked
from netopsy._storage import write_state
from netopsy.probes.layer_dynamics import LayerDynamics, LayerMoments, layer_dynamics


def found() -> LayerDynamics:
    with forked(0):
        inputs = torch.randn(20, 4)
        student, teacher = (nn.Sequential(nn.Linear(4, k), nn.ReLU(), nn.Linear(k, 2)) for k in (5, 3))
    return layer_dynamics(student, teacher, (inputs, inputs[:, 0]))


def test_a_saved_result_is_the_same_to_the_bit(tmp_path: Path) -> None:
    result = found()
    again = LayerDynamics.load(result.save(tmp_path / "result"))
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame(), check_exact=True)
    assert again.provenance == result.provenance
    assert len(again.moments) == 2
    for mine, theirs in zip(again.moments, result.moments, strict=True):
        for field in fields(LayerMoments):
            a, b = getattr(mine, field.name), getattr(theirs, field.name)
            assert a.dtype == b.dtype == torch.float64
            assert torch.equal(a, b)
    assert torch.equal(again.h_star(0, separated=True), result.h_star(0, separated=True))
    assert str(again) == str(result)
    assert "Means over 20 examples. Gaps are relative" in str(again)
    with pytest.raises(NetopsyError, match="it exists and is not empty"):
        result.save(tmp_path / "result")
    assert result.save(tmp_path / "result", overwrite=True) == tmp_path / "result"


def test_what_is_damaged_or_something_else_is_refused(tmp_path: Path) -> None:
    path = found().save(tmp_path / "result")
    write_state(path / "moments.safetensors", {"0.below": torch.zeros(2, 2)})
    with pytest.raises(
        NetopsyError, match=r"expected 22 matrices of 2 layers in moments.* it has 1; the file is dam"
    ):
        LayerDynamics.load(path)
    (path / "moments.safetensors").unlink()
    with pytest.raises(NetopsyError, match=r"moments\.safetensors"):
        LayerDynamics.load(path)
    with pytest.raises(NetopsyError, match="expected a saved LayerDynamics; it has no layers"):
        LayerDynamics.load(tmp_path)
