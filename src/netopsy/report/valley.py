"""The report's section on what lies between a network's initial and its trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from netopsy._checks import shorten
from netopsy.plots.paths import path_panels
from netopsy.probes.valley import FULL_NETWORK
from netopsy.probes.valley_result import ValleyResult
from netopsy.report.blocks import Block, Cell, Facts, Fold, Heatmap, Picture, Section, Text
from netopsy.report.origins import origins
from netopsy.report.vector import drawn
from netopsy.report.words import bound, count, names, percent, points

HARMLESS = 0.05
"""Change of error that a module may cost on its way and still be called harmless, as robustness has it."""

MOST_ROWS, MOST_LINES = 300, 40
"""Modules in the table, and in the picture; of more, those with the largest error."""


def valley_section(result: ValleyResult) -> Section:
    """Errors along the paths, or around one module, from the verdict to how to repeat it."""
    is_path = _is_path(result)
    first, *others = [(split, (_path_map if is_path else _noise_map)(result, split)) for split in _splits(result)]
    blocks: list[Block] = [*([_picture(result)] if is_path else []), first[1]]
    blocks += [Fold(title=f"The same on {split} data", blocks=(table,)) for split, table in others]
    return Section(
        title="The way back" if is_path else f"The valley of {result.frame.site.iloc[0]}",
        question=(
            "If one module, or the whole network, is moved in a straight line from its trained values to those that "
            "it started from, where does the network stop working?"
        ),
        verdict=path_sentences(result),
        blocks=(*blocks, _how_to_read(result), _origins(result, is_path)),
    )


def path_sentences(result: ValleyResult) -> tuple[str, ...]:
    """Which modules can go back, which rise in between, and where the whole network fails; nothing of a valley.

    Counted by what was measured: robustness, of the ends alone, has intervals.
    """
    if not _is_path(result):
        return ()
    split = _splits(result)[0]
    error = _errors(result, split)
    if not {0.0, 1.0} <= set(error.columns):
        return ()
    paths = {str(site): dict(zip(_alphas(result), row, strict=True)) for site, row in _rows(error)}
    single = {site: path for site, path in paths.items() if site != FULL_NETWORK}
    rises = {site: max(path.values()) - path[1.0] for site, path in single.items()}
    harmless = [site for site, rise in rises.items() if rise <= HARMLESS]
    limit = f"{bound(HARMLESS)} of {split} error"
    said = []
    if len(harmless) == len(single):
        said.append(f"No module alone costs more than {limit} anywhere on the way back to where it started.")
    else:
        worst = max(single, key=lambda site: single[site][0.0] - single[site][1.0])
        cost = f"{worst} costs most at the start: {points(single[worst][0.0] - single[worst][1.0])}"
        few = f"{len(harmless):,} of {count(len(single), 'module')} ({names(harmless)})" if harmless else "No module"
        said.append(f"{few} can go back alone, step by step, for at most {limit}; {cost}.")
    said[0] += f" These are values as measured on {_examples(result, split)}, without intervals."
    ridges = {site: max(path.values()) - max(path[0.0], path[1.0]) for site, path in paths.items()}
    high = [f"{site} ({points(rise)})" for site, rise in ridges.items() if rise > HARMLESS]
    if high:
        said.append(
            f"Between its ends the error is higher than at both, by more than {bound(HARMLESS)}: {names(high)}."
        )
    if FULL_NETWORK in paths:
        said.append(_whole(paths[FULL_NETWORK], split))
    return tuple(said)


def curves(result: ValleyResult) -> Figure:
    """The picture of a path: the error of each split."""
    return path_panels(_largest(result, _splits(result)[0], MOST_LINES), metrics=("error",))


def _whole(error: Mapping[float, float], split: str) -> str:
    """How far the network as a whole can go back."""
    fails = [alpha for alpha, value in error.items() if value > error[1.0] + HARMLESS]
    if not fails:
        return f"The whole network at once costs no more than {bound(HARMLESS)} of {split} error on the way back."
    last = max(fails)
    works = min(alpha for alpha in error if alpha > last)
    return (
        f"The whole network at once works down to α = {works:g}; at α = {last:g} its {split} error is "
        f"{percent(error[last])}, at the start {percent(error[0.0])}."
    )


def _is_path(result: ValleyResult) -> bool:
    return bool((result.frame.sigma == 0).all())


def _splits(result: ValleyResult) -> list[str]:
    return [str(split) for split in result.frame.split.unique()]


def _alphas(result: ValleyResult) -> list[float]:
    return sorted(map(float, result.frame.alpha.unique()))


def _rows(error: pd.DataFrame) -> Iterator[tuple[Any, list[float]]]:
    yield from zip(error.index, error.to_numpy(dtype=float).tolist(), strict=True)


def _errors(result: ValleyResult, split: str) -> pd.DataFrame:
    """Sites x alphas, both in order."""
    rows = result.frame[result.frame.split == split].astype({"site": str})
    table = rows.pivot(index="site", columns="alpha", values="error")
    return table.loc[list(dict.fromkeys(rows.site))]


def _largest(result: ValleyResult, split: str, most: int) -> pd.DataFrame:
    """Rows of the whole network, and of so many modules."""
    peaks = _errors(result, split).max(axis=1)
    single = peaks.drop(index=FULL_NETWORK, errors="ignore")
    kept = {FULL_NETWORK, *single.sort_values(ascending=False, kind="stable").index[:most]}
    return result.frame[result.frame.site.isin(kept)]


def _few(result: ValleyResult, most: int) -> str:
    modules = result.frame.site[result.frame.site != FULL_NETWORK].nunique()
    return f" Of {modules:,} modules, the {most} with the largest error." if modules > most else ""


def _picture(result: ValleyResult) -> Picture:
    return Picture(
        svg=drawn(curves(result).axes[0]),
        description="Error along the path of each module, and of the whole network",
        caption=(
            "Error along the straight line from the initial weights (α = 0) to the trained ones (α = 1). One module "
            f"moves, all others stay trained; {FULL_NETWORK}: all move together. Points are measured, lines join "
            f"them.{_few(result, MOST_LINES)}"
        ),
    )


def _path_map(result: ValleyResult, split: str) -> Heatmap:
    frame = _largest(result, split, MOST_ROWS)
    error = _errors(ValleyResult(frame, result.provenance), split)
    return _heatmap(
        error,
        "module",
        f"{split} error (%) by α",
        f"Columns: α. Of {_examples(result, split)}.{_few(result, MOST_ROWS)}",
        split,
    )


def _noise_map(result: ValleyResult, split: str) -> Heatmap:
    rows = result.frame[result.frame.split == split]
    error = rows.pivot(index="sigma", columns="alpha", values="error").sort_index()
    error.index = pd.Index([f"{sigma:.3g}" for sigma in error.index])
    draws = result.provenance["noise_samples"]
    caption = f"Rows: σ of the noise, mean of {count(draws, 'draw')}. Columns: α. Of {_examples(result, split)}."
    return _heatmap(error, "σ", f"{split} error (%) by α and σ", caption, split)


def _heatmap(error: pd.DataFrame, corner: str, quantity: str, caption: str, split: str) -> Heatmap:
    top = max(float(np.nanmax(error.to_numpy(dtype=float))), 0.01)
    alphas, names = [f"{alpha:g}" for alpha in error.columns], [str(name) for name in error.index]

    def cell(value: float, alpha: str) -> Cell:
        if value != value:
            return Cell(text="", empty=True)
        note = (f"α = {alpha}: {split} error {percent(value)}",)
        return Cell(text=f"{100 * value:.1f}", note=note, level=value / top)

    whole = names.index(FULL_NETWORK) if FULL_NETWORK in names else 0
    return Heatmap(
        corner=corner,
        rows=tuple(names),
        columns=tuple(alphas),
        cells=tuple(tuple(map(cell, row, alphas)) for row in error.to_numpy(dtype=float).tolist()),
        scale=("0 %", percent(top)),
        quantity=quantity,
        row_gaps=(whole,) if whole else (),
        caption=caption,
    )


def _examples(result: ValleyResult, split: str) -> str:
    return count(int(result.provenance["splits"][split]["examples"]), f"{split} example")


def _how_to_read(result: ValleyResult) -> Block:
    rows = (
        ("α", "a module's parameters are at (1 − α) θ^0 + α θ^F: θ^0 before training, θ^F after"),
        (FULL_NETWORK, "all parameters move together, batch norm's running statistics with them"),
        (
            "harmless",
            f"costs at most {bound(HARMLESS)} of error more than the trained network's, at every α measured",
        ),
    )
    text = (
        "At α = 0 a module is back at its initial values, as in a reset of that one module. A path that stays low "
        "says that the module did not have to leave where it was; criticality also asks how much noise it bears.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=rows), Text(paragraphs=text)))


def _origins(result: ValleyResult, is_path: bool) -> Fold:
    p = result.provenance
    splits = p["splits"]
    known = {
        **p,
        "data": shorten((f"{part['data']} ({split}, {part['examples']:,})" for split, part in splits.items()), 9),
        "engine": ", ".join(dict.fromkeys(part["engine"] for part in splits.values())),
        "engine_reasons": list(
            dict.fromkeys(reason for part in splits.values() for reason in part["engine_reasons"])
        ),
    }
    if is_path:
        return origins(known, "convex_path", ["seed"], of="trajectory")
    return origins(known, "valley", ["noise_samples", "seed"], [f"site={p['sites'][0]!r}"], of="trajectory")
