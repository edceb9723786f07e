"""Match the units of two runs: which of one are those of the other, and since when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from netopsy._checks import NetopsyError, one_of
from netopsy._identity import canonical, code_version, digest
from netopsy._typing import Key
from netopsy.commands.inspect import subject
from netopsy.commands.kept import kept
from netopsy.commands.probing import Progress, Subject
from netopsy.data.dataset import fingerprint
from netopsy.engine.batches import open_data
from netopsy.network.task import Task
from netopsy.network.trajectory import Trajectory
from netopsy.network.units import find_units
from netopsy.plots.style import save
from netopsy.probes.arguments import read_splits
from netopsy.probes.matching import check_pairs, match_units
from netopsy.probes.matching_result import UnitMatch
from netopsy.probes.winner_ranks import WinnerRanks, winner_ranks
from netopsy.report.blocks import Chapter
from netopsy.report.found import names
from netopsy.report.matching import SAME, layer_pairs, match_section, names_of, ranks_section
from netopsy.report.page import write_page
from netopsy.report.robustness_words import MAIN

LINES: Mapping[str, Literal["rho_bar", "rank"]] = {"picture of ρ̄": "rho_bar", "picture of ranks": "rank"}
"""What a picture is -> what it draws over the checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What was found and written.

    Attributes:
        match: of the two trained networks.
        ranks: over the first run's checkpoints.
        sentences: what both say.
        files: folders of results and pictures, by what they are.
        path: of the page.
    """

    match: UnitMatch
    ranks: WinnerRanks
    sentences: tuple[str, ...]
    files: Mapping[str, Path]
    path: Path

    @property
    def layers(self) -> pd.DataFrame:
        """How well each pair of layers goes together, as `layer_pairs` has it."""
        return layer_pairs(self.match)

    def __str__(self) -> str:
        a, b = names_of(self.match)
        known = self.layers
        table = pd.DataFrame(
            {
                f"layer of {a}": known.layer_a,
                f"layer of {b}": known.layer_b,
                "units": [f"{x} | {y}" for x, y in zip(known.units_a, known.units_b, strict=True)],
                f"{a} in {b}": known.rho_bar,
                f"{b} in {a}": known.rho_bar_back,
                "one to one": known.pair_rho,
                f"ρ ≥ {SAME:g}": [f"{x} of {y}" for x, y in zip(known.same, known.pairs, strict=True)],
            }
        )
        text = table.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–")
        told = "ρ̄, the mean of each unit's highest ρ (Pearson's r) in the other network; then pairs one to one"
        return f"{text}\n{told}\n\n{self.ranks}"


def match(
    runs: Sequence[Path],
    *,
    sites: Sequence[str] = (),
    other_sites: Sequence[str] = (),
    model: str | None = None,
    other_model: str | None = None,
    data: str | None = None,
    split: str | None = None,
    out: Path | None = None,
    progress: Callable[[str], Progress] = lambda what: lambda done, total: None,
) -> Matched:
    """Match the units of two runs' trained networks, and follow the first run's winners through its checkpoints.

    Results are kept in the first run's folder and found there again, by the weights, the data, the options and the
    code.

    Args:
        runs: the two folders.
        sites: layers of the first network: names or globs of modules; by default all activation modules.
        other_sites: as many of the other; by default named as the first's.
        model: what builds the first network, as `netopsy inspect` takes it.
        other_model: the same for the other.
        data: to measure on; by default the first run's own.
        split: of them.
        out: of the page; by default `runs/match.html`.
        progress: gives the callback for a piece of work of this name.

    Raises:
        NetopsyError: for runs that cannot be opened, layers that do not go together, or data that one of the networks
            does not take.
    """
    if len(runs) != 2:
        raise NetopsyError(f"match: expected two runs; got {len(runs)}; name RUN_A and RUN_B")
    if other_sites and not sites:
        raise NetopsyError(
            "match: expected layers of the first run beside those of the other; got none; pass --sites"
        )
    for run in runs:
        if not run.is_dir():
            raise NetopsyError(f"match: expected the folders of two runs; there is no folder {run}")
    known = names(runs)
    if known[0] == known[1]:
        raise NetopsyError(f"match: expected different runs; got {runs[0]} twice")
    called = known[0], known[1]
    one = _opened(runs[0], model, data, "--model")
    other = _opened(runs[1], other_model, data, "--other-model")
    splits = read_splits(one.data)
    chosen = split or next((name for name in MAIN if name in splits), next(iter(splits)))
    one_of("split", chosen, tuple(splits))
    examples = splits[chosen]
    asked: dict[str, Any] = {"sites": list(sites) or None, "other_sites": list(other_sites) or list(sites) or None}
    _check(one.trajectory, other.trajectory, examples, asked, called)

    ends = [one.trajectory.final], [other.trajectory.final]
    home = _place(one, other, "match", examples, asked, match_units, ends)
    found = kept(
        home,
        UnitMatch.load,
        partial(
            match_units, one.trajectory, other.trajectory, examples, **asked, names=called,
            progress=progress("matching, examples"),
        ),
    )  # fmt: skip
    ways = list(one.trajectory.keys), [other.trajectory.final]
    there = _place(one, other, "winners", examples, asked, winner_ranks, ways)
    followed = kept(
        there,
        WinnerRanks.load,
        partial(
            winner_ranks, one.trajectory, other.trajectory, examples, sites=asked["sites"],
            teacher_sites=asked["other_sites"], names=called, progress=progress("following winners, checkpoints"),
        ),
    )  # fmt: skip
    # A run that was measured under another name is called as it is now.
    found = replace(found, provenance={**found.provenance, "names": list(called)})
    followed = replace(followed, provenance={**followed.provenance, "names": list(called)})
    files = {"match": home, "winners": there, **_pictures(found, home, followed, there)}
    sections = [match_section(found), ranks_section(followed)]
    path = out or Path("runs") / "match.html"
    write_page(path, f"{called[0]} and {called[1]}", [Chapter(title="", sections=sections)])
    return Matched(
        match=found,
        ranks=followed,
        sentences=tuple(sentence for section in sections for sentence in section.verdict),
        files=files,
        path=path,
    )


def _opened(run: Path, model: str | None, data: str | None, option: str) -> Subject:
    try:
        return subject(run, model=model, init=None, final=None, data=data, out=None)
    except NetopsyError as error:
        raise NetopsyError(str(error).replace("--model", option)) from error


def _check(
    one: Trajectory, other: Trajectory, examples: Any, asked: Mapping[str, Any], called: tuple[str, str]
) -> None:
    """Refuse networks that do not take the same examples, or layers that do not pair."""
    task = Task()
    inputs = task.inputs(open_data(examples).first())
    layers = []
    for trajectory, name, sites in zip((one, other), called, asked.values(), strict=True):
        try:
            layers.append(find_units(trajectory.model(), inputs, sites, task=task))
        except NetopsyError as error:
            raise NetopsyError(f"{name}: {error}") from error
    check_pairs(*layers)


def _place(
    one: Subject,
    other: Subject,
    name: str,
    examples: Any,
    asked: Mapping[str, Any],
    function: Callable[..., Any],
    keys: tuple[Sequence[Key], Sequence[Key]],
) -> Path:
    """Where a result lies, whether it is there or not: known by both networks, the data, the options and the code."""
    trajectories = [one.trajectory, other.trajectory]
    factories = [trajectory.factory for trajectory in trajectories if trajectory.factory]
    states = [
        [{each: fingerprint(value) for each, value in trajectory.state(key).items()} for key in own]
        for trajectory, own in zip(trajectories, keys, strict=True)
    ]
    known = {
        "data": open_data(examples).fingerprint,
        "keys": [[str(key) for key in own] for own in keys[:1]],
        "states": states,
        "model": [canonical(factory) for factory in factories],
        "options": dict(asked),
        "code": code_version(function, *factories),
    }
    return one.folder / f"{name}-{digest(known)[:16]}"


def _pictures(found: UnitMatch, home: Path, followed: WinnerRanks, there: Path) -> dict[str, Path]:
    files = {}
    for place, (layer, matrix) in enumerate(found.matrix.items()):
        if not (matrix == matrix).any():  # no unit has a number
            continue
        files[f"picture of {layer}"] = path = home / f"match-{place}.png"
        if not path.is_file():
            save(found.plot(layer=layer), path)
    if followed.frame[["rho_bar", "rank"]].notna().any().all():
        for what, column in LINES.items():
            files[what] = path = there / f"{column}.png"
            if not path.is_file():
                save(followed.plot(column=column), path)
    return files
