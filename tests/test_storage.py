"""Files are whole or the old ones; states, tables and manifests come back as they were written."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._storage import (
    SCHEMA,
    Scratch,
    check_schema,
    new_folder,
    read_json,
    read_table,
    sweep_temporaries,
    write_atomic,
    write_json,
    write_state,
    write_table,
)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


# Atomic writes --------------------------------------------------------------------------------------------------


def test_an_atomic_write_makes_the_folder_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(path, lambda temporary: temporary.write_text("whole"))
    assert path.read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [True, False])
def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, interruption: type[BaseException], there: bool
) -> None:
    path = tmp_path / "file.txt"
    if there:
        path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("ha")
        raise interruption

    with pytest.raises(interruption):
        write_atomic(path, write)
    assert [entry.name for entry in tmp_path.iterdir()] == (["file.txt"] if there else [])
    assert not there or path.read_text() == "old"


def test_a_file_that_is_being_written_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        seen.extend(tmp_path.glob("*.safetensors"))
        assert temporary.parent == tmp_path  # a rename across file systems would not be atomic
        temporary.write_text("")

    write_atomic(tmp_path / "0.safetensors", write)
    assert seen == []


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_written_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    write_json(tmp_path / "manifest.json", {})
    write_state(tmp_path / "state.safetensors", {"a": torch.zeros(2)})
    write_table(tmp_path / "table.parquet", pd.DataFrame({"a": [1]}))
    for name in ("manifest.json", "state.safetensors", "table.parquet"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected, name


# States ---------------------------------------------------------------------------------------------------------


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(0)
    state = {
        "matrix": torch.randn(3, 4, generator=source),
        "double": torch.randn(2, generator=source, dtype=torch.float64),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 3),
        "also nothing": torch.zeros(0, 3),
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    write_state(tmp_path / "s.safetensors", state, epoch=3, note="é")
    read = load_file(tmp_path / "s.safetensors")
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
        assert read[name].numpy().tobytes() == value.detach().numpy().tobytes(), name
    header = metadata(tmp_path / "s.safetensors")
    assert {name: json.loads(value) for name, value in header.items()} == {
        "schema": SCHEMA,
        "aliases": {},
        "epoch": 3,
        "note": "é",
    }


def test_tied_tensors_are_written_once(tmp_path: Path) -> None:
    weight = torch.randn(50, 20)
    write_state(tmp_path / "s.safetensors", {"a": weight, "b": torch.zeros(1), "c": weight, "d": weight.detach()})
    assert json.loads(metadata(tmp_path / "s.safetensors")["aliases"]) == {"c": "a", "d": "a"}
    assert load_file(tmp_path / "s.safetensors").keys() == {"a", "b"}
    assert (tmp_path / "s.safetensors").stat().st_size < 1.2 * weight.nbytes


def test_views_of_one_storage_are_written_as_what_they_show(tmp_path: Path) -> None:
    whole = torch.arange(1000.0).reshape(10, 100)
    state = {
        "whole": whole,
        "flat": whole.view(-1),
        "turned": whole.t(),
        "row": whole[3],
        "again": whole.view(100, 10),
    }
    write_state(tmp_path / "s.safetensors", state)
    read = load_file(tmp_path / "s.safetensors")
    assert metadata(tmp_path / "s.safetensors")["aliases"] == "{}"
    assert all(torch.equal(read[name], value) for name, value in state.items())
    write_state(tmp_path / "row.safetensors", {"row": whole[3]})
    assert (tmp_path / "row.safetensors").stat().st_size < 1000


def test_a_state_that_makes_its_tensors_on_the_way_is_not_taken_for_tied(tmp_path: Path) -> None:
    class Lazy(Mapping[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            return torch.full((40, 90), float(name))[:, :30]  # a view: its memory is free when it has been copied

        def __iter__(self) -> Iterator[str]:
            return map(str, range(30))

        def __len__(self) -> int:
            return 30

    write_state(tmp_path / "s.safetensors", Lazy())
    read = load_file(tmp_path / "s.safetensors")
    assert {name: float(value[0, 0]) for name, value in read.items()} == {str(i): float(i) for i in range(30)}


# Tables and manifests -------------------------------------------------------------------------------------------


def test_a_table_comes_back_with_its_metadata(tmp_path: Path) -> None:
    frame = pd.DataFrame({"site": ["a", None], "error": [0.25, float("nan")], "n": [1, 2]})
    write_table(tmp_path / "t.parquet", frame, config={"lr": 0.1})
    read = read_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read, frame)
    assert read.attrs == {"schema": SCHEMA, "config": {"lr": 0.1}}
    assert frame.attrs == {}


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"name": "μ", "keys": [0, 1]})
    assert read_json(tmp_path / "m.json") == {"schema": SCHEMA, "name": "μ", "keys": [0, 1]}


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "m.json")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", pd.DataFrame({"a": range(100)}))
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(NetopsyError, match=r"t\.parquet: expected a Parquet file written by netopsy; it cannot be r"):
        read_table(tmp_path / "t.parquet")
    for content in (b'{"schema": 1', b"", b"\xff\xfe"):
        (tmp_path / "m.json").write_bytes(content)
        with pytest.raises(NetopsyError, match=r"m\.json: expected JSON written by netopsy; it cannot be read"):
            read_json(tmp_path / "m.json")


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(NetopsyError, match=r"t\.parquet: expected a file written by netopsy; it has no schema ver"):
        read_table(tmp_path / "t.parquet")
    for content in ('{"keys": []}', "[1, 2]", '{"schema": "http://json-schema.org"}', '{"schema": null}'):
        (tmp_path / "m.json").write_text(content)
        with pytest.raises(NetopsyError, match=r"m\.json: expected a file written by netopsy; it has no schema ver"):
            read_json(tmp_path / "m.json")


def test_files_of_a_newer_netopsy_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["schema"] = SCHEMA + 1
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "m.json").write_text(json.dumps({"schema": SCHEMA + 1}))
    newer = rf"written with schema {SCHEMA + 1}, this netopsy reads up to {SCHEMA}; upgrade netopsy to read it"
    with pytest.raises(NetopsyError, match=newer):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(NetopsyError, match=newer):
        read_json(tmp_path / "m.json")
    with pytest.raises(NetopsyError, match=newer):
        check_schema(tmp_path, str(SCHEMA + 1))
    check_schema(tmp_path, str(SCHEMA))


# Folders --------------------------------------------------------------------------------------------------------


def test_a_new_folder_is_made_and_an_empty_one_taken(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert new_folder(path) == path
    assert path.is_dir()
    assert new_folder(path) == path


def test_a_folder_with_files_is_refused_unless_told_and_nothing_in_it_is_lost(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(NetopsyError, match=r"it exists and is not empty; choose another path or pass overwrite=True"):
        new_folder(tmp_path)
    assert new_folder(tmp_path, overwrite=True) == tmp_path
    assert (tmp_path / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_is_no_folder(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NetopsyError, match="expected a folder; it is a file; choose another path"):
        new_folder(tmp_path / "file", overwrite=overwrite)


def test_a_scratch_folder_goes_with_its_object() -> None:
    scratch, other = Scratch(), Scratch()
    path = scratch.path
    (path / "file").touch()
    assert other.path != path
    del scratch
    assert not path.exists()
    assert other.path.is_dir()


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    def killed(path: Path) -> None:
        path.write_bytes(b"half")
        os.rename(path, tmp_path / "kept aside")
        raise KeyboardInterrupt

    for name in ("table.parquet", ".lock", ".table.parquet", f"table.{'0' * 16}", f".table.{'g' * 16}", ".a.0123"):
        (tmp_path / name).touch()
    others = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "table.parquet", killed)
    left = tmp_path / f".table.parquet.{'0123456789abcdef'}"
    (tmp_path / "kept aside").rename(left)
    sweep_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == others
    sweep_temporaries(tmp_path / "nowhere")
