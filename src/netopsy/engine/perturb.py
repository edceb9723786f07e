"""Many points of one site's line, on the same examples: `evaluate` for a search.

theta(alpha, sigma) = (1 - alpha) theta^0 + alpha theta^F + sigma z_k, with z_k the k-th draw, the same at every alpha
and sigma. That is `Interpolate` and `AddNoise` on the site's values, which `evaluate` runs variant by variant, in one
pass. A search asks for one point after the other. Here what lies before the site is run once. Where the site acts
through operations that are affine in its values (a convolution, a linear layer), so is what they give: it is put
together from its values at theta^0, theta^F and each z_k, and a further point costs only what lies after the site.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from jaxtyping import Float
from torch import Tensor

from netopsy._typing import Batch, FloatArray
from netopsy.engine.batches import check_batch
from netopsy.engine.execution import TOLERANCE
from netopsy.engine.functional import Inputs, examples, signature
from netopsy.engine.graph import export
from netopsy.engine.line import Line
from netopsy.engine.masked import Slots
from netopsy.engine.reducers import digest
from netopsy.engine.route import Route
from netopsy.engine.run import Run

KEPT_BYTES = 1024 * 2**20
"""What a site's examples may keep between points; the rest is computed again at each."""

STACKED_BYTES = 4 * 2**20
"""Draws are run together as one batch up to this size of what the site gives."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A point on some of the examples.

    Attributes:
        errors: 0-1 error of each example, the mean over the draws and, where it has several, the positions.
        draws: 0-1 error of each draw, the mean over the examples.
        loss: mean over the draws and examples, where it was asked for; else NaN.
        total: examples of the whole data set.
    """

    errors: Float[np.ndarray, " n"]
    draws: Float[np.ndarray, " k"]
    loss: float
    total: int

    @property
    def error(self) -> float:
        """Mean over examples and draws."""
        return float(self.draws.mean())

    @property
    def spread(self) -> float:
        """Standard error of the mean at these draws: the examples are drawn from the whole without replacement."""
        n = len(self.errors)
        if n >= self.total:
            return 0.0
        return math.sqrt(float(self.errors.var(ddof=1)) / n * (1 - n / self.total)) if n > 1 else math.inf

    def beside(self, anchor: Measured) -> tuple[float, float]:
        """The error and its standard error, from how the examples differ from those of a point measured on all.

        Where too few examples differ to say how much more differ elsewhere, the standard error is that of one draw of
        one example.
        """
        n, k = len(self.errors), len(self.draws)
        apart = self.errors - anchor.errors[:n]
        variance = max(float(apart.var(ddof=1)), 1 / (n * k**2)) if n > 1 else math.inf
        return anchor.error + float(apart.mean()), math.sqrt(variance / n * max(0.0, 1 - n / self.total))


@dataclass(frozen=True, eq=False)
class _Part:
    """A batch, run up to the site.

    Attributes:
        n: examples.
        labels: their targets.
        inputs: what the model is called with.
        route: None where the batch runs eagerly.
        slots: what `route.run` reads; with a basis, what `route.after` reads.
        basis: joint -> its values at the start, at the end, and of the draws, `(k, ...)`.
    """

    n: int
    labels: Tensor
    inputs: Inputs
    route: Route | None
    slots: Slots
    basis: Mapping[int, tuple[Tensor, Tensor, Tensor]] | None = None


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Examples around one site's line.

    Attributes:
        run: an opened pass (`netopsy.engine.evaluate.opened`), one of whose variants edits the site: it has seen
            whether the exported program may be trusted.
        line: the site's values.
        total: examples of the data.
    """

    run: Run
    line: Line
    total: int
    _kept: list[_Part] = field(default_factory=list, repr=False)
    _room: list[int] = field(default_factory=lambda: [KEPT_BYTES], repr=False)
    _routes: dict[Any, Route] = field(default_factory=dict, repr=False)
    _trusted: dict[Route, bool] = field(default_factory=dict, repr=False)

    def measure(self, points: Sequence[tuple[float, float]], most: int, *, loss: bool = False) -> list[Measured]:
        """Points (alpha, sigma) on the first examples of the order, at least `most` of them or all.

        At sigma = 0 all draws are one.
        """
        task, count = self.run.execution.task, len(self.line.seeds)
        metrics = ("error", "loss") if loss else ("error",)
        errors: list[list[FloatArray]] = [[] for _ in points]
        draws, losses, positions = np.zeros((len(points), count)), np.zeros(len(points)), 0
        for part in self._parts(most):
            valid = int(task.valid(part.labels).sum())
            positions += valid
            for i, (alpha, sigma) in enumerate(points):
                wrong = np.zeros(part.n)
                for chosen, logits in self._logits(part, alpha, sigma):
                    labels = part.labels.repeat(len(chosen), 1)
                    found = digest(task.scores(logits, labels), labels, task, metrics)
                    by_draw = found.errors.reshape(len(chosen), part.n)
                    # one draw stands for all where there is no noise
                    weight = count / len(chosen) if sigma == 0 else 1
                    wrong += weight * by_draw.sum(0)
                    draws[i, list(chosen) if sigma else slice(None)] += by_draw.sum(1)
                    if loss:
                        losses[i] += weight * float(found.sums["loss"].sum())
                errors[i].append(wrong / count)
        joined = [np.concatenate(mine) for mine in errors]
        per = positions / max(1, len(joined[0]) if joined else 1)
        return [
            Measured(
                errors=joined[i] / per,
                draws=draws[i] / positions,
                loss=losses[i] / (positions * count) if loss else math.nan,
                total=self.total,
            )
            for i in range(len(points))
        ]

    def _parts(self, most: int) -> Iterator[_Part]:
        """Batches of the order until there are enough examples; those that are kept need not be read again."""
        done = 0
        for part in self._kept:
            if done >= most:
                return
            yield part
            done += part.n
        if done >= min(most, self.total):
            return
        skipped = len(self._kept)
        for index, (_, batch) in enumerate(self.run.source.batches()):
            if index >= skipped:
                part = self._prepared(index, batch)
                yield part
                done += part.n
                if done >= most:
                    return

    def _prepared(self, index: int, batch: Batch) -> _Part:
        """Run a batch up to the site, and keep what it gave while there is room."""
        execution = self.run.execution
        if index and self.run.source.whole is None:
            check_batch(execution.task, batch, self.run.classes, f"batch {index}")
        labels, inputs = execution.task.labels(batch), execution.task.inputs(batch)
        route = self._route(inputs)
        if route is None:
            return self._keep(_Part(len(labels), labels, inputs, None, []), _size(pytree.tree_leaves(inputs)))
        slots = route.program.load(execution.state, inputs)
        for step in route.before:
            slots[route.program.steps[step].writes] = route.program.steps[step].run(slots)
        plain = _Part(len(labels), labels, inputs, route, _only(slots, route.reads))
        combined = self._combined(plain, route) if route.affine and self._trusted.get(route, True) else None
        if combined is not None and route not in self._trusted:
            self._trusted[route] = self._agree(combined, plain)
        if combined is None or not self._trusted[route]:
            return self._keep(plain, _size(_only(slots, route.reads - route.own)))
        return self._keep(combined, self._combined_size(combined, route))

    def _combined(self, plain: _Part, route: Route) -> _Part | None:
        """With a basis of the joints; None where there is no room to keep it."""
        draws, line = range(len(self.line.seeds)), self.line
        start = route.joined(plain.slots, line.start)
        outer = _only(plain.slots, route.outer)
        if (len(draws) + 2) * _size(start.values()) + _size(_only(outer, route.outer - route.own)) > self._room[0]:
            return None
        end = route.joined(plain.slots, line.end)
        nothing = route.joined(plain.slots, {name: torch.zeros_like(value) for name, value in line.end.items()})
        noisy: dict[int, list[Tensor]] = {slot: [] for slot in route.joints}
        for draw in draws:
            for slot, value in route.joined(plain.slots, line.noise(draw)).items():
                noisy[slot].append(value - nothing[slot])
        basis = {slot: (start[slot], end[slot], torch.stack(values)) for slot, values in noisy.items()}
        return _Part(plain.n, plain.labels, plain.inputs, route, outer, basis)

    def _combined_size(self, part: _Part, route: Route) -> int:
        basis = part.basis or {}
        return sum(_size(values) for values in basis.values()) + _size(_only(part.slots, route.outer - route.own))

    def _keep(self, part: _Part, size: int) -> _Part:
        """Keep the first batches of the order: one that follows on a gap is not kept."""
        if size <= self._room[0]:
            self._kept.append(part)
            self._room[0] -= size
        else:
            self._room[0] = -1
        return part

    def _route(self, inputs: Inputs) -> Route | None:
        """Through the exported program, where the run may use it for such inputs; None: eagerly."""
        execution = self.run.execution
        if execution.used != "exported" or examples(inputs) < 2:
            return None
        key = signature(inputs)
        if key not in self._routes:
            execution.unreached(inputs)  # verifies the program for inputs of this signature
            if execution.used != "exported":
                return None
            self._routes[key] = Route.of(export(execution.model, inputs, execution.task.logits), self.line.end)
        return self._routes[key]

    def _agree(self, combined: _Part, plain: _Part) -> bool:
        """Whether a point put together from the basis gives the logits of the point."""
        sigma = self.line.size() or 1.0
        mine, expected = (
            torch.cat([logits for _, logits in self._logits(part, 0.3, sigma)]) for part in (combined, plain)
        )
        limit = TOLERANCE.get(expected.dtype, 2e-4) * max(1.0, float(expected.abs().max()))
        return mine.shape == expected.shape and bool(((mine - expected).abs() <= limit).all())

    def _logits(self, part: _Part, alpha: float, sigma: float) -> Iterator[tuple[range, Tensor]]:
        """Draws and their logits, one draw behind the other along the first axis; without noise the first draw."""
        draws, route = range(len(self.line.seeds) if sigma else 1), part.route
        if route is None or part.basis is None:
            for draw in draws:
                values = self.line.values(alpha, sigma, draw)
                if route is None:
                    execution = self.run.execution
                    logits = execution.eager.forward({**execution.state, **values}, part.inputs)
                else:
                    slots = part.slots.copy()
                    for slot, name in route.edited.items():
                        slots[slot] = values[name]
                    logits = route.logits(slots, route.run)
                yield range(draw, draw + 1), logits
            return
        mixed = {slot: torch.lerp(start, end, alpha) for slot, (start, end, _) in part.basis.items()}
        several = STACKED_BYTES // max(1, _size(mixed.values())) if route.stackable else 1
        for first in draws[:: max(1, several)]:
            group = draws[first : first + max(1, several)]
            slots = part.slots.copy()
            for slot, value in mixed.items():
                noise = part.basis[slot][2][group.start : group.stop]
                moved = torch.add(value, noise, alpha=sigma)
                slots[slot] = moved.flatten(0, 1) if route.stackable else moved[0]
            for slot in route.counts:
                slots[slot] = slots[slot] * len(group)
            yield group, route.logits(slots, route.after)


def _only(slots: Slots, wanted: Iterable[int]) -> Slots:
    chosen = set(wanted)
    return [value if slot in chosen else None for slot, value in enumerate(slots)]


def _size(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))
