"""A paper's experiments: its nets, its verdicts, its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from netopsy.studies import (
    criticality,
    criticality_pictures,
    layers,
    layers_pictures,
    luck,
    luck_pictures,
    sensitivity,
    sensitivity_pictures,
    units,
    units_pictures,
)
from netopsy.studies.claims import Verdict

STUDIES: Mapping[str, tuple[ModuleType, ModuleType]] = {
    "layers": (layers, layers_pictures),
    "units": (units, units_pictures),
    "criticality": (criticality, criticality_pictures),
    "luck": (luck, luck_pictures),
    "sensitivity": (sensitivity, sensitivity_pictures),
}
"""Paper -> where it is run, and where its pictures are drawn."""


def run(
    paper: str, folder: Path, *, report: Callable[..., Any], drawing: Callable[[], object], **how: Any
) -> list[Verdict | Path]:
    """The verdicts, then the pictures that were drawn; `how` goes to the study's own `run`."""
    study, pictures = STUDIES[paper]
    found = study.run(folder, report=report, **how)
    drawing()
    return [*found.verdicts.values(), *pictures.draw(found, folder / "pictures")]
