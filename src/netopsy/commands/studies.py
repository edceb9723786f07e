"""A paper's experiments: its nets, its verdicts, its pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from netopsy.studies import layers, layers_pictures, units, units_pictures
from netopsy.studies.claims import Verdict


def run(
    paper: str, folder: Path, *, report: Callable[..., Any], drawing: Callable[[], object], **how: Any
) -> list[Verdict | Path]:
    """The verdicts, then the pictures that were drawn; `how` goes to the study's own `run`."""
    if paper == "units":
        units_study = units.run(folder, report=report, **how)
        drawing()
        return [*units_study.verdicts.values(), *units_pictures.draw(units_study, folder / "pictures")]
    layers_study = layers.run(folder, report=report, **how)
    drawing()
    return [*layers_study.verdicts.values(), *layers_pictures.draw(layers_study, folder / "pictures")]
