"""The heatmaps show the frame's numbers, in the paper's order."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from netopsy._checks import NetopsyError
from netopsy.plots import distances as distances_plot
from netopsy.plots import heatmap as heatmap_plot
from tests.test_plots import BASE, FCN, measured, moved, redrawn, value


def plain() -> Axes:
    """Axes on a figure without a layout engine, which is what takes time."""
    return Figure(figsize=(9, 5)).add_subplot()


def distances(frame: pd.DataFrame, **options: Any) -> Axes:
    return distances_plot.distances(frame, **{"ax": plain(), **options})


def heatmap(frame: pd.DataFrame, **options: Any) -> Axes:
    return heatmap_plot.heatmap(frame, **{"ax": plain(), **options})


def mesh(ax: Axes) -> QuadMesh:
    (found,) = [item for item in ax.collections if isinstance(item, QuadMesh)]
    return found


def shown(ax: Axes) -> np.ndarray:
    """The cells' values, rows from top to bottom; NaN where masked."""
    assert ax.yaxis_inverted()
    return np.ma.filled(mesh(ax).get_array(), np.nan)


def hatched(ax: Axes) -> set[tuple[int, int]]:
    """Row and column of the cells without a value."""
    return {(int(p.get_y()), int(p.get_x())) for p in ax.patches if isinstance(p, Rectangle) and p.get_hatch()}


def printed(ax: Axes) -> dict[tuple[int, int], str]:
    """Row and column -> the text in the cell."""
    places = [(text.get_position(), text.get_text()) for text in ax.texts]
    return {(int(y), int(x)): text for (x, y), text in places}


def names(ax: Axes, which: str) -> list[str]:
    return [text.get_text() for text in (ax.xaxis if which == "x" else ax.yaxis).get_ticklabels()]


def colorbar(ax: Axes) -> Axes:
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    return bar


def test_rows_columns_and_values_are_the_papers() -> None:
    ax = heatmap(measured())
    assert names(ax, "y") == [*FCN, "full model"]
    assert names(ax, "x") == ["re-rand", "0", "1", "2", "final"]
    expected = np.array(
        [[redrawn(i, 0) if i < 4 else np.nan, *(value(i, c) for c in range(3)), BASE] for i in range(5)]
    )
    np.testing.assert_allclose(shown(ax), expected, rtol=1e-12)
    assert printed(ax) == {
        (row, column): f"{100 * expected[row, column]:.1f}"
        for row in range(5)
        for column in range(5)
        if (row, column) != (4, 0)
    }


def test_rows_follow_the_frame_and_checkpoints_their_numbers() -> None:
    frame = measured(checkpoints=(0, 2, 10))
    shuffled = pd.concat([frame.iloc[:1], frame.iloc[1:].iloc[::-1]])
    ax = heatmap(shuffled)
    assert names(ax, "y") == [*FCN[::-1], "full model"]
    assert names(ax, "x") == ["re-rand", "0", "2", "10", "final"]
    np.testing.assert_allclose(shown(ax)[0, 1:4], [value(3, c) for c in range(3)])


def test_named_checkpoints_keep_the_frames_order() -> None:
    ax = heatmap(measured(checkpoints=("warmup", "best", "after")))
    assert names(ax, "x") == ["re-rand", "warmup", "best", "after", "final"]


def test_integer_keys_survive_a_column_of_floats() -> None:
    frame = measured()
    frame["checkpoint"] = frame["checkpoint"].astype("float64")
    assert names(heatmap(frame), "x") == ["re-rand", "0", "1", "2", "final"]


def test_without_redraws_there_is_no_such_column_and_without_resets_no_checkpoint() -> None:
    assert names(heatmap(measured(draws=0)), "x") == ["0", "1", "2", "final"]
    assert names(heatmap(measured(checkpoints=(), full=False)), "x") == ["re-rand", "final"]


def test_a_checkpoint_where_nothing_changes_is_the_final_one() -> None:
    frame = measured(checkpoints=(0, 50, 100))
    last = frame.checkpoint.eq(100).fillna(False)
    frame.loc[last, "status"], frame.loc[last, "error"] = "no-op", BASE
    ax = heatmap(frame)
    assert names(ax, "x") == ["re-rand", "0", "50", "100"]
    assert printed(ax)[0, 3] == "10.0"  # every cell there is the trained model: not worth a sign
    assert "changes nothing" not in ax.get_xlabel()


def test_the_final_checkpoint_can_be_named() -> None:
    assert names(heatmap(measured(), final=100), "x") == ["re-rand", "0", "1", "2", "100"]
    ax = heatmap(measured(checkpoints=(0, 1, 2)), final=1)
    assert names(ax, "x") == ["re-rand", "0", "2", "1"]
    np.testing.assert_allclose(shown(ax)[:, 3], [value(i, 1) for i in range(5)])


def test_draws_are_averaged_and_their_deviation_printed() -> None:
    ax = heatmap(measured(draws=3))
    np.testing.assert_allclose(shown(ax)[:4, 0], [redrawn(i, 1) for i in range(4)])
    assert printed(ax)[0, 0] == "52.0\n±2.0"
    assert "re-rand: mean ± sd of 3 draws" in ax.get_xlabel()


def test_a_draw_that_is_not_finite_marks_its_cell_and_the_others_are_averaged() -> None:
    frame = measured(draws=2)
    at = frame.index[(frame.site == "layer1") & (frame.draw == 1).fillna(False)]
    frame.loc[at, ["error", "status"]] = [np.nan, "non-finite"]
    ax = heatmap(frame)
    assert shown(ax)[0, 0] == pytest.approx(redrawn(0, 0))
    assert printed(ax)[0, 0] == "×50.0"
    assert "× output not finite" in ax.get_xlabel()


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_an_error_that_is_not_finite_is_marked_and_has_no_color(lost: float) -> None:
    frame = measured()
    frame.loc[1, ["error", "status"]] = [lost, "non-finite"]
    ax = heatmap(frame)
    assert np.isnan(shown(ax)[0, 1])
    assert hatched(ax) == {(0, 1)}
    assert printed(ax)[0, 1] == "×"


def test_cells_that_were_not_measured_are_hatched() -> None:
    frame = measured()
    frame.loc[2, "error"] = np.nan
    ax = heatmap(frame.drop(index=1))
    assert hatched(ax) == {(0, 1), (0, 2)}
    assert (0, 1) not in printed(ax)
    assert "hatched: no value" in ax.get_xlabel()


def test_the_full_model_is_not_missing_a_redraw() -> None:
    ax = heatmap(measured())
    assert hatched(ax) == set()
    assert ax.get_xlabel() == "checkpoint"


def test_no_ops_show_the_baseline_and_say_so() -> None:
    frame = measured()
    frame.loc[1, ["error", "status"]] = [np.nan, "no-op"]
    frame.loc[2, ["error", "status"]] = [BASE, "no-op"]
    ax = heatmap(frame)
    np.testing.assert_allclose(shown(ax)[0, 1:3], BASE)
    assert printed(ax)[0, 1] == printed(ax)[0, 2] == "=10.0"
    assert "= edit changes nothing" in ax.get_xlabel()


def test_the_splits_are_kept_apart() -> None:
    frame = measured(splits=("test", "train"))
    first, second = heatmap(frame), heatmap(frame, split="train")
    np.testing.assert_allclose(shown(second)[:, 1:] - shown(first)[:, 1:], 0.01)
    assert colorbar(first).get_ylabel() == "test error (%)"
    assert colorbar(second).get_ylabel() == "train error (%)"


def test_a_single_unnamed_split_is_not_worth_a_word() -> None:
    assert colorbar(heatmap(measured(splits=("data",)))).get_ylabel() == "error (%)"


@pytest.mark.parametrize(
    ("metric", "label", "first"),
    [
        ("error", "test error (%)", "90.0"),
        ("loss", "test loss", "2.70"),
        ("delta_error", "increase of test error\n(percentage points)", "80.0"),
        ("perplexity", "test perplexity", "14.9"),
    ],
)
def test_metrics_have_their_name_and_unit(metric: str, label: str, first: str) -> None:
    frame = measured()
    frame["perplexity"] = np.exp(frame.loss)
    ax = heatmap(frame, metric=metric)
    assert colorbar(ax).get_ylabel() == label
    assert printed(ax)[0, 1] == first
    assert shown(ax)[0, 1] == pytest.approx(frame.loc[1, metric])
    assert shown(ax)[0, -1] == pytest.approx(0 if metric == "delta_error" else frame.loc[0, metric])


def test_the_baselines_change_is_zero_even_if_nobody_wrote_it_down() -> None:
    frame = measured()
    frame.loc[0, "delta_error"] = np.nan
    assert (shown(heatmap(frame, metric="delta_error"))[:, -1] == 0).all()


def test_deviations_have_fewer_digits_than_means() -> None:
    assert printed(heatmap(measured(draws=2), metric="loss"))[0, 0] == "1.53\n±0.042"


def test_colors_start_at_zero_and_end_at_the_largest() -> None:
    norm = mesh(heatmap(measured())).norm
    assert (norm.vmin, norm.vmax) == (0, pytest.approx(0.9))
    ticks = colorbar(heatmap(measured())).get_yticklabels()
    assert {text.get_text() for text in ticks} >= {"0", "20", "40", "60", "80"}


def test_noise_about_the_baseline_gets_no_dark_color() -> None:
    frame = measured(draws=0)
    frame["error"] = np.where(frame.operation == "baseline", BASE, BASE + 0.001)
    assert mesh(heatmap(frame)).norm.vmax == pytest.approx(BASE + 0.1)
    assert heatmap(frame, vmax=0.11).figure is not None
    assert mesh(heatmap(frame, vmax=0.11)).norm.vmax == pytest.approx(0.11)


def test_one_exploded_loss_does_not_bleach_the_others() -> None:
    frame = measured()
    frame.loc[frame.operation == "re-randomize", "loss"] = 1e6
    assert mesh(heatmap(frame, metric="loss")).norm.vmax == pytest.approx(2 * 3 * value(4, 0))
    assert mesh(heatmap(measured(full=False), metric="loss")).norm.vmax == pytest.approx(2.7)


@pytest.mark.parametrize("vmax", [0, -1.0, float("nan"), float("inf")])
def test_a_scale_without_an_end_is_refused(vmax: float) -> None:
    with pytest.raises(NetopsyError, match="vmax: expected a finite number above 0; got"):
        heatmap(measured(), vmax=vmax)


@pytest.mark.parametrize(("count", "along_x"), [(20, False), (21, True)])
def test_more_than_twenty_sites_lie_along_x(count: int, along_x: bool) -> None:
    sites = [f"block{i}" for i in range(count)]
    ax = heatmap(measured(sites, full=False))
    assert names(ax, "x" if along_x else "y") == sites
    assert names(ax, "y" if along_x else "x") == ["re-rand", "0", "1", "2", "final"]


def test_transposing_moves_the_cells_and_nothing_else() -> None:
    frame = measured(draws=2)
    frame.loc[1, ["error", "status"]] = [np.nan, "non-finite"]
    plain, turned = heatmap(frame, transpose=False), heatmap(frame, transpose=True)
    np.testing.assert_array_equal(shown(turned), shown(plain).T)
    assert names(turned, "x") == names(plain, "y")
    assert hatched(turned) == {(column, row) for row, column in hatched(plain)}
    assert printed(turned)[1, 0] == printed(plain)[0, 1] == "×"


def test_another_transpose_is_refused() -> None:
    with pytest.raises(NetopsyError, match="transpose: expected one of 'auto', True, False; got 'yes'"):
        unwrap(heatmap_plot.heatmap)(measured(), transpose="yes")  # past the type check of the tests


def test_numbers_are_left_out_where_they_do_not_fit_but_signs_are_not() -> None:
    frame = measured()
    frame.loc[1, "status"] = "no-op"
    small = Figure(figsize=(1.0, 1.0)).add_subplot()
    heatmap(frame, ax=small, colorbar=False)
    assert printed(small) == {(0, 1): "="}


def test_numbers_stay_inside_their_cells() -> None:
    deep = [f"block{i}" for i in range(40)]
    for ax in (heatmap(measured(draws=2), ax=None), heatmap(measured(deep), ax=None), distances(moved(), ax=None)):
        ax.figure.draw_without_rendering()
        width, height = np.abs(mesh(ax).get_window_extent().size / np.array(shown(ax).shape[::-1]))
        for text in ax.texts:
            box = text.get_window_extent()
            assert box.width < width
            assert box.height < height


def test_the_color_bar_can_be_left_out() -> None:
    ax = heatmap(measured(), colorbar=False)
    assert ax.figure.axes == [ax]


def test_distances_are_shown_for_both_norms() -> None:
    for norm, scale in (("l2", 0.1), ("linf", 1.0)):
        ax = distances(moved(), norm=norm)
        assert names(ax, "y") == FCN
        assert names(ax, "x") == ["0", "1", "2"]
        np.testing.assert_allclose(shown(ax), scale * np.outer([1, 2, 3, 4], [0, 1, 2]))
        label = colorbar(ax).get_ylabel()
        assert ("∞" in label) == (norm == "linf")
        assert ("√dim" in label) == (norm == "l2")
        assert "$" not in label  # a browser's fonts would tear a formula apart


def test_missing_and_infinite_distances_are_hatched() -> None:
    frame = moved()
    frame.loc[1, "l2"] = np.inf
    ax = distances(frame.drop(index=5))
    assert hatched(ax) == {(0, 1), (1, 2)}
    assert printed(ax)[0, 1] == "×"
    assert mesh(ax).norm.vmax == pytest.approx(0.8)


def test_nets_that_never_moved_are_drawn() -> None:
    assert (shown(distances(moved(checkpoints=(0,)))) == 0).all()


def test_a_distance_measured_twice_is_refused() -> None:
    with pytest.raises(NetopsyError, match="several for 'layer1' at 0; draw one run at a time"):
        distances(pd.concat([moved(), moved()]))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(NetopsyError, match="norm: expected one of 'l2', 'linf'; got 'l1'"):
        unwrap(distances_plot.distances)(moved(), norm="l1")  # past the type check of the tests
