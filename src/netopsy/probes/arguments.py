"""How a probe reads its arguments: splits, checkpoints, joint groups, metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from netopsy._checks import NetopsyError, shorten
from netopsy._typing import Key
from netopsy.engine.reducers import Metric, check_metrics, metric_name
from netopsy.network.sites import Site, SiteSpec, find_sites
from netopsy.network.trajectory import Trajectory

Groups: TypeAlias = (
    Mapping[str, "str | Sequence[str]"] | Callable[[Sequence[str]], Mapping[str, Sequence[str]]] | None
)
"""Joint sites as name -> globs, or a function from the sites' names to that."""


def read_metrics(metrics: Sequence[Metric], taken: Collection[str]) -> list[str]:
    """The metrics' columns; refuses unknown or repeated ones, and names of the result's other columns."""
    check_metrics(metrics)
    names = [metric_name(metric) for metric in metrics]
    clash = sorted(set(names) & set(taken))
    if clash:
        raise NetopsyError(f"metrics: {shorten(clash)} is a column of the result already; rename the function")
    return names


def read_splits(data: Any) -> dict[str, Any]:
    """Data by the split's name; a dict of tensors is data, not splits.

    Raises:
        NetopsyError: for names that are no text, and for a dict of tensors and something else.
    """
    if not isinstance(data, Mapping) or all(isinstance(value, Tensor) for value in data.values()):
        return {"data": data}
    if any(isinstance(value, Tensor) for value in data.values()):
        others = [
            f"{name!r} is {type(value).__name__}" for name, value in data.items() if not isinstance(value, Tensor)
        ]
        raise NetopsyError(
            f"data: expected a dict of tensors, or splits by name; got tensors, and {shorten(others)}; make these "
            "tensors (torch.as_tensor) or take them out; what is no tensor can be in a list of batches"
        )
    strange = [name for name in data if not isinstance(name, str)]
    if strange:
        raise NetopsyError(f"data: expected names of splits as keys; got {shorten(map(repr, strange))}")
    return dict(data)


def read_checkpoints(
    trajectory: Trajectory | nn.Module, checkpoints: Sequence[Key] | Literal["all"]
) -> tuple[Key, ...]:
    """The keys asked for, each once, as the trajectory has them; none for a module alone."""
    if not isinstance(trajectory, Trajectory | nn.Module):
        raise NetopsyError(
            f"trajectory: expected a netopsy.Trajectory or a torch module; got {type(trajectory).__name__}"
        )
    single = isinstance(checkpoints, str) and checkpoints != "all"
    if single or not isinstance(checkpoints, Iterable):
        raise NetopsyError(f"checkpoints: expected 'all' or a tuple of keys, such as ({checkpoints!r},)")
    if not isinstance(trajectory, Trajectory):
        if len(checkpoints):
            raise NetopsyError(
                f"checkpoints={checkpoints!r}: a module alone has no checkpoint 0 (the weights before training); "
                "pass a netopsy.Trajectory, or checkpoints=() to re-randomize only"
            )
        return ()
    if isinstance(checkpoints, str):
        return trajectory.keys
    own = {key: key for key in trajectory.keys}  # a numpy integer equals the user's key but is another type
    return tuple(dict.fromkeys(own[trajectory.check_key(key)] for key in checkpoints))


def read_groups(model: nn.Module, single: Sequence[Site], groups: Groups) -> tuple[Site, ...]:
    """The joint sites."""
    if groups is None:
        return ()
    named = groups([site.name for site in single]) if callable(groups) else groups
    found: dict[str, str | Sequence[str]] = dict(named)
    return find_sites(model, found) if found else ()


def described(sites: SiteSpec) -> Any:
    """Which sites were asked for, as JSON: names and globs as they were written, `Site` objects by their names."""
    if isinstance(sites, str):
        return sites
    if isinstance(sites, Mapping):
        return {name: globs if isinstance(globs, str) else list(globs) for name, globs in sites.items()}
    return [str(site) for site in sites]


def check_apart(names: Sequence[str]) -> None:
    """Refuse a group with the name of a site, or either with that of the whole network."""
    clash = {name for name in names if names.count(name) > 1}
    if clash:
        raise NetopsyError(f"groups: {shorten(sorted(clash))} is the name of a site already; choose another name")


def members(group: Site, single: Sequence[Site]) -> tuple[str, ...]:
    """Names of the sites that lie in a group."""
    return tuple(site.name for site in single if set(site.addresses) <= set(group.addresses))
