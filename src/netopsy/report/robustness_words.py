"""What a robustness result says, in plain words; nothing that it does not know."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, cast

import pandas as pd

from netopsy._checks import one_of
from netopsy.plots.frames import key, ordered_keys
from netopsy.probes.operations import FULL_MODEL
from netopsy.probes.robustness_result import DIFFER, MARKS, RobustnessResult
from netopsy.report.blocks import Mark
from netopsy.report.words import bound, count, names, percent, points

NOUNS = {"modules": "layer", "blocks": "block", "parameters": "parameter"}
REINITIALIZE, RERANDOMIZE = "re-initialize", "re-randomize"
SIGNS = {"no-op": "=", "non-finite": "×"}
MEANING: dict[Mark, str] = {
    "robust": "robust",
    "between": "between",
    "critical": "critical",
    "undecided": "undecided",
    "differ": "draws differ",
    "no-op": "unchanged",
    "non-finite": "not finite",
}
"""How a report calls verdicts and statuses."""

HARMED = ("critical", "between")
"""Verdicts that certify that a part is not robust."""

MAIN = ("test", "validation", "valid", "val")


def sentences(result: RobustnessResult, *, split: str | None = None) -> tuple[str, ...]:
    """Up to three sentences: which parts carry the function, what they are together, what a fresh draw does to them.

    Args:
        result: of the probe.
        split: whose numbers; by default `main_split`.

    Raises:
        NetopsyError: the result has no such split.
    """
    chosen = main_split(result) if split is None else split
    one_of("split", chosen, [str(name) for name in result.frame.split.unique()])
    frame = result.frame[result.frame.split == chosen]
    baseline = frame[frame.operation == "baseline"].iloc[0]
    main = reference(result, chosen)
    single = main[main.index.isin(single_sites(result))]
    first = ""
    if "error" in baseline:
        error, n, chance = float(baseline["error"]), int(baseline["n"]), float(result.provenance["chance"])
        first = f"{opening(error, n, chance=chance, split=chosen)} "
    if single.empty:
        return (f"{first}Nothing was reset.",)
    return (f"{first}{_alone(result, single)}", *_together(result, main, single), *_drawn(result, chosen, single))


def opening(error: float, n: int, *, chance: float, split: str, network: str = "trained") -> str:
    """How often the unedited network errs, and a caution where that says nothing of its parts."""
    of = count(n, "example" if split == "data" else f"{split} example")
    said = f"The {network} network errs on {percent(error)} of {of}."
    if is_guessing(error, n, chance):
        said += " That is no better than guessing: it has nothing to lose, and no part can be told from another."
    return said


def is_guessing(error: float, n: int, chance: float) -> bool:
    """Whether an error is not better than chance, by more than two standard errors of guessing."""
    return error >= chance - 2 * math.sqrt(chance * (1 - chance) / n)


def main_split(result: RobustnessResult) -> str:
    """The split that a reader asks about first: held-out data where there are any."""
    splits = [str(name) for name in result.frame.split.unique()]
    return next((name for name in MAIN if name in splits), splits[0])


def single_sites(result: RobustnessResult) -> list[str]:
    """The sites by themselves, in the network's order: neither groups nor the whole network."""
    apart = {*result.groups, *whole_network(result)}
    return [str(site) for site in result.frame.site.dropna().unique() if site not in apart]


def whole_network(result: RobustnessResult) -> tuple[str, ...]:
    """The row of the whole network, where there is one; without `full_model=True` a part may have its name."""
    there = result.provenance.get("full_model", True) and bool((result.frame.site == FULL_MODEL).any())
    return (FULL_MODEL,) if there else ()


def start(result: RobustnessResult) -> Hashable:
    """The checkpoint at which no site had moved yet: where training started; None where the result does not know."""
    distances, final = result.distances, str(result.provenance.get("final"))
    still = distances.linf.eq(0).groupby(distances.checkpoint.astype(str), sort=False).all()
    return next((k for k in map(key, distances.checkpoint.unique()) if str(k) != final and still[str(k)]), None)


def reference(result: RobustnessResult, split: str) -> pd.DataFrame:
    """The rows of one split that answer the main question: a reset to the earliest checkpoint, or else fresh draws.

    Index: the sites, in their order; draws are averaged. A row's verdict is null where its draws differ; `harmed`
    says that all of them are certified not to be robust, `open` that one is undecided.
    """
    reset = reset_rows(result, split)
    known = len(reset) and str(key(reset.checkpoint.iloc[0])) != str(result.provenance.get("final"))
    drawn = drawn_rows(result, split)
    return reset if known or drawn.empty else drawn


def reset_rows(result: RobustnessResult, split: str) -> pd.DataFrame:
    """Resets to where training started, or else to the earliest checkpoint that is not the trained network itself.

    Integers tell which is the earliest; of names, the first that was asked for is taken.
    """
    frame = result.frame
    rows = frame[(frame.split == split) & (frame.operation == REINITIALIZE)]
    keys = ordered_keys(rows.checkpoint)
    final, first = str(result.provenance.get("final")), str(start(result))
    order = sorted(keys, key=lambda k: (str(k) == final, str(k) != first))
    rows = rows[rows.checkpoint.astype(str) == str(order[0])] if order else rows
    return _certified(rows).set_index("site")


def drawn_rows(result: RobustnessResult, split: str) -> pd.DataFrame:
    """Fresh draws, averaged."""
    frame = result.frame
    return averaged(frame[(frame.split == split) & (frame.operation == RERANDOMIZE)])


def averaged(draws: pd.DataFrame) -> pd.DataFrame:
    """Rows of several draws as one a site: means, and the verdict and the status where they agree.

    The mean of the intervals' ends bounds the mean of the changes, for all rows at once. `n` is the smallest.
    """
    rows = _certified(draws).groupby("site", sort=False)
    numbers = [name for name in draws.select_dtypes("number") if name not in ("draw", "checkpoint")]
    mean = rows[numbers].mean()
    first = draws.drop_duplicates("site").set_index("site")
    for name in ("operation", "verdict", "status"):
        mean[name] = first[name].where(rows[name].nunique(dropna=False) == 1)
    return mean.assign(n=rows["n"].min(), harmed=rows["harmed"].all(), open=rows["open"].any())


def _certified(rows: pd.DataFrame) -> pd.DataFrame:
    verdict = rows.verdict.astype(object)
    return rows.assign(harmed=verdict.isin(HARMED), open=verdict.isin(["undecided"]))


def marked(row: Any) -> Mark:
    """The verdict of a row, or the status that it has instead."""
    if row["status"] in SIGNS:
        return cast("Mark", row["status"])
    return "differ" if pd.isna(row["verdict"]) else cast("Mark", str(row["verdict"]))


def agreed(draws: Iterable[Mapping[Any, Any]]) -> Mark:
    """What several draws have in common, as `marked` says it of their average."""
    verdicts, states = zip(*((row["verdict"], row["status"]) for row in draws), strict=True)
    kinds = {None if pd.isna(verdict) else str(verdict) for verdict in verdicts}
    return marked(
        {
            "status": str(states[0]) if len(set(states)) == 1 else None,
            "verdict": kinds.pop() if len(kinds) == 1 else None,
        }
    )


def sign(mark: Mark) -> str:
    """The sign beside a number; none for what is robust."""
    return DIFFER if mark == "differ" else SIGNS.get(mark) or MARKS.get(mark, "")


def legend(marks: Collection[Mark]) -> str:
    """The signs of these marks, and what they mean."""
    used = [f"{sign(mark)} {MEANING[mark]}" for mark in MEANING if mark in marks and sign(mark)]
    used += ["no sign: robust"] if "robust" in marks else []
    return f"{', '.join(used)}." if used else ""


def nouns(result: RobustnessResult) -> tuple[str, str]:
    """What a site is, as one and as many."""
    spec = result.provenance.get("sites")
    one = NOUNS.get(spec, "part") if isinstance(spec, str) else "part"
    return one, f"{one}s"


def where(result: RobustnessResult, rows: pd.DataFrame) -> str:
    """The checkpoint of rows, in words; "where training started" is said of the one that is known to be that."""
    checkpoint = key(rows.checkpoint.iloc[0])
    return "where training started" if checkpoint == start(result) else f"checkpoint {checkpoint}"


def is_fresh(rows: pd.DataFrame) -> bool:
    """Whether rows are of fresh draws."""
    return bool((rows.operation == RERANDOMIZE).all())


def _alone(result: RobustnessResult, single: pd.DataFrame) -> str:
    """Who carries the function, one site at a time."""
    one, many = nouns(result)
    tolerance = bound(float(result.provenance["tolerance"]))
    fresh = is_fresh(single)
    alone = "drawn anew alone" if fresh else f"set back alone to {where(result, single)}"
    average = " on average" if fresh and _draws(result) > 1 else ""
    tried = _tried(single)
    if tried.empty:
        return f"Nothing that the output depends on changes when a {one} is {alone}: nothing was tested."
    robust = tried[tried.verdict.eq("robust").fillna(False).astype(bool)]
    parts: list[str] = []
    sure = tried[tried.harmed].sort_values("delta_error", ascending=False, kind="stable")
    critical = sure.verdict.eq("critical").fillna(False).astype(bool)
    for rows, one_is, many_are in (
        (sure[critical], "carries the function", "carry the function"),
        (sure[~critical], "is not robust", "are not robust"),
    ):
        shown = [f"{site} ({points(change)})" for site, change in rows.delta_error.items()]
        if shown and parts:
            parts.append(f"Not robust either: {names(shown, 3)}.")
        elif len(shown) == 1:
            [(site, change)] = rows.delta_error.items()
            parts.append(f"{site} {one_is}: {alone}, it costs {points(change)} of error{average}.")
        elif shown:
            parts.append(f"{names(shown, 3)} {many_are}: so much error each adds{average} when {alone}.")
    if len(robust) == len(tried):
        worst = str(tried.delta_error.idxmax())
        change = f"{points(tried.delta_error[worst])}{average}"
        who, most = (
            (f"Each of the {len(tried):,} {many}", f"; {worst} costs most, {change}")
            if len(tried) > 1
            else (worst, f": it costs {change}")
        )
        parts.append(f"{who} can be {alone} for at most {tolerance} of error{most}.")
    elif len(robust):
        rest = names([str(site) for site in robust.index])
        each = "each cost" if len(robust) > 1 else "costs"
        parts.append(f"{len(robust):,} of {len(tried):,} {many} ({rest}) {each} at most {tolerance}.")
    elif len(sure) == len(single) > 1:
        parts.append(f"No {one} can be spared.")
    others = tried[~tried.harmed & ~tried.index.isin(robust.index)]
    if others.open.any():
        unsure = others[others.open].sort_values("delta_error", ascending=False, kind="stable")
        parts.append(_too_few(unsure, every=len(unsure) == len(tried) > 1, alone=alone, many=many, most=tolerance))
    if not others.open.all():
        parts.append(f"For {names([str(site) for site in others.index[~others.open]])}, it depends on the draw.")
    idle = len(single) - len(tried)
    if idle:
        parts.append(f"For {count(idle, f'more {one}')}, that changes nothing that the output depends on.")
    return " ".join(parts)


def _too_few(unsure: pd.DataFrame, *, every: bool, alone: str, many: str, most: str) -> str:
    """What is seen of the undecided, and that it is not enough."""
    few, most_seen = int(unsure["n"].min()), int(unsure["n"].max())
    seen = count(most_seen, "example") if few == most_seen else f"{few:,} to {most_seen:,} examples"
    low, high = float(unsure.delta_error.min()), float(unsure.delta_error.max())
    least = points(low).removesuffix(" points")
    if not every:
        sites = names([str(site) for site in unsure.index])
        up_to = f"{'up to ' * (len(unsure) > 1)}{points(high)}"
        return f"Of {sites} ({up_to}), {seen} cannot tell."
    return (
        f"{alone[0].upper()}{alone[1:]}, the {len(unsure):,} {many} cost {least} to {points(high)} of error, "
        f"{unsure.index[0]} most; {seen} are too few to say which of them cost at most {most}."
    )


def _tried(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose edit changed something."""
    return rows[~rows.status.astype(object).isin(["no-op"])]


def _together(result: RobustnessResult, main: pd.DataFrame, single: pd.DataFrame) -> tuple[str, ...]:
    """What joint resets cost, next to the single ones; a caution where none was measured."""
    one, many = nouns(result)
    joint = [group for group in result.groups if group in main.index]
    if not joint:
        caution = f"That is one at a time; {many} that can go alone often cannot go together."
        return (caution,) if len(_tried(single)) > 1 else ()
    group = max(joint, key=lambda name: len(result.groups[name]))
    done = "Drawn anew" if is_fresh(main) else "Set back"
    average = " on average" if is_fresh(main) and _draws(result) > 1 else ""
    together = f"{done} together, {group} cost {points(float(main.delta_error[group]))}{average}"
    alone = single[single.index.isin(result.groups[group])]
    if alone.empty:
        return (f"{together}.",)
    # certified for each and against all of them; a group may hold more than the sites that were tried alone
    lesson = bool(alone.verdict.eq("robust").fillna(False).all()) and bool(main.harmed[group])
    tail = ": each can go by itself, all at once cannot" if lesson else ""
    most = points(float(alone.delta_error.max()))
    if len(alone) == 1:
        return (f"{together}; alone, the one {one} in it that was tried costs {most}.",)
    return (f"{together}; alone, none of these {len(alone):,} {many} costs more than {most}{tail}.",)


def _drawn(result: RobustnessResult, split: str, single: pd.DataFrame) -> tuple[str, ...]:
    """What fresh draws do, where the main question was another."""
    if is_fresh(single):
        return ()
    drawn = drawn_rows(result, split)
    drawn = _tried(drawn[drawn.index.isin(single.index)])
    if drawn.empty:
        return ()
    one, _ = nouns(result)
    column, said, noun = (
        ("error", percent, "leaves {} error") if "error" in drawn else ("delta_error", points, "costs {} of error")
    )
    spread = " to ".join(dict.fromkeys(said(float(end)) for end in drawn[column].agg(["min", "max"])))
    average = f", on average over {_draws(result)} draws" if _draws(result) > 1 else ""
    robust = single.index[single.verdict.eq("robust").fillna(False).astype(bool)]
    torn = drawn[drawn.harmed & drawn.index.isin(robust)]
    tail = ""
    if len(torn):
        needs, at = str(torn.delta_error.idxmax()), where(result, single)
        tail = (
            f": {needs} needs the start that it was trained from, and hardly the training"
            if at == "where training started"
            else f": {needs} needs what it was at {at}, and hardly what came after"
        )
    return (f"Drawn anew at random, a {one} {noun.format(spread)}{average}{tail}.",)


def _draws(result: RobustnessResult) -> int:
    return int(result.frame.draw.nunique())
