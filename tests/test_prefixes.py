"""A state of a module around the model, or inside it, is found under one prefix; nothing is guessed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.network import tensor_files
from netopsy.network.trajectory import Trajectory
from tests.test_states import net, save, state_of
from tests.test_trajectory import assert_same


def inner() -> nn.Module:
    """Its own names start with `model.`, as a Llama's do."""
    return nn.ModuleDict({"model": nn.Linear(2, 2), "head": nn.Linear(2, 1)})


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["model.", "net._orig_mod.", "a.b.c."])
@pytest.mark.parametrize("suffix", ["memory", ".pt", ".safetensors"])
def test_the_part_of_a_state_that_is_the_models_is_used(tmp_path: Path, prefix: str, suffix: str) -> None:
    state = {"loss.weight": torch.ones(2), **under(prefix, state_of(1)), "metric.total": torch.tensor(3)}
    if suffix == ".safetensors":
        del state[f"{prefix}head.weight"]  # a tied tensor's second name
    given: Any = state if suffix == "memory" else save(tmp_path / f"1{suffix}", state)
    trajectory = Trajectory.from_states(net, {1: given})
    assert_same(trajectory.model(), state_of(1))
    assert "loss.weight" not in trajectory.state(1)
    assert torch.equal(trajectory.tensor(1, "head.weight"), state_of(1)["head.weight"])
    copy = pickle.loads(pickle.dumps(trajectory))
    assert_same(copy.model(), state_of(1))


def test_a_part_of_a_file_is_read_a_tensor_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    path = save(tmp_path / "1.safetensors", {"other": torch.zeros(1), **under("m.", inner().state_dict())})
    read: list[str] = []
    whole = tensor_files.TensorFile.read
    monkeypatch.setattr(tensor_files.TensorFile, "read", lambda file, name: (read.append(name), whole(file, name))[1])
    trajectory = Trajectory.from_states(inner, {1: path})
    assert read == []
    trajectory.tensor(1, "head.bias")
    assert read == ["m.head.bias"]


def test_a_models_own_names_are_never_stripped() -> None:
    own = inner().state_dict()
    assert_same(Trajectory.from_states(inner, {0: own}).model(), own)
    assert_same(Trajectory.from_states(inner, {0: under("model.", own)}).model(), own)
    part = {"weight": own["model.weight"], "bias": own["model.bias"]}
    with pytest.raises(NetopsyError, match=r"several are: those under 'head\.', 'model\.'"):
        Trajectory.from_states(lambda: nn.Linear(2, 2), {0: own})
    assert_same(Trajectory.from_states(lambda: nn.Linear(2, 2), {0: under("model.", part)}).model(), part)


def test_a_state_with_all_the_models_names_is_its_own_though_a_part_would_do(unchecked: None) -> None:
    """Else what is under a prefix could be taken for a model that the rest of the state is part of."""
    state = {**state_of(0), **under("ema.", state_of(1))}
    with pytest.raises(NetopsyError, match=r"unknown ema\."):
        Trajectory.from_states(net, {0: state})


def test_several_parts_that_would_do_are_refused() -> None:
    state = {**under("student.", state_of(0)), **under("teacher.", state_of(1))}
    with pytest.raises(
        NetopsyError,
        match=r"checkpoint 3: expected one part of the state to be that of Net; several are: those under "
        r"'student\.', 'teacher\.'; say which, with Trajectory\.from_states",
    ):
        Trajectory.from_states(net, {3: state})


def test_a_part_that_lacks_a_tensor_is_not_the_models() -> None:
    state = under("model.", state_of(0))
    del state["model.attention.bias"]
    with pytest.raises(NetopsyError, match=r"missing .*attention\.bias.*; unknown model\."):
        Trajectory.from_states(net, {0: state})


def test_a_part_with_more_than_the_model_is_refused() -> None:
    state = {**under("model.", state_of(0)), "model.attention2.weight": torch.zeros(1)}
    with pytest.raises(NetopsyError, match=r"checkpoint 0: .*; unknown attention2\.weight; did you mean attention"):
        Trajectory.from_states(net, {0: state})


def test_a_part_of_other_shapes_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"head\.bias has shape \(3,\) where the model has \(1,\)"):
        Trajectory.from_states(inner, {0: under("m.", inner().state_dict()) | {"m.head.bias": torch.zeros(3)}})


def test_a_state_saved_inside_the_model_is_put_in_its_place(tmp_path: Path) -> None:
    def around() -> nn.Module:
        return nn.ModuleDict({"net": net()})

    for given in (state_of(1), save(tmp_path / "1.pt", state_of(1)), save(tmp_path / "1.safetensors", state_of(1))):
        assert_same(Trajectory.from_states(around, {1: given}).model(), under("net.", state_of(1)))


def test_a_state_that_would_leave_a_part_of_the_model_open_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"missing model\.weight.*head\.bias; unknown weight, bias"):
        Trajectory.from_states(inner, {0: nn.Linear(2, 2).state_dict()})
    with pytest.raises(NetopsyError, match=r"missing end\.weight, end\.bias; it was saved from another"):
        Trajectory.from_states(lambda: nn.ModuleDict({"net": net(), "end": nn.Linear(2, 2)}), {0: state_of(0)})
