"""Curves and depth profiles show the frame's numbers, intervals and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from netopsy._checks import NetopsyError
from netopsy.plots import curves as curves_plot
from netopsy.plots import depth as depth_profile_plot
from netopsy.plots.style import lay_out, root
from tests.made import made
from tests.test_plots import BASE, FCN, measured, redrawn, value


def plain() -> Axes:
    """Axes on a figure without a layout engine, which is what takes time."""
    return Figure(figsize=(9, 5)).add_subplot()


def curves(frame: pd.DataFrame, **options: Any) -> Axes:
    return curves_plot.curves(frame, **{"ax": plain(), **options})


def depth_profile(frame: pd.DataFrame, **options: Any) -> Axes:
    return depth_profile_plot.depth_profile(frame, **{"ax": plain(), **options})


def line(ax: Axes, label: str) -> Line2D:
    (found,) = [item for item in ax.lines if item.get_label() == label]
    return found


def labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def title(ax: Axes) -> str:
    legend = ax.get_legend()
    assert legend is not None
    return str(legend.get_title().get_text())


def bars(ax: Axes) -> dict[int, tuple[float, float]]:
    """Place -> ends of the vertical bar there."""
    found = {}
    for item in ax.collections:
        if isinstance(item, LineCollection):
            for ends in item.get_segments():
                if len(ends):
                    found[round(ends[0, 0])] = float(ends[0, 1]), float(ends[1, 1])
    return found


def points(ax: Axes, kind: str) -> dict[int, float]:
    x, y = line(ax, kind).get_data()
    return dict(zip(np.asarray(x, int).tolist(), np.asarray(y, float).tolist(), strict=True))


def test_a_line_for_each_column_over_the_layers() -> None:
    ax = curves(measured())
    assert labels(ax) == ["final", "re-rand", "0", "1", "2"]
    assert [text.get_text() for text in ax.get_xticklabels()] == [*FCN, "full model"]
    for column in range(3):
        np.testing.assert_allclose(line(ax, str(column)).get_ydata(), [value(i, column) for i in range(4)])
    np.testing.assert_allclose(line(ax, "re-rand").get_ydata(), [redrawn(i, 0) for i in range(4)])
    assert set(line(ax, "final").get_ydata()) == {BASE}
    assert ax.get_ylabel() == "test error (%)"


def test_the_full_model_stands_apart() -> None:
    ax = curves(measured(draws=0))
    place = ax.get_xticks()[-1]
    assert place > 4
    alone = [float(item.get_ydata()[0]) for item in ax.lines if list(item.get_xdata()) == [place]]
    np.testing.assert_allclose(sorted(alone, reverse=True), [value(4, c) for c in range(3)], rtol=1e-12)


def test_lines_are_told_apart_without_color() -> None:
    ax = curves(measured(checkpoints=tuple(range(8))))
    assert len({line(ax, str(key)).get_marker() for key in range(8)} | {line(ax, "re-rand").get_marker()}) == 9
    assert line(ax, "re-rand").get_linestyle() != line(ax, "0").get_linestyle()


def test_bands_are_the_interval_shifted_to_the_error() -> None:
    ax = curves(measured(draws=0, checkpoints=(0,), full=False))
    (band,) = [item for item in ax.collections if isinstance(item, PolyCollection)]
    heights = {round(float(y), 9) for y in band.get_paths()[0].vertices[:, 1]}
    assert heights == {round(value(i, 0) + end, 9) for i in range(4) for end in (-0.01, 0.02)}
    assert "band: confidence interval" in title(ax)


def test_bands_of_several_draws_reach_from_the_smallest_to_the_largest() -> None:
    ax = curves(measured(draws=3, checkpoints=(), full=False))
    (band,) = [item for item in ax.collections if isinstance(item, PolyCollection)]
    heights = {round(float(y), 9) for y in band.get_paths()[0].vertices[:, 1]}
    assert heights == {round(redrawn(i, draw), 9) for i in range(4) for draw in (0, 2)}
    label = "re-rand (mean of 3,\nband: min to max)"
    np.testing.assert_allclose(line(ax, label).get_ydata(), [redrawn(i, 1) for i in range(4)])


def test_the_loss_of_one_run_has_no_band_and_bands_can_be_left_out() -> None:
    ax = curves(measured(), metric="loss")
    assert bars(ax) == {}
    assert title(ax) == "checkpoint"
    assert not [
        item for item in curves(measured(draws=2), bands=False).collections if isinstance(item, PolyCollection)
    ]
    assert "re-rand (mean of 2)" in labels(curves(measured(draws=2), bands=False))


def test_missing_values_leave_a_gap_and_signs_are_explained() -> None:
    frame = measured(draws=0, checkpoints=(0,))
    frame.loc[2, "error"] = np.nan
    frame.loc[3, "status"] = "non-finite"
    frame.loc[4, ["error", "status"]] = [np.nan, "no-op"]
    ax = curves(frame)
    assert np.isnan(line(ax, "0").get_ydata()[1])
    assert points(ax, "output not finite") == {2: value(2, 0)}
    assert points(ax, "edit changes nothing") == {3: BASE}


def test_the_legend_covers_no_data() -> None:
    for ax in (curves(measured(), ax=None), depth_profile(measured(), tolerance=0.05, ax=None)):
        ax.figure.draw_without_rendering()
        legend = ax.get_legend()
        assert legend is not None
        assert legend.get_window_extent().x0 >= ax.bbox.x1
        assert legend.get_window_extent().x1 <= ax.figure.bbox.x1


def test_a_point_for_each_layer_by_verdict() -> None:
    ax = depth_profile(measured())
    assert points(ax, "critical") == pytest.approx({0: 0.8})
    assert points(ax, "between") == pytest.approx({1: 0.4, 2: 0.8 / 3, 3: 0.2})
    assert labels(ax) == ["between", "critical"]
    for i in range(4):
        assert bars(ax)[i] == pytest.approx((0.8 / (1 + i) - 0.01, 0.8 / (1 + i) + 0.02))
    assert [text.get_text() for text in ax.get_xticklabels()] == FCN  # the full model is no layer
    assert title(ax) == "reset to checkpoint 0\nbar: confidence interval"


def test_verdicts_differ_in_color_and_marker() -> None:
    frame = measured(draws=0, checkpoints=(0,), full=False)
    frame["verdict"] = pd.array([None, "robust", "critical", "between", "undecided"], dtype="string")
    ax = depth_profile(frame)
    looks = [line(ax, kind) for kind in ("robust", "critical", "between", "undecided")]
    assert len({item.get_color() for item in looks}) == len({item.get_marker() for item in looks}) == 4


def test_another_checkpoint_or_the_redraws() -> None:
    ax = depth_profile(measured(), checkpoint=2)
    assert points(ax, "robust") == pytest.approx({2: 0.2 / 3, 3: 0.05})
    ax = depth_profile(measured(), checkpoint=None)
    assert points(ax, "critical") == pytest.approx({i: redrawn(i, 0) - BASE for i in range(1, 4)})
    assert title(ax).startswith("re-randomized")
    ax = depth_profile(measured(checkpoints=("warmup", "best")), checkpoint="best")
    assert points(ax, "between")[0] == pytest.approx(0.4)


def test_several_draws_are_averaged_between_their_extremes() -> None:
    ax = depth_profile(measured(draws=3), checkpoint=None)
    for i in range(4):
        assert bars(ax)[i] == pytest.approx((redrawn(i, 0) - BASE, redrawn(i, 2) - BASE))
    assert points(ax, "verdicts differ") == pytest.approx({0: redrawn(0, 1) - BASE})
    assert "mean of n = 3 draws" in title(ax)


def test_several_seeds_show_mean_deviation_and_count() -> None:
    frames = []
    for seed, shift in enumerate((-0.03, 0.0, 0.03)):
        frame = measured(full=False).assign(seed=seed)
        frames.append(frame.assign(delta_error=frame.delta_error + shift))
    ax = depth_profile(pd.concat(frames, ignore_index=True))
    assert points(ax, "critical") == pytest.approx({0: 0.8})
    assert bars(ax)[0] == pytest.approx((0.8 - 0.03, 0.8 + 0.03))  # the deviation of -a, 0, a is a
    assert "mean ± sd of n = 3 seeds" in title(ax)
    dots = [item for item in ax.lines if item.get_marker() == "."]
    assert sorted(y for item in dots for y in item.get_ydata())[-1] == pytest.approx(0.83)
    ax = depth_profile(pd.concat([*frames[:2], frames[2].iloc[:8]], ignore_index=True))
    assert "mean ± sd of n = 2 to 3 seeds" in title(ax)


def test_draws_are_averaged_within_a_seed_first() -> None:
    frames = [measured(draws=1).assign(seed=0), measured(draws=3).assign(seed=1)]
    ax = depth_profile(pd.concat(frames, ignore_index=True), checkpoint=None)
    assert points(ax, "critical")[3] == pytest.approx((redrawn(3, 0) + redrawn(3, 1)) / 2 - BASE)


def test_a_no_op_is_never_shown_as_robust() -> None:
    frame = measured()
    frame.loc[1, ["delta_error", "status", "verdict"]] = [0.0, "no-op", pd.NA]
    frame.loc[5, ["status", "verdict"]] = ["non-finite", "robust"]
    ax = depth_profile(frame)
    assert points(ax, "edit changes nothing") == {0: 0.0}
    assert list(points(ax, "output not finite")) == [1]
    assert "robust" not in labels(ax)


def test_a_change_that_is_not_finite_sits_on_the_upper_edge() -> None:
    frame = measured()
    frame.loc[1, ["delta_error", "status", "verdict"]] = [np.nan, "non-finite", pd.NA]
    ax = depth_profile(frame)
    (edge,) = [item for item in ax.lines if item.get_marker() == "x" and len(item.get_xdata())]
    assert list(edge.get_xdata()) == [0]
    assert list(edge.get_ydata()) == [1.0]
    assert edge.get_transform() == ax.get_xaxis_transform()
    assert "output not finite" in labels(ax)


def test_tolerances_are_lines_in_points() -> None:
    ax = depth_profile(measured(), tolerance=(0.02, 0.05))
    assert labels(ax)[:2] == ["tolerance 2", "tolerance 5"]
    assert set(line(ax, "tolerance 5").get_ydata()) == {0.05}
    assert labels(depth_profile(measured(), tolerance=0.1))[0] == "tolerance 10"


def test_a_tolerance_in_points_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"tolerance: expected a number in \[0, 1\]; got 5"):
        depth_profile(measured(), tolerance=5)


def test_a_checkpoint_that_was_not_measured_is_refused() -> None:
    with pytest.raises(NetopsyError, match=r"checkpoint: expected one of 0, 1, 2, None \(re-randomized\); got 7"):
        depth_profile(measured(), checkpoint=7)
    with pytest.raises(NetopsyError, match="checkpoint: expected one of 0, 1, 2; got None"):
        depth_profile(measured(draws=0), checkpoint=None)


def test_without_intervals_there_are_no_bars() -> None:
    frame = measured()
    frame[["delta_error_low", "delta_error_high"]] = np.nan
    ax = depth_profile(frame)
    assert bars(ax) == {}
    assert "bar" not in title(ax)


@pytest.mark.parametrize("checkpoints", [12, 31, 300])
def test_the_legend_of_many_checkpoints_stays_inside_the_figure(checkpoints: int) -> None:
    result = made([f"layer{i}" for i in range(4)], range(checkpoints), final=checkpoints)
    figure = root(result.plot(kind="curves"))
    lay_out(figure)  # a warning, which is an error here, says that the axes have no room left
    (ax,) = figure.axes
    legend = ax.get_legend()
    assert legend is not None
    box, page = legend.get_window_extent(), figure.bbox
    assert page.y0 <= box.y0 < box.y1 <= page.y1
    assert box.x1 <= page.x1
    named = len(legend.get_texts())  # of every checkpoint, the draws and the trained network, as long as they fit
    assert named == checkpoints + 2 if checkpoints < 300 else 20 <= named <= 60
    assert ax.get_window_extent().width > 0.3 * page.width
