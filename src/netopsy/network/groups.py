"""The layers paper's groupings: which sites it reset together (Figs. 6, 11-13)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from netopsy._checks import NetopsyError, shorten

ALL_BUT_FIRST = "all but the first block of each stage"
"""Name of a group of `residual_groups`."""

STAGED = re.compile(r"(?P<stage>.*\d+)\.[^.]*?(?P<block>\d+)$")


def fcn_groups(sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For a fully connected net of D hidden layers: all but the first, without the fourth, every second.

    For 5 hidden layers and a classifier (layers 1-6) these are the paper's {2-6}, {2, 3, 5, 6} and {2, 4, 6}.

    >>> fcn_groups(["a", "b", "c", "d", "e", "f"])["layers 2, 4, 6"]
    ('b', 'd', 'f')
    """
    if len(sites) < 3:
        raise NetopsyError(f"groups: expected at least 3 layers to group; got {shorten(sites)}")
    number = {site: i + 1 for i, site in enumerate(sites)}
    middle = 4
    choices = [
        list(sites[1:]),
        [site for site in sites[1:] if number[site] != middle],
        list(sites[1::2]),
    ]
    named = {f"layers {', '.join(str(number[site]) for site in group)}": tuple(group) for group in choices}
    return {name: group for name, group in named.items() if len(group) > 1}


def residual_stages(sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The blocks of each stage of a residual net, in the order in which they stand.

    >>> residual_stages(["stem", "stage1.block1", "stage1.block2", "stage2.block1", "head"])
    {'stage1': ('stage1.block1', 'stage1.block2'), 'stage2': ('stage2.block1',)}

    Args:
        sites: names of sites; those like `stage2.block3` or `layer2.3` (a numbered stage, a numbered block) count.

    Raises:
        NetopsyError: when there are no two stages of blocks, or the sites are parts of blocks.
    """
    stages: dict[str, tuple[str, ...]] = {}
    for site in sites:
        match = STAGED.match(site)
        if match:
            stages[match["stage"]] = (*stages.get(match["stage"], ()), site)
    parents = {stage.rpartition(".")[0] for stage in stages}  # several: these are parts of blocks
    if len(stages) < 2 or len(parents) > 1:
        raise NetopsyError(
            "groups: expected blocks of at least two stages, named like stage2.block3 or layer2.3; got "
            f"{shorten(sites)}; pass sites='blocks'"
        )
    return stages


def residual_groups(sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For residual nets: all blocks but the first of every stage; the same in stages 2 and 3; every second block.

    Args:
        sites: as in `residual_stages`.

    Raises:
        NetopsyError: as `residual_stages`.
    """
    stages = residual_stages(sites)
    rest = {stage: blocks[1:] for stage, blocks in stages.items()}
    middle = list(stages)[1:3]
    every_second = [block for blocks in stages.values() for block in blocks[1::2]]
    groups = {
        ALL_BUT_FIRST: [block for blocks in rest.values() for block in blocks],
        "all but the first block, stages 2 and 3": [block for stage in middle for block in rest[stage]],
        "every second block": every_second,
    }
    named: dict[str, tuple[str, ...]] = {}
    for name, group in groups.items():  # with two blocks a stage some are the same: the first name stays
        if len(group) > 1 and tuple(group) not in named.values():
            named[name] = tuple(group)
    return named
