"""Figures 7 to 9 of the layers paper: a language model, vision transformers, MLP-Mixers; what is trained.

The paper's are 12 blocks and more, trained on LM1B and ImageNet; these are small ones of the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import Tensor, nn

from netopsy.data.dataset import Dataset, standardize, subset
from netopsy.data.idx import fashion_mnist
from netopsy.data.text import language_model_set
from netopsy.data.tokenizer import train_tokenizer
from netopsy.data.wordnet import glosses
from netopsy.models.mixer import mixer
from netopsy.models.transformer import transformer
from netopsy.models.vit import vit
from netopsy.store.axes import grid
from netopsy.store.probed import probed
from netopsy.store.runs import trained
from netopsy.store.sweep import Sweep
from netopsy.studies.layers_settings import Preset
from netopsy.training.config import FitConfig
from netopsy.training.recipes import layers_lm

LINES = ("lm", "vit", "vit sam", "vit large", "vit large sam", "mixer", "mixer sam", "mixer large")
"""Networks: a language model; of each vision family a small one, the same with SAM, and a larger one."""

PIECES, LENGTH, HELD_OUT = 2_048, 64, 2_000
"""Of the language model: the tokenizer's size, the tokens of a row, the test texts."""

PATCH = 7
SIZES = {"small": {"depth": 4, "width": 64}, "large": {"depth": 8, "width": 96}}
SAM_RHO = 0.05
"""As in the experiments of Foret et al. (2021) on CIFAR."""

EPOCHS = {"lm": 20, "vit": 30, "mixer": 30}
DRAWS = 3


@dataclass(frozen=True, kw_only=True)
class Line:
    """One network of the figures.

    Attributes:
        line: of `LINES`.
        images: train images of a vision model.
        glosses: train texts of a language model.
        epochs: of training; None: as `EPOCHS` has them.
        seed: of everything.
    """

    line: str = "lm"
    images: int = 5_000
    glosses: int = 20_000
    epochs: int | None = None
    seed: int = 0


def line_sweep(lines: Sequence[str], *, preset: Preset, seeds: Sequence[int]) -> Sweep:
    """Train networks of some lines and reset their layers."""
    axes = (grid({"line": tuple(lines)}),)
    return Sweep(name="layers-transformers", base=Line(), measure=measure_line, axes=axes, seeds=seeds)


def measure_line(config: Line, runs: Path) -> pd.DataFrame:
    """The figures' values for one network: each layer set back to each checkpoint kept, and drawn anew."""
    family: Literal["lm", "vit", "mixer"] = config.line.split()[0]  # type: ignore[assignment]
    epochs = config.epochs or EPOCHS[family]
    if family == "lm":
        factory, train, test = language(config.glosses)
        recipe = layers_lm(epochs=epochs, seed=config.seed)
    else:
        data = standardize(subset(fashion_mnist(), train=config.images, test=2_000))
        factory, train, test = vision(config.line, data), data.train, data.test
        recipe = vision_recipe(epochs=epochs, seed=config.seed, sam="sam" in config.line)
    run = trained(factory, train, recipe, catalogue=runs, validation=test)
    result, path = probed(
        run.trajectory, {"test": test}, folder=runs / "probed", sites="modules", checkpoints="all", draws=DRAWS,
        full_model=True, seed=config.seed,
    )  # fmt: skip
    frame = result.to_frame().rename(columns={"status": "edit_status"})
    return frame.assign(chance=result.provenance["chance"], result=path.relative_to(runs).as_posix())


def language(count: int) -> tuple[Callable[[], nn.Module], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What builds the language model, and WordNet's glosses as rows of tokens: `count` texts of the train split."""
    texts = glosses()
    chosen = texts.train[0][:count]
    tokenizer = train_tokenizer(chosen, PIECES)
    train, test = (language_model_set(part, tokenizer, LENGTH) for part in (chosen, texts.test[0][:HELD_OUT]))
    return partial(transformer, vocabulary=tokenizer.size, length=LENGTH), train, test


def vision(line: str, data: Dataset) -> Callable[[], nn.Module]:
    """What builds a line's network."""
    size = SIZES["large" if "large" in line else "small"]
    channels, pixels = data.train[0].shape[1:3]
    given = {"classes": data.classes, "channels": channels, "size": pixels, "patch": PATCH, **size}
    return partial(vit if line.startswith("vit") else mixer, **given)  # type: ignore[arg-type]


def vision_recipe(*, epochs: int, seed: int, sam: bool) -> FitConfig:
    """Adam at 0.001, in batches of 64, a fifth of it for the last third; the paper measured published checkpoints."""
    recipe = FitConfig(
        epochs=epochs, batch_size=64, optimizer="adam", lr=1e-3, momentum=0.9, lr_drops=(epochs * 2 // 3,), keep=(0,),
        seed=seed,
    )  # fmt: skip
    return replace(recipe, sam_rho=SAM_RHO) if sam else recipe
