"""What a run was trained on, as far as its data and its manifest tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._random import derive
from netopsy.data.dataset import Dataset, corrupt_labels, fingerprint
from netopsy.training.inputs import hold_out

NONE = (
    "the data have no train split that is known to be what the network was trained on; let --data name a netopsy "
    "Dataset, a tuple (train, test), or a mapping with 'train'"
)


def trained_on(data: Any, manifest: Mapping[str, Any]) -> tuple[Any, str]:
    """The examples that a network was fitted to: without those held out, with labels corrupted as they were.

    Args:
        data: as `netopsy.commands.inputs.read_data` gives them.
        manifest: of the training run; empty where it is not known.

    Returns:
        The examples, and an empty text; or None, and why they are not known.
    """
    given = _train_split(data)
    known, config = manifest.get("data"), manifest.get("config")
    if given is None and isinstance(known, str) and _is_pair(data):
        given = data  # no split has a name, but the run knows it
    if given is None:
        return None, NONE
    if not isinstance(known, str) or not isinstance(config, Mapping):
        return given, ""
    if not _is_pair(given) or fingerprint(*given) != known:
        return None, "the train split is not the one that the run was trained on (its fingerprint is another)"
    try:
        share, noise, seed = (_number(config, name) for name in ("validation_share", "label_noise", "seed"))
        inputs, labels = hold_out(given, share, int(seed))[0] if share else given
        if noise:
            labels = corrupt_labels(labels, noise, int(given[1].max()) + 1, derive(int(seed), "labels"))
    except NetopsyError as error:
        return None, f"the run's manifest does not say what it was trained on: {error}"
    return (inputs, labels), ""


def _number(config: Mapping[str, Any], name: str) -> float:
    """An option of the training; 0 where a manifest is older than the option."""
    value = config.get(name, 0)
    if not isinstance(value, int | float):
        raise NetopsyError(f"{name}: expected a number; got {value!r}")
    return value


def _train_split(data: Any) -> Any:
    """The split of that name, where the data have one."""
    if isinstance(data, Dataset):
        return data.train
    if isinstance(data, Mapping) and "train" in data:
        return data["train"]
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, tuple | list) for part in data):
        return data[0]
    return None


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
