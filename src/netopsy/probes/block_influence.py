"""How much each block turns the hidden states: block influence, and the angular distance over several blocks.

Men et al.: ShortGPT: Layers in Large Language Models are More Redundant Than You Expect (Findings of ACL 2025);
Gromov et al.: The Unreasonable Ineffectiveness of the Deeper Layers (ICLR 2025).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from netopsy import __version__
from netopsy._checks import NetopsyError
from netopsy._storage import read_result, write_result
from netopsy.engine.batches import open_data
from netopsy.engine.functional import Inputs, examples
from netopsy.engine.reading import reading
from netopsy.network.addresses import Address, unwrap
from netopsy.network.task import Task
from netopsy.network.transformer_blocks import find_blocks
from netopsy.network.transformer_sites import transformer_blocks
from netopsy.network.units import UnitLayer

MASKS = {"decoder": "decoder_attention_mask"}
"""The argument that tells tokens from padding in a stack; in any other it is `attention_mask`."""


@dataclass(frozen=True, eq=False)
class BlockInfluence:
    """How much each block turns what enters it.

    Attributes:
        frame: one row a block; see `to_frame`.
        angles: columns `block, blocks, angular_distance`: of the last position, between what enters a block and what
            leaves the `blocks`-th from it on, as a share of a half turn.
        provenance: options, versions, data fingerprint, seconds.
    """

    frame: pd.DataFrame = field(repr=False)
    angles: pd.DataFrame = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table.

        Columns: `block`; `module`, its name; `block_influence`, 0 (nothing is turned) to 2 (turned around), the mean
        over `positions`; `angular_distance` of the last position, 0 to 1, the mean over `examples`; both null where a
        hidden state is all zeros or not finite, and for blocks that change the hidden states' shape.
        """
        return self.frame.copy()

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: `results.parquet`, `angles.parquet`, `manifest.json`.

        Raises:
            NetopsyError: when the folder exists and has files in it, unless `overwrite`.
        """
        tables = {"results": self.frame, "angles": self.angles}
        return write_result(path, tables, self.provenance, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> BlockInfluence:
        """Read what `save` wrote.

        Raises:
            NetopsyError: when the folder holds no result of this probe, a damaged one, or one of a newer netopsy.
        """
        tables, provenance = read_result(path, "BlockInfluence", "block_influence", ("results", "angles"))
        return cls(tables["results"], tables["angles"], provenance)

    def __str__(self) -> str:
        table = self.frame.set_index("block").rename_axis(None)
        return table.to_string(float_format=lambda value: f"{value:.4f}", na_rep="–")


def block_influence(
    model: nn.Module,
    data: Any,
    *,
    blocks: Sequence[str] | Mapping[str, str] | None = None,
    task: Task | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> BlockInfluence:
    """Measure block influence and angular distances, in one pass and without labels.

    Block i, which makes x_out of x_in, has the influence BI_i = 1 − E[cos(x_in, x_out)], the mean over all positions
    of all examples. The angular distance of n blocks is E[arccos(cos(x_in, x_out))] / π, between what enters the
    first and leaves the last of them, at the last position of each example. Both are computed in float64 from the
    chord between unit vectors, so that a block that changes nothing has exactly 0.

    Args:
        model: any module; it is run in eval mode, and left as it was.
        data: examples in any form that `netopsy.evaluate` takes.
        blocks: names of modules, in the order in which they run, or a mapping from your own names to those. Each must
            give hidden states `(n, positions, features)` or `(n, features)` of the shape that it takes: the first
            floating tensors. By default a transformer's blocks, as `sites="transformer"` finds them; those of
            these that do not keep the shape have no influence, and `provenance["reshaping"]` names them.
        task: how batches are read. Positions where an input `attention_mask` (`decoder_attention_mask` of a decoder)
            is 0 are padding and count nowhere; the last position is the last that is none.
        batch_size: examples a batch.
        progress: called with the examples done and their total.

    Returns:
        A result with a row a block. A block that runs several times in a pass counts at each of them.

    Raises:
        NetopsyError: the model has no known blocks, a block does not run, or one that was named gives another shape
            than it takes; a mask of another shape than the hidden states.
    """
    started = time.perf_counter()
    if not isinstance(model, nn.Module):
        raise NetopsyError(
            f"model: expected a torch module; got {type(model).__name__}; of a trajectory pass .model(key)"
        )
    model, task = unwrap(model), task or Task()
    modules, stacks = _named(model, blocks)
    layers = [
        UnitLayer(label, Address(kind, module), -1, 1)
        for label, module in modules.items()
        for kind in ("input", "output")
    ]
    source = open_data(data, batch_size=batch_size)
    turned = _Turned(list(modules), stacks, found=blocks is None)
    done = 0
    with reading(model, layers, turned.take) as run:
        for _, batch in source.batches():
            inputs = task.inputs(batch)
            turned.start(inputs)
            run(inputs)
            turned.end()
            done += examples(inputs)
            if progress is not None:
                progress(done, source.total)
    influence, positions = turned.influence()
    angles = turned.angles()
    single = angles[angles.blocks == 1].set_index("block").angular_distance
    frame = pd.DataFrame(
        {
            "block": pd.Series(list(modules), dtype="string"),
            "module": pd.Series(list(modules.values()), dtype="string"),
            "block_influence": influence,
            "angular_distance": single.loc[list(modules)].to_numpy(),
            "positions": positions,
            "examples": done,
        }
    )
    provenance = {
        "probe": "block_influence",
        "netopsy": __version__,
        "torch": str(torch.__version__),
        "data": source.fingerprint,
        "examples": done,
        "blocks": dict(modules),
        "reshaping": turned.reshaping,
        "seconds": time.perf_counter() - started,
    }
    return BlockInfluence(frame, angles, provenance)


def _named(
    model: nn.Module, blocks: Sequence[str] | Mapping[str, str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Label -> module, and label -> stack."""
    if blocks is None:
        named = transformer_blocks(model)
        return named, {block.label: block.stack for block in find_blocks(model)}
    if isinstance(blocks, str) or not blocks:
        raise NetopsyError(f"blocks: expected names of modules, or a mapping to such; got {blocks!r}")
    named = dict(blocks) if isinstance(blocks, Mapping) else {name: name for name in blocks}
    return named, dict.fromkeys(named, "")


class _Turned:
    """Sums over batches of how far hidden states turn; of a batch only the last positions are kept."""

    def __init__(self, labels: Sequence[str], stacks: Mapping[str, str], *, found: bool) -> None:
        self._labels, self._stacks, self._found = labels, stacks, found
        self._lost: set[int] = set()
        self._chords = [torch.zeros((), dtype=torch.float64) for _ in labels]
        self._positions = [0 for _ in labels]
        self._angles: dict[tuple[int, int], tuple[float, int]] = {}

    def start(self, inputs: Inputs) -> None:
        """Before a batch."""
        self._inputs = inputs
        self._entered: dict[int, Tensor] = {}
        self._masks: dict[tuple[str, tuple[int, int]], tuple[Tensor, Tensor, Tensor]] = {}
        self._ends: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._labels]

    def take(self, place: int, value: Tensor) -> None:
        """What enters (even places) or leaves (odd ones) a block."""
        block, leaves = divmod(place, 2)
        label = self._labels[block]
        if value.ndim == 2:
            value = value[:, None]
        if value.ndim != 3 or len(value) != examples(self._inputs):
            self._lose(
                block,
                f"block {label!r}: expected hidden states (n, positions, features) with n = "
                f"{examples(self._inputs)}; got {tuple(value.shape)}; name other modules by blocks=",
            )
            return
        unit = value.double()
        unit = unit / unit.norm(dim=-1, keepdim=True)  # NaN of zeros, which have no direction
        if not leaves:
            self._entered[block] = unit
            return
        before = self._entered.pop(block, None)
        if before is None:  # it was lost
            return
        if before.shape != unit.shape:
            self._lose(
                block,
                f"block {label!r}: takes hidden states of shape {tuple(before.shape)} and gives "
                f"{tuple(unit.shape)}; only a block that keeps the shape has an influence; leave it out of blocks=",
            )
            return
        if self._is_behind(block, unit.shape[:2]):
            self._lost.add(block)
            return
        counted, rows, last = self._mask(self._stacks[label], unit.shape[:2], unit.device)
        # 1 - cos of unit vectors is half their squared chord, without the cancellation
        self._chords[block] += (before - unit).square().sum(-1)[counted].sum().cpu() / 2
        self._positions[block] += int(counted.sum())
        self._ends[block].append((before[rows, last], unit[rows, last]))

    def _lose(self, block: int, why: str) -> None:
        """A block without an influence: refused where it was named."""
        if not self._found:
            raise NetopsyError(why)
        self._lost.add(block)

    def _is_behind(self, block: int, shape: torch.Size) -> bool:
        """Whether the mask speaks of other positions, for a block before this one changed them."""
        stack = self._stacks[self._labels[block]]
        mask = self._inputs[1].get(MASKS.get(stack, "attention_mask"))
        before = any(other < block and self._stacks[self._labels[other]] == stack for other in self._lost)
        return before and mask is not None and mask.shape != shape

    def end(self) -> None:
        """After a batch."""
        for first, mine in enumerate(self._ends):
            for last, theirs in enumerate(self._ends[first:], first):
                one, other = self._labels[first], self._labels[last]
                if self._stacks[one] != self._stacks[other] or len(mine) != len(theirs):
                    continue
                total, count = self._angles.get((first, last), (0.0, 0))
                for (entering, _), (_, leaving) in zip(mine, theirs, strict=True):
                    if entering.shape == leaving.shape:
                        total, count = total + float(_angle(entering, leaving).sum()), count + len(entering)
                self._angles[first, last] = total, count

    def influence(self) -> tuple[list[float], list[int]]:
        """Of each block, and of how many positions it is the mean."""
        counts = [0 if block in self._lost else n for block, n in enumerate(self._positions)]
        sums = zip(self._chords, counts, strict=True)
        return [float(total) / count if count else math.nan for total, count in sums], counts

    @property
    def reshaping(self) -> list[str]:
        """Blocks where hidden states do not keep their shape, in every batch or in some."""
        return [self._labels[block] for block in sorted(self._lost)]

    def angles(self) -> pd.DataFrame:
        """The mean angular distance of each run of blocks; none over a block that reshapes."""
        rows = [
            (self._labels[first], last - first + 1, total / count if count and first not in self._lost else math.nan)
            for (first, last), (total, count) in self._angles.items()
            if first == last or self._lost.isdisjoint(range(first, last + 1))
        ]
        names, numbers, means = zip(*rows, strict=True)
        return pd.DataFrame({"block": pd.Series(names, dtype="string"), "blocks": numbers, "angular_distance": means})

    def _mask(self, stack: str, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Positions that count; examples that have one, and where the last of each is."""
        key = stack, (shape[0], shape[1])
        if key not in self._masks:
            name = MASKS.get(stack, "attention_mask")
            given = self._inputs[1].get(name)
            if given is None:
                given = torch.ones(shape, dtype=torch.bool, device=device)
            if given.shape != shape:
                raise NetopsyError(
                    f"{name}: expected the shape of the hidden states' positions, {tuple(shape)}; got "
                    f"{tuple(given.shape)}"
                )
            self._masks[key] = _last(given.to(device) != 0)
        return self._masks[key]


def _last(counted: Bool[Tensor, "n p"]) -> tuple[Bool[Tensor, "n p"], Tensor, Tensor]:
    rows = counted.any(1).nonzero()[:, 0]
    places = torch.arange(counted.shape[1], device=counted.device)
    return counted, rows, torch.where(counted, places, -1).amax(1)[rows]


def _angle(one: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Between unit vectors, as a share of a half turn; exact where they are near each other or opposite."""
    return 2 / math.pi * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1))
