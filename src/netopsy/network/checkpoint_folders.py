"""Which files of a folder are the checkpoints of one run, and under which keys.

Known are plain files, the folders that netopsy writes, those of the Hugging Face Trainer and those of Lightning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from netopsy._checks import NetopsyError, shorten
from netopsy._typing import Key
from netopsy.network.shards import check_model_file, model_file
from netopsy.network.states import StateFile
from netopsy.network.tensor_files import SUFFIXES, read_torch

BESIDE_A_MODEL = re.compile(
    r"(training_args|optimizer|scheduler|scaler|sampler|rng_state\w*)\.(bin|pt|pth|safetensors)"
    r"|(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)"
)
"""Files that the Trainer writes which are no checkpoints of their own."""

LOGGED = ("version_*/checkpoints", "*/version_*/checkpoints")
"""Where Lightning puts the checkpoints of a run whose logger makes the folders."""


def find_checkpoints(folder: Path) -> dict[Key, Path]:
    """The checkpoints of a run by key, in training order: numbers first, then names.

    - Hugging Face Trainer: the model in each `checkpoint-<step>/`, and `final` for one in the folder itself.
    - Lightning: the step in a file's name (`epoch=3-step=40.ckpt`), else the step it was saved at; `last` for a
      `last.ckpt` that is not one of the others. They are looked for in the folder, in `checkpoints/` and in
      `lightning_logs/version_0/checkpoints/`.
    - Other files, such as those of netopsy: the last number in the name (`epoch_12.pt` is 12), or the name
      (`initial` is 0).

    Raises:
        NetopsyError: the folder is missing, holds no checkpoint or those of several runs, two have one key, or a
            checkpoint without a model.
    """
    if not folder.is_dir():
        raise NetopsyError(f"trajectory: expected a folder of checkpoint files; {folder} is not a folder")
    files = _files(folder)
    plain = [file for file in files if not BESIDE_A_MODEL.fullmatch(file.name)]
    inner = folder / "checkpoints"
    places = [inner] if _files(inner) else [folder] if files else []
    places += [place for pattern in LOGGED for place in sorted(folder.glob(pattern)) if _files(place)]
    models = _models(folder, plain)
    if models:
        others = [str(other.relative_to(folder)) for other in (*plain, *places) if other != folder]
        if others:
            raise NetopsyError(
                f"trajectory: expected the checkpoints of one run in {folder}; it holds both models of Hugging Face "
                f"({shorten(model.relative_to(folder) for model in models.values())}) and other checkpoints "
                f"({shorten(others)}); move one of them elsewhere, or use Trajectory.from_states with your own keys"
            )
        return models
    if len(places) > 1:
        raise NetopsyError(
            f"trajectory: expected the checkpoints of one run in {folder}; there are several: "
            f"{shorten(places, 12)}; pass one of these"
        )
    if not places:
        raise NetopsyError(
            f"trajectory: {folder} holds no checkpoint file ({', '.join(SUFFIXES)}), nor checkpoint-<step>/ of a "
            "Trainer, nor checkpoints/ of a run; pass the folder that has them"
        )
    return _keyed(places[0])


def _files(folder: Path) -> list[Path]:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if entry.suffix in SUFFIXES and entry.is_file()]


def _models(folder: Path, others: list[Path]) -> dict[Key, Path]:
    """The models of a Hugging Face folder; none where one called `model` is a plain file among others."""
    steps: dict[Key, Path] = {}
    for entry in sorted(folder.glob("checkpoint-*")):
        if entry.is_dir() and re.fullmatch(r"checkpoint-\d+", entry.name):
            step = int(entry.name.removeprefix("checkpoint-"))
            if step in steps:
                raise _same_key(steps[step], entry, step)
            steps[step] = entry
    models: dict[Key, Path] = {step: check_model_file(steps[step]) for step in sorted(steps, key=int)}
    final = model_file(folder)
    if final and not models and final.name in ("model.safetensors", "pytorch_model.bin"):
        theirs = any((folder / name).is_file() for name in ("config.json", "training_args.bin"))
        final = final if theirs and all(other.suffix == ".ckpt" for other in others) else None
    return models | ({"final": final} if final else {})


def _keyed(folder: Path) -> dict[Key, Path]:
    """The files of a folder by key; those that Lightning wrote twice once."""
    keyed: dict[Key, Path] = {}
    last: dict[Path, int] = {}
    for file in _files(folder):
        step = _lightning_step(file)
        key: Key = _key(file) if step is None else step
        if step is not None and re.fullmatch(r"last(-v\d+)?", file.stem):
            last[file] = step
        elif key not in keyed:
            keyed[key] = file
        elif step is None or not _equal(keyed[key], file):
            raise _same_key(keyed[key], file, key)
    order = sorted(keyed, key=lambda key: (isinstance(key, str), key if isinstance(key, int) else 0, str(key)))
    ordered = {key: keyed[key] for key in order}
    for file in sorted(last, key=lambda file: (len(file.stem), file.stem)):  # -v10 after -v9
        if last[file] not in keyed or not _equal(keyed[last[file]], file):
            ordered[file.stem] = file
    return ordered


def _key(file: Path) -> Key:
    """The last number in a file's name, or the name."""
    numbers = re.findall(r"\d+", file.stem)
    return int(numbers[-1]) if numbers else 0 if file.stem in ("init", "initial") else file.stem


def _lightning_step(file: Path) -> int | None:
    """The step of a file that Lightning wrote: of its name, or the one inside. None for another's file."""
    if file.suffix != ".ckpt":
        return None
    named = re.search(r"(?<![a-z])step=(\d+)", file.stem, re.I)
    if named:
        return int(named[1])
    content = read_torch(file)
    step = content.get("global_step") if isinstance(content, Mapping) else None
    return step if isinstance(step, int) and "pytorch-lightning_version" in content else None


def _equal(one: Path, other: Path) -> bool:
    """Whether two files hold the same weights, bit for bit but for the bits of NaN."""
    if one.samefile(other):
        return True
    a, b = StateFile(one), StateFile(other)
    return set(a) == set(b) and all(_same(a[name], b[name]) for name in a)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _same_key(one: Path, other: Path, key: Key) -> NetopsyError:
    return NetopsyError(
        f"trajectory: {one.name} and {other.name} in {one.parent} both have the key {key!r}; "
        "name the files apart, or use Trajectory.from_states with keys of your own"
    )
