"""Weights that hold query, key and value (or gate and up) in one: which part of them is which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn, TypeAlias

from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy.network.transformer_words import QKV, attends, is_adapted, module_of, words

Slices: TypeAlias = dict[str, tuple[str, ...]]
"""Role -> indices (as `Address` takes them) of its parts, in order."""

BY_HEAD = (
    "BloomAttention",
    "DisentangledSelfAttention",
    "GPTNeoXAttention",
    "GPTNeoXJapaneseAttention",
    "MiniMaxLightningAttention",
    "PersimmonAttention",
)
"""Attention classes whose fused weight holds query, key and value of one head after the other."""

UNKNOWN = ("CodeGenAttention", "FalconAttention", "GPTBigCodeAttention")
"""Attention classes whose fused weight is laid out by settings that nothing here reads."""

LATENT = {"a", "b", "down", "up"}
"""Words that tell the two steps of latent attention: `kv_a_proj_with_mqa`, `kv_b_proj`, as in DeepSeek's models."""

HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "heads")
"""Where modules and configurations say how many heads they have."""


def heads_of(model: nn.Module, name: str) -> int | None:
    """The number of heads that a module, those around it, or their configuration say; None where none does.

    In attention, what stands beside it is asked, too (Swinv2's `attention.self`, beside `attention.output`). None
    also where that differs from the configuration: half of ConvBERT's heads are convolutions.
    """
    parts = name.split(".") if name else []
    around = [model.get_submodule(".".join(parts[:end])) for end in range(len(parts), -1, -1)]
    attending = [module for part, module in zip(reversed(parts), around, strict=False) if attends(part)]
    if count := _first_count(around):
        return count
    configured = _first_count(getattr(module, "config", None) for module in around)
    beside = _first_count(child for module in attending for child in module.children())
    return None if configured and beside and configured != beside else configured or beside


def _first_count(holders: Iterable[object]) -> int | None:
    counts = (getattr(holder, attribute, None) for holder in holders for attribute in HEADS)
    return next((count for count in counts if isinstance(count, int) and count > 0), None)


def width_of(module: nn.Module) -> int:
    """How many features a dense layer takes."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[_out_axis(module, weight) - 1]


def halves(module: nn.Module, parameter: str, value: Tensor, roles: Sequence[str]) -> Slices:
    """Equal parts of what a dense layer gives, of its weight or bias.

    Raises:
        NetopsyError: for a layer with an adapter.
    """
    _check_alone(parameter, value, roles)
    axis = _out_axis(module, value)
    size = value.shape[axis] // len(roles)
    return {role: (_index(axis, i * size, (i + 1) * size),) for i, role in enumerate(roles)}


def fused(
    model: nn.Module, holder: str, parameter: str, value: Tensor, roles: tuple[str, ...], width: int | None
) -> Slices:
    """The parts of a fused weight or bias.

    Args:
        model: the whole model.
        holder: name of the module that attends.
        parameter: name of the weight or bias.
        value: its value.
        roles: what it holds: query, key and value, or key and value.
        width: of what the output projection takes: that of the queries, where it is known. Fewer heads of keys and
            values (grouped-query attention) take what is left.

    Raises:
        NetopsyError: for a layout that is not known, or a size that does not fit it.
    """
    attention, module = model.get_submodule(holder), model.get_submodule(module_of(parameter))
    _check_alone(parameter, value, roles)
    kind, axis = type(attention).__name__, _out_axis(module, value)
    size = value.shape[axis]
    if kind in BY_HEAD:
        heads = heads_of(model, holder)
        if heads is None or size % (heads * len(roles)):
            _refuse(parameter, value, roles, f"{kind} says {heads or 'no number of'} heads, which do not divide it")
        each = size // heads // len(roles)
        return {
            role: tuple(_index(axis, start, start + each) for start in range(i * each, size, len(roles) * each))
            for i, role in enumerate(roles)
        }
    said = words(module_of(parameter).rpartition(".")[2])
    if kind in UNKNOWN or set(QKV) <= said or (roles == ("key", "value") and said & LATENT):
        _refuse(parameter, value, roles, f"how {kind} lays them out is not known")
    if roles != QKV or width is None:
        if size % len(roles):
            _refuse(parameter, value, roles, f"{size} is not divisible by {len(roles)}")
        return halves(module, parameter, value, roles)
    rest = size - width
    if rest <= 0 or rest % 2 or width % (rest // 2):
        _refuse(parameter, value, roles, f"the queries of {width} features leave {rest} for keys and values")
    ends = (0, width, width + rest // 2, size)
    return {role: (_index(axis, ends[i], ends[i + 1]),) for i, role in enumerate(roles)}


def _out_axis(module: nn.Module, value: Tensor) -> int:
    """Along which axis the features lie that a dense layer gives: GPT-2's Conv1D holds them second."""
    return 1 if type(module).__name__ in ("Conv1D", "ParametrizedConv1D") and value.ndim == 2 else 0


def _index(axis: int, start: int, end: int) -> str:
    return f"{':,' * axis}{start}:{end}"


def _check_alone(parameter: str, value: Tensor, roles: Sequence[str]) -> None:
    if is_adapted(parameter):
        _refuse(parameter, value, roles, "an adapter has one matrix for them all; merge it into the weight")


def _refuse(parameter: str, value: Tensor, roles: Sequence[str], why: str) -> NoReturn:
    held = f"{', '.join(roles[:-1])} and {roles[-1]}"
    raise NetopsyError(
        f"sites='transformer': {parameter}, shape {tuple(value.shape)}, holds {held}, and {why}; pass sites='blocks' "
        "or 'modules', or its slices by hand, such as 'attn.weight[0:768]'"
    )
