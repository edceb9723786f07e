"""Sites: names for the parts of a model that are edited as one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

import torch
from torch import Tensor, nn

from netopsy._checks import NetopsyError, near, shorten
from netopsy.network.addresses import Address, canonical_names, named_state, unwrap
from netopsy.network.transformer_sites import transformer_parts

SiteSpec = str | Sequence["str | Site"] | Mapping[str, "str | Sequence[str]"]
"""`"modules"`, `"blocks"`, `"transformer"`, `"parameters"`, globs and slices, or named groups of them."""

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
            modules outside them; `"transformer"`: embeddings, attention's query, key, value and out, dense layers
            and norms of each block, final norm, head (docs/transformers.md); `"parameters"`: every parameter alone; a
            glob over module and parameter names (`"stage*.conv1"`), optionally with a slice of one parameter
            (`"attn.weight[:, 0:768]"`), or over the names of a transformer's parts (`"block * / attention *"`), or a
            list of these, each match a site (of matches inside each other, the outermost); a mapping from a name to
            globs: one site a name, all its matches together.

    Raises:
        NetopsyError: when something matches nothing, with near names; when two sites have one name; when slices of
            one parameter overlap in a group.
    """
    model = unwrap(model)
    if not spec:
        raise NetopsyError(
            f"sites={spec!r}: expected 'modules', 'blocks', 'parameters', globs or named groups, or 'transformer'"
        )
    if isinstance(spec, Mapping):
        return tuple(group(model, name, globs) for name, globs in spec.items())
    sites: dict[str, Site] = {}
    for item in [spec] if isinstance(spec, str) else spec:
        for site in [item] if isinstance(item, Site) else _merge_tied(_match(model, item)):
            if sites.setdefault(site.name, site).addresses != site.addresses:
                raise NetopsyError(f"sites: two different sites have the name {site.name!r}; rename one of them")
    return tuple(sites.values())


def group(model: nn.Module, name: str, globs: str | Iterable[str]) -> Site:
    """One site of everything that the globs match: for joint operations."""
    model = unwrap(model)
    globs = [globs] if isinstance(globs, str) else list(globs)
    if not globs:
        raise NetopsyError(f"group {name!r}: expected at least one module name or glob; got none")
    site = _union(name, [part for item in globs for part in _match(model, item)])
    covered: dict[str, Tensor] = {}
    for address in site.addresses:
        if address.index is not None:
            value = named_state(model)[address.name]
            seen = covered.setdefault(address.name, torch.zeros(value.shape, dtype=torch.bool))
            if address.select(seen).any():
                raise NetopsyError(
                    f"group {name!r}: slices of {address.name} overlap at {address}; an entry can be edited only once"
                )
            address.select(seen).fill_(True)
    return site


def parameter_count(model: nn.Module, site: Site) -> int:
    """Entries of the parameters that belong to a site."""
    state = named_state(unwrap(model))
    return sum(
        address.select(state[address.name]).numel() for address in site.addresses if address.kind == "parameter"
    )


def _match(model: nn.Module, text: str) -> list[Site]:
    """Sites for one glob, slice, or keyword; zero matches is an error that lists near names."""
    canonical = canonical_names(model)
    if text in ("modules", "blocks", "parameters"):
        names = {"modules": _parametric, "blocks": _blocks, "parameters": _parameters}[text](model)
        if not names:
            raise NetopsyError(f"sites={text!r}: {type(model).__name__} has no parameters to edit")
        return [_site(model, name, canonical) for name in names]
    if text == "transformer":
        return _transformer(model, canonical)
    glob, _, index = text.removesuffix("]").rpartition("[") if text.endswith("]") else (text, "", "")
    sliced = [name for name in canonical if index and fnmatchcase(name, glob)]
    if sliced:
        return [_sliced(model, name, index, canonical) for name in sliced]
    modules = [name for name, module in model.named_modules(remove_duplicate=False) if name and _has_state(module)]
    known = [*modules, *canonical]
    hits = {name: None for name in known if fnmatchcase(name, text)}
    if not hits:
        with suppress(NetopsyError):  # no transformer, or none whose parts are known
            parts = _transformer(model, canonical)
            if named := [site for site in parts if fnmatchcase(site.name, text)]:
                return named
            known += [site.name for site in parts]
    if not hits:
        raise NetopsyError(
            f"site {text!r}: matches no module with parameters and no parameter of {type(model).__name__}"
            f"{near(glob or text, known) or '; it has ' + shorten(known, 8)}"
        )
    return [_site(model, name, canonical) for name in hits if not any(outer in hits for outer in _above(name))]


def _transformer(model: nn.Module, canonical: Mapping[str, str]) -> list[Site]:
    """The parts of a transformer; the buffers of a module lie with the first of its parameters."""
    sites = []
    taken: set[str] = set()
    for label, pieces in transformer_parts(model).items():
        addresses = [_address(model, name, index) for name, index in pieces]
        for owner in dict.fromkeys(name.rpartition(".")[0] for name, _ in pieces):
            own = [f"{owner}.{buffer}".lstrip(".") for buffer in model.get_submodule(owner)._buffers]
            buffers = dict.fromkeys(canonical[name] for name in own if name in canonical)
            addresses += [_address(model, name) for name in buffers if name not in taken]
            taken.update(buffers)
        sites.append(Site(label, tuple(addresses), _owners({name for name, _ in pieces}, canonical)))
    return sites


def _above(name: str) -> list[str]:
    """Names of the modules around a name, itself left out.

    >>> _above("a.b.c")
    ['a', 'a.b']
    """
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _site(model: nn.Module, name: str, canonical: Mapping[str, str]) -> Site:
    """The site of one module (everything below it) or one parameter."""
    if name == "":
        inside = {first: None for alias, first in canonical.items() if "." not in alias}
    else:
        inside = {first: None for alias, first in canonical.items() if f"{alias}.".startswith(f"{name}.")}
    return Site(name or "(root)", tuple(_address(model, first) for first in inside), _owners(inside, canonical))


def _sliced(model: nn.Module, name: str, index: str, canonical: Mapping[str, str]) -> Site:
    first = canonical[name]
    value = named_state(model)[first]
    address = _address(model, first, index.replace(" ", ""))
    try:
        selected = address.select(value)
    except IndexError as error:
        raise NetopsyError(f"site {name}[{index}]: {first} has shape {tuple(value.shape)}; {error}") from error
    if selected.numel() == 0:
        raise NetopsyError(f"site {name}[{index}]: selects nothing of {first}, shape {tuple(value.shape)}")
    return Site(f"{name}[{index}]", (address,), _owners((first,), canonical))


def _address(model: nn.Module, name: str, index: str | None = None) -> Address:
    owner, _, own = name.rpartition(".")
    return Address("buffer" if own in model.get_submodule(owner)._buffers else "parameter", name, index)


def _owners(names: Collection[str], canonical: Mapping[str, str]) -> tuple[str, ...]:
    return tuple({alias.rpartition(".")[0]: None for alias, first in canonical.items() if first in names})


def _merge_tied(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Join sites that share a parameter: a tied tensor can only be edited once, wherever it is used.

    A shared buffer (a mask, a table of positions) joins nothing.
    """
    joined: dict[int, list[Site]] = {}
    home: dict[Address, int] = {}
    for i, site in enumerate(sites):
        parameters = [address for address in site.addresses if address.kind == "parameter"]
        tied = sorted({home[address] for address in parameters if address in home})
        first = min([i, *tied])
        joined[first] = [*(other for j in tied for other in joined.pop(j)), site]
        home |= {address: first for other in joined[first] for address in other.addresses}
    return tuple(_union(joined[i][0].name, joined[i]) for i in sorted(joined))


def _union(name: str, sites: Sequence[Site]) -> Site:
    addresses = tuple(dict.fromkeys(address for site in sites for address in site.addresses))
    whole = {address.name for address in addresses if address.index is None}
    kept = tuple(a for a in addresses if a.index is None or a.name not in whole)
    return Site(name, kept, tuple(dict.fromkeys(module for site in sites for module in site.modules)))


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in chain(module.parameters(), module.buffers()))


def _owns_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _composite(module: nn.Module) -> bool:
    return any(_owns_parameters(child) for child in list(module.modules())[1:])


def _parameters(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _parametric(model: nn.Module) -> list[str]:
    """Modules with parameters of their own; a composite that also owns some is split into those and its children."""
    names: list[str] = []
    for name, module in model.named_modules():
        if not _owns_parameters(module):
            continue
        if _composite(module):
            names += [f"{name}.{own}".lstrip(".") for own, _ in module.named_parameters(recurse=False)]
        else:
            names.append(name)
    return names


def _blocks(model: nn.Module) -> list[str]:
    """Repeated composites, and the parametric modules outside them, in model order.

    A module is a block when it has parametric modules below it and either stands in a container (Sequential,
    ModuleList, ModuleDict) or has a sibling of its own class with a numbered name. A plain container is looked
    into, unless it is a Sequential of simple modules only (convolution, norm, activation) that stands among others.
    So is a network of blocks that a container only wraps, with an input normalization before it or a head behind.
    """
    names: list[str] = []
    composites = [child for child in model.children() if _composite(child)]
    wrapped = composites if len(composites) == 1 and _has_blocks(composites[0]) else []

    def visit(name: str, module: nn.Module) -> None:
        prefix = f"{name}." if name else ""
        if not _composite(module):
            if _owns_parameters(module):
                names.append(name)
            return
        names.extend(f"{prefix}{own}" for own, _ in module.named_parameters(recurse=False))
        for child_name, child in module.named_children():
            if _is_block(module, child_name, child) and child not in wrapped:
                names.append(f"{prefix}{child_name}")
            else:
                visit(f"{prefix}{child_name}", child)

    visit("", model)
    return names


def _has_blocks(model: nn.Module) -> bool:
    return any(_is_block(module, *child) for module in model.modules() for child in module.named_children())


def _is_block(parent: nn.Module, name: str, child: nn.Module) -> bool:
    if not _composite(child):
        return False
    if type(child) in CONTAINERS:
        parametric = [module for module in child.children() if _has_state(module)]
        simple = not any(_composite(module) for module in parametric)
        norms = any("norm" in type(module).__name__.lower() for module in parametric)
        return simple and norms and type(parent) in CONTAINERS
    stem = name.rstrip("0123456789")
    twins = [n for n, m in parent.named_children() if type(m) is type(child) and n.rstrip("0123456789") == stem != n]
    return type(parent) in CONTAINERS or len(twins) > 1
