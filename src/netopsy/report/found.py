"""What there is to report in a folder: results of probes, and the training run they are of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from netopsy._checks import NetopsyError
from netopsy._storage import read_json, read_table
from netopsy.report.sections import SECTIONS

MANIFEST = "manifest.json"
OURS = ("results.parquet", "history.parquet", "checkpoints")
"""What lies beside a manifest that is netopsy's."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder holds.

    Attributes:
        path: of the folder.
        results: by their folders, newest first within a probe, probes in the order of the report.
        manifest: of the training run behind them; empty where there is none, or no telling.
        history: a row an epoch; empty where there is none.
    """

    path: Path
    results: Mapping[Path, Any]
    manifest: Mapping[str, Any]
    history: pd.DataFrame


def find(path: Path) -> Found:
    """Read a run folder, a folder of results, or a single result.

    Results are read up to two levels below the folder. Of a result of the same network, data and options, only the
    newest measurement is kept. The training run is the folder itself, or `run` in it, as the demo has it: any other
    run nearby need not be the one behind the results. Manifests of other programs are passed over.

    Raises:
        NetopsyError: when there is no such folder, or a file in it is damaged or of a newer netopsy.
    """
    if not path.is_dir():
        raise NetopsyError(f"report: expected the folder of a run or of a result; there is no folder {path}")
    manifest: dict[str, Any] = {}
    history = pd.DataFrame()
    found: list[tuple[int, float, Path]] = []
    for folder in _folders(path):
        content = _content(folder)
        probe = _probe(content)
        if probe in SECTIONS:
            found.append((list(SECTIONS).index(probe), -(folder / MANIFEST).stat().st_mtime, folder))
        elif folder in (path, path / "run") and _is_run(content) and not manifest:
            manifest = content
            if (folder / "history.parquet").is_file():
                history = read_table(folder / "history.parquet")
    results: dict[Path, Any] = {}
    asked: set[str] = set()
    for place, _, folder in sorted(found):
        result = list(SECTIONS.values())[place].load(folder)
        question = _question(place, result)
        if question not in asked:
            asked.add(question)
            results[folder] = result
    return Found(path=path, results=results, manifest=manifest, history=history)


def names(paths: Sequence[Path]) -> list[str]:
    """The folders' own names; with those above them where that is needed to tell them apart.

    >>> names([Path("a/run"), Path("b/run")]), names([Path("a/x"), Path("b/y")])
    (['a/run', 'b/run'], ['x', 'y'])
    """
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(set(parts)):
            return short
    return [str(path) for path in paths]


def _folders(path: Path) -> Iterator[Path]:
    """The folder and those up to two levels below it that have a manifest."""
    for pattern in (MANIFEST, f"*/{MANIFEST}", f"*/*/{MANIFEST}"):
        for file in sorted(path.glob(pattern)):
            yield file.parent


def _content(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; empty for one that is not netopsy's, which may well be no JSON that we know."""
    try:
        return read_json(folder / MANIFEST)
    except NetopsyError:
        if any((folder / name).exists() for name in OURS):
            raise
        return {}


def _is_run(content: Mapping[str, Any]) -> bool:
    """Whether a manifest is of `netopsy.fit`: a Recorder's says nothing of how the network was trained."""
    return isinstance(content.get("config"), dict) and isinstance(content.get("keys"), list)


def _probe(content: Mapping[str, Any]) -> str:
    provenance = content.get("provenance")
    return str(provenance.get("probe", "")) if isinstance(provenance, dict) else ""


def _question(probe: int, result: Any) -> str:
    """What was asked of which network, by which a second measurement of the same is known."""
    passing = ("seconds", "torch", "netopsy", "engine", "engine_reasons")

    def plain(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: plain(inner) for name, inner in value.items() if name not in passing}

    numbers = [table.to_csv(index=False) for table in list(SECTIONS.values())[probe].known_by(result)]
    asked = [probe, plain(result.provenance), *numbers]
    return json.dumps(asked, sort_keys=True, default=str)
