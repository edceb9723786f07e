"""The report's section on what kind of unit each is."""

from __future__ import annotations

from typing import Any

import pandas as pd

from netopsy.plots.units import count_kinds
from netopsy.probes.units_result import UnitTableResult
from netopsy.report.blocks import Block, Column, Entry, Facts, Fold, Mark, Section, Table, Text
from netopsy.report.origins import origins
from netopsy.report.unit_map import KINDS, share, unit_map
from netopsy.report.words import count, percent, signed

MOST_EFFECTS = 20
"""Units that are listed."""

MOST_LAYERS = 300
"""Layers in a table, the first ones."""

UNIQUE, UNKNOWN = "unique", "unknown"

OPTIONS = ("similar", "stop", "precision", "tolerance", "confidence", "seed", "estimand")


def unit_table_section(result: UnitTableResult) -> Section:
    """What kind of unit each is, from the verdict to how to repeat it."""
    mosaic, left_out = unit_map(result.frame)
    blocks: list[Block] = [mosaic]
    blocks += [Text(paragraphs=(left_out,))] if left_out else []
    blocks += [kind_table(result), effect_table(result)]
    notes = tuple(f"{note[0].upper()}{note[1:]}" for note in result.notes()[1:] if not note.startswith("run by"))
    blocks += [Text(paragraphs=notes)] if notes else []
    c = result.criteria
    criteria = f"criteria={c!r}" if c != type(c)() else ""
    fold = origins(result.provenance, "unit_table", OPTIONS, [criteria] if criteria else ())
    total = result.frame.kind.value_counts()
    counts: tuple[tuple[Mark, str], ...] = tuple(
        ("neutral", f"{total[name]:,} {name}") for name in KINDS if total.get(name, 0)
    )
    return Section(
        title="Kinds of units",
        question="Which units does the function need, and what kind of spare is each of the others?",
        verdict=unit_sentences(result),
        counts=counts,
        blocks=(*blocks, _how_to_read(result), fold),
    )


def unit_sentences(result: UnitTableResult) -> tuple[str, ...]:
    """Up to three sentences: how many units are of no spare kind, what the strongest does, what similar ones hide."""
    frame = result.frame
    total, kinds = len(frame), frame.kind.astype(str).value_counts()
    unique = int(kinds.get(UNIQUE, 0))
    spare = [(name, int(kinds[name])) for name in KINDS if name not in (UNIQUE, UNKNOWN) and kinds.get(name, 0)]
    spare.sort(key=lambda pair: -pair[1])
    said = (
        f"Of {count(total, 'unit')}, {unique:,} ({percent(unique / total)}) {'is' if unique == 1 else 'are'} unique: "
    )
    said += "none of the six kinds of spare units"
    if spare:
        said += f". Most of the others are {spare[0][0]} ({spare[0][1]:,})"
        said += f", then {spare[1][0]} ({spare[1][1]:,})" if len(spare) > 1 else ""
    sentences = [f"{said}."]
    effect = frame.effect.astype("float64")
    if effect.notna().any():
        row = frame.iloc[int(effect.argmax())]
        if float(row.effect) == 0:
            sentences.append("No unit changes any prediction when it alone is set to zero.")
        else:
            still = int((effect == 0).sum())
            sentences.append(
                f"Set to zero alone, unit {row.unit} of {row.site} changes most: {share(row.effect)} of the "
                f"predictions; {still:,} of {total:,} units change none."
            )
    return (*sentences, *_together(frame))


def _together(frame: pd.DataFrame) -> tuple[str, ...]:
    """What a unit and those similar to it do together, where that is more than it does alone."""
    more = frame.effect_similar.astype("float64") - frame.effect.astype("float64")
    if not (more > 0).any():
        return ()
    row = frame.iloc[int(more.argmax())]
    return (
        f"With all that are similar to it, a unit can change more: unit {row.unit} of {row.site} alone changes "
        f"{share(row.effect)} of the predictions, and {share(row.effect_similar)} with the "
        f"{int(row.similar):,} similar to it.",
    )


def kind_table(result: UnitTableResult) -> Table:
    """A row a layer: units of each kind that occurs."""
    counts = count_kinds(result.frame)
    used = [name for name in KINDS if counts[name].any()]
    rows = []
    for place, (site, row) in enumerate(counts.iloc[:MOST_LAYERS].iterrows()):
        units = int(row.sum())
        numbers = [
            Entry(text=f"{row[name]:,}", sort=float(row[name]), note=(f"{percent(row[name] / units)} of {units:,}",))
            for name in used
        ]
        rows.append((Entry(text=str(site), sort=place), Entry(text=f"{units:,}", sort=float(units)), *numbers))
    cut = f" The first {MOST_LAYERS} of {len(counts):,} layers." if len(counts) > MOST_LAYERS else ""
    return Table(
        columns=(
            Column(name="layer", help="in the network's order"),
            Column(name="units", numeric=True),
            *(Column(name=name, help=MEANING[name], numeric=True) for name in used),
        ),
        rows=tuple(rows),
        caption=f"Units of each kind by layer.{cut}",
    )


def effect_table(result: UnitTableResult) -> Table:
    """The units that change most predictions."""
    frame = result.frame
    order = frame.effect.astype("float64").sort_values(ascending=False, kind="stable", na_position="last")
    top = frame.loc[order.index[:MOST_EFFECTS]]
    rows = []
    for place, row in enumerate(top.to_dict("records")):
        low, high = float(_or(row["effect_low"], row["effect"])), float(_or(row["effect_high"], row["effect"]))
        rows.append(
            (
                Entry(text=f"{row['site']}, unit {row['unit']}", sort=place),
                Entry(text=str(row["kind"]), sort=float(KINDS.index(str(row["kind"]))), mark="neutral"),
                _measured(row["effect"], (low, float(_or(row["effect"], 0.0)), high)),
                _measured(row["effect_similar"], note=_similar(row["similar"])),
                Entry(text="", sort=None) if pd.isna(row["accuracy_change"])
                else Entry(text=signed(float(row["accuracy_change"])), sort=float(row["accuracy_change"])),
                _measured(row["activity"]),
                _plain(row["r2"], ".2f"),
            )
        )  # fmt: skip
    ends = [entry.bar[2] for row in rows for entry in row if entry.bar]
    columns = (
        Column(name="unit", help="the largest effect first"),
        Column(name="kind"),
        Column(
            name="changes",
            help="share of predictions that change when it alone is set to zero, with its interval",
            numeric=True,
            span=(0.0, max(ends, default=1.0)),
        ),
        Column(name="with similar", help="when all units similar to it are set to zero, too", numeric=True),
        Column(name="accuracy, points", help="change when it alone is set to zero", numeric=True),
        Column(name="active", help="share of samples on which it is above zero", numeric=True),
        Column(name="R²", help="of its best linear reconstruction from the layer's other units", numeric=True),
    )
    of = f"The {len(rows)} units that change" if len(rows) > 1 else "The unit that changes"
    return Table(columns=columns, rows=tuple(rows), caption=f"{of} most predictions, of {len(frame):,}.")


MEANING = {
    "redundant functional": "a combination of others gives it, and the output depends on it (i)",
    "redundant blocked": "a combination of others gives it, and the output does not depend on it (ii)",
    "non-redundant blocked": "no combination of others gives it, and the output does not depend on it (iii)",
    "silent": "hardly ever above zero (iv)",
    "constant": "hardly varies (v)",
    "semantically redundant": "tells classes apart, but hardly any prediction changes without it (vi)",
    "unique": "none of the six",
    "unknown": "its values, or the outputs without it, are not finite",
}


def _or(value: Any, other: Any) -> Any:
    return other if pd.isna(value) else value


def _similar(number: Any) -> tuple[str, ...]:
    return () if pd.isna(number) else (count(int(number), "similar unit"),)


def _measured(value: Any, bar: tuple[float, float, float] | None = None, note: tuple[str, ...] = ()) -> Entry:
    return Entry(text="") if pd.isna(value) else Entry(text=share(value), sort=float(value), bar=bar, note=note)


def _plain(value: Any, form: str) -> Entry:
    return Entry(text="") if pd.isna(value) else Entry(text=format(float(value), form), sort=float(value))


def _how_to_read(result: UnitTableResult) -> Block:
    p = result.provenance
    c = result.criteria
    rows = (
        ("silent", f"above zero on at most {percent(c.silent)} of the samples"),
        ("constant", f"a standard deviation of at most {percent(c.constant)} of its mean"),
        ("redundant", f"R² of at least {c.redundant:g}: the layer's other units give it, by a linear combination"),
        ("blocked", f"the logits move by at most {c.blocked:g} of their own spread when it is set to zero"),
        ("redundant functional", "redundant, not blocked"),
        (
            "semantically redundant",
            f"neither, and at most {percent(c.harmless)} of the predictions change without it, though at least "
            f"{percent(c.selective)} of its variance lies between the classes",
        ),
        ("unique", "none of these"),
    )
    text = (
        "The first that holds, in the order silent, constant, blocked, redundant, semantically redundant. Kinds "
        "follow the estimates on these data: a unit near a criterion may be of another kind on more. A unit that can "
        f"go alone may not be able to go with its like: similar units, |r| ≥ {p['similar']:g}, are set to "
        "zero together, too.",
    )
    return Fold(title="How to read this", blocks=(Facts(rows=rows), Text(paragraphs=text)))
