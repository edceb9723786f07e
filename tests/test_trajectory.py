"""Checkpoints of every usual form are read lazily, come back bit for bit, and are refused where they do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._storage import write_state
from netopsy.network import tensor_files
from netopsy.network.addresses import named_state
from netopsy.network.trajectory import Trajectory
from tests.test_states import Net, net, save, state_of


def assert_same(model: nn.Module, state: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert found[name].numpy().tobytes() == value.numpy().tobytes(), name


# From states, files and folders ---------------------------------------------------------------------------------


def test_a_trajectory_of_states_gives_every_model_back() -> None:
    states = {0: state_of(0), 10: state_of(1), "final": state_of(2)}
    trajectory = Trajectory.from_states(net, states)
    assert trajectory.keys == (0, 10, "final")
    assert trajectory.final == "final"
    assert trajectory.initial == 0
    assert trajectory.factory is net
    for key, state in states.items():
        model = trajectory.model(key)
        assert_same(model, state)
        assert model.head.weight is model.embedding.weight  # type: ignore[union-attr]
        assert torch.equal(model.positions, torch.arange(3.0))  # type: ignore[arg-type]
        assert not any(module.training for module in model.modules())
    assert_same(trajectory.model(), states["final"])
    assert trajectory.state() is trajectory.state("final")


@pytest.mark.parametrize("form", [".pt", ".pth", ".bin", ".ckpt", ".safetensors", "legacy", "netopsy"])
def test_every_file_form_gives_the_model_back(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"1{form if form.startswith('.') else '.pt'}"
    if form == "netopsy":
        path = tmp_path / "1.safetensors"
        write_state(path, state_of(1))
    elif form == "legacy":
        save(path, state_of(1), _use_new_zipfile_serialization=False)
    else:
        save(path, state_of(1))
    assert_same(Trajectory.from_states(net, {1: path}).model(), state_of(1))
    assert_same(Trajectory.from_states(Net(), {1: str(path)}).model(), state_of(1))


def test_two_files_have_the_keys_0_and_final(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.pt", state_of(0)), save(tmp_path / "b.safetensors", state_of(1))
    trajectory = Trajectory.from_files(net, initial=one, final=str(two))
    assert trajectory.keys == (0, "final")
    assert trajectory.initial == 0
    assert_same(trajectory.model(0), state_of(0))
    assert_same(trajectory.model(), state_of(1))


@pytest.mark.parametrize("inner", [True, False])
def test_a_folder_is_sorted_by_number_and_mixes_forms(tmp_path: Path, inner: bool) -> None:
    folder = tmp_path / "checkpoints" if inner else tmp_path
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(
        ["epoch_10.pt", "epoch_2.safetensors", "v3-step-00100.ckpt", "last.pt", "best.pth"]
    ):
        save(folder / name, state_of(number))
    save(folder / "initial.pt", state_of(9))
    (folder / "notes.txt").write_text("not a checkpoint")
    (folder / "7.ckpt").mkdir()
    trajectory = Trajectory.from_folder(net, str(tmp_path))
    assert trajectory.keys == (0, 2, 10, 100, "best", "last")
    assert trajectory.final == "last"
    for key, seed in {0: 9, 10: 0, 2: 1, 100: 2, "last": 3, "best": 4}.items():
        assert_same(trajectory.model(key), state_of(seed))


def test_keys_are_kept_as_they_are_given() -> None:
    states = {"warm-up": state_of(0), 3: state_of(1), "3": state_of(2), 1: state_of(3)}
    trajectory = Trajectory.from_states(net, states, initial="warm-up")
    assert trajectory.keys == ("warm-up", 3, "3", 1)
    assert (trajectory.initial, trajectory.final) == ("warm-up", 1)
    assert torch.equal(trajectory.tensor("3", "attention.bias"), state_of(2)["attention.bias"])
    assert Trajectory.from_states(net, {1: state_of(0)}).initial is None


def test_a_module_may_stand_for_the_architecture() -> None:
    module = Net()
    before = {name: value.clone() for name, value in named_state(module).items()}
    trajectory = Trajectory.from_states(nn.DataParallel(module), {0: state_of(0)})
    assert trajectory.factory is None
    assert_same(trajectory.model(), state_of(0))
    assert all(torch.equal(value, before[name]) for name, value in named_state(module).items())
    assert module.training


def test_models_are_new_each_time() -> None:
    trajectory = Trajectory.from_states(net, {0: state_of(0)})
    with torch.no_grad():
        for value in named_state(trajectory.model()).values():
            value.zero_()
    assert_same(trajectory.model(), state_of(0))


def test_the_factory_leaves_no_trace_on_the_generators() -> None:
    state = state_of(0)
    before = torch.get_rng_state()
    Trajectory.from_states(net, {0: state}).model()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("form", ["memory", ".pt", ".safetensors"])
def test_a_trajectory_can_be_pickled(tmp_path: Path, form: str) -> None:
    given = state_of(4) if form == "memory" else save(tmp_path / f"4{form}", state_of(4))
    trajectory = Trajectory.from_states(net, {0: given})
    copy = pickle.loads(pickle.dumps(trajectory))
    assert copy.keys == trajectory.keys
    assert copy.factory is net
    assert_same(copy.model(), state_of(4))


# One tensor -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["both", "embedding.weight", "head.weight"])
def test_a_tied_tensor_answers_to_all_its_names(names: str) -> None:
    state = state_of(1)
    for name in {"embedding.weight", "head.weight"} - {names}:
        if names != "both":
            del state[name]
    trajectory = Trajectory.from_states(net, {1: state})
    for name in ("embedding.weight", "head.weight"):
        assert torch.equal(trajectory.tensor(1, name), state_of(1)["embedding.weight"])
    assert_same(trajectory.model(), state_of(1))


def test_a_buffer_that_is_not_saved_is_the_models(tmp_path: Path) -> None:
    assert torch.equal(Trajectory.from_states(net, {1: state_of(1)}).tensor(1, "positions"), torch.arange(3.0))


def test_a_buffer_that_is_saved_all_the_same_is_read(tmp_path: Path) -> None:
    state = {**state_of(1), "positions": torch.ones(3)}
    trajectory = Trajectory.from_states(net, {1: state})
    assert torch.equal(trajectory.tensor(1, "positions"), torch.ones(3))
    assert torch.equal(trajectory.model().positions, torch.ones(3))  # type: ignore[arg-type]


def test_tensors_carry_no_gradient(tmp_path: Path) -> None:
    state: dict[str, Tensor] = dict(named_state(Net()))
    del state["positions"]
    path = tmp_path / "1.pt"
    torch.save(state, path)
    for given in (state, path):
        trajectory = Trajectory.from_states(net, {1: given})
        assert not trajectory.tensor(1, "attention.weight").requires_grad
        assert not trajectory.tensor(1, "head.weight").requires_grad
        assert trajectory.model().attention.weight.requires_grad  # type: ignore[union-attr]


def test_a_missing_checkpoint_is_refused_with_what_there_is() -> None:
    trajectory = Trajectory.from_states(net, {5: state_of(0), "end": state_of(1)})
    for read in (trajectory.check_key, trajectory.model, trajectory.state, lambda key: trajectory.tensor(key, "a")):
        with pytest.raises(
            NetopsyError,
            match=r"trajectory: no checkpoint 0 \(the weights before training\); recorded are 5, 'end'; pass one of",
        ):
            read(0)
    with pytest.raises(
        NetopsyError, match=r"trajectory: no checkpoint '5'; recorded are 5, 'end'; pass one of these"
    ):
        trajectory.check_key("5")
    assert trajectory.check_key(5) == 5


def test_an_unknown_name_is_refused_with_near_names() -> None:
    trajectory = Trajectory.from_states(net, {5: state_of(0)})
    with pytest.raises(
        NetopsyError, match=r"Net has no parameter or buffer 'atention\.bias'; did you mean attention\."
    ):
        trajectory.tensor(5, "atention.bias")


# Read lazily ----------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that are read from safetensors files."""
    names: list[str] = []

    class Spy:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = states_open(*args, **kwargs)

        def __enter__(self) -> Spy:
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def get_tensor(self, name: str) -> Tensor:
            names.append(name)
            return self.inner.get_tensor(name)

    states_open = tensor_files.safe_open
    monkeypatch.setattr(tensor_files, "safe_open", Spy)
    return names


def test_a_safetensors_file_is_read_a_tensor_at_a_time(tmp_path: Path, reads: list[str], unchecked: None) -> None:
    for key in range(3):
        write_state(tmp_path / f"{key}.safetensors", state_of(key))
    trajectory = Trajectory.from_folder(net, tmp_path)
    state = trajectory.state(1)
    assert "head.weight" in state
    assert "other" not in state
    assert len(state) == len(state_of(0))
    assert set(state) == set(state_of(0))
    assert reads == []
    value = trajectory.tensor(1, "head.weight")
    assert reads == ["embedding.weight"]
    assert torch.equal(value, state_of(1)["embedding.weight"])
    trajectory.model(2)
    assert set(reads) >= {"attention.weight"}


# Wrappers and prefixes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_inside_a_training_checkpoint_is_found(tmp_path: Path, key: str) -> None:
    optimizer = torch.optim.Adam(Net().parameters()).state_dict()
    path = save(tmp_path / "3.pt", {key: state_of(3), "epoch": 3, "optimizer": optimizer})
    assert_same(Trajectory.from_states(net, {3: path}).model(), state_of(3))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_prefixes_of_wrappers_are_stripped(tmp_path: Path, prefix: str, suffix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in state_of(3).items()}
    path = tmp_path / f"3{suffix}"
    if suffix == ".pt":
        save(path, {"state_dict": state})
    else:
        write_state(path, state)  # with aliases
    assert_same(Trajectory.from_states(net, {3: path}).model(), state_of(3))


# Trajectories that cannot be ------------------------------------------------------------------------------------


def test_no_checkpoint_at_all_is_refused() -> None:
    with pytest.raises(NetopsyError, match="trajectory: expected at least one checkpoint; got none"):
        Trajectory.from_states(net, {})


def test_an_initial_checkpoint_that_is_not_there_is_refused() -> None:
    with pytest.raises(NetopsyError, match="trajectory: the initial checkpoint 3 is not among 1, 'b'"):
        Trajectory.from_states(net, {1: state_of(0), "b": state_of(1)}, initial=3)


@pytest.mark.parametrize("made", [None, Net, {"a": 1}])
def test_a_factory_that_returns_no_module_is_refused(unchecked: None, made: Any) -> None:
    with pytest.raises(
        NetopsyError, match=rf"factory: expected a function that returns a torch module; got {type(made).__name__}"
    ):
        Trajectory.from_states(lambda: made, {0: state_of(0)})


class Buffered(nn.Module):
    """A buffer that no state holds, drawn or not."""

    def __init__(self, drawn: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("mask", torch.randn(2) if drawn else torch.ones(2), persistent=False)


def test_a_factory_that_draws_what_is_not_saved_is_refused() -> None:
    model = Buffered(drawn=True)
    with pytest.raises(NetopsyError, match=r"mask, not saved \(persistent=False\), was drawn anew; save it, or pass"):
        Trajectory.from_states(lambda: Buffered(drawn=True), {0: model.state_dict()})
    kept = Trajectory.from_states(model, {0: model.state_dict()})
    assert torch.equal(kept.tensor(0, "mask"), model.get_buffer("mask"))
    given = {**model.state_dict(), "mask": model.get_buffer("mask")}
    assert torch.equal(
        Trajectory.from_states(lambda: Buffered(drawn=True), {0: given}).tensor(0, "mask"), given["mask"]
    )
    Trajectory.from_states(lambda: Buffered(drawn=False), {0: model.state_dict()})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: nn.Linear(2, 2, dtype=torch.complex64),
            "weight is torch.complex64; hold real and imaginary parts as",
        ),
        (lambda: nn.LazyLinear(2), r"weight has no shape yet \(a lazy module\)"),
    ],
)
def test_parameters_that_cannot_be_measured_are_refused(layer: Any, message: str) -> None:
    with pytest.raises(NetopsyError, match=f"model: expected .*{message}"):
        Trajectory.from_states(layer, {0: {}})


def test_nan_is_no_other_value_of_a_tied_weight() -> None:
    state = {name: value.clone() for name, value in state_of(0).items()}
    for name in ("embedding.weight", "head.weight"):
        state[name].fill_(torch.nan)
    assert Trajectory.from_states(net, {0: state}).tensor(0, "head.weight").isnan().all()


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with pytest.warns(FutureWarning, match="weight_norm"):
                self.layer = nn.utils.weight_norm(nn.Linear(3, 2))

    with pytest.raises(NetopsyError, match=r"model: expected one that copy.deepcopy takes; got layer\.weight, made "):
        Trajectory.from_states(Normed, {0: {}})


def test_a_folder_that_is_none_or_holds_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        NetopsyError, match=r"trajectory: expected a folder of checkpoint files; .*gone is not a folder"
    ):
        Trajectory.from_folder(net, tmp_path / "gone")
    (tmp_path / "3.txt").touch()
    (tmp_path / "3.ckpt").mkdir()
    with pytest.raises(NetopsyError, match=r"trajectory: .* holds no checkpoint file \(\.safetensors, \.pt, \.pth, "):
        Trajectory.from_folder(net, tmp_path)


@pytest.mark.parametrize(
    ("one", "two", "key"), [("epoch-3.pt", "epoch-03.pt", 3), ("0.pt", "init.pt", 0), ("a.pt", "a.pth", "'a'")]
)
def test_two_files_of_one_key_are_refused(tmp_path: Path, one: str, two: str, key: object) -> None:
    for name in (one, two):
        save(tmp_path / name, state_of(0))
    with pytest.raises(
        NetopsyError, match=rf"trajectory: .* and .* in .* both have the key {key}; name the files apart, or use Traj"
    ):
        Trajectory.from_folder(net, tmp_path)
