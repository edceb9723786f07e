"""Choose how a model's variants run, and hold the exported program against eager execution before trusting it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from netopsy._checks import NetopsyError
from netopsy._random import derive, forked, generator
from netopsy.engine.eager import Eager
from netopsy.engine.edits import Bypass, Edit, Variant, touched_modules
from netopsy.engine.graph import ExportError, Inputs, Program, examples, export, forget, signature
from netopsy.engine.stream import BASELINE, Stream
from netopsy.engine.values import Values
from netopsy.network.addresses import Address
from netopsy.network.task import Task

Engine = Literal["auto", "exported", "eager"]

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}
"""Largest difference between exported and eager logits, relative to the largest logit."""

PROBE = 4
"""Examples on which the two are compared."""


@dataclass(frozen=True)
class Perturb:
    """Another value of the same sign and size: to see whether an edit arrives."""

    seed: int

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        source = generator(derive(self.seed, str(address)))
        factor = 0.5 + torch.rand(value.shape, generator=source, dtype=value.dtype)
        return value * factor.to(value.device) + 0.01


@dataclass(frozen=True, eq=False)
class Execution:
    """Runs a batch's baseline and variants by the exported program where that is right, else eagerly.

    Attributes:
        model: in eval mode.
        state: its values under first names.
        task: what the logits are.
        values: the variants.
        rows: the variants that are to run.
        engine: `"auto"`, `"exported"` (a model that cannot be exported is an error) or `"eager"`.
        reasons: why parts ran eagerly under `"auto"`.
    """

    model: nn.Module
    state: Mapping[str, Tensor]
    task: Task
    values: Values
    rows: Sequence[int]
    engine: Engine
    reasons: list[str] = field(default_factory=list)
    _streams: dict[Any, Stream | None] = field(default_factory=dict)

    @property
    def eager(self) -> Eager:
        """The executor that always works."""
        return Eager(self.model, self.values, self.task.logits)

    @property
    def used(self) -> str:
        """`"exported"`, `"eager"`, or both where inputs of some shapes could not be exported."""
        kinds = {"eager" if stream is None else "exported" for stream in self._streams.values()}
        return " and ".join(sorted(kinds, reverse=True)) or "eager"

    def run(self, inputs: Inputs, rows: Set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield `(row, logits)` of each of `rows` that its edits reach, and of the baseline."""
        stream = self._stream(inputs) if examples(inputs) >= 2 else None
        if stream is None:
            yield from self.eager.run(self.state, inputs, rows)
        else:
            yield from stream.run(self.state, inputs, rows)

    def unreached(self, inputs: Inputs) -> frozenset[int]:
        """Rows whose edits cannot reach the logits: what they edit is not used."""
        stream = self._stream(inputs)
        if stream is not None:
            return stream.unreached
        probes, owners = _probes(self.values, self.rows)
        part = _head(inputs)
        eager = Eager(self.model, probes, self.task.logits)
        outputs = dict(eager.run(self.state, part, set(range(len(owners)))))
        silent = [i for i in range(len(owners)) if torch.equal(outputs[i], outputs[BASELINE])]
        return frozenset(row for i in silent for row in owners[i])

    def _stream(self, inputs: Inputs) -> Stream | None:
        """The verified stream for inputs of this signature; None: run eagerly."""
        key = signature(inputs)
        if key not in self._streams:
            self._streams[key] = None if self.engine == "eager" else self._export(inputs)
        return self._streams[key]

    def _export(self, inputs: Inputs) -> Stream | None:
        try:
            for fresh in (False, True):
                if fresh:  # the model may have been rebuilt since its program was made
                    forget(self.model)
                program = export(self.model, inputs, self.task.logits, touched_modules(self.values.variants))
                wrong = self._verify(program, inputs)
                if wrong is None:
                    return Stream.of(program, self.values, self.rows)
            raise ExportError(wrong)
        except ExportError as error:
            if self.engine == "exported":
                raise NetopsyError(
                    f"engine='exported': {type(self.model).__name__} cannot be run so: {error}; use engine='auto', "
                    "which falls back to eager execution"
                ) from error
            self.reasons.append(str(error))
            return None

    def _verify(self, program: Program, inputs: Inputs) -> str | None:
        """Compare the baseline and one random override of every edited site with eager; what differs, or None."""
        if not program.state.keys() <= self.state.keys():
            return "the model has lost parameters since it was exported"
        probes, owners = _probes(self.values, self.rows)
        part = _head(inputs)
        names = [_places(probe) for probe in probes.variants]
        rows = {i for i in range(len(owners)) if names[i] not in program.verified}
        stream = Stream.of(program, probes, sorted(rows))
        eager = Eager(self.model, probes, self.task.logits)
        expected = dict(eager.run(self.state, part, rows))
        outputs = dict(stream.run(self.state, part, rows))
        for row in sorted(rows | {BASELINE}):
            mine = outputs.get(row, outputs[BASELINE])
            if not _close(mine, expected[row]):
                what = "the unedited model" if row == BASELINE else f"an edit of {', '.join(sorted(names[row]))}"
                return f"exported and eager logits differ for {what}"
        program.verified.update(names[row] for row in rows)
        return None


def _probes(values: Values, rows: Sequence[int]) -> tuple[Values, list[list[int]]]:
    """One random override for each distinct set of addresses, and the rows each stands for."""
    owners: dict[frozenset[str], list[int]] = {}
    for row in rows:
        owners.setdefault(_places(values.variants[row]), []).append(row)
    variants = []
    for members in owners.values():
        original = values.variants[members[0]]
        edits = [e if isinstance(e, Bypass) else Edit(e.address, Perturb(1)) for e in original.edits]
        variants.append(Variant(original.label, tuple(edits)))
    return Values(values.state, values.canonical, variants), list(owners.values())


def _places(variant: Variant) -> frozenset[str]:
    return frozenset(f"bypass of {e.module}" if isinstance(e, Bypass) else str(e.address) for e in variant.edits)


def _head(inputs: Inputs) -> Inputs:
    """The first few examples."""
    n = examples(inputs)

    def cut(leaf: Any) -> Any:
        return leaf[:PROBE] if isinstance(leaf, Tensor) and leaf.shape[:1] == (n,) else leaf

    args, kwargs = pytree.tree_map(cut, inputs)
    return args, kwargs


def _close(mine: Tensor, expected: Tensor) -> bool:
    if mine.shape != expected.shape or mine.dtype != expected.dtype:
        return False
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(mine)):
        return False
    scale = expected[finite].abs().max().item() if finite.any() else 0.0
    limit = TOLERANCE.get(expected.dtype, 2e-4) * max(1.0, scale)
    return bool(((mine - expected)[finite].abs() <= limit).all())


def check_deterministic(model: nn.Module, state: Mapping[str, Tensor], task: Task, inputs: Inputs) -> Tensor:
    """Logits of the unedited model on the first examples; refuses a model whose eval mode is random.

    Raises:
        NetopsyError: when two passes differ, when the model rejects the batch, or when its outputs are not finite.
    """
    values = Values(state, {}, ())
    part = _head(inputs)
    outputs = []
    for seed in (1, 2):
        with forked(seed):
            try:
                outputs.append(Eager(model, values, task.logits).forward(state, part))
            except NetopsyError:
                raise
            except Exception as error:
                shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(part) if isinstance(leaf, Tensor)]
                raise NetopsyError(
                    f"data: {type(model).__name__} cannot be run on the first batch, input shapes {shapes}: {error}; "
                    "give the data as the model takes them, or pass task=netopsy.Task(inputs=...)"
                ) from error
    first, second = outputs
    if not torch.isfinite(first).all():
        raise NetopsyError("model: its own outputs on the first batch are not finite; check its weights and the data")
    if not torch.equal(first, second):
        raise NetopsyError(
            f"model: {type(model).__name__} is not deterministic in eval mode: two passes over one batch differ; "
            "turn off its sampling or always-on dropout"
        )
    return first
