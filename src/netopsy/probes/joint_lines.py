"""All sites on their lines at once: errors of the network with every site moved and noisy together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from netopsy._checks import NetopsyError
from netopsy._typing import Batch, FloatArray
from netopsy.engine.functional import Inputs, examples, signature
from netopsy.engine.graph import export
from netopsy.engine.line import Line
from netopsy.engine.reducers import digest
from netopsy.engine.route import Route
from netopsy.engine.run import Run
from netopsy.network.sites import Site
from netopsy.probes.crossing import Estimate

KEPT_BYTES = 512 * 2**20
"""Values of all draws that are kept during a pass; more are put together again for each batch."""


def check_disjoint(sites: Sequence[Site]) -> None:
    """Refuse sites that share values: these cannot be at two places at once."""
    owners: dict[str, Site] = {}
    for site in sites:
        for address in site.addresses:
            other = owners.setdefault(address.name, site)
            if other is not site:
                raise NetopsyError(
                    f"sites: expected sites that share no values, since all are moved together; {other} and {site} "
                    f"share {address.name}"
                )


@dataclass(frozen=True, eq=False)
class Together:
    """The network with all sites moved.

    Attributes:
        run: an opened pass, one of whose variants edits each site.
        lines: of the sites.
        total: examples of the data.
    """

    run: Run
    lines: Sequence[Line]
    total: int
    _routes: dict[Any, Route | None] = field(default_factory=dict, repr=False)

    def values(self, alphas: FloatArray, sigmas: FloatArray, draw: int) -> dict[str, Tensor]:
        """All sites' values under one draw of the lines' noise."""
        merged: dict[str, Tensor] = {}
        for line, alpha, sigma in zip(self.lines, alphas, sigmas, strict=True):
            merged |= line.values(float(alpha), float(sigma), draw)
        return merged

    def error(self, alphas: FloatArray, sigmas: FloatArray) -> Estimate:
        """Over all examples and draws."""
        task, wrong, positions = self.run.execution.task, 0.0, 0
        draws = range(len(self.lines[0].seeds))
        size = sum(value.nbytes for line in self.lines for value in line.end.values()) * len(draws)
        kept = [self.values(alphas, sigmas, draw) for draw in draws] if size <= KEPT_BYTES else None
        for _, batch in self.run.source.batches():
            positions += int(task.valid(task.labels(batch)).sum())
            for draw in draws:
                values = self.values(alphas, sigmas, draw) if kept is None else kept[draw]
                wrong += float(self.wrong(values, batch).sum())
        return Estimate(wrong / (positions * len(draws)), 0.0)

    def sampled(self, alphas: FloatArray, sigmas: FloatArray, blocks: Sequence[Batch]) -> Estimate:
        """Over blocks of examples, each under one draw of the noise, in turns: the most examples for the forwards."""
        task, parts, positions, count = self.run.execution.task, [], 0, len(self.lines[0].seeds)
        for draw in range(count):
            values = self.values(alphas, sigmas, draw)
            for block in blocks[draw::count]:
                parts.append(self.wrong(values, block))
                positions += int(task.valid(task.labels(block)).sum())
        wrong = np.concatenate(parts)
        return Estimate(float(wrong.sum()) / positions, float(wrong.std(ddof=1)) * len(wrong) ** 0.5 / positions)

    def blocks(self, examples: int) -> list[Batch]:
        """Batches of the order, equally many for each draw, with about so many examples; none where that is all."""
        draws = len(self.lines[0].seeds)
        source, found = self.run.source, []
        if not source.drawn:
            return []
        seen, wanted = 0, 0
        for rows, batch in source.batches():
            wanted = wanted or draws * math.ceil(examples / (draws * len(rows)))
            found.append(batch)
            seen += len(rows)
            if len(found) == wanted:
                return found if seen < self.total else []
        return []

    def wrong(self, values: Mapping[str, Tensor], batch: Batch) -> Float[np.ndarray, " n"]:
        """Wrong positions of each example, under some values of the sites."""
        task = self.run.execution.task
        labels = task.labels(batch)
        scores = task.scores(self._logits(values, task.inputs(batch)), labels)
        return digest(scores, labels, task, ("error",)).errors

    def _logits(self, values: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        execution = self.run.execution
        state = {**execution.state, **values}
        route = self._route(inputs, values)
        if route is None:
            return execution.eager.forward(state, inputs)
        slots = route.program.load(state, inputs)
        for index in route.before:
            step = route.program.steps[index]
            slots[step.writes] = step.run(slots)
        return route.logits(slots, route.run)

    def _route(self, inputs: Inputs, values: Mapping[str, Tensor]) -> Route | None:
        """Through the exported program, where the run may use it for such inputs; None: eagerly."""
        execution = self.run.execution
        if execution.used != "exported" or examples(inputs) < 2:
            return None
        key = signature(inputs)
        if key not in self._routes:
            execution.unreached(inputs)  # verifies the program for inputs of this signature
            exported = execution.used == "exported"
            program = export(execution.model, inputs, execution.task.logits) if exported else None
            self._routes[key] = None if program is None else Route.of(program, values)
        return self._routes[key]
