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
class Training:
    """FitConfig's fields, explained for the command line; their values are checked there, by its own messages."""

    epochs: int = FIT.epochs
    """Passes over the training data."""

    batch_size: int = FIT.batch_size
    """Examples a step."""

    loss: Literal["cross-entropy", "l2"] = FIT.loss
    """What is descended on: cross-entropy, or the squared error to the one-hot label."""

    optimizer: Literal["sgd", "adam", "rmsprop", "lbfgs"] = FIT.optimizer
    """How to step."""

    lr: float = FIT.lr
    """Learning rate at the start."""

    momentum: float = FIT.momentum
    """Of sgd; for adam, its first beta."""

    weight_decay: float = FIT.weight_decay
    """Pull of all parameters towards zero, added to the gradient."""

    sam_rho: float | None = FIT.sam_rho
    """Radius of sharpness-aware minimization: step by the gradient found that far up the loss. Doubles the time."""

    lr_drops: tuple[int, ...] = FIT.lr_drops
    """Epochs after which the learning rate is multiplied by --lr-factor."""

    lr_factor: float = FIT.lr_factor
    """See --lr-drops."""

    augment: Literal["none", "pad-crop-flip", "wrap-flip", "wrap-flip-turn"] = FIT.augment
    """Random shifts and mirror images of the training images."""

    pad: int = FIT.pad
    """Pixels that --augment may shift an image by."""

    label_noise: float = FIT.label_noise
    """Share of the training labels that are replaced by random ones."""

    seed: int = FIT.seed
    """Of the initial weights, the order of the data and all else that is random."""

    keep: tuple[int, ...] | Literal["all"] = FIT.keep
    """Epochs whose checkpoints are kept, or all. The first (0, before any step) and the last always are."""

    frozen: tuple[str, ...] = FIT.frozen
    """Parts that stay at their initial values: names or globs, such as 'hidden.*'."""

    removed: tuple[str, ...] = FIT.removed
    """Modules to take out (the identity takes their place): names or globs."""

    validation_share: float = FIT.validation_share
    """Share of the training data held out as validation data, in place of the test data."""

    patience: int | None = FIT.patience
    """Stop after so many epochs without a better --monitor, and end at the best one."""

    monitor: Literal["validation_loss", "validation_error"] = FIT.monitor
    """See --patience."""

    target_loss: float | None = FIT.target_loss
    """Stop once the loss on the training data is this low (cross-entropy: in nats)."""

    target_error: float | None = FIT.target_error
    """Stop once the share of errors on the training data is this low."""


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

    training: tyro.conf.OmitArgPrefixes[Training] = Training()
    """How to train."""

    overwrite: bool = False
    """Start anew in a folder that holds a run."""

    dry_run: bool = False
    """Say what would be done, and stop."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Probe a trained network: all probes that apply, cheapest first, and a report of what they found.

    Robustness resets each part to where it started, and draws it anew, to see what carries the function. Takes a run
    that `netopsy train`, a Recorder, Lightning or the Hugging Face Trainer wrote; or any model and two checkpoints
    of it, such as a pretrained and a fine-tuned one (--init base/ --final finetuned/). What was measured before is
    found; what was interrupted goes on.
    """

    run: tyro.conf.Positional[Path | None] = None
    """Folder of the run."""

    model: str | None = None
    """pkg.mod:factory, a function that builds and initializes the network; not for a run of netopsy's own models, nor
    for a --final that Hugging Face's save_pretrained wrote."""

    init: Path | None = None
    """Checkpoint that training started from, a file or a folder; also for a RUN that kept none, as Lightning's."""

    final: Path | None = None
    """The trained checkpoint, where there is no RUN."""

    data: str | None = None
    """To measure on, as for `netopsy train` (all but the train split), or batches; a run on a built-in set knows."""

    probes: tuple[str, ...] = ()
    """Which probes (redundancy, jacobian, transitions, path, robustness, fine-tuning, ablation, units, criticality);
    by default all that apply."""

    sites: str = "modules"
    """What is reset, one at a time: modules, blocks, transformer, parameters, or a glob."""

    checkpoints: tuple[int | str, ...] = (0,)
    """Keys of checkpoints to reset to; or all."""

    draws: int = 1
    """Fresh random draws of each site."""

    stop: Literal["exact", "precision", "verdict"] = "exact"
    """Measure on all examples, until changes are known to ± precision, or until every verdict is."""

    precision: float = 0.02
    """See --stop."""

    tolerance: float = 0.05
    """Change of error up to which a site counts as robust."""

    epsilon: float | None = None
    """Train error that criticality allows; by default 0.1, or 0.05 above the trained network's, if that is more."""

    seed: int = 0
    """Of draws and the order of examples."""

    out: Path | None = None
    """Folder of results; by default RUN/results, or a folder of the network in runs/inspected."""

    dry_run: bool = False
    """Say what it would cost, and stop."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Plan(Inspect):
    """Say what `netopsy inspect` with the same options would cost: rows, forwards, time, memory."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write what was found in a run, or in several, as one page to read in a browser. The verdict comes first."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs that were inspected."""

    out: Path | None = None
    """The HTML file; by default RUN/report.html, or runs/report.html for several."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Say where runs differ: the same parts of two or more networks side by side, and their complexity."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of two or more runs that were inspected."""

    split: str | None = None
    """Of the data; by default the first that all have."""

    sharpness: bool = False
    """Also measure how sharp the minima are, which takes longest."""

    out: Path | None = None
    """The HTML file; by default runs/comparison.html."""

    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Say which units of RUN_A are those of RUN_B, and since when: any two architectures on the same data.

    Layers are taken in pairs, in order. What was measured before is found.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the two runs."""

    sites: tuple[str, ...] = ()
    """Layers of RUN_A: names or globs of modules; by default all activation modules."""

    other_sites: tuple[str, ...] = ()
    """As many layers of RUN_B; by default named as those of RUN_A."""

    model: str | None = None
    """pkg.mod:factory of RUN_A, where it is not one of netopsy's own models."""

    other_model: str | None = None
    """The same of RUN_B."""

    data: str | None = None
    """To measure on, as for `netopsy inspect`; by default RUN_A's."""

    split: str | None = None
    """Of the data; by default the test split, or what comes closest."""

    out: Path | None = None
    """The HTML file; by default runs/match.html."""

    json: bool = False
    """Print JSON."""


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

    paper: tyro.conf.Positional[Literal["layers", "units", "criticality", "luck", "sensitivity"]]
    """Which paper: layers (Zhang, Bengio, Singer 2022), units (Casper et al. 2019), criticality (Chatterji,
    Neyshabur, Sedghi 2020), luck (Tian et al. 2019), sensitivity (Novak et al. 2018)."""

    claims: tuple[str, ...] | None = None
    """Which of its claims. layers: F1a, F4, F6 (if none is named), F2, T1, T2, F7, F8, F9. units: F2, F3, S2, C6 (if
    none is named), F1, B2, F4, F5, C3, C5, C7, C11, C12, C13. criticality: F2, F4, F5a, T32 (if none is named),
    F1, F3, F5b, F7, F8, F9, C33, N, T2, T3, T4. luck: T1, T3, F7, F8 (if none is named), F12, F8-large, F8-conv,
    F9, F10a, F10b, F11, S33, LT, T2, T4, F6. sensitivity: F2, F3, A11, F6 (if none is named), F1, F4a, F4b, F4c,
    F4d, F5, A8, logit."""

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
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Match, tyro.conf.subcommand("match")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Version, tyro.conf.subcommand("version")]
)
