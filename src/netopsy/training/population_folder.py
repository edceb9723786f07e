"""The folder of a population: a run's folder for each member, and what all of them go on from together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor

from netopsy._checks import NetopsyError, shorten
from netopsy._storage import new_folder, read_json, sweep_temporaries, write_json
from netopsy._typing import State
from netopsy.training import resume as resuming
from netopsy.training.resume import Snapshot
from netopsy.training.run_folder import RunFolder, check_start, find_run, prepare
from netopsy.training.stopping import Stopped

Status: TypeAlias = Stopped | Literal["diverged"]
"""Why a member's training ended."""

RESUME = "resume.safetensors"
"""The file that an unfinished population goes on from."""


@dataclass(frozen=True, kw_only=True)
class PopulationFolder:
    """Where a population writes.

    One file has the snapshots of all members that are still trained: they were taken at the same epoch, so that the
    stack which goes on is the one that was interrupted, to the bit.

    Attributes:
        path: of the folder; member i's run is in the folder `i` in it.
        origin: what decides the training beside the members' own origins; JSON.
    """

    path: Path
    origin: Mapping[str, Any]

    @property
    def resume_file(self) -> Path:
        """What an unfinished population goes on from."""
        return self.path / RESUME

    def write_status(self, status: Sequence[Status | None]) -> None:
        """Write `population.json`; when all members are done, what they would go on from goes."""
        finished = all(status)
        write_json(self.path / "population.json", {**self.origin, "status": list(status), "finished": finished})
        if finished:
            self.resume_file.unlink(missing_ok=True)

    def write_snapshots(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Write where all members that are still trained stand, whole or not at all."""
        tensors = {
            f"{number}.{name}": value
            for number, snapshot in snapshots.items()
            for name, value in snapshot.tensors.items()
        }
        rows = [{"member": number, **row} for number, snapshot in snapshots.items() for row in snapshot.rows]
        resuming.write(self.resume_file, Snapshot(tensors=tensors, rows=rows))

    def read_snapshots(self) -> dict[int, Snapshot]:
        """Read what `write_snapshots` wrote, by member.

        Raises:
            NetopsyError: the file is damaged, of a newer schema, or of something else.
        """
        together = resuming.read(self.resume_file)
        tensors: dict[int, dict[str, Tensor]] = {}
        for place, value in together.tensors.items():
            number, _, name = place.partition(".")
            tensors.setdefault(int(number), {})[name] = value
        return {
            number: Snapshot(
                tensors=own,
                rows=[
                    {name: value for name, value in row.items() if name != "member"}
                    for row in together.rows
                    if row["member"] == number
                ],
            )
            for number, own in sorted(tensors.items())
        }

    def begin(self, runs: Sequence[RunFolder], keys: Sequence[Sequence[int]], *, overwrite: bool) -> None:
        """Make the folders of members that may keep these epochs.

        Raises:
            NetopsyError: there are files and `overwrite` is False; or there are other runs that would stay.
        """
        new_folder(self.path, overwrite=overwrite)
        numbers = sorted(int(file.name) for file in self.path.iterdir() if file.name.isdecimal())
        others = [number for number in numbers if number >= len(runs)]
        if others:
            raise NetopsyError(
                f"output folder {self.path}: expected no members but the {len(runs)} of this population; it has "
                f"{shorten(others)} of another one; delete them or choose another path"
            )
        self.resume_file.unlink(missing_ok=True)
        self.write_status([None] * len(runs))
        for run, epochs in zip(runs, keys, strict=True):
            prepare(run.path, epochs, overwrite=overwrite)

    def check(self, manifest: Mapping[str, Any], runs: Sequence[RunFolder], starts: Sequence[State]) -> None:
        """Hold the population in the folder against the one to go on with, and sweep what killed writes left.

        Raises:
            NetopsyError: it is another one: the message says what differs.
        """
        found = [(name, manifest.get(name), value) for name, value in self.origin.items()]
        differing = [f"{name} was {old!r}, is {new!r}" for name, old, new in found if old != new]
        if differing:
            raise NetopsyError(
                f"population folder {self.path}: expected the population of these arguments to go on with; it holds "
                f"another one: {'; '.join(differing)}; pass what it was begun with, choose another path or pass "
                "overwrite=True"
            )
        for run, start in zip(runs, starts, strict=True):
            find_run(run.path, run.origin)
            if run.checkpoint(0).is_file():
                check_start(run.checkpoint(0), start)
        sweep_temporaries(self.path)


def find_population(path: Path) -> dict[str, Any] | None:
    """The manifest of the population in a folder; None when there is none. Changes nothing."""
    return read_json(path / "population.json") if (path / "population.json").is_file() else None
