"""Choose how a model's variants run, and hold the exported program against eager execution before trusting it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from netopsy._checks import NetopsyError, near
from netopsy._random import derive, forked, generator
from netopsy.engine.eager import Eager
from netopsy.engine.edits import Bypass, Edit, Mask, Variant, touched_modules
from netopsy.engine.functional import Inputs, examples, signature
from netopsy.engine.graph import ExportError, Places, Program, export, forget
from netopsy.engine.stream import BASELINE, Stream
from netopsy.engine.values import Values
from netopsy.network.addresses import Address
from netopsy.network.task import Task

Engine = Literal["auto", "exported", "eager"]

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}
"""Largest difference between exported and eager logits, relative to the largest logit."""

PROBE = 4
"""Examples on which the two are compared."""

SINGLE = "one example"
"""Inputs that run eagerly: exported programs are specialized against a batch of one."""


@dataclass(frozen=True)
class Perturb:
    """Another value of the same sign and size: to see whether an edit arrives."""

    seed: int

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        source = generator(derive(self.seed, str(address)))
        factor = 0.5 + torch.rand(value.shape, generator=source, dtype=value.dtype)
        return value * factor.to(value.device) + 0.01


@dataclass(frozen=True)
class PerturbUnits(Mask):
    """Other values of some units, which take the way of masked units: to see whether that is right."""

    def __call__(self, value: Tensor, address: Address) -> Tensor:
        changed = value.clone()
        units = changed.movedim(self.axis, 0)
        units[list(self.units)] = self.replaced(units[list(self.units)])
        return changed

    def replaced(self, units: Tensor) -> Tensor:
        return 0.5 * units + 0.1


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
        reasons: why parts ran eagerly where that was not asked for.
    """

    model: nn.Module
    state: Mapping[str, Tensor]
    task: Task
    values: Values
    rows: Sequence[int]
    engine: Engine
    reasons: list[str] = field(default_factory=list)
    _streams: dict[Any, Stream | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for row in self.rows:
            for edit in self.values.activation_edits(row):
                name = edit.module if isinstance(edit, Bypass) else edit.address.name
                _check_module(self.values.variants[row].label, name, modules)

    @property
    def eager(self) -> Eager:
        """The executor that always works."""
        return Eager(self.model, self.values, self.task.read)

    @property
    def used(self) -> str:
        """`"exported"`, `"eager"`, or both where inputs of some shapes could not be exported."""
        kinds = {"eager" if stream is None else "exported" for stream in self._streams.values()}
        return " and ".join(sorted(kinds, reverse=True)) or "eager"

    def run(self, inputs: Inputs, rows: Set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield `(row, logits)` of each of `rows` whose edits arrive at the logits, then of the baseline."""
        for row, read in self.outputs(inputs, rows):
            yield row, self.task.split(read)[0]

    def outputs(self, inputs: Inputs, rows: Set[int]) -> Iterator[tuple[int, Tensor]]:
        """The same of what the task reads of the model's output."""
        stream = self._stream(inputs)
        if stream is None:
            yield from self.eager.run(self.state, inputs, rows)
        else:
            yield from stream.run(self.state, inputs, rows)

    def unreached(self, inputs: Inputs) -> frozenset[int]:
        """Rows whose edits do not reach the logits, as far as these inputs tell: what they edit is not used.

        Certain for an exported model and inputs of this signature. Of a model that runs eagerly, a random override
        of what they edit is tried on the first few examples.
        """
        stream = self._stream(inputs)
        if stream is not None:
            return stream.unreached
        probes, owners = _probes(self.values, self.rows)
        part = _head(inputs)
        eager = Eager(self.model, probes, self.task.read)
        arrived = dict(eager.run(self.state, part, set(range(len(owners)))))
        return frozenset(row for i, members in enumerate(owners) if i not in arrived for row in members)

    def _stream(self, inputs: Inputs) -> Stream | None:
        """The verified stream for inputs of this signature; None: run eagerly."""
        key = signature(inputs) if examples(inputs) > 1 else SINGLE
        if key not in self._streams:
            self._streams[key] = self._export(inputs) if self._is_to_be_exported(key) else None
        return self._streams[key]

    def _is_to_be_exported(self, key: Any) -> bool:
        """Not for a baseline alone, nor again where inputs of another signature failed."""
        if self.engine == "eager" or (self.engine == "auto" and not self.rows):
            return False
        if key == SINGLE:
            self.reasons.append("a batch of one example")
            return False
        return all(stream is not None for other, stream in self._streams.items() if other != SINGLE)

    def _export(self, inputs: Inputs) -> Stream | None:
        marked = touched_modules(self.values.variants)
        try:
            for fresh in (False, True):
                if fresh:  # the model may have been rebuilt since its program was made
                    forget(self.model)
                program = export(self.model, inputs, self.task.read, marked)
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
        whole, _ = _probes(self.values, self.rows)
        probes = replace(whole, variants=(*whole.variants, *_unit_probes(self.values, self.rows)))
        part = _head(inputs)
        places = [_places(probe) for probe in probes.variants]
        rows = {i for i in range(len(places)) if places[i] not in program.verified}
        stream = Stream.of(program, probes, sorted(rows))
        eager = Eager(self.model, probes, self.task.read)
        expected = dict(eager.run(self.state, part, rows))
        try:
            outputs = dict(stream.run(self.state, part, rows))
        except NetopsyError:
            raise
        except Exception as error:  # whatever an operation of a wrong program may raise
            return f"the exported program fails: {error}"
        for row in sorted(rows | {BASELINE}):
            mine, wanted = outputs.get(row, outputs[BASELINE]), expected.get(row, expected[BASELINE])
            if not _close(mine, wanted, expected[BASELINE]):
                edited = () if row == BASELINE else sorted(map(str, places[row]))
                what = f"an edit of {', '.join(edited)}" if edited else "the unedited model"
                return f"exported and eager logits differ for {what}"
        program.verified.update(places[row] for row in rows)
        return None


def _check_module(label: str, name: str, modules: Mapping[str, nn.Module]) -> None:
    """Refuse to edit what enters or leaves a module that is not there, or runs where no hook sees it."""
    if name not in modules:
        raise NetopsyError(f"variant {label!r}: the model has no module {name!r}{near(name, modules)}")
    around = itertools.accumulate(name.split("."), "{}.{}".format)
    if any(isinstance(modules[module], torch.jit.ScriptModule) for module in around):
        raise NetopsyError(
            f"variant {label!r}: {name!r} is in a ScriptModule, where only parameters and buffers can be edited; "
            "pass the module as it was before torch.jit"
        )


def _probes(values: Values, rows: Sequence[int]) -> tuple[Values, list[list[int]]]:
    """One random override for each distinct set of addresses, and the rows each stands for."""
    owners: dict[Places, list[int]] = {}
    for row in rows:
        owners.setdefault(_places(values.variants[row]), []).append(row)
    variants = []
    for members in owners.values():
        variants.append(_override(values.variants[members[0]], units=False))
    return Values(values.state, values.canonical, variants), list(owners.values())


def _unit_probes(values: Values, rows: Sequence[int]) -> list[Variant]:
    """For each distinct set of addresses with masked units, an override of the units of one row that masks few."""
    owners: dict[Places, list[Variant]] = {}
    for row in rows:
        if any(isinstance(edit, Edit) and isinstance(edit.rule, Mask) for edit in values.activation_edits(row)):
            owners.setdefault(_places(values.variants[row]), []).append(values.variants[row])
    return [_override(_fewest(members), units=True) for members in owners.values()]


def _fewest(variants: Sequence[Variant]) -> Variant:
    """Of those that mask fewest units the middle one, which is not unit 0 as a rule."""
    rules = [[edit.rule for edit in variant.edits if isinstance(edit, Edit)] for variant in variants]
    counts = [sum(len(rule.units) for rule in mine if isinstance(rule, Mask)) for mine in rules]
    least = [variant for variant, count in zip(variants, counts, strict=True) if count == min(counts)]
    return least[len(least) // 2]


def _override(variant: Variant, *, units: bool) -> Variant:
    """Other values of all that a variant edits; with `units` of masked activations' units alone."""
    edits: list[Edit | Bypass] = []
    for edit in variant.edits:
        if isinstance(edit, Bypass):
            edits.append(edit)
        elif units and isinstance(edit.rule, Mask) and not edit.address.is_state:
            edits.append(Edit(edit.address, PerturbUnits(edit.rule.units, edit.rule.axis)))
        else:
            edits.append(Edit(edit.address, Perturb(1)))
    return Variant(variant.label, tuple(edits))


def _places(variant: Variant) -> Places:
    """What a variant edits, and along which axis it masks units there."""
    places: set[Address | Bypass | tuple[Address, int]] = set()
    for edit in variant.edits:
        if isinstance(edit, Bypass):
            places.add(edit)
        else:
            places.add((edit.address, edit.rule.axis) if isinstance(edit.rule, Mask) else edit.address)
    return frozenset(places)


def _head(inputs: Inputs) -> Inputs:
    """The first few examples."""
    n = examples(inputs)

    def cut(leaf: Any) -> Any:
        return leaf[:PROBE] if isinstance(leaf, Tensor) and leaf.shape[:1] == (n,) else leaf

    args, kwargs = pytree.tree_map(cut, inputs)
    return args, kwargs


def _close(mine: Tensor, expected: Tensor, before: Tensor) -> bool:
    """Whether logits agree; of an edit that changes little, at least half of the change must have arrived."""
    if mine.shape != expected.shape or mine.dtype != expected.dtype:
        return False
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(mine)):
        return False
    if not finite.any():
        return True
    limit = TOLERANCE.get(expected.dtype, 2e-4) * max(1.0, expected[finite].abs().max().item())
    change = (expected - before)[finite].abs().max().item()
    if change > 0:
        limit = min(limit, max(change / 2, limit / 10))
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
                outputs.append(task.split(Eager(model, values, task.read).forward(state, part))[0])
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
