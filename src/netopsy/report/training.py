"""The report's section on the training run behind the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from netopsy._checks import shorten
from netopsy.plots.training import LINES, marked_epochs, training_curves
from netopsy.report.blocks import Block, Facts, Fold, Picture, Section
from netopsy.report.vector import drawn
from netopsy.report.words import count, percent

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "rmsprop": "RMSProp"}


def training_section(manifest: Mapping[str, Any], history: pd.DataFrame) -> Section:
    """How a network was trained, as its run's manifest and history tell."""
    blocks: list[Block] = []
    kept = _kept(manifest)
    shown = [name.partition("_")[0] for name in LINES if name in history and history[name].notna().any()]
    if len(history) > 1 and shown:
        lines = " Thin lines: checkpoints that were kept." if marked_epochs(history, kept) else ""
        blocks.append(
            Picture(
                svg=drawn(training_curves(history, checkpoints=kept)),
                description=f"{' and '.join(shown).capitalize()} error of each epoch",
                caption=f"Error of each epoch.{lines}",
            )
        )
    facts = [
        (str(name).replace("_", " "), _text(value))
        for name, value in manifest["config"].items()
        if value not in (None, [])
    ]
    given = manifest.get("versions")
    versions = ", ".join(f"{name} {version}" for name, version in given.items()) if isinstance(given, dict) else ""
    whence = [("data fingerprint", manifest.get("data")), ("checkpoints", shorten(kept, 12)), ("versions", versions)]
    facts += [(name, str(value)) for name, value in whence if value]
    blocks.append(Fold(title="Configuration", blocks=(Facts(rows=tuple(facts)),)))
    return Section(title="How it was trained", question=summary(manifest, history), blocks=tuple(blocks))


def summary(manifest: Mapping[str, Any], history: pd.DataFrame) -> str:
    """What was trained how long, and to which error: that of the last checkpoint, which results are about."""
    config, model = manifest["config"], str(manifest.get("model") or "").rpartition(".")[2]
    about = manifest.get("about")
    data = about.get("data") if isinstance(about, dict) else None
    subject = " on ".join(str(part) for part in (model or "A network", data) if part)
    optimizer = str(config.get("optimizer"))
    rates = f"{OPTIMIZERS.get(optimizer, optimizer)}, lr {config.get('lr')}, batches of {config.get('batch_size')}"
    if history.empty:
        return f"{subject}, {rates}{'' if manifest.get('finished') else '; not finished'}."
    trained = f"{subject}, {count(len(history), 'epoch')} of {rates}"
    last = max(_kept(manifest), default=0)
    row = history[history.epoch == last]
    if not manifest.get("finished"):
        trained += " so far; not finished"
        row = history.tail(1)
    elif manifest.get("stopped") == "patience":
        trained += f", of which epoch {last} was the best and is the network's"
    elif manifest.get("stopped") == "target":
        trained += ", until the train data were fitted"
    if row.empty:  # the best network is the one before any training
        return f"{trained}."
    found = {name: row[name].iloc[0] for name in ERRORS if name in row and pd.notna(row[name].iloc[0])}
    if "fitted_error" in found:
        found.pop("train_error", None)
    errors = ", ".join(f"{ERRORS[name]} {percent(float(value))}" for name, value in found.items())
    return f"{trained}: {errors}." if errors else f"{trained}."


ERRORS = {
    "train_error": "train error while the weights moved",
    "fitted_error": "train error",
    "validation_error": "validation error",
}


def _kept(manifest: Mapping[str, Any]) -> list[int]:
    return [key for key in manifest["keys"] if isinstance(key, int)]


def _text(value: Any) -> str:
    return shorten(value, 12) if isinstance(value, list) else str(value)
