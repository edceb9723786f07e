"""How far a pass over the data has come: small arrays, from which it can go on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from netopsy._typing import FloatArray, IntArray
from netopsy.engine.reducers import Digest, Tally
from netopsy.engine.sequential import ConfidenceSequence
from netopsy.engine.stream import BASELINE

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Progress:
    """What is known after some batches. Never changed: an interruption at any instant leaves a whole one.

    Attributes:
        tally: sums by row, the baseline's last.
        wrong: wrong positions of the baseline.
        paired: sum of the paired change of error, by row.
        unseen: how often each value of the support came since the sequence was last told, by row asked about.
        active: rows asked about that are not decided yet.
        sequence: the intervals of the rows asked about.
        arrived: rows whose edits arrived at the logits of some batch; the baseline among them.
        kept: of each batch, the examples' indices and metric -> `(rows + 1, batch)` values.
        sizes: examples of each batch done.
        first: the first batch's digests, by which another pass knows whether it is the same work.
        finished: whether no batch is left to run.
        used, reasons: what the execution said of its engine.
    """

    tally: Tally
    wrong: float
    paired: Float[np.ndarray, " rows"]
    unseen: Float[np.ndarray, "asked values"]
    active: Bool[np.ndarray, " asked"]
    sequence: ConfidenceSequence
    arrived: frozenset[int] = frozenset()
    kept: tuple[tuple[IntArray, Mapping[str, FloatArray]], ...] = ()
    sizes: tuple[int, ...] = ()
    first: Mapping[str, FloatArray] | None = None
    finished: bool = False
    used: str = "eager"
    reasons: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """Examples done."""
        return sum(self.sizes)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays by name."""
        found = {f"sums.{name}": value for name, value in self.tally.sums.items()}
        found |= {name: getattr(self.tally, name) for name in ("positions", "examples", "bad")}
        found |= {f"sequence.{name}": value for name, value in self.sequence.arrays().items()}
        found |= {f"first.{name}": value for name, value in (self.first or {}).items()}
        if self.kept:
            found["order"] = np.concatenate([order for order, _ in self.kept])
            for name in self.kept[0][1]:
                found[f"kept.{name}"] = np.concatenate([values[name] for _, values in self.kept], axis=1)
        return found | {
            "wrong": np.array(self.wrong),
            "paired": self.paired,
            "unseen": self.unseen,
            "active": self.active,
            "arrived": np.array(sorted(self.arrived), dtype=np.int64),
            "sizes": np.array(self.sizes, dtype=np.int64),
            "finished": np.array(self.finished),
        }

    def restored(self, arrays: Arrays) -> Progress:
        """The progress that gave these arrays; this one, of no batch, says the names.

        Raises:
            KeyError: for arrays of another pass.
            ValueError: for arrays of other shapes.
        """
        tally = Tally(
            {name: arrays[f"sums.{name}"] for name in self.tally.sums},
            *(arrays[name] for name in ("positions", "examples", "bad")),
        )
        whole = {f"sums.{name}": value for name, value in self.tally.sums.items()}
        whole |= {name: getattr(self, name) for name in ("paired", "unseen", "active")}
        for name, value in whole.items():
            if arrays[name].shape != value.shape or arrays[name].dtype != value.dtype:
                raise ValueError(f"{name} has shape {arrays[name].shape}")
        kept = _under("kept.", arrays)
        return replace(
            self,
            tally=tally,
            wrong=float(arrays["wrong"]),
            paired=arrays["paired"],
            unseen=arrays["unseen"],
            active=arrays["active"],
            sequence=self.sequence.restored(_under("sequence.", arrays)),
            arrived=frozenset(arrays["arrived"].tolist()),
            kept=((arrays["order"], kept),) if kept else (),
            sizes=tuple(arrays["sizes"].tolist()),
            first=_under("first.", arrays),
            finished=bool(arrays["finished"]),
        )


def _under(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def prints(digests: Mapping[int, Digest], rows: int) -> dict[str, FloatArray]:
    """Digests of one batch as arrays `(rows, batch)`, the baseline last; NaN in rows that were not run."""
    baseline = digests[BASELINE]
    found = {name: np.full((rows, len(baseline.errors)), np.nan) for name in ("errors", *baseline.sums)}
    for row, mine in digests.items():
        found["errors"][row] = mine.errors
        for name, value in mine.sums.items():
            found[name][row] = value
    return found


def same(mine: Arrays, other: Arrays) -> bool:
    """Whether arrays agree in names, shapes and every value."""
    if mine.keys() != other.keys():
        return False
    return all(np.array_equal(value, other[name], equal_nan=True) for name, value in mine.items())


def differing(mine: Mapping[str, object], other: Mapping[str, object]) -> Sequence[str]:
    """Names under which two records differ."""
    return sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))
