"""Sites: names for the parts of a model that are edited as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

from torch import nn

from netopsy._checks import NetopsyError, near, shorten
from netopsy.network.addresses import Address, canonical_names, named_state, unwrap

SiteSpec = str | Sequence["str | Site"] | Mapping[str, "str | Sequence[str]"]
"""`"modules"`, `"blocks"`, `"parameters"`, globs and slices, or named groups of them."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Site:
    """A named set of parameters and buffers that are edited as one.

    Attributes:
        name: a module's name, or the user's own for a group.
        addresses: parameters and buffers under their first names, in model order, each once.
        modules: names of the modules they belong to (those of tied parameters included).
    """

    name: str
    addresses: tuple[Address, ...]
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def find_sites(model: nn.Module, spec: SiteSpec = "modules") -> tuple[Site, ...]:
    """Name the parts of a model, in the order in which the model holds them.

    Args:
        model: any module; wrappers of `torch.compile` and data parallelism are looked through.
        spec: `"modules"`: every module with parameters of its own, modules that share a tied parameter as one site;
            `"blocks"`: repeated composite modules (residual blocks, transformer layers) whole, and the parametric
            modules outside them; `"parameters"`: every parameter alone; a glob over module and parameter names
            (`"stage*.conv1"`), optionally with a slice of one parameter (`"attn.weight[:, 0:768]"`), or a list of
            these, each match a site; a mapping from a name to globs: one site a name, all its matches together.

    Raises:
        NetopsyError: when something matches nothing, with near names; when a group shares a parameter with itself
            under two slices.
    """
    model = unwrap(model)
    if isinstance(spec, Mapping):
        return tuple(group(model, name, globs) for name, globs in spec.items())
    if isinstance(spec, str) and spec in ("modules", "blocks", "parameters"):
        names = {"modules": _parametric, "blocks": _blocks, "parameters": _parameters}[spec](model)
        if not names:
            raise NetopsyError(f"sites={spec!r}: {type(model).__name__} has no parameters to edit")
        return _merge_tied([_site(model, name) for name in names])
    sites: list[Site] = []
    for item in [spec] if isinstance(spec, str) else spec:
        sites += [item] if isinstance(item, Site) else _merge_tied(_match(model, item))
    names_seen = [site.name for site in sites]
    return tuple(site for i, site in enumerate(sites) if site.name not in names_seen[:i])


def group(model: nn.Module, name: str, globs: str | Iterable[str]) -> Site:
    """One site of everything that the globs match: for joint operations."""
    globs = [globs] if isinstance(globs, str) else list(globs)
    if not globs:
        raise NetopsyError(f"group {name!r}: expected at least one module name or glob; got none")
    parts = [site for item in globs for site in _match(unwrap(model), item)]
    return _union(name, parts)


def _match(model: nn.Module, text: str) -> list[Site]:
    """Sites for one glob, slice, or keyword; zero matches is an error that lists near names."""
    if text in ("modules", "blocks", "parameters"):
        return list(find_sites(model, text))
    glob, _, index = text.partition("[") if text.endswith("]") else (text, "", "")
    modules = [name for name, module in model.named_modules(remove_duplicate=False) if name and _has_state(module)]
    canonical = canonical_names(model)
    hits = [name for name in modules if fnmatchcase(name, glob)] if not index else []
    if not hits:
        hits = [name for name in canonical if fnmatchcase(name, glob)]
    if not hits:
        known = [*modules, *canonical]
        raise NetopsyError(
            f"site {text!r}: matches no module with parameters and no parameter of {type(model).__name__}"
            f"{near(glob, known) or '; it has ' + shorten(known, 8)}"
        )
    if index:
        return [_sliced(model, name, canonical[name], index.removesuffix("]")) for name in hits]
    return [_site(model, name) for name in hits]


def _site(model: nn.Module, name: str) -> Site:
    """The site of one module (everything below it) or one parameter."""
    canonical = canonical_names(model)
    parameters = dict(model.named_parameters())
    inside = [c for alias, c in canonical.items() if alias == name or alias.startswith(f"{name}.")]
    if name == "":
        inside = [c for alias, c in canonical.items() if "." not in alias]
    addresses = [Address("parameter" if c in parameters else "buffer", c) for c in dict.fromkeys(inside)]
    owners = [alias.rpartition(".")[0] for alias, c in canonical.items() if c in inside]
    return Site(name or "(root)", tuple(addresses), tuple(dict.fromkeys(owners)))


def _sliced(model: nn.Module, name: str, canonical: str, index: str) -> Site:
    kind = "parameter" if canonical in dict(model.named_parameters()) else "buffer"
    address = Address(kind, canonical, index.replace(" ", ""))  # type: ignore[arg-type]
    value = named_state(model)[canonical]
    try:
        selected = address.select(value)
    except IndexError as error:
        raise NetopsyError(f"site {name}[{index}]: {canonical} has shape {tuple(value.shape)}; {error}") from error
    if selected.numel() == 0:
        raise NetopsyError(f"site {name}[{index}]: selects nothing of {canonical}, shape {tuple(value.shape)}")
    return Site(f"{name}[{index}]", (address,), (name.rpartition(".")[0],))


def _merge_tied(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Join sites that share a parameter: a tied tensor can only be edited once, wherever it is used."""
    merged: list[Site] = []
    for site in sites:
        mine = {address for address in site.addresses if address.kind == "parameter"}
        tied = [other for other in merged if mine & set(other.addresses)]
        if tied:
            first = tied[0]
            merged = [s for s in merged if s not in tied[1:]]
            merged[merged.index(first)] = _union(first.name, [*tied, site])
        else:
            merged.append(site)
    return tuple(merged)


def _union(name: str, sites: Sequence[Site]) -> Site:
    addresses = tuple(dict.fromkeys(address for site in sites for address in site.addresses))
    whole = {address.name for address in addresses if address.index is None}
    kept = tuple(a for a in addresses if a.index is None or a.name not in whole)
    return Site(name, kept, tuple(dict.fromkeys(module for site in sites for module in site.modules)))


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in chain(module.parameters(), module.buffers()))


def _owns_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _parameters(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _parametric(model: nn.Module) -> list[str]:
    """Modules with parameters of their own; a composite that also owns some is split into those and its children."""
    names: list[str] = []
    for name, module in model.named_modules():
        if not _owns_parameters(module):
            continue
        if any(_owns_parameters(child) for child in list(module.modules())[1:]):
            names += [f"{name}.{own}".lstrip(".") for own, _ in module.named_parameters(recurse=False)]
        else:
            names.append(name)
    return names


def _blocks(model: nn.Module) -> list[str]:
    """Repeated composites, and the parametric modules outside them, in model order.

    A module is a block when it has parametric modules below it and either stands in a container (Sequential,
    ModuleList, ModuleDict) or has a sibling of its own class with a numbered name. A plain container is looked
    into, unless it is a Sequential of simple modules only (convolution, norm, activation) that stands among others.
    """
    names: list[str] = []

    def composite(module: nn.Module) -> bool:
        return any(_owns_parameters(child) for child in list(module.modules())[1:])

    def visit(name: str, module: nn.Module) -> None:
        prefix = f"{name}." if name else ""
        if not composite(module):
            if _owns_parameters(module):
                names.append(name)
            return
        names.extend(f"{prefix}{own}" for own, _ in module.named_parameters(recurse=False))
        for child_name, child in module.named_children():
            if _is_block(module, child_name, child, composite(child)):
                names.append(f"{prefix}{child_name}")
            else:
                visit(f"{prefix}{child_name}", child)

    def _is_block(parent: nn.Module, name: str, child: nn.Module, is_composite: bool) -> bool:
        if not is_composite:
            return False
        if type(child) in CONTAINERS:
            parametric = [m for m in child.children() if _has_state(m)]
            simple = not any(composite(m) for m in parametric)
            norms = any("norm" in type(m).__name__.lower() for m in parametric)
            return simple and norms and type(parent) in CONTAINERS
        stem = re.sub(r"\d+$", "", name)
        twins = [
            n for n, m in parent.named_children() if type(m) is type(child) and re.sub(r"\d+$", "", n) == stem != n
        ]
        return type(parent) in CONTAINERS or len(twins) > 1

    visit("", model)
    return names
