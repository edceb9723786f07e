"""The report's section on how many units of a layer are needed."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from netopsy.probes.redundancy_result import RedundancyResult
from netopsy.report.blocks import Block, Column, Entry, Facts, Fold, Picture, Section, Table, Text
from netopsy.report.origins import origins
from netopsy.report.vector import drawn
from netopsy.report.words import count, percent

MOST_LINES = 40
"""Layers up to which distributions can be told apart."""

OPTIONS = ("level", "similar", "convention", "most", "samplings", "ridge", "seed")


def redundancy_section(result: RedundancyResult) -> Section:
    """Compressibility and similarity of the layers, from the verdict to how to repeat it."""
    blocks: list[Block] = [layer_table(result)]
    if len(result.pairs) and result.frame.site.nunique() <= MOST_LINES:
        blocks.append(
            Picture(
                svg=drawn(result.plot(kind="pairs")),
                description="How often two units of a layer have which correlation, a line for each layer",
                caption=(
                    f"Of the pairs of units of each layer, the share at each |r|. Right of the dashed line, at "
                    f"{result.provenance['similar']:g}, two units are similar."
                ),
            )
        )
    notes = [note for note in result.notes()[1:] if not note.startswith("±")]
    blocks += [Text(paragraphs=tuple(f"{note[0].upper()}{note[1:]}" for note in notes))] if notes else []
    return Section(
        title="Redundancy of units",
        question="How many directions do a layer's units really use, and how many units say what others say already?",
        verdict=redundancy_sentences(result),
        blocks=(*blocks, _how_to_read(result), origins(result.provenance, "redundancy", OPTIONS)),
    )


def redundancy_sentences(result: RedundancyResult) -> tuple[str, ...]:
    """Up to three sentences: components, similar units, units that never vary."""
    frame, p = result.frame, result.provenance
    rows, said = frame.to_dict("records"), []
    known = [row for row in rows if not math.isnan(row["compressibility"])]
    if known:
        least, most = (pick(known, key=lambda row: row["compressibility"]) for pick in (min, max))
        text = f"{percent(p['level'])} of the variance is in {_components(most)}"
        if least["compressibility"] < most["compressibility"]:
            text += f", the most compressible layer, and in {_components(least)}, the least"
        said.append(f"{text}.")
    alike = [row for row in rows if not math.isnan(row["similar_per_unit"])]
    if alike:
        most = max(alike, key=lambda row: row["similar_per_unit"])
        if most["similar_per_unit"] == 0:
            said.append(f"No two units of a layer are similar (|r| ≥ {p['similar']:g}).")
        else:
            where = f"In {most['site']}" if len(alike) == 1 else f"Units are most alike in {most['site']}: there"
            said.append(
                f"{where} a unit has {most['similar_per_unit']:.1f} similar others on average "
                f"(|r| ≥ {p['similar']:g}), {percent(most['similar_share'])} of those that vary."
            )
    silent, constant = (round(float(frame[name].sum())) for name in ("silent", "constant"))
    total = int(frame.units.sum())
    if silent or constant:
        parts = [f"{silent:,} are silent (zero on all samples)"] if silent else []
        parts += [f"{constant:,} never vary"] if constant else []
        said.append(f"Of {count(total, 'unit')}, {' and '.join(parts)}.")
    if not said:
        return ("Nothing can be said of these layers: no units vary, or not all values are finite.",)
    return tuple(said)


def layer_table(result: RedundancyResult) -> Table:
    """A row a layer, with everything that is known of it."""
    p, frame = result.provenance, result.frame
    rebuilt = _rebuilt(result)
    columns = [
        Column(name="layer", help="in the network's order"),
        Column(name="units", numeric=True),
        Column(
            name="components", help=f"principal components with {percent(p['level'])} of the variance", numeric=True
        ),
        Column(
            name="not needed",
            help="compressibility: the share of components that are not needed",
            numeric=True,
            span=(0.0, 1.0),
        ),
        Column(
            name="similar units", help=f"other units with |r| ≥ {p['similar']:g}, mean of the units", numeric=True
        ),
        Column(name="share similar", help="the same as a share of the others that vary", numeric=True),
        Column(
            name="R² ≥ 0.9",
            help="units that a linear combination of the layer's others gives with an R² of at least 0.9",
            numeric=True,
        ),
        Column(name="silent", help="units that are zero on all samples", numeric=True),
        Column(name="constant", help="other units that do not vary", numeric=True),
        Column(name="status", help="why a number is missing"),
    ]
    rows = []
    for place, row in enumerate(frame.to_dict("records")):
        site = str(row["site"])
        several = not math.isnan(row["compressibility_sd"])
        rows.append(
            (
                Entry(text=site, sort=place),
                _number(row["units"], ",.0f"),
                _number(row["components"], ",.0f" if not several else ",.1f"),
                _share(row["compressibility"], row["compressibility_sd"]),
                _number(row["similar_per_unit"], ".1f"),
                _number(row["similar_share"], ".1%"),
                _number(rebuilt.get(site), ".1%"),
                _number(row["silent"], ",.0f"),
                _number(row["constant"], ",.0f"),
                Entry(text="" if row["status"] == "ok" else str(row["status"]), sort=str(row["status"])),
            )
        )
    used = [c for c in range(len(columns)) if c < 6 or any(row[c].text not in ("", "0") for row in rows)]
    return Table(
        columns=tuple(columns[c] for c in used),
        rows=tuple(tuple(row[c] for c in used) for row in rows),
        caption="Redundancy of the units of each layer. Sort by any column.",
    )


def _components(row: Any) -> str:
    needed = f"{float(row['components']):.4g}"
    noun = "component" if needed == "1" else "components"
    return f"{needed} principal {noun} of {row['site']}'s {count(int(row['units']), 'unit')}"


def _rebuilt(result: RedundancyResult) -> dict[str, float]:
    """Layer -> share of the units with an R² that have one of at least 0.9."""
    units = result.units[result.units.r2.notna()]
    shares = (units.r2 >= 0.9).groupby(units.site.astype(str)).mean()
    return {str(site): float(value) for site, value in shares.items()}


def _number(value: Any, form: str) -> Entry:
    if value is None or pd.isna(value):
        return Entry(text="")
    return Entry(text=format(float(value), form).replace("%", " %"), sort=float(value))


def _share(value: float, sd: float) -> Entry:
    if math.isnan(value):
        return Entry(text="")
    known = not math.isnan(sd)
    note = (f"± {percent(sd)}, standard deviation over the samplings",) if known else ()
    low, high = (value - sd, value + sd) if known else (0.0, value)
    return Entry(text=percent(value), sort=value, bar=(low, value, high), note=note)


def _how_to_read(result: RedundancyResult) -> Block:
    p = result.provenance
    channels = p["convention"] == "channels"
    rows = (
        ("unit", "a feature or channel; every position of every example is a sample" if channels
         else "a channel at a position; every example is a sample"),
        ("components", f"principal components of the covariance that keep {percent(p['level'])} of the variance"),
        ("not needed", "1 − components / units; silent and constant units need none"),
        ("similar", f"two units whose correlation is at least {p['similar']:g}, or at most −{p['similar']:g}"),
        ("R²", "of the best linear reconstruction of a unit from all other units of its layer, on these data"),
    )  # fmt: skip
    text = (
        "Neither number implies the other. Both are large in wide networks that were never trained, too: measure the "
        "initial network beside the trained one. What is redundant here is so on these data, and linearly; whether "
        "the network can do without it, ablation tells.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=rows), Text(paragraphs=text)))
