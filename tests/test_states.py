"""One checkpoint: read without running its code, outlined without reading it, held against its model."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._storage import SCHEMA, write_state
from netopsy.network.states import StateFile, check_parameters, check_state
from netopsy.network.trajectory import Trajectory


class Net(nn.Module):
    """Every kind of value: parameters, tied ones, buffers that are saved and one that is not, integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.attention = nn.Linear(4, 12)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.arange(3.0), persistent=False)


def net() -> nn.Module:
    return Net()


def state_of(seed: int) -> dict[str, Tensor]:
    """A state as training would leave it: no two tensors alike, the tied ones the same."""
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in Net().state_dict().items():
        new = torch.randn(value.shape, generator=source) if value.is_floating_point() else value + seed
        state[name] = state["embedding.weight"] if name == "head.weight" else new
    return state


def save(path: Path, state: Any, **options: Any) -> Path:
    """With torch.save, or as a plain safetensors file."""
    if path.suffix == ".safetensors":
        save_file({name: value for name, value in state.items() if name != "head.weight"}, path)
    else:
        torch.save(state, path, **options)
    return path


def test_the_outline_of_a_tensor_is_its_shape_and_type(tmp_path: Path) -> None:
    state = {
        "matrix": torch.zeros(3, 0, 2),
        "scalar": torch.tensor(3),
        "half": torch.zeros(4, dtype=torch.bfloat16),
        "mask": torch.tensor([True]),
        "double": torch.zeros(2, dtype=torch.float64),
    }
    write_state(tmp_path / "a.safetensors", state)
    torch.save(state, tmp_path / "a.pt")
    for suffix in ("safetensors", "pt"):
        file = StateFile(tmp_path / f"a.{suffix}")
        for name, value in state.items():
            outline = file.outline(name)
            assert (outline.shape, outline.dtype) == (value.shape, value.dtype)
            assert torch.equal(file[name], value)
        with pytest.raises(KeyError):
            file["other"]


def test_a_prefix_that_only_some_names_have_is_a_name(tmp_path: Path) -> None:
    write_state(tmp_path / "a.safetensors", {"module.a": torch.zeros(1), "b": torch.zeros(1)})
    assert set(StateFile(tmp_path / "a.safetensors")) == {"module.a", "b"}


# States that do not fit -----------------------------------------------------------------------------------------


def test_a_state_with_missing_tensors_is_refused() -> None:
    state = state_of(0)
    del state["attention.bias"], state["norm.running_mean"]
    with pytest.raises(
        NetopsyError,
        match=r"checkpoint 7: expected the state of Net \(8 tensors\); missing attention\.bias, norm\.running_mean; "
        "it was saved from another model or is incomplete",
    ):
        Trajectory.from_states(net, {7: state})


def test_a_tied_tensor_is_missing_only_under_all_its_names() -> None:
    state = state_of(0)
    del state["embedding.weight"], state["head.weight"]
    with pytest.raises(NetopsyError, match=r"missing embedding\.weight; it was"):
        Trajectory.from_states(net, {0: state})


def test_a_state_with_extra_tensors_is_refused() -> None:
    with pytest.raises(
        NetopsyError, match=r"checkpoint 'a': expected .*; unknown classifier\.weight.*; it was saved"
    ):
        Trajectory.from_states(net, {"a": {**state_of(0), "classifier.weight": torch.zeros(2)}})


def test_a_misspelt_name_is_refused_with_the_near_one() -> None:
    state = state_of(0)
    state["atention.weight"] = state.pop("attention.weight")
    with pytest.raises(
        NetopsyError,
        match=r"missing attention\.weight; unknown atention\.weight; did you mean attention\.weight\?; it was saved",
    ):
        Trajectory.from_states(net, {0: state})


@pytest.mark.parametrize("suffix", ["memory", ".pt", ".safetensors"])
@pytest.mark.parametrize("name", ["attention.weight", "positions"])
def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, suffix: str, name: str) -> None:
    state = {**state_of(0), name: torch.zeros(1)}  # which would broadcast
    given = state if suffix == "memory" else save(tmp_path / f"a{suffix}", state)
    with pytest.raises(
        NetopsyError,
        match=rf"checkpoint 0: .*; {name} has shape \(1,\) where the model has \(.*\); build the model with",
    ):
        Trajectory.from_states(net, {0: given})


@pytest.mark.parametrize("suffix", ["memory", ".pt", ".safetensors"])
def test_a_tensor_of_another_type_is_refused(tmp_path: Path, suffix: str) -> None:
    state = state_of(0)
    state["attention.weight"] = state["attention.weight"].half()
    given = state if suffix == "memory" else save(tmp_path / f"a{suffix}", state)
    with pytest.raises(
        NetopsyError, match=r"attention\.weight is torch\.float16 where the model has torch\.float32; convert one of"
    ):
        Trajectory.from_states(net, {0: given})


@pytest.mark.parametrize("suffix", ["memory", ".pt", ".safetensors"])
def test_tied_tensors_with_two_values_are_refused(tmp_path: Path, suffix: str) -> None:
    state = {**state_of(0), "head.weight": torch.zeros(6, 4)}
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    elif suffix == ".safetensors":
        save_file(state, path)
    with pytest.raises(
        NetopsyError, match=r"embedding\.weight and head\.weight are one tied tensor in the model, but two with other"
    ):
        Trajectory.from_states(net, {0: state if suffix == "memory" else path})


def test_tied_tensors_with_one_value_are_accepted(tmp_path: Path) -> None:
    state = state_of(0)
    state["head.weight"] = state["embedding.weight"].clone()
    save_file(state, tmp_path / "a.safetensors")
    trajectory = Trajectory.from_states(net, {0: tmp_path / "a.safetensors"})
    assert torch.equal(trajectory.tensor(0, "head.weight"), state["head.weight"])
    diverged = {**state_of(0), "embedding.weight": torch.full((6, 4), torch.nan)}
    diverged["head.weight"] = diverged["embedding.weight"].detach()
    Trajectory.from_states(net, {0: diverged})


def test_what_is_no_tensor_is_refused(unchecked: None) -> None:
    state: dict[str, Any] = {**state_of(0), "attention.bias": state_of(0)["attention.bias"].numpy()}
    with pytest.raises(NetopsyError, match=r"attention\.bias is a ndarray; convert it with torch\.as_tensor"):
        check_state(state, Net(), "state")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_models_are_refused(kind: torch.dtype) -> None:
    message = rf"model: expected float32 or float64 parameters; .* is {kind} \(half precision\); convert the model"
    with pytest.raises(NetopsyError, match=message):
        check_parameters(Net().to(kind))
    with pytest.raises(NetopsyError, match=message):
        Trajectory.from_states(lambda: Net().to(kind), {0: state_of(0)})
    check_parameters(Net().double())


# Files that cannot be read --------------------------------------------------------------------------------------

lazily = pytest.mark.usefixtures("unchecked")  # the type checker would read the files to see what they map to


class Evil:
    """What a pickle may do to its reader: it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def dumped(content: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@lazily
@pytest.mark.parametrize(
    "form",
    [
        lambda evil: dumped({"a": torch.zeros(2), "b": evil}),
        lambda evil: dumped({"a": torch.zeros(2), "b": evil}, legacy=True),
        lambda evil: pickle.dumps({"a": evil}, protocol=2),
        lambda evil: pickle.dumps({"a": evil}),
    ],
    ids=["zip", "legacy", "pickle 2", "pickle"],
)
def test_code_in_a_file_is_never_run(tmp_path: Path, form: Callable[[Evil], bytes]) -> None:
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    path.write_bytes(form(Evil(trace)))
    with pytest.raises(NetopsyError, match=r"checkpoint .*a\.pt: (not a plain state|corrupt)"):
        Trajectory.from_states(net, {0: path})
    assert not trace.exists()


def test_the_file_above_would_run_code_in_a_careless_reader(tmp_path: Path) -> None:
    torch.load(io.BytesIO(dumped({"b": Evil(tmp_path / "trace")})), weights_only=False)
    assert (tmp_path / "trace").exists()


def script() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:  # what torch tells a TorchScript program by
        file.writestr("a/constants.pkl", pickle.dumps(()))
        file.writestr("a/data.pkl", pickle.dumps(()))
        file.writestr("a/version", "6\n")
    return archive.getvalue()


@lazily
@pytest.mark.parametrize(
    "content",
    [
        dumped(nn.Linear(2, 2)),
        dumped(nn.Linear(2, 2), legacy=True),
        dumped({"model": nn.Linear(2, 2)}),
        dumped({"state_dict": {}, "args": Path()}),
        script(),
    ],
    ids=["module", "legacy module", "module inside", "other object", "script"],
)
def test_a_pickle_of_more_than_tensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(
        NetopsyError,
        match=r"a\.pt: not a plain state: it pickles more than tensors.*, and netopsy runs no code of a file; save",
    ):
        Trajectory.from_states(net, {0: path})


@lazily
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (torch.zeros(3), "Tensor"),
        ([torch.zeros(3)], "list"),
        (3, "int"),
        (None, "NoneType"),
        ({"epoch": 3, "a": torch.zeros(1), "lr": 0.1}, "a mapping with other values under epoch, lr"),
        ({"state_dict": {"a": torch.zeros(1), "b": [1]}}, "a mapping with other values under b"),
        (OrderedDict(a=None), "a mapping with other values under a"),
        ({0: torch.zeros(1)}, "a mapping with other values under 0"),
    ],
)
def test_a_file_of_other_values_is_refused(tmp_path: Path, content: Any, what: str) -> None:
    path = save(tmp_path / "a.pt", content)
    with pytest.raises(
        NetopsyError,
        match=rf"a\.pt: not a plain state: expected a mapping from names to tensors; got {what}; save model\.state_d",
    ):
        Trajectory.from_states(net, {0: path})


def damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(
        NetopsyError, match=rf"checkpoint .*{re.escape(path.name)}: corrupt or truncated \(.+\); write"
    ):
        Trajectory.from_states(net, {0: path})


@lazily
@pytest.mark.parametrize("legacy", [True, False])
def test_a_truncated_torch_file_is_refused(tmp_path: Path, legacy: bool) -> None:
    content = dumped(state_of(0), legacy=legacy)
    for length in (0, 1, 10, 100, len(content) // 2, len(content) - 1):
        damage(tmp_path / "a.pt", content[:length])


@lazily
@pytest.mark.parametrize(
    "content",
    [b"<html>404 not found</html>", b"version https://git-lfs.github.com/spec/v1\n", b"plain words", b"\x80"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    damage(tmp_path / "a.pt", content)
    damage(tmp_path / "a.safetensors", content)


@lazily
def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    damage(tmp_path / "a.pt", archive.getvalue())


@lazily
def test_a_corrupt_or_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    content = save(tmp_path / "a.safetensors", state_of(0)).read_bytes()
    for length in (0, 4, 8, 100, len(content) - 1):
        damage(tmp_path / "a.safetensors", content[:length])
    damage(tmp_path / "a.safetensors", struct.pack("<Q", 2**60) + content[8:])
    damage(tmp_path / "a.safetensors", content[:20] + b"\xff\xff" + content[22:])


@lazily
def test_random_damage_is_read_or_refused_and_raises_nothing_else(tmp_path: Path) -> None:
    source = random.Random(0)
    for legacy in (True, False):
        whole = dumped({"a": torch.arange(4.0), "b": torch.zeros(2)}, legacy=legacy)
        refused = 0
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(3):
                content[source.randrange(len(content))] = source.randrange(256)
            (tmp_path / "a.pt").write_bytes(content)
            try:
                list(StateFile(tmp_path / "a.pt").items())
            except NetopsyError:
                refused += 1
        assert refused > 50


@lazily
def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for name in ("gone.pt", "gone.safetensors"):
        with pytest.raises(NetopsyError, match=rf"checkpoint .*{name}: no such file"):
            Trajectory.from_states(net, {0: tmp_path / name})


@lazily
def test_a_file_that_goes_away_later_is_refused_when_it_is_read(tmp_path: Path) -> None:
    trajectory = Trajectory.from_states(net, {0: save(tmp_path / "a.safetensors", state_of(0))})
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(NetopsyError, match=r"a\.safetensors: no such file"):
        trajectory.model()


@lazily
def test_a_file_of_a_newer_netopsy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"schema": str(SCHEMA + 1)})
    with pytest.raises(
        NetopsyError, match=rf"written with schema {SCHEMA + 1}, this netopsy reads up to {SCHEMA}; up"
    ):
        Trajectory.from_states(net, {0: path})


@lazily
def test_metadata_of_others_is_no_matter(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"format": "pt", "schema": "theirs"})
    assert torch.equal(StateFile(tmp_path / "a.safetensors")["a"], torch.ones(1))
