"""One model in a folder as Hugging Face libraries save it: one file, or shards and an index of them."""

from __future__ import annotations

import json
from pathlib import Path

from netopsy._checks import NetopsyError, shorten
from netopsy.network.tensor_files import TensorFile

MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What `from_pretrained` reads a model from, in the order it looks for them."""


def model_file(folder: Path) -> Path | None:
    """The file a folder's model is read from, or None where it holds no model."""
    return next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)


def check_model_file(folder: Path) -> Path:
    """As `model_file`; raises `NetopsyError` where it holds no model, and says what it holds."""
    file = model_file(folder)
    if file is None:
        held = shorten(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        adapter = "; merge the adapter into its model" if any(folder.glob("adapter_model.*")) else ""
        raise NetopsyError(
            f"checkpoint {folder}: expected a folder with one model ({', '.join(MODEL_FILES)}); it holds {held}; "
            f"pass the checkpoint's own folder or file, or write it again{adapter}"
        )
    return file


def read_index(path: Path) -> dict[str, tuple[TensorFile, str]]:
    """The tensors of a sharded model: name -> its file and its name there. No shard is opened.

    Raises:
        NetopsyError: when the index is damaged, a shard is missing, or one is said to lie elsewhere.
    """
    if not path.is_file():
        raise NetopsyError(f"checkpoint {path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NetopsyError(
            f"checkpoint {path}: expected an index of shards (JSON); it cannot be read ({error}); copy it again"
        ) from error
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise NetopsyError(
            f"checkpoint {path}: expected an index of shards with a weight_map from tensor to file; there is none; "
            "copy it again"
        )
    names = sorted(set(where.values()))
    elsewhere = [name for name in names if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0")]
    if elsewhere:
        raise NetopsyError(
            f"checkpoint {path}: expected shards beside the index; it names {shorten(map(repr, elsewhere))}, and "
            "netopsy reads nothing outside the folder; move the shards there and correct the index"
        )
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise NetopsyError(
            f"checkpoint {path}: expected {len(names)} shards beside the index; {shorten(missing)} not there; copy "
            "the whole folder"
        )
    files = {name: TensorFile(path.parent / name) for name in names}
    return {name: (files[shard], name) for name, shard in where.items()}
