"""What criticality and convex paths will cost: a point of every site is timed, and the points are counted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from netopsy._amounts import duration
from netopsy.network.sites import Site
from netopsy.network.trajectory import Trajectory
from netopsy.probes.criticality_lines import open_lines, read_start
from netopsy.probes.criticality_search import FEW, SMALLEST
from netopsy.probes.plan import MARGIN

BACK = ((10, 1), (15, 2), (25, 5))
"""Points of a site that can go back all the way, and how many of them on all examples: at least, about, at most."""

SEARCHED = ((40, 2), (70, 15), (200, 50))
"""And of any other site. As counted on digits and Fashion-MNIST."""

clock = time.perf_counter


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A site's first batch.

    Attributes:
        examples: of the batch, and of all data.
        total: of all data.
        prepare: seconds to run it up to the site.
        point: seconds of a point from there on.
        back: error where the site is back at its start.
        engine: that runs it.
    """

    examples: int
    total: int
    prepare: float
    point: float
    back: float
    engine: str


@dataclass(frozen=True, kw_only=True)
class LinePlan:
    """Costs of a probe of sites between their initial and their trained values.

    Attributes:
        rows: of the result.
        sites: that are moved.
        points: places between the two, with and without noise, at which the error is measured: for all sites.
        points_low, points_high: with their range.
        draws: of the noise at each.
        examples: by split.
        engine: that runs them.
        seconds: of the probe, with its range.
    """

    rows: int
    sites: int
    points: int
    points_low: int
    points_high: int
    draws: int
    examples: dict[str, int]
    engine: str
    seconds: float
    seconds_low: float
    seconds_high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        ends = "" if self.points_low == self.points_high else f" ({self.points_low:,} to {self.points_high:,})"
        noise = f", {self.draws} draws of noise at each" if self.draws else ""
        lines = {
            "points": f"about {self.points:,}{ends}, of {self.sites:,} sites{noise}" if ends else
            f"{self.points:,}, of {self.sites:,} sites{noise}",
            "data": ", ".join(f"{split}: {count:,} examples" for split, count in self.examples.items()),
            "engine": self.engine,
            "time": f"{duration(self.seconds)} ({duration(self.seconds_low)} to {duration(self.seconds_high)})",
        }  # fmt: skip
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def plan_search(
    trajectory: Trajectory, train: Any, sites: Sequence[Site], *, epsilon: float, draws: int, seed: int
) -> LinePlan:
    """Of a search for each site: how many points it takes depends on whether it can go back all the way."""
    began = clock()
    timed = list(_timed(trajectory, train, sites, draws=draws, seed=seed))
    setup = clock() - began
    ranges = [BACK if one.back <= epsilon else SEARCHED for one in timed]
    seconds = [setup] * 3
    for one, points in zip(timed, ranges, strict=True):
        few, each = min(FEW, one.total), one.point / one.examples
        for which, (searched, whole) in enumerate(points):
            seconds[which] += one.prepare * one.total / one.examples
            seconds[which] += each * (max(searched - whole, 0) * few + whole * one.total)
    low, middle, high = (sum(points[which][0] for points in ranges) for which in range(3))
    return LinePlan(
        rows=len(sites),
        sites=len(sites),
        points=middle,
        points_low=low,
        points_high=high,
        draws=draws,
        examples={"train": timed[0].total},
        engine=timed[0].engine,
        seconds=seconds[1],
        seconds_low=seconds[0] / MARGIN,
        seconds_high=seconds[2] * MARGIN,
    )


def plan_path(
    trajectory: Trajectory, splits: dict[str, Any], sites: Sequence[Site], *, places: int, seed: int
) -> LinePlan:
    """Of as many places on each site's line, on all examples of each split."""
    seconds, found = 0.0, {}
    for split, data in splits.items():
        began = clock()
        timed = found[split] = list(_timed(trajectory, data, sites, draws=1, seed=seed))
        seconds += clock() - began
        seconds += sum((one.prepare + places * one.point) * one.total / one.examples for one in timed)
    points = places * len(sites) * len(splits)
    return LinePlan(
        rows=points,
        sites=len(sites),
        points=points,
        points_low=points,
        points_high=points,
        draws=0,
        examples={split: timed[0].total for split, timed in found.items()},
        engine=next(iter(found.values()))[0].engine,
        seconds=seconds,
        seconds_low=seconds / MARGIN,
        seconds_high=seconds * MARGIN,
    )


def _timed(trajectory: Trajectory, data: Any, sites: Iterable[Site], *, draws: int, seed: int) -> Iterator[Timed]:
    """Each site's first batch; the second point is timed, when all is warm."""
    _, start = read_start(trajectory)
    every = tuple(sites)
    options: dict[str, Any] = {"seed": seed, "task": None, "engine": "auto", "batch_size": None}
    with open_lines(trajectory.model(), trajectory, start, data, every, **options) as opened:
        for site in every:
            around = opened.around(site, draws)
            sigma = SMALLEST * (around.line.size() or 1.0)
            began = clock()
            [back] = around.measure([(0.0, sigma)], 1)
            between = clock()
            around.measure([(0.5, sigma)], 1)
            point = clock() - between
            yield Timed(
                examples=len(back.errors),
                total=opened.total,
                prepare=max(between - began - point, 0.0),
                point=point,
                back=back.error,
                engine=opened.run.execution.used,
            )
