"""The commands' options: dataclasses that know no torch, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small network, reset and redraw its layers, print the table and write the pictures."""

    data: Literal["digits", "fashion-mnist"] = "digits"
    """digits: bundled, seconds. fashion-mnist: Figure 1 of the layers paper, 100 epochs, some minutes."""

    out: Path | None = None
    """Folder for everything that is written; by default runs/demo-DATA, which a later demo replaces."""

    seed: int = 0
    """Of initialization, data order and draws."""

    epochs: int | None = None
    """Train for fewer or more epochs than the recipe."""

    overwrite: bool = False
    """Write into a folder that exists."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Run a paper's experiments and say which of its claims hold. Finished training runs are used again."""

    paper: tyro.conf.Positional[Literal["layers"]]
    """Which paper: layers (Zhang, Bengio, Singer 2022)."""

    claims: tuple[str, ...] = ("F1a", "F4", "F6")
    """Which of its claims."""

    preset: Literal["laptop", "paper"] = "laptop"
    """laptop: minutes on two cores. paper: the paper's own setting."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""

    out: Path | None = None
    """Folder for runs, results and verdicts; by default runs/PAPER."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Print the version."""


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo", default=Demo())]
    | Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Version, tyro.conf.subcommand("version")]
)
