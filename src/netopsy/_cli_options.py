"""The commands' options: dataclasses that know no torch, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from netopsy.training.config import FitConfig

FIT = FitConfig(epochs=30, batch_size=32, lr=0.02)
"""Seconds on the bundled digits."""


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
class Train:
    """Train a network and keep its checkpoints, from the initial weights on. An interrupted run goes on."""

    out: tyro.conf.Positional[Path]
    """Folder of the run."""

    model: str = "fcn"
    """fcn, vgg, resnet, or pkg.mod:factory, a function without arguments that builds and initializes a network."""

    depth: int | None = None
    """Of a built-in model: hidden layers of an fcn (3), or the number in the name of a vgg (11) or resnet (18)."""

    width: float | None = None
    """Of a built-in model: units of an fcn's layers (256), or a factor of the channels of the others (1)."""

    data: str = "digits"
    """digits, fashion-mnist, mnist, cifar10, cifar100, or pkg.mod:loader, a function without arguments that returns
    a netopsy Dataset, a pair of tensors (inputs, labels), or such pairs in a tuple (train, test) or a mapping with
    train and test. The test split, where there is one, is the validation data."""

    fit: tyro.conf.OmitArgPrefixes[FitConfig] = FIT
    """How to train."""

    overwrite: bool = False
    """Start anew in a folder that holds a run."""

    dry_run: bool = False
    """Say what would be done, and stop."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Reset each part of a trained network to where it started, draw it anew, and say what carries the function.

    Of a run that `netopsy train` or a Recorder wrote, or Lightning or the Hugging Face Trainer left; or of any model
    and two checkpoints of it. What was measured before is found; what was interrupted goes on.
    """

    run: tyro.conf.Positional[Path | None] = None
    """Folder of the run."""

    model: str | None = None
    """pkg.mod:factory, a function without arguments that builds the network and initializes it. A run of netopsy's
    own models needs none."""

    init: Path | None = None
    """Checkpoint that training started from: a file, or a folder with one model. Also for a RUN that kept none, as
    those of Lightning and the Hugging Face Trainer."""

    final: Path | None = None
    """The trained checkpoint, where there is no RUN."""

    data: str | None = None
    """A built-in set, or pkg.mod:loader, see `netopsy train`, that may also return a list of batches or a DataLoader;
    of a data set, all but the train split is measured. A run on a built-in set needs none."""

    sites: str = "modules"
    """What is reset, one at a time: modules, blocks, parameters, or a glob."""

    checkpoints: tuple[int | str, ...] = (0,)
    """Keys of checkpoints to reset to; or all."""

    draws: int = 1
    """Fresh random draws of each site."""

    stop: Literal["exact", "precision", "verdict"] = "exact"
    """Measure on all examples, until changes are known to ± precision, or until every verdict is."""

    precision: float = 0.02
    """See stop."""

    tolerance: float = 0.05
    """Change of error up to which a site counts as robust."""

    seed: int = 0
    """Of draws and the order of examples."""

    out: Path | None = None
    """Folder of results; by default RUN/results, or runs/inspected."""

    dry_run: bool = False
    """Say what it would cost, and stop."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Plan(Inspect):
    """Say what `netopsy inspect` with the same options would cost: rows, forwards, time, memory."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Run what is left of a sweep, or say how far it is: `netopsy sweep status [FOLDER or pkg.mod:sweep]`."""

    target: tyro.conf.Positional[tuple[str, ...]]
    """pkg.mod:sweep, a netopsy.Sweep or a function that returns one; or the word status, and what of."""

    out: Path | None = None
    """Folder of results; by default runs/NAME."""

    jobs: int = 1
    """Processes that work side by side."""

    threads: int = 1
    """Torch threads of each task; results depend on it, by rounding."""

    retry: bool = False
    """Try failed tasks again."""

    dry_run: bool = False
    """Say what would be done, and stop."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Run a paper's experiments and say which of its claims hold. Finished work is found, and not done again."""

    paper: tyro.conf.Positional[Literal["layers"]]
    """Which paper: layers (Zhang, Bengio, Singer 2022)."""

    claims: tuple[str, ...] = ("F1a", "F4", "F6")
    """Which of its claims: F1a, F4, F6, and the sweeps F2 and T1."""

    preset: Literal["laptop", "paper"] = "laptop"
    """laptop: minutes on two cores. paper: the paper's own setting."""

    seeds: tuple[int, ...] | None = None
    """Training seeds; by default as many as a claim asks for, from 0."""

    jobs: int = 1
    """Processes that work side by side."""

    retry: bool = False
    """Try failed networks again."""

    out: Path | None = None
    """Folder for runs, results and verdicts; by default runs/PAPER."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Print the version."""


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo", default=Demo())]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect", default=Inspect())]
    | Annotated[Plan, tyro.conf.subcommand("plan", default=Plan())]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Version, tyro.conf.subcommand("version")]
)
