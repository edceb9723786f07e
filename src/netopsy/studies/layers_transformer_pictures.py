"""The layers paper's Figures 7 to 9 and Table 2 from our runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from netopsy.plots.blocks import block_profiles
from netopsy.plots.grouped_bars import grouped_bars
from netopsy.plots.heatmap import heatmap
from netopsy.plots.style import save
from netopsy.store.results import OK
from netopsy.studies.layers_transformer_claims import shares

NAMES = {"lm": "LM", "vit": "ViT", "mixer": "Mixer"}
ATTENTION = {
    "norm": "layer norms",
    "mixing": "attention",
    "first dense": "first dense",
    "second dense": "second dense",
}
ACROSS = {
    "norm": "layer norms",
    "mixing": "token mixing",
    "first dense": "channels, first",
    "second dense": "channels, second",
}
KINDS = {"lm": ATTENTION, "vit": ATTENTION, "mixer": ACROSS}
ORDER = {name: place for names in (ATTENTION, ACROSS) for place, name in enumerate(names.values())}
ATTACKS = {"none": "clean", "fgsm": "FGSM", "pgd": "PGD"}


def draw_blocks(rows: pd.DataFrame, path: Path) -> Path:
    """Draw the share of the way to chance that a reset layer costs, by kind and block, of every line."""
    parts = []
    for line in dict.fromkeys(rows["line"]):
        family, *size = line.split()
        of = rows[rows["line"] == line]
        shown = {"re-randomize": "redrawn"}
        if family == "lm":
            shown = {"re-initialize": "checkpoint 0"} | shown
        for operation, word in shown.items():
            table = shares(of, line=line, operation=operation)  # type: ignore[arg-type]
            table = table[table.block >= 0].groupby(["kind", "block", "seed"]).share.mean().reset_index()
            name = " ".join([NAMES[family], *size]) if family != "lm" else f"{NAMES[family]}, {word}"
            parts.append(table.assign(panel=name.replace("sam", "SAM"), kind=table.kind.map(KINDS[family])))
    frame = pd.concat(parts, ignore_index=True).rename(columns={"share": "value"})
    panels = list(dict.fromkeys(frame["panel"]))
    ordered = frame.sort_values("kind", key=lambda kinds: kinds.map(ORDER), kind="stable")
    ordered = ordered.sort_values("panel", key=lambda names: names.map(panels.index), kind="stable")
    return save(block_profiles(ordered), path)


def draw_heatmap(rows: pd.DataFrame, path: Path) -> Path:
    """Draw Figure 7 as a heatmap: the language model of the first seed, its layers against checkpoints."""
    of = rows[(rows["line"] == "lm") & (rows["status"] == OK)]
    one = of[of["seed"] == of["seed"].min()].drop(columns="status").rename(columns={"edit_status": "status"})
    return save(heatmap(one, metric="delta_error"), path)  # for all errors are near chance


def draw_t2(rows: pd.DataFrame, path: Path) -> Path:
    """Draw Table 2: accuracy without and under attack, by the number of stages with a random block."""
    mean = rows.assign(accuracy=rows["accuracy"].where(rows["status"] == OK))
    mean = mean.groupby(["net", "attack", "chosen", "seed"], sort=False).accuracy.mean().reset_index()
    frame = mean.assign(
        case=[f"ResN({net})\n{ATTACKS[attack]}" for net, attack in zip(mean.net, mean.attack, strict=True)],
        treatment=[f"{n} random block{'s' * (n > 1)}" if n else "trained network" for n in mean.chosen],
        value=mean.accuracy,
    ).sort_values("chosen", kind="stable")
    cases = {name: place for place, name in enumerate(dict.fromkeys(mean.net))}
    frame = frame.sort_values("net", key=lambda nets: nets.map(cases), kind="stable")
    return save(grouped_bars(frame, label="accuracy (%)"), path)
