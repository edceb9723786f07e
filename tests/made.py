"""Robustness results made up by hand, of any size and with any names: what the report has to be able to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from netopsy.probes.robustness_result import RobustnessResult

TOLERANCE, CHANCE, BASELINE = 0.05, 0.9, 0.1


def made(
    sites: Sequence[str],
    keys: Sequence[int | str] = (0, 1, 2, 5, 10, 20, 50),
    *,
    final: int | str = 100,
    draws: int = 5,
    groups: Mapping[str, tuple[str, ...]] | None = None,
    full_model: bool = False,
    splits: Sequence[str] = ("test",),
    seed: int = 0,
    **provenance: Any,
) -> RobustnessResult:
    """A result with a row for every site, checkpoint (the final one is a no-op) or draw, and split."""
    source = np.random.default_rng(seed)
    joint = dict(groups or {})
    checkpoints = [*keys, final]
    names = [*sites, *joint]
    reset = [(name, key) for name in [*names, *(["full model"] if full_model else [])] for key in checkpoints]
    fresh = [(name, draw) for name in names for draw in range(draws)]
    parts = []
    for split in splits:
        count = len(reset) + len(fresh)
        heavy = np.repeat(source.random(len(names) + full_model) ** 4, len(checkpoints))
        early = np.tile(np.linspace(1, 0, len(checkpoints)) ** 2, len(names) + full_model)
        change = np.concatenate([0.8 * heavy * early, 0.8 * source.random(len(fresh))])
        unchanged = np.array([key == final for _, key in reset] + [False] * len(fresh))
        low, high = np.where(unchanged, 0, change - 0.02), np.where(unchanged, 0, change + 0.02)
        kinds = [unchanged, high <= TOLERANCE, low <= TOLERANCE, change >= 0.4]
        verdict = np.select(kinds, ["", "robust", "undecided", "critical"], "between")
        head = {"site": [None], "operation": ["baseline"], "checkpoint": [None], "draw": [None]}
        edits = {
            "site": [name for name, _ in reset + fresh],
            "operation": ["re-initialize"] * len(reset) + ["re-randomize"] * len(fresh),
            "checkpoint": [key for _, key in reset] + [None] * len(fresh),
            "draw": [None] * len(reset) + [draw for _, draw in fresh],
        }
        columns: dict[str, Any] = {name: [*head[name], *values] for name, values in edits.items()}
        measured = {"delta_error": change, "delta_error_low": low, "delta_error_high": high}
        columns["split"] = split
        columns["error"] = np.concatenate([[BASELINE], BASELINE + change])
        columns["loss"] = 10 * columns["error"]
        columns |= {name: np.concatenate([[0.0], values]) for name, values in measured.items()}
        columns["n"] = np.full(count + 1, 10_000)
        columns["status"] = ["ok", *np.where(unchanged, "no-op", "ok")]
        columns["verdict"] = [None, *(text or None for text in verdict)]
        parts.append(pd.DataFrame(columns))
    frame = pd.concat(parts, ignore_index=True)
    numbers = all(isinstance(key, int) for key in checkpoints)
    text = dict.fromkeys(("site", "operation", "split", "status", "verdict"), "string")
    kept = frame.astype({**text, "draw": "Int64", "checkpoint": "Int64" if numbers else object})
    moved = [(name, key, 0.1 * place) for name in names for place, key in enumerate(checkpoints)]
    distances = pd.DataFrame(moved, columns=["site", "checkpoint", "l2"]).assign(linf=1.0)
    distances = distances.astype({"site": "string", "checkpoint": kept.checkpoint.dtype})
    part = {"examples": 10_000, "data": "0123456789abcdef", "torch": "2.13.0", "engine_reasons": []}
    known = {
        "probe": "robustness",
        "netopsy": "0.1.0",
        "splits": {split: dict(part) for split in splits},
        "sites": "modules",
        "checkpoints": list(checkpoints),
        "full_model": full_model,
        "parameters": {name: 1000 + place for place, name in enumerate(sites)},
        "confidence": 0.99,
        "tolerance": TOLERANCE,
        "critical": 0.5,
        "chance": CHANCE,
        "stop": "exact",
        "precision": 0.02,
        "estimand": "population",
        "batch_norm": "reset",
        "draws": draws,
        "seed": seed,
        "engine": "exported",
        "final": final,
        "seconds": 1.0,
    }
    return RobustnessResult(kept, distances, joint, {**known, **provenance})


def deep(layers: int, *, draws: int = 5) -> RobustnessResult:
    """A network of so many layers, in four groups: nine columns, intervals, the full model."""
    sites = [f"stage{layer // 40 + 1}.block{layer // 4 % 10 + 1}.unit{layer}.conv" for layer in range(layers)]
    groups = {f"every 4th from {first}": tuple(sites[first::4]) for first in range(4)}
    return made(sites, draws=draws, groups=groups, full_model=True)
