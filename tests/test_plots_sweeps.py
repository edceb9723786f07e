"""Curves over widths and grouped bars show means, spreads, seeds and failures of their frames."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from netopsy._checks import NetopsyError
from netopsy.plots.blocks import block_profiles
from netopsy.plots.grouped_bars import grouped_bars
from netopsy.plots.width_curves import width_curves

WIDTHS = (16, 32, 64)
TREATMENTS = ("normal", "alone", "frozen", "removed", "together")


def plain() -> Axes:
    return Figure(figsize=(9, 5)).add_subplot()


def sweep(seeds: int = 3) -> pd.DataFrame:
    """Values are 1/width, seed s 0.01 (s - 1) higher; the hard set's twice that."""
    rows = [
        (data, net, width, seed, factor * (1 / width + 0.01 * (seed - 1)))
        for factor, data in ((1, "easy"), (2, "hard"))
        for net in ("3xH", "5xH")
        for width in WIDTHS
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["data", "net", "width", "seed", "value"])


def table(seeds: int = 3, cases: tuple[str, ...] = ("easy", "hard")) -> pd.DataFrame:
    """Values are 0.1 (treatment + 1), seed s 0.01 (s - 1) higher."""
    rows = [
        (case, treatment, seed, 0.1 * (i + 1) + 0.01 * (seed - 1))
        for case in cases
        for i, treatment in enumerate(TREATMENTS)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["case", "treatment", "seed", "value"])


def legend(ax: Axes) -> tuple[str, list[str]]:
    found = ax.get_legend()
    assert found is not None
    return found.get_title().get_text(), [text.get_text() for text in found.get_texts()]


def line(ax: Axes, label: str) -> Any:
    (found,) = [item for item in ax.lines if item.get_label() == label]
    return found


def bars(ax: Axes) -> list[np.ndarray[Any, Any]]:
    return [part for item in ax.collections if isinstance(item, LineCollection) for part in item.get_segments()]


def crosses(ax: Axes) -> list[float]:
    return [float(x) for item in ax.lines if item.get_marker() == "x" for x in np.asarray(item.get_xdata())]


def test_a_line_for_each_data_set_and_net_with_means_and_deviations() -> None:
    ax = width_curves(sweep(), ax=plain())
    note, names = legend(ax)
    assert note == "mean ± sd of n = 3 seeds\n(dots: seeds)"
    assert names == ["easy, 3xH", "easy, 5xH", "hard, 3xH", "hard, 5xH"]
    np.testing.assert_allclose(line(ax, "hard, 5xH").get_ydata(), [2 / width for width in WIDTHS])
    np.testing.assert_allclose(line(ax, "hard, 5xH").get_xdata(), WIDTHS, rtol=0.08)
    spans = [part[1, 1] - part[0, 1] for part in bars(ax)]
    np.testing.assert_allclose(spans, [0.02] * 6 + [0.04] * 6)  # 0.01 to each side, times 2 on the hard set
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["16", "32", "64"]
    assert crosses(ax) == []
    same = [line(ax, name) for name in ("easy, 3xH", "easy, 5xH", "hard, 3xH")]
    assert same[0].get_color() == same[1].get_color() != same[2].get_color()
    assert same[0].get_marker() == same[2].get_marker() != same[1].get_marker()


def test_failed_runs_are_counted_and_marked() -> None:
    frame = sweep()
    frame.loc[(frame.data == "easy") & (frame.net == "3xH") & (frame.width == 16), "value"] = np.nan
    frame.loc[(frame.data == "hard") & (frame.net == "5xH") & (frame.width == 64) & (frame.seed == 0), "value"] = (
        np.nan
    )
    ax = width_curves(frame, ax=plain())
    assert legend(ax)[0].splitlines() == [
        "mean ± sd of n = 0 to 3 seeds",
        "(dots: seeds)",
        "x: 4 of 36 without a value",
    ]
    np.testing.assert_allclose(crosses(ax), [16, 64], rtol=0.08)
    assert np.isnan(line(ax, "easy, 3xH").get_ydata()[0])
    assert line(ax, "hard, 5xH").get_ydata()[2] == pytest.approx(2 / 64 + 0.01)


def test_a_single_seed_has_no_bar() -> None:
    ax = width_curves(sweep(seeds=1), ax=plain())
    assert not any(len(part) for part in bars(ax))  # matplotlib empties what has no ends
    assert legend(ax)[0].splitlines()[0] == "mean ± sd of n = 1 seeds"


def test_a_bar_for_each_treatment_of_each_case() -> None:
    ax = grouped_bars(table(), ax=plain())
    note, names = legend(ax)
    assert note == "mean ± sd of n = 3 seeds\n(dots: seeds)"
    assert names == [*TREATMENTS]
    groups = [item for item in ax.containers if isinstance(item, BarContainer)]
    for i, group in enumerate(groups):
        np.testing.assert_allclose([bar.get_height() for bar in group], [0.1 * (i + 1)] * 2)
    np.testing.assert_allclose([part[1, 1] - part[0, 1] for part in bars(ax)], 0.02)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["easy", "hard"]
    assert [text.get_text() for text in ax.texts] == [f"{10 * i}.0" for i in (1, 2, 3, 4, 5) for _ in range(2)]
    lefts = sorted((bar.get_x(), bar.get_width()) for group in groups for bar in group)
    assert all(x + width < later for (x, width), (later, _) in pairwise(lefts))


def test_a_treatment_without_a_value_has_an_x() -> None:
    frame = table()
    frame.loc[(frame.case == "hard") & (frame.treatment == "removed"), "value"] = np.nan
    frame.loc[(frame.case == "easy") & (frame.treatment == "frozen") & (frame.seed == 0), "value"] = np.nan
    ax = grouped_bars(frame, ax=plain())
    assert [text.get_text() for text in ax.texts][4:8] == ["30.5", "30.0", "40.0", "x"]
    assert legend(ax)[0].splitlines() == [
        "mean ± sd of n = 0 to 3 seeds",
        "(dots: seeds)",
        "x: 4 of 30 without a value",
    ]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_names_of_cases_are_wrapped_and_do_not_touch(count: int) -> None:
    cases = tuple(f"Fashion-MNIST {i}\nall but the first block of each stage, then some" for i in range(count))
    ax = grouped_bars(table(cases=cases))
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert len(boxes) == count
    assert not any(one.overlaps(two) for one, two in pairwise(boxes))
    numbers = [text.get_window_extent() for text in sorted(ax.texts, key=lambda text: text.xy[0])]
    assert not any(one.overlaps(two) for one, two in pairwise(numbers))


@pytest.mark.parametrize(("draw", "make"), [(width_curves, sweep), (grouped_bars, table)], ids=["curves", "bars"])
def test_bad_frames_are_refused_and_good_ones_left_alone(draw: Any, make: Any) -> None:
    frame = make()
    draw(frame, ax=plain())
    pd.testing.assert_frame_equal(frame, make())
    with pytest.raises(NetopsyError, match=r"frame: expected the columns of one row a run.*; missing seed; got"):
        draw(frame.drop(columns="seed"))
    with pytest.raises(NetopsyError, match=r"frame: expected at least one row of one row a run.* got an empty frame"):
        draw(frame.iloc[:0])
    with pytest.raises(NetopsyError, match=r"frame: expected one row a run; got several for .*seed 0; drop all but"):
        draw(pd.concat([frame, frame]))


def test_more_treatments_than_colors_are_refused() -> None:
    more = pd.concat([table(), table().assign(treatment="a sixth")]).drop_duplicates(["case", "treatment", "seed"])
    with pytest.raises(NetopsyError, match=r"frame: expected at most 5 treatments.*a sixth; draw a selection"):
        grouped_bars(more)


def profiles(kinds: int = 2) -> pd.DataFrame:
    rows = [
        ("ViT", f"kind {kind}", block, seed, 0.1 * kind + 0.2 * block + 0.1 * seed)
        for kind in range(kinds)
        for block in range(3)
        for seed in range(3)
    ]
    return pd.DataFrame(rows, columns=["panel", "kind", "block", "seed", "value"])


def test_block_profiles_draw_the_mean_and_the_range_of_each_kind() -> None:
    figure = block_profiles(profiles())
    [ax] = figure.axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [
        pytest.approx([0.1, 0.3, 0.5]),
        pytest.approx([0.2, 0.4, 0.6]),
    ]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.0)
    assert band[:, 1].max() == pytest.approx(0.6)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == ["kind 0", "kind 1", "", "mean, least and", "largest of 3 seeds"]


def test_block_profiles_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="expected at most 6 kinds"):
        block_profiles(profiles(7))
    with pytest.raises(ValueError, match="expected one row a run; got several for panel ViT"):
        block_profiles(pd.concat([profiles(), profiles()], ignore_index=True))
