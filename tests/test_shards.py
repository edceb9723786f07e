"""A model in several files is read a tensor at a time, from the one file that has it; a damaged one is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy.network import tensor_files
from netopsy.network.states import StateFile
from netopsy.network.trajectory import Trajectory
from tests.test_states import net, save, state_of
from tests.test_trajectory import assert_same

INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


def shard(folder: Path, state: dict[str, Tensor], suffix: str = "safetensors", *, parts: int = 3) -> Path:
    """As `save_pretrained` writes a model of several files; names take turns, and tied ones are written once."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = [name for name in state if not name.endswith("head.weight")]
    where = {}
    for part in range(parts):
        file = f"{stem}-{part + 1:05}-of-{parts:05}.{suffix}"
        held = {name: state[name] for name in names[part::parts]}
        where |= dict.fromkeys(held, file)
        if suffix == "safetensors":
            save_file(held, folder / file, metadata={"format": "pt"})
        else:
            torch.save(held, folder / file)
    (folder / INDEX[suffix]).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened."""
    names: list[str] = []
    safe_open, load = tensor_files.safe_open, torch.load

    def spy_open(path: Path, **options: Any) -> Any:
        names.append(path.name)
        return safe_open(path, **options)

    def spy_load(path: Path, **options: Any) -> Any:
        assert options["weights_only"] is True
        assert options["mmap"] is True
        names.append(path.name)
        return load(path, **options)

    monkeypatch.setattr(tensor_files, "safe_open", spy_open)
    monkeypatch.setattr(torch, "load", spy_load)
    return names


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_reading_a_tensor_opens_its_shard_and_no_other(
    tmp_path: Path, opened: list[str], suffix: str, unchecked: None
) -> None:
    state = StateFile(shard(tmp_path, state_of(1), suffix))
    assert "attention.bias" in state
    assert "other" not in state
    assert set(state) == set(state_of(1)) - {"head.weight"}
    assert opened == []
    assert torch.equal(state["attention.bias"], state_of(1)["attention.bias"])
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    assert set(opened) == {f"{stem}-00003-of-00003.{suffix}"}
    opened.clear()
    outline = state.outline("attention.weight")
    assert (outline.shape, outline.dtype) == ((12, 4), torch.float32)
    assert opened == [f"{stem}-00002-of-00003.{suffix}"]
    with pytest.raises(KeyError):
        state["other"]


def test_a_torch_shard_is_mapped_and_not_read(tmp_path: Path, opened: list[str], unchecked: None) -> None:
    folder = shard(tmp_path, state_of(1), "bin")
    trajectory = Trajectory.from_states(net, {1: folder})
    trajectory.model()
    assert sorted(opened) == [f"pytorch_model-{part:05}-of-00003.bin" for part in (1, 2, 3)]  # each once


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_give_the_model_back(tmp_path: Path, suffix: str, prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in state_of(1).items()}
    folder = shard(tmp_path / "a", state, suffix)
    trajectory = Trajectory.from_states(net, {0: folder, 1: str(folder / INDEX[suffix])})
    assert_same(trajectory.model(0), state_of(1))
    assert_same(trajectory.model(1), state_of(1))
    assert_same(pickle.loads(pickle.dumps(trajectory)).model(), state_of(1))


def test_a_prefix_of_one_shard_alone_is_a_name(tmp_path: Path) -> None:
    shard(tmp_path, {"module.a": torch.zeros(1), "b": torch.ones(1)}, parts=2)
    assert dict(StateFile(tmp_path)) == {"module.a": torch.zeros(1), "b": torch.ones(1)}


def test_two_folders_with_a_model_each_are_a_trajectory(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    save(tmp_path / "base" / "model.safetensors", state_of(0))
    (tmp_path / "base" / "config.json").write_text("{}")
    trajectory = Trajectory.from_files(
        net, initial=tmp_path / "base", final=str(shard(tmp_path / "tuned", state_of(1)))
    )
    assert trajectory.keys == (0, "final")
    assert_same(trajectory.model(0), state_of(0))
    assert_same(trajectory.model(), state_of(1))


def test_of_several_forms_that_is_read_which_transformers_reads(tmp_path: Path) -> None:
    for number, suffix in enumerate(("bin", "safetensors")):
        shard(tmp_path, state_of(number), suffix)
        assert_same(Trajectory.from_states(net, {1: tmp_path}).model(), state_of(number))
    save(tmp_path / "pytorch_model.bin", state_of(2))
    assert_same(Trajectory.from_states(net, {1: tmp_path}).model(), state_of(1))
    save(tmp_path / "model.safetensors", state_of(3))
    assert_same(Trajectory.from_states(net, {1: tmp_path}).model(), state_of(3))


# Damage ---------------------------------------------------------------------------------------------------------

lazily = pytest.mark.usefixtures("unchecked")  # the type checker would read the files to see what they map to


def refuse(folder: Path, match: str) -> None:
    with pytest.raises(NetopsyError, match=match):
        Trajectory.from_states(net, {0: folder})


@lazily
def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    (shard(tmp_path, state_of(0)) / "model-00002-of-00003.safetensors").unlink()
    refuse(
        tmp_path, r"expected 3 shards beside the index; model-00002-of-00003\.safetensors not there; copy the whole"
    )


@lazily
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_damaged_shard_is_refused(tmp_path: Path, suffix: str) -> None:
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    path = shard(tmp_path, state_of(0), suffix) / f"{stem}-00002-of-00003.{suffix}"
    path.write_bytes(path.read_bytes()[:-30])
    refuse(tmp_path, rf"checkpoint .*{stem}-00002-of-00003\.{suffix}: corrupt or truncated \(.+\); write or copy it")


@lazily
def test_an_index_that_places_a_tensor_in_another_shard_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path, state_of(0)) / "model-00003-of-00003.safetensors"
    held = load_file(path)
    bias = held.pop("attention.bias")
    save_file(held, path)
    message = (
        r"checkpoint .*model-00003-of-00003\.safetensors: expected a tensor attention\.bias, which the index beside "
        rf"it says is in it; it holds {len(held)} others; the index is of another checkpoint: write or copy the"
    )
    refuse(tmp_path, message)
    with pytest.raises(NetopsyError, match=message):
        StateFile(tmp_path)["attention.bias"]
    save_file({"attention.bias": bias, **held}, path)
    StateFile(tmp_path)["attention.bias"]


@lazily
@pytest.mark.parametrize("form", ["up", "absolute", "below", "windows", "drive", "empty", "here"])
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, form: str) -> None:
    folder = shard(tmp_path / "a", state_of(0))
    outside = save(tmp_path / "x.safetensors", state_of(0))
    name = {
        "up": "../x.safetensors", "absolute": str(outside), "below": "b/../../x.safetensors",
        "windows": r"..\x.safetensors", "drive": "c:x.safetensors", "empty": "", "here": ".",
    }[form]  # fmt: skip
    index = folder / INDEX["safetensors"]
    where = dict.fromkeys(json.loads(index.read_text())["weight_map"], name)
    index.write_text(json.dumps({"weight_map": where}))
    refuse(
        folder, "expected shards beside the index; it names .*, and netopsy reads nothing outside the folder; move"
    )


@lazily
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"<html>"])
def test_an_index_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (shard(tmp_path, state_of(0)) / INDEX["safetensors"]).write_bytes(content)
    refuse(tmp_path, r"index\.json: expected an index of shards \(JSON\); it cannot be read \(.*\); copy it again")


@lazily
@pytest.mark.parametrize("content", [[], 3, {}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map_is_refused(tmp_path: Path, content: Any) -> None:
    (shard(tmp_path, state_of(0)) / INDEX["safetensors"]).write_text(json.dumps(content))
    refuse(
        tmp_path, "expected an index of shards with a weight_map from tensor to file; there is none; copy it again"
    )


@lazily
def test_an_index_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "model.safetensors.index.json", r"index\.json: no such file")


@lazily
def test_a_folder_without_a_model_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    expected = r"expected a folder with one model \(model\.safetensors, model\.safetensors\.index\.json.*\); it holds"
    refuse(tmp_path, rf"{expected} nothing; pass the checkpoint's own folder or file, or write it again$")
    (tmp_path / "config.json").touch()
    refuse(tmp_path, rf"{expected} config\.json; pass")
    (tmp_path / "adapter_model.safetensors").touch()
    refuse(tmp_path, rf"{expected} adapter_model\.safetensors, config\.json; .*; merge the adapter into its model")
