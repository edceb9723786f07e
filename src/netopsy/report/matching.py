"""The report's sections on matched units: which units of one network are those of another, and since when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from pandas.api.typing import NAType

from netopsy.engine.alignment import rho_bar
from netopsy.plots.matching import match_heatmap
from netopsy.plots.style import BLUE, VERMILLION
from netopsy.probes.matching import reassigned
from netopsy.probes.matching_result import UnitMatch
from netopsy.probes.winner_ranks import WinnerRanks
from netopsy.report.blocks import Block, Column, Entry, Facts, Fold, Picture, Section, Table, Text
from netopsy.report.origins import origins
from netopsy.report.vector import drawn
from netopsy.report.words import count, percent

SAME = 0.9
"""ρ from which two units are said to do the same."""

SIDE, CELLS, OPEN = 32, 6_000, 3
"""Rows and columns of a heatmap at most; cells of all of them; heatmaps that are not folded away."""

MOST_ROWS = 300
"""Units, or checkpoints of layers, that a table has."""


def match_section(result: UnitMatch) -> Section:
    """Which layers' units are found again, a heatmap a layer, and every unit's match."""
    a, b = names_of(result)
    pairs = reassigned(result, "one-to-one")
    pictures = [_heatmap(result, pairs, name) for name in result.matrix]
    known = [picture for picture in pictures if picture is not None]
    blocks: list[Block] = [_layer_table(result), *known[:OPEN]]
    if len(known) > OPEN:
        blocks.append(Fold(title="The other layers", blocks=tuple(known[OPEN:])))
    blocks.append(Fold(title="Each unit's match", blocks=_unit_table(reassigned(result, "best"), pairs)))
    return Section(
        title=f"Which units of {a} are those of {b}",
        question="Do the two networks' units do the same, up to scale and shift, wherever they are in their layer?",
        verdict=match_sentences(result),
        blocks=(
            *blocks,
            _how_to_read(a, b),
            origins(result.provenance, "match_units", ("assignment", "seed"), ("other,",), of="net"),
        ),
    )


def names_of(result: UnitMatch | WinnerRanks) -> tuple[str, str]:
    """What the two networks are called."""
    known = result.provenance.get("names")
    return (str(known[0]), str(known[1])) if known else ("one network", "another")


def layer_pairs(result: UnitMatch) -> pd.DataFrame:
    """A row a pair of layers: `layer_a, layer_b, units_a, units_b`, then how well they go together.

    `rho_bar` (ρ̄ of the first network's units in the other), `rho_bar_back` (of the other's in the first); of the
    one-to-one assignment `pairs`, their mean `pair_rho`, and `same`, how many have a ρ of at least `SAME`.
    """
    single = reassigned(result, "one-to-one")
    own = [single.frame.rho[single.frame.layer_a == name] for name in result.matrix]
    return single.layers[["layer_a", "layer_b", "units_a", "units_b", "rho_bar"]].assign(
        rho_bar_back=[float(rho_bar(torch.from_numpy(matrix).T)) for matrix in result.matrix.values()],
        pairs=single.layers.matched,
        pair_rho=single.layers.mean_rho,
        same=[int((rho >= SAME).sum()) for rho in own],
    )


def match_sentences(result: UnitMatch) -> tuple[str, ...]:
    """Where units are found again, how many have a partner of their own, and which have no number."""
    a, b = names_of(result)
    table = layer_pairs(result)
    rows = [row for row in table.to_dict("records") if not math.isnan(row["rho_bar"])]
    if not rows:
        return ("Nothing can be said of these layers: no units vary, or not all values are finite.",)
    most, least = (pick(rows, key=lambda row: row["rho_bar"]) for pick in (max, min))
    text = f"Units of {a} are found again in {b}"
    if most["layer_a"] == least["layer_a"]:
        said = [f"{text} with a mean ρ̄ of {most['rho_bar']:.2f} in {most['layer_a']}."]
    else:
        said = [
            f"{text} best in {most['layer_a']} (ρ̄ {most['rho_bar']:.2f}), least in {least['layer_a']} "
            f"(ρ̄ {least['rho_bar']:.2f})."
        ]
    same, possible = int(table["same"].sum()), int(table.pairs.sum())
    said.append(
        f"Paired one to one, {same:,} of {count(possible, 'pair')} ({percent(same / possible)}) do the same "
        f"(ρ ≥ {SAME:g})."
    )
    status = result.frame.status.value_counts()
    for name, words in (("constant", "never vary"), ("non-finite", "have values that are not finite")):
        if name in status:
            said.append(f"Of {count(len(result.frame), 'unit')} of {a}, {status[name]:,} {words} and have no match.")
    return tuple(said)


def ranks_section(result: WinnerRanks) -> Section:
    """How a student's units came to cover a teacher's, and since when the later winners led."""
    student, teacher = names_of(result)
    blocks: list[Block] = [_end_table(result)]
    known = result.frame.dropna(subset=["rho_bar", "rank"])
    if known.checkpoint.nunique() > 1:
        said: dict[Literal["rho_bar", "rank"], str] = {
            "rho_bar": f"ρ̄ of the units of {teacher}: the mean of each one's highest ρ among {student}'s.",
            "rank": "The mean rank of the units that win at the end: 0 is the first of its layer, ½ is chance.",
        }
        for column, caption in said.items():
            picture = WinnerRanks(frame=known, provenance=result.provenance).plot(column=column)
            blocks.append(
                Picture(
                    svg=drawn(picture), description=f"A line a layer over the checkpoints: {caption}", caption=caption
                )
            )
    blocks.append(Fold(title="Every checkpoint", blocks=_checkpoint_table(result)))
    return Section(
        title=f"When {student} came to have the units of {teacher}",
        question="Were the units that match best at the end ahead early, or did others lead?",
        verdict=ranks_sentences(result),
        blocks=(*blocks, origins(result.provenance, "winner_ranks", ("seed",), ("teacher,",), of="trajectory")),
    )


def ranks_sentences(result: WinnerRanks) -> tuple[str, ...]:
    """ρ̄ from the first checkpoint to the last, and the ranks of the winners; means over the layers."""
    student, teacher = names_of(result)
    means = result.frame.groupby("checkpoint", sort=False)[["rho_bar", "rank"]].mean().dropna()
    if means.empty:
        return ("Nothing can be said of these layers: no units vary, or not all values are finite.",)
    first, last = means.iloc[0], means.iloc[-1]
    if len(means) == 1:
        return (f"{student} has one checkpoint, at which ρ̄ of {teacher}'s units is {last.rho_bar:.2f}.",)
    keys = [str(key) for key in means.index]
    said = [
        f"ρ̄ of {teacher}'s units in {student} went from {first.rho_bar:.2f} at checkpoint {keys[0]} to "
        f"{last.rho_bar:.2f} at {keys[-1]} (mean over the layers)."
    ]
    ranks = f"The units that win at the end had a mean rank of {first['rank']:.2f} at checkpoint {keys[0]}"
    if len(means) > 2:
        ranks += f" and of {means['rank'].iloc[1]:.2f} at {keys[1]}"
    said.append(f"{ranks}: 0 is the first, 0.5 is chance.")
    return tuple(said)


def _layer_table(result: UnitMatch) -> Table:
    a, b = names_of(result)
    table = layer_pairs(result)
    columns = (
        Column(name=f"layer of {a}", help="in the order in which layers were taken in pairs"),
        Column(name=f"layer of {b}"),
        Column(name=f"units of {a}", numeric=True),
        Column(name=f"units of {b}", numeric=True),
        Column(name=f"{a} in {b}", help=f"ρ̄: mean of each unit's highest ρ in {b}", numeric=True, span=(0.0, 1.0)),
        Column(name=f"{b} in {a}", help=f"ρ̄: mean of each unit's highest ρ in {a}", numeric=True),
        Column(name="one to one", help="mean ρ when no unit is taken twice", numeric=True),
        Column(name=f"pairs with ρ ≥ {SAME:g}", help="of the pairs one to one", numeric=True),
    )
    rows = []
    for place, row in enumerate(table.to_dict("records")):
        entries = (
            Entry(text=str(row["layer_a"]), sort=place),
            Entry(text=str(row["layer_b"])),
            Entry(text=f"{row['units_a']:,}", sort=float(row["units_a"])),
            Entry(text=f"{row['units_b']:,}", sort=float(row["units_b"])),
            _rho(float(row["rho_bar"]), bar=True),
            _rho(float(row["rho_bar_back"])),
            _rho(float(row["pair_rho"])),
            Entry(text=f"{row['same']:,} of {row['pairs']:,}", sort=float(row["same"])),
        )
        rows.append(entries)
    return Table(columns=columns, rows=tuple(rows), caption="Pairs of layers. Sort by any column.")


def _heatmap(result: UnitMatch, pairs: UnitMatch, layer: str) -> Picture | None:
    """One layer, the best pair first; of a large one some rows, at equal steps in that order, and their partners."""
    a, b = names_of(result)
    part = pairs.frame[(pairs.frame.layer_a == layer) & pairs.frame.match.notna()]
    part = part.sort_values("rho", ascending=False, kind="stable")
    if part.empty:
        return None
    matrix, rows, match = result.matrix[layer], part.unit.to_numpy("int64"), part.match.to_numpy("int64")
    side = min(SIDE, max(8, math.isqrt(CELLS // len(result.matrix))))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(side, len(rows))).round().astype(int))
    taken = set(match.tolist())
    others = [column for column in np.flatnonzero(np.isfinite(matrix).any(0)).tolist() if column not in taken]
    columns = [*match[chosen].tolist(), *(others[: side - len(chosen)])]
    square = matrix[rows[chosen]][:, columns]
    other = str(part.layer_b.iloc[0])
    picture = match_heatmap(square, None, labels=(f"units of {a}", f"units of {b}"), symmetric=1.0)
    mesh = next(iter(picture.findobj(QuadMesh)))
    mesh.set_cmap(_see_through())
    picture.set_facecolor("none")
    shown = f" {len(chosen)} of {len(rows):,} are shown, at equal steps." if len(chosen) < len(rows) else ""
    alone = len(columns) - len(chosen)
    shown += f" Right of them: {count(alone, 'unit')} of {b} without a partner." if alone else ""
    return Picture(
        svg=drawn(picture),
        description=f"ρ of units of {a}'s {layer} with units of {b}'s {other}; pairs lie on the diagonal",
        caption=f"{layer} of {a} and {other} of {b}: pairs one to one on the diagonal, the best first.{shown}",
    )


def _see_through() -> Colormap:
    """That of signed numbers, with nothing in place of white: so it is one on a dark page too."""
    ends = [(*to_rgb(color), alpha) for color, alpha in ((BLUE, 1), (BLUE, 0), (VERMILLION, 0), (VERMILLION, 1))]
    places = (0.0, 0.5, 0.5, 1.0)
    return LinearSegmentedColormap.from_list("netopsy-signed-clear", list(zip(places, ends, strict=True)))


def _unit_table(best: UnitMatch, pairs: UnitMatch) -> tuple[Block, ...]:
    a, b = names_of(best)
    frame = best.frame.assign(partner=pairs.frame.match, partner_rho=pairs.frame.rho)
    blocks: list[Block] = []
    if len(frame) > MOST_ROWS:
        told = (
            f"Of {len(frame):,} units, the {MOST_ROWS} with the best matches are shown; units.parquet has them all."
        )
        blocks.append(Text(paragraphs=(told,)))
        frame = frame.sort_values("rho", ascending=False, kind="stable")[:MOST_ROWS].sort_index()
    columns = (
        Column(name=f"layer of {a}"),
        Column(name="unit", numeric=True),
        Column(name=f"best in {b}", help="the unit with the highest ρ, whoever else has it", numeric=True),
        Column(name="ρ", numeric=True),
        Column(name="one to one", help="its partner when no unit is taken twice", numeric=True),
        Column(name="ρ of the pair", numeric=True),
        Column(name="status", help="why it has no match"),
    )
    rows = [
        (
            Entry(text=str(row["layer_a"]), sort=place),
            Entry(text=str(row["unit"]), sort=float(row["unit"])),
            _unit(row["match"]),
            _rho(float(row["rho"])),
            _unit(row["partner"]),
            _rho(float(row["partner_rho"])),
            Entry(text="" if row["status"] == "ok" else str(row["status"]), sort=str(row["status"])),
        )
        for place, row in enumerate(frame.to_dict("records"))
    ]
    return (*blocks, Table(columns=columns, rows=tuple(rows)))


def _end_table(result: WinnerRanks) -> Table:
    """A row a layer: its first and last ρ̄, and the winners' rank at the first two checkpoints."""
    student, teacher = names_of(result)
    keys = list(dict.fromkeys(result.frame.checkpoint))
    early = keys[:-1][:2]
    columns = (
        Column(name=f"layer of {student}"),
        Column(name=f"layer of {teacher}"),
        Column(name=f"ρ̄ at {keys[0]}", help="at the first checkpoint", numeric=True, span=(0.0, 1.0)),
        Column(name=f"ρ̄ at {keys[-1]}", help="at the last checkpoint", numeric=True, span=(0.0, 1.0)),
        *(Column(name=f"r̄ at {key}", help="mean rank of the final winners", numeric=True) for key in early),
    )
    rows = []
    for place, (layer, part) in enumerate(result.frame.groupby("layer", sort=False)):
        rows.append(
            (
                Entry(text=str(layer), sort=place),
                Entry(text=str(part.teacher_layer.iloc[0])),
                _rho(float(part.rho_bar.iloc[0]), bar=True),
                _rho(float(part.rho_bar.iloc[-1]), bar=True),
                *(_rho(float(value)) for value in part["rank"].iloc[: len(early)]),
            )
        )
    return Table(columns=columns, rows=tuple(rows), caption="Layers from the first to the last checkpoint.")


def _checkpoint_table(result: WinnerRanks) -> tuple[Block, ...]:
    frame = result.frame
    blocks: list[Block] = []
    if len(frame) > MOST_ROWS:
        kept = np.unique(np.linspace(0, len(frame) - 1, MOST_ROWS).round().astype(int))
        told = f"{len(kept)} of {len(frame):,} rows are shown, at equal steps; results.parquet has them all."
        blocks.append(Text(paragraphs=(told,)))
        frame = frame.iloc[kept]
    columns = (
        Column(name="checkpoint"),
        Column(name="layer"),
        Column(name="ρ̄", numeric=True),
        Column(name="r̄", numeric=True),
    )
    rows = [
        (
            Entry(text=str(row["checkpoint"]), sort=place),
            Entry(text=str(row["layer"])),
            _rho(float(row["rho_bar"])),
            _rho(float(row["rank"])),
        )
        for place, row in enumerate(frame.to_dict("records"))
    ]
    return (*blocks, Table(columns=columns, rows=tuple(rows)))


def _rho(value: float, *, bar: bool = False) -> Entry:
    if math.isnan(value):
        return Entry(text="–")
    text = f"{value:.2f}".replace("-", "−")
    return Entry(text=text, sort=value, bar=(0.0, value, value) if bar and value >= 0 else None)


def _unit(value: int | NAType | None) -> Entry:
    return (
        Entry(text="–") if value is None or isinstance(value, NAType) else Entry(text=str(value), sort=float(value))
    )


def _how_to_read(a: str, b: str) -> Block:
    rows: Sequence[tuple[str, str]] = (
        ("ρ", "the cosine of two units' centered activations (Pearson's r) on the same examples, signed; every "
         "position of a convolution is a sample"),
        ("ρ̄", f"of {a} in {b}: the mean over {a}'s units of the highest ρ in {b}; two may have the same best"),
        ("one to one", "the pairing of different units with the largest sum of ρ"),
        ("r̄", "of the units that win at the end, the mean share of their layer that was ahead of them before"),
    )  # fmt: skip
    text = (
        "The best of many is good by chance: wide layers have a high ρ̄ before any training; compare it with that of "
        "the first checkpoint. ρ sees pairs of units: one that is a sum of two others matches neither.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=tuple(rows)), Text(paragraphs=text)))
