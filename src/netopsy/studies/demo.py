"""The first five minutes: train a small network, probe it, write a table and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from netopsy._checks import one_of
from netopsy._storage import new_folder
from netopsy.data.dataset import standardize
from netopsy.data.digits import digits
from netopsy.data.idx import fashion_mnist
from netopsy.models.fcn import fcn
from netopsy.network.groups import fcn_groups
from netopsy.plots.style import save
from netopsy.probes.robustness import robustness
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.found import find
from netopsy.report.page import write_page
from netopsy.report.robustness_words import sentences
from netopsy.report.run import chapter
from netopsy.training.config import FitConfig
from netopsy.training.fit import fit
from netopsy.training.recipes import demo as demo_recipe
from netopsy.training.recipes import layers_fcn
from netopsy.training.run_folder import clear_listed

DataName = Literal["digits", "fashion-mnist"]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo made.

    Attributes:
        result: of the robustness probe on the test split.
        sentences: the three that matter.
        files: what was written, by what it is; the report last.
    """

    result: RobustnessResult
    sentences: tuple[str, ...]
    files: Mapping[str, Path]


def run(
    folder: Path,
    *,
    data: DataName = "digits",
    seed: int = 0,
    epochs: int | None = None,
    overwrite: bool = False,
    training: Callable[[int, int], object] = lambda done, total: None,
    probing: Callable[[int, int | None], object] = lambda done, total: None,
) -> Demo:
    """Train FCN 3x256, reset each of its layers to every checkpoint, draw each anew, and picture what that costs.

    Args:
        folder: where everything goes.
        data: the bundled `"digits"` (seconds), or `"fashion-mnist"`, the setting of the layers paper's Figure 1
            (100 epochs, checkpoints 0, 1, 2, 3, 8, 40, 90, 100).
        seed: of everything.
        epochs: fewer or more than the recipe's.
        overwrite: allow a folder that exists.
        training: called with epochs done and their number.
        probing: called with examples done and their number.

    Raises:
        NetopsyError: for bad options, an existing folder, or data that cannot be had.
    """
    one_of("data", data, ("digits", "fashion-mnist"))
    config = _config(data, seed, epochs)
    dataset = standardize(digits() if data == "digits" else fashion_mnist())
    new_folder(folder, overwrite=overwrite)
    inputs = tuple(dataset.train[0].shape[1:])
    factory = partial(fcn, inputs=inputs, classes=dataset.classes, depth=3, width=256)
    run_folder = folder / "run"
    clear_listed(run_folder)
    run = fit(
        factory,
        dataset.train,
        config,
        folder=run_folder,
        overwrite=overwrite,
        validation=dataset.test,
        about={"data": data, "model": "fcn"},
        progress=lambda epoch, total, row: training(epoch, total),
    )
    result = robustness(
        run.trajectory,
        {"test": dataset.test},
        checkpoints="all",
        draws=5,
        groups=fcn_groups,
        full_model=True,
        seed=seed,
        progress=probing,
    )
    name = f"FCN 3×256 on {dataset.name}"
    pictures = folder / "pictures"
    table = result.save(folder / "result", overwrite=overwrite) / "results.parquet"
    files = {
        "heatmap": save(result.plot(), pictures / "heatmap.png"),
        "curves": save(result.plot(kind="curves"), pictures / "curves.png"),
        "distances": save(result.plot(kind="distances"), pictures / "distances.png"),
        "depth profile": save(result.plot(kind="depth"), pictures / "depth.png"),
        "table": table,
        "checkpoints": run_folder / "checkpoints",
        "report": write_page(folder / "report.html", name, [chapter(name, find(folder))]),
    }
    return Demo(result=result, sentences=sentences(result), files=files)


def _config(data: DataName, seed: int, epochs: int | None) -> FitConfig:
    if data == "fashion-mnist":
        return layers_fcn(epochs=100 if epochs is None else epochs, seed=seed)
    config = demo_recipe(seed=seed)
    if epochs is not None:
        config = replace(config, epochs=epochs, lr_drops=tuple(drop for drop in config.lr_drops if drop < epochs))
    return replace(config, keep=tuple(epoch for epoch in (0, 1, 2, 3, 8) if epoch < config.epochs))
