"""What the names of a transformer's modules and parameters say: query, key, value, out, gate, up, down, norm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

QKV = ("query", "key", "value")
"""The three that attention compares and adds up, in the order in which a fused weight holds them."""

_SAYS = {
    "query": {"q", "query", "queries", "wq", "qkv", "wqkv"},
    "key": {"k", "key", "keys", "wk", "kv", "qkv", "wkv", "wqkv"},
    "value": {"v", "value", "values", "wv", "kv", "qkv", "wkv", "wqkv"},
}
_OUT = {"o", "out", "output", "wo"}
_PLAIN = {"attn", "attention", "c", "dense", "fc", "layer", "lin", "linear", "proj", "projection", "self", "to", "w"}
_PLAIN |= {"post"}  # Funnel's post_proj
_OWN = {"weight", "bias"}
_ATTENDS = {"attention", "attn", "crossattention", "self", "selfattention"}
_WHICH = {"cross", "dec", "decoder", "enc", "encoder", "head", "multi", "multihead", "rel", "relative"}
_POSITIONS = {"pos", "position", "positional", "positions", "rel", "relative"}
_FEED = {"feed", "ff", "ffn", "wise"}
_ADAPTER = re.compile(r"base_layer|lora_\w+")
_GATED = (
    {"gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",)},
    {"gate": ("gate",), "up": ("up",), "down": ("down",)},
    {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)},
    {"Wi": ("gate", "up"), "Wo": ("down",)},  # ModernBERT, whose "gate" is what is not activated: up, here
    {"wi_0": ("gate",), "wi_1": ("up",), "wo": ("down",)},  # T5 1.1
    {"w1": ("gate",), "w2": ("down",), "w3": ("up",)},  # Llama as Meta published it
    {"fc1_g": ("gate",), "fc1_x": ("up",), "fc2": ("down",)},  # timm
)


def words(component: str) -> frozenset[str]:
    """The words of one part of a dotted name.

    >>> sorted(words("EncDecAttention")), sorted(words("q_proj")), sorted(words("linear1"))
    (['attention', 'dec', 'enc'], ['proj', 'q'], ['1', 'linear'])
    """
    return frozenset(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", component))


def written(parameter: str) -> str:
    """The name of a parameter before anything adapted or parametrized it.

    >>> written("q_proj.lora_A.default.weight"), written("fc.parametrizations.weight.original0"), written("cls_token")
    ('q_proj.weight', 'fc.weight', 'cls_token')
    """
    parts = parameter.split(".")
    for i, part in enumerate(parts[:-1]):
        if part == "parametrizations":
            return ".".join([*parts[:i], parts[i + 1]])
        if _ADAPTER.fullmatch(part):
            return ".".join([*parts[:i], parts[-1]])
    return parameter


def module_of(parameter: str) -> str:
    """The module that a parameter is part of, as its author named it: what parametrizes or adapts it is inside.

    >>> module_of("mlp.fc1.lora_A.default.weight"), module_of("mlp.fc1.weight"), module_of("cls_token")
    ('mlp.fc1', 'mlp.fc1', '')
    """
    return written(parameter).rpartition(".")[0]


def is_adapted(parameter: str) -> bool:
    """Whether a parameter is an adapter's, or of a layer that has one.

    >>> is_adapted("c_attn.base_layer.weight"), is_adapted("c_attn.weight")
    (True, False)
    """
    return any(_ADAPTER.fullmatch(part) for part in parameter.split(".")[:-1])


def projected(component: str) -> tuple[str, ...]:
    """Which of query, key and value a part of a name says; all three of a fused one.

    >>> projected("q_lin"), projected("query_key_value"), projected("in_proj_weight"), projected("c_proj")
    (('query',), ('query', 'key', 'value'), ('query', 'key', 'value'), ())
    """
    said = words(component)
    if {"conv", "attn"} <= said:
        return ()  # ConvBERT's key_conv_attn_layer makes the kernels of a convolution, no keys
    if said - _OWN in ({"c", "attn"}, {"in", "proj"}):
        return QKV
    return tuple(role for role in QKV if said & _SAYS[role])


def attention_role(components: Sequence[str], *, flat: bool = False) -> tuple[str, ...]:
    """What a parameter does in attention, from its name there, the innermost part that says it first.

    Args:
        components: the parts of the name inside the attention module.
        flat: whether other things than attention are in that module: an output projection must be called so.

    >>> attention_role(["self", "query", "weight"]), attention_role(["output", "dense", "bias"])
    (('query',), ('out',))
    >>> attention_role(["dense", "weight"]), attention_role(["dense", "weight"], flat=True)
    (('out',), ())
    """
    plain = not flat
    for component in reversed(components):
        if role := projected(component):
            return role
        said = words(component) - _PLAIN - _OWN
        if said and said <= _OUT:
            return ("out",)
        plain &= not said or component.isdigit()
    return ("out",) if plain else ()


def attends(component: str) -> bool:
    """Whether a part of a name says attention and nothing else: what is called so is no block.

    >>> attends("self_attn"), attends("EncDecAttention"), attends("attn_block"), attends("0")
    (True, True, False, False)
    """
    said = {word for word in words(component) if not word.isdigit()}
    return bool(said & _ATTENDS) and said <= _ATTENDS | _WHICH


def positional(components: Sequence[str]) -> bool:
    """Whether a parameter in attention is about positions, from its name there.

    >>> positional(["pos_proj", "weight"]), positional(["relative_bias_mlp", "0", "weight"]), positional(["pos_ffn"])
    (True, True, False)
    """
    said = [words(component) for component in components]
    return any(word & _POSITIONS and not word & _FEED for word in said)


def gated_roles(components: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Which dense layers of a gated MLP are its gate, up and down; nothing for one without a gate.

    >>> gated_roles(["wi_0", "wi_1", "wo"])["wi_1"], gated_roles(["fc1", "fc2"])
    (('up',), {})
    """
    return next((roles for roles in _GATED if set(roles) == set(components)), {})


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization, by the name of its class."""
    return "norm" in type(module).__name__.lower()


def is_dense(module: nn.Module) -> bool:
    """Whether a module holds one matrix (or kernel) that maps features, and does nothing else with parameters."""
    weight = getattr(module, "weight", None)
    kind = type(module).__name__.lower()
    strange = any(word in kind for word in ("embed", "position", "token", "router", "expert"))
    return not strange and isinstance(weight, Tensor) and weight.ndim >= 2


def dense_of(modules: Mapping[str, nn.Module], parameter: str) -> nn.Module | None:
    """The dense layer that a parameter belongs to; None for one of anything else."""
    around = (modules[module_of(parameter)], modules[parameter.rpartition(".")[0]])
    return next((module for module in around if is_dense(module)), None)
