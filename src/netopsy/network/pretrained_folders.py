"""A pretrained model and a fine-tuned one, each in a folder that `save_pretrained` (Hugging Face) wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError, shorten
from netopsy._random import derive, forked
from netopsy._typing import Key, State
from netopsy.network.addresses import canonical_names, named_state
from netopsy.network.shards import check_model_file
from netopsy.network.states import StateFile, outline_of
from netopsy.network.transformer_blocks import find_blocks, inside

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class BaseState(Mapping[str, Tensor]):
    """A model's state of which some is read from files, and the rest was drawn; in single precision.

    Attributes:
        state: as it was saved, under the names that it was saved by.
        names: name in the model -> name there.
        drawn: what the files lack, from the distribution it is initialized from.
        unused: names in the files that the model has no place for.
    """

    state: State
    names: Mapping[str, str]
    drawn: State
    unused: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        if name in self.drawn:
            return self.drawn[name]
        value = self.state[self.names[name]]
        return value.float() if value.dtype in HALF else value

    def __contains__(self, name: object) -> bool:
        return name in self.names or name in self.drawn

    def __iter__(self) -> Iterator[str]:
        yield from self.names
        yield from self.drawn

    def __len__(self) -> int:
        return len(self.names) + len(self.drawn)


def is_causal(folder: Path) -> bool:
    """Whether a folder holds a language model of which each position tells the next piece, by its architecture."""
    names = _config(folder).get("architectures")
    return isinstance(names, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def build_pretrained(folder: Path) -> nn.Module:
    """The model that a folder's configuration describes, newly initialized, in single precision.

    No code of the folder is run.

    Raises:
        ImportError: transformers is not installed.
        NetopsyError: the folder has no configuration, it names no architecture, or one that transformers does not
            have.
    """
    content = _config(folder)
    names = content.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise NetopsyError(
            f"{folder / 'config.json'}: expected one entry under architectures, which says which model it is; got "
            f"{names!r}; name a function that builds the model (--model pkg.mod:factory)"
        )
    try:
        import transformers
    except ImportError as error:
        raise ImportError('Pretrained folders need transformers: pip install "netopsy[transformers]"') from error
    kind: Any = getattr(transformers, names[0], None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        own = " (its code lies beside it, and netopsy runs none)" if "auto_map" in content else ""
        raise NetopsyError(
            f"{folder}: expected an architecture that transformers {transformers.__version__} has; got "
            f"{names[0]}{own}; upgrade transformers, or name a function that builds the model (--model "
            "pkg.mod:factory)"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model: nn.Module = kind(config)
    except Exception as error:  # a configuration may hold anything
        raise NetopsyError(
            f"{folder}: {names[0]} cannot be built from config.json: {type(error).__name__}: {error}"
        ) from error
    return model.to(torch.float32)


def pretrained_states(
    initial: Path | str, final: Path | str, *, seed: int = 0
) -> tuple[Callable[[], nn.Module], dict[Key, State]]:
    """What `Trajectory.from_states` takes, of a pretrained model and one that was fine-tuned from it.

    The model is the fine-tuned one's. Where the base is without a part behind its last own one (a classifier that
    fine-tuning added, or one of as many classes), this is drawn once from the distribution that it is initialized
    from: `BaseState.drawn` names it. A head that only the base has is left out. Half precision is read as single.

    Args:
        initial: folder of the base.
        final: folder of the fine-tuned model.
        seed: of the draw.

    Returns:
        A function that builds the model, and its states under the keys `0` and `"final"`, read lazily.

    Raises:
        ImportError: transformers is not installed.
        NetopsyError: a folder is missing or holds no model; the base is another architecture.
    """
    initial, final = Path(initial), Path(final)
    factory = partial(build_pretrained, final)
    for folder in (final, initial):
        if not folder.is_dir():
            raise NetopsyError(f"{folder}: expected a folder that save_pretrained wrote; there is none")
        check_model_file(folder)
    with forked(derive(seed, "base")):
        model = factory()
    base = _completed(StateFile(initial), model, initial)
    trained = StateFile(final)
    return factory, {0: base, "final": BaseState(trained, {name: name for name in trained}, {})}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NetopsyError(
            f"{path}: expected the config.json that save_pretrained writes; it cannot be read ({error}); for another "
            "model, name a function that builds it (--model pkg.mod:factory)"
        ) from error
    return content if isinstance(content, dict) else {}


def _completed(state: StateFile, model: nn.Module, folder: Path) -> BaseState:
    """The base's values under the model's names, and the model's own where the base has none."""
    canonical, own = canonical_names(model), named_state(model)
    aliases: dict[str, list[str]] = {}
    for name, first in canonical.items():
        aliases.setdefault(first, []).append(name)
    body = f"{getattr(model, 'base_model_prefix', '')}."
    saved = dict.fromkeys(canonical[name] for name in model.state_dict(keep_vars=True) if name in canonical)
    names: dict[str, str] = {}
    other: dict[str, str] = {}
    for first in saved:
        written = next((given for alias in aliases[first] for given in _spelled(alias, body) if given in state), None)
        if written is None:
            continue
        shape = outline_of(state, written).shape
        if shape == own[first].shape:
            names[first] = written
        else:
            other[first] = f"{first} is {tuple(shape)}, not {tuple(own[first].shape)}"
    order = list(saved)
    behind = max((order.index(first) for first in names), default=-1)
    drawn = [first for first in order if first not in names]
    blocks = [block.name for block in find_blocks(model)]  # the last of which may end the base
    lost = [first for first in drawn if order.index(first) < behind or any(inside(first, block) for block in blocks)]
    if not names or lost:
        what = shorten([other.get(first, f"no {first}") for first in lost]) if names else "nothing of it"
        raise NetopsyError(
            f"{folder}: expected the model that {type(model).__name__} was fine-tuned from, but for its head; it has "
            f"{what}; pass the base itself, of the same sizes (an embedding that grew must grow in the base, too)"
        )
    unused = tuple(name for name in state if name not in set(names.values()))
    return BaseState(state, names, {first: own[first].detach().clone() for first in drawn}, unused)


def _spelled(name: str, body: str) -> tuple[str, ...]:
    """How a base may call a tensor: as the model does, or without or with the name of the model's body before it."""
    return (name, name.removeprefix(body), f"{body}{name}") if body != "." else (name,)
