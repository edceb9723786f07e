"""Every sentence of the report on results made by hand: it says what the numbers certify, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

from netopsy._checks import NetopsyError
from netopsy._typing import Key
from netopsy.probes.key_column import key_column
from netopsy.probes.robustness_result import RobustnessResult
from netopsy.report.robustness_words import (
    agreed,
    averaged,
    legend,
    main_split,
    marked,
    reference,
    sentences,
    sign,
    start,
)
from netopsy.report.words import bound, count, names, percent, points, signed

N = 200
KNOWN = "The trained network errs on 10 % of 200 examples. "
ALONE = "That is one at a time; layers that can go alone often cannot go together."

Row = tuple[str, "Key | None", "int | None", str, float]
"""Site, checkpoint or None, draw or None, verdict or status, change of the error."""


def reset(site: str, kind: str, change: float, checkpoint: Key = 0) -> Row:
    return (site, checkpoint, None, kind, change)


def draw(site: str, kind: str, change: float, number: int = 0) -> Row:
    return (site, None, number, kind, change)


def made(
    rows: Sequence[Row],
    *,
    groups: Mapping[str, tuple[str, ...]] | None = None,
    initial: Key | None = 0,
    splits: Sequence[str] = ("data",),
    metrics: Sequence[str] = ("error", "loss"),
    half: float = 0.01,
    n: Mapping[str, int] | None = None,
    **provenance: Any,
) -> RobustnessResult:
    """A result with baseline error 10 % and intervals of a half-width; `kind` is the verdict, or a status."""
    frames = []
    for split in splits:
        records: list[dict[str, Any]] = [
            {"operation": "baseline", "delta": 0.0, "low": 0.0, "high": 0.0, "status": "ok", "n": N}
        ]
        for site, checkpoint, number, kind, change in rows:
            fixed = 0.0 if kind == "no-op" else half
            records.append(
                {
                    "site": site,
                    "operation": "re-initialize" if number is None else "re-randomize",
                    "checkpoint": checkpoint,
                    "draw": number,
                    "delta": change,
                    "low": change - fixed,
                    "high": change + fixed,
                    "n": (n or {}).get(site, N),
                    "status": "no-op" if kind == "no-op" else "non-finite" if kind.startswith("×") else "ok",
                    "verdict": None if kind == "no-op" else kind.removeprefix("×"),
                }
            )
        raw = pd.DataFrame(
            records, columns=["site", "operation", "draw", "delta", "low", "high", "n", "status", "verdict"]
        )
        text = {name: raw[name].astype("string") for name in ("site", "operation", "status", "verdict")}
        frames.append(
            pd.DataFrame(
                {
                    "site": text["site"],
                    "operation": text["operation"],
                    "checkpoint": [record.get("checkpoint") for record in records],
                    "draw": raw.draw.astype("Int64"),
                    "split": pd.Series([split] * len(raw), dtype="string"),
                    **{name: 0.1 + raw.delta if name == "error" else 1.0 + raw.delta for name in metrics},
                    "delta_error": raw.delta,
                    "delta_error_low": raw.low,
                    "delta_error_high": raw.high,
                    "n": raw.n.astype("int64"),
                    "status": text["status"],
                    "verdict": text["verdict"],
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame["checkpoint"] = key_column(None if pd.isna(k) else k for k in frame.checkpoint)
    given = {
        "final": 9,
        "tolerance": 0.05,
        "critical": 0.5,
        "confidence": 0.99,
        "estimand": "population",
    } | provenance
    keys = list(dict.fromkeys(row[1] for row in rows if row[1] is not None))
    sites = list(dict.fromkeys(row[0] for row in rows))
    moved = [
        (site, key, 0.0 if key == initial else 0.5, 0.0 if key == initial else 1.0)
        for site in sites
        for key in dict.fromkeys([*keys, given["final"]])
        if initial is not None
    ]
    return RobustnessResult(
        frame=frame,
        distances=pd.DataFrame(
            {
                "site": pd.Series([m[0] for m in moved], dtype="string"),
                "checkpoint": key_column(m[1] for m in moved),
                "l2": pd.Series([m[2] for m in moved], dtype="float64"),
                "linf": pd.Series([m[3] for m in moved], dtype="float64"),
            }
        ),
        groups=groups or {},
        provenance={
            "probe": "robustness",
            "sites": "modules",
            "chance": 0.9,
            "seed": 0,
            "stop": "exact",
            "precision": 0.02,
            "batch_norm": "reset",
            "draws": len({row[2] for row in rows if row[2] is not None}),
            "engine": "exported",
            "netopsy": "0.1.0",
            "seconds": 1.0,
            "splits": {split: {"examples": N, "data": "d", "torch": "2", "engine_reasons": []} for split in splits},
            **given,
        },
    )


A, B, C = reset("a", "critical", 0.6), reset("b", "robust", 0.01), reset("c", "robust", 0.02)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            (B, C),
            "Each of the 2 layers can be set back alone to where training started for at most 5 points of error; "
            "c costs most, +2 points.",
        ),
        (
            (B,),
            "b can be set back alone to where training started for at most 5 points of error: it costs +1 point.",
        ),
        (
            (A, B),
            "a carries the function: set back alone to where training started, it costs +60 points of error. "
            "1 of 2 layers (b) costs at most 5 points.",
        ),
        (
            (B, A, C, reset("d", "between", 0.2)),
            "a carries the function: set back alone to where training started, it costs +60 points of error. Not "
            "robust either: d (+20 points). 2 of 4 layers (b and c) each cost at most 5 points.",
        ),
        (
            (A, reset("d", "between", 0.2)),
            "a carries the function: set back alone to where training started, it costs +60 points of error. Not "
            "robust either: d (+20 points). No layer can be spared.",
        ),
        (
            (A,),
            "a carries the function: set back alone to where training started, it costs +60 points of error.",
        ),
        ((reset("e", "undecided", 0.05),), "Of e (+5 points), 200 examples cannot tell."),
        (
            (B, reset("e", "undecided", 0.05), reset("f", "undecided", 0.06)),
            "1 of 3 layers (b) costs at most 5 points. Of f and e (up to +6 points), 200 examples cannot tell.",
        ),
        (
            (A, B, reset("g", "no-op", 0.0)),
            "a carries the function: set back alone to where training started, it costs +60 points of error. "
            "1 of 2 layers (b) costs at most 5 points. For 1 more layer, that changes nothing that the output "
            "depends on.",
        ),
        (
            (A, reset("d", "critical", 0.5), reset("g", "no-op", 0.0), reset("h", "no-op", 0.0)),
            "a (+60 points) and d (+50 points) carry the function: so much error each adds when set back alone to "
            "where training started. For 2 more layers, that changes nothing that the output depends on.",
        ),
        (
            (reset("g", "no-op", 0.0), reset("h", "no-op", 0.0)),
            "Nothing that the output depends on changes when a layer is set back alone to where training started: "
            "nothing was tested.",
        ),
        (
            (B, reset("x", "×critical", 0.8)),
            "x carries the function: set back alone to where training started, it costs +80 points of error. "
            "1 of 2 layers (b) costs at most 5 points.",
        ),
    ],
)
def test_who_carries_the_function(rows: Sequence[Row], expected: str) -> None:
    assert sentences(made(rows))[0] == KNOWN + expected


def test_of_many_sites_a_few_are_named() -> None:
    rows = [reset(f"s{i}", "critical", 0.9 - i / 100) for i in range(6)]
    rows += [reset(f"r{i}", "robust", 0.0) for i in range(5)]
    assert sentences(made(rows))[0] == KNOWN + (
        "s0 (+90 points), s1 (+89 points), s2 (+88 points) and 3 more carry the function: so much error each adds "
        "when set back alone to where training started. 5 of 11 layers (r0, r1, r2, r3 and 1 more) each cost at most "
        "5 points."
    )


def test_where_training_started_is_said_only_of_the_checkpoint_that_is_known_to_be_it() -> None:
    for key, initial, words in (
        (0, 0, "to where training started"),
        ("begin", "begin", "to where training started"),
        (3, 0, "to checkpoint 3"),
        (0, None, "to checkpoint 0"),  # the trajectory's own initial checkpoint is another one
        ("epoch_1", None, "to checkpoint epoch_1"),
        ("0", None, "to checkpoint 0"),
    ):
        result = made([reset("a", "critical", 0.6, key)], initial=initial)
        assert f"set back alone {words}, it costs" in sentences(result)[0], key


def test_the_question_is_asked_of_the_start_or_the_earliest_checkpoint_whatever_their_order() -> None:
    late, early = reset("a", "robust", 0.01, 5), reset("a", "critical", 0.6, 1)
    assert "set back alone to checkpoint 1, it costs +60 points" in sentences(made([late, early], initial=None))[0]
    named = [reset("a", "robust", 0.01, "late"), reset("a", "critical", 0.6, "begin")]
    assert "to where training started, it costs +60" in sentences(made(named, initial="begin"))[0]
    last = [reset("a", "no-op", 0.0, "final"), reset("a", "critical", 0.6, 0)]
    assert "to where training started, it costs +60" in sentences(made(last, final="final"))[0]


def test_the_trained_checkpoint_itself_is_no_question_where_there_are_draws() -> None:
    rows = [reset("a", "no-op", 0.0, 9), draw("a", "critical", 0.7)]
    assert "drawn anew alone, it costs +70 points" in sentences(made(rows, initial=None))[0]
    alone = sentences(made(rows[:1], initial=None))
    assert alone == (
        KNOWN
        + "Nothing that the output depends on changes when a layer is set back alone to checkpoint 9: nothing was "
        "tested.",
    )


def test_fresh_draws_alone() -> None:
    rows = [draw("a", "critical", 0.6), draw("b", "robust", 0.01)]
    assert sentences(made(rows, initial=None, final=None)) == (
        KNOWN + "a carries the function: drawn anew alone, it costs +60 points of error. 1 of 2 layers (b) costs at "
        "most 5 points.",
        ALONE,
    )


def test_several_draws_are_certified_each_and_told_on_average() -> None:
    def two(site: str, first: str, second: str) -> list[Row]:
        return [draw(site, first, 0.5, 0), draw(site, second, 0.3, 1)]

    assert sentences(made(two("a", "critical", "between")))[0] == KNOWN + (
        "a is not robust: drawn anew alone, it costs +40 points of error on average."
    )
    assert sentences(made(two("a", "critical", "robust")))[0] == KNOWN + "For a, it depends on the draw."
    assert sentences(made(two("a", "critical", "undecided")))[0] == KNOWN + (
        "Of a (+40 points), 200 examples cannot tell."
    )
    assert "on average" in sentences(made(two("a", "robust", "robust")))[0]
    assert sentences(made(two("a", "critical", "critical") + two("b", "×critical", "critical")))[0] == KNOWN + (
        "a (+40 points) and b (+40 points) carry the function: so much error each adds on average when drawn anew "
        "alone. No layer can be spared."
    )


def test_together() -> None:
    rows = [B, C, reset("both", "critical", 0.4)]
    assert sentences(made(rows, groups={"both": ("b", "c")}))[1] == (
        "Set back together, both cost +40 points; alone, none of these 2 layers costs more than +2 points: each "
        "can go by itself, all at once cannot."
    )
    unsure = [B, C, reset("both", "undecided", 0.4)]
    assert sentences(made(unsure, groups={"both": ("b", "c")}))[1].endswith("more than +2 points.")
    torn = [B, reset("c", "undecided", 0.02), reset("both", "critical", 0.4)]
    assert sentences(made(torn, groups={"both": ("b", "c")}))[1].endswith("more than +2 points.")
    assert sentences(made(rows, groups={"both": ()}))[1] == "Set back together, both cost +40 points."
    assert sentences(made(rows, groups={"both": ("b",)}))[1] == (
        "Set back together, both cost +40 points; alone, the one layer in it that was tried costs +1 point."
    )
    drawn = [draw("b", "robust", 0.0), draw("c", "robust", 0.0), draw("both", "critical", 0.5)]
    assert sentences(made(drawn, groups={"both": ("b", "c")}))[1].startswith(
        "Drawn anew together, both cost +50 points;"
    )


def test_the_widest_group_is_told_and_none_is_a_site_alone() -> None:
    rows = [A, B, C, reset("two", "critical", 0.4), reset("three", "critical", 0.7)]
    told = sentences(made(rows, groups={"two": ("b", "c"), "three": ("a", "b", "c")}))
    assert told[0].endswith("2 of 3 layers (b and c) each cost at most 5 points.")
    assert told[1].startswith("Set back together, three cost +70 points; alone, none of these 3 layers")


def test_one_site_gets_no_caution_about_several() -> None:
    assert len(sentences(made([A]))) == 1
    assert sentences(made([A, B]))[1] == ALONE


def test_what_a_fresh_draw_does() -> None:
    rows = [A, B, draw("a", "critical", 0.8), draw("b", "critical", 0.3)]
    assert sentences(made(rows))[2] == (
        "Drawn anew at random, a layer leaves 40 % to 90 % error: b needs the start that it was trained from, and "
        "hardly the training."
    )
    assert sentences(made(rows, initial=None))[2] == (
        "Drawn anew at random, a layer leaves 40 % to 90 % error: b needs what it was at checkpoint 0, and hardly "
        "what came after."
    )
    unsure = [A, B, draw("a", "critical", 0.8), draw("b", "undecided", 0.3)]
    assert sentences(made(unsure))[2] == "Drawn anew at random, a layer leaves 40 % to 90 % error."
    open_ = [A, reset("b", "undecided", 0.04), draw("b", "critical", 0.3)]
    assert sentences(made(open_))[2] == "Drawn anew at random, a layer leaves 40 % error."
    idle = [A, B, draw("a", "no-op", 0.0), draw("b", "no-op", 0.0)]
    assert len(sentences(made(idle))) == 2
    several = [A, B, draw("b", "critical", 0.2, 0), draw("b", "critical", 0.4, 1)]
    assert sentences(made(several))[2].startswith(
        "Drawn anew at random, a layer leaves 40 % error, on average over 2 draws"
    )


def test_without_the_error_changes_are_told() -> None:
    rows = [A, B, draw("a", "critical", 0.8), draw("b", "robust", 0.01)]
    told = sentences(made(rows, metrics=("loss", "margin")))
    assert told[0].startswith("a carries the function: set back alone")
    assert told[2] == "Drawn anew at random, a layer costs +1 point to +80 points of error."


def test_the_whole_network_is_no_site_unless_a_site_has_its_name() -> None:
    rows = [B, reset("full model", "critical", 0.8)]
    assert sentences(made(rows, full_model=True))[0].startswith(KNOWN + "b can be set back")
    assert sentences(made(rows))[0].startswith(KNOWN + "b can be set back")  # an older result does not say
    assert sentences(made(rows, full_model=False))[0].startswith(KNOWN + "full model carries the function")


def test_examples_are_counted_as_they_were_run() -> None:
    rows = [reset("a", "undecided", 0.05), reset("b", "undecided", 0.04)]
    assert sentences(made(rows, n={"a": 50}))[0] == KNOWN + (
        "Set back alone to where training started, the 2 layers cost +4 to +5 points of error, a most; 50 to 200 "
        "examples are too few to say which of them cost at most 5 points."
    )


@pytest.mark.parametrize(
    ("spec", "noun"),
    [("modules", "layer"), ("blocks", "block"), ("parameters", "parameter"), (["a*"], "part"), (None, "part")],
)
def test_what_a_site_is_called(spec: Any, noun: str) -> None:
    assert f"Each of the 2 {noun}s can be" in sentences(made([B, C], sites=spec))[0]


def test_of_several_splits_held_out_data_come_first() -> None:
    result = made([A], splits=("train", "test"))
    assert main_split(result) == "test"
    assert sentences(result)[0].startswith("The trained network errs on 10 % of 200 test examples.")
    assert "200 train examples" in sentences(result, split="train")[0]
    assert main_split(made([A], splits=("mine", "other"))) == "mine"
    with pytest.raises(NetopsyError, match="split: expected one of 'train', 'test'; got 'tset'"):
        sentences(result, split="tset")


@pytest.mark.parametrize(("tolerance", "said"), [(0.0, "0 points"), (0.0125, "1.25 points"), (0.01, "1 point")])
def test_a_tolerance_is_told_exactly(tolerance: float, said: str) -> None:
    assert f"for at most {said} of error" in sentences(made([B, C], tolerance=tolerance))[0]


def test_the_start_is_known_by_its_distances() -> None:
    assert start(made([A])) == 0
    assert start(made([reset("a", "critical", 0.6, "w0")], initial="w0")) == "w0"
    assert start(made([A], initial=None)) is None
    assert start(made([reset("a", "critical", 0.6, 3)])) is None  # 0 was not asked for
    assert start(made([reset("a", "no-op", 0.0, 9)], initial=9)) is None  # nothing was trained


def test_draws_are_averaged() -> None:
    rows = [draw("b", "robust", 0.0, 0), draw("a", "critical", 0.6, 0), draw("b", "critical", 0.4, 1)]
    rows += [draw("a", "×critical", 0.8, 1)]
    mean = reference(made(rows, n={"a": 7}), "data")
    assert [*mean.index] == ["b", "a"]
    assert mean.delta_error.tolist() == pytest.approx([0.2, 0.7])
    assert mean.delta_error_low.tolist() == pytest.approx([0.19, 0.69])
    assert [marked(row) for row in mean.to_dict("records")] == ["differ", "critical"]
    assert mean.harmed.tolist() == [False, True]
    assert mean.n.tolist() == [N, 7]
    empty = made([A]).frame
    assert averaged(empty[empty.operation == "re-randomize"]).empty


@pytest.mark.parametrize(
    ("kinds", "mark"),
    [
        (("robust", "robust"), "robust"),
        (("robust", "critical"), "differ"),
        (("×critical", "×critical"), "non-finite"),
        (("×critical", "critical"), "critical"),
        (("no-op", "no-op"), "no-op"),
        (("no-op", "robust"), "differ"),
    ],
)
def test_draws_of_a_cell_are_marked_as_their_average(kinds: tuple[str, str], mark: str) -> None:
    result = made([draw("a", kind, 0.1, number) for number, kind in enumerate(kinds)])
    edited = result.frame[result.frame.operation == "re-randomize"].to_dict("records")
    assert agreed(edited) == mark
    assert [marked(row) for row in averaged(result.frame[1:]).to_dict("records")] == [mark]


def test_signs_and_their_legend() -> None:
    marks = ("robust", "between", "critical", "undecided", "differ", "no-op", "non-finite", "")
    assert [sign(mark) for mark in marks] == ["", "~", "!", "?", "≠", "=", "×", ""]
    assert legend({"critical", "robust"}) == "! critical, no sign: robust."
    assert legend({"differ", "non-finite"}) == "≠ draws differ, × not finite."
    assert legend(set()) == ""


def test_numbers_and_lists() -> None:
    assert [percent(x) for x in (0, 1, 0.5, 0.0996, 1e-5)] == ["0 %", "100 %", "50 %", "10 %", "0.001 %"]
    assert [points(x) for x in (-0.01, 0.01, 0.11, 1e-9)] == ["−1 point", "+1 point", "+11 points", "±0 points"]
    assert signed(-1e-9) == "±0.0"
    assert bound(0.07) == "7 points"
    assert count(0, "row") == "0 rows"
    assert names([]) == ""
    assert names(list("abcde")) == "a, b, c, d and 1 more"


def test_a_network_that_guesses_has_nothing_to_lose() -> None:
    said = "That is no better than guessing: it has nothing to lose, and no part can be told from another."
    # the network errs on 10 % of 200: two standard errors of guessing are 4.8 points at 13 %, 5.2 at 16 %
    for chance, guessing in ((0.1, True), (0.05, True), (0.13, True), (0.16, False), (0.9, False)):
        assert (said in sentences(made([B, C], chance=chance))[0]) == guessing
